//go:build fault

// Package crash kills the real binary, its engine children and its steps at every fault point that put,
// commit, run, import and publish reach, and holds what is left to the guarantees: a branch shows all of
// an operation or nothing, fsck is clean, the next command works, no acknowledged item runs twice.
package crash

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"tarn.dev/tarn/internal/meta/pgmeta/pgtest"
	"tarn.dev/tarn/internal/system/home"
)

// tarn is the binary under test, built with fault points.
var tarn string

func TestMain(m *testing.M) {
	code, err := withBinary(func() int { return pgtest.Main(m) })
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func withBinary(run func() int) (int, error) {
	dir, err := os.MkdirTemp("", "tarn-crash")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	tarn = filepath.Join(dir, "tarn")
	build := exec.Command("go", "build", "-tags", "fault", "-o", tarn, "tarn.dev/tarn/cmd/tarn")
	if out, err := build.CombinedOutput(); err != nil {
		return 0, fmt.Errorf("build tarn: %w\n%s", err, out)
	}
	return run(), nil
}

// house is one home with one project, and the server that works for it.
type house struct {
	t       *testing.T
	home    string
	project string // folder
	sockets string // folder
	env     []string
}

// cache is shared by all houses: a Python environment is made once.
func cache() string {
	if dir := os.Getenv("TARN_CACHE"); dir != "" {
		return dir
	}
	dir, err := os.UserCacheDir()
	if err != nil {
		dir = os.TempDir()
	}
	return filepath.Join(dir, "tarn-test")
}

func newHouse(t *testing.T) *house {
	t.Helper()
	// Sockets have short paths: the folders of t.TempDir are too deep for one.
	sockets, err := os.MkdirTemp("", "tarn")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	h := &house{t: t, home: filepath.Join(dir, "home"), project: filepath.Join(dir, "work"), sockets: sockets}
	h.env = []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "TMPDIR=" + sockets, "XDG_RUNTIME_DIR=" + sockets,
		"TARN_HOME=" + h.home, "TARN_CACHE=" + cache(), "TARN_AUTHOR=tester", "TARN_IDLE=10m",
	}
	for _, kv := range os.Environ() { // where packages come from
		if strings.HasPrefix(kv, "UV_") || strings.HasPrefix(kv, "PIP_") || strings.HasPrefix(kv, "SSL_") {
			h.env = append(h.env, kv)
		}
	}
	t.Cleanup(func() {
		if pid := h.server(); pid > 0 {
			h.kill(pid)
		}
		os.RemoveAll(sockets)
	})
	h.write("tarn.toml", "[project]\nname = \"house\"\n")
	return h
}

func (h *house) write(name, text string) {
	h.t.Helper()
	path := filepath.Join(h.project, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o777); err != nil {
		h.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o666); err != nil {
		h.t.Fatal(err)
	}
}

func (h *house) read(name string) string {
	h.t.Helper()
	b, err := os.ReadFile(filepath.Join(h.project, name))
	if err != nil {
		h.t.Fatal(err)
	}
	return string(b)
}

// result is what a command said.
type result struct {
	args   []string
	stdout string
	stderr string
	code   int
}

func (r result) String() string {
	return fmt.Sprintf("tarn %s: exit %d\n%s%s", strings.Join(r.args, " "), r.code, r.stdout, r.stderr)
}

// failure is the error document that a command with --json ends with.
type failure struct {
	Code    string `json:"code"`
	Reason  string `json:"reason"`
	Message string `json:"message"`
}

// failure decodes the error that the output ends with: there may be events before it, and the error of a
// run is in its result.
func (r result) failure(t *testing.T) failure {
	t.Helper()
	for line := range strings.Lines(r.stdout) {
		var doc struct {
			Event string
			Run   struct{ Error failure }
		}
		if strings.HasPrefix(line, `{"`) && json.Unmarshal([]byte(line), &doc) == nil && doc.Event == "result" && r.code != 0 {
			return doc.Run.Error
		}
	}
	for _, text := range []string{r.stdout, r.stderr} {
		at := strings.LastIndex("\n"+text, "\n{\n")
		if at < 0 {
			continue
		}
		var doc struct{ Error failure }
		if err := json.Unmarshal([]byte(text[at:]), &doc); err == nil && doc.Error.Code != "" {
			return doc.Error
		}
	}
	t.Fatalf("no error document: %v", r)
	return failure{}
}

