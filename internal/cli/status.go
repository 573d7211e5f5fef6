package cli

import (
	"errors"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	tarnv1 "tarn.dev/tarn/api/gen/tarn/v1"
	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/cli/ui"
)

func (a *app) statusCommand() *cobra.Command {
	return codes(&cobra.Command{
		Use:     "status",
		Short:   "Show where you are: project, branch, newest commit, server",
		GroupID: groupWork,
		Example: "  tarn status\n  tarn status --json",
		Args:    args(0, 0),
		RunE: func(c *cobra.Command, _ []string) error {
			t, err := a.reach(c.Context())
			if errors.Is(err, ErrNoProject) {
				return a.statusOutside(c)
			}
			if err != nil {
				return err
			}
			resp, err := t.History.Resolve(c.Context(), &tarnv1.ResolveRequest{Project: t.project, Ref: t.branch})
			if err != nil {
				return err
			}
			doc := map[string]any{
				"project": t.project, "branch": t.branch, "commit": commitDocument(resp.GetCommit()),
				"counts": resp.GetCounts(), "server": serverDocument(t.Server),
			}
			a.print(doc, func() {
				a.out.Printf("project  %s\n", a.out.Bold(t.project))
				a.out.Printf("branch   %s @ %s  %s\n", t.branch, a.out.ID(short(resp.GetCommit().GetId())), headline(resp.GetCommit()))
				a.out.Printf("holds    %s\n", countsText(resp.GetCounts()))
				a.out.Printf("server   pid %d, tarn %s\n", t.Server.GetPid(), t.Server.GetVersion())
			})
			return nil
		},
	}, errdef.NotFound, errdef.FailedPrecondition)
}

// statusOutside answers where there is no project: it is the command that tells where one is.
func (a *app) statusOutside(c *cobra.Command) error {
	cl, err := a.connect(c.Context())
	if err != nil {
		return err
	}
	names := cl.Server.GetProjects()
	if names == nil {
		names = []string{}
	}
	a.print(map[string]any{"project": nil, "projects": names, "server": serverDocument(cl.Server)}, func() {
		a.out.Printf("no project here (tarn init makes one)\n")
		if len(names) > 0 {
			a.out.Printf("projects %s\n", strings.Join(names, ", "))
		}
		a.out.Printf("server   pid %d, tarn %s\n", cl.Server.GetPid(), cl.Server.GetVersion())
	})
	return nil
}

func countsText(counts map[string]int64) string {
	var parts []string
	for _, kind := range slices.Sorted(maps.Keys(counts)) {
		if counts[kind] > 0 {
			parts = append(parts, ui.Count(counts[kind], kind))
		}
	}
	if len(parts) == 0 {
		return "nothing yet"
	}
	return strings.Join(parts, ", ")
}
