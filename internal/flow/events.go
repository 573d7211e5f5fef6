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

	"tarn.dev/tarn/internal/lake"
	"tarn.dev/tarn/internal/meta"
)

// live is a run that executes in this process: its events as they happen, and the way to end it.
type live struct {
	f      *Flow
	cancel context.CancelCauseFunc
	done   chan struct{}

	mu     sync.Mutex
	run    *Run
	steps  map[string]*Step
	seq    int64
	past   []Event // what is not a log line; bounded by the number of steps
	busy   Event   // the latest progress of a step
	subs   map[chan Event]bool
	logs   map[string]*stepLog
	unsent []meta.Write
}

// stepLog is the output of one step, as JSON lines on scratch until it is sealed.
type stepLog struct {
	file *os.File
	w    *bufio.Writer
}

func (f *Flow) newLive(run *Run, cancel context.CancelCauseFunc) *live {
	return &live{
		f: f, run: run, cancel: cancel, done: make(chan struct{}), steps: map[string]*Step{}, subs: map[chan Event]bool{},
		logs: map[string]*stepLog{},
	}
}

// emit publishes one event. Log lines go to the step's log; the rest is kept with the run.
func (lv *live) emit(e Event) {
	lv.mu.Lock()
	defer lv.mu.Unlock()
	lv.emitLocked(e)
}

func (lv *live) emitLocked(e Event) {
	lv.seq++
	e.Seq, e.Time, e.Run, e.Message = lv.seq, now(), lv.run.ID, clip(e.Message)
	switch {
	case e.Type == "log":
		lv.logLocked(e)
	case e.Type == "progress" && e.Step != "": // the next one supersedes it
		lv.busy = e
	default:
		lv.past = append(lv.past, e)
		if b, err := json.Marshal(e); err == nil { // plain strings and numbers
			lv.unsent = append(lv.unsent, meta.Set(fmt.Sprintf("%s%012d", lv.f.runs.eventPrefix(e.Run), e.Seq), b))
		}
	}
	for ch := range lv.subs {
		select {
		case ch <- e:
		default: // a reader that does not read must not stop the run; it is told to read again
			delete(lv.subs, ch)
			close(ch)
		}
	}
}

func (lv *live) logLocked(e Event) {
	l := lv.logs[e.Step]
	if l == nil {
		path := lv.f.logPath(e.Run, e.Step)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			lv.f.Log.Error("keep log", "step", e.Step, "err", err)
			return
		}
		file, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
		if err != nil {
			lv.f.Log.Error("keep log", "step", e.Step, "err", err)
			return
		}
		l = &stepLog{file: file, w: bufio.NewWriter(file)}
		lv.logs[e.Step] = l
	}
	b, _ := json.Marshal(e) // plain strings and numbers
	_, _ = l.w.Write(append(b, '\n'))
	_ = l.w.Flush() // followers read the file
}

func (f *Flow) logPath(run, step string) string { return f.scratch("logs", run, lake.DefKey(step)) }

// sealLog stores a step's log and returns where it is.
func (lv *live) sealLog(ctx context.Context, b *lake.Batch, step string) (*lake.FileRef, error) {
	lv.mu.Lock()
	l := lv.logs[step]
	delete(lv.logs, step)
	lv.mu.Unlock()
	if l == nil {
		return nil, nil
	}
	if err := errors.Join(l.w.Flush(), l.file.Close()); err != nil {
		return nil, fmt.Errorf("close log of %s: %w", step, err)
	}
	r, err := os.Open(lv.f.logPath(lv.run.ID, step))
	if err != nil {
		return nil, fmt.Errorf("seal log of %s: %w", step, err)
	}
	defer r.Close()
	ref, err := b.PutFile(ctx, r)
	if err != nil {
		return nil, fmt.Errorf("seal log of %s: %w", step, err)
	}
	return &ref, nil
}

// subscribe yields what happens after seq, until the run ends.
func (lv *live) subscribe(ctx context.Context, after int64) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		const room = 4096
		for {
			ch := make(chan Event, room)
			lv.mu.Lock()
			var past []Event
			for _, e := range lv.past {
				if e.Seq > after {
					past = append(past, e)
				}
			}
			if lv.busy.Seq > after && lv.busy.Seq == lv.seq { // what the run is at right now
				past = append(past, lv.busy)
			}
			lv.subs[ch] = true
			lv.mu.Unlock()
			again, ok := lv.follow(ctx, ch, past, &after, yield)
			lv.mu.Lock()
			if lv.subs[ch] {
				delete(lv.subs, ch)
			}
			lv.mu.Unlock()
			if !again || !ok {
				return
			}
		}
	}
}

