//go:build linux

package process

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"tarn.dev/tarn/internal/runtime"
)

// A template is an untrusted program that has loaded what its forks have in common. Its forks enter namespaces that
// a trusted supervisor has made and furnished for each: the template's user owns the user namespace above, which is what
// lets an unprivileged fork in. The supervisor is the first process inside; a fork's parent is a child of the template
// that stays outside, in the template's process namespace, to wait for it. docs/design/runtime.md shows it.

// superviseTemplate starts a template and, when the server orders them, supervisors of its forks.
func (w *watch) superviseTemplate() (*ended, error) {
	if err := w.receive(); err != nil || w.job == nil {
		return nil, err
	}
	w.template = true
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	ours, theirs := os.NewFile(uintptr(pair[0]), "forks"), os.NewFile(uintptr(pair[1]), "forks")
	err = errors.Join(
		// Supervisors of forks are numbered in this sandbox.
		w.outside.do(func() error {
			return unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "")
		}),
		seal(w.job.Root.Network, true))
	if err != nil {
		return nil, w.reports.Encode(report{Failure: "its sandbox: " + err.Error()})
	}
	start := time.Now()
	pid, err := w.start(theirs)
	if err != nil {
		return nil, w.reports.Encode(report{Failure: err.Error()})
	}
	theirs.Close() //nolint:errcheck // the template has it
	_ = w.reports.Encode(report{PID: pid})
	go w.takeOrders(ours)
	w.watchLimits()
	return w.reap(pid, start)
}

// forkPipes come with an order, before the control groups: stdout, stderr, job, report and messages.
const forkPipes = len(pipes{})

// takeOrders starts supervisors of forks until the server closes the socket.
func (w *watch) takeOrders(forks *os.File) {
	buf, oob := make([]byte, 4096), make([]byte, unix.CmsgSpace(4*maxMounts))
	for {
		n, oobn, _, _, err := unix.Recvmsg(jobFD, buf, oob, unix.MSG_CMSG_CLOEXEC)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || n == 0 {
			w.kill(runtime.Canceled)
			return
		}
		fds, err := rights(oob[:oobn])
		if err != nil || len(fds) < forkPipes {
			closeAll(fds)
			continue
		}
		var order forkOrder
		if err = json.Unmarshal(buf[:n], &order); err == nil {
			err = w.outside.do(func() error { return startFork(w.level, order, forks, fds) })
		}
		if err != nil { // the server waits for it at the report
			text, _ := json.Marshal(report{Unforked: err.Error()})
			_, _ = unix.Write(fds[3], text)
		}
		closeAll(fds)
	}
}

// startFork starts the supervisor of a fork. It begins outside, in namespaces of its own within the template's
// sandbox; fds are its stdout, stderr, job, report, messages and control groups.
func startFork(level runtime.Level, order forkOrder, forks *os.File, fds []int) error {
	null, err := os.Open(os.DevNull)
	if err != nil {
		return err
	}
	defer null.Close() //nolint:errcheck // read-only
	files := []*os.File{null}
	for i, fd := range fds {
		copied, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 3)
		if err != nil {
			return err
		}
		f := os.NewFile(uintptr(copied), "")
		defer f.Close() //nolint:errcheck // a copy
		files = append(files, f)
		if i == messagesFD-1 {
			files = append(files, forks)
		}
	}
	attr := &syscall.SysProcAttr{
		Setsid: true, Cloneflags: namespaces,
		UidMappings:                []syscall.SysProcIDMap{{HostID: order.User, Size: 1}},
		GidMappings:                []syscall.SysProcIDMap{{HostID: order.User, Size: 1}},
		GidMappingsEnableSetgroups: level == runtime.Full,
		Credential:                 &syscall.Credential{NoSetGroups: level != runtime.Full},
	}
	if !order.Network {
		attr.Cloneflags |= unix.CLONE_NEWNET
	}
	p, err := os.StartProcess("/proc/self/exe", []string{"tarn", Role, string(level), partFork, strconv.Itoa(len(fds) - forkPipes), strconv.FormatBool(order.Network)},
		&os.ProcAttr{Files: files, Env: os.Environ(), Sys: attr})
	if err != nil {
		return fmt.Errorf("start its supervisor: %w", err)
	}
	return p.Release() // reap waits for it
}

