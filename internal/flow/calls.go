package flow

import (
	"cmp"
	"context"
	"iter"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/base/ids"
	"tarn.dev/tarn/internal/flow/call"
	"tarn.dev/tarn/internal/flow/graph"
	"tarn.dev/tarn/internal/flow/manifest"
)

// Calls of plain functions. Nothing durable is on their path: a call lives in the server that took it, its inputs and results
// in memory within the bounds of package call, and what has no room there on scratch. Workers are in calls_worker.go.

const (
	callsKept = 1000
	callAge   = time.Hour
	// outputKept and outputBytes bound what a call remembers of what its function printed; half of it goes when there is more.
	outputKept  = 20_000
	outputBytes = 4 << 20
)

var (
	errNoCall     = errdef.New(errdef.NotFound, "call.not_found", "no such call")
	errNoFunction = errdef.New(errdef.NotFound, "call.no_function", "no such function")
)

// CallRequest asks for a call.
type CallRequest struct {
	ID             string // of the request; the same attaches
	Dir            string
	File, Qualname string
	Ordered        bool
	Concurrency    int
	Author         string
	Waits          bool   // the caller stays for the results
	Source         string // text of File, where the project does not have it; of an input's request neither it nor Dir counts
}

// CallInfo is what is known of a call.
type CallInfo struct {
	ID, Project, Function, Author, Level, Python string
	Parent                                       string // the call that began it
	State                                        string // waiting, running, succeeded, failed, canceled
	Inputs, Done, Failed                         int64
	Created, Ended                               time.Time
}

// CallFailure is why an input failed.
type CallFailure struct {
	Index int64
	call.Failure
}

// CallOutput is a piece of what a function printed.
type CallOutput struct {
	Index        int64
	Stream, Text string
}

// Call is one call under way, or remembered.
type Call struct {
	*call.Call
	info   CallInfo
	fn     *callable
	limit  int
	cancel context.CancelFunc
	parent *Call // the one that began it
	root   *Call // the one that nobody began, which it may be itself
	depth  int   // how many are above it
	under  int   // of a root: calls under way below it, under mu of calls
	forget *time.Timer

	mu       sync.Mutex
	ended    time.Time
	first    int64 // number of printed[0]
	printed  []CallOutput
	bytes    int           // of it
	more     chan struct{} // closed and replaced when something is printed
	failures []CallFailure // the first ones

	// Of values that are files, and of the caller: calls_values.go.
	folder    string
	values    int                 // named so far
	given     map[string]int64    // sizes of those for inputs
	fetches   map[string]*fetched // those of results
	released  bool
	waits     bool
	attending int
	gone      *time.Timer
}

// calls are the calls of a project.
type calls struct {
	mu      sync.Mutex
	byID    map[string]*Call
	request map[string]*Call
	idle    map[string][]*callWorker
	stopped bool
	wg      sync.WaitGroup
}

// StartCall makes a plain function ready and returns its call, which has no inputs yet.
func (f *Flow) StartCall(ctx context.Context, r CallRequest) (*Call, error) {
	return f.startCall(ctx, r, nil, f.callable)
}

// startCall starts one for an input of another, by, or for nobody's.
func (f *Flow) startCall(ctx context.Context, r CallRequest, by *Caller, ready func(context.Context, CallRequest) (*callable, error)) (*Call, error) {
	f.calls.mu.Lock()
	known := f.calls.request[r.ID]
	f.calls.mu.Unlock()
	if known != nil {
		return known, nil
	}
	fn, err := ready(ctx, r)
	if err != nil {
		return nil, err
	}
	id := ids.Call()
	c := &Call{
		Call: call.New(r.Ordered, f.CallMemory, f.scratch("calls")), fn: fn, limit: atOnce(r.Concurrency, fn.fn.Options.Concurrency, f.Host.cores), more: make(chan struct{}), waits: r.Waits,
		folder: f.scratch("calls", id), given: map[string]int64{}, fetches: map[string]*fetched{},
		info: CallInfo{
			ID: id, Project: f.name, Function: fn.fn.Name, Author: r.Author, Created: now(), Level: string(f.Runtime.Level()),
			Python: fn.env.lock.Python,
		},
	}
	c.root = c
	cctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	c.cancel = cancel
	f.calls.mu.Lock()
	defer f.calls.mu.Unlock()
	if f.calls.stopped {
		cancel()
		return nil, ErrStopping
	}
	if known := f.calls.request[r.ID]; known != nil { // the same request was faster
		cancel()
		return known, nil
	}
	if by != nil {
		if err := by.adopt(c, r.Qualname); err != nil {
			cancel()
			return nil, err
		}
	}
	if f.calls.byID == nil {
		f.calls.byID, f.calls.request, f.calls.idle = map[string]*Call{}, map[string]*Call{}, map[string][]*callWorker{}
	}
	f.calls.byID[c.info.ID], f.calls.request[r.ID] = c, c
	c.gone = time.AfterFunc(callerGone, c.abandoned)
	if !c.waits {
		c.gone.Stop()
	}
	f.calls.wg.Add(1)
	release := f.Hold()
	go func() {
		defer f.calls.wg.Done()
		defer release()
		defer cancel()
		c.dispatch(cctx, f)
		c.Info() // it has ended now, if nobody saw that before
		by.left(c)
		f.calls.forget(c)
	}()
	return c, nil
}

