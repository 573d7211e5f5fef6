package cli

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	tarnv1 "tarn.dev/tarn/api/gen/tarn/v1"
	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/cli/ui"
	"tarn.dev/tarn/internal/client"
)

func (a *app) statusCommand() *cobra.Command {
	return codes(&cobra.Command{
		Use:     "status",
		Short:   "Show where you are: project, branch, newest commit, running runs, stale assets",
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
			running, err := a.running(c.Context(), t)
			if err != nil {
				return err
			}
			code := a.codeState(c.Context(), t)
			doc := map[string]any{
				"project": t.project, "branch": t.branch, "commit": commitDocument(resp.GetCommit()),
				"counts": resp.GetCounts(), "server": serverDocument(t.Server), "running": running,
				"stale": orEmpty(code.stale), "code_error": code.err,
			}
			a.print(doc, func() {
				a.out.Printf("project  %s\n", a.out.Bold(t.project))
				a.out.Printf("branch   %s @ %s  %s\n", t.branch, a.out.ID(short(resp.GetCommit().GetId())), headline(resp.GetCommit()))
				a.out.Printf("holds    %s\n", countsText(resp.GetCounts()))
				for _, r := range running {
					a.out.Printf("running  %s since %s: tarn logs -f %s\n", a.out.ID(r.ID), a.out.Time(r.Created), r.ID)
				}
				switch {
				case code.err != nil:
					a.out.Printf("code     %s\n", a.out.Bad(ui.Clean(firstLine(code.err.Message))))
				case len(code.stale) > 0:
					a.out.Printf("stale    %s: tarn plan --why\n", ui.Clean(strings.Join(code.stale, ", ")))
				}
				a.out.Printf("server   pid %d, tarn %s\n", t.Server.GetPid(), t.Server.GetVersion())
			})
			return nil
		},
	}, errdef.NotFound, errdef.FailedPrecondition)
}

// running lists the runs that have not ended, the newest first.
func (a *app) running(ctx context.Context, t target) ([]runJSON, error) {
	const newest = 20
	resp, err := t.Runs.List(ctx, &tarnv1.ListRunsRequest{Project: t.project, Limit: newest})
	if err != nil {
		return nil, err
	}
	out := []runJSON{}
	for _, r := range resp.GetRuns() {
		if r.GetEnded() == nil {
			out = append(out, runDocument(r))
		}
	}
	return out, nil
}

// codeState is what the project folder's code says about the current branch.
type codeState struct {
	stale []string
	err   *errdef.Error // the code cannot be read, and what is stale is not known
}

// codeState plans a run, unless packages would have to be resolved for it: to look costs no network. A
// folder without assets has nothing to be stale.
func (a *app) codeState(ctx context.Context, t target) codeState {
	dir, err := projectDir()
	if err != nil || a.project != "" {
		return codeState{}
	}
	envs, err := t.Envs.List(ctx, &tarnv1.ListEnvsRequest{Project: t.project, Dir: dir})
	if err != nil {
		return codeState{err: errdef.As(client.Error(err))}
	}
	var unlocked []string
	for _, e := range envs.GetEnvironments() {
		if e.GetLock() == "" {
			unlocked = append(unlocked, e.GetFunctions()...)
		}
	}
	if len(unlocked) > 0 { // what has no packages yet never ran with them
		slices.Sort(unlocked)
		return codeState{stale: unlocked}
	}
	plan, err := t.Runs.Plan(ctx, &tarnv1.PlanRequest{Spec: &tarnv1.RunSpec{Project: t.project, Dir: dir, Ref: t.branch, Into: t.branch}})
	if e := errdef.As(client.Error(err)); e != nil && e.Reason == "run.nothing" {
		return codeState{}
	} else if e != nil {
		return codeState{err: e}
	}
	var out codeState
	for _, st := range plan.GetSteps() {
		if st.GetAction() != "reuse" {
			out.stale = append(out.stale, st.GetName())
		}
	}
	return out
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
