//go:build linux

package process

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"tarn.dev/tarn/internal/runtime"
)

// supervisor is the server's side of one supervising process that waits for its job or does it.
type supervisor struct {
	cmd                              *exec.Cmd
	job                              *net.UnixConn // closing it kills
	cgroup                           *cgroup       // nil where there are none
	report, stdout, stderr, messages *os.File
	exited                           chan struct{} // closed when the process is gone and reaped
}

func startSupervisor(level runtime.Level) (_ *supervisor, err error) {
	s := &supervisor{exited: make(chan struct{})}
	var theirs []*os.File
	defer func() {
		for _, f := range theirs {
			if f != nil {
				err = errors.Join(err, f.Close())
			}
		}
		if err != nil {
			s.closeFiles()
			err = ErrNotStarted.Errorf("start a sandbox: %w", err)
		}
	}()
	pipe := func(read **os.File) error {
		r, w, err := os.Pipe()
		theirs, *read = append(theirs, w), r
		return err
	}
	socket := func() error {
		ours, their, err := socketPair()
		theirs, s.job = append(theirs, their), ours
		return err
	}
	if err := errors.Join(pipe(&s.stdout), pipe(&s.stderr), socket(), pipe(&s.report), pipe(&s.messages)); err != nil {
		return nil, err
	}
	// Not the file's name: an upgrade may have replaced it, and both sides must be the same program.
	s.cmd = exec.Command("/proc/self/exe", Role, string(level))
	s.cmd.Args[0] = "tarn"
	s.cmd.Env = []string{"GORACE=" + os.Getenv("GORACE")} // a race-enabled program sleeps before it exits unless told not to
	s.cmd.Stdout, s.cmd.Stderr, s.cmd.ExtraFiles = theirs[0], theirs[1], theirs[2:]
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // signals of the terminal are the server's business
	if level != runtime.Process {
		confine(level, s.cmd.SysProcAttr)
	}
	if err := s.cmd.Start(); err != nil {
		return nil, err
	}
	if level == runtime.Full {
		if s.cgroup, err = newCgroup(s.cmd.Process.Pid); err != nil {
			s.cmd.Process.Kill() //nolint:errcheck // it lives
			s.cmd.Wait()         //nolint:errcheck // it was killed
			return nil, err
		}
	}
	go func() {
		s.cmd.Wait() //nolint:errcheck // how it ended is in ProcessState
		close(s.exited)
	}()
	return s, nil
}

func socketPair() (ours *net.UnixConn, theirs *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	theirs = os.NewFile(uintptr(fds[1]), "job")
	f := os.NewFile(uintptr(fds[0]), "job")
	defer f.Close() // FileConn has its own
	conn, err := net.FileConn(f)
	if err != nil {
		return nil, theirs, err
	}
	return conn.(*net.UnixConn), theirs, nil //nolint:forcetypeassert // it was made so
}

// send hands the job over. A supervisor that does not read it is not waited for.
func (s *supervisor) send(j job) error {
	if err := s.job.SetWriteDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return err
	}
	var mounts []int
	if j.Root != nil {
		var err error
		if mounts, err = j.Root.trees(s.cmd.Process.Pid); err != nil {
			return err
		}
		defer closeAll(mounts)
	}
	if s.cgroup != nil {
		if err := s.cgroup.limit(j.Limits); err != nil {
			return err
		}
	}
	if _, _, err := s.job.WriteMsgUnix([]byte{0}, unix.UnixRights(mounts...), nil); err != nil {
		return err
	}
	return json.NewEncoder(s.job).Encode(j)
}

func (s *supervisor) closeFiles() {
	if s.job != nil {
		s.job.Close() //nolint:errcheck // closing it twice is no harm
	}
	for _, f := range []*os.File{s.report, s.stdout, s.stderr, s.messages} {
		if f != nil {
			f.Close() //nolint:errcheck // pipes
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
	level runtime.Level

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
		s, err := startSupervisor(p.level)
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
		return startSupervisor(p.level)
	}
	n := <-next
	if n.err != nil {
		return startSupervisor(p.level) // what was in the way may be over
	}
	select {
	case <-n.s.exited: // somebody killed it while it waited
		n.s.release()
		return startSupervisor(p.level)
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
		n.s.release()
	}
}

// release frees what is left of a supervisor that has ended.
func (s *supervisor) release() {
	s.closeFiles()
	if s.cgroup != nil {
		s.cgroup.remove()
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
