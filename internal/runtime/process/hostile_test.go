//go:build linux

package process_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"tarn.dev/tarn/internal/runtime"
	"tarn.dev/tarn/internal/runtime/process"
)

const serverRole = "test-server"

// daemonize leaves processes that hold the pipe $1 open, some in sessions of their own.
const daemonize = `exec 9>"$1"; setsid sh -c 'setsid sleep 1000 & sleep 1000' & sleep 1000 & echo x >&9; wait`

// server runs a command at a level until it is killed; argv is a folder, the level, and "fork" or "command".
func server(argv []string) int {
	rt, err := process.New(process.Place{Dir: filepath.Join(argv[0], "boxes")}, runtime.Level(argv[1]))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	spec := runtime.Spec{ID: "x", Mounts: []runtime.Mount{{Name: "shared", Source: filepath.Join(argv[0], "shared"), Writable: true}}}
	if argv[2] == "fork" {
		spec.Template, err = newTemplate()
	}
	var sb runtime.Sandbox
	if err == nil {
		sb, err = rt.Create(context.Background(), spec)
	}
	if err == nil {
		_, err = sb.Run(context.Background(), shell(daemonize, sb.Path("shared")+"/life"))
	}
	fmt.Fprintln(os.Stderr, "the command ended:", err)
	return 1
}

func TestKillOfTheServerEndsTheTree(t *testing.T) {
	t.Parallel()
	for _, level := range levels {
		for _, how := range []string{"command", "fork"} {
			t.Run(string(level)+"/"+how, func(t *testing.T) {
				t.Parallel()
				need(t, level)
				killServer(t, level, how)
			})
		}
	}
}

func killServer(t *testing.T, level runtime.Level, how string) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "shared"), 0o700); err != nil {
		t.Fatal(err)
	}
	life := newLife(t, filepath.Join(dir, "shared"))
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	var errs bytes.Buffer
	cmd := exec.Command(self, serverRole, dir, string(level), how)
	cmd.Stderr = &errs
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if err := begun(life); err != nil {
		t.Fatalf("%v: %s", err, errs.String())
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	gone(t, life)
	if took := time.Since(start); took > 10*time.Second {
		t.Errorf("it took %s", took)
	}
	_ = cmd.Wait() // killed
}

// A command that kills its supervisor ends with it, and with what is in its session.
func TestSupervisorKilled(t *testing.T) {
	t.Parallel()
	sb := create(t, runtime.Limits{})
	life := newLife(t, sb.HostHome())
	var out strings.Builder
	cmd := shell(`exec 9>"$1"; sleep 1000 & echo before; echo x >&9; kill -9 $PPID; sleep 1000`, sb.HostHome()+"/life")
	cmd.Stdout = &out
	exit, err := sb.Run(t.Context(), cmd)
	if err != nil || exit.Reason != runtime.Signaled || exit.Signal != 9 || out.String() != "before\n" {
		t.Errorf("%+v %q %v", exit, out.String(), err)
	}
	gone(t, life)
	if exit, err := sb.Run(t.Context(), shell("true")); err != nil || !exit.OK() {
		t.Errorf("afterwards: %+v %v", exit, err)
	}
}

// Nobody who escaped with the pipe in hand holds up Run.
func TestEscapedHolderOfThePipe(t *testing.T) {
	t.Parallel()
	sb := create(t, runtime.Limits{})
	var out strings.Builder
	cmd := shell(`setsid sleep 60 & head -c 60000 /dev/zero | tr '\0' x; sleep 0.05; kill -9 $PPID; sleep 60`)
	cmd.Stdout = &out
	start := time.Now()
	_, err := sb.Run(t.Context(), cmd)
	if took := time.Since(start); err != nil || took > 20*time.Second || out.Len() != 60000 {
		t.Errorf("%d bytes after %s, %v", out.Len(), took, err)
	}
}

// A command that stops its supervisor is ended by the server, in time.
func TestSupervisorStopped(t *testing.T) {
	t.Parallel()
	for name, limits := range map[string]runtime.Limits{"canceled": {}, "timed_out": {Time: 100 * time.Millisecond}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			sb := create(t, limits)
			life := newLife(t, sb.HostHome())
			ctx, cancel := context.WithCancelCause(t.Context())
			defer cancel(nil)
			at := make(chan time.Time, 1)
			go func() {
				err := begun(life)
				at <- time.Now()
				if limits.Time == 0 {
					cancel(errors.Join(err, errors.New("enough")))
				}
			}()
			cmd := shell(`exec 9>"$1"; kill -STOP $PPID; setsid sleep 1000 & echo x >&9; sleep 1000`, sb.HostHome()+"/life")
			exit, err := sb.Run(ctx, cmd)
			if took := time.Since(<-at); took > 10*time.Second {
				t.Errorf("it took %s", took)
			}
			if err != nil || string(exit.Reason) != name {
				t.Errorf("%+v %v", exit, err)
			}
			gone(t, life)
		})
	}
}

