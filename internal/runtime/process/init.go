//go:build linux

package process

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	goruntime "runtime"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"tarn.dev/tarn/internal/runtime"
)

const sampleEvery = 50 * time.Millisecond

// InitMain is the program of a supervisor; it returns the exit code. main calls it from the main
// goroutine, before anything else, when the first argument is Role.
func InitMain() int {
	// The parent-death signal of the command is tied to the thread that forks it. The main goroutine's
	// thread lives as long as the process.
	goruntime.LockOSThread()
	if err := supervise(); err != nil {
		fmt.Fprintln(os.Stderr, "sandbox:", err)
		return 1
	}
	return 0
}

func supervise() error {
	if err := keepDescriptors(); err != nil {
		return fmt.Errorf("keep descriptors: %w", err)
	}
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("become reaper: %w", err)
	}
	part, level := partCommand, runtime.Process
	if len(os.Args) > 3 {
		level, part = runtime.Level(os.Args[2]), os.Args[3]
	}
	w := &watch{
		level: level, gone: make(chan struct{}), wake: make(chan struct{}, 1),
		reports: &reports{to: json.NewEncoder(os.NewFile(reportFD, "report"))}, jobs: os.NewFile(jobFD, "job"),
	}
	err := w.prepare(part)
	if err != nil {
		return w.reports.Encode(report{Failure: "its sandbox: " + err.Error()})
	}
	var end *ended
	switch part {
	case partFork:
		end, err = w.superviseFork()
	case partTemplate:
		end, err = w.superviseTemplate()
	default:
		end, err = w.superviseCommand()
	}
	if err != nil || end == nil {
		return err
	}
	return w.reports.Encode(report{Ended: end})
}

// prepare does what needs no job.
func (w *watch) prepare(part string) (err error) {
	if !w.confined() {
		return nil
	}
	signal.Notify(make(chan os.Signal, 1)) // its command has its user, and no business to stop it
	keepThreads(8)
	if part == partFork {
		if err := joinGroups(); err != nil {
			return err
		}
	}
	if w.outside, err = prepareRoot(); err != nil {
		return err
	}
	w.places, err = unix.OpenTree(unix.AT_FDCWD, "/", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	return err
}

// keepThreads makes threads ahead, of which the Go runtime keeps what is idle. A storm of forks uses up what the control group
// lets the command and the supervisor start together, and the runtime ends a program that lacks a thread.
func keepThreads(n int) {
	var locked sync.WaitGroup
	release := make(chan struct{})
	for range n {
		locked.Add(1)
		go func() {
			goruntime.LockOSThread()
			defer goruntime.UnlockOSThread()
			locked.Done()
			<-release
		}()
	}
	locked.Wait()
	close(release)
}

// superviseCommand starts the job's command and sees it to its end.
func (w *watch) superviseCommand() (*ended, error) {
	if err := w.receive(); err != nil {
		return nil, err
	}
	if w.job == nil {
		return nil, nil // the server did not need a supervisor after all
	}
	if w.confined() {
		if err := seal(w.job.Root.Network, false); err != nil {
			return nil, w.reports.Encode(report{Failure: "its sandbox: " + err.Error()})
		}
	}
	start := time.Now()
	pid, err := w.start()
	if err != nil {
		return nil, w.reports.Encode(report{Failure: err.Error()})
	}
	// A failing report means that the server is gone; then the job's socket is closed as well.
	_ = w.reports.Encode(report{PID: pid})
	w.watchLimits()
	go w.heedServer()
	return w.reap(pid, start)
}

func (w *watch) watchLimits() {
	w.limit(w.job.Limits, w.job.Own)
	go w.look()
}

// receive waits for the job and shows what it binds. Without a job there is none to do.
func (w *watch) receive() error {
	mounts, err := receiveMounts()
	if err != nil {
		return fmt.Errorf("receive mounts: %w", err)
	}
	var j job
	if err := readJob(w.jobs, &j); err != nil {
		if errors.Is(err, io.EOF) {
			return nil
		}
		return fmt.Errorf("read the job: %w", err)
	}
	if last := len(mounts) - 1; j.Stdin && last >= 0 {
		w.stdin, mounts = os.NewFile(uintptr(mounts[last]), "stdin"), mounts[:last]
	}
	if w.confined() {
		if err := j.Root.enter(w.outside, mounts); err != nil {
			return w.reports.Encode(report{Failure: "its sandbox: " + err.Error()})
		}
	}
	w.job = &j
	return nil
}

// receiveMounts takes the mounts that come before the job.
func receiveMounts() ([]int, error) {
	b, oob := make([]byte, 1), make([]byte, unix.CmsgSpace(4*maxMounts))
	n, oobn, _, _, err := unix.Recvmsg(jobFD, b, oob, unix.MSG_CMSG_CLOEXEC)
	for errors.Is(err, unix.EINTR) {
		n, oobn, _, _, err = unix.Recvmsg(jobFD, b, oob, unix.MSG_CMSG_CLOEXEC)
	}
	if err != nil || n == 0 || oobn == 0 {
		return nil, err
	}
	return rights(oob[:oobn])
}

// keepDescriptors makes sure that the command inherits nothing: neither the supervisor's own
// descriptors nor those that whoever started the server left open.
func keepDescriptors() error {
	open, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return err
	}
	for _, e := range open {
		if fd, err := strconv.Atoi(e.Name()); err == nil && fd > 2 {
			syscall.CloseOnExec(fd)
		}
	}
	return nil
}

