//go:build linux

package process

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	goruntime "runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/runtime"
)

// errUnforked says that no fork of a template took the job. The command itself may be sound: it is started instead.
var errUnforked = errdef.New(errdef.Unavailable, "runtime.unforked", "no fork of a template could be made")

const (
	// loadingTime is how long a template may take until it can fork, loadingPatience how long a command waits for it: it may
	// need nothing of what takes so long.
	loadingTime     = 5 * time.Minute
	loadingPatience = 20 * time.Second
	// A template is replaced after so many forks or so much time, while the old one goes on until the new one is ready: what
	// leaks in it does not grow for ever. Unused it ends.
	forksPerTemplate = 10_000
	templateAge      = time.Hour
	templateIdle     = 15 * time.Minute
	// retryAfter is how long nobody waits again for a template that did not start.
	retryAfter = time.Minute
	// patience is how long a supervisor may take for a message.
	patience = 30 * time.Second
	// spareForks wait for their jobs.
	spareForks = 2
	// forksAtOnce are made at a time, for each processor: more only take the processors, and each other's deadlines, from those
	// that are nearly ready.
	forksAtOnce = 4
	// templateTasks bounds a template and all its forks together.
	templateTasks = 16384
)

// templates are the templates of a runtime, by what they are.
type templates struct {
	runtime *Runtime
	budget  int64 // bytes of memory of all together

	mu     sync.Mutex
	byKey  map[string]*template
	closed bool
	stop   chan struct{} // closed with it
	ended  sync.WaitGroup
	stats  runtime.TemplateStats
}

// template is one started template.
type template struct {
	pool    *templates
	box     *sandbox // its own
	network bool
	sup     *supervisor
	born    time.Time
	loaded  chan struct{} // closed when it can fork, or never will
	err     error         // why it never will
	memory  int64
	spares  *spares

	making chan struct{} // holds one for each fork that is being made
	orders sync.Mutex    // one at a time

	mu      sync.Mutex
	used    time.Time
	forks   int
	uses    int // forks whose supervisors are not released, and 1 until it is retired
	retired bool
	next    *template // replaces it when it is loaded
}

// templateKey names what makes two templates the same.
func templateKey(t *runtime.Template, network bool) string {
	text, err := json.Marshal(struct {
		T       *runtime.Template
		Network bool
	}{t, network})
	if err != nil {
		panic(err) // strings only
	}
	return fmt.Sprintf("%x", sha256.Sum256(text))
}

// get returns the template of a spec, which it starts if there is none. After close it is nil.
func (p *templates) get(spec runtime.Spec) *template {
	key := templateKey(spec.Template, spec.Network)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil
	}
	now := time.Now()
	t := p.byKey[key]
	if t == nil || t.dead() && !(t.failed() && now.Sub(t.born) < retryAfter) {
		if t != nil {
			t.retire()
		}
		p.stats.Misses++
		t = p.start(spec)
		p.byKey[key] = t
	} else {
		p.stats.Hits++
		t = p.renew(key, t, spec, now)
	}
	t.mu.Lock()
	t.used = now
	t.mu.Unlock()
	return t
}

// renew has a worn template replaced, without anybody waiting for the new one.
func (p *templates) renew(key string, t *template, spec runtime.Spec, now time.Time) *template {
	t.mu.Lock()
	worn := t.forks >= forksPerTemplate || now.Sub(t.born) > templateAge
	next := t.next
	if worn && next == nil {
		t.next = p.start(spec)
	}
	t.mu.Unlock()
	if next == nil || !next.isLoaded() {
		return t
	}
	p.byKey[key] = next
	t.retire()
	return next
}

// start begins to start a template. The caller holds p.mu.
func (p *templates) start(spec runtime.Spec) *template {
	p.stats.Started++
	t := &template{pool: p, network: spec.Network, born: time.Now(), used: time.Now(), loaded: make(chan struct{}), uses: 1}
	t.making = make(chan struct{}, forksAtOnce*goruntime.NumCPU())
	t.spares = &spares{size: spareForks, start: t.fork}
	p.ended.Add(1)
	go func() {
		defer p.ended.Done()
		t.serve(spec)
	}()
	return t
}

