package call

import (
	"fmt"
	"os"
	"sync/atomic"
	"syscall"

	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/base/room"
)

// ErrStore is a value that could not be kept, or not be read again.
var ErrStore = errdef.New(errdef.ResourceExhausted, "call.store", "a value could not be kept")

// Budget is the memory that calls share for inputs and results, of calls that have ended too. What has no room in it is in a file of its
// call, so that nothing waits for another call's consumer, and nothing is lost.
type Budget struct {
	limit int64
	used  atomic.Int64
}

// NewBudget returns a budget of that many bytes.
func NewBudget(limit int64) *Budget { return &Budget{limit: limit} }

func (b *Budget) take(n int) bool {
	if b.used.Add(int64(n)) <= b.limit {
		return true
	}
	b.used.Add(-int64(n))
	return false
}

// piece is how much of a file is freed at once: values go about in the order in which they came.
const piece = 4 << 20

// store keeps values of one call.
type store struct {
	budget *Budget
	dir    string
	file   *os.File // without a name; nil: nothing was written yet
	end    int64
	last   *segment // is written to
	memory int      // taken from the budget
	closed bool
}

// segment is a part of the file that is freed when its values are.
type segment struct {
	start, end int64
	live       int
}

// kept is a value in a store: its bytes, or where they are.
type kept struct {
	in    *store
	size  int
	seg   *segment // nil: in memory
	start int64
}

// keep takes over a value. What comes back knows its bytes or its place.
func (s *store) keep(v Value) (Value, error) {
	if v.File != nil || len(v.Data) == 0 {
		return v, nil
	}
	k := &kept{in: s, size: len(v.Data)}
	switch {
	case s.closed:
		return v, ErrGone
	case s.budget.take(k.size):
		s.memory += k.size
	default:
		if err := s.write(k, v.Data); err != nil {
			return v, ErrStore.Errorf("the server has no room for a value of %d bytes, in memory or on disk: %w", k.size, err)
		}
		v.Data = nil
	}
	v.kept = k
	return v, nil
}

// settle keeps a final result, or says that there was no room for it. Of a failure the text and the exception are kept, as one value.
func (s *store) settle(r Result) Result {
	if f := r.Failure; f != nil && len(f.Traceback)+len(f.Pickle) > 0 {
		r.Value = Value{Data: append([]byte(f.Traceback), f.Pickle...)}
		short := *f
		short.Traceback, short.Pickle, short.text = "", nil, len(f.Traceback)
		r.Failure = &short
	}
	v, err := s.keep(r.Value)
	if err != nil {
		return Result{Failure: &Failure{Err: err}}
	}
	r.Value = v
	return r
}

// load is a result as it came.
func (r Result) load() (Result, error) {
	v, err := r.Value.load()
	if err != nil {
		return r, err
	}
	r.Value = v
	if r.Failure != nil && len(v.Data) > 0 {
		whole := *r.Failure
		whole.Traceback, whole.Pickle = string(v.Data[:whole.text]), v.Data[whole.text:]
		r.Failure, r.Value = &whole, Value{}
	}
	return r, nil
}

// Room is an error when the disk of a folder is so full that values may not fill it further: what is left is for others. A
// program in a sandbox may send values without end.
func Room(folder string) error {
	disk, err := room.Of(folder)
	if err == nil && disk.Left() == 0 {
		err = syscall.ENOSPC
	}
	return err
}

func (s *store) write(k *kept, data []byte) error {
	if s.file == nil {
		if err := os.MkdirAll(s.dir, 0o700); err != nil {
			return err
		}
		file, err := os.CreateTemp(s.dir, "values-*")
		if err != nil {
			return err
		}
		s.file = file
		if err := os.Remove(file.Name()); err != nil {
			return err
		}
	}
	if err := Room(s.dir); err != nil {
		return err
	}
	if _, err := s.file.WriteAt(data, s.end); err != nil {
		return err
	}
	if s.last == nil || s.end-s.last.start >= piece {
		full := s.last
		s.last = &segment{start: s.end}
		s.free(full)
	}
	k.seg, k.start = s.last, s.end
	s.end += int64(len(data))
	s.last.end = s.end
	s.last.live++
	return nil
}

// load returns a value with its bytes, for somebody else.
func (v Value) load() (Value, error) {
	k := v.kept
	if k == nil || k.seg == nil {
		return Value{Data: v.Data, File: v.File}, nil
	}
	if k.in.closed {
		return Value{}, ErrGone
	}
	data := make([]byte, k.size)
	if _, err := k.in.file.ReadAt(data, k.start); err != nil {
		return Value{}, fmt.Errorf("read a value again: %w", err)
	}
	return Value{Data: data}, nil
}

// drop gives back what a value takes.
func (k *kept) drop() {
	switch s := k.in; {
	case s.closed:
	case k.seg == nil:
		s.memory -= k.size
		s.budget.used.Add(-int64(k.size))
	default:
		k.seg.live--
		s.free(k.seg)
	}
}

// free gives the disk back that a segment without values takes. A file system that cannot does so at the end of the call.
func (s *store) free(seg *segment) {
	if seg == nil || seg.live > 0 || seg == s.last {
		return
	}
	const punchHole, keepSize = 2, 1
	syscall.Fallocate(int(s.file.Fd()), punchHole|keepSize, seg.start, seg.end-seg.start) //nolint:errcheck // see above
}

func (s *store) close() error {
	if s.closed {
		return nil
	}
	s.closed = true
	s.budget.used.Add(-int64(s.memory))
	if s.file == nil {
		return nil
	}
	return s.file.Close()
}
