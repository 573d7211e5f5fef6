package lease

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"tarn.dev/tarn/internal/meta"
)

// Queue hands out turns in the order in which they were asked for. It has no state of its own: every
// Queue with the same store and prefix is the same queue, in any process.
type Queue struct {
	store  meta.Store
	prefix string
}

// NewQueue returns the queue under prefix. Only tickets live under it.
func NewQueue(store meta.Store, prefix string) *Queue {
	return &Queue{store, prefix + "/"}
}

// Ticket is a place in a queue. Acquire returns it when it is at the head: then it is a lease.
type Ticket struct {
	store   meta.Store
	session *Session
	key     string
	epoch   int64
	once    sync.Once
	err     error
}

// Epoch is the ticket's number. A later turn has a higher one.
func (t *Ticket) Epoch() int64 { return t.epoch }

// Conditions hold as long as the turn lasts. They go into every transaction made in its course.
func (t *Ticket) Conditions() []meta.Condition {
	return []meta.Condition{t.session.Condition(), meta.At(t.key, t.epoch)}
}

// Releasing gives the turn back as part of a transaction. Call Release nevertheless: it is free then.
func (t *Ticket) Releasing() meta.Write { return meta.Delete(t.key) }

// Release gives the turn back; the next in the queue gets it. It works also when ctx has ended,
// because nobody else can. Releasing twice is no error.
func (t *Ticket) Release(ctx context.Context) error {
	t.once.Do(func() {
		// Bounded, since a release that hangs helps nobody: the ticket dies with its session.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), t.session.ttl)
		defer cancel()
		if _, t.err = t.store.Get(ctx, t.key); t.err == nil {
			_, t.err = t.store.Txn(ctx, nil, []meta.Write{meta.Delete(t.key)})
		}
		if errors.Is(t.err, meta.ErrNotFound) {
			t.err = nil
		}
		if t.err != nil {
			t.err = fmt.Errorf("release %s: %w", t.key, t.err)
			return
		}
		t.session.mu.Lock()
		delete(t.session.tickets, t.key)
		t.session.mu.Unlock()
	})
	return t.err
}

// Acquire takes a ticket and waits for its turn. It gives up, leaving nothing behind, when ctx ends or
// the session is over.
//
// A ticket is one unconditional row, numbered by its transaction: any number of callers join with one
// write each, where a counter would have them fail and retry. Each waits for the one before it only, so
// that a turn that ends wakes one.
func (q *Queue) Acquire(ctx context.Context, s *Session) (*Ticket, error) {
	t := &Ticket{store: q.store, session: s, key: q.prefix + newID()}
	s.mu.Lock()
	if s.cause != nil {
		defer s.mu.Unlock()
		return nil, s.cause
	}
	s.tickets[t.key] = struct{}{} // before the write, so that End sees it
	s.mu.Unlock()
	var err error
	t.epoch, err = q.store.Txn(ctx, []meta.Condition{s.Condition(), meta.Absent(t.key)},
		[]meta.Write{meta.Set(t.key, []byte(s.key))})
	if err == nil {
		err = q.wait(ctx, t)
	}
	if err == nil {
		return t, nil
	}
	if errors.Is(err, meta.ErrConditionFailed) {
		err = ErrLost.Errorf("wait for a turn in %s: %w", q.prefix, err)
	}
	return nil, errors.Join(err, t.Release(ctx))
}

func (q *Queue) wait(ctx context.Context, t *Ticket) error {
	for {
		before, err := q.before(ctx, t)
		if err != nil {
			return err
		}
		if before == nil {
			// The one before may have been of this very session, and gone because it was fenced.
			_, err := q.store.Txn(ctx, t.Conditions(), nil)
			return err
		}
		if err := q.waitGone(ctx, t.session, *before); err != nil {
			return err
		}
	}
}

// before returns the ticket right before t, nil when t is at the head.
func (q *Queue) before(ctx context.Context, t *Ticket) (*meta.Row, error) {
	var found *meta.Row
	there := false
	for row, err := range q.store.Scan(ctx, meta.Prefix(q.prefix)) {
		if err != nil {
			return nil, err
		}
		there = there || row.Key == t.key
		if row.Version < t.epoch && (found == nil || row.Version > found.Version) {
			found = &row
		}
	}
	if !there {
		return nil, ErrLost.Errorf("wait for a turn in %s: the ticket was taken away", q.prefix)
	}
	return found, nil
}

// waitGone returns when ticket has been given back, or was removed because its session is over.
func (q *Queue) waitGone(ctx context.Context, s *Session, ticket meta.Row) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	// Before the look below, so that nothing falls between.
	gone, over := q.deleted(ctx, ticket.Key), q.deleted(ctx, string(ticket.Value))
	if _, err := q.store.Get(ctx, ticket.Key); err != nil {
		if errors.Is(err, meta.ErrNotFound) {
			return nil
		}
		return err
	}
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case err := <-gone:
			return err
		case err := <-over: // whoever fences a session does not know its tickets
			if err != nil {
				return err
			}
			timer.Reset(0)
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-s.Done():
			return s.Err()
		case <-timer.C:
			// Not a poll: a live session is looked at once per promise it makes.
			until, err := q.removeDead(ctx, ticket)
			if err != nil {
				return err
			}
			timer.Reset(time.Until(until))
		}
	}
}

// deleted tells when a row is deleted after now, or why that cannot be known.
func (q *Queue) deleted(ctx context.Context, key string) <-chan error {
	events := q.store.Watch(ctx, key, -1)
	told := make(chan error, 1)
	go func() {
		for e, err := range events {
			if err != nil || e.Deleted && e.Key == key {
				told <- err
				return
			}
		}
	}()
	return told
}

// removeDead removes ticket if its session is over, fencing the session if it has expired. Otherwise it
// returns until when the session has promised to live.
func (q *Queue) removeDead(ctx context.Context, ticket meta.Row) (time.Time, error) {
	info, err := load(ctx, q.store, string(ticket.Value))
	switch {
	case errors.Is(err, meta.ErrNotFound):
		_, err := q.store.Txn(ctx, nil, []meta.Write{meta.Delete(ticket.Key)})
		return time.Now().Add(time.Hour), err // the watch sees the deletion
	case err != nil:
		return time.Time{}, err
	case !info.Expired():
		return info.Until, nil
	}
	_, err = info.fence(ctx, q.store, meta.Delete(ticket.Key))
	return time.Now(), err // look again: it may have renewed itself at the last moment
}

// Holder describes who stands at the head, and how many wait behind. No holder is no error.
func (q *Queue) Holder(ctx context.Context) (holder *Info, waiting int, err error) {
	var tickets []meta.Row
	for row, err := range q.store.Scan(ctx, meta.Prefix(q.prefix)) {
		if err != nil {
			return nil, 0, err
		}
		tickets = append(tickets, row)
	}
	if len(tickets) == 0 {
		return nil, 0, nil
	}
	head := slices.MinFunc(tickets, func(a, b meta.Row) int { return cmp.Compare(a.Version, b.Version) })
	info, err := load(ctx, q.store, string(head.Value))
	if errors.Is(err, meta.ErrNotFound) {
		return nil, len(tickets) - 1, nil
	}
	return &info, len(tickets) - 1, err
}

func newID() string {
	var b [10]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}
