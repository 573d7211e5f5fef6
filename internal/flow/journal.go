package flow

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"path/filepath"
	"sync"

	"tarn.dev/tarn/internal/base/errdef"
)

// journal is every event of a live run in order, on scratch. Writers never wait for readers, and readers may
// be as slow as they like: they miss nothing and hold nothing in memory.
type journal struct {
	path string

	mu      sync.Mutex
	file    *os.File
	w       *bufio.Writer
	written int64           // bytes that readers find in the file, whole lines
	logged  map[string]bool // steps with output
	err     error           // of the first write that failed; nothing is kept after it
	late    []Event         // what is not output and came after err, for those who wait for the end of the run
	changed chan struct{}   // closed by the next event; nil while nobody waits
	ended   bool
}

func newJournal(path string) *journal { return &journal{path: path, logged: map[string]bool{}} }

// append keeps an event. The error is the first one only: the caller reports it once.
func (j *journal) append(e Event) (err error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.err == nil {
		if err = j.writeLocked(e); err != nil {
			j.err = errdef.Newf(errdef.ResourceExhausted, "run.journal", "keep the output of %s: %w", e.Run, err)
			err = j.err
		}
	}
	if j.err != nil && e.Type != "log" && e.Type != "progress" {
		j.late = append(j.late, e)
	}
	j.wakeLocked()
	return err
}

func (j *journal) writeLocked(e Event) error {
	if err := j.openLocked(); err != nil {
		return err
	}
	b, err := json.Marshal(e)
	if err != nil {
		return err
	}
	if e.Type == "log" {
		j.logged[e.Step] = true
	}
	_, err = j.w.Write(append(b, '\n'))
	return err
}

func (j *journal) openLocked() error {
	if j.file != nil {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(j.path), 0o700); err != nil {
		return err
	}
	file, err := os.OpenFile(j.path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	j.file, j.w = file, bufio.NewWriter(file)
	return nil
}

func (j *journal) wakeLocked() {
	if j.changed != nil {
		close(j.changed)
		j.changed = nil
	}
}

// flushLocked makes what was appended visible to readers.
func (j *journal) flushLocked() {
	if j.w == nil || j.err != nil {
		return
	}
	if err := j.w.Flush(); err != nil {
		j.err = errdef.Newf(errdef.ResourceExhausted, "run.journal", "keep the output of a run: %w", err)
		return
	}
	if at, err := j.file.Seek(0, io.SeekEnd); err == nil {
		j.written = at
	}
}

// end says that nothing follows, and removes the file: readers that have it open go on to its end.
func (j *journal) end() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.flushLocked()
	j.ended = true
	j.wakeLocked()
	if j.file == nil {
		return nil
	}
	return errors.Join(j.file.Close(), os.Remove(j.path))
}

// open returns a reader, or nil when the run has ended.
func (j *journal) open() (*os.File, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.ended {
		return nil, nil
	}
	if err := j.openLocked(); err != nil {
		return nil, fmt.Errorf("follow a run: %w", err)
	}
	return os.Open(j.path)
}

// state is how far a reader may read, and what to wait for when it is there.
func (j *journal) state() (end int64, late []Event, ended bool, changed <-chan struct{}) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.flushLocked()
	if j.changed == nil && !j.ended {
		j.changed = make(chan struct{})
	}
	return j.written, j.late, j.ended, j.changed
}

// read yields the events after a number, until the run ends, or without follow until now. A progress that was
// superseded before the reader came is left out. It closes r.
func (j *journal) read(ctx context.Context, r *os.File, after int64, follow bool) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		defer r.Close() // read-only
		in := bufio.NewReaderSize(r, 64<<10)
		first, _, _, _ := j.state()
		for at := int64(0); ; {
			end, late, ended, changed := j.state()
			for at < end {
				line, err := in.ReadBytes('\n')
				at += int64(len(line))
				var e Event
				if err == nil {
					err = json.Unmarshal(line, &e)
				}
				if err != nil {
					yield(Event{}, errdef.Newf(errdef.DataLoss, "run.journal", "read a run's events: %w", err))
					return
				}
				if e.Seq <= after || e.Type == "progress" && at < first {
					continue
				}
				if after = e.Seq; !yield(e, nil) {
					return
				}
			}
			for _, e := range late {
				if e.Seq > after {
					if after = e.Seq; !yield(e, nil) {
						return
					}
				}
			}
			if ended || !follow {
				return
			}
			select {
			case <-changed:
			case <-ctx.Done():
				yield(Event{}, context.Cause(ctx))
				return
			}
		}
	}
}

func (j *journal) hasOutput(step string) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.logged[step]
}

// output copies a step's output.
func (j *journal) output(step string, w io.Writer) error {
	j.mu.Lock()
	j.flushLocked()
	end, lost := j.written, j.err
	j.mu.Unlock()
	r, err := os.Open(j.path)
	if err != nil {
		return err
	}
	defer r.Close() // read-only
	// A quote inside of a text is escaped, so this is found in the fields only.
	name, err := json.Marshal(step)
	if err != nil {
		return err
	}
	isLog, isStep := []byte(`,"type":"log",`), append([]byte(`,"step":`), append(name, ',')...)
	in := bufio.NewReaderSize(io.LimitReader(r, end), 64<<10)
	for {
		line, err := in.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		if bytes.Contains(line, isLog) && bytes.Contains(line, isStep) {
			if _, err := w.Write(line); err != nil {
				return err
			}
		}
	}
	if lost != nil {
		return json.NewEncoder(w).Encode(Event{Type: "log", Step: step, Stream: "stderr", Message: "the rest was lost: " + lost.Error()})
	}
	return nil
}
