package query

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/dustin/go-humanize"

	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/runtime"
)

// child is one engine process in a sandbox of its own.
type child struct {
	box    runtime.Sandbox
	stdin  *os.File
	lines  chan []byte // what it says
	stdout *outlet
	stderr *tail
	kill   context.CancelFunc

	owner string      // of the jobs that it ran
	jobs  int         // how many
	idle  *time.Timer // ends it

	closing sync.Once
	ended   chan struct{} // closed when the process is gone
	exit    runtime.Exit  // how; valid after ended
	err     error         // why it could not run; valid after ended
}

// environment is all that a child has. Until its first job it only starts, 8 MB of Go memory: collecting garbage
// meanwhile is a fifth of the time (35 ms, 28 without). The engine turns the collector on.
var environment = map[string]string{"LC_ALL": "C.UTF-8", "GOGC": "off"}

// startChild returns at once: the process starts in the background.
func startChild(ctx context.Context, opt Options) (*child, error) {
	box, err := opt.Runtime.Create(ctx, runtime.Spec{
		ID: Role, Mounts: []runtime.Mount{{Name: "program", Source: opt.Command[0], InPlace: true}},
	})
	if err != nil {
		return nil, ErrCrashed.Errorf("start the query engine: %w", err)
	}
	stdin, ours, err := os.Pipe()
	if err != nil {
		return nil, errors.Join(ErrCrashed.Errorf("start the query engine: %w", err), box.Close())
	}
	run, kill := context.WithCancel(context.WithoutCancel(ctx))
	c := &child{box: box, stdin: ours, lines: make(chan []byte), stderr: &tail{}, kill: kill, ended: make(chan struct{})}
	c.stdout = newOutlet(kill)
	go func() {
		defer close(c.ended)
		c.exit, c.err = box.Run(run, runtime.Command{
			Argv: opt.Command, Env: environment, Stdin: stdin, Stdout: c.stdout, Stderr: c.stderr,
			Message: func(line []byte) {
				select {
				case c.lines <- bytes.Clone(line):
				case <-run.Done(): // nobody listens
				}
			},
		})
		stdin.Close()
		c.stdout.end()
	}()
	return c, nil
}

func (c *child) dead() bool {
	select {
	case <-c.ended:
		return true
	default:
		return false
	}
}

// close kills the process and frees what it held. It returns when the process is gone. Closing twice
// is no error.
func (c *child) close() {
	c.closing.Do(func() {
		c.stdin.Close()
		c.kill()
		<-c.ended
		_ = c.box.Close() // the folder of sandboxes is emptied at the next start
	})
}

// empty says that no job has left anything in its folder.
func (c *child) empty() bool {
	left, err := os.ReadDir(c.box.HostHome())
	return err == nil && len(left) == 0
}

// Started is what a child says before it begins with a job.
const Started = "started"

// errUnsent says that a child died before it began with the job: another one may have it.
var errUnsent = errors.New("the query engine ended before it began")

// give shows a job's files to the child and bounds it as the job is.
func (c *child) give(ctx context.Context, limits runtime.Limits, mounts []runtime.Mount) error {
	err := c.box.Assign(ctx, limits, mounts...)
	// A pipe that nobody reads any more breaks a moment before the end is known.
	if err != nil && ctx.Err() == nil && (c.dead() || errors.Is(err, syscall.EPIPE)) {
		return fmt.Errorf("%w: %w", errUnsent, c.crash(err))
	}
	return err
}

// do sends a job and returns its result. Ending ctx kills the process. stdout gets what the job streams, supply what the
// child needs of excerpts.
func (c *child) do(ctx context.Context, job Job, stdout io.Writer, supply func(context.Context, Needs) error) (Result, error) {
	defer context.AfterFunc(ctx, c.kill)()
	c.stdout.pass(stdout)
	var refused error
	result, err := c.exchange(job, func(needs Needs) error {
		refused = supply(ctx, needs)
		return refused
	})
	if err != nil {
		c.stdin.Close() // a child that still waits for the rest of the line ends
		c.kill()
	} else {
		c.stdout.wait(streamed(result))
	}
	written := c.stdout.pass(io.Discard)
	switch {
	case ctx.Err() != nil:
		return Result{}, errdef.As(context.Cause(ctx))
	case refused != nil:
		return Result{}, refused
	case written != nil:
		return Result{}, fmt.Errorf("pass on the rows: %w", written)
	case errors.Is(err, errUnsent):
		return Result{}, fmt.Errorf("%w: %w", errUnsent, c.crash(err))
	case err != nil:
		return Result{}, c.crash(err)
	case result.Error != nil:
		return result, result.Error.Err() // an answer all the same: the child is well
	}
	return result, nil
}

