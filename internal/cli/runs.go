package cli

import (
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/timestamppb"

	tarnv1 "tarn.dev/tarn/api/gen/tarn/v1"
	"tarn.dev/tarn/internal/cli/ui"
)

func (a *app) runsCommand() *cobra.Command {
	limit := int32(20)
	c := codes(&cobra.Command{
		Use:     "runs",
		Short:   "List runs, the newest first, and calls of functions that the server remembers",
		GroupID: groupSetup,
		Example: "  tarn runs\n  tarn runs --limit 100 --json",
		Args:    args(0, 0),
		RunE: func(c *cobra.Command, _ []string) error {
			t, err := a.reach(c.Context())
			if err != nil {
				return err
			}
			if limit <= 0 {
				return usage(c, "--limit %d: it is at least 1", limit)
			}
			resp, err := t.Runs.List(c.Context(), &tarnv1.ListRunsRequest{Project: t.project, Limit: limit})
			if err != nil {
				return err
			}
			docs := []runJSON{}
			for _, r := range resp.GetRuns() {
				docs = append(docs, runDocument(r))
			}
			known, err := t.Calls.List(c.Context(), &tarnv1.ListCallsRequest{Project: t.project})
			if err != nil {
				return err
			}
			calls := known.GetCalls()
			if !a.json { // one may have begun thousands
				calls = slices.DeleteFunc(calls, func(c *tarnv1.Call) bool { return c.GetParent() != "" })
			}
			calls = calls[:min(len(calls), int(limit))]
			a.print(map[string]any{"runs": docs, "calls": callDocuments(calls)}, func() {
				var rows [][]string
				for _, r := range resp.GetRuns() {
					rows = append(rows, []string{
						a.out.ID(r.GetId()), a.runState(r.GetState()), a.out.Time(r.GetCreated().AsTime()), took(r), ui.Clean(r.GetAuthor()), runWhere(r),
					})
				}
				a.out.Table(columns("run", "state", "started", ">took", "author", "published"), rows)
				if len(rows)+len(calls) == 0 {
					a.note("there is no run yet: tarn run")
				}
				a.callTable(calls)
			})
			return nil
		},
	})
	c.Flags().Int32Var(&limit, "limit", limit, "how many of each at most")
	return c
}

func (a *app) runState(s string) string {
	switch s {
	case "succeeded":
		return a.out.Good(s)
	case "failed":
		return a.out.Bad(s)
	case "canceled":
		return a.out.Warn(s)
	}
	return a.out.Bold(s)
}

// took is how long a run has taken, until now if it has not ended.
func took(r *tarnv1.Run) string { return lasted(r.GetCreated(), r.GetEnded()) }

func lasted(created, ended *timestamppb.Timestamp) string {
	end := time.Now()
	if ended != nil {
		end = ended.AsTime()
	}
	return fmt.Sprintf("%.1f s", end.Sub(created.AsTime()).Seconds())
}

// runWhere is what became of a run.
func runWhere(r *tarnv1.Run) string {
	switch {
	case r.GetCommit() != "":
		return r.GetInto() + " @ " + short(r.GetCommit())
	case r.GetRerunOf() != "":
		return "rerun of " + r.GetRerunOf()
	case r.GetError() != nil:
		return ui.Clean(firstLine(r.GetError().GetMessage()))
	case r.GetState() == "succeeded" && r.GetInto() == "":
		return "run/" + r.GetId()
	case r.GetState() == "succeeded":
		return "nothing changed"
	}
	return ""
}
