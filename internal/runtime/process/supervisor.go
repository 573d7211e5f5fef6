//go:build linux

package process

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"
)

// supervisor is the server's side of one supervising process that waits for its job or does it.
type supervisor struct {
	cmd                              *exec.Cmd
	job                              *os.File // closing it kills
	report, stdout, stderr, messages *os.File
	exited                           chan struct{} // closed when the process is gone and reaped
}

func startSupervisor() (_ *supervisor, err error) {
	s := &supervisor{exited: make(chan struct{})}
	var theirs []*os.File
	defer func() {
		for _, f := range theirs {
			err = errors.Join(err, f.Close())
		}
		if err != nil {
			s.closeFiles()
			err = ErrNotStarted.Errorf("start a sandbox: %w", err)
		}
	}()
	pipe := func(read, write **os.File) error {
		r, w, err := os.Pipe()
		if err != nil {
			return err
		}
		if read == nil {
			theirs, *write = append(theirs, r), w
		} else {
			theirs, *read = append(theirs, w), r
		}
		return nil
	}
	if err := errors.Join(pipe(&s.stdout, nil), pipe(&s.stderr, nil), pipe(nil, &s.job), pipe(&s.report, nil),
		pipe(&s.messages, nil)); err != nil {
		return nil, err
	}
	// Not the file's name: an upgrade may have replaced it, and both sides must be the same program.
	s.cmd = exec.Command("/proc/self/exe", Role)
	s.cmd.Args[0] = "tarn"
	s.cmd.Env = []string{"GORACE=" + os.Getenv("GORACE")} // a race-enabled program sleeps before it exits unless told not to
	s.cmd.Stdout, s.cmd.Stderr, s.cmd.ExtraFiles = theirs[0], theirs[1], theirs[2:]
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // signals of the terminal are the server's business
	if err := s.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		s.cmd.Wait() //nolint:errcheck // how it ended is in ProcessState
		close(s.exited)
	}()
	return s, nil
}

// send hands the job over. A supervisor that does not read it is not waited for.
func (s *supervisor) send(j job) error {
	if err := s.job.SetWriteDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return err
	}
	return json.NewEncoder(s.job).Encode(j)
}

func (s *supervisor) closeFiles() {
	for _, f := range []*os.File{s.job, s.report, s.stdout, s.stderr, s.messages} {
		if f != nil {
			f.Close() //nolint:errcheck // pipes; closing the job's twice is no harm
		}
	}
}

// signal says by which signal the supervisor itself was ended, 0 if by none.
func (s *supervisor) signal() int {
	if ws, ok := s.cmd.ProcessState.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		return int(ws.Signal())
	}
	return 0
}

// spare keeps one supervisor ready.
type spare struct {
	mu     sync.Mutex
	next   chan started // nil: none is ready or on its way
	closed bool
}

type started struct {
	s   *supervisor
	err error
}

// prepare starts a supervisor unless one is ready.
func (p *spare) prepare() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.next != nil || p.closed {
		return
	}
	next := make(chan started, 1)
	p.next = next
	go func() {
		s, err := startSupervisor()
		next <- started{s, err}
	}()
}

// take returns a supervisor that lives.
func (p *spare) take() (*supervisor, error) {
	p.mu.Lock()
	next := p.next
	p.next = nil
	p.mu.Unlock()
	if next == nil {
		return startSupervisor()
	}
	n := <-next
	if n.err != nil {
		return startSupervisor() // what was in the way may be over
	}
	select {
	case <-n.s.exited: // somebody killed it while it waited
		n.s.closeFiles()
		return startSupervisor()
	default:
		return n.s, nil
	}
}

// discard ends the spare for good.
func (p *spare) discard() {
	p.mu.Lock()
	next := p.next
	p.next, p.closed = nil, true
	p.mu.Unlock()
	if next == nil {
		return
	}
	if n := <-next; n.err == nil {
		n.s.closeFiles()
		<-n.s.exited
	}
}

// kill ends a supervisor that does not react, and everything that is known to belong to it.
func (s *supervisor) kill() {
	tree := descendants(s.cmd.Process.Pid)
	s.cmd.Process.Kill() //nolint:errcheck // it may be gone
	killAll(tree)
	killSession(s.cmd.Process.Pid)
}

func notStarted(argv0, why string) error {
	return ErrNotStarted.Errorf("start %s: %s", argv0, why)
}

func label(j job) string { return fmt.Sprintf("%.200s", j.Argv[0]) }