func (c *child) exchange(job Job, supply func(Needs) error) (result Result, err error) {
	var started string
	err = json.NewEncoder(c.stdin).Encode(job)
	if err == nil {
		err = c.hear(&started)
	}
	if err == nil && started != Started {
		err = fmt.Errorf("it said %.100q", started)
	}
	if err != nil {
		return result, fmt.Errorf("%w: %w", errUnsent, err)
	}
	err = c.hear(&result)
	if err != nil || result.Needs == nil {
		return result, err
	}
	if err := supply(result.Needs); err != nil {
		return Result{}, err
	}
	if _, err := c.stdin.Write([]byte("\n")); err != nil {
		return Result{}, err
	}
	result = Result{}
	return result, c.hear(&result)
}

// hear decodes the next thing that the child says.
func (c *child) hear(into any) error {
	select {
	case line := <-c.lines:
		return json.Unmarshal(line, into)
	case <-c.ended:
		return io.EOF
	}
}

// streamed is how many bytes a job has sent to stdout.
func streamed(result Result) int64 {
	var n int64
	for _, output := range result.Outputs {
		if output.Kind == SinkStream {
			n += output.Bytes
		}
	}
	return n
}

// crash says how a child ended that gave no answer.
func (c *child) crash(err error) error {
	<-c.ended
	said, status := c.stderr.String(), c.status()
	switch {
	case c.exit.Reason == runtime.OutOfMemory:
		return ErrOutOfMemory.Errorf("the query needs more memory than its sandbox may have")
	case c.exit.Reason == runtime.DiskFull:
		return ErrDiskFull.Errorf("the query wrote %s, more than its limit", humanize.IBytes(uint64(max(c.exit.Usage.DiskBytes, 0))))
	case c.exit.Reason == runtime.NoRoom:
		return ErrDiskFull.Errorf("the query was ended: the disk is nearly full, and of all that runs it had written most")
	case strings.Contains(said, "out of memory") || strings.Contains(said, "std::bad_alloc"):
		return ErrOutOfMemory.Errorf("the query engine ran out of memory (%s)", status).WithDetail("stderr", said)
	}
	message := fmt.Sprintf("the query engine ended in the middle of the query (%s)", status)
	if c.exit.Reason == runtime.Signaled && c.exit.Signal == int(syscall.SIGKILL) {
		message += "; the system kills processes when memory runs out"
	}
	if !errors.Is(err, io.EOF) {
		message += ": " + err.Error()
	}
	return ErrCrashed.Errorf("%s", message).WithDetail("stderr", said).WithDetail("status", status)
}

// status says how the process ended.
func (c *child) status() string {
	switch {
	case c.err != nil:
		return c.err.Error()
	case c.exit.Reason == runtime.Signaled:
		return "signal: " + syscall.Signal(c.exit.Signal).String()
	case c.exit.Reason == runtime.Exited:
		return fmt.Sprintf("exit status %d", c.exit.Code)
	}
	return string(c.exit.Reason)
}

// outlet passes on what a child streams.
type outlet struct {
	kill func() // when nobody reads: the query is useless

	mu     sync.Mutex
	moved  *sync.Cond // something was passed on, or the child has ended
	to     io.Writer
	n      int64 // bytes passed on to it
	err    error // of it
	closed bool
}

func newOutlet(kill func()) *outlet {
	o := &outlet{kill: kill, to: io.Discard}
	o.moved = sync.NewCond(&o.mu)
	return o
}

// Write implements io.Writer.
func (o *outlet) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.err == nil {
		if _, o.err = o.to.Write(p); o.err != nil {
			o.kill()
		}
	}
	o.n += int64(len(p))
	o.moved.Broadcast()
	return len(p), nil
}

// pass begins to write to another writer, and returns the error of the last one.
func (o *outlet) pass(to io.Writer) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	err := o.err
	o.to, o.n, o.err = to, 0, nil
	return err
}

// wait waits until n bytes have been passed on. A child that has ended passes on no more.
func (o *outlet) wait(n int64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for o.n < n && !o.closed && o.err == nil {
		o.moved.Wait()
	}
}

func (o *outlet) end() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.closed = true
	o.moved.Broadcast()
}

// tail keeps the end of what is written to it.
type tail struct {
	mu   sync.Mutex
	data []byte
}

const tailBytes = 8 << 10

// Write implements io.Writer.
func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.data = append(t.data, p...)
	if over := len(t.data) - tailBytes; over > 0 {
		t.data = bytes.Clone(t.data[over:])
	}
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.data)
}
