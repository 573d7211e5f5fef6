// Package runtimetest is the conformance suite of the runtime port. Every implementation runs it. A
// test binary that uses it calls Helper first thing in TestMain.
package runtimetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"tarn.dev/tarn/internal/runtime"
)

// Run checks that a runtime keeps the contract. Each call of open returns one that nobody else uses;
// the suite closes it.
func Run(t *testing.T, open func(t *testing.T) runtime.Runtime) {
	for name, test := range map[string]func(*suite){
		"exits":                        (*suite).exits,
		"environment_is_exact":         (*suite).environment,
		"input_is_empty":               (*suite).input,
		"input_given":                  (*suite).inputGiven,
		"assign":                       (*suite).assign,
		"assign_many":                  (*suite).assignMany,
		"assign_limit":                 (*suite).assignLimit,
		"home":                         (*suite).home,
		"folder_of_the_command":        (*suite).folder,
		"mounts":                       (*suite).mounts,
		"held_mounts":                  (*suite).heldMounts,
		"outputs":                      (*suite).outputs,
		"outputs_share_a_writer":       (*suite).sharedWriter,
		"output_is_live":               (*suite).live,
		"output_of_failing_writer":     (*suite).failingWriter,
		"descendants_end_with_it":      (*suite).descendants,
		"cancel_ends_the_tree":         (*suite).cancel,
		"canceled_before":              (*suite).canceledBefore,
		"time_limit":                   (*suite).timeLimit,
		"memory_limit":                 (*suite).memoryLimit,
		"memory_limit_of_the_tree":     (*suite).memoryOfTree,
		"mapped_files_are_not_memory":  (*suite).mappedFiles,
		"process_limit":                (*suite).processLimit,
		"disk_limit":                   (*suite).diskLimit,
		"messages":                     (*suite).messages,
		"messages_long":                (*suite).longMessages,
		"message_too_long":             (*suite).messageTooLong,
		"messages_any_bytes":           (*suite).garbage,
		"not_started":                  (*suite).notStarted,
		"usage":                        (*suite).usage,
		"one_run_at_a_time":            (*suite).oneAtATime,
		"close_ends_a_run":             (*suite).closeEndsRun,
		"close_removes_stubborn_files": (*suite).stubbornFiles,
		"runtime_close_closes_all":     (*suite).closeAll,
		"invalid_specs":                (*suite).invalidSpecs,
		"many_at_once":                 (*suite).manyAtOnce,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			rt := open(t)
			test(&suite{t, rt})
			if err := errors.Join(rt.Close(), rt.Close()); err != nil {
				t.Errorf("close: %v", err)
			}
		})
	}
}

// Benchmark measures the time from Create to the first line, alone and with others.
func Benchmark(b *testing.B, open func(b *testing.B) runtime.Runtime) {
	first := func(b *testing.B, rt runtime.Runtime) time.Duration {
		start := time.Now()
		sb, err := rt.Create(b.Context(), runtime.Spec{ID: "bench"})
		if err != nil {
			b.Fatal(err)
		}
		w := &firstWrite{}
		exit, err := sb.Run(b.Context(), runtime.Command{Argv: []string{"/bin/echo", "x"}, Stdout: w})
		if err = errors.Join(err, sb.Close()); err != nil || !exit.OK() {
			b.Fatalf("%+v %v", exit, err)
		}
		return w.at.Sub(start)
	}
	b.Run("first_line", func(b *testing.B) {
		rt := open(b)
		var sum time.Duration
		for b.Loop() {
			sum += first(b, rt)
		}
		b.ReportMetric(float64(sum.Microseconds())/float64(b.N)/1000, "ms-to-first-line")
	})
	b.Run("run_100_at_once", func(b *testing.B) {
		rt := open(b)
		for b.Loop() {
			var wg sync.WaitGroup
			for range 100 {
				wg.Go(func() { first(b, rt) })
			}
			wg.Wait()
		}
	})
}

type firstWrite struct{ at time.Time }

