package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/mattn/go-runewidth"
	"github.com/spf13/cobra"

	tarnv1 "tarn.dev/tarn/api/gen/tarn/v1"
	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/base/ids"
	"tarn.dev/tarn/internal/cli/ui"
)

// runFlags are the flags that run and plan share.
type runFlags struct {
	params    []string
	ref, into string
	noCache   bool
	noPublish bool
}

func (f *runFlags) add(c *cobra.Command) {
	c.Flags().StringArrayVar(&f.params, "param", nil, "a run parameter: `NAME=VALUE`, may be repeated")
	c.Flags().StringVar(&f.ref, "ref", "", "read this `REF` (default: where it publishes)")
	c.Flags().StringVar(&f.into, "into", "", "publish to this `BRANCH` (default: --ref if that is a branch, else the current one)")
	c.Flags().BoolVar(&f.noCache, "no-cache", false, "run everything again, whatever has a result")
}

// spec turns flags into a request. The project folder is sent along: the server reads it.
func (a *app) spec(c *cobra.Command, t target, f runFlags, selections []string) (*tarnv1.RunSpec, error) {
	dir, err := projectDir()
	if err != nil {
		return nil, err
	}
	spec := &tarnv1.RunSpec{
		Project: t.project, Dir: dir, Select: selections, Params: map[string]string{}, Ref: f.ref, Into: f.into,
		NoCache: f.noCache, NoPublish: f.noPublish, Author: author(),
	}
	for _, p := range f.params {
		name, value, ok := strings.Cut(p, "=")
		if !ok || name == "" {
			return nil, usage(c, "--param %s: it is NAME=VALUE", p)
		}
		spec.Params[name] = value
	}
	if spec.Into == "" {
		spec.Into = t.branch
		if spec.Ref != "" && a.isBranch(c.Context(), t, spec.Ref) {
			spec.Into = spec.Ref
		}
	}
	if spec.Ref == "" {
		spec.Ref = spec.Into
	}
	return spec, nil
}

func (a *app) isBranch(ctx context.Context, t target, name string) bool {
	resp, err := t.History.ListBranches(ctx, &tarnv1.ListBranchesRequest{Project: t.project})
	return err == nil && slices.ContainsFunc(resp.GetBranches(), func(r *tarnv1.Ref) bool { return r.GetName() == name })
}

func (a *app) runCommand() *cobra.Command {
	var f runFlags
	var detach, watch bool
	var id string
	c := codes(&cobra.Command{
		Use:   "run [SELECTION...] | FILE.py::NAME [ARGUMENTS...]",
		Short: "Run the project's functions and publish what they make",
		Long: `Run the assets of this project: all of them, or those that the selections name. What has
a result already (same code, packages, parameters and inputs) is not run again. The results are
checked and published as one commit, or not at all.

A selection is a name, a glob, +x (with all it reads), x+ (with all that read it), tag:T, owner:O,
a file, or "changed".

FILE.py::NAME calls an entrypoint of a file, or a plain function, with arguments for its
parameters: FILE.py::NAME --help lists them.`,
		GroupID: groupWork,
		Example: "  tarn run\n  tarn run delays+ --param top=5\n  tarn run sweep.py::main --n 5\n  tarn run --into dev\n  tarn run --no-publish",
		RunE: func(c *cobra.Command, args []string) error {
			t, err := a.reach(c.Context())
			if err != nil {
				return err
			}
			if len(args) > 0 && isEntry(args[0]) {
				return a.entry(c.Context(), c, t, args)
			}
			spec, err := a.spec(c, t, f, args)
			if err != nil {
				return err
			}
			if watch {
				return a.watch(c, t, spec)
			}
			resp, err := t.Runs.Start(c.Context(), &tarnv1.StartRunRequest{RequestId: ids.Request(), Spec: spec, RunId: id})
			if err != nil {
				return err
			}
			if detach {
				a.print(map[string]any{"run": runDocument(resp.GetRun())}, func() {
					a.out.Printf("%s\n", resp.GetRun().GetId())
					a.note("follow it with: tarn logs -f %s", resp.GetRun().GetId())
				})
				return nil
			}
			if resp.GetAttached() {
				a.note("%s exists already: it %s", a.err.ID(resp.GetRun().GetId()), attachedState(resp.GetRun()))
			}
			_, err = a.follow(c.Context(), t, resp.GetRun())
			return err
		},
	}, errdef.UserCode, errdef.NotFound, errdef.Conflict, errdef.FailedPrecondition, errdef.PermissionDenied, errdef.ResourceExhausted, errdef.DeadlineExceeded, errdef.DataLoss)
	f.add(c)
	c.Flags().BoolVar(&f.noPublish, "no-publish", false, "keep the result on the branch run/ID only")
	c.Flags().BoolVar(&detach, "detach", false, "print the run's id and leave it to the server")
	c.Flags().BoolVar(&watch, "watch", false, "run again whenever a file of the project changes")
	c.Flags().StringVar(&id, "id", "", "an `ID` of your own: the same id attaches, and never runs twice")
	return c
}

