// Package load puts a server under load and checks what it answers: clients that store, read, list, branch and merge at once, on a
// branch of their own, each file's content known in advance. It measures how long each operation takes.
//
// Every client has a folder, so what should be in it is known exactly, whatever the others do: a file that is missing, one too many, or
// another byte is a fault of the store. At the end everything is read once more.
package load

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	tarnv1 "tarn.dev/tarn/api/gen/tarn/v1"
	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/base/ids"
	"tarn.dev/tarn/internal/client"
)

// Operation is something that clients do.
type Operation string

// The operations.
const (
	Put    Operation = "put"    // one to four files, as one commit
	Get    Operation = "get"    // one file, compared
	List   Operation = "list"   // the client's folder, compared
	Log    Operation = "log"    // the newest ten commits
	Branch Operation = "branch" // a branch is made and deleted
	Merge  Operation = "merge"  // a branch with one new file comes back to where it was made; only the merge itself is measured
	// Prepare and Verify cannot be asked for: what merges need beforehand, and the look at everything at the end.
	Prepare Operation = "prepare"
	Verify  Operation = "verify"
)

// Operations are those that a mix can name.
var Operations = []Operation{Put, Get, List, Log, Branch, Merge}

// Plan is what to do.
type Plan struct {
	Project, From, Author string
	Clients               int
	Count                 int64         // operations of all clients together; 0 is no limit
	For                   time.Duration // 0 is no limit
	Mix                   map[Operation]int
	Min, Max              int64 // sizes of files; small ones are as likely as large ones
	Seed                  uint64
}

// Figures are the latencies of one operation.
type Figures struct {
	Operation           Operation
	Count, Failed       int64
	Median, P90, P99    time.Duration
	Max                 time.Duration
	Read, Written, Rate float64 // bytes, and operations a second
}

// Report is what came of it.
type Report struct {
	Branch  string
	Elapsed time.Duration
	Figures []Figures
	Wrong   []string // what was not as it should be, some of it
	Failed  int64    // operations
}

// ErrWrong is a store that answered something else than what it was given.
var ErrWrong = errdef.New(errdef.DataLoss, "load.wrong", "operations failed")

// run is one load.
type run struct {
	client  *client.Client
	plan    Plan
	branch  string
	left    atomic.Int64
	done    atomic.Int64
	until   time.Time
	weights []Operation

	mu    sync.Mutex
	taken map[Operation]*samples
	wrong []string
}

type samples struct {
	times         []time.Duration
	failed        int64
	read, written int64
}

// Run does it. What was measured until then is reported also when ctx ends or something fails. The branch stays if keep is set, or
// when something was wrong.
func Run(ctx context.Context, c *client.Client, p Plan, keep bool, progress func(done int64)) (Report, error) {
	r := &run{client: c, plan: p, branch: "load-" + strings.ToLower(rand.Text()[:8]), taken: map[Operation]*samples{}}
	r.left.Store(p.Count)
	for _, op := range Operations {
		for range p.Mix[op] {
			r.weights = append(r.weights, op)
		}
	}
	if _, err := c.History.CreateBranch(ctx, &tarnv1.CreateBranchRequest{RequestId: ids.Request(), Project: p.Project, Name: r.branch, From: p.From}); err != nil {
		return Report{}, client.Error(err)
	}
	began := time.Now()
	if p.For > 0 {
		r.until = began.Add(p.For)
	}
	var wg sync.WaitGroup
	for i := range p.Clients {
		w := &worker{run: r, folder: fmt.Sprintf("%s/%03d/", r.branch, i), rng: mathrand.New(mathrand.NewPCG(p.Seed, uint64(i))), has: map[string]content{}} //nolint:gosec // not a secret, positive
		wg.Go(func() { w.work(ctx, progress) })
	}
	wg.Wait()
	report := r.report(time.Since(began))
	if ctx.Err() != nil {
		return report, errors.Join(context.Cause(ctx), r.remove(context.WithoutCancel(ctx)))
	}
	if len(r.wrong) > 0 {
		return report, ErrWrong.Errorf("%d operations failed, or gave something else than what was stored; the branch %s stays as it is", report.Failed, r.branch)
	}
	if keep {
		return report, nil
	}
	return report, r.remove(ctx)
}

func (r *run) remove(ctx context.Context) error {
	_, err := r.client.History.DeleteBranch(ctx, &tarnv1.DeleteBranchRequest{RequestId: ids.Request(), Project: r.plan.Project, Name: r.branch})
	return client.Error(err)
}

// more says whether another operation is to begin, and counts it.
func (r *run) more(ctx context.Context) bool {
	return ctx.Err() == nil && (r.until.IsZero() || time.Now().Before(r.until)) && (r.plan.Count == 0 || r.left.Add(-1) >= 0)
}

// measure notes what an operation took, and what it moved.
func (r *run) measure(op Operation, do func() (read, written int64, err error)) error {
	began := time.Now()
	read, written, err := do()
	took := time.Since(began)
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.taken[op]
	if s == nil {
		s = &samples{}
		r.taken[op] = s
	}
	if err != nil {
		s.failed++
		r.note(fmt.Sprintf("%s: %v", op, err))
		return err
	}
	s.times = append(s.times, took)
	s.read += read
	s.written += written
	return nil
}

// maxNotes are as many faults as are told.
const maxNotes = 20

func (r *run) note(text string) {
	if len(r.wrong) < maxNotes {
		r.wrong = append(r.wrong, text)
	}
}

func (r *run) report(elapsed time.Duration) Report {
	out := Report{Branch: r.branch, Elapsed: elapsed, Wrong: r.wrong}
	for _, op := range append(slices.Clone(Operations), Prepare, Verify) {
		s := r.taken[op]
		if s == nil {
			continue
		}
		f := Figures{Operation: op, Count: int64(len(s.times)), Failed: s.failed, Read: float64(s.read), Written: float64(s.written)}
		f.Rate = float64(f.Count) / elapsed.Seconds()
		if slices.Sort(s.times); len(s.times) > 0 {
			at := func(share float64) time.Duration { return s.times[int(share*float64(len(s.times)-1)+0.5)] }
			f.Median, f.P90, f.P99, f.Max = at(0.5), at(0.9), at(0.99), at(1)
		}
		out.Failed += s.failed
		out.Figures = append(out.Figures, f)
	}
	return out
}
