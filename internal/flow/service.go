package flow

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"

	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/base/ids"
	"tarn.dev/tarn/internal/base/pattern"
	"tarn.dev/tarn/internal/flow/graph"
	"tarn.dev/tarn/internal/lake"
	"tarn.dev/tarn/internal/meta"
)

// Request asks for a run.
type Request struct {
	ID        string // of the caller's choice; "" makes one
	RequestID string
	Dir       string
	Select    []string
	Params    map[string]string
	Ref       string // where it reads
	Into      string // where it publishes; "" nowhere
	NoCache   bool
	Author    string
}

// Start accepts a run and lets it execute in the background. A request with the ID or RequestID of an
// earlier one attaches to that run.
func (f *Flow) Start(ctx context.Context, r Request) (run *Run, attached bool, err error) {
	base, err := f.lake.Resolve(ctx, r.Ref)
	if err != nil {
		return nil, false, err
	}
	if r.Into != "" {
		if _, err := f.lake.Branch(ctx, r.Into); err != nil {
			return nil, false, err
		}
	}
	return f.begin(ctx, &Run{
		ID: r.ID, Dir: r.Dir, Select: r.Select, Params: r.Params, Ref: r.Ref, Into: r.Into, NoCache: r.NoCache, Author: r.Author,
		Base: base.ID, RequestID: r.RequestID,
	})
}

func (f *Flow) begin(ctx context.Context, run *Run) (*Run, bool, error) {
	run.Project, run.State, run.Created = f.name, RunCreated, now()
	run.Level, run.Session = string(f.Runtime.Level()), f.Session.Key()
	run, attached, err := f.register(ctx, run)
	if err != nil || attached {
		return run, attached, err
	}
	copied := *run
	rctx, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	lv := f.newLive(run, cancel)
	f.mu.Lock()
	if f.stopped {
		f.mu.Unlock()
		cancel(ErrStopping)
		return nil, false, ErrStopping
	}
	f.live[run.ID] = lv
	f.wg.Add(1)
	f.mu.Unlock()
	release, leave := f.Hold(), f.lake.Enter()
	go func() {
		defer release()
		defer cancel(nil) // what was kept for the run, files for example, is kept no longer
		defer leave()
		lv.execute(rctx)
	}()
	return &copied, false, nil
}

// ErrRunID is an id of the caller's choice that cannot be one.
var ErrRunID = errdef.New(errdef.InvalidArgument, "run.id", "not a run id")

// runID is what a caller may call a run: it is a part of names of branches and of RUN/STEP.
var runID = pattern.Of(`^[A-Za-z0-9][A-Za-z0-9._-]{1,99}$`)

// register stores a new run, or finds the one that its id or request made before.
func (f *Flow) register(ctx context.Context, run *Run) (_ *Run, attached bool, err error) {
	chosen := run.ID != ""
	if chosen && (!runID().MatchString(run.ID) || strings.Contains(run.ID, "..") || strings.HasSuffix(run.ID, ".lock")) {
		return nil, false, ErrRunID.Errorf("%q cannot be a run's id: 2 to 100 letters, digits, '.', '_' and '-', the first a letter or digit", run.ID)
	}
	for length := ids.RunLength; ; length++ {
		if !chosen {
			run.ID = ids.Run(length)
		}
		had, err := f.runs.create(ctx, run)
		if err != nil {
			return nil, false, err
		}
		if had == run {
			return run, false, nil
		}
		if chosen || run.RequestID != "" && had.RequestID == run.RequestID {
			return had, true, nil
		}
		// Another run has this random id: a longer one.
	}
}

// Active counts the runs that execute now.
func (f *Flow) Active() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.live)
}

// Unfinished returns the runs that have not ended, on any server.
func (f *Flow) Unfinished(ctx context.Context) ([]string, error) {
	var out []string
	for run, err := range f.runs.list(ctx, 0) {
		if err != nil {
			return nil, err
		}
		if !run.State.Final() {
			out = append(out, run.ID)
		}
	}
	return out, nil
}

// Stop ends every run and waits until they have freed what they held.
func (f *Flow) Stop() {
	f.mu.Lock()
	f.stopped = true
	for _, lv := range f.live {
		lv.cancel(ErrStopping)
	}
	f.mu.Unlock()
	f.calls.stop()
	f.wg.Wait()
}

// Recover ends the runs that servers which are gone left unfinished: those whose session is over. A server
// that is only slow keeps its session, and with it its runs, until somebody fences it.
func (f *Flow) Recover(ctx context.Context) error {
	for run, err := range f.runs.list(ctx, 0) {
		if err != nil {
			return err
		}
		if run.State.Final() {
			continue
		}
		if err := f.recoverRun(ctx, run.ID); err != nil {
			return err
		}
	}
	return f.prune(ctx, now())
}