// reports go to the server, each as a whole.
type reports struct {
	mu sync.Mutex
	to *json.Encoder
}

// Encode sends one.
func (r *reports) Encode(what report) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.to.Encode(what)
}

// watch is a supervisor's state.
type watch struct {
	level   runtime.Level
	jobs    *os.File
	reports *reports
	outside *outside // nil at level process
	places  int      // the root, writable, which nobody else has
	job     *job
	stdin   *os.File // of the command; nil is an empty one
	// template says that the command is one: what it forked outlives it.
	template bool

	gone chan struct{} // closed when no descendant is left
	wake chan struct{} // buffered: killing has begun

	mu      sync.Mutex
	limits  runtime.Limits
	own     [][]byte       // folders that count for the disk limit
	wrote   int64          // what they held last
	reason  runtime.Reason // why the tree is being killed; "" if it is not
	over    bool           // the command itself has ended
	killing bool
	peak    int64
}

// confined says that it is the first process of its own process namespace.
func (w *watch) confined() bool { return w.level != runtime.Process }

// start starts the command, which gets more descriptors after the usual ones.
func (w *watch) start(more ...*os.File) (int, error) {
	null, err := os.OpenFile("/dev/null", os.O_RDWR, 0)
	if err != nil {
		return 0, err
	}
	messages := os.NewFile(messagesFD, "messages")
	files := []*os.File{null, os.Stdout, os.Stderr}
	if w.stdin != nil {
		files[0] = w.stdin
		defer w.stdin.Close() //nolint:errcheck // the command has it
	}
	if w.job.Messages {
		files = append(files, messages)
	}
	files = append(files, more...)
	text := func(list [][]byte) []string {
		s := make([]string, len(list))
		for i, b := range list {
			s[i] = string(b)
		}
		return s
	}
	if err := w.boundTree(0); err != nil {
		return 0, err
	}
	argv := text(w.job.Argv)
	p, err := os.StartProcess(argv[0], argv, &os.ProcAttr{
		Dir: string(w.job.Dir), Env: text(w.job.Env), Files: files,
		// The session is the supervisor's, so that the server knows its number whatever happens.
		Sys: &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL},
	})
	if err != nil {
		return 0, errors.New(explainStart(err, argv[0], string(w.job.Dir)))
	}
	sacrifice(p.Pid)
	// The pipes end when the command's tree has: the supervisor keeps no end open.
	if err := errors.Join(unix.Dup3(int(null.Fd()), 1, 0), unix.Dup3(int(null.Fd()), 2, 0), messages.Close()); err != nil {
		w.kill(runtime.Canceled)
		return 0, err
	}
	pid := p.Pid
	return pid, p.Release() // reap waits for it
}

// sacrifice has a command go before its supervisor and the server when memory runs out.
func sacrifice(pid int) {
	_ = os.WriteFile("/proc/"+strconv.Itoa(pid)+"/oom_score_adj", []byte("500"), 0) // it may have ended
}

