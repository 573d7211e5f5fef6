// Package call is the state of one call: a function with a sequence of inputs, each of which gets exactly one result.
// It runs nothing and knows no sandbox; workers take inputs from it and bring results.
//
// Invariants, which the model test holds:
//
//	C1  An input that was accepted gets one final result, and before it, of a generator, any number of partial ones.
//	C2  Inputs are accepted in order, each once: one that is put again is passed over.
//	C3  Only the attempt that an input was last taken for may yield or finish it. What an older one brings is ignored.
//	C4  Results have sequence numbers 0, 1, 2, ... An ordered call's are in the order of inputs.
//	C5  At most Window inputs, and about MaxBytes of inputs and of results, are held. Producers wait, and workers get nothing,
//	    until results have been sent. So memory is bounded, however long the sequence is; and the disk, as FileShare bytes of
//	    a file count as one.
//	C6  After Cancel nothing can be taken, and every input without a result has one: canceled.
//	C7  The call ends when the last input is known and every input has its result.
//	C8  The file of a value is removed when the value is dropped, once.
//	C9  All calls of a Budget hold no more than its bytes of values in memory; the others are on disk and come back as they were.
package call

import (
	"context"
	"errors"
	"iter"
	"slices"
	"sync"
	"time"

	"tarn.dev/tarn/internal/base/errdef"
)

// The bounds of C5. A consumer that lost its connection may ask again for what was sent last.
const (
	Window   = 1000
	MaxBytes = 64 << 20
	// FileShare is chosen so that 4 GiB of files are held of inputs and of results.
	FileShare = 64
	keepSent  = 10_000
	// Of what is read from disk at once, to be sent.
	maxBatch, batchBytes = 256, 4 << 20
)

// Errors of calls.
var (
	ErrGap      = errdef.New(errdef.InvalidArgument, "call.gap", "inputs are missing")
	ErrClosed   = errdef.New(errdef.FailedPrecondition, "call.closed", "the call takes no more inputs")
	ErrGone     = errdef.New(errdef.FailedPrecondition, "call.gone", "results are no longer kept")
	ErrCanceled = errdef.New(errdef.Canceled, "call.canceled", "the call was canceled")
)

// Value is a pickled value: its bytes, or a file with them.
type Value struct {
	Data []byte
	File *File
	kept *kept
}

// File is a value that is too big to be held in memory.
type File struct {
	Name   string
	Size   int64
	SHA256 string
	Remove func()
}

func (v Value) cost() int {
	if v.File != nil {
		return int(v.File.Size / FileShare)
	}
	if v.kept != nil {
		return v.kept.size
	}
	return len(v.Data)
}

func (v Value) drop() {
	if v.File != nil {
		v.File.Remove()
	}
	if v.kept != nil {
		v.kept.drop()
	}
}

// Failure is why an input has no value.
type Failure struct {
	Err                      error
	Class, Module, Traceback string
	Pickle                   []byte
	text                     int // length of the traceback, while both are kept as one value
}

// Result is one of an input's. The final one has More unset.
type Result struct {
	Index    int64
	Sequence int64
	Value    Value
	More     bool // a generator goes on
	End      bool // of a generator: there is no value
	Failure  *Failure
}

// Input is one that was taken, for one attempt.
type Input struct {
	Index   int64
	Attempt int       // from 1
	Since   time.Time // it could have been taken, as the first of those that wait
	Value   Value
}

// Waiter is told that somebody begins to wait, and by what it returns that the wait is over. Nil is nobody who is told.
type Waiter func() (back func())

func (w Waiter) wait() (back func()) {
	if w == nil {
		return func() {}
	}
	return w()
}

// Progress is how far a call is. Inputs that ended because the call was canceled are neither done nor failed.
type Progress struct {
	Inputs, Done, Failed int64
	Waiting              bool // none of those that are to be taken has been
	Ended                bool
	Read                 bool // all results were sent
	Canceled             bool
}

type state struct {
	value   Value
	attempt int  // the last one taken; 0: none
	running bool // that attempt is under way
	yielded bool
}