func (f *Flow) recoverRun(ctx context.Context, id string) error {
	row, err := f.rows.Get(ctx, f.runs.runKey(id))
	if err != nil {
		return fmt.Errorf("read run %s: %w", id, err)
	}
	run, err := decodeRun(row)
	if err != nil {
		return err
	}
	executes, err := f.executes(ctx, run)
	if err != nil || executes || run.State.Final() {
		return err
	}
	msg, err := f.settleDead(ctx, run)
	if err != nil {
		return err
	}
	lv := f.newLive(run, nil)
	steps, err := f.runs.steps(ctx, run.ID)
	if err != nil {
		return err
	}
	for _, st := range steps {
		if !st.State.Final() {
			st.State, st.Ended = StepCanceled, run.Ended
		}
		lv.steps[st.Name] = st
	}
	for e, err := range f.runs.events(ctx, run.ID, 0) {
		if err != nil {
			return err
		}
		lv.seq = e.Seq
	}
	lv.emit(Event{Type: "run", State: string(run.State), Message: msg})
	err = lv.saveLocked(ctx, []meta.Condition{meta.At(row.Key, row.Version)})
	if errors.Is(err, meta.ErrConditionFailed) && f.Session.Alive() {
		err = nil // another server has ended it
	}
	return errors.Join(err, lv.journal.end())
}

// executes reports whether a server that lives works on the run: this one, or another one with its rows.
func (f *Flow) executes(ctx context.Context, run *Run) (bool, error) {
	if run.State.Final() {
		return false, nil
	}
	if run.Session == f.Session.Key() || run.Session == "" {
		return run.Session != "", nil
	}
	_, err := f.rows.Get(ctx, run.Session)
	if errors.Is(err, meta.ErrNotFound) {
		return false, nil
	}
	return err == nil, err
}

// settleDead ends a run whose server was killed: as succeeded, if its commit became visible before.
func (f *Flow) settleDead(ctx context.Context, run *Run) (message string, err error) {
	run.Ended = now()
	if run.State == RunPublishing && run.Into != "" {
		commit, err := f.publishedBy(ctx, run)
		if err != nil {
			return "", err
		}
		if !commit.IsZero() {
			run.State, run.Commit, run.Error = RunSucceeded, commit, nil
			return "", nil
		}
	}
	run.State = RunFailed
	run.Error = ErrStopping.Errorf("the server was killed before the run ended; what had finished is kept").WithNext("tarn run")
	return run.Error.Message, nil
}

// publishedBy is the commit that a run made on its target, or zero.
func (f *Flow) publishedBy(ctx context.Context, run *Run) (lake.Hash, error) {
	head, err := f.lake.Branch(ctx, run.Into)
	if errdef.CodeOf(err) == errdef.NotFound {
		return lake.Hash{}, nil
	}
	if err != nil {
		return lake.Hash{}, err
	}
	for c, err := range f.lake.Log(ctx, head.Commit, lake.LogOptions{}) {
		if err != nil {
			return lake.Hash{}, fmt.Errorf("look for the commit of run %s: %w", run.ID, err)
		}
		if c.Run == run.ID {
			return c.ID, nil
		}
		if c.Time.Before(run.Created) {
			break // commits of the run are younger
		}
	}
	return lake.Hash{}, nil
}

func (f *Flow) fence() []meta.Condition { return []meta.Condition{f.Session.Condition()} }

func (f *Flow) liveRun(id string) *live {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.live[id]
}

// Get returns a run as it is now; id may be a unique prefix, or "" for the newest.
func (f *Flow) Get(ctx context.Context, id string) (*Run, error) {
	if id == "" {
		for run, err := range f.runs.list(ctx, 1) {
			if err != nil {
				return nil, err
			}
			return f.Get(ctx, run.ID)
		}
		return nil, ErrRunNotFound.Errorf("there is no run yet").WithNext("tarn run")
	}
	run, err := f.runs.run(ctx, id)
	if err != nil {
		return nil, err
	}
	if lv := f.liveRun(run.ID); lv != nil {
		lv.mu.Lock()
		defer lv.mu.Unlock()
		copied := *lv.run
		copied.Steps = slices.Clone(copied.Steps)
		return &copied, nil
	}
	return run, nil
}

// Steps returns a run's steps as they are now, parents first.
func (f *Flow) Steps(ctx context.Context, id string) ([]*Step, error) {
	run, err := f.Get(ctx, id)
	if err != nil {
		return nil, err
	}
	var out []*Step
	if lv := f.liveRun(run.ID); lv != nil {
		lv.mu.Lock()
		for _, st := range lv.steps {
			copied := *st
			out = append(out, &copied)
		}
		lv.mu.Unlock()
	} else if out, err = f.runs.steps(ctx, run.ID); err != nil {
		return nil, err
	}
	slices.SortStableFunc(out, func(a, b *Step) int {
		return cmp.Compare(slices.Index(run.Steps, a.Name), slices.Index(run.Steps, b.Name))
	})
	return out, nil
}

