package flow

import (
	"context"
	"errors"
	"slices"
	"sync"

	"tarn.dev/tarn/internal/flow/graph"
	"tarn.dev/tarn/internal/flow/manifest"
	"tarn.dev/tarn/internal/lake"
)

// task is a part of a run that waits for others: a step, or a declared check of what a step made. What it
// came to is set before end is closed. Steps that read its tables wait for readable only, which may be earlier: while the
// tables are written.
type task struct {
	node     *graph.Node // of a step
	rule     *rule       // of a declared check
	isNew    bool        // the base does not declare this check
	after    []*task
	end      chan struct{}
	readable chan struct{}
	release  func() // closes readable

	result *assembled // of a step, nil if it gave none
	judged *judgement // of a check that has an answer
	err    error      // of a declared check that could not be asked
	bars   string     // why what comes after is skipped, "" if it is not
}

func newTask(t task) *task {
	t.end, t.readable = make(chan struct{}), make(chan struct{})
	t.release = sync.OnceFunc(func() { close(t.readable) })
	return &t
}

// waits adds everything that t waits for to seen.
func (t *task) waits(seen map[*task]bool) map[*task]bool {
	for _, dep := range t.after {
		if !seen[dep] {
			seen[dep] = true
			dep.waits(seen)
		}
	}
	return seen
}

// tasksOf are the steps of a plan, and the declared checks of what they make. A step waits for the blocking
// checks of what it reads, except for those that judge by what it makes itself. A run that publishes nothing
// is stopped by no check.
func (lv *live) tasksOf(ctx context.Context, p *plan) ([]*task, error) {
	var tasks []*task
	steps, makers := map[*graph.Node]*task{}, map[string]*task{}
	for _, n := range p.nodes {
		t := newTask(task{node: n})
		tasks, steps[n] = append(tasks, t), t
		for _, out := range n.Outputs {
			makers[tableKey(out)] = t
		}
	}
	for _, t := range tasks {
		for _, parent := range t.node.Parents {
			if dep := steps[parent]; dep != nil {
				t.after = append(t.after, dep)
			}
		}
	}
	if lv.run.Into == "" {
		return tasks, nil
	}
	checks := map[*task][]*task{} // step -> the blocking checks of what it makes
	for n, t := range steps {
		for _, c := range p.graph.ChecksOf(n) {
			if steps[c] != nil && c.Severity == manifest.Fail {
				checks[t] = append(checks[t], steps[c])
			}
		}
	}
	declared, err := lv.declaredOf(ctx, p, makers)
	if err != nil {
		return nil, err
	}
	for _, c := range declared {
		if maker := makers[tableKey(c.rule.table)]; c.rule.severity == manifest.Fail {
			checks[maker] = append(checks[maker], c)
		}
	}
	for _, t := range tasks {
		if t.node.Kind == manifest.Check {
			continue
		}
		for _, parent := range slices.Clone(t.after) {
			for _, c := range checks[parent] {
				if !c.waits(map[*task]bool{})[t] { // nothing waits in a circle
					t.after = append(t.after, c)
				}
			}
		}
	}
	return append(tasks, declared...), nil
}

// declaredOf are the declared checks of what a plan makes. Each waits for everything it reads.
func (lv *live) declaredOf(ctx context.Context, p *plan, makers map[string]*task) ([]*task, error) {
	var defs []Definition
	for _, n := range p.nodes {
		if n.Kind == manifest.Asset {
			defs = append(defs, Definition{Function: *n.Function})
		}
	}
	rules := announced(defs, rulesOf(p.code.config))
	rules = slices.DeleteFunc(rules, func(r rule) bool { return makers[tableKey(r.table)] == nil })
	if len(rules) == 0 {
		return nil, nil
	}
	if err := lv.f.parseRules(ctx, rules); err != nil {
		return nil, err
	}
	isNew, err := lv.f.newRules(ctx, p.world.tree)
	if err != nil {
		return nil, err
	}
	var tasks []*task
	for _, r := range rules {
		t := newTask(task{rule: &r, isNew: isNew(r)})
		for _, name := range r.reads() {
			if maker := makers[tableKey(name)]; maker != nil {
				t.after = append(t.after, maker)
			}
		}
		tasks = append(tasks, t)
	}
	return tasks, nil
}

