package flow

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/flow/call"
	"tarn.dev/tarn/internal/flow/manifest"
	"tarn.dev/tarn/internal/flow/project"
	"tarn.dev/tarn/internal/flow/turn"
	"tarn.dev/tarn/internal/image"
	"tarn.dev/tarn/internal/runtime"
)

// idleWorker is how long a worker waits for the next call of its function.
const idleWorker = 30 * time.Second

var (
	errWorker    = errdef.New(errdef.UserCode, "call.worker_ended", "the function's process ended")
	errDeaf      = errdef.New(errdef.UserCode, "call.worker_deaf", "the function's process reads no more inputs")
	errCallTime  = errdef.New(errdef.DeadlineExceeded, "call.timeout", "the input took too long")
	errBadAnswer = errdef.New(errdef.UserCode, "call.bad_answer", "the function's process gave an unreadable answer")
)

// callable is a plain function that is ready to be called.
type callable struct {
	f                     *Flow
	code                  *code
	fn                    *manifest.Function
	env                   environment
	view                  image.View
	limits                runtime.Limits
	timeout, startTimeout time.Duration
	given                 handed
	key                   string // what makes two the same: workers are interchangeable
	folder                string // what the sandbox shows of the project's: all of it
	left                  []string
}

// numbered is an input on its way to a worker, answer what comes back: docs/formats/calls.md.
type numbered struct {
	Index int64     `json:"index"`
	Data  []byte    `json:"data,omitempty"`
	File  *valueRef `json:"file,omitempty"`
}

type answer struct {
	message
	numbered
	Module string `json:"module"`
	Pickle []byte `json:"pickle"`
}

// callWorker is a process that does one input after the other.
type callWorker struct {
	fn      *callable
	input   *os.File
	home    string // the sandbox's folder, where it leaves values
	values  string // folder of those that it reads
	answers chan answer
	ended   chan struct{} // closed when the process is gone
	exit    runtime.Exit
	err     error
	cancel  context.CancelFunc
	idle    *time.Timer

	streams [2]*marked // stdout and stderr

	mu    sync.Mutex
	print func(stream, text string) // of the call that it works for; nil while it waits
	by    *Caller                   // the input that it does
}

// worker returns one that waits for a call of this function, or a new one.
func (cs *calls) worker(ctx context.Context, fn *callable) (*callWorker, error) {
	cs.mu.Lock()
	for waiting := cs.idle[fn.key]; len(waiting) > 0; waiting = cs.idle[fn.key] {
		w := waiting[len(waiting)-1]
		cs.idle[fn.key] = waiting[:len(waiting)-1]
		w.idle.Stop()
		select {
		case <-w.ended:
		default:
			cs.mu.Unlock()
			return w, nil
		}
	}
	cs.mu.Unlock()
	return fn.start(ctx)
}

// keep lets a worker wait for the next call.
func (cs *calls) keep(w *callWorker) {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	if cs.stopped {
		cs.wg.Go(w.end)
		return
	}
	cs.idle[w.fn.key] = append(cs.idle[w.fn.key], w)
	w.idle = time.AfterFunc(idleWorker, func() {
		cs.mu.Lock()
		at := slices.Index(cs.idle[w.fn.key], w)
		if at >= 0 {
			cs.idle[w.fn.key] = slices.Delete(cs.idle[w.fn.key], at, at+1)
		}
		cs.mu.Unlock()
		if at >= 0 {
			w.end()
		}
	})
}

// wholeFolder has workers see every file of the project's folder, where an asset sees those in its key.
func (fn *callable) wholeFolder() error {
	folder, pool := fn.f.folder(fn.code.dir), fn.f.scratch("files")
	all, left, err := folder.Whole(fn.code.snap, pool)
	if err != nil {
		return err
	}
	fn.folder, fn.left = all.ID, left
	whole := *fn.code
	whole.layout = func() (string, error) { return folder.MaterializeWhole(all, fn.f.scratch("code"), pool) }
	whole.named = sync.OnceValues(whole.imports)
	fn.code = &whole
	return nil
}

