package cli

import (
	"cmp"
	"errors"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/bmatcuk/doublestar/v4"
	"github.com/spf13/cobra"

	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/cli/ui"
)

// errSource is returned for a source that cannot be stored.
var errSource = errdef.New(errdef.InvalidArgument, "cli.source", "cannot be stored")

func (a *app) filePutCommand() *cobra.Command {
	var into, message string
	c := codes(&cobra.Command{
		Use:   "put SRC... DST",
		Short: "Store files and folders, as one commit",
		Long: `Store files and folders, as one commit: all of them, or none.

DST is a folder if it ends in a slash, else the new name of the one SRC. A folder SRC is
stored under its own name; with a slash at its end, what lies in it is stored instead.
SRC may be a glob in quotes, or - for stdin. Content that is there already is not stored
again.`,
		Example: `  tarn file put photo.png images/
  tarn file put data/ raw/                  # what lies in data
  tarn file put 'logs/**/*.json' logs/ --into dev
  curl ... | tarn file put - raw/answer.json`,
		Args: args(2, -1),
		RunE: func(c *cobra.Command, args []string) error {
			sources, err := findSources(args[:len(args)-1], args[len(args)-1])
			if err != nil {
				return err
			}
			t, err := a.reach(c.Context())
			if err != nil {
				return err
			}
			resp, err := a.put(c.Context(), t, t.write(into, message), sources)
			if err != nil {
				return err
			}
			doc := map[string]any{"files": resp.GetFiles(), "bytes": resp.GetBytes(), "reused": resp.GetReused(), "written": writtenDocument(resp.GetWritten())}
			a.print(doc, func() {
				reused := ""
				if resp.GetReused() > 0 {
					reused = "; " + ui.Size(resp.GetReused()) + " of it there already"
				}
				a.note("stored %s, %s%s", ui.Count(resp.GetFiles(), "file"), ui.Size(resp.GetBytes()), reused)
				a.arrow(resp.GetWritten())
			})
			return nil
		},
	}, errdef.NotFound, errdef.FailedPrecondition, errdef.Conflict, errdef.ResourceExhausted)
	c.Flags().StringVar(&into, "into", "", "the `BRANCH` to write to (default: the current one)")
	c.Flags().StringVarP(&message, "message", "m", "", "the commit's `TEXT`")
	return c
}

// source is one file to store. There may be millions of them, which is why the name is not kept by itself.
type source struct {
	file  string // on this host; "-" is stdin
	strip int    // bytes at the front of file that give way to under in Tarn
	under string
	size  int64 // -1: unknown
}

// name is what the file is called in Tarn.
func (s source) name() string {
	return strings.TrimPrefix(path.Join(s.under, filepath.ToSlash(s.file[s.strip:])), "/")
}

// findSources looks at everything before anything is sent, so that a wrong name stops the command early. The sources
// come in the order of their names.
func findSources(args []string, dst string) ([]source, error) {
	if slices.Contains(strings.Split(filepath.ToSlash(dst), "/"), "..") {
		return nil, ErrUsage.Errorf("DST is a name in Tarn, where nothing is above the first folder: leave .. out of %s", dst)
	}
	folder := dst == "." || dst == "" || strings.HasSuffix(dst, "/")
	var found []source
	for _, arg := range args {
		list, isOne, err := expand(arg)
		if err != nil {
			return nil, err
		}
		if isOne && !folder && len(args) == 1 {
			list[0].strip, list[0].under = len(list[0].file), dst
			found = append(found, list...)
			continue
		}
		if arg == "-" {
			return nil, ErrUsage.Errorf("stdin has no name: give DST as the name of a file, not %s", dst)
		}
		if !folder && len(args) > 1 {
			return nil, ErrUsage.Errorf("several sources need a folder to go to: %s/ with a slash at its end", dst)
		}
		if found == nil {
			found = list
		} else {
			found = append(found, list...)
		}
		for i := len(found) - len(list); i < len(found); i++ {
			found[i].under = dst
		}
	}
	slices.SortStableFunc(found, func(a, b source) int { return strings.Compare(a.name(), b.name()) })
	for i := 1; i < len(found); i++ {
		if name := found[i].name(); name == found[i-1].name() {
			return nil, errSource.Errorf("%s and %s would both become %s", found[i-1].file, found[i].file, name)
		}
	}
	return found, nil
}

