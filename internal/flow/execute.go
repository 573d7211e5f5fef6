package flow

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/base/fault"
	"tarn.dev/tarn/internal/flow/graph"
	"tarn.dev/tarn/internal/flow/manifest"
	"tarn.dev/tarn/internal/lake"
	"tarn.dev/tarn/internal/meta"
)

var (
	// ErrCanceled ends a run that somebody canceled.
	ErrCanceled = errdef.New(errdef.Canceled, "run.canceled", "the run was canceled")
	// ErrStopping ends the runs of a server that stops.
	ErrStopping  = errdef.New(errdef.Unavailable, "run.interrupted", "the server stopped before the run ended")
	errContended = errdef.New(errdef.Conflict, "run.contended", "the branch kept moving")
)

// plan is a run made ready: what it executes, on what.
type plan struct {
	code   *code
	world  *world
	graph  *graph.Graph
	nodes  []*graph.Node          // selected assets and their checks, parents first
	envs   map[string]environment // of the Python functions
	demand demand
}

// ready loads the code and checks every name, before anything runs.
func (f *Flow) ready(ctx context.Context, c *code, base lake.Commit, ref string, sel []string, d demand) (*plan, error) {
	p := &plan{code: c, world: f.worldAt(base), demand: d}
	ex := &existing{ctx: ctx, w: p.world, ref: ref}
	var err error
	if p.graph, err = graph.Build(c.manifest, ex); err != nil {
		return nil, errors.Join(ex.err, err)
	}
	if ex.err != nil {
		return nil, ex.err
	}
	if len(p.graph.Nodes()) == 0 {
		err := errdef.Newf(errdef.FailedPrecondition, "run.nothing", "no assets in %s. Write a function with @tarn.asset in a .py file, or a SELECT in a .sql file", c.dir)
		return nil, err.WithNext(cmp.Or(meantCall(c.manifest, sel), "tarn init"))
	}
	assets, err := p.graph.Select(sel, func(n *graph.Node) (bool, error) { return f.changed(ctx, p, n) })
	if meant := meantCall(c.manifest, sel); errors.Is(err, graph.ErrUnknownSelection) && meant != "" {
		return nil, errdef.As(err).WithNext(meant)
	}
	if err != nil {
		return nil, err
	}
	for _, n := range assets {
		p.nodes = append(p.nodes, n)
		p.nodes = append(p.nodes, p.graph.ChecksOf(n)...)
	}
	if err := checkParams(d.params, p.nodes); err != nil {
		return nil, err
	}
	for _, n := range p.nodes {
		if err := f.checkDeclared(n); err != nil {
			return nil, err
		}
	}
	if err := f.checkSecrets(ctx, c, p.nodes); err != nil {
		return nil, err
	}
	p.envs, err = f.environmentsOf(ctx, c, p.nodes, d.say)
	return p, err
}

// changed reports whether an asset's code differs from what the base has under def/.
func (f *Flow) changed(ctx context.Context, p *plan, n *graph.Node) (bool, error) {
	have, err := f.Definition(ctx, p.world.tree, n.Name)
	if err != nil || have == nil {
		return true, err
	}
	a, errA := jsonHash(have.Function.Code)
	b, errB := jsonHash(n.Code)
	return a != b, errors.Join(errA, errB)
}