// explainMissing says where a call prints that a file which the function did not find was too big to come along.
func (fn *callable) explainMissing(c *Call, in call.Input, missing []string) {
	for _, name := range missing {
		if slices.Contains(fn.left, filepath.ToSlash(filepath.Clean(name))) {
			c.print(CallOutput{Index: in.Index, Stream: "stderr", Text: fmt.Sprintf(
				"%s is not in the sandbox: files of the project beside code come along up to %s in all. Keep it as a table (tarn table import) or a file (tarn file put), or pass its content.\n",
				name, bytesText(project.MostBeside))})
		}
	}
}

// start starts a worker and waits until it has imported the function.
func (fn *callable) start(ctx context.Context) (_ *callWorker, err error) {
	laid, err := fn.code.layout()
	if err != nil {
		return nil, err
	}
	// Asked for again: a call may be older than what unused packages live.
	if _, err := fn.f.Images.Ensure(fn.f.login(ctx), fn.env.lock, nil); err != nil {
		return nil, err
	}
	a := &attempt{f: fn.f, code: fn.code}
	template, err := a.template(fn.view)
	if err != nil {
		return nil, err
	}
	values, err := fn.f.tempDir("calls", "w-*")
	if err != nil {
		return nil, err
	}
	box, err := fn.f.Runtime.Create(ctx, runtime.Spec{
		ID: "call/" + fn.fn.Name, Limits: fn.limits, Network: fn.fn.Options.Network, Template: template,
		Mounts: []runtime.Mount{{Name: "project", Source: laid}, {Name: "values", Source: values}},
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("make a sandbox for %s: %w", fn.fn.Name, err), os.RemoveAll(values))
	}
	pc := pyContext{
		Version: 1, Step: fn.fn.Name, Attempt: 1, Project: box.Path("project"), EnvName: fn.fn.Name, Packages: append([]string{}, fn.env.asked...),
		Entry:  pyEntry{File: fn.fn.File, Module: fn.fn.Module, Qualname: fn.fn.Qualname, Kind: string(fn.fn.Kind)},
		Values: &pyValues{In: box.Path("values"), Out: box.Home() + "/" + valuePrefix},
		Calls:  &pyCalls{Socket: filepath.Join(box.Path("values"), callsSocket), Project: fn.f.name},
	}
	read, write, err := os.Pipe()
	if err != nil {
		return nil, errors.Join(err, box.Close(), os.RemoveAll(values))
	}
	if err := writeJSON(filepath.Join(box.HostHome(), ".tarn-context.json"), pc); err != nil {
		return nil, errors.Join(err, read.Close(), write.Close(), box.Close(), os.RemoveAll(values))
	}
	listener, err := listenIn(values)
	if err != nil {
		return nil, errors.Join(err, read.Close(), write.Close(), box.Close(), os.RemoveAll(values))
	}
	// A worker outlives the call that it was started for.
	wctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	env := pythonEnv(box.Home(), fn.view, box.Path)
	maps.Copy(env, fn.given.env)
	w := &callWorker{fn: fn, input: write, home: box.HostHome(), values: values, answers: make(chan answer), ended: make(chan struct{}), cancel: cancel}
	w.by = newCaller(wctx, fn.f, nil, nil)
	w.streams = [2]*marked{w.writer("stdout"), w.writer("stderr")}
	hangUp := w.listen(listener)
	fn.f.calls.wg.Go(func() {
		defer close(w.ended)
		defer cancel()
		w.exit, w.err = box.Run(wctx, runtime.Command{
			Argv: slices.Concat([]string{fn.view.Python.Path}, interpreterFlags, []string{"tarn._serve"}),
			Env:  env, Dir: box.Path("project"), Stdin: read,
			Stdout: w.streams[0], Stderr: w.streams[1],
			Message: func(line []byte) {
				var a answer
				err := json.Unmarshal(line, &a)
				if err == nil && a.Type == "start" { // the runner's word that it imports
					return
				}
				if err != nil {
					a = answer{message: message{Type: "unreadable", Message: clip(fn.given.Text(string(line)))}}
				}
				fn.given.answer(&a)
				select {
				case w.answers <- a:
				case <-wctx.Done():
				}
			},
		})
		w.err = errors.Join(w.err, write.Close(), hangUp(), box.Close(), os.RemoveAll(values))
	})
	defer read.Close() //nolint:errcheck // only the worker reads: a write fails when it does not
	select {
	case first := <-w.answers:
		if first.Type == "ready" {
			return w, nil
		}
		w.end()
		return nil, userError(first.message)
	case <-w.ended:
		return nil, w.died()
	case <-ctx.Done():
		w.end()
		return nil, context.Cause(ctx)
	}
}

