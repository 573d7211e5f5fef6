package cli

import (
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	tarnv1 "tarn.dev/tarn/api/gen/tarn/v1"
	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/cli/ui"
)

func (a *app) envCommand() *cobra.Command {
	return group("env", "The packages that the project's functions import", groupSetup, a.envLsCommand(), a.envShowCommand(), a.envLockCommand(), a.envSyncCommand())
}

func (a *app) envLsCommand() *cobra.Command {
	return codes(&cobra.Command{
		Use:     "ls",
		Short:   "List the environments, what uses them, and whether they are locked and installed",
		Example: "  tarn env ls\n  tarn env ls --json",
		Args:    args(0, 0),
		RunE: func(c *cobra.Command, _ []string) error {
			t, dir, err := a.reachFolder(c)
			if err != nil {
				return err
			}
			resp, err := t.Envs.List(c.Context(), &tarnv1.ListEnvsRequest{Project: t.project, Dir: dir})
			if err != nil {
				return err
			}
			a.printEnvs(resp.GetEnvironments())
			return nil
		},
	}, errdef.UserCode, errdef.FailedPrecondition)
}

func (a *app) envShowCommand() *cobra.Command {
	return codes(&cobra.Command{
		Use:   "show NAME",
		Short: "Show one environment: every package of its lock, and what uses it",
		Long: `Show the environment NAME, or that of the function NAME: what it asks for, the exact packages that
tarn.lock has for it, and whether they are on this host.`,
		Example: "  tarn env show default\n  tarn env show default --json",
		Args:    args(1, 1),
		RunE: func(c *cobra.Command, args []string) error {
			t, dir, err := a.reachFolder(c)
			if err != nil {
				return err
			}
			resp, err := t.Envs.List(c.Context(), &tarnv1.ListEnvsRequest{Project: t.project, Dir: dir, Name: args[0]})
			if err != nil {
				return err
			}
			for _, e := range resp.GetEnvironments() { // one
				a.print(envDocuments(resp.GetEnvironments())[0], func() { a.showEnvironment(e) })
			}
			return nil
		},
	}, errdef.UserCode, errdef.NotFound, errdef.FailedPrecondition)
}

func (a *app) envLockCommand() *cobra.Command {
	var upgrade bool
	c := codes(&cobra.Command{
		Use:   "lock",
		Short: "Write tarn.lock: the exact packages of every environment",
		Long: `Resolve every environment that has no lock yet and write tarn.lock, which belongs into git. With
--upgrade all are resolved again, to the newest packages that they allow.`,
		Example: "  tarn env lock\n  tarn env lock --upgrade\n  tarn env lock --json",
		Args:    args(0, 0),
		RunE: func(c *cobra.Command, _ []string) error {
			t, dir, err := a.reachFolder(c)
			if err != nil {
				return err
			}
			stream, err := t.Envs.Lock(c.Context(), &tarnv1.LockEnvsRequest{Project: t.project, Dir: dir, Upgrade: upgrade})
			if err != nil {
				return err
			}
			envs, err := a.envProgress(stream)
			if err != nil {
				return err
			}
			a.printEnvs(envs)
			return nil
		},
	}, errdef.UserCode, errdef.NotFound, errdef.FailedPrecondition, errdef.ResourceExhausted)
	c.Flags().BoolVar(&upgrade, "upgrade", false, "resolve again what has a lock")
	return c
}