// execute walks a run from planning to its end.
func (lv *live) execute(ctx context.Context) {
	f := lv.f
	defer f.wg.Done()
	err := lv.walk(ctx)
	// What follows must happen also when the run was canceled.
	ctx = context.WithoutCancel(ctx)
	if err != nil && lv.run.State == RunPublishing && lv.run.Into != "" {
		// A cancel may arrive while the commit becomes visible. The branch is the truth.
		if commit, perr := f.publishedBy(ctx, lv.run); perr == nil && !commit.IsZero() {
			lv.run.Commit, err = commit, nil
		}
	}
	lv.mu.Lock()
	state := RunSucceeded
	if err != nil {
		state = RunFailed
		lv.run.Error = errdef.As(err)
		if errors.Is(err, ErrCanceled) || errdef.CodeOf(err) == errdef.Canceled {
			state, lv.run.Error = RunCanceled, ErrCanceled
		}
	}
	lv.mu.Unlock()
	err = lv.finish(ctx, state)
	// On a full disk what failed is being removed: a moment later there is room for one row.
	for wait := 50 * time.Millisecond; errdef.CodeOf(err) == errdef.ResourceExhausted && wait < 4*time.Second; wait *= 2 {
		time.Sleep(wait)
		lv.mu.Lock()
		err = lv.saveLocked(ctx, nil)
		lv.mu.Unlock()
	}
	if err != nil {
		f.Log.Error("finish run", "run", lv.run.ID, "err", err)
	}
	f.mu.Lock()
	delete(f.live, lv.run.ID)
	f.mu.Unlock()
	if err := lv.journal.end(); err != nil {
		f.Log.Warn("remove journal", "run", lv.run.ID, "err", err)
	}
	close(lv.done)
}

func (lv *live) walk(ctx context.Context) error {
	f, run := lv.f, lv.run
	if err := lv.move(ctx, RunPlanning); err != nil {
		return err
	}
	var c *code
	var err error
	if run.RerunOf != "" {
		c, err = f.loadRecorded(ctx, run.Snapshot)
	} else {
		c, err = f.load(ctx, run.Dir)
	}
	if err != nil {
		return err
	}
	snap, err := c.record(ctx)
	if err != nil {
		return err
	}
	lv.mu.Lock()
	run.Snapshot = snap
	lv.mu.Unlock()
	base, err := f.lake.Commit(ctx, run.Base)
	if err != nil {
		return err
	}
	d := demand{run: run.ID, params: run.Params, noCache: run.NoCache, apart: run.RerunOf != "", say: func(msg string) { lv.emit(Event{Type: "progress", Message: msg}) }}
	const most = 8
	for range most {
		p, err := f.ready(ctx, c, base, run.Ref, run.Select, d)
		if err != nil {
			return err
		}
		if err := lv.move(ctx, RunRunning); err != nil {
			return err
		}
		b := f.lake.Begin(ctx)
		err = lv.round(ctx, p, b)
		b.Discard()
		var again *replanError
		if !errors.As(err, &again) {
			return err
		}
		base = again.head
		lv.mu.Lock()
		run.Replans++
		run.Base = base.ID
		lv.mu.Unlock()
		lv.emit(Event{Type: "run", State: "replan", Message: again.why})
		d.noCache = false // what this run computed counts
	}
	return errContended.Errorf("%s changed under the run %d times", run.Into, most).WithNext("tarn run")
}

// replanError sends a run back to running, on the head that it lost against.
type replanError struct {
	head lake.Commit
	why  string
}

func (e *replanError) Error() string { return e.why }

// round executes every step once on one base, and publishes.
func (lv *live) round(ctx context.Context, p *plan, b *lake.Batch) error {
	if err := lv.f.precheck(ctx, p); err != nil {
		return err
	}
	tasks, err := lv.tasksOf(ctx, p)
	if err != nil {
		return err
	}
	results, err := lv.runSteps(ctx, p, tasks, b)
	if err != nil {
		return err
	}
	if err := b.Flush(ctx); err != nil { // slots: durable before an entry names them
		return err
	}
	lv.mu.Lock()
	lv.run.Outputs = nil
	for _, n := range p.nodes {
		if r := results[n.Name]; r != nil {
			lv.run.Outputs = append(lv.run.Outputs, r.outputs...)
		}
	}
	failed := lv.failedLocked(p)
	lv.mu.Unlock()
	if failed = errors.Join(failed, lv.stopped(ctx, tasks)); failed != nil {
		return errors.Join(failed, lv.keepPartial(ctx, p, results))
	}
	if lv.run.RerunOf != "" {
		return lv.compare(ctx, p, results)
	}
	return lv.publish(ctx, p, results)
}

