//go:build linux

package process

import (
	"sync"
	"time"

	"tarn.dev/tarn/internal/base/room"
	"tarn.dev/tarn/internal/runtime"
)

// disk keeps the spare room of the disk free that all sandboxes write on. Each has a limit, but many may stay below theirs and
// fill it together, for which the store, and with it everybody, would suffer. When the spare room is touched, the one that has
// written most is ended.
type disk struct {
	room func() (room.Room, error)

	mu    sync.Mutex
	wrote map[*sandbox]int64 // of those that run, as they said last
	freed time.Time          // when what the last one left will be gone
}

// freeTime is how long what an ended command wrote may still be there. Nobody else is ended for it.
const freeTime = 2 * time.Second

// grew is told when a sandbox has written or removed much.
func (d *disk) grew(s *sandbox, bytes int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.wrote[s] = bytes; time.Now().Before(d.freed) {
		return
	}
	if left, err := d.room(); err != nil || left.Left() > 0 {
		return
	}
	most := s
	for other, bytes := range d.wrote {
		if bytes > d.wrote[most] {
			most = other
		}
	}
	d.freed = time.Now().Add(freeTime)
	most.stop(errNoRoom)
}

// ended forgets a command's folders.
func (d *disk) ended(s *sandbox) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.wrote, s)
}

// counted are the folders of mounts that Limits.DiskBytes counts, as seen inside.
func (s *sandbox) counted(mounts []runtime.Mount) [][]byte {
	var dirs [][]byte
	for _, m := range mounts {
		switch {
		case !m.Writable || m.Uncounted:
		case s.runtime.level == runtime.Process:
			dirs = append(dirs, []byte(m.Source))
		default:
			dirs = append(dirs, []byte(inside(m)))
		}
	}
	return dirs
}

// stop ends the Run under way, if there is one.
func (s *sandbox) stop(cause error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cancel != nil {
		s.cancel(cause)
	}
}
