// Package service is the one life cycle of everything long-lived: servers, schedulers, pools, pollers.
//
// A Service is started once and stopped once. Most are made from one function by New; system joins
// them in a Group, which starts them in order and stops them in reverse. Every Service passes
// servicetest.Exercise.
package service

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"tarn.dev/tarn/internal/base/errdef"
)

// Errors of every Service.
var (
	// ErrStopping is the context.Cause inside a service that Stop was called on, so that a graceful
	// stop is not recorded as a failure of what was under way.
	ErrStopping = errdef.New(errdef.Canceled, "service.stopping", "stopping")
	// ErrStopped is returned by Start after Stop. A service has one life.
	ErrStopped = errdef.New(errdef.FailedPrecondition, "service.stopped", "already stopped")
)

// Service is something that runs until it is stopped. All methods are safe for concurrent use.
type Service interface {
	// Start returns when the service does its work, or with the reason why it cannot; then it has
	// ended. Starting a started service waits likewise and is no error. The end of ctx stops the
	// service as Stop does, with ctx's own cause, so ctx spans the service's life, not the call.
	Start(ctx context.Context) error
	// Started is closed when the service does its work. It stays open if that never happens.
	Started() <-chan struct{}
	// Done is closed when the service has ended and freed everything, for whatever reason. Stopping a
	// service that was never started closes it too.
	Done() <-chan struct{}
	// Stop ends the service, waits until it is done and returns what it failed with, nil after a
	// graceful end. Stopping twice, or before Start, is no error.
	Stop() error
}

// New makes a Service from run, which does all the work: it calls ready once it is up, works until ctx
// ends, frees everything and returns. Returning ctx's cause, or ctx.Err(), counts as a graceful end.
func New(name string, run func(ctx context.Context, ready func()) error) Service {
	return &runner{name: name, run: run, started: make(chan struct{}), done: make(chan struct{})}
}

type runner struct {
	name          string
	run           func(ctx context.Context, ready func()) error
	started, done chan struct{}

	mu      sync.Mutex
	cancel  context.CancelCauseFunc // nil until Start
	stopped bool                    // Stop came first
	err     error                   // set before done is closed
}

func (r *runner) Started() <-chan struct{} { return r.started }
func (r *runner) Done() <-chan struct{}    { return r.done }

func (r *runner) Start(ctx context.Context) error {
	r.mu.Lock()
	if r.stopped {
		r.mu.Unlock()
		return ErrStopped.Errorf("start %s: already stopped", r.name)
	}
	if r.cancel == nil {
		ctx, cancel := context.WithCancelCause(ctx)
		r.cancel = cancel
		go r.live(ctx)
	}
	r.mu.Unlock()

	select {
	case <-r.started:
		return nil
	case <-r.done:
	}
	select {
	case <-r.started: // both were closed: it did start
		return nil
	default:
	}
	if r.err != nil {
		return r.err
	}
	return ErrStopped.Errorf("start %s: stopped before it was up", r.name)
}

func (r *runner) live(ctx context.Context) {
	err := r.run(ctx, sync.OnceFunc(func() { close(r.started) }))
	if context.Cause(ctx) != nil && graceful(ctx, err) {
		err = nil
	}
	if err != nil {
		err = fmt.Errorf("%s: %w", r.name, err)
	}
	r.cancel(nil)
	r.err = err
	close(r.done)
}

func (r *runner) Stop() error {
	r.mu.Lock()
	first := !r.stopped
	r.stopped = true
	cancel := r.cancel
	r.mu.Unlock()
	if cancel != nil {
		cancel(ErrStopping)
	} else if first {
		close(r.done)
	}
	<-r.done
	return r.err
}

// graceful reports whether err is only what ending ctx makes functions return.
func graceful(ctx context.Context, err error) bool {
	return errors.Is(err, context.Cause(ctx)) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
}