func (w *firstWrite) Write(p []byte) (int, error) {
	if w.at.IsZero() {
		w.at = time.Now()
	}
	return len(p), nil
}

type suite struct {
	t  *testing.T
	rt runtime.Runtime
}

func (s *suite) create(spec runtime.Spec) runtime.Sandbox {
	s.t.Helper()
	if spec.ID == "" {
		spec.ID = s.t.Name()
	}
	self, err := os.Executable()
	s.must(err)
	spec.Mounts = append(spec.Mounts, runtime.Mount{Name: helperMount, Source: self})
	sb, err := s.rt.Create(s.t.Context(), spec)
	if err != nil {
		s.t.Fatalf("create: %v", err)
	}
	s.t.Cleanup(func() { _ = sb.Close() }) // tests check Close where it matters
	return sb
}

// sh runs a script and returns its end and outputs.
func (s *suite) sh(sb runtime.Sandbox, script string) (runtime.Exit, string, string) {
	s.t.Helper()
	return s.run(sb, shell(script))
}

func (s *suite) run(sb runtime.Sandbox, cmd runtime.Command) (runtime.Exit, string, string) {
	s.t.Helper()
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	exit, err := sb.Run(s.t.Context(), cmd)
	if err != nil {
		s.t.Fatalf("run %v: %v", cmd.Argv, err)
	}
	return exit, stdout.String(), stderr.String()
}

func (s *suite) equal(got, want any) {
	s.t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		s.t.Errorf("want -, got +:\n%s", diff)
	}
}

func (s *suite) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

func shell(script string) runtime.Command {
	return runtime.Command{Argv: []string{"/bin/sh", "-c", script}, Env: map[string]string{"PATH": "/usr/bin:/bin"}}
}

// helperMount is the suite's own program, in every sandbox of the suite.
const helperMount = "runtimetest"

func helper(sb runtime.Sandbox, args ...string) runtime.Command {
	return runtime.Command{
		Argv: append([]string{sb.Path(helperMount), helperRole}, args...),
		Env:  map[string]string{"GORACE": "atexit_sleep_ms=0"}, // or a race-enabled helper sleeps before it exits
	}
}

// life is a pipe in the file system that processes hold open for writing: who reads it sees its end
// when the last of them is gone.
type life struct {
	s    *suite
	path string // inside
	f    *os.File
}

// life makes one in a folder that has another name inside.
func (s *suite) life(dir, inside string) *life {
	s.t.Helper()
	path := filepath.Join(dir, "life")
	s.must(syscall.Mkfifo(path, 0o600))
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	s.must(err)
	s.t.Cleanup(func() { _ = f.Close() })
	return &life{s, filepath.Join(inside, "life"), f}
}

// gone fails the test if somebody holds the pipe. Only the test's own children may, for as long as they take
// from fork to exec: what a command left behind would stay.
func (l *life) gone() {
	l.s.t.Helper()
	l.s.must(l.f.SetReadDeadline(time.Now().Add(20 * time.Second)))
	if _, err := io.Copy(io.Discard, l.f); err != nil {
		l.s.t.Errorf("a process has survived: %v", err)
	}
}

// begun waits until somebody has written to the pipe. A handle that could write itself makes the read
// wait where there is no writer yet.
func (l *life) begun() {
	l.s.t.Helper()
	both, err := os.OpenFile(l.f.Name(), os.O_RDWR|syscall.O_NONBLOCK, 0)
	l.s.must(err)
	l.s.must(both.SetReadDeadline(time.Now().Add(20 * time.Second)))
	if _, err := both.Read(make([]byte, 1)); err != nil {
		l.s.t.Errorf("nobody wrote: %v", err)
	}
	l.s.must(both.Close())
}