// serve starts the template's program and returns when all of it is gone.
func (t *template) serve(spec runtime.Spec) {
	box, err := t.pool.runtime.newSandbox(runtime.Spec{
		ID: spec.ID + "'s template", Mounts: spec.Template.Mounts, Network: spec.Network, Limits: runtime.Limits{PIDs: templateTasks},
	}, "template-")
	if err == nil {
		defer removeAll(box.dir) //nolint:errcheck // the next server removes it
		defer box.letGo()
		t.box = box
		t.sup, err = box.runtime.startSupervisor(partTemplate)
	}
	if err != nil {
		t.fail(err)
		return
	}
	defer t.sup.release()
	said, err := t.load(spec)
	if err != nil {
		t.sup.kill()
		<-t.sup.exited
		if text := said(); text != "" {
			err = fmt.Errorf("%w: %s", err, text)
		}
		t.fail(err)
		return
	}
	for _, pid := range descendants(t.sup.process.Pid) {
		t.memory += proportional(pid)
	}
	close(t.loaded)
	t.pool.makeRoom(t)
	t.spares.prepare()
	idle := time.NewTicker(templateIdle / 3)
	defer idle.Stop()
	for {
		select {
		case <-t.sup.exited:
			t.spares.discard()
			return
		case <-idle.C:
			t.pool.retireIdle(t)
		}
	}
}

// fail says that it can never fork.
func (t *template) fail(err error) {
	t.err = errUnforked.Errorf("%s: %w", "its template did not start", err)
	close(t.loaded)
}

// load hands the job over and waits until the template says that it can fork. said is what it printed last.
func (t *template) load(spec runtime.Spec) (said func() string, err error) {
	var mu sync.Mutex
	var last []byte
	said = func() string {
		mu.Lock()
		defer mu.Unlock()
		return strings.TrimSpace(string(last))
	}
	keep := func(f io.Reader) {
		buf := make([]byte, 4096)
		for {
			n, err := f.Read(buf)
			mu.Lock()
			last = append(last, buf[:n]...)
			last = last[max(0, len(last)-len(buf)):]
			mu.Unlock()
			if err != nil {
				return
			}
		}
	}
	go keep(t.sup.stdout)
	go keep(t.sup.stderr)
	env := map[string]string{ForksVariable: fmt.Sprint(templateForksFD)}
	for name, value := range spec.Template.Env {
		for _, m := range spec.Template.Mounts {
			value = strings.ReplaceAll(value, "{mount:"+m.Name+"}", t.box.Path(m.Name))
		}
		env[name] = value
	}
	j, err := t.box.job(runtime.Command{Argv: spec.Template.Argv, Env: env, Message: func([]byte) {}})
	if err == nil {
		j.Root, err = t.box.root()
	}
	if err == nil {
		err = t.sup.send(j, nil)
	}
	if err != nil {
		return said, err
	}
	ready := make(chan error, 1)
	go func() {
		var first report
		if err := json.NewDecoder(t.sup.report).Decode(&first); err != nil || first.Failure != "" {
			ready <- errors.Join(err, errors.New(first.Failure))
			return
		}
		lines := bufio.NewReader(t.sup.messages)
		if _, err := lines.ReadSlice('\n'); err != nil {
			ready <- fmt.Errorf("it ended before it could fork: %w", err)
			return
		}
		ready <- nil
		io.Copy(io.Discard, lines) //nolint:errcheck // it has said what counts
	}()
	late := time.NewTimer(loadingTime)
	defer late.Stop()
	select {
	case err := <-ready:
		return said, err
	case <-t.pool.stop:
		return said, ErrClosed
	case <-late.C:
		return said, fmt.Errorf("it did not become ready within %s", loadingTime)
	}
}