func attachedState(run *tarnv1.Run) string {
	if run.GetEnded() == nil {
		return "is " + run.GetState()
	}
	return run.GetState()
}

// follow shows a run until it ends, and returns it. Interrupting the command cancels the run; a second
// time, it leaves the run to end by itself.
func (a *app) follow(ctx context.Context, t target, run *tarnv1.Run) (*tarnv1.Run, error) {
	a.note("run %s on %s @ %s", a.err.ID(run.GetId()), refName(run.GetRef()), short(run.GetBase()))
	last, err := a.stream(ctx, t, run)
	if ctx.Err() != nil {
		return nil, errors.Join(context.Cause(ctx), err, a.cancel(context.WithoutCancel(ctx), t, run))
	}
	if err != nil {
		return nil, err
	}
	return last, a.printRun(last)
}

// cancel ends a run and waits until it has. The second Ctrl-C ends this process, not the waiting run.
func (a *app) cancel(ctx context.Context, t target, run *tarnv1.Run) error {
	a.note("canceling %s; Ctrl-C again leaves without waiting", a.err.ID(run.GetId()))
	ctx, done := context.WithTimeout(ctx, cancelPatience)
	defer done()
	resp, err := t.Runs.Cancel(ctx, &tarnv1.CancelRunRequest{Project: t.project, Run: run.GetId()})
	if err != nil {
		return fmt.Errorf("cancel %s: %w", run.GetId(), err)
	}
	if a.json {
		a.line(map[string]any{"event": "result", "run": runDocument(resp.GetRun())})
	}
	return nil
}

// cancelPatience is longer than steps get to end by themselves.
const cancelPatience = 30 * time.Second

// refName shortens the id of a commit; names stay whole.
func refName(ref string) string {
	if len(ref) == 64 && strings.Trim(ref, "0123456789abcdef") == "" {
		return short(ref)
	}
	return ref
}

// stream prints events as they come and returns the run as it ended.
func (a *app) stream(ctx context.Context, t target, run *tarnv1.Run) (*tarnv1.Run, error) {
	s, err := t.Runs.Events(ctx, &tarnv1.RunEventsRequest{Project: t.project, Run: run.GetId()})
	if err != nil {
		return nil, err
	}
	defer s.Close() //nolint:errcheck // the stream has ended, or its error is returned
	defer a.err.Settle()
	var last *tarnv1.Run
	for s.Receive() {
		if r := s.Msg().GetRun(); r != nil {
			last = r
		}
		if e := s.Msg().GetHappened(); e != nil {
			a.event(e)
		}
	}
	if err := s.Err(); err != nil {
		return nil, err
	}
	if last == nil {
		return nil, errdef.Newf(errdef.Unavailable, "cli.run_lost", "the server went away while run %s was under way", run.GetId()).
			WithNext("tarn show " + run.GetId())
	}
	return last, nil
}

// event prints one line; with --json each event is a JSON line of its own.
func (a *app) event(e *tarnv1.RunEvent) {
	if a.json {
		a.line(map[string]any{
			"event": e.GetType(), "time": e.GetTime().AsTime(), "step": e.GetStep(), "item": e.GetItem(), "state": e.GetState(),
			"stream": e.GetStream(), "message": e.GetMessage(), "done": e.GetDone(), "total": e.GetTotal(),
		})
		return
	}
	o := a.err
	if e.GetType() == "progress" {
		a.progress(e)
		return
	}
	o.Settle()
	switch e.GetType() {
	case "log":
		o.Printf("%s %s\n", stepLabel(o, e.GetStep()), ui.Clean(e.GetMessage()))
	case "step":
		if mark, show := stepMark(o, e.GetState()); show {
			o.Printf("%s %-20s %s\n", mark, e.GetStep(), o.Dim(ui.Clean(firstLine(e.GetMessage()))))
		}
	case "check":
		mark := o.Good("✓")
		if e.GetState() != "passed" {
			mark = o.Bad("✗")
		}
		o.Printf("%s %s on %s\n", mark, e.GetMessage(), e.GetStep())
	case "run":
		if e.GetState() == "replan" {
			o.Printf("%s\n", o.Warn(ui.Clean(e.GetMessage())+": planning again"))
		}
	}
	if e.GetType() == "log" && a.busy != "" { // output scrolls by above what is under way
		o.Busy(a.busy)
	} else {
		a.busy = ""
	}
}