// failedLocked is the error of the first failed step, with what to do about it.
func (lv *live) failedLocked(p *plan) error {
	var failed []*graph.Node
	var names []string
	for _, n := range p.nodes {
		if st := lv.steps[n.Name]; st != nil && st.State == StepFailed {
			failed, names = append(failed, n), append(names, n.Name)
		}
	}
	if len(failed) == 0 {
		return nil
	}
	first := lv.steps[names[0]]
	e := first.Error.WithDetail("step", first.Name).WithDetail("steps", names)
	if failed[0].Language == manifest.Python {
		e = e.WithNext("tarn debug " + first.Label())
	}
	return e.WithNext("tarn logs " + first.Label())
}

// runSteps runs the tasks of a round and returns what the assets became.
func (lv *live) runSteps(ctx context.Context, p *plan, tasks []*task, b *lake.Batch) (map[string]*assembled, error) {
	lv.mu.Lock()
	lv.run.Steps = nil
	for _, n := range p.nodes {
		lv.run.Steps = append(lv.run.Steps, n.Name)
		if st := lv.steps[n.Name]; st == nil {
			lv.steps[n.Name] = &Step{Run: lv.run.ID, Name: n.Name, State: StepWaiting}
		} else if err := st.transition(StepWaiting, now()); err != nil {
			lv.mu.Unlock()
			return nil, err
		} else { // nothing of the round before counts twice
			lv.steps[n.Name] = &Step{Run: st.Run, Name: st.Name, State: st.State}
		}
	}
	lv.mu.Unlock()
	lv.runTasks(ctx, p, tasks, b)
	results := map[string]*assembled{}
	for _, t := range tasks {
		if t.result != nil {
			results[t.node.Name] = t.result
		}
	}
	return results, context.Cause(ctx)
}

// step runs one step to its end.
func (lv *live) step(ctx context.Context, p *plan, t *task, b *lake.Batch) {
	n := t.node
	if ctx.Err() != nil {
		lv.endStep(n.Name, StepCanceled, nil, nil)
		return
	}
	if why := t.barred(); why != "" {
		lv.endStep(n.Name, StepSkipped, nil, func(st *Step) { st.Why = why })
		return
	}
	lv.setStep(n.Name, StepQueued, nil)
	wk, err := lv.f.prepare(ctx, p.world, p.code, n, p.envs[n.Name], p.demand)
	switch {
	case err != nil && ctx.Err() != nil: // not its fault
		lv.endStep(n.Name, StepCanceled, nil, nil)
		return
	case err != nil:
		lv.endStep(n.Name, StepFailed, err, nil)
		return
	}
	for {
		err := lv.fold(ctx, p, t, wk, b)
		if errors.Is(err, errGone) { // a result that only its slot remembered: make it again
			for i := range wk.items {
				if inv := &wk.items[i]; inv.reused && inv.fragment == nil {
					if frag, err := lv.f.memo.Lookup(ctx, inv.key); err == nil && frag == nil {
						inv.reused = false
					}
				}
			}
			continue
		}
		lv.close(ctx, n, wk, err)
		return
	}
}

// fold runs what is missing, and assembles the asset or takes the check's answer.
func (lv *live) fold(ctx context.Context, p *plan, t *task, wk *work, b *lake.Batch) (err error) {
	if missing := wk.missing(); len(missing) > 0 {
		lv.startStep(t.node.Name, wk)
		if err := lv.runItems(ctx, p, wk, missing); err != nil {
			return err
		}
	}
	if t.node.Kind == manifest.Check {
		t.judged, err = lv.judgedStep(ctx, p, wk)
		return err
	}
	t.result, err = lv.f.assembleInto(ctx, p.world, wk, b, t.release)
	return err
}

// startStep moves a step to running, unless a retry of the fold did so before.
func (lv *live) startStep(name string, wk *work) {
	lv.mu.Lock()
	running := lv.steps[name].State == StepRunning
	lv.mu.Unlock()
	if !running {
		lv.setStep(name, StepRunning, func(st *Step) {
			st.Why, st.Items, st.Reused = wk.why, len(wk.items), wk.reused()
			for _, v := range wk.tables {
				st.RowsIn += v.rows
			}
		})
	}
}