// Runs yields the newest runs first; limit 0 means all.
func (f *Flow) Runs(ctx context.Context, limit int) iter.Seq2[*Run, error] {
	return f.runs.list(ctx, limit)
}

// ErrElsewhere is returned for what only the server can do that executes a run.
var ErrElsewhere = errdef.New(errdef.FailedPrecondition, "run.elsewhere", "the run executes on another server")

// Cancel ends a run that executes and waits until it has freed everything. A run that ended before is
// left as it is.
func (f *Flow) Cancel(ctx context.Context, id string) (*Run, error) {
	run, err := f.Get(ctx, id)
	if err != nil {
		return nil, err
	}
	lv := f.liveRun(run.ID)
	if lv == nil {
		executes, err := f.executes(ctx, run)
		if err == nil && executes && run.Session != f.Session.Key() {
			err = ErrElsewhere.Errorf("run %s executes on another server", run.ID).WithNext("cancel it on the server that started it")
		}
		return run, err
	}
	lv.cancel(ErrCanceled)
	select {
	case <-lv.done:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	return f.Get(ctx, run.ID)
}

// Events yields what happened in a run after seq, and goes on until the run ends.
func (f *Flow) Events(ctx context.Context, id string, after int64) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		run, err := f.Get(ctx, id)
		if err != nil {
			yield(Event{}, err)
			return
		}
		if lv := f.liveRun(run.ID); lv != nil {
			file, err := lv.journal.open()
			if err != nil {
				yield(Event{}, err)
				return
			}
			if file != nil {
				lv.journal.read(ctx, file, after, true)(yield)
				return
			}
		}
		for e, err := range f.runs.events(ctx, run.ID, after) {
			if !yield(e, err) || err != nil {
				return
			}
		}
	}
}

// PlannedStep is what a run would do with one step.
type PlannedStep struct {
	Name     string   `json:"name"`
	Action   string   `json:"action"` // run, reuse or maybe
	Why      string   `json:"why"`
	Items    int      `json:"items"`
	Reused   int      `json:"reused"`
	Outputs  []string `json:"outputs,omitempty"`
	NotPlain []string `json:"not_plain,omitempty"`
	Seconds  float64  `json:"seconds,omitempty"` // what it took the last time
}

// Plan is what Start would do.
type Plan struct {
	Base  lake.Hash     `json:"base"`
	Steps []PlannedStep `json:"steps"`
}

// Plan tells what a run would do, by the run's own code. A step behind one that runs is a maybe: if its
// parents' results turn out the same, it is reused.
func (f *Flow) Plan(ctx context.Context, r Request) (Plan, error) {
	base, err := f.lake.Resolve(ctx, r.Ref)
	if err != nil {
		return Plan{}, err
	}
	c, err := f.load(ctx, r.Dir)
	if err != nil {
		return Plan{}, err
	}
	p, err := f.ready(ctx, c, base, r.Ref, r.Select, demand{params: r.Params, noCache: r.NoCache, say: unheard})
	if err != nil {
		return Plan{}, err
	}
	took, err := f.took(ctx, p.nodes)
	if err != nil {
		return Plan{}, err
	}
	out := Plan{Base: base.ID}
	runs := map[string]bool{}
	for _, n := range p.nodes {
		st := PlannedStep{Name: n.Name, Outputs: n.Outputs, NotPlain: n.Code.Why}
		for _, parent := range n.Parents {
			if runs[parent.Name] {
				st.Action, st.Why = "maybe", parent.Name+" runs before it"
			}
		}
		if st.Action == "" {
			if err := f.planStep(ctx, p, &st, p.graph.Node(n.Name).Name); err != nil {
				return Plan{}, err
			}
		}
		if t := took[n.Name]; st.Action != "reuse" {
			runs[n.Name] = true
			st.Seconds = t.perItem * float64(max(st.Items-st.Reused, 1))
			if st.Action == "maybe" {
				st.Seconds = t.step
			}
		}
		out.Steps = append(out.Steps, st)
	}
	return out, nil
}

// duration is what a step took the last time that it ran.
type duration struct{ step, perItem float64 }