// expand lists the files of one argument; one says that the argument is the name of a single file.
func expand(arg string) (list []source, one bool, err error) {
	if arg == "-" {
		return []source{{file: "-", size: -1}}, true, nil
	}
	st, err := os.Stat(arg)
	switch {
	case err == nil && st.IsDir():
		return walk(arg)
	case err == nil:
		s, err := regular(arg, st)
		s.strip = len(arg) - len(filepath.Base(arg))
		return []source{s}, true, err
	case !errors.Is(err, fs.ErrNotExist):
		return nil, false, errSource.Errorf("read %s: %w", arg, err)
	}
	if strings.ContainsAny(arg, "*?[{") {
		return glob(arg)
	}
	return nil, false, errdef.Newf(errdef.NotFound, "cli.no_source", "%s: no such file or folder", arg)
}

func glob(arg string) (list []source, one bool, err error) {
	base, pattern := doublestar.SplitPattern(filepath.ToSlash(arg))
	names, err := doublestar.Glob(os.DirFS(base), pattern, doublestar.WithFilesOnly(), doublestar.WithFailOnPatternNotExist())
	if err != nil || len(names) == 0 {
		return nil, false, errdef.Newf(errdef.NotFound, "cli.no_source", "no file matches %s", arg)
	}
	for _, name := range names {
		file := filepath.Join(base, name)
		st, err := os.Stat(file)
		if err != nil {
			return nil, false, errSource.Errorf("read %s: %w", file, err)
		}
		s, err := regular(file, st)
		if err != nil {
			return nil, false, err
		}
		s.strip = len(file) - len(name)
		list = append(list, s)
	}
	return list, false, nil
}

func regular(file string, st fs.FileInfo) (source, error) {
	if !st.Mode().IsRegular() {
		what := map[fs.FileMode]string{fs.ModeNamedPipe: "a named pipe", fs.ModeSocket: "a socket", fs.ModeDevice: "a device", fs.ModeDevice | fs.ModeCharDevice: "a device"}
		return source{}, errSource.Errorf("%s is not a regular file: it is %s", file, cmp.Or(what[st.Mode().Type()], "something else"))
	}
	if !utf8.ValidString(file) {
		return source{}, errSource.Errorf("the name %q is not valid UTF-8: rename it", file)
	}
	return source{file: file, size: st.Size()}, nil
}

// walk lists a folder. Links to files are followed as cp does; links to folders are refused, for they
// may lead round in a circle.
func walk(dir string) (list []source, one bool, err error) {
	clean := filepath.Clean(dir)
	strip := len(clean) // all but what lies in it
	if base := filepath.Base(dir); !strings.HasSuffix(dir, "/") && base != "." && base != ".." {
		strip -= len(base)
	}
	if clean == "." {
		strip = 0
	}
	err = filepath.WalkDir(dir, func(file string, d fs.DirEntry, err error) error {
		if err != nil {
			return errSource.Errorf("read %s: %w", file, err)
		}
		if d.IsDir() {
			return nil
		}
		st, err := os.Stat(file)
		if err != nil {
			return errSource.Errorf("read %s: %w", file, err)
		}
		if st.IsDir() {
			return errSource.Errorf("%s is a link to a folder", file).WithNext("put that folder by itself")
		}
		s, err := regular(file, st)
		if err != nil {
			return err
		}
		s.strip = strip
		list = append(list, s)
		return nil
	})
	if err == nil && len(list) == 0 {
		err = errdef.Newf(errdef.NotFound, "cli.no_source", "%s holds no files", dir)
	}
	return list, false, err
}
