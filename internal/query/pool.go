package query

import (
	"context"
	"errors"
	"slices"
	"time"
)

const (
	// A child that has run a job waits so long for the next one of its owner, and runs so many: a start takes longer than most jobs
	// of a pipeline, and what leaks does not grow for ever.
	keptFor  = 3 * time.Second
	keptJobs = 200
	// warmAfter is how long a job may run before the child of the next one is started.
	warmAfter = 30 * time.Millisecond
	// keptMemory bounds what a child that is kept has had in memory.
	keptMemory = 512 << 20
)

// pool is where children for one kind of work come from, and go back to. Both are called with the engine's lock.
type pool struct {
	take func() *child // nil if there is none
	keep func(*child) (kept bool)
}

// analysts are children that only analyze. Whoever has not done anything yet may become one.
func (e *Engine) analysts() pool {
	return pool{
		take: func() *child {
			c := e.analyst
			if e.analyst = nil; c == nil {
				c, e.spare = e.spare, nil
			}
			return c
		},
		keep: func(c *child) bool {
			if e.analyst != nil {
				return false
			}
			e.analyst = c
			return true
		},
	}
}

// ofOwner are children that run jobs of one owner. A child is nobody else's from its first job on: were it taken over by what it
// read, it would meet only tables that the same pipeline reads.
func (e *Engine) ofOwner(owner string) pool {
	return pool{
		take: func() *child {
			i := slices.IndexFunc(e.owned, func(c *child) bool { return c.owner == owner && owner != "" })
			if i < 0 {
				c := e.spare
				e.spare = nil
				return c
			}
			c := e.owned[i]
			e.owned = slices.Delete(e.owned, i, i+1)
			c.idle.Stop()
			return c
		},
		keep: func(c *child) bool {
			if c.jobs++; c.jobs == keptJobs || len(e.owned) == cap(e.jobs) {
				return false
			}
			c.owner = owner
			c.idle = time.AfterFunc(keptFor, func() { e.drop(c) })
			e.owned = append(e.owned, c)
			return true
		},
	}
}

// drop ends a child that its owner has not used for a while.
func (e *Engine) drop(c *child) {
	e.mu.Lock()
	i := slices.Index(e.owned, c)
	if i >= 0 {
		e.owned = slices.Delete(e.owned, i, i+1)
		e.work.Add(1)
		defer e.work.Done()
	}
	e.mu.Unlock()
	if i >= 0 {
		c.close()
	}
}

// withChild waits for a slot and runs fn with a child that nobody else uses: an idle one of the pool, or a new one. A
// reusable child goes back to the pool, any other one is closed.
func (e *Engine) withChild(ctx context.Context, slots chan struct{}, from pool, fn func(context.Context, *child) (reusable bool, err error)) error {
	e.mu.Lock()
	if e.closed {
		e.mu.Unlock()
		return ErrClosed
	}
	e.work.Add(1)
	e.mu.Unlock()
	defer e.work.Done()

	select {
	case slots <- struct{}{}:
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-e.ctx.Done():
		return context.Cause(e.ctx)
	}
	defer func() { <-slots }()

	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(e.ctx, func() { cancel(context.Cause(e.ctx)) })()

	c := e.idle(from)
	for again := true; ; again = false {
		if c == nil {
			var err error
			if c, err = startChild(e.ctx, e.opt); err != nil {
				return err
			}
		}
		// A start takes a processor for longer than most jobs need one: it waits for them.
		later := time.AfterFunc(warmAfter, func() { e.warm(&e.spare) })
		reusable, err := fn(ctx, c)
		if later.Stop() {
			e.warm(&e.spare)
		}
		switch {
		case err != nil && !reusable:
			c.close() // what failed may hold the disk that its caller needs to say so
		case !reusable || !e.keep(c, from):
			e.discard(c)
		}
		if !again || !errors.Is(err, errUnsent) { // an idle one that was killed while it waited
			return err
		}
		c = nil
	}
}

// discard ends a child beside the caller, who has work: nobody waits for a process that has answered, and freeing its
// memory takes milliseconds.
func (e *Engine) discard(c *child) {
	e.work.Add(1)
	go func() {
		defer e.work.Done()
		c.close()
	}()
}

// idle returns an idle child that lives, nil if there is none.
func (e *Engine) idle(from pool) *child {
	e.mu.Lock()
	c := from.take()
	e.mu.Unlock()
	if c != nil && c.dead() {
		c.close()
		return nil
	}
	return c
}

func (e *Engine) keep(c *child, from pool) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return !e.closed && from.keep(c)
}

// warm has an idle child start in the background, unless there is one. A failure shows when a job needs a child.
func (e *Engine) warm(idle **child) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed || *idle != nil {
		return
	}
	*idle, _ = startChild(e.ctx, e.opt)
}