// end ends the worker and returns when all of it is gone.
func (w *callWorker) end() {
	w.cancel()
	<-w.ended
}

// do has the worker do one input, in its turn. classes are those of the exception, if there was one. fit says that it can do another.
func (w *callWorker) do(ctx context.Context, c *Call, in call.Input, mine *turn.Lent) (r call.Result, classes []string, fit bool) {
	by, ended := c.caller(ctx, mine)
	w.mu.Lock()
	waits := w.by
	w.by = by
	w.print = func(stream, text string) { c.print(CallOutput{Index: in.Index, Stream: stream, Text: text}) }
	w.mu.Unlock()
	defer func() {
		w.mu.Lock()
		w.print, w.by = nil, waits
		w.mu.Unlock()
		ended()
	}()
	failed := func(err error) (call.Result, []string, bool) {
		return call.Result{Failure: &call.Failure{Err: err}}, nil, false
	}
	for _, s := range w.streams {
		s.forget()
	}
	given := numbered{Index: in.Index, Data: in.Value.Data}
	if file := in.Value.File; file != nil {
		link := filepath.Join(w.values, file.Name)
		if err := os.Link(c.valuePath(file.Name), link); err != nil {
			return call.Result{Failure: &call.Failure{Err: fmt.Errorf("lay out a value for %s: %w", w.fn.fn.Name, err)}}, nil, true
		}
		defer os.Remove(link) // what the function still maps of it lives on
		given.File = &valueRef{Name: file.Name}
	}
	sent := make(chan error, 1)
	go func() {
		line, err := json.Marshal(given)
		if err == nil {
			_, err = w.input.Write(append(line, '\n'))
		}
		sent <- err
	}()
	var late <-chan time.Time
	if w.fn.timeout > 0 {
		timer := time.NewTimer(w.fn.timeout)
		defer timer.Stop()
		late = timer.C
	}
	for {
		select {
		case a := <-w.answers:
			if a.Index != in.Index {
				return failed(errBadAnswer.Errorf("%s: an answer to input %d came for input %d", w.fn.fn.Name, a.Index, in.Index))
			}
			if a.Type != "yield" {
				w.drain(ctx)
			}
			switch a.Type {
			case "yield", "value":
				value, err := c.taken(w, a)
				switch {
				case err != nil:
					return failed(err)
				case a.Type == "value":
					return call.Result{Value: value}, nil, true
				case !c.Yield(ctx, in, value, mine.Wait):
					return failed(context.Canceled)
				}
			case "end":
				return call.Result{End: true}, nil, true
			case "error":
				c.fn.explainMissing(c, in, a.NotFound) // the worker may be of an earlier call, which saw another folder
				return call.Result{Failure: &call.Failure{
					Err: userError(a.message), Class: a.Class, Module: a.Module, Traceback: a.Traceback, Pickle: a.Pickle,
				}}, append(a.Bases, a.Class), true
			default:
				return failed(errBadAnswer.Errorf("%s: %s", w.fn.fn.Name, clip(a.Message)))
			}
		case <-w.ended:
			return failed(w.died())
		case <-late:
			return failed(errCallTime.Errorf("%s ran longer than %s. timeout=... allows more.", w.fn.fn.Name, w.fn.timeout))
		case err := <-sent:
			if err != nil && !errors.Is(err, os.ErrClosed) { // closed: it has ended
				return failed(w.deaf(ctx))
			}
			sent = nil
		case <-ctx.Done():
			return failed(call.ErrCanceled)
		}
	}
}

// deafPatience is how long a worker that takes no inputs may need to end, if that is why.
const deafPatience = 5 * time.Second