func (t *template) isLoaded() bool {
	select {
	case <-t.loaded:
		return true
	default:
		return false
	}
}

// failed says that it never could fork.
func (t *template) failed() bool { return t.isLoaded() && t.err != nil }

// dead says that it cannot fork any more. A fork in use lives on.
func (t *template) dead() bool {
	if !t.isLoaded() {
		return false
	}
	if t.failed() {
		return true
	}
	select {
	case <-t.sup.exited:
		return true
	default:
		t.mu.Lock()
		defer t.mu.Unlock()
		return t.retired
	}
}

// take returns the supervisor of a fork that waits for its job.
func (t *template) take(ctx context.Context) (*supervisor, error) {
	if t == nil {
		return nil, ErrClosed
	}
	slow := time.NewTimer(loadingPatience)
	defer slow.Stop()
	select {
	case <-t.loaded:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	case <-slow.C:
		return nil, errUnforked.Errorf("its template still imports after %s", loadingPatience)
	}
	if t.err != nil {
		return nil, t.err
	}
	s, err := t.spares.take()
	t.spares.prepare()
	return s, err
}

// fork makes a fork and its supervisor.
func (t *template) fork() (_ *supervisor, err error) {
	t.making <- struct{}{}
	defer func() { <-t.making }()
	t.mu.Lock()
	if t.retired {
		t.mu.Unlock()
		return nil, errUnforked.Errorf("its template has been retired")
	}
	t.uses++
	t.forks++
	order := forkOrder{Network: t.network}
	if t.box.runtime.level == runtime.Full {
		order.User = 1 + t.forks%(blockSize-1)
	}
	t.mu.Unlock()
	s := &supervisor{exited: make(chan struct{}), from: t}
	defer func() {
		if err != nil {
			s.release()
			err = errUnforked.Errorf("fork a template: %w", err)
		}
	}()
	theirs, err := s.connect()
	if err != nil {
		return nil, err
	}
	passed := theirs[:]
	defer func() {
		for _, f := range passed {
			f.Close() //nolint:errcheck // theirs
		}
	}()
	if t.box.runtime.level == runtime.Full {
		if s.cgroup, err = newCgroup(); err != nil {
			return nil, err
		}
		doors, err := s.cgroup.doors()
		passed = append(passed, doors...)
		if err != nil {
			return nil, err
		}
	}
	if err := t.order(order, passed); err != nil {
		return nil, err
	}
	for _, f := range passed {
		f.Close() //nolint:errcheck // the end of its socket must be seen
	}
	return s, s.greet()
}

func (t *template) order(order forkOrder, passed []*os.File) error {
	text, err := json.Marshal(order)
	if err != nil {
		return err
	}
	fds := make([]int, len(passed))
	for i, f := range passed {
		fds[i] = int(f.Fd())
	}
	t.orders.Lock()
	defer t.orders.Unlock()
	if err := t.sup.writable(); err != nil {
		return err
	}
	_, _, err = t.sup.job.WriteMsgUnix(text, unix.UnixRights(fds...), nil)
	return err
}

// greet waits until the supervisor of a fork is ready for its job, and learns its number and its users.
func (s *supervisor) greet() error {
	if err := s.job.SetReadDeadline(time.Now().Add(30 * time.Second)); err != nil {
		return err
	}
	b, oob := make([]byte, 1), make([]byte, unix.CmsgSpace(4)+unix.CmsgSpace(unix.SizeofUcred))
	n, oobn, _, _, err := s.job.ReadMsgUnix(b, oob)
	if err != nil || n == 0 {
		s.report.SetReadDeadline(time.Now().Add(time.Second)) //nolint:errcheck // pipes have deadlines
		var why report
		_ = json.NewDecoder(s.report).Decode(&why)
		return errors.New(why.Unforked + why.Failure)
	}
	messages, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil {
		return err
	}
	for _, m := range messages {
		switch m.Header.Type {
		case unix.SCM_RIGHTS:
			fds, err := unix.ParseUnixRights(&m)
			if err != nil {
				return err
			}
			s.users = os.NewFile(uintptr(fds[0]), "users")
		case unix.SCM_CREDENTIALS:
			who, err := unix.ParseUnixCredentials(&m)
			if err != nil {
				return err
			}
			if s.process, err = os.FindProcess(int(who.Pid)); err != nil {
				return err
			}
		}
	}
	if s.users == nil || s.process == nil {
		return errors.New("its supervisor did not introduce itself")
	}
	return s.watchEnd()
}