// close ends a step by what its items came to.
func (lv *live) close(ctx context.Context, n *graph.Node, wk *work, err error) {
	lv.mu.Lock()
	ran := lv.steps[n.Name].State == StepRunning
	lv.mu.Unlock()
	state := StepCached
	switch {
	case err != nil && ctx.Err() != nil:
		state = StepCanceled
		if !ran {
			err = nil
		}
	case err != nil:
		state = StepFailed
	case ran:
		state = StepSucceeded
	}
	lv.endStep(n.Name, state, err, func(st *Step) {
		st.Why, st.Items = wk.why, len(wk.items)
		if state == StepCached {
			st.Reused = len(wk.items)
		}
		const most = 8
		for i, inv := range wk.items {
			if i < most {
				st.Keys = append(st.Keys, inv.key)
			}
			if f := inv.fragment; f != nil {
				st.Rows += f.Rows()
				st.Usage.CPUSeconds += f.Usage.CPUSeconds
				st.Usage.PeakBytes = max(st.Usage.PeakBytes, f.Usage.PeakBytes)
			}
		}
	})
}

func (lv *live) setStep(name string, to StepState, set func(*Step)) {
	lv.mu.Lock()
	defer lv.mu.Unlock()
	st := lv.steps[name]
	if err := st.transition(to, now()); err != nil {
		lv.f.Log.Error("step", "err", err)
		return
	}
	if set != nil {
		set(st)
	}
	if to == StepQueued {
		return // of no interest to anybody
	}
	msg := st.Why
	switch {
	case st.Error != nil:
		msg = st.Error.Message
	case to == StepSucceeded:
		msg = st.done()
	}
	lv.emitLocked(Event{Type: "step", Step: name, State: string(to), Message: msg, Done: st.Reused, Total: st.Items})
}

func (lv *live) endStep(name string, to StepState, err error, set func(*Step)) {
	lv.setStep(name, to, func(st *Step) {
		if err != nil {
			st.Error = errdef.As(err)
		}
		if set != nil {
			set(st)
		}
	})
}

