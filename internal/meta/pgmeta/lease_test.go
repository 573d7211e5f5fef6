package pgmeta_test

import (
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"tarn.dev/tarn/internal/meta"
	"tarn.dev/tarn/internal/meta/lease"
	"tarn.dev/tarn/internal/meta/pgmeta"
	"tarn.dev/tarn/internal/meta/pgmeta/pgtest"
)

func begin(t *testing.T, s meta.Store, ttl time.Duration) *lease.Session {
	t.Helper()
	session, err := lease.Begin(t.Context(), s, "s", ttl, "test")
	must(t, err)
	return session
}

// Turns of two servers: one at a time, in the order of the tickets.
func TestQueueAcrossServers(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	stores := []*pgmeta.Store{open(t, url), open(t, url)}
	var mu sync.Mutex
	var order []int64
	var inside atomic.Int64
	var wg sync.WaitGroup
	var sessions []*lease.Session
	for _, s := range stores {
		session, q := begin(t, s, time.Minute), lease.NewQueue(s, "q")
		sessions = append(sessions, session)
		for range 15 {
			wg.Go(func() {
				ticket, err := q.Acquire(t.Context(), session)
				if err != nil {
					t.Errorf("acquire: %v", err)
					return
				}
				if inside.Add(1) != 1 {
					t.Error("two have the turn")
				}
				mu.Lock()
				order = append(order, ticket.Epoch())
				mu.Unlock()
				if _, err := s.Txn(t.Context(), ticket.Conditions(), []meta.Write{meta.Set("done", nil)}); err != nil {
					t.Errorf("txn: %v", err)
				}
				inside.Add(-1)
				if err := ticket.Release(t.Context()); err != nil {
					t.Errorf("release: %v", err)
				}
			})
		}
	}
	wg.Wait()
	if len(order) != 30 || !slices.IsSorted(order) {
		t.Errorf("%d turns: %v", len(order), order)
	}
	for i, s := range stores {
		must(t, sessions[i].End(t.Context()))
		must(t, s.Close())
	}
}

// A server that goes away without a word loses its turn to another one, and can change nothing after that.
func TestTurnOfAServerThatIsGone(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	gone, live := open(t, url), open(t, url)
	const ttl = 500 * time.Millisecond
	dead, session := begin(t, gone, ttl), begin(t, live, time.Minute)
	held, err := lease.NewQueue(gone, "q").Acquire(t.Context(), dead)
	must(t, err)
	must(t, gone.Close()) // so that no heart-beat gets through
	ticket, err := lease.NewQueue(live, "q").Acquire(t.Context(), session)
	must(t, err)
	if ticket.Epoch() <= held.Epoch() {
		t.Errorf("epoch %d after %d", ticket.Epoch(), held.Epoch())
	}
	if _, err := live.Txn(t.Context(), held.Conditions(), []meta.Write{meta.Set("x", nil)}); !errors.Is(err, meta.ErrConditionFailed) {
		t.Errorf("txn: %v", err)
	}
	<-dead.Done()
	if err := dead.Err(); !errors.Is(err, lease.ErrLost) {
		t.Errorf("the session ended with %v", err)
	}
	must(t, ticket.Release(t.Context()))
	must(t, session.End(t.Context()))
	must(t, live.Close())
}
