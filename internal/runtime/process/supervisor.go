//go:build linux

package process

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"tarn.dev/tarn/internal/runtime"
)

// supervisor is the server's side of one supervising process that waits for its job or does it.
type supervisor struct {
	process                          *os.Process
	job                              *net.UnixConn // closing it kills
	users                            *os.File      // its user namespace; nil at level process
	cgroup                           *cgroup       // nil where there are none
	report, stdout, stderr, messages *os.File
	exited                           chan struct{} // closed when the process is gone
	// how it ended, once it is gone; nil for the supervisor of a fork, which is no child of the server.
	how  *os.ProcessState
	from *template // of a fork
	// stormed says that the server ended it for the number of its processes.
	stormed atomic.Bool
}

// pipes are the ends that a supervisor is to have: stdout, stderr, job, report, messages.
type pipes [5]*os.File

func (p *pipes) close() {
	for _, f := range p {
		if f != nil {
			f.Close() //nolint:errcheck // the supervisor has its own
		}
	}
}

// connect makes the pipes of a supervisor that is about to start.
func (s *supervisor) connect() (theirs pipes, err error) {
	ours := []**os.File{&s.stdout, &s.stderr, nil, &s.report, &s.messages}
	for i, end := range ours {
		if end == nil {
			s.job, theirs[i], err = socketPair()
		} else {
			*end, theirs[i], err = os.Pipe()
		}
		if err != nil {
			theirs.close()
			s.closeFiles()
			return pipes{}, err
		}
	}
	return theirs, nil
}

func (r *Runtime) startSupervisor(part string) (_ *supervisor, err error) {
	s := &supervisor{exited: make(chan struct{})}
	theirs, err := s.connect()
	if err != nil {
		return nil, ErrNotStarted.Errorf("start a sandbox: %w", err)
	}
	defer theirs.close()
	defer func() {
		if err != nil {
			s.release()
			err = ErrNotStarted.Errorf("start a sandbox: %w", err)
		}
	}()
	if r.level == runtime.Full {
		if s.cgroup, err = newCgroup(); err != nil {
			return nil, err
		}
	}
	cmd := exec.Command(r.init, Role, string(r.level), part)
	cmd.Args[0] = "tarn"
	cmd.Env = []string{"GORACE=" + os.Getenv("GORACE")} // a race-enabled program sleeps before it exits unless told not to
	cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = theirs[0], theirs[1], theirs[2:]
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // signals of the terminal are the server's business
	if r.level != runtime.Process {
		confine(r.level, part, cmd.SysProcAttr)
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	s.process = cmd.Process
	go func() {
		cmd.Wait() //nolint:errcheck // how it ended is in ProcessState
		s.how = cmd.ProcessState
		close(s.exited)
	}()
	if s.cgroup != nil {
		err = s.cgroup.enter(cmd.Process.Pid)
	}
	if err == nil && r.level != runtime.Process {
		s.users, err = os.Open("/proc/" + strconv.Itoa(cmd.Process.Pid) + "/ns/user")
	}
	if err != nil {
		s.kill()
		<-s.exited
	}
	return s, err
}

func socketPair() (ours *net.UnixConn, theirs *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	theirs = os.NewFile(uintptr(fds[1]), "job")
	// The supervisor of a fork is a grandchild of somebody: the kernel tells its number.
	if err := unix.SetsockoptInt(fds[0], unix.SOL_SOCKET, unix.SO_PASSCRED, 1); err != nil {
		unix.Close(fds[0]) //nolint:errcheck // unused
		return nil, theirs, err
	}
	f := os.NewFile(uintptr(fds[0]), "job")
	defer f.Close() // FileConn has its own
	conn, err := net.FileConn(f)
	if err != nil {
		return nil, theirs, err
	}
	return conn.(*net.UnixConn), theirs, nil //nolint:forcetypeassert // it was made so
}

// writable gives the next message its time. That of the last one has passed, perhaps.
func (s *supervisor) writable() error { return s.job.SetWriteDeadline(time.Now().Add(patience)) }

// send hands the job over. A supervisor that does not read it is not waited for.
func (s *supervisor) send(j job, stdin *os.File) error {
	if err := s.writable(); err != nil {
		return err
	}
	var passed []int
	if j.Root != nil {
		mounts, err := j.Root.trees(s.users)
		if err != nil {
			return err
		}
		defer closeAll(mounts)
		passed = mounts
	}
	if j.Stdin = stdin != nil; j.Stdin {
		passed = append(passed, int(stdin.Fd()))
	}
	if s.cgroup != nil {
		if err := s.cgroup.limit(j.Limits); err != nil {
			return err
		}
	}
	if s.cgroup != nil {
		go s.endStorm()
	}
	if _, _, err := s.job.WriteMsgUnix([]byte{0}, unix.UnixRights(passed...), nil); err != nil {
		return err
	}
	return writeJob(s.job, j)
}

// endStorm ends a supervisor, and with it its process namespace, whose processes fill its control group: thousands of them leave it
// no turn to see that for itself.
func (s *supervisor) endStorm() {
	look := time.NewTicker(time.Second)
	defer look.Stop()
	for {
		select {
		case <-s.exited:
			return
		case <-look.C:
			if s.cgroup.full() {
				s.stormed.Store(true)
				s.process.Kill() //nolint:errcheck // it may be gone
				return
			}
		}
	}
}

func (s *supervisor) closeFiles() {
	if s.job != nil {
		s.job.Close() //nolint:errcheck // closing it twice is no harm
	}
	for _, f := range []*os.File{s.users, s.report, s.stdout, s.stderr, s.messages} {
		if f != nil {
			f.Close() //nolint:errcheck // nothing is buffered
		}
	}
}

// signal says by which signal the supervisor itself was ended, 0 if by none. Nobody tells that of a fork's; but it is the first
// process of its namespace, and nothing less than SIGKILL ends one.
func (s *supervisor) signal() int {
	if s.how == nil {
		return int(syscall.SIGKILL)
	}
	if ws, ok := s.how.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		return int(ws.Signal())
	}
	return 0
}