// groups are the control groups of a fork, which its supervisor joins and passes on.
func groups() []int {
	n, _ := strconv.Atoi(os.Args[4])
	fds := make([]int, n)
	for i := range fds {
		fds[i] = forksFD + 1 + i
	}
	return fds
}

func joinGroups() error {
	for _, fd := range groups() {
		if _, err := unix.Write(fd, []byte("0")); err != nil {
			return fmt.Errorf("join a control group: %w", err)
		}
	}
	return nil
}

// superviseFork has the template fork into this sandbox, before the job is known, and sees the fork to its end.
func (w *watch) superviseFork() (*ended, error) {
	start, exit, err := w.requestFork()
	if err == nil {
		err = helloServer()
	}
	if err != nil {
		return nil, w.reports.Encode(report{Unforked: err.Error()})
	}
	if err := w.receive(); err != nil || w.job == nil {
		return nil, err
	}
	began := time.Now()
	// Whatever is wrong: a command that is started tells it better, or goes well.
	if err := w.handOver(start, exit); err != nil {
		return nil, w.reports.Encode(report{Unforked: "the fork did not take its job: " + err.Error()})
	}
	_ = w.reports.Encode(report{PID: forkPID}) // a failing report means that the server is gone
	w.watchLimits()
	go w.heedServer()
	return w.reapFork(exit, began)
}

// requestFork asks the template for a fork that enters this sandbox. start takes the job; exit says how it ended.
func (w *watch) requestFork() (start, exit *os.File, err error) {
	// The fork has this process's user, and no capabilities.
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return nil, nil, fmt.Errorf("guard the supervisor's memory: %w", err)
	}
	request := forkRequest{Groups: len(groups()), Scopes: scopes(), Namespaces: []string{"user", "pid", "mnt", "ipc", "uts", "cgroup"}}
	if os.Args[5] != strconv.FormatBool(true) {
		request.Namespaces = append(request.Namespaces, "net")
		if err := loopback(); err != nil {
			return nil, nil, fmt.Errorf("start the loopback: %w", err)
		}
	}
	for _, f := range seccompFilter(false) {
		request.Filter, _ = binary.Append(request.Filter, binary.NativeEndian, f) // a fixed size
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	var ends [2]int
	if err := unix.Pipe2(ends[:], unix.O_CLOEXEC); err != nil {
		return nil, nil, err
	}
	passed := append([]int{1, 2, messagesFD, pair[1], ends[1]}, groups()...)
	for _, name := range request.Namespaces {
		fd, err := unix.Open("/proc/self/ns/"+name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return nil, nil, err
		}
		passed = append(passed, fd)
	}
	text, err := json.Marshal(request)
	if err != nil {
		return nil, nil, err
	}
	if err := unix.Sendmsg(forksFD, text, unix.UnixRights(passed...), nil, 0); err != nil {
		return nil, nil, fmt.Errorf("the template is gone: %w", err)
	}
	// The pipes end when the fork's tree has: the supervisor keeps no end open.
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return nil, nil, err
	}
	closeAll(append(passed[2:], forksFD))
	return os.NewFile(uintptr(pair[0]), "start"), os.NewFile(uintptr(ends[0]), "exit"), errors.Join(unix.Dup3(int(null.Fd()), 1, 0), unix.Dup3(int(null.Fd()), 2, 0))
}

