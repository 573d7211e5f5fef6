package flow

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"sync"

	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/lake"
	"tarn.dev/tarn/internal/meta"
)

// live is a run that executes in this process: its events as they happen, and the way to end it.
type live struct {
	f      *Flow
	cancel context.CancelCauseFunc
	done   chan struct{}

	journal *journal

	mu      sync.Mutex
	run     *Run
	steps   map[string]*Step
	seq     int64
	unsent  []meta.Write
	toldAll map[string]bool // steps whose row has no room for more of what items told
}

func (f *Flow) newLive(run *Run, cancel context.CancelCauseFunc) *live {
	return &live{
		f: f, run: run, cancel: cancel, done: make(chan struct{}), steps: map[string]*Step{}, toldAll: map[string]bool{},
		journal: newJournal(f.scratch("logs", run.ID+".jsonl")),
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
	if err := lv.journal.append(e); err != nil {
		lv.f.Log.Error("journal of a run", "err", err)
	}
	if e.Type == "log" || e.Type == "progress" && e.Step != "" {
		return
	}
	if b, err := json.Marshal(e); err == nil { // plain strings and numbers
		lv.unsent = append(lv.unsent, meta.Set(fmt.Sprintf("%s%012d", lv.f.runs.eventPrefix(e.Run), e.Seq), b))
	}
}

// sealLog stores a step's output and returns where it is.
func (lv *live) sealLog(ctx context.Context, b *lake.Batch, step string) (*lake.FileRef, error) {
	r, w := io.Pipe()
	go func() { w.CloseWithError(lv.journal.output(step, w)) }()
	ref, err := b.PutFile(ctx, r)
	r.CloseWithError(err) //nolint:errcheck // it returns none
	if err != nil {
		return nil, fmt.Errorf("seal log of %s: %w", step, err)
	}
	return &ref, nil
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
		if lv := f.liveRun(r.ID); lv != nil {
			file, err := lv.journal.open()
			if err != nil {
				yield(LogLine{}, err)
				return
			}
			if file != nil {
				outputOf(step, lv.journal.read(ctx, file, 0, follow), yield)
				return
			}
		}
		steps, err := f.Steps(ctx, r.ID)
		if err == nil && step != "" {
			var st *Step
			st, err = f.runs.step(ctx, r.ID, step)
			steps = []*Step{st}
		}
		if err != nil {
			yield(LogLine{}, err)
			return
		}
		for _, st := range steps {
			for line, err := range f.stepLines(ctx, st) {
				if !yield(line, err) || err != nil {
					return
				}
			}
		}
	}
}

// outputOf yields the output of one step, or of all, among a run's events.
func outputOf(step string, events iter.Seq2[Event, error], yield func(LogLine, error) bool) {
	for e, err := range events {
		if err == nil && (e.Type != "log" || step != "" && e.Step != step) {
			continue
		}
		if !yield(e, err) || err != nil {
			return
		}
	}
}

// stepLines yields the output of a step of a run that has ended.
func (f *Flow) stepLines(ctx context.Context, st *Step) iter.Seq2[LogLine, error] {
	return func(yield func(LogLine, error) bool) {
		if st.Log == nil {
			return
		}
		r, err := f.lake.OpenFile(ctx, *st.Log)
		if err != nil {
			yield(LogLine{}, fmt.Errorf("read log of %s: %w", st.Label(), err))
			return
		}
		defer r.Close()
		sc := bufio.NewScanner(r)
		sc.Buffer(nil, 1<<20)
		for sc.Scan() {
			var e Event
			if err := json.Unmarshal(sc.Bytes(), &e); err != nil {
				yield(LogLine{}, errdef.Newf(errdef.DataLoss, "run.log", "read log of %s: %w", st.Label(), err))
				return
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
