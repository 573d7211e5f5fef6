// Package idle counts the reasons to stay up, and says when there have been none for a while.
package idle

import (
	"sync"
	"time"
)

// Tracker counts holds. Every connection, run or session holds it while it lives.
type Tracker struct {
	after time.Duration // zero: never idle
	done  chan struct{}

	mu    sync.Mutex
	holds int
	over  bool
	timer *time.Timer
}

// firstWait is the least time that is given for the first hold: whoever started the process needs a
// moment to come.
const firstWait = 10 * time.Second

// New makes a tracker without holds, whose time runs from now. With after zero it is never done.
func New(after time.Duration) *Tracker {
	t := &Tracker{after: after, done: make(chan struct{})}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.restart(max(after, firstWait))
	return t
}

// Hold keeps the tracker from being done until release is called; calling release again has no effect.
func (t *Tracker) Hold() (release func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.holds++
	if t.timer != nil {
		t.timer.Stop()
	}
	return sync.OnceFunc(func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.holds--
		t.restart(t.after)
	})
}

// Active is the number of holds.
func (t *Tracker) Active() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.holds
}

// Done is closed when nothing held the tracker for the whole time.
func (t *Tracker) Done() <-chan struct{} { return t.done }

// Stop frees the timer; the tracker will not become done by itself any more.
func (t *Tracker) Stop() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.after = 0
	if t.timer != nil {
		t.timer.Stop()
	}
}

func (t *Tracker) restart(wait time.Duration) {
	if t.after == 0 || t.holds > 0 || t.over {
		return
	}
	t.timer = time.AfterFunc(wait, func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		// A hold may have come between the timer's firing and this lock.
		if t.holds == 0 && t.after > 0 && !t.over {
			t.over = true
			close(t.done)
		}
	})
}