// Call is the state of one call. Safe for concurrent use.
type Call struct {
	ordered bool
	inputs  store // under mu, as results: those live longer
	results store

	mu      sync.Mutex
	changed chan struct{} // closed and replaced at each change
	next    int64         // number of the next input
	closed  bool          // there are no more
	open    map[int64]*state
	pending []int64   // to be taken, first come first
	since   time.Time // the first of them could be taken
	held    int       // bytes of open inputs

	head    int64              // ordered: the input whose results are sent now
	waiting map[int64][]Result // ordered: results of later ones

	out      []Result // out[0] has sequence number base
	base     int64
	sent     int64 // results before it were sent
	settled  int64 // final results among them
	unsent   int   // bytes of the others
	kept     int   // bytes of those that were sent and are still here
	done     int64
	failed   int64
	canceled bool
}

// New returns a call without inputs. What has no room in the budget is in a file of the folder dir, which has no name.
func New(ordered bool, budget *Budget, dir string) *Call {
	return &Call{ordered: ordered, inputs: store{budget: budget, dir: dir}, results: store{budget: budget, dir: dir}, changed: make(chan struct{}), open: map[int64]*state{}, waiting: map[int64][]Result{}}
}

// announce tells whoever waits that something has changed.
func (c *Call) announce() {
	close(c.changed)
	c.changed = make(chan struct{})
}

// Changed is closed at the next change.
func (c *Call) Changed() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.changed
}

// Put appends inputs, the first of which has number first; last says that no more follow. It waits until there is room
// for one, takes those that there is room for, and returns the number that it expects next. When ctx ends while it
// waits it returns what it has: that is no error.
func (c *Call) Put(ctx context.Context, first int64, inputs []Value, last bool) (next int64, err error) {
	for {
		c.mu.Lock()
		if first > c.next || first < 0 {
			defer c.mu.Unlock()
			return c.next, ErrGap.Errorf("the input after number %d is missing: the next one has number %d", c.next-1, first)
		}
		fresh := inputs[min(c.next-first, int64(len(inputs))):]
		if len(fresh) > 0 && (c.closed || c.canceled) {
			defer c.mu.Unlock()
			if c.canceled {
				return c.next, ErrCanceled
			}
			return c.next, ErrClosed.Errorf("input %d comes after the last one", c.next)
		}
		n := 0
		for _, v := range fresh {
			outstanding := c.next - c.settled
			if outstanding >= Window || outstanding > 0 && c.held+v.cost() > MaxBytes {
				break
			}
			if v, err = c.inputs.keep(v); err != nil {
				break
			}
			c.open[c.next] = &state{value: v}
			c.wait(c.next)
			c.held += v.cost()
			c.next++
			n++
		}
		if n == 0 && err != nil {
			defer c.mu.Unlock()
			return c.next, err
		}
		if last && n == len(fresh) {
			c.closed = true
		}
		if n > 0 || len(fresh) == 0 {
			c.announce()
			defer c.mu.Unlock()
			return c.next, nil
		}
		wait := c.changed
		next = c.next
		c.mu.Unlock()
		select {
		case <-wait:
		case <-ctx.Done():
			return next, nil
		}
	}
}

// wait puts an input behind those that are to be taken.
func (c *Call) wait(index int64) {
	c.pending = append(c.pending, index)
	if len(c.pending) == 1 {
		c.since = time.Now()
	}
}

// Take hands an input out. ok is false when there is none now, or too many results wait to be sent.
func (c *Call) Take() (in Input, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.ready() {
		return Input{}, false
	}
	return c.take()
}

// TakeLate hands out the input that is next if it could have been taken since a time before this one.
func (c *Call) TakeLate(before time.Time) (in Input, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.ready() || !c.since.Before(before) {
		return Input{}, false
	}
	return c.take()
}

// take hands out the input that is next, unless it cannot be read: then that is its result.
func (c *Call) take() (Input, bool) {
	index := c.pending[0]
	c.pending = c.pending[1:]
	s := c.open[index]
	s.attempt++
	s.running = true
	since := c.since
	c.since = time.Now()
	v, err := s.value.load()
	if err != nil {
		c.finish(index, Result{Failure: &Failure{Err: err}})
		return Input{}, false
	}
	return Input{Index: index, Attempt: s.attempt, Since: since, Value: v}, true
}