func (s *suite) exits() {
	sb := s.create(runtime.Spec{})
	for script, want := range map[string]runtime.Exit{
		"true":                         {Reason: runtime.Exited},
		"exit 3":                       {Reason: runtime.Exited, Code: 3},
		"exit 255":                     {Reason: runtime.Exited, Code: 255},
		"kill -9 $$":                   {Reason: runtime.Signaled, Signal: 9},
		"kill -TERM $$":                {Reason: runtime.Signaled, Signal: 15},
		"sh -c 'kill -9 $$'":           {Reason: runtime.Exited, Code: 137},
		"(exit 5) & wait $!; exit $?":  {Reason: runtime.Exited, Code: 5},
		"trap 'exit 7' TERM; kill $$":  {Reason: runtime.Exited, Code: 7},
		"exec sh -c 'exit 9' >&- 2>&-": {Reason: runtime.Exited, Code: 9},
	} {
		exit, _, _ := s.sh(sb, script)
		exit.Usage = runtime.Usage{}
		if exit != want {
			s.t.Errorf("%s: %+v, want %+v", script, exit, want)
		}
		if exit.OK() != (script == "true") {
			s.t.Errorf("%s: OK = %v", script, exit.OK())
		}
	}
}

func (s *suite) environment() {
	s.t.Logf("HOME of the test is %s", os.Getenv("HOME"))
	sb := s.create(runtime.Spec{})
	cmd := runtime.Command{
		Argv: []string{"/usr/bin/env", "-0"},
		Env:  map[string]string{"A": "1", "EMPTY": "", "BYTES": "\xff\xfe ä\n=", "lower": "x"},
	}
	_, got, _ := s.run(sb, cmd)
	want := map[string]bool{"A=1": true, "EMPTY=": true, "BYTES=\xff\xfe ä\n=": true, "lower=x": true}
	s.equal(set(got), want)

	cmd.Message = func([]byte) {}
	_, got, _ = s.run(sb, cmd)
	vars := set(got)
	n := 0
	for v := range vars {
		if strings.HasPrefix(v, runtime.MessagesVariable+"=") {
			n++
			delete(vars, v)
		}
	}
	s.equal(n, 1)
	s.equal(vars, want)

	cmd.Env, cmd.Message = nil, nil
	_, got, _ = s.run(sb, cmd)
	s.equal(got, "")
}

func set(text string) map[string]bool {
	m := map[string]bool{}
	for v := range strings.SplitSeq(strings.TrimSuffix(text, "\x00"), "\x00") {
		m[v] = true
	}
	return m
}

func (s *suite) input() {
	exit, out, _ := s.sh(s.create(runtime.Spec{}), "cat; echo $?; ls /proc/self/fd")
	s.equal(exit.OK(), true)
	s.equal(out, "0\n0\n1\n2\n3\n") // 3 is the folder that ls reads: nothing else is inherited
}

func (s *suite) home() {
	sb := s.create(runtime.Spec{})
	_, out, _ := s.sh(sb, "pwd; ls -A; echo hi > f; mkdir d; ln -s nowhere l")
	s.equal(out, sb.Home()+"\n")
	data, err := os.ReadFile(filepath.Join(sb.HostHome(), "f"))
	s.must(err)
	s.equal(string(data), "hi\n")
	s.must(os.WriteFile(filepath.Join(sb.HostHome(), "in"), []byte("x"), 0o600))
	_, out, _ = s.sh(sb, "ls -A") // the next run finds what the last one left
	s.equal(out, "d\nf\nin\nl\n")
	other := s.create(runtime.Spec{})
	if other.HostHome() == sb.HostHome() {
		s.t.Error("two sandboxes share a home")
	}
	s.must(errors.Join(sb.Close(), sb.Close()))
	if _, err := os.Stat(sb.HostHome()); !errors.Is(err, os.ErrNotExist) {
		s.t.Errorf("home after Close: %v", err)
	}
	if _, err := os.Stat(other.HostHome()); err != nil {
		s.t.Errorf("another's home: %v", err)
	}
}

func (s *suite) folder() {
	sb := s.create(runtime.Spec{})
	s.must(os.Mkdir(filepath.Join(sb.HostHome(), "sub"), 0o700))
	cmd := shell("pwd")
	cmd.Dir = sb.Home() + "/sub"
	_, out, _ := s.run(sb, cmd)
	s.equal(out, cmd.Dir+"\n")
}

