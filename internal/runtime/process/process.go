//go:build linux

// Package process runs commands on this host, each in a sandbox of processes, at one of three levels. At level
// process a sandbox has a folder, an environment, limits and a process tree of its own, but no namespaces: it
// works without privileges and everywhere, and holds nobody who is hostile. At userns and full it has
// namespaces, a root of its own, no capabilities and a filter of system calls; docs/design/runtime.md tells how.
//
// Every Run has a supervisor, this same binary in the hidden role `sandbox-init` (InitMain), which is
// the command's parent and the reaper of everything the command starts. A descendant that forks twice
// or makes its own session therefore stays below the supervisor, who kills all of them when the command
// has ended. The supervisor ends itself, with all below it, when the socket from the server closes: by
// intent, or because the server was killed. The next supervisor is started ahead of its use, because
// starting a large binary takes longer than starting most commands.
//
// Limits are watched: the supervisor looks at the tree every 50 ms, so a limit may be passed for that long;
// at level full the kernel holds it a little above. Memory is anonymous and shared-memory pages, shared ones
// counted once; pages of mapped files do not count, the kernel can drop them. Disk is what a walk over the
// sandbox's own folders finds. Limits.CPUs has an effect at level full, Spec.Network at userns and full. At
// level process a command that kills its own supervisor ends with it, and so does what is left of its
// session; whoever left the session as well escapes.
package process

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/base/pattern"
	"tarn.dev/tarn/internal/base/room"
	"tarn.dev/tarn/internal/runtime"
)

// Errors of this runtime.
var (
	// ErrClosed is returned after Close.
	ErrClosed = errdef.New(errdef.FailedPrecondition, "runtime.closed", "the sandbox is closed")
	// ErrBusy is returned by Run while another Run of the same sandbox is under way.
	ErrBusy = errdef.New(errdef.FailedPrecondition, "runtime.busy", "the sandbox is busy")
	// ErrInvalidSpec is returned by Create.
	ErrInvalidSpec = errdef.New(errdef.InvalidArgument, "runtime.invalid_spec", "invalid sandbox")
	// ErrInvalidCommand is returned by Run for a command that no sandbox could start.
	ErrInvalidCommand = errdef.New(errdef.InvalidArgument, "runtime.invalid_command", "invalid command")
	// ErrNotStarted is returned by Run when the program cannot be started.
	ErrNotStarted = errdef.New(errdef.FailedPrecondition, "runtime.not_started", "the command could not be started")
	// ErrMessageTooLong is returned by Run, beside the exit, when a line of a message was above 64 MiB.
	ErrMessageTooLong = errdef.New(errdef.UserCode, "runtime.message_too_long", "a message is too long")
)

// Runtime makes sandboxes at level process.
type Runtime struct {
	dir   string
	init  string
	level runtime.Level
	spare spares

	templates templates
	disk      disk

	mu     sync.Mutex
	open   map[*sandbox]struct{}
	closed bool
}

// Place is where sandboxes are made.
type Place struct {
	Dir string // of their folders; made if it does not exist
	// Init is the program that supervisors are started from, which calls InitMain. "" is this program itself.
	Init string
}

// New returns a runtime of a level that this host has.
func New(place Place, level runtime.Level) (runtime.Runtime, error) {
	dir, err := filepath.Abs(place.Dir)
	if err == nil {
		err = os.MkdirAll(dir, 0o700)
	}
	if err != nil {
		return nil, fmt.Errorf("open sandboxes' folder %s: %w", dir, err)
	}
	if level == runtime.Full {
		removeGroups()
	}
	// Not the file's name: an upgrade may have replaced it, and both sides must be the same program.
	r := &Runtime{dir: dir, init: cmp.Or(place.Init, "/proc/self/exe"), level: level, open: map[*sandbox]struct{}{}}
	r.disk = disk{room: func() (room.Room, error) { return room.Of(dir) }, wrote: map[*sandbox]int64{}}
	r.spare = spares{size: 1, start: func() (*supervisor, error) { return r.startSupervisor(partCommand) }}
	r.templates = templates{runtime: r, budget: room.Memory() / 4, byKey: map[string]*template{}, stop: make(chan struct{})}
	return r, nil
}

