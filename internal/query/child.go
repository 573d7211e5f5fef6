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

	"tarn.dev/tarn/internal/base/errdef"
)

// child is one engine process and our ends of its pipes.
type child struct {
	proc   Child
	stdin  *os.File
	stdout *os.File
	answer *os.File
	decode *json.Decoder
	folder string // where it may spill; removed when the process is gone

	closing sync.Once
	stderr  *tail
	ended   chan struct{} // closed when the process is gone
	status  string        // how it ended; valid after ended
}

func startChild(launch Launcher) (*child, error) {
	var open []*os.File
	closeAll := func() {
		for _, f := range open {
			f.Close()
		}
	}
	pipe := func() (r, w *os.File, err error) {
		r, w, err = os.Pipe()
		if err == nil {
			open = append(open, r, w)
		}
		return r, w, err
	}
	stdinR, stdinW, err1 := pipe()
	stdoutR, stdoutW, err2 := pipe()
	stderrR, stderrW, err3 := pipe()
	answerR, answerW, err4 := pipe()
	if err := errors.Join(err1, err2, err3, err4); err != nil {
		closeAll()
		return nil, ErrCrashed.Errorf("start the query engine: %w", err)
	}
	proc, err := launch(Pipes{Stdin: stdinR, Stdout: stdoutW, Stderr: stderrW, Results: answerW})
	if err != nil {
		closeAll()
		return nil, ErrCrashed.Errorf("start the query engine: %w", err)
	}
	for _, f := range []*os.File{stdinR, stdoutW, stderrW, answerW} {
		f.Close()
	}
	c := &child{
		proc: proc, stdin: stdinW, stdout: stdoutR, answer: answerR,
		decode: json.NewDecoder(answerR), stderr: &tail{}, ended: make(chan struct{}),
	}
	stderrDone := make(chan struct{})
	go func() {
		defer close(stderrDone)
		io.Copy(c.stderr, stderrR) // ends with the process; what it said is in the tail
		stderrR.Close()
	}()
	go func() {
		c.status = proc.Wait()
		<-stderrDone
		close(c.ended)
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
		c.proc.Kill() // it may be gone already; the wait below is what counts
		<-c.ended
		c.stdout.Close()
		c.answer.Close()
		if c.folder != "" {
			_ = os.RemoveAll(c.folder) // the engine's folder is emptied at the next start
		}
	})
}

// Started is what a child says before it begins with a job.
const Started = "started"

// errUnsent says that a child died before it began with the job: another one may have it.
var errUnsent = errors.New("the query engine ended before it began")

// do sends a job and returns its result. Ending ctx kills the process. stdout gets what the job
// streams, nil if it streams nothing.
func (c *child) do(ctx context.Context, job Job, stdout io.Writer) (Result, error) {
	stop := context.AfterFunc(ctx, func() { c.proc.Kill() })
	defer stop()
	copied := make(chan error, 1)
	if stdout == nil {
		copied <- nil
	} else {
		go func() {
			_, err := io.Copy(stdout, c.stdout)
			if err != nil {
				c.proc.Kill() // nobody reads: the query is useless
			}
			copied <- err
		}()
	}
	var result Result
	var started string
	err := json.NewEncoder(c.stdin).Encode(job)
	if err == nil {
		err = c.decode.Decode(&started)
	}
	if err != nil {
		err = fmt.Errorf("%w: %w", errUnsent, err)
	} else {
		err = c.decode.Decode(&result)
	}
	if err != nil {
		c.stdin.Close() // a child that still waits for the rest of the line ends
		c.proc.Kill()
	}
	copyErr := <-copied // the stream ends with the process
	switch {
	case ctx.Err() != nil:
		return Result{}, errdef.As(context.Cause(ctx))
	case copyErr != nil:
		return Result{}, fmt.Errorf("pass on the rows: %w", copyErr)
	case errors.Is(err, errUnsent):
		return Result{}, fmt.Errorf("%w: %w", errUnsent, c.crash(err))
	case err != nil:
		return Result{}, c.crash(err)
	case result.Error != nil:
		return result, result.Error.Err() // an answer all the same: the child is well
	}
	return result, nil
}

// crash says how a child ended that gave no answer.
func (c *child) crash(err error) error {
	<-c.ended
	if said := c.stderr.String(); strings.Contains(said, "out of memory") || strings.Contains(said, "std::bad_alloc") {
		return ErrOutOfMemory.Errorf("the query engine ran out of memory (%s)", c.status).WithDetail("stderr", said)
	}
	message := fmt.Sprintf("the query engine ended in the middle of the query (%s)", c.status)
	if c.status == "signal: killed" {
		message += "; the system kills processes when memory runs out"
	}
	if !errors.Is(err, io.EOF) {
		message += ": " + err.Error()
	}
	return ErrCrashed.Errorf("%s", message).WithDetail("stderr", c.stderr.String()).WithDetail("status", c.status)
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