func (s *suite) mounts() {
	in, out := s.t.TempDir(), s.t.TempDir()
	s.must(os.WriteFile(in+"/f", []byte("data"), 0o600))
	sb := s.create(runtime.Spec{Mounts: []runtime.Mount{
		{Name: "in", Source: in}, {Name: "out-1", Source: out, Writable: true}, {Name: "file", Source: in + "/f"},
	}})
	exit, text, stderr := s.sh(sb, fmt.Sprintf("cat %s/f %s > %s/copy; echo $?", sb.Path("in"), sb.Path("file"), sb.Path("out-1")))
	if !exit.OK() || text != "0\n" {
		s.t.Fatalf("%+v %s %s", exit, text, stderr)
	}
	data, err := os.ReadFile(out + "/copy")
	s.must(err)
	s.equal(string(data), "datadata")
	if _, err := os.Stat(sb.Path("unknown")); err == nil {
		s.t.Error("an unknown mount has a path that exists")
	}
	s.must(sb.Close())
	if _, err := os.Stat(out + "/copy"); err != nil {
		s.t.Errorf("Close touched a mount: %v", err)
	}
}

// heldMounts: a folder that is shown with Held cannot be locked by whoever would remove it, until nobody shows it.
func (s *suite) heldMounts() {
	held, other := s.t.TempDir(), s.t.TempDir()
	locked := func(dir string) bool {
		f, err := os.Open(dir)
		s.must(err)
		defer f.Close()
		return unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil
	}
	mounts := []runtime.Mount{{Name: "held", Source: held, Held: true}, {Name: "other", Source: other}}
	first, second := s.create(runtime.Spec{Mounts: mounts}), s.create(runtime.Spec{Mounts: mounts})
	s.equal([]bool{locked(held), locked(other)}, []bool{true, false})
	s.must(first.Close())
	s.equal(locked(held), true)
	s.must(second.Close())
	s.equal(locked(held), false)
}

func (s *suite) outputs() {
	sb := s.create(runtime.Spec{})
	_, out, errs := s.sh(sb, `echo out; echo err >&2; printf 'no newline'; printf '\377\000\n' >&2`)
	s.equal(out, "out\nno newline")
	s.equal(errs, "err\n\xff\x00\n")
	_, out, errs = s.sh(sb, "head -c 10000000 /dev/zero; head -c 3000000 /dev/zero >&2")
	s.equal([]int{len(out), len(errs)}, []int{10_000_000, 3_000_000})
	exit, err := sb.Run(s.t.Context(), shell("head -c 10000000 /dev/zero; echo x >&2")) // nobody takes it
	s.must(err)
	s.equal(exit.OK(), true)
}

