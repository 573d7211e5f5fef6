package turn

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"

	"pgregory.net/rapid"
)

// one is somebody who wants a turn.
type one struct {
	number int
	rank   Rank
	claims []Claim
	leave  context.CancelFunc
	got    chan func()
	done   func()
}

// TestModel has some come, go and give up, and holds after each step that who has a turn may, and who waits must.
func TestModel(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		synctest.Test(t, func(*testing.T) { model(rt) })
	})
}

// before is the order of ranks, said another way.
func before(a, b Rank) bool {
	if a.Priority != b.Priority {
		return a.Priority > b.Priority
	}
	if a.Again != b.Again {
		return a.Again
	}
	return a.Depth > b.Depth
}

func model(t *rapid.T) {
	turns := New()
	var waiting, inside []*one // waiting: in the order of T2
	came, left := 0, 4
	used := func(of string) (n int) {
		for _, o := range inside {
			for _, c := range o.claims {
				if c.Of == of {
					n += c.Share
				}
			}
		}
		return n
	}
	// settle moves those that got a turn inside, and compares with what a look at all of them says.
	settle := func() {
		synctest.Wait()
		held := map[string]bool{}
		var still []*one
		for _, o := range waiting {
			fits := true
			for _, c := range o.claims {
				limit := c.Limit
				if c.Now != nil {
					limit = left
				}
				if n := used(c.Of); held[c.Of] || n > 0 && n+c.Share > limit {
					fits, held[c.Of] = false, true
				}
			}
			select {
			case o.done = <-o.got:
				if !fits {
					t.Fatalf("T1, T2: %d got a turn with %v", o.number, o.claims)
				}
				inside = append(inside, o)
			default:
				if fits {
					t.Fatalf("T3: %d waits for %v", o.number, o.claims)
				}
				still = append(still, o)
			}
		}
		waiting = still
	}
	take := func(from *[]*one) *one {
		if len(*from) == 0 {
			return nil
		}
		i := rapid.IntRange(0, len(*from)-1).Draw(t, "i")
		o := (*from)[i]
		*from = slices.Delete(*from, i, i+1)
		return o
	}
	t.Repeat(map[string]func(*rapid.T){
		"come": func(t *rapid.T) {
			rank := Rank{Priority: rapid.IntRange(-1, 1).Draw(t, "priority"), Again: rapid.Bool().Draw(t, "again"), Depth: rapid.IntRange(0, 2).Draw(t, "depth")}
			o := &one{number: came, rank: rank, got: make(chan func(), 1)}
			came++
			left = rapid.IntRange(0, 4).Draw(t, "left")
			for _, of := range []string{"cores", "a", "b", "disk"} {
				if rapid.Bool().Draw(t, of) {
					c := Claim{Of: of, Share: rapid.IntRange(1, 5).Draw(t, "share"), Limit: rapid.IntRange(1, 4).Draw(t, "limit")}
					if of == "disk" {
						c.Now = func() int { return left }
					}
					o.claims = append(o.claims, c)
				}
			}
			ctx, leave := context.WithCancel(context.Background())
			o.leave = leave
			at := len(waiting)
			for at > 0 && before(o.rank, waiting[at-1].rank) {
				at--
			}
			waiting = slices.Insert(waiting, at, o)
			go func() {
				if done, err := turns.Take(ctx, o.rank, o.claims...); err == nil {
					o.got <- done
				} else if !errors.Is(err, context.Canceled) {
					panic(err)
				}
			}()
			settle()
		},
		"go": func(*rapid.T) {
			if o := take(&inside); o != nil {
				o.done()
				o.done() // T4: once
				settle()
			}
		},
		"give up": func(*rapid.T) {
			if o := take(&waiting); o != nil {
				o.leave()
				settle()
			}
		},
	})
	for len(waiting)+len(inside) > 0 {
		if len(inside) == 0 {
			t.Fatalf("T3: with nothing in use, %d wait", len(waiting))
		}
		last := inside[len(inside)-1]
		inside = inside[:len(inside)-1]
		last.done()
		last.leave()
		settle()
	}
	if len(turns.used) > 0 || len(turns.waiting) > 0 {
		t.Fatalf("T4: in use at the end: %v", turns.used)
	}
}
