package lease_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/meta"
	"tarn.dev/tarn/internal/meta/lease"
	"tarn.dev/tarn/internal/meta/sqlitemeta"
)

const ttl = 10 * time.Second

func TestSessionLivesWhileItBeats(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, store *flaky) {
		s := begin(t, store, "one")
		time.Sleep(20 * ttl) // fake time
		synctest.Wait()
		if !s.Alive() || s.Err() != nil {
			t.Errorf("alive %v, err %v after 20 ttl", s.Alive(), s.Err())
		}
		must(t, guarded(t, store, s))
		must(t, s.End(t.Context()))
		must(t, s.End(t.Context()))
		<-s.Done()
		wantErr(t, s.Err(), lease.ErrEnded)
		wantErr(t, guarded(t, store, s), meta.ErrConditionFailed)
		if rows := scan(t, store, "s/"); len(rows) != 0 {
			t.Errorf("rows left: %v", rows)
		}
	})
}

func TestEpochsGrow(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, store *flaky) {
		last := int64(0)
		for range 3 {
			s := begin(t, store, "x")
			if s.Epoch() <= last {
				t.Errorf("epoch %d after %d", s.Epoch(), last)
			}
			last = s.Epoch()
			must(t, s.End(t.Context()))
		}
	})
}

func TestSilentSessionIsFenced(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, store *flaky) {
		s := begin(t, store, "silent")
		other := begin(t, store, "other")
		infos := sessions(t, store)
		if gone, err := lease.Fence(t.Context(), store.Store, infos["silent"]); gone || err != nil {
			t.Errorf("a live session was fenced: %v, %v", gone, err)
		}
		store.cut(s.Key())
		time.Sleep(ttl + time.Second)
		synctest.Wait()
		<-s.Done()
		if s.Alive() {
			t.Error("alive without heart-beats")
		}
		wantErr(t, s.Err(), lease.ErrLost)
		must(t, guarded(t, store, s)) // expired, but nobody has fenced it yet
		info := sessions(t, store)["silent"]
		if !info.Expired() || info.Epoch != s.Epoch() {
			t.Errorf("info = %+v", info)
		}
		alive, err := lease.FenceExpired(t.Context(), store.Store, "s")
		must(t, err)
		if diff := cmp.Diff([]string{other.Key()}, alive); diff != "" {
			t.Error(diff)
		}
		wantErr(t, guarded(t, store, s), meta.ErrConditionFailed)
		must(t, guarded(t, store, other))
		must(t, s.End(t.Context()))
		must(t, other.End(t.Context()))
	})
}

// A process that was stopped for longer than its ttl learns of it at its next heart-beat.
func TestFencedSessionLearnsOfIt(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, store *flaky) {
		s := begin(t, store, "x")
		must(t, lease.FenceGone(t.Context(), store.Store, s.Key()))
		must(t, lease.FenceGone(t.Context(), store.Store, s.Key()))
		<-s.Done()
		wantErr(t, s.Err(), lease.ErrLost)
		must(t, s.End(t.Context()))
	})
}

func TestSessionSurvivesShortOutage(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, store *flaky) {
		s := begin(t, store, "x")
		store.cut(s.Key())
		time.Sleep(ttl * 8 / 10)
		store.heal()
		time.Sleep(3 * ttl)
		synctest.Wait()
		if !s.Alive() {
			t.Errorf("lost: %v", s.Err())
		}
		must(t, s.End(t.Context()))
	})
}

func TestQueueIsFair(t *testing.T) {
	t.Parallel()
	store := open(t)
	s := begin(t, &flaky{Store: store}, "x")
	q := lease.NewQueue(store, "q")
	const n = 50
	var mu sync.Mutex
	var order []int64
	var inside atomic.Int64
	var wg sync.WaitGroup
	for range n {
		wg.Go(func() {
			ticket, err := q.Acquire(t.Context(), s)
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
			_, err = store.Txn(t.Context(), ticket.Conditions(), []meta.Write{meta.Set("done", nil)})
			if err != nil {
				t.Errorf("txn: %v", err)
			}
			inside.Add(-1)
			if err := ticket.Release(t.Context()); err != nil {
				t.Errorf("release: %v", err)
			}
		})
	}
	wg.Wait()
	if len(order) != n || !slices.IsSorted(order) {
		t.Errorf("%d turns, in order: %v: %v", len(order), slices.IsSorted(order), order)
	}
	if rows := scan(t, store, "q/"); len(rows) != 0 {
		t.Errorf("rows left: %v", rows)
	}
	must(t, s.End(t.Context()))
}