// boundTree has the kernel refuse more processes where no control group does: it counts those of a user within a user namespace.
// Root of the host is exempt, so there they are only watched. pid is whose limit is set, 0 for the supervisor itself, from which
// its command has it.
func (w *watch) boundTree(pid int) error {
	if w.level != runtime.UserNS {
		return nil
	}
	most := uint64(w.job.Limits.PIDs + stormPIDs) //nolint:gosec // positive
	if err := unix.Prlimit(pid, unix.RLIMIT_NPROC, &unix.Rlimit{Cur: most, Max: most}, nil); err != nil {
		return fmt.Errorf("limit the number of processes: %w", err)
	}
	return nil
}

func explainStart(err error, argv0, dir string) string {
	cause := err
	var pe *fs.PathError
	if errors.As(err, &pe) {
		cause = pe.Err
	}
	if info, serr := os.Stat(dir); serr != nil {
		return fmt.Sprintf("its folder %s: %v", dir, errors.Unwrap(serr))
	} else if !info.IsDir() {
		return fmt.Sprintf("its folder %s is not a folder", dir)
	}
	switch {
	case errors.Is(cause, syscall.E2BIG):
		return "its arguments and variables are too long together"
	case errors.Is(cause, syscall.ENOEXEC):
		return "it is neither a program of this machine nor a script that begins with #!"
	case errors.Is(cause, syscall.ENOENT):
		if _, serr := os.Stat(argv0); serr == nil {
			return "the interpreter in its first line, or a library it needs to start, does not exist"
		}
	}
	return cause.Error()
}

// reap waits until the command and all it left behind are gone.
func (w *watch) reap(pid int, start time.Time) (*ended, error) {
	e := &ended{Reason: runtime.Exited}
	for {
		var ws syscall.WaitStatus
		got, err := syscall.Wait4(-1, &ws, syscall.WALL, nil)
		switch {
		case errors.Is(err, syscall.EINTR):
			continue
		case errors.Is(err, syscall.ECHILD):
			close(w.gone)
			var ru syscall.Rusage
			if err := syscall.Getrusage(syscall.RUSAGE_CHILDREN, &ru); err != nil {
				return nil, fmt.Errorf("read usage: %w", err)
			}
			e.CPU = time.Duration(ru.Utime.Nano() + ru.Stime.Nano())
			w.mu.Lock()
			defer w.mu.Unlock()
			if e.Peak = w.peak; e.Peak == 0 {
				e.Peak = ru.Maxrss << 10 // it ended before the first sample
			}
			e.Wrote = w.wrote
			return e, nil
		case err != nil:
			return nil, fmt.Errorf("wait: %w", err)
		}
		if got != pid {
			continue // an orphan
		}
		e.Wall = time.Since(start)
		w.settle(e, ws)
	}
}

// settle notes how the command ended and begins to end what it left behind.
func (w *watch) settle(e *ended, ws syscall.WaitStatus) {
	w.mu.Lock()
	w.over = true
	killedFor := w.reason
	w.mu.Unlock()
	switch {
	case ws.Signaled() && ws.Signal() == syscall.SIGKILL && killedFor != "":
		e.Reason = killedFor
	case ws.Signaled():
		e.Reason, e.Signal = runtime.Signaled, int(ws.Signal())
	default:
		e.Code = ws.ExitStatus()
	}
	if !w.template { // its forks live on
		w.kill("")
	}
}