// runTasks runs each task when what it waits for has ended; independent ones go on when another fails.
func (lv *live) runTasks(ctx context.Context, p *plan, tasks []*task, b *lake.Batch) {
	var wg sync.WaitGroup
	for _, t := range tasks {
		wg.Go(func() {
			defer t.release()
			defer close(t.end)
			if t.rule != nil {
				for _, dep := range t.after {
					<-dep.end
				}
				lv.judge(ctx, p, t)
				return
			}
			for _, dep := range t.after {
				<-dep.readable
			}
			lv.step(ctx, p, t, b)
			lv.bar(t)
		})
	}
	wg.Wait()
}

// bar says why what comes after a step is skipped, if it is.
func (lv *live) bar(t *task) {
	lv.mu.Lock()
	state := lv.steps[t.node.Name].State
	lv.mu.Unlock()
	switch {
	case state != StepSucceeded && state != StepCached:
		t.bars = t.node.Name + " gave no result"
	case t.judged != nil:
		t.bars = t.judged.bars()
	}
}

// bars says why nothing goes on from what was judged, if nothing does.
func (j judgement) bars() string {
	if j.fragment.Check.Passed || j.severity != manifest.Fail {
		return ""
	}
	return j.text + " failed on " + j.table
}

// barred is why a task is skipped, "" if it is not.
func (t *task) barred() string {
	for _, dep := range t.after {
		select {
		case <-dep.end:
			if dep.bars != "" {
				return dep.bars
			}
		default: // its tables are being written
		}
	}
	return ""
}

// judge asks a declared check of what the run has made, unless nothing that it judges by has changed. The
// gate finds the answer when the same becomes visible.
func (lv *live) judge(ctx context.Context, p *plan, t *task) {
	t.bars = t.rule.text + " could not be asked of " + t.rule.table
	if t.barred() != "" || ctx.Err() != nil {
		return
	}
	changed, err := p.world.changed(ctx, t.rule.reads())
	if err != nil {
		t.err = err
		return
	}
	done, err := lv.f.stepTurn(ctx, &manifest.Function{Name: "a check of " + t.rule.table}, func(string) {})
	if err != nil { // the run has ended
		return
	}
	defer done()
	js, _, err := lv.f.judge(ctx, lv.run.ID, p.world, []rule{*t.rule}, func(key string) bool { return t.isNew || changed[key] }, true)
	if err != nil {
		t.err = err
		return
	}
	t.bars = ""
	if len(js) > 0 {
		t.judged, t.bars = &js[0], js[0].bars()
	}
}

// judgedStep is the answer that a check's own step gave.
func (lv *live) judgedStep(ctx context.Context, p *plan, wk *work) (*judgement, error) {
	n := wk.node
	asset := p.code.manifest.Judged(n.Function)
	if asset == nil || len(wk.items) == 0 || wk.items[0].fragment == nil {
		return nil, nil
	}
	table, _ := n.Judges(asset)
	v, err := p.world.table(ctx, table, "")
	if err != nil {
		return nil, err
	}
	if v == nil { // it judges files
		v = &value{}
	}
	r := rule{table: table, severity: n.Severity, text: n.Name, function: &Definition{Function: *n.Function}}
	return &judgement{question: &question{rule: r, values: map[string]*value{table: v}}, fragment: wk.items[0].fragment}, nil
}

// stopped is the error of a run whose checks say no before anything is published, or cannot be asked. The
// offenders are kept as those of the gate are.
func (lv *live) stopped(ctx context.Context, tasks []*task) error {
	if lv.run.Into == "" {
		return nil
	}
	var js []judgement
	var errs []error
	for _, t := range tasks {
		if t.judged != nil {
			js = append(js, *t.judged)
		}
		errs = append(errs, t.err)
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	failed := blocking(js)
	if len(failed) == 0 {
		return nil
	}
	slices.SortFunc(js, byTable)
	nameKept(js)
	lv.mu.Lock()
	lv.run.Checks = resultsOf(js)
	lv.mu.Unlock()
	lv.emitChecks(resultsOf(js))
	return errors.Join(checkFailure(lv.run.Into, lv.run.ID, blocking(js)), lv.f.keepOffenders(ctx, lv.run.ID, lv.run.Base.String(), js))
}