// callable finds a function and makes its environment ready.
func (f *Flow) callable(ctx context.Context, r CallRequest) (*callable, error) {
	c, err := f.loadWith(ctx, r.Dir, r.File, r.Source)
	if err != nil {
		return nil, err
	}
	out, err := f.callableOf(ctx, c, r)
	if err != nil {
		return nil, err
	}
	if err := out.wholeFolder(); err != nil {
		return nil, err
	}
	return out.named(), nil
}

// callableOf finds it in code, and leaves what its sandboxes show of the folder to the caller.
func (f *Flow) callableOf(ctx context.Context, c *code, r CallRequest) (*callable, error) {
	fn, err := called(c.manifest, r.File, r.Qualname)
	if err != nil {
		return nil, cmp.Or(c.broken, err)
	}
	if what := unbuiltCall(fn); what != "" {
		return nil, errOption.Errorf("%s:%d: %s is not there yet for calls, and %s would not do what it says without it", fn.File, fn.Line, what, fn.Name)
	}
	nodes := []*graph.Node{{Function: fn}}
	if err := f.checkSecrets(ctx, c, nodes); err != nil {
		return nil, err
	}
	given, err := f.handOver(ctx, fn)
	if err != nil {
		return nil, err
	}
	envs, err := f.environmentsOf(ctx, c, nodes, unheard)
	if err != nil {
		return nil, err
	}
	out := &callable{f: f, code: c, fn: fn, env: envs[fn.Name], given: given}
	if out.view, err = f.Images.Ensure(f.login(ctx), out.env.lock, nil); err != nil {
		return nil, err
	}
	if err := f.Images.Compile(ctx, out.view.Python.Path, f.SDK); err != nil {
		return nil, err
	}
	if out.limits, err = limitsOf(fn); err != nil {
		return nil, err
	}
	out.timeout, out.limits.Time = out.limits.Time, 0 // of an input, not of a worker
	out.startTimeout = time.Duration(fn.Options.StartTimeout * float64(time.Second))
	return out, nil
}

// named gives it its key.
func (fn *callable) named() *callable {
	fn.key = strings.Join([]string{fn.folder, fn.fn.File, fn.fn.Qualname, fn.env.lock.ID, fn.given.id()}, "\x00")
	return fn
}

// called finds a plain function, or an asset, of which nothing is published then.
func called(m *manifest.Manifest, file, qualname string) (*manifest.Function, error) {
	var names []string
	for i := range m.Functions {
		fn := &m.Functions[i]
		if fn.Kind != manifest.Plain && (fn.Kind != manifest.Asset || fn.Language != manifest.Python) {
			continue
		}
		if fn.File == file && fn.Qualname == qualname {
			return fn, nil
		}
		names = append(names, fn.File+"::"+fn.Qualname)
	}
	asked := file + "::" + qualname
	err := errNoFunction.Errorf("no function %s. %sFunctions: %s.", asked, manifest.DidYouMean(asked, names), cmp.Or(manifest.List(names), "none"))
	return nil, err.WithNext("decorate it with @tarn.function")
}

// unbuiltCall names an option that no call honours, "" for none.
func unbuiltCall(fn *manifest.Function) string {
	switch o, plain := fn.Options, fn.Kind == manifest.Plain; { // an asset's are for its runs
	case plain && o.Cache != nil && *o.Cache:
		return "cache=True"
	case plain && o.Fresh > 0:
		return "fresh="
	}
	return unbuilt(fn)
}

// forget drops the oldest calls that have ended when there are many, those of calls whose results were read before others, and
// this one after a while. One that has others below it stays: by it they are canceled.
func (cs *calls) forget(c *Call) {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	c.forget = time.AfterFunc(callAge, func() {
		cs.mu.Lock()
		defer cs.mu.Unlock()
		cs.drop(c)
	})
	if len(cs.byID) > callsKept {
		var old, read []*Call
		for _, c := range cs.byID {
			switch p := c.Progress(); {
			case c.under > 0:
			case p.Read && c.parent != nil:
				read = append(read, c)
			case p.Ended:
				old = append(old, c)
			}
		}
		byAge := func(a, b *Call) int { return a.info.Created.Compare(b.info.Created) }
		slices.SortFunc(read, byAge)
		slices.SortFunc(old, byAge)
		old = append(read, old...)
		for _, c := range old[:max(len(old)-callsKept, 0)] {
			cs.drop(c)
		}
	}
}

