package cli

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/dustin/go-humanize"

	tarnv1 "tarn.dev/tarn/api/gen/tarn/v1"
	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/cli/ui"
)

// showRun describes RUN or RUN/STEP; ok is false when word names neither.
func (a *app) showRun(ctx context.Context, t target, word string) (ok bool, err error) {
	id, step, hasStep := strings.Cut(word, "/")
	if strings.Contains(step, "/") { // an item, which the server finds
		return false, nil
	}
	resp, err := t.Runs.Get(ctx, &tarnv1.GetRunRequest{Project: t.project, Run: id})
	if err != nil {
		return false, nil //nolint:nilerr // no run of that name: the caller knows better what is missing
	}
	run := resp.GetRun()
	if !hasStep {
		a.print(map[string]any{"kind": "run", "name": run.GetId(), "run": runDocument(run)}, func() { a.showOneRun(run) })
		return true, nil
	}
	var names []string
	for _, st := range run.GetSteps() {
		if st.GetName() == step {
			a.print(map[string]any{"kind": "step", "name": run.GetId() + "/" + step, "step": stepDocument(st)}, func() { a.showStep(run, st) })
			return true, nil
		}
		names = append(names, st.GetName())
	}
	return true, errdef.Newf(errdef.NotFound, "run.step_not_found", "run %s has no step '%s'. Steps: %s.", run.GetId(), step, strings.Join(names, ", "))
}

func (a *app) showOneRun(run *tarnv1.Run) {
	a.out.Printf("run %s\n", a.out.Bold(run.GetId()))
	a.out.Printf("state    %s\n", a.runState(run.GetState()))
	a.out.Printf("author   %s\n", ui.Clean(run.GetAuthor()))
	a.out.Printf("started  %s, took %s\n", a.out.Time(run.GetCreated().AsTime()), took(run))
	a.out.Printf("read     %s @ %s\n", refName(run.GetRef()), a.out.ID(short(run.GetBase())))
	if where := runWhere(run); where != "" {
		a.out.Printf("result   %s\n", where)
	}
	if len(run.GetSelect()) > 0 {
		a.out.Printf("selected %s\n", ui.Clean(strings.Join(run.GetSelect(), " ")))
	}
	for _, name := range sortedKeys(run.GetParams()) {
		a.out.Printf("param    %s=%s\n", ui.Clean(name), ui.Clean(run.GetParams()[name]))
	}
	a.out.Printf("level    %s\n", run.GetLevel())
	var rows [][]string
	for _, st := range run.GetSteps() {
		mark, _ := stepMark(a.out, st.GetState())
		rows = append(rows, []string{mark, ui.Clean(st.GetName()), fmt.Sprintf("%.1f s", stepSeconds(st)), ui.Count(st.GetRows(), "row"), ui.Clean(firstLine(st.GetWhy()))})
	}
	a.out.Table(columns("", "step", ">took", ">made", "why"), rows)
	for _, c := range run.GetChecks() {
		if !c.GetPassed() {
			a.out.Printf("%s %s on %s: %s\n", a.out.Bad("✗"), ui.Clean(c.GetCheck()), ui.Clean(c.GetTable()), offenders(c))
		}
	}
	a.showVerdicts(run)
}

func (a *app) showVerdicts(run *tarnv1.Run) {
	var rows [][]string
	for _, v := range run.GetVerdicts() {
		verdict := v.GetVerdict()
		if slices.Contains([]string{"identical", "float noise"}, verdict) {
			verdict = a.out.Good(verdict)
		} else {
			verdict = a.out.Bad(verdict)
		}
		rows = append(rows, []string{ui.Clean(v.GetName()), verdict, ui.Clean(v.GetDetail())})
	}
	a.out.Table(columns("result", "verdict", ""), rows)
}

func (a *app) showStep(run *tarnv1.Run, st *tarnv1.RunStep) {
	a.out.Printf("step %s\n", a.out.Bold(run.GetId()+"/"+ui.Clean(st.GetName())))
	a.out.Printf("state    %s\n", a.runState(st.GetState()))
	if st.GetWhy() != "" {
		a.out.Printf("why      %s\n", ui.Clean(st.GetWhy()))
	}
	if st.GetStarted() != nil {
		a.out.Printf("started  %s, took %.1f s, attempt %d\n", a.out.Time(st.GetStarted().AsTime()), stepSeconds(st), st.GetAttempt())
	}
	if st.GetItems() > 1 {
		a.out.Printf("items    %d, %d of them used again, %d failed\n", st.GetItems(), st.GetReused(), st.GetFailed())
	}
	a.out.Printf("rows     %s in, %s out\n", humanize.Comma(st.GetRowsIn()), humanize.Comma(st.GetRows()))
	if st.GetPeakBytes() > 0 {
		a.out.Printf("used     %s of memory, %.1f s of processor time\n", ui.Size(st.GetPeakBytes()), st.GetCpuSeconds())
	}
	a.showReported(st.GetReported())
	if e := st.GetError(); e != nil {
		a.out.Printf("error    %s\n", ui.Clean(firstLine(e.GetMessage())))
		a.note("next: tarn logs %s/%s", run.GetId(), st.GetName())
	}
}