// took looks the durations of steps up in the newest runs.
func (f *Flow) took(ctx context.Context, nodes []*graph.Node) (map[string]duration, error) {
	const newest = 20
	out := map[string]duration{}
	for run, err := range f.runs.list(ctx, newest) {
		if err != nil {
			return nil, err
		}
		if len(out) == len(nodes) {
			break
		}
		steps, err := f.runs.steps(ctx, run.ID)
		if err != nil {
			return nil, err
		}
		for _, st := range steps {
			if _, known := out[st.Name]; known || st.State != StepSucceeded {
				continue
			}
			seconds := st.Ended.Sub(st.Started).Seconds()
			out[st.Name] = duration{seconds, seconds / float64(max(st.Items-st.Reused, 1))}
		}
	}
	return out, nil
}

func (f *Flow) planStep(ctx context.Context, p *plan, st *PlannedStep, name string) error {
	wk, err := f.prepare(ctx, p.world, p.code, p.graph.Node(name), p.envs[name], p.demand)
	if err != nil {
		return err
	}
	st.Why, st.Items, st.Reused, st.Action = wk.why, len(wk.items), wk.reused(), "reuse"
	if st.Reused < st.Items {
		st.Action = "run"
		return nil
	}
	// A reused result that this ref does not have yet is put together without running anything.
	for i := range wk.items {
		if frag := wk.items[i].fragment; frag != nil {
			for _, t := range frag.Tables {
				v := &value{name: t.Name, key: tableKey(t.Name), version: t.Sum.String(), schema: t.Schema, rows: t.Sum.Rows}
				if len(wk.items) == 1 {
					p.world.put(v)
				}
			}
		}
	}
	return nil
}

// Rerun repeats a run: the recorded code, locks and parameters on the recorded data, without the memo.
// It publishes nothing and compares.
func (f *Flow) Rerun(ctx context.Context, id, requestID, author string) (*Run, bool, error) {
	old, err := f.Get(ctx, id)
	if err != nil {
		return nil, false, err
	}
	if old.Snapshot.IsZero() {
		return nil, false, errdef.Newf(errdef.FailedPrecondition, "run.no_snapshot", "run %s recorded no code: it %s before anything ran", old.ID, old.State)
	}
	return f.begin(ctx, &Run{
		Dir: old.Dir, Select: old.Select, Params: old.Params, Ref: old.Base.String(), NoCache: true, Author: author,
		Base: old.Base, Snapshot: old.Snapshot, RerunOf: old.ID, RequestID: requestID,
	})
}

// Resume starts the failed run id again on today's code: the memo makes it go on where it stopped.
func (f *Flow) Resume(ctx context.Context, id, dir, requestID, author string) (*Run, bool, error) {
	old, err := f.Get(ctx, id)
	if err != nil {
		return nil, false, err
	}
	if !old.State.Final() {
		return nil, false, errdef.Newf(errdef.FailedPrecondition, "run.active", "run %s has not ended: it is %s", old.ID, old.State).WithNext("tarn logs -f " + old.ID)
	}
	if old.State == RunSucceeded {
		return nil, false, errdef.Newf(errdef.FailedPrecondition, "run.not_failed", "run %s succeeded: there is nothing to go on with", old.ID).WithNext("tarn rerun "+old.ID, "tarn run")
	}
	if dir == "" {
		dir = old.Dir
	}
	return f.Start(ctx, Request{
		Dir: dir, Select: old.Select, Params: old.Params, Ref: old.Ref, Into: old.Into, Author: author, RequestID: requestID,
	})
}

// Check asks every check of the given tables (all, when none is named) as a ref is now.
func (f *Flow) Check(ctx context.Context, ref string, tables []string) ([]CheckResult, error) {
	commit, err := f.lake.Resolve(ctx, ref)
	if err != nil {
		return nil, err
	}
	w := f.worldAt(commit)
	rules, err := f.rulesAt(ctx, w.tree)
	if err != nil {
		return nil, err
	}
	keys := map[string]bool{}
	for _, t := range tables {
		v, err := w.table(ctx, t, "")
		if err != nil {
			return nil, err
		}
		if v == nil {
			return nil, f.unknownTable(ctx, w, t, ref)
		}
		keys[tableKey(t)] = true
	}
	js, _, err := f.judge(ctx, ids.Run(0), w, rules, func(key string) bool { return len(keys) == 0 || keys[key] }, true)
	if err != nil {
		return nil, err
	}
	var out []CheckResult
	for _, j := range js {
		if len(keys) == 0 || keys[tableKey(j.table)] {
			out = append(out, j.result())
		}
	}
	return out, nil
}

// ErrNoTable is a table that a ref does not have.
var ErrNoTable = errdef.New(errdef.NotFound, "table.not_found", "no such table")

func (f *Flow) unknownTable(ctx context.Context, w *world, name, ref string) error {
	names, err := tableNames(ctx, w.tree)
	if err != nil {
		return err
	}
	return NoTable(name, ref, names)
}

// String names a run for logs.
func (r *Run) String() string { return fmt.Sprintf("run %s (%s)", r.ID, r.State) }