func (a *app) envSyncCommand() *cobra.Command {
	name := ""
	c := codes(&cobra.Command{
		Use:   "sync [DIR]",
		Short: "Make a virtual environment for an editor, pytest or a notebook",
		Long: `Make DIR (.venv when it is not given) a virtual environment with exactly the packages of one of
the project's environments.`,
		Example: "  tarn env sync\n  tarn env sync .venv-modern --env modern",
		Args:    args(0, 1),
		RunE: func(c *cobra.Command, args []string) error {
			t, dir, err := a.reachFolder(c)
			if err != nil {
				return err
			}
			target := ".venv"
			if len(args) > 0 {
				target = args[0]
			}
			abs, err := filepath.Abs(target)
			if err != nil {
				return errdef.Newf(errdef.InvalidArgument, "cli.env", "%s: %w", target, err)
			}
			stream, err := t.Envs.Sync(c.Context(), &tarnv1.SyncEnvRequest{Project: t.project, Dir: dir, Name: name, Target: abs})
			if err != nil {
				return err
			}
			envs, err := a.envProgress(stream)
			if err != nil {
				return err
			}
			a.print(map[string]any{"folder": abs, "environments": envDocuments(envs)}, func() {
				for _, e := range envs {
					a.note("%s has the %s of %s (Python %s)", target, ui.Count(int64(len(e.GetPackages())), "package"), e.GetName(), e.GetPython())
				}
				a.note("next: source %s/bin/activate", target)
			})
			return nil
		},
	}, errdef.UserCode, errdef.NotFound, errdef.FailedPrecondition, errdef.AlreadyExists, errdef.ResourceExhausted)
	c.Flags().StringVar(&name, "env", "", "the `NAME` of the environment, or of a function that uses it (needed when there are several)")
	return c
}

// reachFolder is reach for commands that are about the project folder.
func (a *app) reachFolder(c *cobra.Command) (target, string, error) {
	dir, err := projectDir()
	if err != nil {
		return target{}, "", err
	}
	t, err := a.reach(c.Context())
	return t, dir, err
}

// envProgress shows what happens and returns what came of it.
func (a *app) envProgress(s interface {
	Receive() bool
	Msg() *tarnv1.EnvProgress
	Err() error
	Close() error
},
) (envs []*tarnv1.Environment, err error) {
	err = recv(s, func(m *tarnv1.EnvProgress) error {
		if m.GetMessage() != "" {
			a.note("%s", a.err.Dim(ui.Clean(m.GetMessage())))
		}
		if len(m.GetEnvironments()) > 0 {
			envs = m.GetEnvironments()
		}
		return nil
	})
	return envs, err
}

type envJSON struct {
	Name         string   `json:"name"`
	Python       string   `json:"python"`
	Requirements []string `json:"requirements"`
	Lock         string   `json:"lock"` // empty: not locked yet
	Packages     []string `json:"packages"`
	Functions    []string `json:"functions"`
	Ready        bool     `json:"ready"`   // installed on this host
	Indexes      []string `json:"indexes"` // beside the user's own
	Build        bool     `json:"build"`   // source distributions may be built
}

func envDocuments(envs []*tarnv1.Environment) []envJSON {
	docs := []envJSON{}
	for _, e := range envs {
		docs = append(docs, envJSON{
			e.GetName(), e.GetPython(), orEmpty(e.GetRequirements()), e.GetLock(), orEmpty(e.GetPackages()), orEmpty(e.GetFunctions()), e.GetReady(),
			orEmpty(e.GetIndexes()), e.GetBuild(),
		})
	}
	return docs
}

func (a *app) printEnvs(envs []*tarnv1.Environment) {
	a.print(map[string]any{"environments": envDocuments(envs)}, func() {
		var rows [][]string
		for _, e := range envs {
			state := a.out.Warn("not locked")
			switch {
			case e.GetReady():
				state = a.out.Good("ready")
			case e.GetLock() != "":
				state = "locked"
			}
			packages := strings.Join(e.GetRequirements(), ", ")
			if packages == "" {
				packages = "no packages"
			}
			rows = append(rows, []string{a.out.Bold(ui.Clean(e.GetName())), e.GetPython(), state, ui.Clean(packages), ui.Clean(strings.Join(e.GetFunctions(), ", "))})
		}
		a.out.Table(columns("environment", "python", "state", "asks for", "used by"), rows)
		if len(envs) == 0 {
			a.note("no function of this project needs Python")
		}
	})
}