// progress shows what a run is at: a line that the next one takes the place of, where somebody looks;
// elsewhere one line for each step.
func (a *app) progress(e *tarnv1.RunEvent) {
	text := ui.Clean(firstLine(e.GetMessage()))
	if e.GetStep() != "" {
		text = strings.TrimRight(e.GetStep()+": "+text, ": ")
	}
	switch {
	case a.err.Terminal:
		if a.busy = text; e.GetTotal() > 0 {
			a.busy = fmt.Sprintf("%s %s of %s", text, humanize.Comma(int64(e.GetDone())), humanize.Comma(int64(e.GetTotal())))
		}
		a.err.Busy(a.busy)
	case e.GetMessage() != "" && !slices.Contains(a.said, e.GetStep()):
		a.said = append(a.said, e.GetStep())
		a.note("%s", text)
	}
}

func stepMark(o ui.Out, state string) (string, bool) {
	switch state {
	case "running":
		return o.Dim("▸"), true
	case "succeeded":
		return o.Good("✓"), true
	case "cached":
		return o.Dim("="), true
	case "failed":
		return o.Bad("✗"), true
	case "skipped", "canceled", "retry":
		return o.Warn("-"), true
	}
	return "", false
}

// stepLabel stands before a line of a step's output.
func stepLabel(o ui.Out, step string) string {
	return o.Dim(runewidth.FillLeft(runewidth.Truncate(step, 12, ""), 12) + " |")
}

func firstLine(s string) string {
	s, _, _ = strings.Cut(s, "\n")
	return s
}

// line prints one JSON document on one line.
func (a *app) line(v any) {
	b, err := json.Marshal(v)
	if err != nil {
		a.err.Printf("%v\n", err)
		return
	}
	a.out.Printf("%s\n", b)
}

// printRun says how a run ended, and with what.
func (a *app) printRun(run *tarnv1.Run) error {
	e := runError(run)
	if e == nil && !slices.Contains([]string{"succeeded", "failed", "canceled"}, run.GetState()) {
		e = errdef.Newf(errdef.Unavailable, "run.unsettled", "run %s has ended, and the server could not save how", run.GetId()).
			WithNext("look into its log: tarn server status")
	}
	if a.json {
		a.line(map[string]any{"event": "result", "run": runDocument(run)})
		if e != nil {
			return &toldError{e}
		}
		return nil
	}
	a.runSummary(run)
	if e == nil {
		return nil
	}
	return withTraceback(run, e)
}

// toldError has been printed already, inside of a document.
type toldError struct{ error }

func (e *toldError) Unwrap() error { return e.error }

// runError is a run's error as the command's own; nil for a run that has none.
func runError(run *tarnv1.Run) *errdef.Error { return errorOf(run.GetError()) }

func errorOf(e *tarnv1.ErrorDetail) *errdef.Error {
	if e == nil {
		return nil
	}
	err := &errdef.Error{Code: errdef.ParseCode(e.GetCode()), Reason: e.GetReason(), Message: e.GetMessage(), Next: e.GetNext()}
	if e.GetDetailsJson() != "" && json.Unmarshal([]byte(e.GetDetailsJson()), &err.Details) != nil {
		err.Details = nil // of no use to anybody
	}
	return err
}

// withTraceback shows a function's own error as Python would, then the step, and how to look into it.
func withTraceback(run *tarnv1.Run, e *errdef.Error) *errdef.Error {
	tb, _ := e.Details["traceback"].(string)
	if tb == "" {
		return e
	}
	shown := *e
	shown.Message = strings.TrimRight(tb, "\n")
	for _, st := range run.GetSteps() {
		if st.GetName() != e.Details["step"] {
			continue
		}
		shown.Message += fmt.Sprintf("\nstep %s, %.1f s, %s in.", st.GetName(), stepSeconds(st), ui.Count(st.GetRowsIn(), "row"))
		if debug := "tarn debug " + run.GetId() + "/" + st.GetName(); slices.Contains(e.Next, debug) {
			shown.Message += " " + debug
			shown.Next = slices.DeleteFunc(slices.Clone(e.Next), func(s string) bool { return s == debug })
		}
	}
	return &shown
}