// ready says that an input could be taken.
func (c *Call) ready() bool { return len(c.pending) > 0 && c.unsent <= MaxBytes }

// Next is since when an input could be taken. ok is false when none can.
func (c *Call) Next() (since time.Time, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.since, c.ready()
}

// Waiting is how many inputs could be taken.
func (c *Call) Waiting() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.ready() {
		return 0
	}
	return len(c.pending)
}

// current is the input's state if in is the attempt that may change it.
func (c *Call) current(in Input) *state {
	s := c.open[in.Index]
	if s == nil || !s.running || s.attempt != in.Attempt {
		return nil
	}
	return s
}

// Again puts an input back that failed, to be taken once more. An input that has yielded cannot be: its consumer has seen the
// values. false says that it was not put back.
func (c *Call) Again(in Input) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.current(in)
	if s == nil || s.yielded {
		return false
	}
	s.running = false
	c.wait(in.Index)
	c.announce()
	return true
}

// Yield adds a partial result. It waits while many results are not sent. false says that nobody wants more.
func (c *Call) Yield(ctx context.Context, in Input, value Value, waiter Waiter) bool {
	var back func()
	defer func() {
		if back != nil {
			back()
		}
	}()
	for {
		c.mu.Lock()
		s := c.current(in)
		if s == nil {
			c.mu.Unlock()
			value.drop()
			return false
		}
		if c.unsent <= MaxBytes && c.base+int64(len(c.out))-c.sent < Window && len(c.waiting[in.Index]) < Window {
			defer c.mu.Unlock()
			s.yielded = true
			v, err := c.results.keep(value)
			if err != nil {
				c.finish(in.Index, Result{Failure: &Failure{Err: err}})
				return false
			}
			c.result(Result{Index: in.Index, Value: v, More: true})
			return true
		}
		wait := c.changed
		c.mu.Unlock()
		if back == nil {
			back = waiter.wait()
		}
		select {
		case <-wait:
		case <-ctx.Done():
			value.drop()
			return false
		}
	}
}

// Finish gives an input its final result. false says that it has one already.
func (c *Call) Finish(in Input, r Result) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.current(in) == nil {
		r.Value.drop()
		return false
	}
	c.finish(in.Index, r)
	return true
}

func (c *Call) finish(index int64, r Result) {
	given := c.open[index].value
	c.held -= given.cost()
	given.drop()
	delete(c.open, index)
	r = c.results.settle(r)
	if r.Failure == nil || !errors.Is(r.Failure.Err, ErrCanceled) {
		c.done++
		if r.Failure != nil {
			c.failed++
		}
	}
	r.Index, r.More = index, false
	c.result(r)
}

// result puts a result where it is sent from.
func (c *Call) result(r Result) {
	c.unsent += size(r)
	if !c.ordered {
		c.emit(r)
		c.announce()
		return
	}
	c.waiting[r.Index] = append(c.waiting[r.Index], r)
	for {
		ready := c.waiting[c.head]
		delete(c.waiting, c.head)
		for _, r := range ready {
			c.emit(r)
		}
		if len(ready) == 0 || ready[len(ready)-1].More {
			break
		}
		c.head++
	}
	c.announce()
}

func (c *Call) emit(r Result) {
	r.Sequence = c.base + int64(len(c.out))
	c.out = append(c.out, r)
}

func size(r Result) int {
	n := r.Value.cost()
	if r.Failure != nil {
		n += len(r.Failure.Pickle) + len(r.Failure.Traceback)
	}
	return n
}

// Cancel ends the call: what has no result gets ErrCanceled. Calling it twice, or after the end, is no error.
func (c *Call) Cancel() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended() {
		return
	}
	c.closed, c.canceled = true, true
	c.pending = nil
	left := make([]int64, 0, len(c.open))
	for index := range c.open {
		left = append(left, index)
	}
	slices.Sort(left)
	for _, index := range left {
		c.finish(index, Result{Failure: &Failure{Err: ErrCanceled}})
	}
	c.announce()
}

