package lake

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"

	"tarn.dev/tarn/internal/meta"
	"tarn.dev/tarn/internal/meta/lease"
)

// operations counts what is under way, by the epoch in which it began. Garbage collection deletes nothing
// that an operation may have found before the epoch: docs/design/garbage.md, R7.
type operations struct {
	mu       sync.Mutex
	epoch    int64
	underway map[int64]int
	waiting  []*waiter
}

// waiter wants all operations that began before an epoch to end.
type waiter struct {
	epoch int64
	done  chan struct{}
}

// enter begins an operation in the newest epoch.
func (o *operations) enter() (leave func()) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.underway == nil {
		o.underway = map[int64]int{}
	}
	epoch := o.epoch
	o.underway[epoch]++
	return sync.OnceFunc(func() { o.leave(epoch) })
}

func (o *operations) leave(epoch int64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.underway[epoch]--; o.underway[epoch] == 0 {
		delete(o.underway, epoch)
	}
	o.wake()
}

// advance lets operations begin in a newer epoch from now on. The channel is closed when all older ones
// have ended.
func (o *operations) advance(epoch int64) <-chan struct{} {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.epoch = max(o.epoch, epoch)
	w := &waiter{epoch, make(chan struct{})}
	o.waiting = append(o.waiting, w)
	o.wake()
	return w.done
}

// wake closes the channels of those who have nothing left to wait for; mu is held.
func (o *operations) wake() {
	kept := o.waiting[:0]
	for _, w := range o.waiting {
		if o.before(w.epoch) {
			kept = append(kept, w)
		} else {
			close(w.done)
		}
	}
	clear(o.waiting[len(kept):])
	o.waiting = kept
}

// before reports whether an operation older than epoch is under way; mu is held.
func (o *operations) before(epoch int64) bool {
	for began := range o.underway {
		if began < epoch {
			return true
		}
	}
	return false
}

// Enter begins an operation: until leave is called, nothing is deleted that could be reached when it
// began, or that was stored since. Whoever reads something and names it later, in another batch, enters
// before the first look and leaves after the last. Leaving twice is no error.
func (l *Lake) Enter() (leave func()) { return l.operations.enter() }

// Epoch numbers stretches of time: what an operation has stored may be believed to be there, without
// another look, by operations that read the same number, the first before it stored anything.
func (l *Lake) Epoch() int64 {
	l.operations.mu.Lock()
	defer l.operations.mu.Unlock()
	return l.operations.epoch
}

// seenRow is a session's report: all of its operations began in Epoch or later. It is 0 at first: they
// began after the row was written.
type seenRow struct {
	Session string `json:"session"`
	Epoch   int64  `json:"epoch"`
}

func (l *Lake) epochKey() string   { return l.prefix + "gc/epoch" }
func (l *Lake) seenPrefix() string { return l.prefix + "gc/seen/" }
func (l *Lake) seenKey(s *lease.Session) string {
	return l.seenPrefix() + meta.Key(s.Key())
}

// takePart begins to take part in garbage collection in the name of s.
func (l *Lake) takePart(ctx context.Context, s *lease.Session) error {
	changes := l.rows.Watch(l.stopped, l.epochKey(), -1) // before the report: no epoch falls between
	if err := l.report(ctx, s, 0); err != nil {
		return err
	}
	if err := l.refreshNow(ctx); err != nil {
		return err
	}
	l.following.Add(2)
	go func() {
		defer l.following.Done()
		l.followGraves()
	}()
	go func() {
		defer l.following.Done()
		for change, err := range changes {
			if err == nil && !change.Deleted {
				err = l.follow(s, change.Version)
			}
			if err != nil {
				if context.Cause(l.stopped) == nil && s.Err() == nil {
					slog.Warn("taking part in garbage collection", "prefix", l.prefix, "error", err)
				}
				return // the collector waits until the session ends
			}
		}
	}()
	return nil
}

// followGraves reads what is forgotten again whenever that changes.
func (l *Lake) followGraves() {
	for _, err := range l.rows.Watch(l.stopped, l.gravesKey(), -1) {
		if err == nil {
			_, err = l.readGraves(l.stopped)
		}
		if err != nil {
			if context.Cause(l.stopped) == nil {
				slog.Warn("following what is forgotten", "prefix", l.prefix, "error", err)
			}
			return // the next epoch reads it anyway
		}
	}
}

// follow takes an epoch over, and reports it when all older operations have ended.
func (l *Lake) follow(s *lease.Session, epoch int64) error {
	// Before anything begins in the epoch: what was condemned must look so.
	if err := l.refreshNow(l.stopped); err != nil {
		return err
	}
	if _, err := l.readGraves(l.stopped); err != nil {
		return err
	}
	l.cache.purge() // of what was forgotten, too
	select {
	case <-l.operations.advance(epoch):
	case <-s.Done():
		return s.Err()
	case <-l.stopped.Done():
		return context.Cause(l.stopped)
	}
	return l.report(l.stopped, s, epoch)
}

func (l *Lake) report(ctx context.Context, s *lease.Session, epoch int64) error {
	value, err := json.Marshal(seenRow{Session: s.Key(), Epoch: epoch})
	if err != nil {
		return err
	}
	_, err = l.rows.Txn(ctx, []meta.Condition{s.Condition()}, []meta.Write{meta.Set(l.seenKey(s), value)})
	return lostSession(s, err)
}

// lostSession words the failure of a transaction because the session is over.
func lostSession(s *lease.Session, err error) error {
	var failed *meta.ConditionError
	if errors.As(err, &failed) && failed.Condition.Key == s.Key() {
		return lease.ErrLost.Errorf("the session was lost, as after a machine's sleep; nothing was changed: %w", err)
	}
	return err
}

// session is in whose name the lake writes now: the one it was given, or one of its own, begun when the
// lake is opened and again when it was lost, as after a machine's sleep.
func (l *Lake) session(ctx context.Context) (*lease.Session, error) {
	x := &l.sessions
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.current != nil && (x.given || x.current.Alive()) {
		return x.current, nil
	}
	own, err := lease.Begin(ctx, l.rows, sessionPrefix, sessionTTL, fmt.Sprintf("lake of process %d", os.Getpid()))
	if err != nil {
		return nil, err
	}
	if err := l.takePart(ctx, own); err != nil {
		return nil, errors.Join(err, own.End(context.WithoutCancel(ctx)))
	}
	x.current = own
	return own, nil
}

// leaveAll ends taking part: what is closed has no operations.
func (l *Lake) leaveAll(ctx context.Context) error {
	x := &l.sessions
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.current == nil {
		return nil
	}
	_, err := l.rows.Txn(ctx, nil, []meta.Write{meta.Delete(l.seenKey(x.current))})
	if !x.given {
		err = errors.Join(err, x.current.End(ctx))
	}
	x.current = nil
	return err
}