// deaf says why a worker takes no inputs: it ends, or it closed what they come by and lives on.
func (w *callWorker) deaf(ctx context.Context) error {
	patience := time.NewTimer(deafPatience)
	defer patience.Stop()
	select {
	case <-w.ended:
		return w.died()
	case <-ctx.Done():
		return call.ErrCanceled
	case <-patience.C:
		return errDeaf.Errorf("the process of %s reads no more inputs: an earlier one closed its descriptors", w.fn.fn.Name)
	}
}

// died says how the process ended.
func (w *callWorker) died() error {
	name := w.fn.fn.Name
	switch {
	case w.err != nil:
		return w.err
	case w.exit.Reason == runtime.OutOfMemory:
		return errMemory.Errorf("%s used %s, its limit. %s.", name, bytesText(w.exit.Usage.PeakMemoryBytes), asks(w.fn.fn, "memory", w.exit.Usage.PeakMemoryBytes))
	case w.exit.Reason == runtime.DiskFull:
		wrote := w.exit.Usage.DiskBytes
		return errDisk.Errorf("%s wrote %s, more than its limit. %s.", name, bytesText(wrote), asks(w.fn.fn, "disk", wrote))
	case w.exit.Reason == runtime.NoRoom:
		return noRoom(w.fn.fn, w.exit.Usage.DiskBytes, "")
	case w.exit.Reason == runtime.TooManyProcesses:
		return errStorm.Errorf("%s ran more than %d processes and threads at once", name, runtime.DefaultPIDs)
	case w.exit.Reason == runtime.Signaled:
		return errKilled.Errorf("%s was killed by signal %d", name, w.exit.Signal)
	case w.exit.Reason == runtime.Canceled:
		return call.ErrCanceled
	}
	return errWorker.Errorf("the process of %s ended with exit status %d before it returned. os._exit() does that, or closing descriptors that are not its own", name, w.exit.Code)
}

// drain waits until what the function printed for an input has arrived: it takes another way than the answer.
func (w *callWorker) drain(ctx context.Context) {
	late := time.NewTimer(drainPatience)
	defer late.Stop()
	for _, s := range w.streams {
		select {
		case <-s.reached:
		case <-w.ended:
		case <-late.C:
			return
		case <-ctx.Done():
			return
		}
	}
}

const (
	// outputMark is what a worker writes to both streams behind the output of an input.
	outputMark = "\x00tarn: input done\x00"
	// drainPatience bounds the wait for a mark that a function has kept from coming.
	drainPatience = 2 * time.Second
)

// writer passes what the process prints to the call that it works for.
func (w *callWorker) writer(stream string) *marked {
	return &marked{to: w.fn.given.Writer(&printer{w: w, stream: stream}), reached: make(chan struct{}, 1)}
}

// marked takes the marks out of a stream of output. A piece that may be the beginning of one is held back.
type marked struct {
	to      io.Writer
	held    []byte
	reached chan struct{}
}

// forget drops a mark that nobody waited for.
func (m *marked) forget() {
	select {
	case <-m.reached:
	default:
	}
}

// Write implements io.Writer.
func (m *marked) Write(text []byte) (int, error) {
	m.held = append(m.held, text...)
	for {
		before, after, found := bytes.Cut(m.held, []byte(outputMark))
		if !found {
			break
		}
		if _, err := m.to.Write(before); err != nil {
			return 0, err
		}
		m.held = after
		select {
		case m.reached <- struct{}{}:
		default:
		}
	}
	keep := min(len(outputMark)-1, len(m.held))
	for !strings.HasPrefix(outputMark, string(m.held[len(m.held)-keep:])) {
		keep--
	}
	if _, err := m.to.Write(m.held[:len(m.held)-keep]); err != nil {
		return 0, err
	}
	m.held = bytes.Clone(m.held[len(m.held)-keep:])
	return len(text), nil
}

type printer struct {
	w      *callWorker
	stream string
}

// Write implements io.Writer.
func (p *printer) Write(text []byte) (int, error) {
	p.w.mu.Lock()
	print := p.w.print
	p.w.mu.Unlock()
	if print != nil {
		print(p.stream, string(bytes.ToValidUTF8(text, []byte("\uFFFD"))))
	}
	return len(text), nil
}
