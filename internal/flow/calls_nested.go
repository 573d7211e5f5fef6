package flow

import (
	"context"
	"fmt"
	"io"
	"log"
	"maps"
	"net"
	"net/http"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/net/netutil"

	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/flow/call"
	"tarn.dev/tarn/internal/flow/turn"
)

// Calls of calls. A worker reaches the call service over a socket that only its sandbox sees, and of it only what its input may do:
// begin calls of functions of the same code, and use calls of the same root. An input that waits for one holds no turn, so
// nothing at any depth waits for what its callers hold.

const (
	// maxDepth is how many calls may be above one, maxUnder how many may be under way below a root.
	maxDepth = 32
	maxUnder = 1000
	// callsSocket is in the folder of a worker's values.
	callsSocket = "calls"
	// callsConnections bounds what a worker can have the server hold for it. Each wait for results is one.
	callsConnections = 64
	callsPatience    = 10 * time.Second
)

var (
	errIdle = errdef.New(errdef.FailedPrecondition, "call.idle", "no input is under way")
	errDeep = errdef.New(errdef.ResourceExhausted, "call.too_deep", "too many calls in calls")
	errMany = errdef.New(errdef.ResourceExhausted, "call.too_many", "too many calls at once")
)

// Caller is an input that is under way in a worker, as one who calls; or a worker without one, who may not.
type Caller struct {
	f       *Flow
	of      *Call // nil: there is no input
	mine    *turn.Lent
	ctx     context.Context // ends with the input
	handler func() http.Handler

	mu     sync.Mutex
	over   bool
	awaits map[*Call]bool // calls that it waits for
}

func newCaller(ctx context.Context, f *Flow, of *Call, mine *turn.Lent) *Caller {
	by := &Caller{f: f, of: of, mine: mine, ctx: ctx, awaits: map[*Call]bool{}}
	by.handler = sync.OnceValue(func() http.Handler { return f.CallsOf(by) })
	return by
}

// caller is an input that is about to be done. When it is over its calls are, but those that it spawned.
func (c *Call) caller(ctx context.Context, mine *turn.Lent) (by *Caller, ended func()) {
	ctx, cancel := context.WithCancel(ctx)
	by = newCaller(ctx, c.fn.f, c, mine)
	return by, func() {
		cancel()
		by.mu.Lock()
		by.over = true
		left := slices.Collect(maps.Keys(by.awaits))
		by.mu.Unlock()
		for _, c := range left {
			c.Cancel()
		}
	}
}

// Project is the one whose calls it may see.
func (by *Caller) Project() string { return by.f.name }

// Wait says that it waits for a call: its turn is given back until it goes on.
func (by *Caller) Wait() (back func()) {
	if by.of == nil {
		return func() {}
	}
	return by.mine.Wait()
}

func (by *Caller) idle() error {
	return errIdle.Errorf("no input is under way in this process: a function calls others while it runs, not while its module is imported, nor after it has returned")
}

// Call finds a call of the same root.
func (by *Caller) Call(id string) (*Call, error) {
	if by.of == nil {
		return nil, by.idle()
	}
	c, err := by.f.Call(id)
	if err == nil && c.root != by.of.root {
		return nil, noCall(id)
	}
	return c, err
}

// StartCall begins a call of a function that is in its own code, as that was when its root began.
func (by *Caller) StartCall(ctx context.Context, r CallRequest) (*Call, error) {
	if by.of == nil {
		return nil, by.idle()
	}
	if err := by.deep(r.Qualname); err != nil {
		return nil, err
	}
	r.ID = by.of.info.ID + "/" + r.ID // nobody's else
	r.Author = by.of.info.Author
	return by.f.startCall(ctx, r, by, func(ctx context.Context, r CallRequest) (*callable, error) {
		fn, err := by.f.callableOf(ctx, by.of.fn.code, r)
		if err != nil {
			return nil, err
		}
		fn.folder, fn.left = by.of.fn.folder, by.of.fn.left
		fn.given = fn.given.beneath(by.of.fn.given)
		return fn.named(), nil
	})
}

func (by *Caller) deep(function string) error {
	if by.of.depth < maxDepth {
		return nil
	}
	return errDeep.Errorf("%s would be called by calls that are %d deep, the most that there may be. End the recursion before, or call it as it is, without .remote or .map.", function, maxDepth)
}

// adopt makes a new call one of this input's. The lock of calls is held.
func (by *Caller) adopt(c *Call, function string) error {
	parent, root := by.of, by.of.root
	if root.under >= maxUnder {
		return errMany.Errorf("%d calls are under way that %s and its calls began, the most that there may be. Wait for some before %s is called, or give one .map many inputs.", maxUnder, root.fn.fn.Name, function)
	}
	for above := parent; above != nil; above = above.parent {
		if above.Progress().Canceled {
			return call.ErrCanceled
		}
	}
	by.mu.Lock()
	defer by.mu.Unlock()
	if by.over {
		return by.idle()
	}
	c.parent, c.root, c.depth, c.info.Parent = parent, root, parent.depth+1, parent.info.ID
	root.under++
	if c.waits {
		by.awaits[c] = true
	}
	return nil
}

// left notes that a call is through, if an input began it.
func (by *Caller) left(c *Call) {
	if by == nil {
		return
	}
	by.f.calls.mu.Lock()
	c.root.under--
	by.f.calls.mu.Unlock()
	by.mu.Lock()
	defer by.mu.Unlock()
	delete(by.awaits, c)
}

// below are the calls that c began, and those that they began.
func (cs *calls) below(c *Call) []*Call {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	var all []*Call
	for _, other := range cs.byID {
		for above := other.parent; above != nil; above = above.parent {
			if above == c {
				all = append(all, other)
				break
			}
		}
	}
	return all
}

// listenIn makes the socket of a worker. Its folder may have a longer path than a socket's can be.
func listenIn(folder string) (net.Listener, error) {
	at, err := os.Open(folder)
	if err != nil {
		return nil, fmt.Errorf("make a worker's socket: %w", err)
	}
	defer at.Close()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: fmt.Sprintf("/proc/self/fd/%d/%s", at.Fd(), callsSocket)})
	if err != nil {
		return nil, fmt.Errorf("make a worker's socket: %w", err)
	}
	l.SetUnlinkOnClose(false) // it goes with the folder, and that name will be something else's
	return l, nil
}

// listen serves calls to the worker until hangUp.
func (w *callWorker) listen(l net.Listener) (hangUp func() error) {
	s := &http.Server{Handler: w, ReadHeaderTimeout: callsPatience, IdleTimeout: callsPatience, ErrorLog: log.New(io.Discard, "", 0)} // what it says is of a program that we do not trust
	w.fn.f.calls.wg.Go(func() {
		s.Serve(netutil.LimitListener(l, callsConnections)) //nolint:errcheck // it ends by hangUp
	})
	return s.Close
}

// ServeHTTP serves the input that is under way, as long as it is.
func (w *callWorker) ServeHTTP(out http.ResponseWriter, r *http.Request) {
	w.mu.Lock()
	by := w.by
	w.mu.Unlock()
	ctx, cancel := context.WithCancel(r.Context())
	defer context.AfterFunc(by.ctx, cancel)()
	defer cancel()
	by.handler().ServeHTTP(out, r.WithContext(ctx))
}
