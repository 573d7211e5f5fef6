package query

import (
	"context"
	"io"
	"runtime"
	"sync"

	lru "github.com/hashicorp/golang-lru/v2"

	tarnruntime "tarn.dev/tarn/internal/runtime"
)

// Options configure an Engine. The limits are for jobs that bring none of their own.
type Options struct {
	Runtime     tarnruntime.Runtime // makes the children's sandboxes
	Command     []string            // starts a child; the program is shown to the sandbox
	Concurrent  int                 // jobs that run at a time, others wait; 0 is the number of processors, at least 4
	MemoryBytes int64               // 0 is 1 GiB
	Threads     int                 // 0 is the number of processors
	TempBytes   int64               // of what a job spills; 0 is unlimited
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
	work sync.WaitGroup // running jobs, and the end of their children

	mu      sync.Mutex
	spare   *child   // warm, idle, and has done nothing
	analyst *child   // idle; it has seen statements, so it gets no job: no statement meets another one's tables
	owned   []*child // idle, and have run jobs of their owner
	closed  bool
}

// New makes an engine and starts its first children in the background.
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
	e.warm(&e.spare)
	e.warm(&e.analyst)
	return e
}

// Close cancels what runs and ends every child.
func (e *Engine) Close() error {
	e.mu.Lock()
	e.closed = true
	idle := append(e.owned, e.spare, e.analyst)
	e.spare, e.analyst, e.owned = nil, nil, nil
	e.mu.Unlock()
	e.stop(ErrClosed)
	for _, c := range idle {
		if c != nil {
			c.close()
		}
	}
	e.work.Wait()
	return nil
}

// Run runs one job in a child that nobody else uses, or used, except for jobs of the same Owner. stdout gets the stream of a SinkStream; it may be nil
// otherwise. A stream that was cut short is an error, never a short result. Ending ctx kills the child
// and returns within a moment, unless stdout itself blocks.
func (e *Engine) Run(ctx context.Context, job Job, stdout io.Writer) (Result, error) {
	job = e.limited(job)
	job.Again = job.Owner != ""
	parts, err := job.excerpt(ctx)
	if err != nil {
		return Result{}, err
	}
	defer func() { _ = parts.remove() }() // scratch is emptied at the next start
	shown, err := show(job)
	if err != nil {
		return Result{}, err
	}
	if stdout == nil {
		stdout = io.Discard
	}
	var result Result
	err = e.withChild(ctx, e.jobs, e.ofOwner(job.Owner), func(ctx context.Context, c *child) (reusable bool, err error) {
		job.TempDir = c.box.Home()
		if err := c.give(ctx, sandboxLimits(job), shown.mounts); err != nil {
			return false, err
		}
		result, err = c.do(ctx, job, stdout, parts.fill)
		return err == nil && job.Owner != "" && result.PeakMemoryBytes < keptMemory && c.empty(), err
	})
	for _, source := range job.Sources {
		if err == nil && source.Still != nil {
			err = source.Still(ctx)
		}
	}
	if err != nil {
		shown.discard()
	}
	return result, err
}

// sandboxLimits hold an engine that does not keep to the limits of its job.
func sandboxLimits(job Job) tarnruntime.Limits {
	return tarnruntime.Limits{MemoryBytes: 2*job.MemoryBytes + 256<<20, DiskBytes: job.DiskBytes, PIDs: 256 + 4*job.Threads}
}

// limited fills in the limits.
func (e *Engine) limited(job Job) Job {
	if job.MemoryBytes == 0 {
		job.MemoryBytes = e.opt.MemoryBytes
	}
	if job.Threads == 0 {
		job.Threads = e.opt.Threads
	}
	if job.TempBytes == 0 {
		job.TempBytes = e.opt.TempBytes
	}
	return job
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
	err := e.withChild(ctx, e.analyze, e.analysts(), func(ctx context.Context, c *child) (reusable bool, err error) {
		result, err = c.do(ctx, Job{Analyze: true, SQL: sql}, nil, new(excerpts).fill)
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
