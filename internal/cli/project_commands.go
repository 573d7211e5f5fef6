package cli

import (
	"bufio"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	tarnv1 "tarn.dev/tarn/api/gen/tarn/v1"
	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/cli/ui"
)

func (a *app) projectCommand() *cobra.Command {
	return group("project", "List and remove projects", groupSetup, a.projectListCommand(), a.projectRemoveCommand())
}

func (a *app) projectListCommand() *cobra.Command {
	return codes(&cobra.Command{
		Use:     "ls",
		Short:   "List the projects of this home",
		Example: "  tarn project ls",
		Args:    args(0, 0),
		RunE: func(c *cobra.Command, _ []string) error {
			conn, err := a.connect(c.Context())
			if err != nil {
				return err
			}
			names := append([]string{}, conn.Server.GetProjects()...)
			a.print(map[string]any{"projects": names}, func() {
				for _, name := range names {
					a.out.Printf("%s\n", ui.Clean(name))
				}
			})
			return nil
		},
	})
}

func (a *app) projectRemoveCommand() *cobra.Command {
	var yes bool
	c := codes(&cobra.Command{
		Use:   "rm NAME",
		Short: "Remove a project with everything it holds, for good",
		Long: `Remove a project: its history, tables, files, runs, secrets and remembered results, from disk or bucket. This is
final: only a backup brings it back (tarn restore). The project's folder with its code is not touched. An interrupted
removal goes on when the command is given again, or when a server starts.`,
		Example: "  tarn backup /mnt/backups\n  tarn project rm flights\n  tarn project rm flights --yes",
		Args:    args(1, 1),
		RunE: func(c *cobra.Command, args []string) error {
			name := args[0]
			if !yes {
				if err := a.confirmName(name); err != nil {
					return err
				}
			}
			conn, err := a.connect(c.Context())
			if err != nil {
				return err
			}
			stream, err := conn.System.RemoveProject(c.Context(), &tarnv1.RemoveProjectRequest{Project: name})
			if err != nil {
				return err
			}
			got := &tarnv1.RemovedProject{}
			err = recv(stream, func(m *tarnv1.RemoveProjectResponse) error {
				if what := m.GetProgress(); what != "" {
					a.note("%s", ui.Clean(what))
				}
				if r := m.GetRemoved(); r != nil {
					got = r
				}
				return nil
			})
			if err != nil {
				return err
			}
			a.print(map[string]any{"project": name, "blobs": got.GetBlobs(), "bytes": got.GetBytes(), "rows": got.GetRows()}, func() {
				a.note("removed project %s: %s, %s, %s", ui.Clean(name), ui.Size(got.GetBytes()), ui.Count(got.GetBlobs(), "file"), ui.Count(got.GetRows(), "row"))
			})
			return nil
		},
	}, errdef.NotFound, errdef.FailedPrecondition, errdef.InvalidArgument)
	c.Flags().BoolVar(&yes, "yes", false, "do not ask for the name again")
	return c
}

// confirmName has a name typed again before what cannot be undone. Where nobody can be asked, it refuses.
func (a *app) confirmName(name string) error {
	f, ok := a.in.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return errdef.Newf(errdef.FailedPrecondition, "cli.not_confirmed", "removing %s is final, and nobody can be asked here", name).
			WithNext("tarn project rm " + name + " --yes")
	}
	a.err.Printf("This removes everything that %s holds, for good. Type its name: ", ui.Clean(name))
	line, err := bufio.NewReader(f).ReadString('\n')
	if err != nil || strings.TrimSpace(line) != name {
		return errdef.Newf(errdef.FailedPrecondition, "cli.not_confirmed", "that is not %s: nothing was removed", name)
	}
	return nil
}
