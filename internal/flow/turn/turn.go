// Package turn says who goes on where only so many may at a time: the cores, memory and disk of a machine, and limits that
// functions name.
//
// Invariants, which the model test holds:
//
//	T1  When a turn is given, what is in use of each thing it claims, its own share included, is at most its claim's limit then,
//	    or nobody else has any of it: who asks for more than there is goes on alone.
//	T2  Of two that wait for the same thing, the one with the higher rank goes first, then the one that came first. So a large
//	    share is not starved by small ones, nor a low limit by high ones. What somebody claims and does not wait for, for
//	    there is room, goes to others while he waits for something else.
//	T3  Nobody waits without a reason: a thing without room, or one that somebody ahead waits for.
//	T4  What was taken is given back once. Who stops waiting has taken nothing.
package turn

import (
	"cmp"
	"context"
	"slices"
	"sync"
)

// Claim is a share of something of which only so much may be in use, seen by who claims it.
type Claim struct {
	Of           string
	Share, Limit int
	Now          func() int // the limit, where that changes; it must not block
}

// fits says whether the share is there beside what is in use.
func (c Claim) fits(used int) bool {
	limit := c.Limit
	if c.Now != nil {
		limit = c.Now()
	}
	return used == 0 || used <= limit-c.Share
}

// Rank says who goes first: by priority; in one priority who had a turn already and goes on, then what is deeper in calls of
// calls. So what was begun ends before more is begun: a tree of calls is walked, and not held whole.
type Rank struct {
	Priority int
	Again    bool
	Depth    int
}

// compare is negative when r goes before other.
func (r Rank) compare(other Rank) int {
	again := 0
	if r.Again != other.Again {
		again = 1
		if r.Again {
			again = -1
		}
	}
	return cmp.Or(cmp.Compare(other.Priority, r.Priority), again, cmp.Compare(other.Depth, r.Depth))
}

// Turns hands out turns. Safe for concurrent use.
type Turns struct {
	mu      sync.Mutex
	used    map[string]int
	waiting []*waiter // in the order of T2
}

type waiter struct {
	rank   Rank
	claims []Claim
	given  chan struct{} // closed with the turn
}

// New returns turns of which none is taken.
func New() *Turns { return &Turns{used: map[string]int{}} }

// Take waits for a turn and returns what gives it back.
func (t *Turns) Take(ctx context.Context, rank Rank, claims ...Claim) (done func(), err error) {
	w := &waiter{rank: rank, claims: claims, given: make(chan struct{})}
	t.mu.Lock()
	at, _ := slices.BinarySearchFunc(t.waiting, rank, func(w *waiter, rank Rank) int {
		return cmp.Or(w.rank.compare(rank), -1) // behind its equals
	})
	t.waiting = slices.Insert(t.waiting, at, w)
	t.give()
	t.mu.Unlock()
	select {
	case <-w.given:
	case <-ctx.Done():
		t.mu.Lock()
		defer t.mu.Unlock()
		if at := slices.Index(t.waiting, w); at >= 0 {
			t.waiting = slices.Delete(t.waiting, at, at+1)
		} else {
			t.back(claims)
		}
		t.give()
		return nil, context.Cause(ctx)
	}
	return sync.OnceFunc(func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.back(claims)
		t.give()
	}), nil
}

// Lacking are those of the claims for which there is no room now, and what is in use of each.
func (t *Turns) Lacking(claims ...Claim) (lacking []Claim, used []int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, c := range claims {
		if has := t.used[c.Of]; !c.fits(has) {
			lacking, used = append(lacking, c), append(used, has)
		}
	}
	return lacking, used
}

func (t *Turns) back(claims []Claim) {
	for _, c := range claims {
		if t.used[c.Of] -= c.Share; t.used[c.Of] == 0 {
			delete(t.used, c.Of)
		}
	}
}

// give hands out every turn that may be given now.
func (t *Turns) give() {
	held := map[string]bool{} // for somebody ahead
	t.waiting = slices.DeleteFunc(t.waiting, func(w *waiter) bool {
		fits := true
		for _, c := range w.claims {
			if held[c.Of] || !c.fits(t.used[c.Of]) {
				fits, held[c.Of] = false, true
			}
		}
		if !fits {
			return false
		}
		for _, c := range w.claims {
			t.used[c.Of] += c.Share
		}
		close(w.given)
		return true
	})
}