// What a command writes into its supervisor's pipes confuses nobody but itself.
func TestForgedReport(t *testing.T) {
	t.Parallel()
	sb := create(t, runtime.Limits{Time: 300 * time.Millisecond})
	exit, err := sb.Run(t.Context(), shell(`echo '}garbage{' > /proc/$PPID/fd/4; sleep 1000`))
	if err != nil || exit.Reason != runtime.TimedOut {
		t.Errorf("%+v %v", exit, err)
	}
}

// The storm is bounded by a number of processes for its user, so that it cannot take the host along.
func TestForkStormIsEnded(t *testing.T) {
	t.Parallel()
	if os.Getuid() != 0 {
		t.Skip("only root can bound the storm: it needs a user of its own")
	}
	sb := create(t, runtime.Limits{PIDs: 60, Time: time.Minute})
	life := newLife(t, sb.HostHome())
	exit, err := sb.Run(t.Context(), shell(`exec 9>"$1"; cd /
		prlimit --nproc=100 setpriv --reuid=54321 --clear-groups sh -c 'storm() { sleep 1000 & storm & storm & wait; }; storm' 2>&-
		sleep 1000`, sb.HostHome()+"/life"))
	if err != nil || exit.Reason != runtime.TooManyProcesses || exit.Usage.Wall > 30*time.Second {
		t.Errorf("%+v %v", exit, err)
	}
	gone(t, life)
}

// Runs leave no descriptors, processes or folders behind. Not parallel: others have theirs.
func TestNothingLeaks(t *testing.T) {
	dir := t.TempDir()
	count := func() int {
		fds, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(fds)
	}
	before := 0
	for i := range 15 {
		rt, err := process.New(process.Place{Dir: dir}, runtime.Process)
		if err != nil {
			t.Fatal(err)
		}
		sb, err := rt.Create(t.Context(), runtime.Spec{ID: "x"})
		if err != nil {
			t.Fatal(err)
		}
		for _, script := range []string{"true", "kill -9 $PPID", "exec /none"} {
			if _, err := sb.Run(t.Context(), shell(script)); err != nil {
				t.Error(err)
			}
		}
		if err := rt.Close(); err != nil {
			t.Error(err)
		}
		if i == 5 {
			before = count()
		}
	}
	if after := count(); after > before {
		t.Errorf("%d descriptors, %d before", after, before)
	}
	if left, err := os.ReadDir(dir); len(left) != 0 || err != nil {
		t.Errorf("left in the folder: %v %v", left, err)
	}
	var ws syscall.WaitStatus
	if pid, err := syscall.Wait4(-1, &ws, syscall.WNOHANG, nil); !errors.Is(err, syscall.ECHILD) {
		t.Errorf("a child is left: %d %v", pid, err)
	}
}

func create(t *testing.T, limits runtime.Limits) runtime.Sandbox {
	t.Helper()
	sb, err := open(t, runtime.Process).Create(t.Context(), runtime.Spec{ID: t.Name(), Limits: limits})
	if err != nil {
		t.Fatal(err)
	}
	return sb
}

func shell(script string, args ...string) runtime.Command {
	return runtime.Command{
		Argv: append([]string{"/bin/sh", "-c", script, "-"}, args...), Env: map[string]string{"PATH": "/usr/bin:/bin"},
	}
}

// newLife makes the named pipe dir/life. Its reader sees the end when nobody holds it open any more.
func newLife(t *testing.T, dir string) *os.File {
	t.Helper()
	path := filepath.Join(dir, "life")
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	if err := f.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return f
}

// begun waits until somebody has written to the pipe. A handle that could write itself makes the read
// wait where there is no writer yet.
func begun(life *os.File) error {
	both, err := os.OpenFile(life.Name(), os.O_RDWR|syscall.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	err = both.SetReadDeadline(time.Now().Add(20 * time.Second))
	if err == nil {
		_, err = both.Read(make([]byte, 1))
	}
	return errors.Join(err, both.Close())
}

// gone waits until nobody holds the pipe.
func gone(t *testing.T, life *os.File) {
	t.Helper()
	for {
		_, err := life.Read(make([]byte, 100))
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			t.Errorf("processes have survived: %v", err)
			return
		}
	}
}
