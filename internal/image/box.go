package image

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"tarn.dev/tarn/internal/runtime"
)

// box is a sandbox that uv, or what builds a package, runs in. It has the network, the settings that say where packages come
// from, and an interpreter; no file of a project, no home, nothing of the server. What it may write is its own
// folder, which goes with it, and the one mount that its maker gives it.
type box struct {
	runtime.Sandbox
	store *Store
	what  string // its purpose, in errors
	env   map[string]string
}

// boxSpec says what is special about a box.
type boxSpec struct {
	what   string
	mounts []runtime.Mount
	// indexes are package indexes beside the user's own; some may be folders of this host.
	indexes []string
	// builds: it runs what packages bring, so it sees no credentials but those in an index's own URL or variables, and no
	// cache that others use.
	builds bool
}

// buildLimits bound what a package's own code takes while it is built. What downloads and unpacks has those of any
// sandbox: it is uv, and how much there is to do is the user's choice.
var buildLimits = runtime.Limits{MemoryBytes: 16 << 30, PIDs: 4096, DiskBytes: 16 << 30, Time: time.Hour}

// cacheMount is uv's cache, and where views begin.
const cacheMount = "cache"

func (s *Store) uvCache() string { return filepath.Join(s.dir, "uv") }

// box makes a sandbox with uv's cache: the shared one, or its own where it builds.
func (s *Store) box(ctx context.Context, spec boxSpec) (*box, error) {
	env, settings := s.env.settings()
	given, err := logins(ctx, spec.indexes)
	if err != nil {
		return nil, err
	}
	maps.Copy(env, given)
	mounts := slices.Clone(spec.mounts)
	limits := runtime.Limits{}
	if spec.builds {
		limits = buildLimits
		for _, name := range credentials {
			settings = slices.DeleteFunc(settings, func(path string) bool { return path == env[name] })
			delete(env, name)
		}
	} else {
		if err := os.MkdirAll(s.uvCache(), 0o755); err != nil { // somebody may have made room
			return nil, classify(err)
		}
		mounts = append(mounts, runtime.Mount{Name: cacheMount, Source: s.uvCache(), Writable: true, Uncounted: true})
	}
	for i, path := range append(settings, localIndexes(spec.indexes)...) {
		mounts = append(mounts, runtime.Mount{Name: fmt.Sprint("setting-", i), Source: path, InPlace: true})
	}
	inside, err := s.runtime.Create(ctx, runtime.Spec{ID: spec.what, Mounts: mounts, Limits: limits, Network: true})
	if err != nil {
		return nil, err
	}
	b := &box{Sandbox: inside, store: s, what: spec.what, env: env}
	cache, link := b.Path(cacheMount), "hardlink"
	if spec.builds {
		cache = filepath.Join(b.Home(), cacheMount)
	}
	if slices.ContainsFunc(spec.mounts, func(m runtime.Mount) bool { return m.Writable }) {
		link = "copy" // links cannot cross mounts
	}
	for name, value := range map[string]string{
		"PATH": hostPath, "HOME": b.Home(), "TMPDIR": b.Home(), "UV_CACHE_DIR": cache, "UV_NO_PROGRESS": "1",
		"UV_PYTHON_DOWNLOADS": "never", "NO_COLOR": "1", "UV_LINK_MODE": link,
	} {
		b.env[name] = value
	}
	return b, nil
}

// quietBox makes a sandbox for building what needs nothing from outside: no network, and no settings, which may hold credentials.
func (s *Store) quietBox(ctx context.Context, what string, mounts []runtime.Mount) (*box, error) {
	inside, err := s.runtime.Create(ctx, runtime.Spec{ID: what, Mounts: mounts, Limits: buildLimits})
	if err != nil {
		return nil, err
	}
	b := &box{Sandbox: inside, store: s, what: what}
	b.env = map[string]string{"PATH": hostPath, "HOME": b.Home(), "TMPDIR": b.Home(), "NO_COLOR": "1", "LANG": "C.UTF-8"}
	return b, nil
}

// hostPath is where programs of the host are found in a box.
const hostPath = "/usr/local/bin:/usr/bin:/bin"

// pythonMounts show an interpreter; with its headers, for what is built.
func pythonMounts(p Interpreter) []runtime.Mount {
	if p.Prefix == "" {
		return nil // what is to be done needs none
	}
	mounts := runtime.Installed("python", p.Prefix)
	if include := filepath.Join(p.Prefix, "include"); isFolder(include) {
		mounts = append(mounts, runtime.Mount{Name: "python-include", Source: include, InPlace: true})
	}
	return mounts
}

func isFolder(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}

// uvBox is a box with uv and an interpreter.
func (s *Store) uvBox(ctx context.Context, spec boxSpec, python Interpreter, progress func(string)) (*box, error) {
	uv, err := s.uvPath(ctx, progress)
	if err != nil {
		return nil, err
	}
	spec.mounts = slices.Concat(spec.mounts, pythonMounts(python), []runtime.Mount{uvMount(uv)})
	return s.box(ctx, spec)
}

func uvMount(path string) runtime.Mount { return runtime.Mount{Name: "uv", Source: path} }