func (s *suite) sharedWriter() {
	var both bytes.Buffer // the race detector sees writes at the same time
	cmd := shell("for i in $(seq 500); do echo out; echo err >&2; done")
	cmd.Stdout, cmd.Stderr = &both, &both
	_, err := s.create(runtime.Spec{}).Run(s.t.Context(), cmd)
	s.must(err)
	s.equal([]int{strings.Count(both.String(), "out\n"), strings.Count(both.String(), "err\n")}, []int{500, 500})
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// Each line arrives while the command runs: it waits until the one before has.
func (s *suite) live() {
	sb := s.create(runtime.Spec{})
	cmd := shell(`for i in 1 2 3 4 5; do date +%s%N; until [ -e go$i ]; do sleep 0.005; done; done`)
	n := 0
	cmd.Stdout = writerFunc(func(p []byte) (int, error) {
		var ns int64
		if _, err := fmt.Sscan(string(p), &ns); err != nil {
			return 0, err
		}
		if late := time.Since(time.Unix(0, ns)); late > 10*time.Second {
			s.t.Errorf("line arrived after %s", late)
		}
		n++
		return len(p), os.WriteFile(fmt.Sprintf("%s/go%d", sb.HostHome(), n), nil, 0o600)
	})
	exit, err := sb.Run(s.t.Context(), cmd)
	s.must(err)
	s.equal(n, 5)
	s.equal(exit.OK(), true)
}

func (s *suite) failingWriter() {
	cmd := shell("head -c 3000000 /dev/zero; echo done >&2")
	var errs bytes.Buffer
	cmd.Stdout = writerFunc(func([]byte) (int, error) { return 0, errors.New("broken") })
	cmd.Stderr = &errs
	exit, err := s.create(runtime.Spec{}).Run(s.t.Context(), cmd)
	s.must(err)
	s.equal(exit.OK(), true)
	s.equal(errs.String(), "done\n")
}

// daemons are ways to leave a process behind that holds $1 and all inherited descriptors open.
var daemons = map[string]string{
	"background":     `sh -c 'exec 9>"$1"; echo x >&9; exec sleep 1000' - "$1" & wait_begun`,
	"ignores_hangup": `(trap '' HUP INT TERM; exec 9>"$1"; echo x >&9; sleep 1000) & wait_begun`,
	"new_session":    `setsid sh -c 'exec 9>"$1"; echo x >&9; exec sleep 1000' - "$1" & wait_begun`,
	"double_fork":    `setsid sh -c 'setsid env -i PATH=/usr/bin:/bin sh -c '"'"'exec 9>"$1"; echo x >&9; exec sleep 1000'"'"' - "$1" & exit 0' - "$1"; wait_begun`,
	"stopped":        `sh -c 'exec 9>"$1"; echo x >&9; kill -STOP $$' - "$1" & wait_begun`,
}

func (s *suite) descendants() {
	for name, script := range daemons {
		s.t.Run(name, func(t *testing.T) {
			sub := &suite{t, s.rt}
			sb := sub.create(runtime.Spec{})
			l := sub.life(sb.HostHome(), sb.Home())
			cmd := shell(strings.ReplaceAll(script, "wait_begun", `until [ -e begun ]; do sleep 0.005; done`) + "; echo over")
			cmd.Argv = append(cmd.Argv, "-", l.path)
			go func() {
				l.begun()
				if err := os.WriteFile(filepath.Join(sb.HostHome(), "begun"), nil, 0o600); err != nil {
					t.Error(err)
				}
			}()
			exit, out, errs := sub.run(sb, cmd)
			if !exit.OK() || out != "over\n" {
				t.Errorf("%+v %q %q", exit, out, errs)
			}
			l.gone()
		})
	}
}

func (s *suite) cancel() {
	sb := s.create(runtime.Spec{})
	l := s.life(sb.HostHome(), sb.Home())
	cmd := shell(`trap '' TERM INT HUP; exec 9>"$1"
		for i in 1 2 3 4 5; do (setsid sh -c "trap '' TERM; sleep 1000; sleep 1000") & done
		echo before; echo x >&9; while true; do sleep 1000; done`)
	cmd.Argv = append(cmd.Argv, "-", l.path)
	var out bytes.Buffer
	cmd.Stdout = &out
	ctx, cancel := context.WithCancelCause(s.t.Context())
	var at time.Time
	go func() {
		l.begun()
		at = time.Now()
		cancel(errors.New("enough"))
	}()
	exit, err := sb.Run(ctx, cmd)
	s.must(err)
	if took := time.Since(at); took > 10*time.Second { // a second, on a host with nothing else to do
		s.t.Errorf("it took %s", took)
	}
	s.equal(exit.Reason, runtime.Canceled)
	s.equal(out.String(), "before\n")
	l.gone()
}

func (s *suite) canceledBefore() {
	ctx, cancel := context.WithCancelCause(s.t.Context())
	cancel(errors.New("enough"))
	sb := s.create(runtime.Spec{})
	exit, err := sb.Run(ctx, shell("touch ran"))
	s.must(err)
	s.equal(exit.Reason, runtime.Canceled)
	if _, err := os.Stat(sb.HostHome() + "/ran"); err == nil {
		s.t.Error("it ran")
	}
}