// kill begins to end every descendant. The first reason given while the command runs is the one
// reported.
func (w *watch) kill(reason runtime.Reason) {
	w.mu.Lock()
	if w.reason == "" && !w.over {
		w.reason = reason
	}
	w.killing = true
	w.mu.Unlock()
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// look watches the tree, and kills it when kill has been called: again and again until reap has seen
// the last of it, because processes may be born while others die. Its thread goes before all others of
// the host where that is allowed, or it would never catch up with a command that forks without end.
// It begins at a high rate, because most commands are short, and takes at most a tenth of a core: the
// page tables of many large forks take longer to walk than the usual interval.
func (w *watch) look() {
	goruntime.LockOSThread()
	_ = unix.SchedSetAttr(0, &unix.SchedAttr{
		Size: unix.SizeofSchedAttr, Policy: unix.SCHED_FIFO, Priority: 1, Flags: unix.SCHED_FLAG_RESET_ON_FORK,
	}, 0) // without the right to it things go as they may
	var took time.Duration
	slowest := sampleEvery
	if w.template {
		slowest = time.Second // it lives for an hour, and only a storm of processes counts
	}
	for pause := 2 * time.Millisecond; ; pause = min(2*pause, slowest) {
		w.mu.Lock()
		killing := w.killing
		w.mu.Unlock()
		wait := max(pause, 10*took)
		if killing {
			wait = time.Millisecond
		}
		select {
		case <-w.gone:
			return
		case <-w.wake:
			killing = true
		case <-time.After(wait):
		}
		if killing {
			w.killAll()
			continue
		}
		began := threadTime()
		w.sample()
		took = threadTime() - began
	}
}

// threadTime is the processor's time that this thread has used: where others want the processors too, the clock would let a
// supervisor look too seldom.
func threadTime() time.Duration {
	var used syscall.Rusage
	if syscall.Getrusage(unix.RUSAGE_THREAD, &used) != nil {
		return 0
	}
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}

// killAll sends the signal to every descendant that it can see; in a process namespace that is all there are.
func (w *watch) killAll() {
	if w.confined() {
		syscall.Kill(-1, syscall.SIGKILL) //nolint:errcheck // nobody is left
		return
	}
	killAll(w.tree())
}

// tree is every process below this one. In a process namespace those are all, also the ones that entered it.
func (w *watch) tree() []int {
	if !w.confined() {
		return descendants(os.Getpid())
	}
	pids := processes()
	return slices.DeleteFunc(pids, func(pid int) bool { return pid == 1 })
}

// sample compares memory and number of the tree's processes with the limits.
func (w *watch) sample() {
	limits := w.limitsNow()
	pids := w.tree()
	threads, memory := 0, int64(0)
	for _, p := range pids {
		u := readUsage(p)
		threads += u.threads
		memory += u.memory
	}
	w.mu.Lock()
	peak := w.peak
	w.mu.Unlock()
	if memory > peak && len(pids) > 1 && !w.template { // forks share pages
		memory = 0
		for _, p := range pids {
			memory += proportional(p)
		}
	}
	w.mu.Lock()
	w.peak = max(w.peak, memory)
	w.mu.Unlock()
	switch {
	case limits.MemoryBytes > 0 && memory > limits.MemoryBytes:
		w.kill(runtime.OutOfMemory)
	case limits.PIDs > 0 && threads > limits.PIDs:
		w.kill(runtime.TooManyProcesses)
	}
}

// tellEvery is how many bytes are written, or removed, before the server is told.
const tellEvery = 4 << 20

// sampleDisk watches the folders that count, and tells the server when much has been written, which looks at the disk then. It
// takes at most a tenth of a core.
func (w *watch) sampleDisk() {
	told := int64(0)
	for {
		began := time.Now()
		w.mu.Lock()
		own, most := w.own, w.limits.DiskBytes
		w.mu.Unlock()
		var used int64
		for _, dir := range own {
			used += diskUsage(string(dir))
		}
		w.mu.Lock()
		w.wrote = used
		w.mu.Unlock()
		if most > 0 && used > most {
			w.kill(runtime.DiskFull)
			return
		}
		if !w.template && max(used-told, told-used) >= tellEvery {
			told = used
			_ = w.reports.Encode(report{Wrote: &used}) // failing means that the server is gone
		}
		select {
		case <-w.gone:
			return
		case <-time.After(max(2*sampleEvery, 10*time.Since(began))):
		}
	}
}

// diskUsage sums what the files under dir occupy; a file with several names counts once, what is mounted there does not.
func diskUsage(dir string) int64 {
	var total int64
	type inode struct {
		major, minor uint32
		ino          uint64
	}
	linked := map[inode]bool{}
	var mount uint64
	// Files come and go while it walks; what it misses the next walk finds.
	_ = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		var st unix.Statx_t
		if err != nil || unix.Statx(unix.AT_FDCWD, path, unix.AT_SYMLINK_NOFOLLOW, unix.STATX_BASIC_STATS|unix.STATX_MNT_ID, &st) != nil {
			return nil
		}
		if path == dir {
			mount = st.Mnt_id // 0 of everything before Linux 5.8
		}
		switch id := (inode{st.Dev_major, st.Dev_minor, st.Ino}); {
		case d.IsDir() && st.Mnt_id != mount:
			return filepath.SkipDir
		case d.IsDir() || st.Mnt_id != mount || linked[id]:
			return nil
		case st.Nlink > 1:
			linked[id] = true
		}
		total += int64(st.Blocks) * 512
		return nil
	})
	return total
}