// bounded has limits where there are none, so that one sandbox cannot take the host along.
func (r *Runtime) bounded(l runtime.Limits) runtime.Limits {
	l.PIDs = cmp.Or(l.PIDs, runtime.DefaultPIDs)
	l.MemoryBytes = cmp.Or(l.MemoryBytes, room.Memory())
	if l.DiskBytes == 0 {
		if left, err := r.disk.room(); err == nil {
			l.DiskBytes = max(1, left.Free/10*9)
		}
	}
	return l
}

// Templates implements runtime.Runtime.
func (r *Runtime) Templates() runtime.TemplateStats { return r.templates.statistics() }

// Level implements runtime.Runtime.
func (r *Runtime) Level() runtime.Level { return r.level }

// Create implements runtime.Runtime.
func (r *Runtime) Create(ctx context.Context, spec runtime.Spec) (runtime.Sandbox, error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if spec.Template != nil {
		spec.Mounts = slices.Concat(spec.Template.Mounts, spec.Mounts)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return nil, ErrClosed.Errorf("create sandbox %s: the runtime is closed", spec.ID)
	}
	s, err := r.newSandbox(spec, "sandbox-")
	if err != nil {
		return nil, err
	}
	r.open[s] = struct{}{}
	if !s.forks() {
		r.spare.prepare()
	}
	return s, nil
}

// newSandbox checks a spec and makes the sandbox's folders; what they begin with says whose they are.
func (r *Runtime) newSandbox(spec runtime.Spec, kind string) (*sandbox, error) {
	paths, err := checkSpec(spec)
	if err != nil {
		return nil, err
	}
	spec.Limits = r.bounded(spec.Limits)
	dir, err := os.MkdirTemp(r.dir, kind)
	if err != nil {
		return nil, fmt.Errorf("create sandbox %s: %w", spec.ID, err)
	}
	s := &sandbox{runtime: r, spec: spec, paths: paths, home: filepath.Join(dir, "home"), dir: dir}
	if err := s.hold(); err != nil {
		return nil, errors.Join(fmt.Errorf("create sandbox %s: %w", spec.ID, err), os.RemoveAll(dir))
	}
	if err := errors.Join(os.Mkdir(s.home, 0o700), os.Mkdir(filepath.Join(dir, "tmp"), 0o700)); err != nil {
		s.letGo()
		return nil, errors.Join(fmt.Errorf("create sandbox %s: %w", spec.ID, err), os.RemoveAll(dir))
	}
	return s, nil
}

// Close implements runtime.Runtime.
func (r *Runtime) Close() error {
	r.mu.Lock()
	r.closed = true
	var left []*sandbox
	for s := range r.open {
		left = append(left, s)
	}
	r.mu.Unlock()
	var errs []error
	for _, s := range left {
		errs = append(errs, s.Close())
	}
	r.spare.discard()
	r.templates.close()
	return errors.Join(errs...)
}

var mountName = pattern.Of(`^[a-z0-9-]+$`)

func checkSpec(spec runtime.Spec) (map[string]runtime.Mount, error) {
	paths := make(map[string]runtime.Mount, len(spec.Mounts))
	for _, m := range spec.Mounts {
		switch _, twice := paths[m.Name]; {
		case !mountName().MatchString(m.Name):
			return nil, ErrInvalidSpec.Errorf("sandbox %s: mount name %q: only a-z, 0-9 and - are allowed", spec.ID, m.Name)
		case twice:
			return nil, ErrInvalidSpec.Errorf("sandbox %s: two mounts are named %q", spec.ID, m.Name)
		case !filepath.IsAbs(m.Source):
			return nil, ErrInvalidSpec.Errorf("sandbox %s: mount %s: %q is not an absolute path", spec.ID, m.Name, m.Source)
		case m.InPlace && filepath.Clean(m.Source) == "/":
			return nil, ErrInvalidSpec.Errorf("sandbox %s: mount %s: the whole host cannot be shown", spec.ID, m.Name)
		}
		if _, err := os.Stat(m.Source); err != nil {
			return nil, ErrInvalidSpec.Errorf("sandbox %s: mount %s: %w", spec.ID, m.Name, err)
		}
		paths[m.Name] = m
	}
	if l := spec.Limits; l.MemoryBytes < 0 || l.CPUs < 0 || l.PIDs < 0 || l.DiskBytes < 0 || l.Time < 0 {
		return nil, ErrInvalidSpec.Errorf("sandbox %s: a limit is negative", spec.ID)
	}
	return paths, nil
}

