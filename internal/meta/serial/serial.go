// Package serial is what stores share that write from one goroutine: a queue of transactions that wait,
// taken in batches, and the watchers that a commit wakes.
//
// While a batch is on its way to the disk the next one gathers, so fifty concurrent writers cost about
// as many syncs as two, and no timer is needed to fill a batch.
package serial

import (
	"context"
	"sync/atomic"

	"tarn.dev/tarn/internal/meta"
)

// maxBatch is how many transactions share a commit at most. It bounds the time until the first returns.
const maxBatch = 256

// Request is one Txn on its way through the writer, which sets Number or Err.
type Request struct {
	Conditions []meta.Condition
	Writes     []meta.Write
	Number     int64
	Err        error

	taken atomic.Bool // by the writer, or by its caller who gave up
	done  chan struct{}
}

// Queue hands the transactions of any number of goroutines to one writer.
type Queue struct {
	requests chan *Request
	ending   context.Context //nolint:containedctx // ends with the store
}

// NewQueue returns a queue that refuses everything, with the cause, once ending has ended.
func NewQueue(ending context.Context) *Queue {
	return &Queue{make(chan *Request), ending}
}

// Do waits until the writer has answered. When ctx ends before the transaction was taken up, nothing
// happens; afterwards Do waits for the outcome, so that an error of ctx always means "not applied".
func (q *Queue) Do(ctx context.Context, conditions []meta.Condition, writes []meta.Write) (int64, error) {
	r := &Request{Conditions: conditions, Writes: writes, done: make(chan struct{})}
	select {
	case q.requests <- r:
	case <-ctx.Done():
		return 0, context.Cause(ctx)
	case <-q.ending.Done():
		return 0, context.Cause(q.ending)
	}
	select {
	case <-r.done:
	case <-ctx.Done():
		if r.taken.CompareAndSwap(false, true) {
			return 0, context.Cause(ctx)
		}
		<-r.done
	}
	return r.Number, r.Err
}

// Run gives write one batch after another until the store ends. Write answers with Number and Err of
// each request.
func (q *Queue) Run(write func(batch []*Request)) {
	batch := make([]*Request, 0, maxBatch)
	for {
		select {
		case r := <-q.requests:
			batch = q.collect(take(batch[:0], r))
		case <-q.ending.Done():
			return
		}
		if len(batch) == 0 {
			continue
		}
		write(batch)
		for _, r := range batch {
			close(r.done)
		}
	}
}

// collect adds what waits right now.
func (q *Queue) collect(batch []*Request) []*Request {
	for len(batch) < maxBatch {
		select {
		case r := <-q.requests:
			batch = take(batch, r)
		default:
			return batch
		}
	}
	return batch
}

func take(batch []*Request, r *Request) []*Request {
	if !r.taken.CompareAndSwap(false, true) {
		return batch // its caller gave up
	}
	return append(batch, r)
}