// watchEnd closes exited when the process, which is no child of the server, is gone.
func (s *supervisor) watchEnd() error {
	fd, err := unix.PidfdOpen(s.process.Pid, unix.PIDFD_NONBLOCK)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), "pidfd")
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	go func() {
		raw.Read(func(fd uintptr) bool { //nolint:errcheck // it can only be ready
			n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0) //nolint:gosec // a descriptor
			return n > 0 || (err != nil && !errors.Is(err, unix.EINTR))
		})
		f.Close() //nolint:errcheck // nothing was written
		close(s.exited)
	}()
	return nil
}

// released notes that a fork is gone, retire that the template gets no new ones. The last of them ends it.
func (t *template) released() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.uses--; t.uses == 0 && t.sup != nil {
		t.sup.job.Close() //nolint:errcheck // its effect is the end
	}
}

func (t *template) retire() {
	t.mu.Lock()
	first := !t.retired
	t.retired = true
	t.mu.Unlock()
	if first {
		go func() {
			<-t.loaded
			t.spares.discard()
			t.released()
		}()
	}
}

// makeRoom retires the templates that were not used for the longest time until all together fit the budget.
func (p *templates) makeRoom(but *template) {
	p.mu.Lock()
	defer p.mu.Unlock()
	type entry struct {
		key string
		t   *template
	}
	var all []entry
	total := int64(0)
	for key, t := range p.byKey {
		if t.isLoaded() && t.err == nil {
			total += t.memory
			if t != but {
				all = append(all, entry{key, t})
			}
		}
	}
	slices.SortFunc(all, func(a, b entry) int { return a.t.lastUse().Compare(b.t.lastUse()) })
	for _, e := range all {
		if total <= p.budget {
			return
		}
		total -= e.t.memory
		p.stats.Evicted++
		delete(p.byKey, e.key)
		e.t.retire()
	}
}

func (t *template) lastUse() time.Time {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.used
}

func (p *templates) retireIdle(t *template) {
	if time.Since(t.lastUse()) < templateIdle {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	maps.DeleteFunc(p.byKey, func(_ string, other *template) bool { return other == t })
	t.retire()
}

// close ends all of them. No fork is in use any more.
func (p *templates) close() {
	p.mu.Lock()
	if !p.closed {
		p.closed = true
		close(p.stop)
	}
	all := slices.Collect(maps.Values(p.byKey))
	clear(p.byKey)
	p.mu.Unlock()
	for _, t := range all {
		t.mu.Lock()
		next := t.next
		t.mu.Unlock()
		if next != nil {
			next.retire()
		}
		t.retire()
	}
	p.ended.Wait()
}

// unforked counts a command that was started although it has a template. The next one gets another template: this one may have
// been killed.
func (p *templates) unforked(t *template, why error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if t != nil && t.isLoaded() && !t.failed() {
		maps.DeleteFunc(p.byKey, func(_ string, other *template) bool { return other == t })
		t.retire()
	}
	p.stats.Unforked++
	p.stats.Failure = why.Error()
}

func (p *templates) statistics() runtime.TemplateStats {
	p.mu.Lock()
	defer p.mu.Unlock()
	stats := p.stats
	for _, t := range p.byKey {
		if t.isLoaded() && t.err == nil {
			stats.Live++
			stats.MemoryBytes += t.memory
		}
	}
	return stats
}