type sandbox struct {
	runtime *Runtime
	spec    runtime.Spec
	paths   map[string]runtime.Mount
	dir     string
	home    string
	held    []*os.File // folders that nobody may remove

	mu       sync.Mutex // guards spec's mounts and limits, and paths
	closed   bool
	cancel   context.CancelCauseFunc // of the Run under way; nil if there is none
	live     *live                   // its command
	assigned int                     // how many of the last mounts came by Assign
	running  sync.WaitGroup
	closing  sync.Once
	err      error // of Close
}

// hold locks the folders that must stay while the sandbox is open.
func (s *sandbox) hold() error {
	for _, m := range s.spec.Mounts {
		if !m.Held {
			continue
		}
		f, err := os.Open(m.Source)
		if err == nil {
			s.held = append(s.held, f)
			err = unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB)
		}
		if err != nil {
			s.letGo()
			return fmt.Errorf("keep mount %s: %w", m.Name, err)
		}
	}
	return nil
}

func (s *sandbox) letGo() {
	for _, f := range s.held {
		// A process that is just being forked has the file too: closing alone would keep the lock until it is another program.
		unix.Flock(int(f.Fd()), unix.LOCK_UN) //nolint:errcheck // closing it gives it up, too
		f.Close()                             //nolint:errcheck // nothing was written
	}
	s.held = nil
}

// Path implements runtime.Sandbox. An unknown name gives a path that nothing can have.
func (s *sandbox) Path(mount string) string {
	s.mu.Lock()
	p, ok := s.paths[mount]
	s.mu.Unlock()
	switch {
	case !ok:
		return "/proc/self/no-mount-is-named/" + mount
	case s.runtime.level == runtime.Process:
		return p.Source
	}
	return inside(p)
}

// Home implements runtime.Sandbox.
func (s *sandbox) Home() string {
	if s.runtime.level == runtime.Process {
		return s.home
	}
	return homeInside
}

// HostHome implements runtime.Sandbox.
func (s *sandbox) HostHome() string { return s.home }

// Close implements runtime.Sandbox.
func (s *sandbox) Close() error {
	s.closing.Do(func() {
		s.mu.Lock()
		s.closed = true
		s.mu.Unlock()
		s.stop(ErrClosed)
		s.running.Wait()
		s.letGo()
		if s.err = removeAll(s.dir); s.err != nil {
			s.err = fmt.Errorf("close sandbox %s: %w", s.spec.ID, s.err)
		}
		s.runtime.mu.Lock()
		delete(s.runtime.open, s)
		s.runtime.mu.Unlock()
	})
	return s.err
}

// now is the spec with what was assigned until now.
func (s *sandbox) now() runtime.Spec {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.spec
}

// begin claims the sandbox for one Run.
func (s *sandbox) begin(ctx context.Context) (context.Context, *live, func(), error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closed:
		return nil, nil, nil, ErrClosed.Errorf("run in sandbox %s: it is closed", s.spec.ID)
	case s.cancel != nil:
		return nil, nil, nil, ErrBusy.Errorf("run in sandbox %s: another command runs in it", s.spec.ID)
	}
	ctx, s.cancel = context.WithCancelCause(ctx)
	s.running.Add(1)
	running := newLive()
	running.wrote = func(bytes int64) { s.runtime.disk.grew(s, bytes) }
	s.live = running
	return ctx, running, func() {
		s.mu.Lock()
		s.cancel(nil)
		s.cancel, s.live = nil, nil
		s.mu.Unlock()
		s.runtime.disk.ended(s)
		close(running.over)
		s.running.Done()
	}, nil
}

// removeAll removes dir also when a command took its own write permission from folders in it.
func removeAll(dir string) error {
	if os.RemoveAll(dir) == nil {
		return nil
	}
	// What cannot be changed or read is reported by the second try.
	_ = filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return filepath.SkipDir
		}
		if d.IsDir() {
			return os.Chmod(path, 0o700)
		}
		return nil
	})
	return os.RemoveAll(dir)
}
