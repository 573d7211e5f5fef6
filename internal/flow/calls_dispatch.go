package flow

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/flow/call"
	"tarn.dev/tarn/internal/flow/turn"
)

// How the inputs of calls come to workers. All calls of a project share the cores, and each input takes a turn: one of a
// function with a higher priority goes first, and of equals those that calls began, so that what was begun ends. An input that waits for calls
// of its own holds none of its turn: calls_nested.go. A call with more inputs at a time than there are cores says that they mostly wait for
// something else, so each takes a share of a core.

var errStartTime = errdef.New(errdef.DeadlineExceeded, "call.start_timeout", "no worker began with the input in time")

// atOnce is how many inputs of a call are done at a time: as many as its caller asked for, or else one per core, and no more than the
// function allows.
func atOnce(asked, allowed, cores int) int {
	limit := cmp.Or(asked, allowed, cores, 1)
	if allowed > 0 {
		return min(limit, allowed)
	}
	return limit
}

// claims are what one input of the call takes. Where more are asked for at a time than there are cores, they share those.
func (c *Call) claims(f *Flow) []turn.Claim {
	claims := f.Host.claims(c.fn.limits, ofCalls)
	cores := &claims[0]
	cores.Share = min(cores.Share, max(cores.Limit/c.limit, 1))
	return append(claims, f.limitClaims(c.fn.fn)...)
}

// dispatch keeps as many workers busy as there are inputs for, until the call has ended.
func (c *Call) dispatch(ctx context.Context, f *Flow) {
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	if c.fn.startTimeout > 0 {
		wg.Go(func() { c.watch(ctx) })
	}
	wg.Go(func() { c.sayWaiting(ctx) })
	done := make(chan struct{}, c.limit)
	for busy := 0; ; {
		changed := c.Changed()
		if c.Progress().Ended {
			return
		}
		for range min(c.limit-busy, c.Waiting()) {
			busy++
			wg.Go(func() {
				for c.work(ctx, f) {
				}
				done <- struct{}{}
			})
		}
		select {
		case <-changed:
		case <-done:
			busy--
		}
	}
}

// watch fails the input that is next when it has been so for longer than the function says.
func (c *Call) watch(ctx context.Context) {
	for {
		changed := c.Changed()
		var late <-chan time.Time
		if since, ok := c.Next(); ok {
			late = time.After(time.Until(since.Add(c.fn.startTimeout)))
		}
		select {
		case <-changed:
		case <-late:
			if in, ok := c.TakeLate(time.Now().Add(-c.fn.startTimeout)); ok {
				c.settle(in, failure(c.lateStart()), nil)
			}
		case <-ctx.Done():
			return
		}
	}
}

func (c *Call) lateStart() error {
	return errStartTime.Errorf("no worker of %s began with the input in %s: others had their turn, or its process did not start. start_timeout=... allows more.", c.fn.fn.Name, c.fn.startTimeout)
}

// work does one input in its turn. It is false when there is none.
func (c *Call) work(ctx context.Context, f *Flow) bool {
	mine, err := f.Host.turns.Lend(ctx, turn.Rank{Priority: c.fn.fn.Options.Priority, Depth: c.depth}, c.claims(f)...)
	if err != nil { // the call has ended
		return false
	}
	defer mine.Done()
	in, ok := c.Take()
	if !ok {
		return false
	}
	w, err := c.worker(ctx, f, in)
	if err != nil {
		c.settle(in, failure(err), nil)
		return true
	}
	result, classes, fit := w.do(ctx, c, in, mine)
	if fit { // for whoever calls when he has the result
		f.calls.keep(w)
	}
	c.settle(in, result, classes)
	if !fit {
		w.end()
	}
	return true
}

// worker finds or starts a worker for an input.
func (c *Call) worker(ctx context.Context, f *Flow, in call.Input) (*callWorker, error) {
	if c.fn.startTimeout == 0 {
		return f.calls.worker(ctx, c.fn)
	}
	late := c.lateStart()
	ctx, cancel := context.WithDeadlineCause(ctx, in.Since.Add(c.fn.startTimeout), late)
	defer cancel()
	w, err := f.calls.worker(ctx, c.fn)
	if err != nil && errors.Is(context.Cause(ctx), late) {
		return nil, late
	}
	return w, err
}

func failure(err error) call.Result { return call.Result{Failure: &call.Failure{Err: err}} }

// settle finishes an input, or has it taken again as the function's retry policy says.
func (c *Call) settle(in call.Input, r call.Result, classes []string) {
	retry := c.fn.fn.Options.Retry
	if r.Failure == nil || retry == nil || in.Attempt > retry.Times || !retryable(*retry, outcome{err: r.Failure.Err, classes: classes}) {
		c.finish(in, r)
		return
	}
	delay := backoff(*retry, fmt.Sprintf("%s/%d", c.info.ID, in.Index), in.Attempt)
	c.print(CallOutput{Index: in.Index, Stream: "stderr", Text: fmt.Sprintf("%s: attempt %d failed, again in %s: %s\n", c.fn.fn.Name, in.Attempt, delay.Round(time.Millisecond), r.Failure.Err)})
	time.AfterFunc(delay, func() {
		if !c.Again(in) {
			c.finish(in, r)
		}
	})
}

const (
	// failuresKept and failureText bound what is kept of failures for whoever asks later: a thousand calls keep 20 MB of it at most.
	failuresKept = 5
	failureText  = 4 << 10
)

// finish finishes an input, and remembers how it failed.
func (c *Call) finish(in call.Input, r call.Result) {
	failure := r.Failure
	if !c.Finish(in, r) || failure == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.failures) < failuresKept {
		kept := call.Failure{Err: failure.Err, Class: failure.Class, Module: failure.Module, Traceback: failure.Traceback}
		if over := len(kept.Traceback) - failureText; over > 0 { // the end of it says what was raised
			kept.Traceback = "...\n" + strings.ToValidUTF8(kept.Traceback[over:], "")
		}
		c.failures = append(c.failures, CallFailure{Index: in.Index, Failure: kept})
	}
}

// Failures are those of the first inputs that failed.
func (c *Call) Failures() []CallFailure {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.failures)
}

// waitSaid is how long a call does nothing, because others have what it needs, before it says so.
const waitSaid = 3 * time.Second

// sayWaiting tells whoever waits for the call, once, that it waits for its turn.
func (c *Call) sayWaiting(ctx context.Context) {
	tick := time.NewTicker(waitSaid / 4)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		if since, ok := c.Next(); ok && c.Progress().Waiting && time.Since(since) >= waitSaid {
			c.print(CallOutput{Stream: "stderr", Text: c.fn.f.Host.waits(c.fn.fn.Name, c.claims(c.fn.f)) + "\n"})
			return
		}
	}
}
