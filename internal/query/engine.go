package query

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"sync"

	lru "github.com/hashicorp/golang-lru/v2"
)

// Options configure an Engine. The limits are for jobs that bring none of their own.
type Options struct {
	Launch      Launcher
	Concurrent  int    // jobs that run at a time, others wait; 0 is the number of processors, at least 4
	MemoryBytes int64  // 0 is 1 GiB
	Threads     int    // 0 is the number of processors
	TempDir     string // each job gets a folder in it; "" is no spilling
	TempBytes   int64  // 0 is unlimited
}

const (
	defaultMemory  = 1 << 30
	cachedAnalyses = 4096
	// analyzing children at a time. Analyses do not wait for jobs: they take a moment, and a plan with
	// a hundred of them must not stand behind two long queries.
	concurrentAnalyses = 2
)

// Engine runs jobs in children. It is safe for concurrent use.
type Engine struct {
	opt      Options
	jobs     chan struct{} // one element per running job
	analyze  chan struct{} // one per running analysis
	analyses *lru.Cache[string, Analysis]

	ctx  context.Context // ends with Close
	stop context.CancelCauseFunc
	work sync.WaitGroup // running jobs and the start of a spare

	mu       sync.Mutex
	spare    *child // warm, idle
	starting bool
	closed   bool
}

// New makes an engine and starts its first child in the background.
func New(opt Options) *Engine {
	if opt.Concurrent == 0 {
		opt.Concurrent = max(4, runtime.NumCPU())
	}
	if opt.Threads == 0 {
		opt.Threads = runtime.NumCPU()
	}
	if opt.MemoryBytes == 0 {
		opt.MemoryBytes = defaultMemory
	}
	analyses, err := lru.New[string, Analysis](cachedAnalyses)
	if err != nil {
		panic(err) // only for a size that is not positive
	}
	ctx, stop := context.WithCancelCause(context.Background())
	e := &Engine{
		opt: opt, analyses: analyses, ctx: ctx, stop: stop,
		jobs: make(chan struct{}, opt.Concurrent), analyze: make(chan struct{}, concurrentAnalyses),
	}
	e.refill()
	return e
}

// Close cancels what runs and ends every child.
func (e *Engine) Close() error {
	e.mu.Lock()
	e.closed = true
	spare := e.spare
	e.spare = nil
	e.mu.Unlock()
	e.stop(ErrClosed)
	if spare != nil {
		spare.close()
	}
	e.work.Wait()
	return nil
}

// Run runs one job in a child of its own. stdout gets the stream of a SinkStream; it may be nil
// otherwise. A stream that was cut short is an error, never a short result. Ending ctx kills the child
// and returns within a moment, unless stdout itself blocks.
func (e *Engine) Run(ctx context.Context, job Job, stdout io.Writer) (Result, error) {
	var result Result
	err := e.withChild(ctx, e.jobs, func(ctx context.Context, c *child) (reusable bool, err error) {
		e.refill() // warms up while the job runs
		if job, err = e.limited(job); err != nil {
			return true, err
		}
		c.folder = job.TempDir
		if stdout == nil {
			stdout = io.Discard
		}
		result, err = c.do(ctx, job, stdout)
		return false, err
	})
	return result, err
}

// limited fills in the limits and makes the job's folder.
func (e *Engine) limited(job Job) (Job, error) {
	if job.MemoryBytes == 0 {
		job.MemoryBytes = e.opt.MemoryBytes
	}
	if job.Threads == 0 {
		job.Threads = e.opt.Threads
	}
	if job.TempBytes == 0 {
		job.TempBytes = e.opt.TempBytes
	}
	job.TempDir = ""
	if e.opt.TempDir != "" {
		dir, err := os.MkdirTemp(e.opt.TempDir, "query-")
		if err != nil {
			return job, fmt.Errorf("make the query's folder: %w", err)
		}
		job.TempDir = dir
	}
	return job, nil
}

// Analyze says which tables a statement reads and what it writes, without looking at any table. name
// is what messages call the text, e.g. "orders.sql"; "" for a query that was typed.
func (e *Engine) Analyze(ctx context.Context, name, sql string) (Analysis, error) {
	key := name + "\x00" + sql
	if analysis, ok := e.analyses.Get(key); ok {
		return analysis, nil
	}
	if err := checkTemplate(name, sql); err != nil {
		return Analysis{}, err
	}
	var result Result
	err := e.withChild(ctx, e.analyze, func(ctx context.Context, c *child) (reusable bool, err error) {
		result, err = c.do(ctx, Job{Analyze: true, SQL: sql}, nil)
		answered := result.Analysis != nil || result.Error != nil
		return answered && ctx.Err() == nil, err
	})
	if err != nil {
		return Analysis{}, located(name, sql, err)
	}
	if result.Analysis == nil {
		return Analysis{}, ErrCrashed.Errorf("the query engine gave no analysis")
	}
	e.analyses.Add(key, *result.Analysis)
	return *result.Analysis, nil
}

// withChild waits for a slot and runs fn with a child that nobody else uses. A reusable child becomes the spare again, any
// other one is closed.
func (e *Engine) withChild(ctx context.Context, slots chan struct{}, fn func(context.Context, *child) (reusable bool, err error)) error {
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

	for again := true; ; again = false {
		c, err := e.take()
		if err != nil {
			return err
		}
		reusable, err := fn(ctx, c)
		if !reusable || !e.keep(c) {
			e.work.Add(1)
			go func() { // nobody waits for a process that has answered: freeing its memory takes milliseconds
				defer e.work.Done()
				c.close()
			}()
			e.refill()
		}
		if !again || !errors.Is(err, errUnsent) { // a spare that was killed while it waited
			return err
		}
	}
}

// take returns the spare, or a new child if there is none.
func (e *Engine) take() (*child, error) {
	e.mu.Lock()
	c := e.spare
	e.spare = nil
	e.mu.Unlock()
	if c != nil && !c.dead() {
		return c, nil
	}
	if c != nil {
		c.close()
	}
	return startChild(e.opt.Launch)
}

// keep makes an idle child the spare; false if there is one already.
func (e *Engine) keep(c *child) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed || e.spare != nil {
		return false
	}
	e.spare = c
	return true
}

// refill starts the spare in the background. A failure shows when a job needs a child.
func (e *Engine) refill() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed || e.starting || e.spare != nil {
		return
	}
	e.starting = true
	e.work.Add(1)
	go func() {
		defer e.work.Done()
		c, err := startChild(e.opt.Launch)
		e.mu.Lock()
		e.starting = false
		keep := err == nil && !e.closed && e.spare == nil
		if keep {
			e.spare = c
		}
		e.mu.Unlock()
		if err == nil && !keep {
			c.close()
		}
	}()
}