func stepSeconds(st *tarnv1.RunStep) float64 {
	if st.GetStarted() == nil || st.GetEnded() == nil {
		return 0
	}
	return st.GetEnded().AsTime().Sub(st.GetStarted().AsTime()).Seconds()
}

func (a *app) runSummary(run *tarnv1.Run) {
	var rows [][]string
	for _, o := range run.GetOutputs() {
		what := "row"
		if o.GetKind() == "folder" {
			what = "file"
		}
		note := "unchanged"
		if o.GetChanged() {
			note = change(o.GetRows() - o.GetBefore())
		}
		rows = append(rows, []string{o.GetName(), ui.Count(o.GetRows(), what), note})
	}
	if len(rows) > 0 && run.GetRerunOf() == "" && run.GetState() == "succeeded" {
		a.err.Table(columns("asset", ">size", "change"), rows)
	}
	for _, c := range run.GetChecks() {
		if !c.GetPassed() && c.GetSeverity() == "warn" {
			a.note("%s %s: %s of %s rows", a.err.Warn("warning:"), c.GetCheck()+" on "+c.GetTable(), humanize.Comma(c.GetOffenders()), humanize.Comma(c.GetRows()))
		}
	}
	a.showVerdicts(run)
	switch {
	case run.GetRerunOf() != "":
	case run.GetState() == "failed" && slices.ContainsFunc(run.GetSteps(), func(st *tarnv1.RunStep) bool { return st.GetState() == "failed" }):
		a.note("nothing is published; what succeeded is used again by the next run")
	case run.GetState() != "succeeded":
	case run.GetCommit() != "":
		a.note("-> %s @ %s", run.GetInto(), a.err.ID(short(run.GetCommit())))
		a.suggest(run)
	case run.GetInto() == "":
		a.note("-> run/%s", run.GetId())
		a.note("next: tarn diff %s..run/%s", short(run.GetBase()), run.GetId())
	default:
		a.note("nothing changed: everything was up to date on %s", run.GetInto())
	}
}

// suggest names three commands to go on with. Outputs come in the order of the graph: the last table is
// what the others were made for.
func (a *app) suggest(run *tarnv1.Run) {
	label := "next:"
	for _, o := range slices.Backward(run.GetOutputs()) {
		if o.GetKind() == "table" && o.GetChanged() {
			a.note("next: tarn query \"from %s\"", o.GetName())
			a.note("      tarn provenance %s", o.GetName())
			label = "     "
			break
		}
	}
	a.note("%s tarn diff %s~1..%s", label, short(run.GetCommit()), short(run.GetCommit()))
}

// change is a difference of sizes; the same size with other content is a change, too.
func change(n int64) string {
	switch {
	case n > 0:
		return "+" + humanize.Comma(n)
	case n < 0:
		return humanize.Comma(n)
	}
	return "~"
}

// runJSON is a run in every document.
type runJSON struct {
	ID       string            `json:"id"`
	State    string            `json:"state"`
	Select   []string          `json:"select"`
	Params   map[string]string `json:"params"`
	Ref      string            `json:"ref"`
	Into     string            `json:"into"`
	Base     string            `json:"base"`
	Commit   string            `json:"commit"`
	Author   string            `json:"author"`
	Level    string            `json:"level"`
	Created  time.Time         `json:"created"`
	Ended    *time.Time        `json:"ended"`
	RerunOf  string            `json:"rerun_of,omitempty"`
	Steps    []stepJSON        `json:"steps"`
	Outputs  []outputJSON      `json:"outputs"`
	Checks   []checkJSON       `json:"checks"`
	Verdicts []verdictJSON     `json:"verdicts,omitempty"`
	Error    *errdef.Error     `json:"error,omitempty"`
}

type stepJSON struct {
	Name     string         `json:"name"`
	State    string         `json:"state"`
	Why      string         `json:"why"`
	Items    int32          `json:"items"`
	Reused   int32          `json:"reused"`
	Failed   int32          `json:"failed"`
	Attempt  int32          `json:"attempt"`
	Rows     int64          `json:"rows"`
	RowsIn   int64          `json:"rows_in"`
	Seconds  float64        `json:"seconds"`
	Peak     int64          `json:"peak_bytes"`
	Reported []reportedJSON `json:"reported"`
	Error    *errdef.Error  `json:"error,omitempty"`
}

