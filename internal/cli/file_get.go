package cli

import (
	"errors"
	"os"
	"path"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	tarnv1 "tarn.dev/tarn/api/gen/tarn/v1"
	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/cli/ui"
)

func (a *app) fileGetCommand() *cobra.Command {
	var ref string
	var drift bool
	c := codes(&cobra.Command{
		Use:   "get NAME [DST]",
		Short: "Copy files out of Tarn",
		Long: `Copy a file, a folder or what a glob matches to this host. DST is a folder if it ends in a
slash or exists, else the new name of the one file; without it, this folder; - is stdout.
A folder NAME is copied under its own name; with a slash at its end, what lies in it is.`,
		Example: `  tarn file get images/a.png
  tarn file get images/ out/ --ref v1.0
  tarn file get 'raw/*.csv@dev' out/
  tarn file get raw/answer.json - | jq .`,
		Args: args(1, 2),
		RunE: func(c *cobra.Command, args []string) error {
			t, err := a.reach(c.Context())
			if err != nil {
				return err
			}
			dst := "."
			if len(args) > 1 {
				dst = args[1]
			}
			if dst == "-" {
				if a.json {
					return usage(c, "with - as DST stdout holds the file: --json has no place there")
				}
				return a.cat(c, t, &tarnv1.GetRequest{Pattern: args[0], Ref: t.ref(ref), AcceptDrift: drift})
			}
			stream, err := t.Files.Get(c.Context(), &tarnv1.GetRequest{Project: t.project, Ref: t.ref(ref), Pattern: args[0], AcceptDrift: drift})
			if err != nil {
				return err
			}
			d := &download{dst: dst, bar: a.err.Progress(-1, "copying")}
			err = recv(stream, d.take)
			err = errors.Join(err, d.close(err == nil))
			d.bar.Done()
			if err != nil {
				return err
			}
			a.print(map[string]any{"files": d.files, "bytes": d.bytes, "paths": d.paths}, func() {
				if len(d.paths) == 1 {
					a.note("copied %s, %s", ui.Clean(d.paths[0]), ui.Size(d.bytes))
				} else {
					a.note("copied %s to %s, %s", ui.Count(d.files, "file"), dst, ui.Size(d.bytes))
				}
			})
			return nil
		},
	}, errdef.NotFound, errdef.FailedPrecondition, errdef.PermissionDenied, errdef.Unavailable, errdef.ResourceExhausted, errdef.DataLoss)
	c.Flags().StringVar(&ref, "ref", "", "the `REF` to read (default: the current branch)")
	acceptDrift(c, &drift)
	return c
}

// download writes the files of a stream. A file gets its name when it is whole.
type download struct {
	dst string
	bar *ui.Bar

	root  *os.Root // names of the history cannot lead out of it
	file  *os.File
	name  string // under root
	shown string
	files int64
	bytes int64
	paths []string
}

const partSuffix = ".tarn-part"

func (d *download) take(m *tarnv1.GetResponse) error {
	if f := m.GetFile(); f != nil {
		if err := d.close(true); err != nil {
			return err
		}
		return d.begin(f)
	}
	n, err := d.file.Write(m.GetData())
	d.bytes += int64(n)
	d.bar.Add(n)
	return writeError(d.shown, err)
}

func (d *download) begin(f *tarnv1.GetFile) error {
	folder, name := d.dst, f.GetRelative()
	if f.GetOne() && !strings.HasSuffix(d.dst, "/") {
		if st, err := os.Stat(d.dst); err != nil || !st.IsDir() {
			folder, name = filepath.Split(d.dst)
			if folder == "" {
				folder = "."
			}
		}
	}
	if d.root == nil {
		if err := os.MkdirAll(folder, 0o777); err != nil {
			return writeError(folder, err)
		}
		root, err := os.OpenRoot(folder)
		if err != nil {
			return writeError(folder, err)
		}
		d.root = root
	}
	d.name, d.shown = filepath.FromSlash(name), filepath.Join(folder, filepath.FromSlash(name))
	if dir := path.Dir(name); dir != "." {
		if err := d.root.MkdirAll(dir, 0o777); err != nil {
			return writeError(d.shown, err)
		}
	}
	file, err := d.root.OpenFile(d.name+partSuffix, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o666)
	if err != nil {
		return writeError(d.shown, err)
	}
	d.file = file
	return nil
}

// close ends the file under way: whole ones get their name, others go.
func (d *download) close(whole bool) error {
	if d.file == nil {
		return nil
	}
	err := d.file.Close()
	d.file = nil
	if err != nil || !whole {
		return errors.Join(writeError(d.shown, err), writeError(d.shown, d.root.Remove(d.name+partSuffix)))
	}
	if err := d.root.Rename(d.name+partSuffix, d.name); err != nil {
		return writeError(d.shown, errors.Join(err, d.root.Remove(d.name+partSuffix)))
	}
	d.files++
	d.paths = append(d.paths, d.shown)
	return nil
}

func isFull(err error) bool { return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) }