// spares keeps supervisors ready.
type spares struct {
	size  int
	start func() (*supervisor, error)

	mu     sync.Mutex
	next   []chan started // ready or on their way
	closed bool
}

type started struct {
	s   *supervisor
	err error
}

// prepare starts supervisors until enough are ready or on their way.
func (p *spares) prepare() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for len(p.next) < p.size && !p.closed {
		next := make(chan started, 1)
		p.next = append(p.next, next)
		go func() {
			s, err := p.start()
			next <- started{s, err}
		}()
	}
}

// take returns a supervisor that lives.
func (p *spares) take() (*supervisor, error) {
	p.mu.Lock()
	var next chan started
	if len(p.next) > 0 {
		next, p.next = p.next[0], p.next[1:]
	}
	p.mu.Unlock()
	if next == nil {
		return p.start()
	}
	n := <-next
	if n.err != nil {
		return p.start() // what was in the way may be over
	}
	select {
	case <-n.s.exited: // somebody killed it while it waited
		n.s.release()
		return p.start()
	default:
		return n.s, nil
	}
}

// discard ends the spares for good.
func (p *spares) discard() {
	p.mu.Lock()
	left := p.next
	p.next, p.closed = nil, true
	p.mu.Unlock()
	for _, next := range left {
		if n := <-next; n.err == nil {
			n.s.closeFiles()
			<-n.s.exited
			n.s.release()
		}
	}
}

// release frees what is left of a supervisor that has ended.
func (s *supervisor) release() {
	s.closeFiles()
	if s.cgroup != nil {
		s.cgroup.remove()
	}
	if s.from != nil {
		if s.process != nil {
			s.process.Release() //nolint:errcheck // it is gone, and nobody waits for it
		}
		s.from.released()
	}
}

// kill ends a supervisor that does not react, and everything that is known to belong to it.
func (s *supervisor) kill() {
	tree := descendants(s.process.Pid)
	s.process.Kill() //nolint:errcheck // it may be gone
	killAll(tree)
	killSession(s.process.Pid)
}

func notStarted(argv0, why string) error {
	return ErrNotStarted.Errorf("start %s: %s", argv0, why)
}

func label(j job) string { return fmt.Sprintf("%.200s", j.Argv[0]) }