// drop forgets a call; cs.mu is held.
func (cs *calls) drop(c *Call) {
	delete(cs.byID, c.info.ID)
	if c.forget != nil {
		c.forget.Stop()
	}
	maps.DeleteFunc(cs.request, func(_ string, other *Call) bool { return other == c })
	if err := c.release(); err != nil {
		c.fn.f.Log.Warn("remove values", "call", c.info.ID, "error", err)
	}
}

// stop ends every call and the workers that wait for the next one.
func (cs *calls) stop() {
	cs.mu.Lock()
	cs.stopped = true
	for _, c := range cs.byID {
		c.end()
	}
	var idle []*callWorker
	for _, ws := range cs.idle {
		idle = append(idle, ws...)
	}
	clear(cs.idle)
	cs.mu.Unlock()
	for _, w := range idle {
		w.end()
	}
	cs.wg.Wait()
	cs.mu.Lock()
	defer cs.mu.Unlock()
	for _, c := range cs.byID {
		cs.drop(c)
	}
}

// Call finds a call that is not forgotten.
func (f *Flow) Call(id string) (*Call, error) {
	f.calls.mu.Lock()
	defer f.calls.mu.Unlock()
	if c := f.calls.byID[id]; c != nil {
		return c, nil
	}
	return nil, noCall(id)
}

func noCall(id string) error {
	return errNoCall.Errorf("no call '%s'. Calls end with their server, and are forgotten an hour after their end", id)
}

// Calls lists the calls that are not forgotten, newest first.
func (f *Flow) Calls() []CallInfo {
	f.calls.mu.Lock()
	all := slices.Collect(maps.Values(f.calls.byID))
	f.calls.mu.Unlock()
	infos := make([]CallInfo, len(all))
	for i, c := range all {
		infos[i] = c.Info()
	}
	slices.SortFunc(infos, func(a, b CallInfo) int { return b.Created.Compare(a.Created) })
	return infos
}

// Info is what is known of it now.
func (c *Call) Info() CallInfo {
	p := c.Progress()
	info := c.info
	info.Inputs, info.Done, info.Failed = p.Inputs, p.Done, p.Failed
	c.mu.Lock()
	if p.Ended && c.ended.IsZero() { // its processes may still be going
		c.ended = now()
	}
	info.Ended = c.ended
	c.mu.Unlock()
	switch {
	case p.Canceled:
		info.State = "canceled"
	case p.Waiting:
		info.State = "waiting"
	case !p.Ended:
		info.State = "running"
	case p.Failed > 0:
		info.State = "failed"
	default:
		info.State = "succeeded"
	}
	return info
}

// Cancel ends what runs of it, and the calls that it began. None can begin afterwards.
func (c *Call) Cancel() {
	c.end()
	for _, below := range c.fn.f.calls.below(c) {
		below.end()
	}
}

func (c *Call) end() {
	c.Call.Cancel()
	c.cancel()
}

func (c *Call) print(out CallOutput) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.printed = append(c.printed, out)
	c.bytes += len(out.Text)
	if len(c.printed) > outputKept || c.bytes > outputBytes {
		drop := 0
		for drop < len(c.printed)/2 || c.bytes > outputBytes/2 {
			c.bytes -= len(c.printed[drop].Text)
			drop++
		}
		c.first += int64(drop)
		c.printed = slices.Delete(c.printed, 0, drop)
	}
	close(c.more)
	c.more = make(chan struct{})
}

// Output is what the function printed, as far as that is remembered; with follow it goes on until ctx ends or the call does.
func (c *Call) Output(ctx context.Context, follow bool) iter.Seq[CallOutput] {
	return func(yield func(CallOutput) bool) {
		at := int64(0)
		for {
			ended := !follow || c.Progress().Ended
			c.mu.Lock()
			at = max(at, c.first)
			some, more := slices.Clone(c.printed[at-c.first:]), c.more
			c.mu.Unlock()
			for _, out := range some {
				at++
				if !yield(out) {
					return
				}
			}
			if ended {
				return
			}
			changed := c.Changed()
			if c.Progress().Ended {
				continue
			}
			select {
			case <-more:
			case <-changed:
			case <-ctx.Done():
				return
			}
		}
	}
}
