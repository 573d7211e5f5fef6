package turn

import (
	"context"
	"slices"
	"testing"
	"testing/synctest"

	"pgregory.net/rapid"
)

// TestLentModel has holders of turns wait, go on and end in any order, where only some may hold one at a time.
func TestLentModel(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		synctest.Test(t, func(*testing.T) { lentModel(rt) })
	})
}

// holder is a turn that can be lent, and those who wait for it.
type holder struct {
	lent    *Lent
	waits   []func()
	goingOn int // ended their wait, and did not go on yet
}

func lentModel(t *rapid.T) {
	const most = 2
	turns := New()
	claim := Claim{Of: "cores", Share: 1, Limit: most}
	var holders []*holder
	check := func() {
		synctest.Wait()
		held, wants := 0, 0
		for _, h := range holders {
			h.lent.mu.Lock()
			has, waiting := h.lent.done != nil, h.lent.waiting
			h.lent.mu.Unlock()
			switch {
			case has && waiting > 0:
				t.Fatal("L1: held while somebody waits")
			case waiting != len(h.waits):
				t.Fatalf("L1: %d wait, want %d", waiting, len(h.waits))
			case has:
				held++
				if h.goingOn > 0 {
					t.Fatal("L2: held, and who waited does not go on")
				}
			case waiting == 0:
				wants++
			}
		}
		if held > most {
			t.Fatalf("T1: %d held", held)
		}
		if held < most && wants > 0 {
			t.Fatalf("L2: %d held, and %d want to go on", held, wants)
		}
	}
	pick := func(fits func(*holder) bool) *holder {
		some := slices.DeleteFunc(slices.Clone(holders), func(h *holder) bool { return !fits(h) })
		if len(some) == 0 {
			return nil
		}
		return rapid.SampledFrom(some).Draw(t, "holder")
	}
	t.Repeat(map[string]func(*rapid.T){
		"": func(*rapid.T) { check() },
		"begin": func(*rapid.T) {
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			got := make(chan *Lent, 1)
			go func() {
				l, err := turns.Lend(ctx, Rank{}, claim)
				if err == nil {
					got <- l
				}
			}()
			synctest.Wait()
			select {
			case l := <-got:
				holders = append(holders, &holder{lent: l})
			default: // others have their turn
			}
		},
		"wait": func(*rapid.T) {
			if h := pick(func(*holder) bool { return true }); h != nil {
				h.waits = append(h.waits, h.lent.Wait())
			}
		},
		"go on": func(t *rapid.T) {
			h := pick(func(h *holder) bool { return len(h.waits) > 0 })
			if h == nil {
				return
			}
			back := h.waits[0]
			h.waits = h.waits[1:]
			h.goingOn++
			went := make(chan struct{})
			go func() {
				back()
				back() // once
				close(went)
			}()
			go func() {
				<-went
				h.lent.mu.Lock()
				h.goingOn--
				h.lent.mu.Unlock()
			}()
		},
		"end": func(*rapid.T) {
			if h := pick(func(*holder) bool { return true }); h != nil {
				h.lent.Done()
				synctest.Wait()
				if h.goingOn > 0 || h.lent.done != nil {
					t.Fatal("L3: held or waited for at its end")
				}
				holders = slices.DeleteFunc(holders, func(o *holder) bool { return o == h })
			}
		},
	})
	for _, h := range holders {
		h.lent.Done()
	}
	synctest.Wait()
	if len(turns.used) > 0 || len(turns.waiting) > 0 {
		t.Fatalf("L3: in use at the end: %v", turns.used)
	}
}
