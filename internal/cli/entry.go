package cli

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	tarnv1 "tarn.dev/tarn/api/gen/tarn/v1"
	"tarn.dev/tarn/internal/base/errdef"
)

// entrySeparator is between a file and the function in it to call.
const entrySeparator = "::"

// entryArgs ends the flags of `tarn run` behind FILE::NAME: what follows belongs to the function.
func entryArgs(args []string) []string {
	run := slices.Index(args, "run")
	if run < 0 || slices.ContainsFunc(args[:run], func(arg string) bool { return !strings.HasPrefix(arg, "-") }) {
		return args
	}
	i := slices.IndexFunc(args[run:], isEntry)
	if i < 0 || slices.Contains(args[run:run+i], "--") {
		return args
	}
	return slices.Insert(slices.Clone(args), run+i, "--")
}

func isEntry(arg string) bool {
	file, _, ok := strings.Cut(arg, entrySeparator)
	return ok && strings.HasSuffix(file, ".py") && !strings.HasPrefix(arg, "-")
}

// entry becomes the interpreter that calls a function of a file: terminal, signals and exit code are its own.
func (a *app) entry(ctx context.Context, c *cobra.Command, t target, args []string) error {
	var flags []string
	c.Flags().Visit(func(f *pflag.Flag) {
		if c.InheritedFlags().Lookup(f.Name) == nil {
			flags = append(flags, "--"+f.Name)
		}
	})
	if len(flags) > 0 {
		return usage(c, "%s takes no %s; the function's own flags come behind its name", args[0], strings.Join(flags, " "))
	}
	typed, name, _ := strings.Cut(args[0], entrySeparator)
	dir, err := projectDir()
	if err != nil {
		return err
	}
	path, err := filepath.Abs(typed)
	if err != nil {
		return errdef.Newf(errdef.InvalidArgument, "cli.entry", "%s: %w", typed, err)
	}
	file, err := filepath.Rel(dir, path)
	if err != nil || !filepath.IsLocal(file) {
		return errdef.Newf(errdef.InvalidArgument, "cli.entry", "%s is not in the project %s", typed, dir)
	}
	if _, err := os.Stat(path); err != nil {
		return errdef.Newf(errdef.NotFound, "cli.entry", "%s: %w", typed, err)
	}
	how, err := t.Runs.Entry(ctx, &tarnv1.EntryRequest{Project: t.project, Dir: dir, File: filepath.ToSlash(file), Name: name})
	if err != nil {
		return err
	}
	if a.json {
		return usage(c, "%s prints what the function prints, which --json cannot change. Run it without", args[0])
	}
	self, err := os.Executable()
	if err != nil {
		return errdef.Newf(errdef.FailedPrecondition, "cli.entry", "find this program: %w", err)
	}
	env := append(os.Environ(), "TARN_BIN="+self) // for what the function calls remotely
	for _, k := range sortedKeys(how.GetEnv()) {
		env = append(env, k+"="+how.GetEnv()[k])
	}
	argv := append(how.GetArgv(), args[1:]...)
	return errdef.Newf(errdef.FailedPrecondition, "cli.entry", "start %s: %w", argv[0], syscall.Exec(argv[0], argv, env))
}