// uv runs uv to its end. Lines of its stderr go to progress as they come.
func (b *box) uv(ctx context.Context, progress func(string), args ...string) error {
	_, said, err := b.run(ctx, progress, append([]string{b.Path("uv")}, args...)...)
	if errors.As(err, new(failedError)) {
		return uvError(b.what, said)
	}
	return err
}

// failedError is the status of a command that ended by itself, and not well. Its output says why.
type failedError int

func (f failedError) Error() string { return fmt.Sprintf("the command ended with status %d", int(f)) }

// run runs a program to its end and returns what it wrote.
func (b *box) run(ctx context.Context, progress func(string), argv ...string) (stdout, stderr string, err error) {
	var out, said lines
	said.each = hiding(progress)
	exit, err := b.Run(ctx, runtime.Command{Argv: argv, Env: b.env, Stdout: &out, Stderr: &said})
	stdout, stderr = out.all.String(), said.all.String()
	switch {
	case err != nil || exit.OK():
	case exit.Reason == runtime.Exited:
		err = failedError(exit.Code)
	case exit.Reason == runtime.Canceled:
		err = cmp.Or(context.Cause(ctx), errors.New("canceled"))
	default:
		err = ErrResolver.Errorf("%s: %s was ended: %s", b.what, filepath.Base(argv[0]), ended(exit))
	}
	return stdout, stderr, err
}

// ended says in words what stopped a command from outside.
func ended(exit runtime.Exit) string {
	switch exit.Reason {
	case runtime.Signaled:
		return fmt.Sprintf("signal %d (%s)", exit.Signal, unix.SignalName(unix.Signal(exit.Signal)))
	case runtime.OutOfMemory:
		return fmt.Sprintf("more than %d GiB of memory", buildLimits.MemoryBytes>>30)
	case runtime.DiskFull:
		return fmt.Sprintf("more than %d GiB of files", buildLimits.DiskBytes>>30)
	case runtime.NoRoom:
		return "the disk is nearly full"
	case runtime.TooManyProcesses:
		return fmt.Sprintf("more than %d processes", buildLimits.PIDs)
	case runtime.TimedOut:
		return fmt.Sprintf("more than %s", buildLimits.Time)
	}
	return string(exit.Reason)
}

// write makes a file of the box's own folder and returns its path inside.
func (b *box) write(name, text string) (string, error) {
	return filepath.Join(b.Home(), name), classify(os.WriteFile(filepath.Join(b.HostHome(), name), []byte(text), 0o600))
}

// maxRead is the most that is read of what a box left.
const maxRead = 64 << 20

// read reads a file that the box left in its own folder.
func (b *box) read(name string) (content []byte, err error) {
	f, err := b.open(name)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	content, err = io.ReadAll(io.LimitReader(f, maxRead+1))
	if err == nil && len(content) > maxRead {
		err = ErrUnsafe.Errorf("%s: %s is larger than %d MiB", b.what, name, maxRead>>20)
	}
	return content, err
}

// open opens a file that the box left. Whoever wrote there may be hostile: no link leads out of the folder, and a pipe
// in place of the file holds nobody up.
func (b *box) open(name string) (*os.File, error) {
	root, err := os.OpenRoot(b.HostHome())
	if err != nil {
		return nil, err
	}
	f, err := root.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0)
	if err = errors.Join(err, root.Close()); err != nil {
		return nil, ErrUnsafe.Errorf("%s: take over %s: %w", b.what, name, err)
	}
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil, errors.Join(ErrUnsafe.Errorf("%s: %s is no file", b.what, name), err, f.Close())
	}
	return f, nil
}

// discard closes b, whose folder is worth nothing any more, and adds to err what went wrong with that.
func (b *box) discard(err *error) { *err = errors.Join(*err, b.Close()) }

// checkTree looks through what was unpacked, before it becomes anybody's: nothing but folders and files. A link could lead
// out of the tree, and a pipe or device holds up whoever reads it.
func checkTree(root string) error {
	return filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || d.Type().IsRegular() {
			return err
		}
		name, _ := filepath.Rel(root, path) //nolint:errcheck // path begins with root
		return ErrUnsafe.Errorf("a package brings %s, which is neither a file nor a folder (%s)", name, d.Type())
	})
}

// maxOutput is how much of a program's output is kept, its end.
const maxOutput = 1 << 20

// lines keeps what is written and hands on each line.
type lines struct {
	all  bytes.Buffer
	rest []byte
	each func(string)
}

func (l *lines) Write(p []byte) (int, error) {
	if l.all.Len()+len(p) > 2*maxOutput {
		l.all.Next(max(0, l.all.Len()-maxOutput))
	}
	l.all.Write(p)
	if l.each == nil {
		return len(p), nil
	}
	l.rest = append(l.rest, p...)
	for {
		line, rest, ended := bytes.Cut(l.rest, []byte("\n"))
		if !ended && len(line) < maxOutput {
			return len(p), nil
		}
		if text := strings.TrimSpace(string(line)); text != "" {
			l.each(text)
		}
		l.rest = rest
	}
}