// patience is longer than anything here takes on a busy machine.
const patience = 3 * time.Minute

// command prepares a command in the project's folder. A server that it starts gets fault.
func (h *house) command(fault string, args ...string) *exec.Cmd {
	ctx, cancel := context.WithTimeout(h.t.Context(), patience)
	h.t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, tarn, args...)
	cmd.WaitDelay = 10 * time.Second // something that it left behind may hold its output open
	cmd.Cancel = func() error {
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			h.t.Errorf("tarn %s has not ended after %s", strings.Join(args, " "), patience)
		}
		return cmd.Process.Kill()
	}
	cmd.Dir, cmd.Env = h.project, append(h.env, "TARN_FAULT="+fault)
	return cmd
}

// try runs a command and returns what came of it.
func (h *house) try(fault string, args ...string) result {
	h.t.Helper()
	cmd := h.command(fault, args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		h.t.Fatal(err)
	}
	return result{args: args, stdout: stdout.String(), stderr: stderr.String(), code: cmd.ProcessState.ExitCode()}
}

// run runs a command that must succeed.
func (h *house) run(args ...string) string {
	h.t.Helper()
	r := h.try("", args...)
	if r.code != 0 {
		h.t.Fatal(r)
	}
	return r.stdout
}

// document runs a command that must succeed with one JSON document.
func (h *house) document(into any, args ...string) {
	h.t.Helper()
	out := h.run(append(args, "--json")...)
	if err := json.Unmarshal([]byte(out), into); err != nil {
		h.t.Fatalf("tarn %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// server is the pid of the home's server, 0 when none runs.
func (h *house) server() int {
	at, err := home.At(h.home)
	if err != nil {
		h.t.Fatal(err)
	}
	holder, _ := at.Holder()
	// The file outlives the server, and its pid may be another process by now.
	if exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", holder.PID)); err != nil || exe != tarn {
		return 0
	}
	return holder.PID
}

// kill ends a process at once, as the kernel does, and waits until it is gone.
func (h *house) kill(pid int) {
	h.t.Helper()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
		h.t.Fatal(err)
	}
	h.gone()
}

// gone waits until no process has the home.
func (h *house) gone() {
	h.t.Helper()
	at, err := home.At(h.home)
	if err != nil {
		h.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeoutCause(context.Background(), patience, errors.New("a server that should be gone holds its home"))
	defer cancel()
	if err := at.AwaitFree(ctx); err != nil {
		h.t.Fatal(err)
	}
}

// stop ends the server in the ordinary way.
func (h *house) stop() {
	h.t.Helper()
	h.run("server", "stop")
	h.gone()
}

// state is everything that main shows: the version of each entry by its key.
func (h *house) state() map[string]string {
	h.t.Helper()
	var history struct{ Commits []struct{ ID string } }
	h.document(&history, "log", "--ref", "main", "--limit", "0")
	var diff struct {
		Changes []struct {
			Key   string
			After struct{ Version string }
		}
	}
	h.document(&diff, "diff", history.Commits[len(history.Commits)-1].ID+"..main")
	state := map[string]string{}
	for _, c := range diff.Changes {
		state[c.Key] = c.After.Version
	}
	return state
}

// everything is what main shows, and which branches there are.
func (h *house) everything() map[string]string {
	h.t.Helper()
	state := h.state()
	var list struct{ Branches []struct{ Name string } }
	h.document(&list, "branch", "ls")
	for _, b := range list.Branches {
		if !strings.HasPrefix(b.Name, "run/") {
			state["branch/"+b.Name] = "is there"
		}
	}
	return state
}

// clean fails the test unless fsck finds the store without a fault.
func (h *house) clean() {
	h.t.Helper()
	if r := h.try("", "fsck", "--deep"); r.code != 0 {
		h.t.Fatal(r)
	}
}

// ended reads how steps ended from the events that a run printed.
func ended(t *testing.T, out string) map[string]string {
	t.Helper()
	states := map[string]string{}
	for line := range strings.Lines(out) {
		var e struct{ Event, Step, State string }
		if !strings.HasPrefix(line, "{\"") || json.Unmarshal([]byte(line), &e) != nil {
			continue
		}
		if e.Event == "step" && (e.State == "succeeded" || e.State == "cached") {
			states[e.Step] = e.State
		}
	}
	return states
}