func TestTicketDiesWithItsSession(t *testing.T) {
	t.Parallel()
	for name, kill := range map[string]func(t *testing.T, store *flaky, dead *lease.Session){
		"ended":  func(t *testing.T, _ *flaky, dead *lease.Session) { must(t, dead.End(t.Context())) },
		"silent": func(_ *testing.T, store *flaky, dead *lease.Session) { store.cut(dead.Key()) },
		"fenced": func(t *testing.T, store *flaky, dead *lease.Session) {
			_, err := store.Store.Txn(t.Context(), nil, []meta.Write{meta.Delete(dead.Key()), meta.Delete(dead.Key() + "/beat")})
			must(t, err)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bubble(t, func(t *testing.T, store *flaky) {
				dead, live := begin(t, store, "dead"), begin(t, store, "live")
				q := lease.NewQueue(store.Store, "q")
				held, err := q.Acquire(t.Context(), dead)
				must(t, err)
				waiter := make(chan error, 1)
				go func() {
					_, err := q.Acquire(t.Context(), dead) // one more of the dead, in the middle
					waiter <- err
				}()
				synctest.Wait()
				got := make(chan *lease.Ticket, 1)
				go func() {
					ticket, err := q.Acquire(t.Context(), live)
					if err != nil {
						t.Errorf("acquire: %v", err)
					}
					got <- ticket
				}()
				synctest.Wait()
				if info, waiting, err := q.Holder(t.Context()); err != nil || info == nil || info.Owner != "dead" || waiting != 2 {
					t.Errorf("holder %+v, %d waiting, %v", info, waiting, err)
				}
				kill(t, store, dead)
				start := time.Now()
				ticket := <-got
				if took := time.Since(start); took > 2*ttl || name != "silent" && took > 0 {
					t.Errorf("took over after %s", took)
				}
				if err := <-waiter; err == nil {
					t.Error("a dead session got a turn")
				}
				if ticket.Epoch() <= held.Epoch() {
					t.Errorf("epoch %d after %d", ticket.Epoch(), held.Epoch())
				}
				_, err = store.Store.Txn(t.Context(), held.Conditions(), []meta.Write{meta.Set("x", nil)})
				wantErr(t, err, meta.ErrConditionFailed)
				_, err = store.Store.Txn(t.Context(), ticket.Conditions(), []meta.Write{meta.Set("x", nil), ticket.Releasing()})
				must(t, err)
				must(t, errors.Join(ticket.Release(t.Context()), ticket.Release(t.Context())))
				must(t, errors.Join(dead.End(t.Context()), live.End(t.Context())))
				if diff := cmp.Diff([]string{"x"}, scan(t, store, "")); diff != "" {
					t.Error(diff)
				}
			})
		})
	}
}

func TestGivingUpLeavesTheQueue(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, store *flaky) {
		s := begin(t, store, "x")
		q := lease.NewQueue(store, "q")
		first, err := q.Acquire(t.Context(), s)
		must(t, err)
		why := errors.New("enough")
		ctx, cancel := context.WithCancelCause(t.Context())
		gaveUp := make(chan error, 1)
		go func() {
			_, err := q.Acquire(ctx, s)
			gaveUp <- err
		}()
		synctest.Wait()
		third := make(chan error, 1)
		go func() {
			_, err := q.Acquire(t.Context(), s)
			third <- err
		}()
		synctest.Wait()
		cancel(why)
		wantErr(t, <-gaveUp, why)
		synctest.Wait()
		if rows := scan(t, store, "q/"); len(rows) != 2 {
			t.Errorf("tickets: %v", rows)
		}
		must(t, first.Release(t.Context()))
		must(t, <-third)
		must(t, s.End(t.Context()))
	})
}

func TestEndedSessionGetsNoTurn(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, store *flaky) {
		s := begin(t, store, "x")
		must(t, s.End(t.Context()))
		_, err := lease.NewQueue(store, "q").Acquire(t.Context(), s)
		wantErr(t, err, lease.ErrEnded)
		if _, err := lease.Begin(t.Context(), store, "s", 0, "x"); errdef.CodeOf(err) != errdef.InvalidArgument {
			t.Errorf("ttl 0: %v", err)
		}
	})
}

// flaky is a store that can be cut off from writes to one session, as a lost network would.
type flaky struct {
	meta.Store
	gone atomic.Pointer[string]
}

func (f *flaky) cut(session string) { k := session + "/beat"; f.gone.Store(&k) }
func (f *flaky) heal()              { f.gone.Store(nil) }

func (f *flaky) Txn(ctx context.Context, c []meta.Condition, w []meta.Write) (int64, error) {
	if k := f.gone.Load(); k != nil && len(w) == 1 && w[0].Key == *k {
		return 0, errdef.New(errdef.Unavailable, "test.cut", "cut off")
	}
	return f.Store.Txn(ctx, c, w)
}

func bubble(t *testing.T, test func(*testing.T, *flaky)) {
	path := filepath.Join(t.TempDir(), "meta.db")
	synctest.Test(t, func(t *testing.T) {
		store, err := sqlitemeta.Open(path)
		must(t, err)
		test(t, &flaky{Store: store})
		must(t, store.Close())
	})
}

func open(t *testing.T) meta.Store {
	store, err := sqlitemeta.Open(filepath.Join(t.TempDir(), "meta.db"))
	must(t, err)
	t.Cleanup(func() { must(t, store.Close()) })
	return store
}

func begin(t *testing.T, store *flaky, owner string) *lease.Session {
	t.Helper()
	s, err := lease.Begin(t.Context(), store, "s", ttl, owner)
	must(t, err)
	return s
}

// guarded writes with the session's condition.
func guarded(t *testing.T, store *flaky, s *lease.Session) error {
	_, err := store.Store.Txn(t.Context(), []meta.Condition{s.Condition()}, []meta.Write{meta.Set("x", []byte(fmt.Sprint(s.Epoch())))})
	return err
}

func sessions(t *testing.T, store meta.Store) map[string]lease.Info {
	t.Helper()
	m := map[string]lease.Info{}
	for info, err := range lease.Sessions(t.Context(), store, "s") {
		must(t, err)
		m[info.Owner] = info
	}
	return m
}

func scan(t *testing.T, store meta.Store, prefix string) (keys []string) {
	t.Helper()
	for row, err := range store.Scan(t.Context(), meta.Prefix(prefix)) {
		must(t, err)
		keys = append(keys, row.Key)
	}
	return keys
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantErr(t *testing.T, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("error = %v, want %v", err, want)
	}
}
