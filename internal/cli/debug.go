package cli

import (
	"errors"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	tarnv1 "tarn.dev/tarn/api/gen/tarn/v1"
	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/cli/ui"
)

// errStillFails ends a debugging session in which the function raised.
var errStillFails = errdef.New(errdef.UserCode, "debug.failed", "it still fails")

// debugKeeps are the variables of this terminal that a debugger needs; all others are the environment's own.
var debugKeeps = []string{"PATH", "HOME", "TERM", "LANG", "LC_ALL", "COLUMNS", "LINES", "SHELL", "PYTHONBREAKPOINT"}

func (a *app) debugCommand() *cobra.Command {
	var shell bool
	var save string
	c := codes(&cobra.Command{
		Use:   "debug RUN/STEP[/ITEM]",
		Short: "Run a step again in this terminal: its recorded inputs, your code as it is now",
		Long: `Run a step again in this terminal, with the inputs that it got in RUN and your code as it is
now. When it raises, the Python debugger opens where it did. Nothing is remembered or published.

--shell opens a shell with the step's environment and inputs instead; --save lays them out in a
folder to keep, and says how to run it.`,
		GroupID: groupWork,
		Example: "  tarn debug r-7k2m9x/delays\n  tarn debug r-7k2m9x/thumbnails/images/a.png\n  tarn debug r-7k2m9x/delays --shell",
		Args:    args(1, 1),
		RunE: func(c *cobra.Command, args []string) error {
			parts := strings.SplitN(args[0], "/", 3)
			if len(parts) < 2 || slices.Contains(parts, "") {
				return usage(c, "%q is not RUN/STEP or RUN/STEP/ITEM", args[0])
			}
			t, err := a.reach(c.Context())
			if err != nil {
				return err
			}
			req := &tarnv1.DebugRequest{Project: t.project, Run: parts[0], Step: parts[1]}
			if len(parts) == 3 {
				req.Item = parts[2]
			}
			if req.Dir, err = projectDir(); err != nil {
				return err
			}
			if save != "" {
				if req.Save, err = filepath.Abs(save); err != nil {
					return errdef.Newf(errdef.InvalidArgument, "cli.debug", "--save %s: %w", save, err)
				}
			}
			resp, err := t.Runs.Debug(c.Context(), req)
			if err != nil {
				return err
			}
			if save != "" {
				secrets := sortedKeys(resp.GetSecrets())
				a.print(map[string]any{"folder": resp.GetDir(), "argv": resp.GetArgv(), "env": resp.GetEnv(), "secrets": secrets, "item": resp.GetItem()}, func() {
					a.note("laid out in %s. Run it there with:", resp.GetDir())
					if len(secrets) > 0 {
						a.note("(it has no secrets: export %s before)", strings.Join(exported(resp), ", "))
					}
					a.out.Printf("%s\n", debugLine(resp))
				})
				return nil
			}
			return errors.Join(a.debug(resp, parts[1], shell), removeDebug(resp.GetDir()))
		},
	}, errdef.UserCode, errdef.NotFound, errdef.FailedPrecondition, errdef.DataLoss)
	c.Flags().BoolVar(&shell, "shell", false, "open a shell there instead of the debugger")
	c.Flags().StringVar(&save, "save", "", "lay everything out in `DIR`, and run nothing")
	return c
}

func removeDebug(dir string) error {
	if err := os.RemoveAll(dir); err != nil {
		return errdef.Newf(errdef.FailedPrecondition, "cli.debug", "remove %s: %w", dir, err)
	}
	return nil
}

// debug hands this terminal to the function, or to a shell beside it.
func (a *app) debug(d *tarnv1.DebugResponse, step string, shell bool) error {
	argv := d.GetArgv()
	if shell {
		argv = []string{os.Getenv("SHELL")}
		if argv[0] == "" {
			argv[0] = "/bin/sh"
		}
		a.note("the step's inputs are in inputs/. Run it with: %s", strings.Join(d.GetArgv(), " "))
	}
	// Ctrl-C is the debugger's. Caught and not ignored: a child inherits only the latter.
	keys := make(chan os.Signal, 1)
	signal.Notify(keys, os.Interrupt)
	defer signal.Stop(keys)
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Dir, cmd.Env = d.GetDir(), debugEnv(d)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = a.in, os.Stdout, os.Stderr
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case shell && (err == nil || errors.As(err, &exit)):
		return nil
	case err == nil:
		a.note("%s succeeds with your code as it is now. Nothing was published.", step)
		a.note("next: tarn run %s", step)
		return nil
	case errors.As(err, &exit):
		return errStillFails.Errorf("%s fails with your code as it is now", step)
	}
	return errdef.Newf(errdef.FailedPrecondition, "cli.debug", "start %s: %w", argv[0], err)
}

func debugEnv(d *tarnv1.DebugResponse) []string {
	var env []string
	for _, name := range debugKeeps {
		if v, ok := os.LookupEnv(name); ok && d.GetEnv()[name] == "" {
			env = append(env, name+"="+v)
		}
	}
	for _, vars := range []map[string]string{d.GetEnv(), d.GetSecrets()} {
		for _, name := range sortedKeys(vars) {
			env = append(env, name+"="+vars[name])
		}
	}
	return env
}

// parameterSecret begins the variable of a parameter's secret.
const parameterSecret = "TARN_SECRET_"

// exported are the secrets that a saved step needs, by their own names.
func exported(d *tarnv1.DebugResponse) []string {
	var names []string
	for _, variable := range sortedKeys(d.GetSecrets()) {
		names = append(names, strings.TrimPrefix(variable, parameterSecret))
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// debugLine is a command line for a POSIX shell.
func debugLine(d *tarnv1.DebugResponse) string {
	words := []string{"cd", quoteShell(d.GetDir()), "&&", "env"}
	for _, name := range sortedKeys(d.GetEnv()) {
		words = append(words, quoteShell(name+"="+d.GetEnv()[name]))
	}
	for _, name := range sortedKeys(d.GetSecrets()) {
		words = append(words, name+`="${`+strings.TrimPrefix(name, parameterSecret)+`:?}"`)
	}
	for _, word := range d.GetArgv() {
		words = append(words, quoteShell(word))
	}
	return ui.Clean(strings.Join(words, " "))
}

func quoteShell(s string) string {
	if s != "" && strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-+=/.,:@%") == "" {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