// follow yields past, then what comes; again says that the reader fell behind and must start over.
func (lv *live) follow(ctx context.Context, ch chan Event, past []Event, after *int64, yield func(Event, error) bool) (again, ok bool) {
	send := func(e Event) bool {
		*after = e.Seq
		return yield(e, nil)
	}
	for _, e := range past {
		if !send(e) {
			return false, false
		}
	}
	for {
		select {
		case e, open := <-ch:
			if !open {
				return true, true
			}
			if !send(e) {
				return false, false
			}
		case <-lv.done:
			for { // what was sent before the end
				select {
				case e, open := <-ch:
					if open && !send(e) {
						return false, false
					}
					if !open {
						return true, true
					}
				default:
					return false, true
				}
			}
		case <-ctx.Done():
			yield(Event{}, context.Cause(ctx))
			return false, false
		}
	}
}

// lines is a writer that emits each line it gets.
type lines struct {
	emit func(line string)
	part []byte
}

func (l *lines) Write(p []byte) (int, error) {
	const longest = 16 << 10
	n := len(p)
	for len(p) > 0 {
		i := bytes.IndexByte(p, '\n')
		if i < 0 {
			l.part = append(l.part, p...)
			if len(l.part) > longest {
				l.flush()
			}
			return n, nil
		}
		l.part = append(l.part, p[:i]...)
		l.flushLine()
		p = p[i+1:]
	}
	return n, nil
}

func (l *lines) flushLine() {
	l.emit(string(bytes.TrimSuffix(l.part, []byte("\r"))))
	l.part = l.part[:0]
}

func (l *lines) flush() {
	if len(l.part) > 0 {
		l.flushLine()
	}
}

// LogLine is one line of a step's output.
type LogLine = Event

// Logs yields the output of a run's steps in order; with follow it goes on until the run ends.
func (f *Flow) Logs(ctx context.Context, run, step string, follow bool) iter.Seq2[LogLine, error] {
	return func(yield func(LogLine, error) bool) {
		r, err := f.Get(ctx, run)
		if err != nil {
			yield(LogLine{}, err)
			return
		}
		steps, err := f.Steps(ctx, r.ID)
		if err != nil {
			yield(LogLine{}, err)
			return
		}
		if step != "" {
			st, err := f.runs.step(ctx, r.ID, step)
			if lv := f.liveRun(r.ID); err != nil && lv == nil {
				yield(LogLine{}, err)
				return
			} else if err == nil {
				steps = []*Step{st}
			}
		}
		var seen int64
		for _, st := range steps {
			for line, err := range f.stepLines(ctx, st) {
				seen = max(seen, line.Seq)
				if !yield(line, err) || err != nil {
					return
				}
			}
		}
		lv := f.liveRun(r.ID)
		if !follow || lv == nil {
			return
		}
		for e, err := range lv.subscribe(ctx, seen) {
			if err == nil && (e.Type != "log" || step != "" && e.Step != step) {
				continue
			}
			if !yield(e, err) || err != nil {
				return
			}
		}
	}
}

func (f *Flow) stepLines(ctx context.Context, st *Step) iter.Seq2[LogLine, error] {
	return func(yield func(LogLine, error) bool) {
		var r io.ReadCloser
		var err error
		if st.Log != nil {
			r, err = f.lake.OpenFile(ctx, *st.Log)
		} else {
			r, err = os.Open(f.logPath(st.Run, st.Name))
		}
		if errors.Is(err, os.ErrNotExist) {
			return
		}
		if err != nil {
			yield(LogLine{}, fmt.Errorf("read log of %s: %w", st.Label(), err))
			return
		}
		defer r.Close()
		sc := bufio.NewScanner(r)
		sc.Buffer(nil, 1<<20)
		for sc.Scan() {
			var e Event
			if json.Unmarshal(sc.Bytes(), &e) != nil {
				continue // the last line of a killed server
			}
			if !yield(e, nil) {
				return
			}
		}
		if err := sc.Err(); err != nil {
			yield(LogLine{}, fmt.Errorf("read log of %s: %w", st.Label(), err))
		}
	}
}