type outputJSON struct {
	Asset   string `json:"asset"`
	Name    string `json:"name"`
	Kind    string `json:"kind"`
	Rows    int64  `json:"rows"`
	Before  int64  `json:"before"`
	Changed bool   `json:"changed"`
}

type checkJSON struct {
	Table     string `json:"table"`
	Check     string `json:"check"`
	Severity  string `json:"severity"`
	Passed    bool   `json:"passed"`
	Message   string `json:"message,omitempty"`
	Offenders int64  `json:"offenders"`
	Rows      int64  `json:"rows"`
	Kept      string `json:"kept,omitempty"`
}

type verdictJSON struct {
	Name    string `json:"name"`
	Verdict string `json:"verdict"`
	Detail  string `json:"detail,omitempty"`
}

func runDocument(r *tarnv1.Run) runJSON {
	doc := runJSON{
		ID: r.GetId(), State: r.GetState(), Select: orEmpty(r.GetSelect()), Params: maps.Clone(r.GetParams()), Ref: r.GetRef(), Into: r.GetInto(),
		Base: r.GetBase(), Commit: r.GetCommit(), Author: r.GetAuthor(), Level: r.GetLevel(), Created: r.GetCreated().AsTime(), RerunOf: r.GetRerunOf(),
		Steps: []stepJSON{}, Outputs: []outputJSON{}, Checks: checkDocuments(r.GetChecks()),
	}
	if doc.Params == nil {
		doc.Params = map[string]string{}
	}
	if r.GetEnded() != nil {
		ended := r.GetEnded().AsTime()
		doc.Ended = &ended
	}
	for _, st := range r.GetSteps() {
		doc.Steps = append(doc.Steps, stepDocument(st))
	}
	for _, o := range r.GetOutputs() {
		doc.Outputs = append(doc.Outputs, outputJSON{o.GetAsset(), o.GetName(), o.GetKind(), o.GetRows(), o.GetBefore(), o.GetChanged()})
	}
	for _, v := range r.GetVerdicts() {
		doc.Verdicts = append(doc.Verdicts, verdictJSON{v.GetName(), v.GetVerdict(), v.GetDetail()})
	}
	doc.Error = runError(r)
	return doc
}

func stepDocument(st *tarnv1.RunStep) stepJSON {
	return stepJSON{
		Name: st.GetName(), State: st.GetState(), Why: st.GetWhy(), Items: st.GetItems(), Reused: st.GetReused(), Failed: st.GetFailed(),
		Attempt: st.GetAttempt(), Rows: st.GetRows(), RowsIn: st.GetRowsIn(), Seconds: stepSeconds(st), Peak: st.GetPeakBytes(), Error: errorOf(st.GetError()),
		Reported: reportedDocuments(st.GetReported()),
	}
}

type reportedJSON struct {
	Kind  string          `json:"kind"`
	Item  string          `json:"item,omitempty"`
	Name  string          `json:"name"`
	Value json.RawMessage `json:"value"`
}

func reportedDocuments(told []*tarnv1.Reported) []reportedJSON {
	out := []reportedJSON{}
	for _, r := range told {
		out = append(out, reportedJSON{r.GetKind(), r.GetItem(), r.GetName(), json.RawMessage(r.GetValue())})
	}
	return out
}

// reportedText is a value as people read it: text without quotes, on one line.
func reportedText(r *tarnv1.Reported) string {
	var text string
	if json.Unmarshal([]byte(r.GetValue()), &text) == nil {
		return ui.Clean(firstLine(text))
	}
	return ui.Clean(r.GetValue())
}

// showReported prints what functions told of their results.
func (a *app) showReported(told []*tarnv1.Reported) {
	var rows [][]string
	for _, r := range told {
		rows = append(rows, []string{ui.Clean(r.GetItem()), ui.Clean(r.GetName()), reportedText(r)})
	}
	if !slices.ContainsFunc(told, func(r *tarnv1.Reported) bool { return r.GetItem() != "" }) {
		for i := range rows {
			rows[i] = rows[i][1:]
		}
		a.out.Table(columns("told", "value"), rows)
		return
	}
	a.out.Table(columns("item", "told", "value"), rows)
}

func checkDocuments(cs []*tarnv1.CheckResult) []checkJSON {
	out := []checkJSON{}
	for _, c := range cs {
		out = append(out, checkJSON{c.GetTable(), c.GetCheck(), c.GetSeverity(), c.GetPassed(), c.GetMessage(), c.GetOffenders(), c.GetRows(), c.GetKept()})
	}
	return out
}

func orEmpty(s []string) []string {
	if s == nil {
		return []string{}
	}
	return s
}
