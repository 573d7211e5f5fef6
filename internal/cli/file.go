package cli

import (
	"errors"
	"io"

	"github.com/spf13/cobra"

	tarnv1 "tarn.dev/tarn/api/gen/tarn/v1"
	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/cli/ui"
)

func (a *app) fileCommand() *cobra.Command {
	return group("file", "Store, read and remove files", groupData,
		a.fileListCommand(), a.filePutCommand(), a.fileLinkCommand(), a.fileGetCommand(), a.fileCatCommand(), a.fileRemoveCommand())
}

func (a *app) fileListCommand() *cobra.Command {
	var ref string
	var recursive bool
	c := codes(&cobra.Command{
		Use:     "ls [NAME]",
		Short:   "List files: all, of a folder, or those that a glob matches",
		Example: "  tarn file ls\n  tarn file ls images/ -r\n  tarn file ls 'images/**/*.png@v1.0'",
		Args:    args(0, 1),
		RunE: func(c *cobra.Command, args []string) error {
			t, err := a.reach(c.Context())
			if err != nil {
				return err
			}
			req := &tarnv1.ListRequest{Project: t.project, Ref: t.ref(ref), Recursive: recursive}
			if len(args) > 0 {
				req.Pattern = args[0]
			}
			stream, err := t.Files.List(c.Context(), req)
			if err != nil {
				return err
			}
			docs, rows := []*entryJSON{}, [][]string{}
			err = recv(stream, func(m *tarnv1.ListResponse) error {
				e := m.GetFile()
				if a.json {
					docs = append(docs, entryDocument(e))
					return nil
				}
				size := ui.Size(e.GetSize())
				if e.GetKind() == "folder" {
					size = ""
				}
				name := ui.Clean(e.GetName())
				if url := e.GetProperties()["url"]; e.GetKind() == "external" {
					name += " -> " + ui.Clean(url)
				}
				rows = append(rows, []string{size, name})
				return nil
			})
			if err != nil {
				return err
			}
			a.print(map[string]any{"files": docs}, func() {
				a.out.Table(columns(">size", "name"), rows)
			})
			return nil
		},
	}, errdef.NotFound, errdef.FailedPrecondition)
	c.Flags().StringVar(&ref, "ref", "", "the `REF` to read (default: the current branch)")
	c.Flags().BoolVarP(&recursive, "recursive", "r", false, "list what lies in folders too")
	return c
}

func (a *app) fileCatCommand() *cobra.Command {
	var ref string
	var drift bool
	c := codes(&cobra.Command{
		Use:     "cat NAME...",
		Short:   "Print files",
		Example: "  tarn file cat raw/notes.txt\n  tarn file cat raw/notes.txt@v1.0 | head",
		Args:    args(1, -1),
		RunE: func(c *cobra.Command, args []string) error {
			if a.json {
				return usage(c, "%s prints the bytes of files: --json has no meaning here", c.CommandPath())
			}
			t, err := a.reach(c.Context())
			if err != nil {
				return err
			}
			for _, name := range args {
				if err := a.cat(c, t, &tarnv1.GetRequest{Pattern: name, Ref: t.ref(ref), AcceptDrift: drift}); err != nil {
					return err
				}
			}
			return nil
		},
	}, errdef.NotFound, errdef.FailedPrecondition, errdef.PermissionDenied, errdef.Unavailable, errdef.DataLoss)
	c.Flags().StringVar(&ref, "ref", "", "the `REF` to read (default: the current branch)")
	acceptDrift(c, &drift)
	return c
}

// cat copies one file to stdout.
func (a *app) cat(c *cobra.Command, t target, req *tarnv1.GetRequest) error {
	req.Project, req.One = t.project, true
	stream, err := t.Files.Get(c.Context(), req)
	if err != nil {
		return err
	}
	return recv(stream, func(m *tarnv1.GetResponse) error {
		_, err := a.out.Write(m.GetData())
		return writeError("stdout", err)
	})
}

// writeError says what could not be written.
func writeError(what string, err error) error {
	if err == nil {
		return nil
	}
	if errors.Is(err, io.ErrShortWrite) || isFull(err) {
		return errdef.Newf(errdef.ResourceExhausted, "cli.disk_full", "write %s: %w", what, err).WithNext("make room, and give the command again")
	}
	return errdef.Newf(errdef.FailedPrecondition, "cli.write", "write %s: %w", what, err)
}

func (a *app) fileRemoveCommand() *cobra.Command {
	var into, message string
	c := codes(&cobra.Command{
		Use:     "rm NAME...",
		Short:   "Remove files, folders (with a slash at the end) or what globs match, as one commit",
		Long:    "Remove files, folders (with a slash at the end) or what globs match, as one commit.\nEarlier commits keep them: tarn revert brings them back.",
		Example: "  tarn file rm raw/notes.txt\n  tarn file rm images/ 'raw/*.tmp' --into dev",
		Args:    args(1, -1),
		RunE: func(c *cobra.Command, args []string) error {
			t, err := a.reach(c.Context())
			if err != nil {
				return err
			}
			resp, err := t.Files.Remove(c.Context(), &tarnv1.RemoveRequest{Write: t.write(into, message), Patterns: args})
			if err != nil {
				return err
			}
			a.print(map[string]any{"files": resp.GetFiles(), "written": writtenDocument(resp.GetWritten())}, func() {
				a.note("removed %s", ui.Count(resp.GetFiles(), "file"))
				a.arrow(resp.GetWritten())
			})
			return nil
		},
	}, errdef.NotFound, errdef.FailedPrecondition, errdef.Conflict)
	c.Flags().StringVar(&into, "into", "", "the `BRANCH` to write to (default: the current one)")
	c.Flags().StringVarP(&message, "message", "m", "", "the commit's `TEXT`")
	return c
}
