package serial

import (
	"strings"
	"sync"
)

// Watchers are those who wait for changes of keys under a prefix. The zero value has none.
type Watchers struct {
	mu  sync.Mutex
	all map[*Watcher]struct{}
}

// Watcher is one of them.
type Watcher struct {
	// Signal has an element when something under the prefix may have changed since it was last received.
	Signal <-chan struct{}
	prefix string
	signal chan struct{} // buffered: one pending wake-up is enough
}

// Add makes a watcher. Remove gives it back.
func (ws *Watchers) Add(prefix string) *Watcher {
	c := make(chan struct{}, 1)
	w := &Watcher{Signal: c, prefix: prefix, signal: c}
	ws.mu.Lock()
	defer ws.mu.Unlock()
	if ws.all == nil {
		ws.all = map[*Watcher]struct{}{}
	}
	ws.all[w] = struct{}{}
	return w
}

// Remove forgets a watcher.
func (ws *Watchers) Remove(w *Watcher) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	delete(ws.all, w)
}

// Wake wakes every watcher that one of the keys concerns.
func (ws *Watchers) Wake(keys []string) {
	ws.wake(func(w *Watcher) bool {
		for _, k := range keys {
			if strings.HasPrefix(k, w.prefix) {
				return true
			}
		}
		return false
	})
}

// WakeAll wakes every watcher.
func (ws *Watchers) WakeAll() { ws.wake(func(*Watcher) bool { return true }) }

func (ws *Watchers) wake(concerns func(*Watcher) bool) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	for w := range ws.all {
		if concerns(w) {
			select {
			case w.signal <- struct{}{}:
			default:
			}
		}
	}
}