// runItems runs items in chunks, as many at a time as there are cores, and tries failed ones again as
// the function's retry policy says.
func (lv *live) runItems(ctx context.Context, p *plan, wk *work, missing []*invocation) error {
	fn := wk.node.Function
	retry := manifest.Retry{}
	if fn.Options.Retry != nil {
		retry = *fn.Options.Retry
	}
	for try := 1; ; try++ {
		lv.mu.Lock()
		lv.steps[fn.Name].Attempt = try
		lv.mu.Unlock()
		failed, err := lv.tryItems(ctx, p, wk, missing, try)
		if err != nil {
			return err
		}
		if len(failed) == 0 {
			return nil
		}
		if cause := context.Cause(ctx); cause != nil {
			return cause
		}
		missing = missing[:0]
		for _, o := range failed {
			if try <= retry.Times && retryable(retry, o) {
				missing = append(missing, o.inv)
			}
		}
		if len(missing) == 0 {
			return lv.giveUp(wk, failed)
		}
		delay := backoff(retry, lv.run.ID+"/"+fn.Name, try)
		lv.emit(Event{Type: "step", Step: fn.Name, State: "retry", Message: fmt.Sprintf("attempt %d failed, again in %s: %s", try, delay, failed[0].err)})
		select {
		case <-time.After(delay):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// giveUp fails the step, unless it allows that many failed items: those are left out.
func (lv *live) giveUp(wk *work, failed []outcome) error {
	fn := wk.node.Function
	slices.SortFunc(failed, func(a, b outcome) int { return strings.Compare(a.inv.id, b.inv.id) })
	lv.mu.Lock()
	lv.steps[fn.Name].Failed = len(failed)
	lv.steps[fn.Name].FailedAt = failed[0].inv.id
	lv.mu.Unlock()
	if len(wk.items) > 1 { // the step's error tells of one
		for _, o := range failed {
			lv.emit(Event{Type: "log", Step: fn.Name, Stream: "stderr", Item: o.inv.id, Message: fmt.Sprintf("item %s failed: %s", o.inv.id, clip(o.err.Error()))})
		}
	}
	allowed := fn.Options.AllowFailed
	if allowed < 1 { // a share; else a number
		allowed *= float64(len(wk.items))
	}
	if float64(len(failed)) <= allowed {
		left := map[string]bool{} // by id: the outcomes point into the slice that shrinks
		for _, o := range failed {
			left[o.inv.id] = true
		}
		wk.items = slices.DeleteFunc(wk.items, func(inv invocation) bool { return left[inv.id] })
		return nil
	}
	err := failed[0].err
	if id := failed[0].inv.id; id != "" && !strings.Contains(err.Error(), id) {
		err = fmt.Errorf("item %s (%d of %d failed): %w", id, len(failed), len(wk.items), err)
	}
	return err
}

// chunk is how many items share one interpreter at most.
const chunk = 64

// tryItems makes one attempt at each item and returns the failed ones.
func (lv *live) tryItems(ctx context.Context, p *plan, wk *work, items []*invocation, try int) ([]outcome, error) {
	workers := lv.f.Host.cores
	if c := wk.node.Options.Concurrency; c > 0 {
		workers = min(workers, c)
	}
	size := min(chunk, (len(items)+workers-1)/workers)
	var mu sync.Mutex
	var failed []outcome
	var wg sync.WaitGroup
	turn := make(chan struct{}, workers)
	done := 0
	progress := func(n int) { // with mu held
		if done += n; n > 0 && len(items) > 1 {
			lv.emit(Event{Type: "progress", Step: wk.node.Name, Done: done, Total: len(items)})
		}
	}
	for part := range slices.Chunk(items, max(size, 1)) {
		wg.Add(1)
		go func() {
			defer wg.Done()
			turn <- struct{}{}
			defer func() { <-turn }()
			shown := 0
			out := lv.tryChunk(ctx, p, wk, part, try, func() {
				mu.Lock()
				defer mu.Unlock()
				shown++
				progress(1)
			})
			mu.Lock()
			defer mu.Unlock()
			for _, o := range out {
				if o.err != nil {
					failed = append(failed, o)
					continue
				}
				o.inv.fragment, o.inv.reused = o.fragment, true
				lv.reported(wk.node.Name, o.inv.id, o.reported)
			}
			progress(len(part) - shown)
		}()
	}
	wg.Wait()
	return failed, context.Cause(ctx)
}

// tryChunk makes one attempt at some items, unless another run is making the same: then it takes that
// run's results. ended is called for each item that ends before the chunk does.
func (lv *live) tryChunk(ctx context.Context, p *plan, wk *work, part []*invocation, try int, ended func()) []outcome {
	f := lv.f
	var mine []*invocation
	var out []outcome
	part = slices.SortedFunc(slices.Values(part), func(a, b *invocation) int { return strings.Compare(string(a.key), string(b.key)) })
	for _, inv := range part {
		for {
			ok, err := f.flights.take(ctx, inv.key)
			if err != nil {
				out = append(out, outcome{inv: inv, err: err})
				break
			}
			if ok {
				defer f.flights.done(inv.key)
				mine = append(mine, inv)
				break
			}
			if frag, err := f.memo.Lookup(ctx, inv.key); err == nil && frag != nil && !p.demand.noCache {
				out = append(out, outcome{inv: inv, fragment: frag})
				break
			}
		}
	}
	if len(mine) == 0 {
		return out
	}
	done, err := f.stepTurn(ctx, wk.node.Function, func(message string) {
		lv.emit(Event{Type: "log", Step: wk.node.Name, Stream: "stderr", Message: message})
	})
	if err != nil {
		return append(out, failAll(mine, err)...)
	}
	defer done()
	a := &attempt{
		f: f, code: p.code, work: wk, run: lv.run.ID, n: try, level: string(f.Runtime.Level()), asked: p.demand, ended: ended,
		emit: func(e Event) { e.Step = wk.node.Name; lv.emit(e) },
	}
	return append(out, a.invoke(ctx, mine)...)
}

// logWriter is for one stream of a command. end is called when nothing more comes.
func (a *attempt) logWriter(stream string) (w io.Writer, end func()) {
	l := &lines{emit: func(line string) { a.emit(Event{Type: "log", Stream: stream, Message: line}) }}
	hidden := a.given.Writer(l)
	return hidden, func() {
		hidden.End() //nolint:errcheck // lines takes everything
		l.flush()
	}
}

// move takes the run to its next state and makes that durable.
func (lv *live) move(ctx context.Context, to RunState) error {
	lv.mu.Lock()
	defer lv.mu.Unlock()
	if lv.run.State == to {
		return nil
	}
	if err := lv.run.transition(to, now()); err != nil {
		return err
	}
	lv.emitLocked(Event{Type: "run", State: string(to)})
	if to == RunPlanning || to == RunRunning && lv.run.Replans == 0 {
		return nil // nothing to remember yet: a crash here is a run that did nothing
	}
	return lv.saveLocked(ctx, nil)
}

// rowsLocked are the run's rows as they should be.
func (lv *live) rowsLocked() ([]meta.Write, error) {
	b, err := json.Marshal(lv.run)
	if err != nil {
		return nil, fmt.Errorf("encode run: %w", err)
	}
	writes := append([]meta.Write{meta.Set(lv.f.runs.runKey(lv.run.ID), b)}, lv.unsent...)
	for name, st := range lv.steps {
		b, err := json.Marshal(st)
		if err != nil {
			return nil, fmt.Errorf("encode step: %w", err)
		}
		writes = append(writes, meta.Set(lv.f.runs.stepKey(lv.run.ID, name), b))
	}
	return writes, nil
}

func (lv *live) saveLocked(ctx context.Context, conds []meta.Condition) error {
	writes, err := lv.rowsLocked()
	if err != nil {
		return err
	}
	if _, err := lv.f.rows.Txn(ctx, append(conds, lv.f.fence()...), writes); err != nil {
		return fmt.Errorf("save run %s: %w", lv.run.ID, err)
	}
	lv.unsent = nil
	return nil
}

// finish seals the logs and writes the run's last state.
func (lv *live) finish(ctx context.Context, state RunState) error {
	b := lv.f.lake.Begin(ctx)
	defer b.Discard()
	lv.mu.Lock()
	steps := slices.Collect(maps.Keys(lv.steps))
	lv.mu.Unlock()
	var errs []error
	sealed := map[string]*lake.FileRef{}
	steps = slices.DeleteFunc(steps, func(name string) bool { return !lv.journal.hasOutput(name) })
	for _, name := range steps {
		ref, err := lv.sealLog(ctx, b, name)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		sealed[name] = ref
	}
	if len(sealed) > 0 {
		if err := b.Flush(ctx); err != nil {
			errs = append(errs, fmt.Errorf("store logs: %w", err))
			clear(sealed) // a row names only what is durable
		}
	}
	lv.mu.Lock()
	defer lv.mu.Unlock()
	for name, ref := range sealed {
		lv.steps[name].Log = ref
	}
	for _, st := range lv.steps {
		if !st.State.Final() {
			st.State, st.Ended = StepCanceled, now()
		}
	}
	if lv.run.State != state {
		if err := lv.run.transition(state, now()); err != nil {
			return err
		}
	}
	msg := ""
	if lv.run.Error != nil {
		msg = lv.run.Error.Message
	}
	lv.emitLocked(Event{Type: "run", State: string(state), Message: msg})
	if err := fault.Point("run.finish.before_save"); err != nil {
		return err
	}
	return errors.Join(append(errs, lv.saveLocked(ctx, nil))...)
}