func (c *Call) ended() bool { return c.closed && len(c.open) == 0 }

// Progress is how far it is.
func (c *Call) Progress() Progress {
	c.mu.Lock()
	defer c.mu.Unlock()
	return Progress{
		Inputs: c.next, Done: c.done, Failed: c.failed, Ended: c.ended(), Canceled: c.canceled,
		Read: c.ended() && c.sent == c.base+int64(len(c.out)), Waiting: c.ready() && len(c.pending) == len(c.open),
	}
}

// Results are the results from a sequence number on, as they come, to the end of the call. Those before it are forgotten.
// The wait for one is over before it is there.
func (c *Call) Results(ctx context.Context, from int64, waiter Waiter) iter.Seq2[Result, error] {
	return func(yield func(Result, error) bool) {
		for {
			batch, err := c.some(ctx, from, waiter)
			if err != nil {
				yield(Result{}, err)
				return
			}
			for _, r := range batch {
				if !yield(r, nil) {
					return
				}
				from = r.Sequence + 1
				c.markSent(from)
			}
			if len(batch) == 0 {
				return
			}
		}
	}
}

// some waits for results from a sequence number on. There are none at the end.
func (c *Call) some(ctx context.Context, from int64, waiter Waiter) ([]Result, error) {
	batch, wait, err := c.batch(from)
	if wait == nil {
		return batch, err
	}
	defer waiter.wait()()
	for wait != nil {
		select {
		case <-wait:
			batch, wait, err = c.batch(from)
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
	return batch, err
}

// batch is what is there from a sequence number on; without any, what to wait for, or nil at the end.
func (c *Call) batch(from int64) ([]Result, <-chan struct{}, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if from < c.base || from > c.base+int64(len(c.out)) {
		return nil, nil, ErrGone.Errorf("results from %d on: those before %d are no longer kept, and %d are there", from, c.base, c.base+int64(len(c.out)))
	}
	c.markSentLocked(from)
	var some []Result
	bytes := 0
	for _, r := range c.out[from-c.base:] {
		if len(some) == maxBatch || bytes > batchBytes {
			break
		}
		r, err := r.load()
		if err != nil {
			return nil, nil, err
		}
		some = append(some, r)
		bytes += size(r)
	}
	if len(some) > 0 {
		return some, nil, nil
	}
	if c.ended() {
		return nil, nil, nil
	}
	return nil, c.changed, nil
}

func (c *Call) markSent(to int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.markSentLocked(to)
}

// markSentLocked notes that results before number to were sent, and forgets the oldest of those.
func (c *Call) markSentLocked(to int64) {
	if to <= c.sent {
		return
	}
	full := c.unsent > MaxBytes
	for _, r := range c.out[c.sent-c.base : to-c.base] {
		c.unsent -= size(r)
		c.kept += size(r)
		if !r.More {
			c.settled++
		}
	}
	c.sent = to
	if full && c.unsent <= MaxBytes {
		c.since = time.Now()
	}
	// A thousand at a time: what stays is moved.
	drop, over := 0, int(c.sent-c.base)-keepSent
	for drop < int(c.sent-c.base) && (over > 1000 && drop < over || c.kept > MaxBytes) {
		c.kept -= size(c.out[drop])
		c.out[drop].Value.drop()
		drop++
	}
	if drop > 0 {
		c.out = slices.Delete(c.out, 0, drop)
		c.base += int64(drop)
	}
	c.announce()
}

// Close forgets all values. Nothing can be taken or read any more.
func (c *Call) Close() error {
	c.Cancel()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.announce()
	return errors.Join(c.inputs.close(), c.results.close())
}

// Wait returns when the call has ended.
func (c *Call) Wait(ctx context.Context) error {
	for {
		c.mu.Lock()
		ended, wait := c.ended(), c.changed
		c.mu.Unlock()
		if ended {
			return nil
		}
		select {
		case <-wait:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}
