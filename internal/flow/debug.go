package flow

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/flow/manifest"
	"tarn.dev/tarn/internal/lake"
	"tarn.dev/tarn/internal/runtime"
)

// DebugRequest asks for a step's recorded inputs beside today's code.
type DebugRequest struct {
	Dir  string // the project folder
	Run  string
	Step string
	Item string // "": the one that failed, else the first
	Save string // folder to lay it out in; "" makes one, which the caller removes
}

// Debugging is a command to run in the caller's own terminal.
type Debugging struct {
	Dir  string
	Argv []string
	Env  map[string]string
	// Secrets are the variables with secrets. A folder that is kept gets their names alone.
	Secrets map[string]string
	Item    string
}

var errNoDebug = errdef.New(errdef.FailedPrecondition, "debug.not_possible", "this step cannot be debugged")

// Debug lays out what a step got in a run, with the project's code as it is now, and says how to run it
// under pdb. Nothing it does is remembered or published.
func (f *Flow) Debug(ctx context.Context, r DebugRequest) (*Debugging, error) {
	run, err := f.Get(ctx, r.Run)
	if err != nil {
		return nil, err
	}
	st, err := f.runs.step(ctx, run.ID, r.Step)
	if err != nil {
		return nil, err
	}
	c, err := f.load(ctx, r.Dir)
	if err != nil {
		return nil, err
	}
	got, whole, err := f.recordedInputs(ctx, run)
	if err != nil {
		return nil, err
	}
	asset := r.Step
	if fn := c.manifest.Function(r.Step); fn != nil { // a check comes along with what it judges
		if a := c.manifest.Judged(fn); a != nil {
			asset = a.Name
		}
	}
	p, err := f.ready(ctx, c, got, run.Ref, []string{"+" + asset}, demand{run: run.ID, say: unheard})
	if err != nil {
		return nil, err
	}
	n := p.graph.Node(r.Step)
	if n == nil || n.Language != manifest.Python {
		return nil, errNoDebug.Errorf("%s is no Python function in %s now", r.Step, r.Dir)
	}
	p.demand.params = run.Params
	if !whole {
		if err := f.replay(ctx, p, r.Step); err != nil {
			return nil, err
		}
	}
	wk, err := f.prepare(ctx, p.world, c, n, p.envs[n.Name], p.demand)
	if err != nil {
		return nil, err
	}
	inv, err := pick(wk, r.Item, st.FailedAt)
	if err != nil {
		return nil, err
	}
	return f.layOutDebug(ctx, run, c, wk, inv, r.Save)
}

// recordedInputs is the commit with what a run's steps read: what it published, or kept on its branch, or
// found. A run that was interrupted kept nothing; whole tells that the commit has all.
func (f *Flow) recordedInputs(ctx context.Context, run *Run) (commit lake.Commit, whole bool, err error) {
	if !run.Commit.IsZero() {
		commit, err = f.lake.Commit(ctx, run.Commit)
		return commit, true, err
	}
	commit, err = f.lake.Resolve(ctx, runBranch+run.ID)
	if err == nil {
		return commit, true, nil
	}
	if errdef.CodeOf(err) != errdef.NotFound {
		return lake.Commit{}, false, err
	}
	whole = run.State == RunSucceeded || run.State == RunFailed && !errors.Is(run.Error, ErrStopping)
	commit, err = f.lake.Commit(ctx, run.Base)
	return commit, whole, err
}

// replay puts the results of the parents of a step into the world, from the memo.
func (f *Flow) replay(ctx context.Context, p *plan, name string) error {
	b := f.lake.Begin(ctx)
	defer b.Discard()
	for _, n := range p.nodes {
		if n.Name == name || n.Kind == manifest.Check {
			continue
		}
		wk, err := f.prepare(ctx, p.world, p.code, n, p.envs[n.Name], p.demand)
		if err != nil {
			return err
		}
		if missing := wk.missing(); len(missing) > 0 {
			return errNoDebug.Errorf("%s comes first, and has no result with today's code: %s", n.Name, wk.why).WithNext("tarn run " + n.Name)
		}
		if _, err := f.assembleInto(ctx, p.world, wk, b, func() {}); err != nil {
			return err
		}
	}
	return nil
}

// pick chooses the item to debug.
func pick(wk *work, asked, failed string) (*invocation, error) {
	for _, want := range []string{asked, failed} {
		for i := range wk.items {
			if want != "" && wk.items[i].id == want {
				return &wk.items[i], nil
			}
		}
		if want != "" && want == asked {
			return nil, errNoDebug.Errorf("%s has no item '%s'", wk.node.Name, asked)
		}
	}
	if len(wk.items) == 0 {
		return nil, errNoDebug.Errorf("%s has no items", wk.node.Name)
	}
	return &wk.items[0], nil
}

// hostBox is a place without isolation: the debugger runs as its user, in the user's terminal.
type hostBox struct {
	runtime.Sandbox
	dir    string
	mounts map[string]string
}

func (h hostBox) Path(name string) string { return h.mounts[name] }
func (h hostBox) Home() string            { return h.dir }
func (h hostBox) HostHome() string        { return h.dir }

func (f *Flow) layOutDebug(ctx context.Context, run *Run, c *code, wk *work, inv *invocation, save string) (*Debugging, error) {
	view, err := f.Images.Ensure(f.login(ctx), wk.env.lock, func(string) {})
	if err != nil {
		return nil, err
	}
	dir, parent := save, f.scratch("debug")
	if dir == "" {
		if err := os.MkdirAll(parent, 0o700); err != nil {
			return nil, fmt.Errorf("make debug folder: %w", err)
		}
		if dir, err = os.MkdirTemp(parent, "*"); err != nil {
			return nil, fmt.Errorf("make debug folder: %w", err)
		}
	}
	scratch, out := filepath.Join(dir, "inputs"), filepath.Join(dir, "out")
	for _, d := range []string{scratch, out} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return nil, fmt.Errorf("make debug folder: %w", err)
		}
	}
	a := &attempt{f: f, code: c, work: wk, run: run.ID, n: 1, emit: func(Event) {}}
	b := &box{out: out, Sandbox: hostBox{dir: dir, mounts: map[string]string{"project": c.dir, "scratch": scratch, "out": out}}}
	in := inputsOf{f: f, scratch: scratch, inside: scratch}
	shared, err := in.shared(ctx, wk, c.dir)
	if err != nil {
		return nil, err
	}
	it, _, err := a.pyItem(ctx, b, in, 0, inv)
	if err != nil {
		return nil, err
	}
	it.Inputs = append(it.Inputs, shared...)
	pc := a.pyContext(b)
	pc.pyItem = &it
	context := filepath.Join(dir, "context.json")
	if err := writeJSON(context, pc); err != nil {
		return nil, err
	}
	env := map[string]string{
		"TARN_CONTEXT": context, "TARN_DEBUG": "1", "PYTHONPATH": f.SDK + string(os.PathListSeparator) + view.SitePackages,
		"PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1",
	}
	for k, v := range view.Lock.Vars {
		env[k] = v
	}
	given, err := f.handOver(ctx, wk.node.Function)
	if err != nil {
		return nil, err
	}
	if save != "" {
		for name := range given.env {
			given.env[name] = ""
		}
	}
	argv := append([]string{view.Python.Path}, append(interpreterFlags, "tarn._runner")...)
	return &Debugging{Dir: dir, Argv: argv, Env: env, Secrets: given.env, Item: inv.id}, nil
}
