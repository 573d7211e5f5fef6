package cli

import (
	"fmt"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	tarnv1 "tarn.dev/tarn/api/gen/tarn/v1"
	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/cli/ui"
)

func (a *app) planCommand() *cobra.Command {
	var f runFlags
	var why bool
	c := codes(&cobra.Command{
		Use:   "plan [SELECTION...]",
		Short: "Show what a run would do, without doing it",
		Long: `Show what a run would do: which functions run, which results are used again, how many items
each has, and how long it took the last time. "maybe" stands behind something that runs: when that
makes the same result as before, it is not run.`,
		GroupID: groupWork,
		Example: "  tarn plan\n  tarn plan delays+ --why\n  tarn plan changed --ref dev",
		RunE: func(c *cobra.Command, args []string) error {
			t, err := a.reach(c.Context())
			if err != nil {
				return err
			}
			spec, err := a.spec(c, t, f, args)
			if err != nil {
				return err
			}
			resp, err := t.Runs.Plan(c.Context(), &tarnv1.PlanRequest{Spec: spec})
			if err != nil {
				return err
			}
			a.print(planDocument(resp), func() { a.showPlan(resp, spec, why) })
			return nil
		},
	}, errdef.UserCode, errdef.NotFound, errdef.FailedPrecondition, errdef.DataLoss)
	f.add(c)
	c.Flags().BoolVar(&why, "why", false, "say why, and what makes whole modules count")
	return c
}

type plannedJSON struct {
	Name     string   `json:"name"`
	Action   string   `json:"action"` // run, reuse, maybe
	Why      string   `json:"why"`
	Items    int32    `json:"items"`
	Reused   int32    `json:"reused"`
	Seconds  float64  `json:"seconds"` // the last time; 0 when it never ran
	Outputs  []string `json:"outputs"`
	NotPlain []string `json:"not_plain"`
}

func planDocument(p *tarnv1.PlanResponse) map[string]any {
	steps := []plannedJSON{}
	for _, st := range p.GetSteps() {
		steps = append(steps, plannedJSON{
			st.GetName(), st.GetAction(), st.GetWhy(), st.GetItems(), st.GetReused(), st.GetEstimatedSeconds(),
			orEmpty(st.GetOutputs()), orEmpty(st.GetNotPlain()),
		})
	}
	return map[string]any{"base": p.GetBase(), "steps": steps}
}

func (a *app) showPlan(p *tarnv1.PlanResponse, spec *tarnv1.RunSpec, why bool) {
	counts := map[string]int64{}
	var seconds float64
	var rows [][]string
	for _, st := range p.GetSteps() {
		counts[st.GetAction()]++
		row := []string{a.action(st.GetAction()), ui.Clean(st.GetName()), plannedItems(st), ""}
		if st.GetAction() != "reuse" {
			seconds += st.GetEstimatedSeconds()
			row[3] = about(st.GetEstimatedSeconds())
		}
		if why {
			row = append(row, ui.Clean(st.GetWhy()))
		}
		rows = append(rows, row)
	}
	names := []string{"", "step", ">items", ">last took"}
	if why {
		names = append(names, "why")
	}
	a.out.Table(columns(names...), rows)
	if why {
		for _, st := range p.GetSteps() {
			for _, reason := range st.GetNotPlain() {
				a.note("%s: a change anywhere in its module counts: %s", st.GetName(), ui.Clean(reason))
			}
		}
	}
	text := fmt.Sprintf("%s @ %s: %d to run, %d maybe, %d to use again", spec.GetRef(), short(p.GetBase()), counts["run"], counts["maybe"], counts["reuse"])
	if seconds > 0 {
		text += ", " + about(seconds) + " of work"
	}
	a.note("%s", text)
}

func (a *app) action(s string) string {
	switch s {
	case "run":
		return a.out.Warn(s)
	case "reuse":
		return a.out.Dim(s)
	}
	return s
}

// plannedItems says how many items run; a function without items has one.
func plannedItems(st *tarnv1.PlannedStep) string {
	if st.GetAction() != "run" || st.GetItems() == 1 {
		return ""
	}
	return fmt.Sprintf("%s of %s", humanize.Comma(int64(st.GetItems()-st.GetReused())), humanize.Comma(int64(st.GetItems())))
}

// about is a duration that was measured once and will not be the same again.
func about(seconds float64) string {
	switch d := time.Duration(seconds * float64(time.Second)); {
	case seconds <= 0:
		return ""
	case d < time.Second:
		return "under 1 s"
	case d < 2*time.Minute:
		return fmt.Sprintf("~%.0f s", d.Seconds())
	default:
		return fmt.Sprintf("~%.0f min", d.Minutes())
	}
}