// helloServer says that the job may come, with the user namespace, into which the server maps what it shows. The kernel
// adds the number of this process.
func helloServer() error {
	users, err := unix.Open("/proc/self/ns/user", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(users) //nolint:errcheck // the server has its own
	return unix.Sendmsg(jobFD, []byte{0}, unix.UnixRights(users), nil, 0)
}

// forkPID is the number of a fork in its sandbox, the first after the supervisor's.
const forkPID = 2

// handOver gives the fork its job, while the fork's parent is there to tell how it ends.
func (w *watch) handOver(start, exit *os.File) error {
	defer start.Close()                                                   //nolint:errcheck // it has done its work
	waiting := []unix.PollFd{{Fd: int32(exit.Fd()), Events: unix.POLLIN}} //nolint:gosec // a descriptor
	if n, err := unix.Poll(waiting, 0); n > 0 || err != nil && !errors.Is(err, unix.EINTR) {
		return errors.Join(err, errors.New("its parent has ended"))
	}
	sacrifice(forkPID)
	if err := w.boundTree(forkPID); err != nil {
		return err
	}
	if err := writeJob(start, forkJob{Argv: w.job.Argv, Env: append([][]byte{}, w.job.Env...), Dir: w.job.Dir, Stdin: w.stdin != nil}); err != nil {
		return err
	}
	if w.stdin != nil {
		defer w.stdin.Close() //nolint:errcheck // the fork has it
		if err := unix.Sendmsg(int(start.Fd()), []byte{0}, unix.UnixRights(int(w.stdin.Fd())), nil, 0); err != nil {
			return err
		}
	}
	answer, err := io.ReadAll(io.LimitReader(start, 16))
	if err != nil {
		return err
	}
	text, begun := strings.CutPrefix(string(answer), "begun")
	if begun && text == "" {
		return nil
	}
	errno, err := strconv.Atoi(text)
	if err != nil {
		return fmt.Errorf("it answered %q", answer)
	}
	return errors.New(explainStart(syscall.Errno(errno), string(w.job.Argv[0]), string(w.job.Dir)))
}

// reapFork waits until the fork and all in its sandbox are gone. What the fork's parent tells of its end is as good as the
// fork's own word.
func (w *watch) reapFork(exit *os.File, start time.Time) (*ended, error) {
	var end forkEnd
	if json.NewDecoder(exit).Decode(&end) != nil {
		end.Status = int(syscall.SIGKILL) // its parent was killed, and the fork is about to be
	}
	e := &ended{Reason: runtime.Exited, Wall: time.Since(start)}
	w.settle(e, syscall.WaitStatus(end.Status)) //nolint:gosec // a status is that small
	for len(w.tree()) > 0 {
		for pid := 1; pid > 0; { // orphans
			pid, _ = syscall.Wait4(-1, nil, syscall.WNOHANG|syscall.WALL, nil)
		}
		time.Sleep(200 * time.Microsecond)
	}
	close(w.gone)
	var ru syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_CHILDREN, &ru); err != nil {
		return nil, fmt.Errorf("read usage: %w", err)
	}
	e.CPU = time.Duration(end.CPU*float64(time.Second)) + time.Duration(ru.Utime.Nano()+ru.Stime.Nano())
	w.mu.Lock()
	defer w.mu.Unlock()
	if e.Peak = w.peak; e.Peak == 0 {
		e.Peak = end.Peak // it ended before the first sample
	}
	e.Wrote = w.wrote
	return e, nil
}

// rights are the descriptors that came with a message.
func rights(oob []byte) ([]int, error) {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, err
	}
	var fds []int
	for _, m := range messages {
		if m.Header.Level == unix.SOL_SOCKET && m.Header.Type == unix.SCM_RIGHTS {
			if fds, err = unix.ParseUnixRights(&m); err != nil {
				return nil, err
			}
		}
	}
	return fds, nil
}

// writeJob and readJob pass one document: its length in four bytes, then JSON.
func writeJob(to io.Writer, v any) error {
	text, err := json.Marshal(v)
	if err != nil {
		return err
	}
	_, err = to.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(text))), text...)) //nolint:gosec // arguments and variables
	return err
}

func readJob(from io.Reader, v any) error {
	var size [4]byte
	if _, err := io.ReadFull(from, size[:]); err != nil {
		return err
	}
	text := make([]byte, binary.BigEndian.Uint32(size[:]))
	if _, err := io.ReadFull(from, text); err != nil {
		return err
	}
	return json.Unmarshal(text, v)
}
