package client

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/image"
	"tarn.dev/tarn/internal/system/home"
)

// ErrStart is returned when a server ended before it was ready without saying why.
var ErrStart = errdef.New(errdef.Unavailable, "client.start", "the server did not start")

// launch starts the home's server and connects to it. Of several commands at once, one starts it and
// the others wait for that one.
func (o Options) launch(ctx context.Context) (*Client, error) {
	release, err := o.Home.Launching(ctx)
	if err != nil {
		return nil, err
	}
	defer release() //nolint:errcheck // closing a lock file that nothing was written to
	if c, err := o.find(ctx); err == nil || !errors.Is(err, ErrUnreachable) {
		return c, err // another command was first
	}
	if err := start(ctx, o.Home); err != nil {
		// The lock's holder may have been a server in the foreground that was still starting.
		if c, again := o.find(ctx); errors.Is(err, home.ErrLocked) && again == nil {
			return c, nil
		}
		return nil, err
	}
	return o.find(ctx)
}

// start runs this binary as a server in the background and returns when it is ready, or with what it
// said about why it is not.
func start(ctx context.Context, h home.Home) error {
	exe, err := os.Executable()
	if err != nil {
		return errdef.Newf(errdef.Internal, "client.start", "find this binary: %w", err)
	}
	output, err := openOutput(h)
	if err != nil {
		return err
	}
	defer output.Close() //nolint:errcheck // the child has its own copy
	ours, theirs, err := os.Pipe()
	if err != nil {
		return errdef.Newf(errdef.ResourceExhausted, "client.start", "start the server: %w", err)
	}
	defer ours.Close()   //nolint:errcheck // read side
	defer theirs.Close() //nolint:errcheck // a second close, on the paths that fail early
	// What this process inherited from a shell or an editor must not live on in the server.
	if err := unix.CloseRange(3, ^uint(0), unix.CLOSE_RANGE_CLOEXEC); err != nil && !errors.Is(err, unix.ENOSYS) {
		return errdef.Newf(errdef.Internal, "client.start", "close descriptors: %w", err)
	}
	cmd := exec.Cmd{
		// The name is fixed: under test the binary has another one.
		Path: exe, Args: []string{"tarn", home.ServerRole},
		Dir: "/", Env: environment(os.Environ(), h),
		Stdout: output, Stderr: output, ExtraFiles: []*os.File{theirs},
		SysProcAttr: &syscall.SysProcAttr{Setsid: true},
	}
	if err := cmd.Start(); err != nil {
		return errdef.Newf(errdef.ResourceExhausted, "client.start", "start the server: %w", err)
	}
	theirs.Close() //nolint:errcheck // the child's copy is what counts
	stop := context.AfterFunc(ctx, func() { ours.Close() })
	defer stop()
	var report home.Report
	line, err := bufio.NewReader(ours).ReadBytes('\n')
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	if err != nil || json.Unmarshal(line, &report) != nil {
		return ErrStart.Errorf("the server ended while it was starting: %s", lastLine(output.Name())).
			WithNext("see " + output.Name())
	}
	if report.Error != nil {
		return report.Error
	}
	return cmd.Process.Release()
}

// openOutput is where the server's own stdout and stderr go: only what the Go runtime says when a
// process dies. Everything else is in the log.
func openOutput(h home.Home) (*os.File, error) {
	name := filepath.Join(filepath.Dir(h.Log()), "server.crash")
	if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		return nil, errdef.Newf(errdef.FailedPrecondition, "client.start", "make the log's folder: %w", err)
	}
	flags := os.O_WRONLY | os.O_CREATE | os.O_APPEND
	if st, err := os.Stat(name); err == nil && st.Size() > 1<<20 {
		flags |= os.O_TRUNC
	}
	f, err := os.OpenFile(name, flags, 0o600)
	if err != nil {
		return nil, errdef.Newf(errdef.FailedPrecondition, "client.start", "open the server's log: %w", err)
	}
	return f, nil
}

func lastLine(name string) string {
	b, err := os.ReadFile(name)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	if last := lines[len(lines)-1]; last != "" {
		return last
	}
	return "it said nothing"
}

// passed are the variables that a server in the background gets from the command that starts it. A
// server outlives the command, so nothing that belongs to one shell or one project may reach it.
var passed = map[string]bool{
	"PATH": true, "HOME": true, "USER": true, "LOGNAME": true, "LANG": true, "TZ": true, "TMPDIR": true,
	"GOCOVERDIR": true,
}

// personal are the variables of Tarn that choose something for one command.
var personal = map[string]bool{"TARN_URL": true, "TARN_TOKEN": true, "TARN_BRANCH": true}

func environment(env []string, h home.Home) []string {
	// What the address of the database leaves out; a server with rows in its home has no use for it.
	database := slices.ContainsFunc(env, func(kv string) bool { return strings.HasPrefix(kv, "TARN_META=") })
	_, err := os.Stat(h.Blobs())
	bucket := err == nil || slices.ContainsFunc(env, func(kv string) bool { return strings.HasPrefix(kv, "TARN_BLOB=") })
	var kept []string
	for _, kv := range env {
		name, _, _ := strings.Cut(kv, "=")
		prefixed := strings.HasPrefix(name, "TARN_") || strings.HasPrefix(name, "XDG_") || strings.HasPrefix(name, "LC_") ||
			database && strings.HasPrefix(name, "PG") || bucket && strings.HasPrefix(name, "AWS_")
		if (passed[name] || prefixed || image.UserVariable(name)) && !personal[name] && name != "TARN_HOME" && name != "TARN_CACHE" {
			kept = append(kept, kv)
		}
	}
	return append(kept, "TARN_HOME="+h.Dir, "TARN_CACHE="+h.Cache)
}
