package cli

import (
	"errors"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	tarnv1 "tarn.dev/tarn/api/gen/tarn/v1"
	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/cli/ui"
)

func (a *app) fileLinkCommand() *cobra.Command {
	var into, message string
	c := codes(&cobra.Command{
		Use:   "link SRC... DST",
		Short: "Store files by reference, as one commit: nothing is copied",
		Long: `Store files by reference, as one commit: they stay where they are. SRC is a URL (s3://,
http://, https://, file://) or a path on the host of the server. What is recorded is the
URL, the size, the etag and the time; who reads the file later gets it from there, and an
error if it is another one by then. Link it again to take what is there as a new version.

DST is a folder if it ends in a slash, else the new name of the one SRC. A folder or prefix
SRC is linked under its own name; with a slash at its end, what lies in it is. Of a SRC with
a * (in quotes; ** for any folders) those that match are, by what follows the folder before it.`,
		Example: `  tarn file link s3://bucket/scans/2024/ scans/
  tarn file link https://example.org/data.csv raw/data.csv
  tarn file link 's3://bucket/scans/**/*.tif' scans/
  tarn file link /data/archive raw/ --into dev`,
		Args: args(2, -1),
		RunE: func(c *cobra.Command, args []string) error {
			last := len(args) - 1
			urls, err := originalURLs(args[:last])
			if err != nil {
				return err
			}
			t, err := a.reach(c.Context())
			if err != nil {
				return err
			}
			resp, err := t.Files.Link(c.Context(), &tarnv1.LinkRequest{Write: t.write(into, message), Urls: urls, To: args[last]})
			if err != nil {
				return err
			}
			doc := map[string]any{"files": resp.GetFiles(), "bytes": resp.GetBytes(), "written": writtenDocument(resp.GetWritten())}
			a.print(doc, func() {
				a.note("linked %s, %s that stay where they are", ui.Count(resp.GetFiles(), "file"), ui.Size(resp.GetBytes()))
				a.arrow(resp.GetWritten())
			})
			return nil
		},
	}, errdef.NotFound, errdef.FailedPrecondition, errdef.Unauthenticated, errdef.PermissionDenied, errdef.Unavailable, errdef.Conflict)
	c.Flags().StringVar(&into, "into", "", "the `BRANCH` to write to (default: the current one)")
	c.Flags().StringVarP(&message, "message", "m", "", "the commit's `TEXT`")
	return c
}

func originalURLs(args []string) ([]string, error) {
	urls := make([]string, len(args))
	for i, arg := range args {
		var err error
		if urls[i], err = originalURL(arg); err != nil {
			return nil, err
		}
	}
	return urls, nil
}

// originalURL is the URL of what was typed; a path is one of this host, and keeps a slash at its end. A * is a pattern where
// no file has that name.
func originalURL(arg string) (string, error) {
	if strings.Contains(arg, "://") {
		return arg, nil
	}
	file, err := filepath.Abs(arg) // the server has another working folder
	if err != nil {
		return "", errSource.Errorf("find %s: %w", arg, err)
	}
	u := url.URL{Scheme: "file", Path: filepath.ToSlash(file)}
	if file != "/" && (strings.HasSuffix(arg, "/") || arg == ".") {
		u.Path += "/"
	}
	if _, err := os.Lstat(file); errors.Is(err, fs.ErrNotExist) {
		u.RawPath = strings.ReplaceAll(u.EscapedPath(), "%2A", "*")
	}
	return u.String(), nil
}

// acceptDrift is the flag of commands that read files.
func acceptDrift(c *cobra.Command, drift *bool) {
	c.Flags().BoolVar(drift, "accept-drift", false, "of links, take what is there now, if it has changed since")
}
