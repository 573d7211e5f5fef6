package cli

import (
	"embed"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/base/pattern"
)

// example is the pipeline that a new project begins with.
//
//go:embed example
var example embed.FS

// initName is what a project may be called; the server has the last word.
var initName = pattern.Of(`^[A-Za-z0-9_][A-Za-z0-9._-]{0,99}$`)

func (a *app) initCommand() *cobra.Command {
	return codes(&cobra.Command{
		Use:   "init [FOLDER]",
		Short: "Make a project with a small pipeline that runs",
		Long: `Make a folder a project: write tarn.toml, and an example pipeline of one Python and one
SQL function that needs no input. Files that exist are left as they are.`,
		GroupID: groupWork,
		Example: "  tarn init flights && cd flights\n  tarn init              # this folder",
		Args:    args(0, 1),
		RunE: func(_ *cobra.Command, args []string) error {
			dir := "."
			if len(args) > 0 {
				dir = args[0]
			}
			abs, err := filepath.Abs(dir)
			if err != nil {
				return errdef.Newf(errdef.InvalidArgument, "cli.init", "%s: %w", dir, err)
			}
			name := filepath.Base(abs)
			if a.project != "" {
				name = a.project
			}
			if !initName().MatchString(name) {
				return errdef.Newf(errdef.InvalidArgument, "cli.init",
					"%q cannot be a project's name: letters, digits, '.', '_' and '-' can", name).WithNext("tarn init --project NAME " + dir)
			}
			written, err := writeExample(abs, name)
			if err != nil {
				return err
			}
			a.print(map[string]any{"project": name, "folder": abs, "files": written}, func() {
				for _, file := range written {
					a.note("wrote %s", filepath.Join(dir, file))
				}
				a.note("project %s is ready. Next:", name)
				if dir != "." {
					a.note("  cd %s", dir)
				}
				a.note("  tarn run")
				a.note("  tarn query \"select * from busiest\"")
			})
			return nil
		},
	}, errdef.AlreadyExists)
}

// writeExample writes what is missing and returns it. A folder that is a project already is refused.
func writeExample(dir, name string) ([]string, error) {
	fail := func(err error) error {
		return errdef.Newf(errdef.FailedPrecondition, "cli.init", "make the project: %w", err)
	}
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return nil, fail(err)
	}
	written := []string{}
	config := []byte("[project]\nname = \"" + name + "\"\n")
	if err := writeNew(filepath.Join(dir, projectFile), config); errors.Is(err, fs.ErrExist) {
		return nil, errdef.Newf(errdef.AlreadyExists, "cli.init", "%s is a project already", dir).WithNext("tarn status")
	} else if err != nil {
		return nil, fail(err)
	}
	written = append(written, projectFile)
	entries, err := example.ReadDir("example")
	if err != nil {
		return nil, fail(err)
	}
	for _, e := range entries {
		b, err := example.ReadFile("example/" + e.Name())
		if err != nil {
			return nil, fail(err)
		}
		err = writeNew(filepath.Join(dir, e.Name()), b)
		if errors.Is(err, fs.ErrExist) {
			continue
		}
		if err != nil {
			return nil, fail(err)
		}
		written = append(written, e.Name())
	}
	return written, nil
}

func writeNew(name string, b []byte) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o666)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	return errors.Join(err, f.Close())
}
