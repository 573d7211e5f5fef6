//go:build fault

package crash

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// items is an asset with one item for each of eight files. It prints which items it works on, and waits
// while there is a gate: a file beside the SDK, the only folder of the host that every sandbox shows.
func items(h *house) {
	h.write("pipeline.py", fmt.Sprintf(`import os
import time
from pathlib import Path
from typing import Annotated

import tarn


@tarn.asset
def upper(text: Annotated[Path, tarn.files("raw/*", each=True)], out: tarn.OutputDir):
    print("works on", text.name, flush=True)
    while (Path(tarn.__file__).parent.parent / %q).exists():
        time.sleep(0.01)
    (out / text.name).write_text(text.read_text().upper())
`, h.gate()))
	for i := range itemCount {
		h.write(fmt.Sprintf("raw/%d", i), fmt.Sprintf("text %d", i))
	}
	h.run("file", "put", "raw/", "raw/")
}

const itemCount = 8

func (h *house) gate() string { return "gate-" + filepath.Base(h.sockets) }

// ran is how many items were worked on, as a run's output tells.
func ran(output string) int { return strings.Count(output, "works on ") }

// gates are where the gate stands: each version of the SDK has a folder.
func (h *house) gates() []string {
	folders, err := filepath.Glob(filepath.Join(cache(), "sdk", "*"))
	if err != nil || len(folders) == 0 {
		h.t.Fatalf("the SDK: %v %v", folders, err)
	}
	for i := range folders {
		folders[i] = filepath.Join(folders[i], h.gate())
	}
	return folders
}

// close makes functions wait; open lets them go on.
func (h *house) close() {
	for _, gate := range h.gates() {
		if err := os.WriteFile(gate, nil, 0o600); err != nil {
			h.t.Fatal(err)
		}
	}
	h.t.Cleanup(h.open)
}

func (h *house) open() {
	for _, gate := range h.gates() {
		if err := os.Remove(gate); err != nil && !os.IsNotExist(err) {
			h.t.Error(err)
		}
	}
}

// await polls for what another process does.
func (h *house) await(what string, is func() bool) {
	h.t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	end := time.After(time.Minute)
	for !is() {
		select {
		case <-tick.C:
		case <-end:
			h.t.Fatalf("waited a minute for %s", what)
		}
	}
}

// running is a command under way.
type running struct {
	*exec.Cmd
	h              *house
	stdout, stderr buffer
}

// buffer is output that is read while it is written.
type buffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

func (h *house) start(fault string, args ...string) *running {
	h.t.Helper()
	r := &running{Cmd: h.command(fault, args...), h: h}
	r.Stdout, r.Stderr = &r.stdout, &r.stderr
	if err := r.Start(); err != nil {
		h.t.Fatal(err)
	}
	return r
}

func (r *running) end() result {
	r.Wait() //nolint:errcheck // the exit code says it
	return result{args: r.Args[1:], stdout: r.stdout.String(), stderr: r.stderr.String(), code: r.ProcessState.ExitCode()}
}

// below are the processes that pid has started, and theirs.
func below(pid int) []int {
	var found []int
	names, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, name := range names {
		b, err := os.ReadFile(name)
		if err != nil {
			continue // it has ended
		}
		for _, word := range strings.Fields(string(b)) {
			if child, err := strconv.Atoi(word); err == nil {
				found = append(append(found, child), below(child)...)
			}
		}
	}
	return found
}

// named are processes below the server whose command line has a word.
func (h *house) named(word string) []int {
	var found []int
	for _, pid := range below(h.server()) {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if err == nil && strings.Contains(string(b), word) {
			found = append(found, pid)
		}
	}
	return found
}

// murder kills processes of this house.
func (h *house) murder(pids []int) {
	h.t.Helper()
	if len(pids) == 0 {
		h.t.Fatal("there is nobody to kill")
	}
	for _, pid := range pids {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && err != syscall.ESRCH {
			h.t.Fatal(err)
		}
	}
}

func alive(pids []int) (left []int) {
	for _, pid := range pids {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil || strings.Contains(string(b), ") Z ") {
			continue
		}
		left = append(left, pid)
	}
	return left
}

// finishes runs the pipeline to its end: each item is in the output once, and again says how many were
// worked on.
func (h *house) finishes() (again int) {
	h.t.Helper()
	again = ran(h.run("run", "--json"))
	for i := range itemCount {
		name := fmt.Sprintf("upper/%d", i)
		if got, want := h.run("file", "cat", name), fmt.Sprintf("TEXT %d", i); got != want {
			h.t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	h.clean()
	h.empty()
	return again
}

// empty fails the test if the server keeps something for a run that has ended.
func (h *house) empty() {
	h.t.Helper()
	for _, dir := range []string{"boxes", "projects/house/steps", "projects/house/tables", "projects/house/logs"} {
		var left []string
		err := filepath.WalkDir(filepath.Join(h.home, "scratch", dir), func(path string, d fs.DirEntry, err error) error {
			if err == nil && !d.IsDir() {
				if info, err := d.Info(); err == nil && info.Size() > 0 { // without bytes: where an idle engine's sandbox shows something
					left = append(left, path)
				}
			}
			if os.IsNotExist(err) {
				return nil
			}
			return err
		})
		if err != nil || len(left) > 0 {
			h.t.Errorf("left in %s: %v (%v)", dir, left, err)
		}
	}
	if left := h.named("_runner"); len(alive(left)) > 0 {
		h.t.Errorf("processes are left: %v", left)
	}
}

func TestKilledServerKeepsFinishedItems(t *testing.T) {
	t.Parallel()
	for _, skip := range []int{0, itemCount / 2, itemCount - 1} {
		t.Run(fmt.Sprint(skip), func(t *testing.T) {
			h := newHouse(t)
			items(h)
			h.stop()
			r := h.try(fmt.Sprintf("run.step.after_memo=%d*off->1*kill", skip), "run", "--json")
			if got := r.failure(t); got.Code != "unavailable" {
				t.Fatal(r)
			}
			h.gone()
			var check struct{ Checked struct{ Fragments int } }
			h.document(&check, "fsck", "--deep")
			if kept := check.Checked.Fragments; kept < skip+1 {
				t.Errorf("%d items were done, %d are remembered", skip+1, kept)
			}
			if again, want := h.finishes(), itemCount-check.Checked.Fragments; again != want {
				t.Errorf("%d items ran again, want %d", again, want)
			}
		})
	}
}

// An item that has ended counts, also when the server dies while its neighbours still run.
func TestKilledServerKeepsEndedItemsOfAStep(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	items(h)
	h.close()
	// Items run in the order of their keys, which no test may know: the first of each process does not wait.
	first := "    first = not os.path.exists(\"begun\")\n    open(\"begun\", \"w\").close()\n    while not first and "
	h.write("pipeline.py", strings.NewReplacer("    while ", first).Replace(h.read("pipeline.py")))
	r := h.start("", "run", "--json")
	var check struct{ Checked struct{ Fragments int } }
	h.await("some items to end", func() bool {
		h.document(&check, "fsck")
		return check.Checked.Fragments > 0
	})
	h.kill(h.server())
	r.end()
	h.document(&check, "fsck")
	h.open()
	if again, want := h.finishes(), itemCount-check.Checked.Fragments; again != want {
		t.Errorf("%d items ran again, want %d", again, want)
	}
}

// A server that has just said that it will live on is as dead as any other.
func TestKilledAtRenewal(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	h.run("file", "put", "tarn.toml", "before")
	h.stop()
	h.try("lease.after_renew=kill", "server", "start")
	h.gone()
	h.clean()
	h.run("file", "put", "tarn.toml", "after")
	if state := h.state(); len(state) != 2 {
		t.Errorf("main shows %v", state)
	}
}

func TestKilledStep(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	items(h)
	h.close()
	server := h.server()
	r := h.start("", "run", "--json")
	h.await("the step", func() bool { return ran(r.stdout.String()) > 0 })
	// Where a level can fork, a step is a fork of a template, and looks like it.
	h.murder(append(h.named("_runner"), h.named("_template")...))
	h.open() // the items that had not begun go on
	got := r.end()
	if f := got.failure(t); f.Code != "user_code" || f.Reason != "run.killed" {
		t.Errorf("%+v", f)
	}
	if h.server() != server {
		t.Error("the server went with it")
	}
	h.clean()
	h.empty()
	var check struct{ Checked struct{ Fragments int } }
	h.document(&check, "fsck")
	if kept := check.Checked.Fragments; kept == 0 || kept == itemCount {
		t.Errorf("%d items of %d were done", kept, itemCount)
	}
	if again, want := h.finishes(), itemCount-check.Checked.Fragments; again != want {
		t.Errorf("%d items ran again, want %d", again, want)
	}
}

func TestKilledServerTakesItsStepsAlong(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	items(h)
	h.close()
	r := h.start("", "run", "--json")
	h.await("the step", func() bool { return ran(r.stdout.String()) > 0 })
	children := below(h.server())
	h.kill(h.server())
	if f := r.end().failure(t); f.Code != "unavailable" {
		t.Errorf("%+v", f)
	}
	h.await("the end of the server's children", func() bool { return len(alive(children)) == 0 })
	h.open()
	h.finishes()
}

func TestKilledEngine(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	h.write("endless.sql", "SELECT sum(a.range * b.range % 7) AS n FROM range(10000000) a, range(10000000) b")
	before := h.state()
	server := h.server()
	r := h.start("", "run", "--json")
	h.await("the engine to work", func() bool { return len(busy(h.named("engine"))) > 0 })
	h.murder(h.named("engine"))
	got := r.end()
	if f := got.failure(t); f.Reason != "query.engine_crashed" {
		t.Errorf("%+v", f)
	}
	if h.server() != server {
		t.Error("the server went with it")
	}
	if after := h.state(); len(after) != len(before) {
		t.Errorf("main shows %v", after)
	}
	h.clean()
	h.empty()
	h.write("endless.sql", "SELECT 1 AS n")
	h.run("run")
	h.clean()
}

// busy are processes that have used a second of processor time and more.
func busy(pids []int) (found []int) {
	for _, pid := range pids {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			continue
		}
		// The command's name is in parentheses and may hold anything.
		fields := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
		const userTime, perSecond = 11, 100
		if ticks, err := strconv.Atoi(fields[userTime]); err == nil && ticks > perSecond {
			found = append(found, pid)
		}
	}
	return found
}

func TestStopInterruptsRuns(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	items(h)
	h.close()
	r := h.start("", "run", "--json")
	h.await("the step", func() bool { return ran(r.stdout.String()) > 0 })
	children := below(h.server())
	h.stop()
	if got := r.end(); got.code == 0 {
		t.Errorf("%v", got)
	}
	if left := alive(children); len(left) > 0 {
		t.Errorf("processes are left: %v", left)
	}
	var list struct {
		Runs []struct {
			State string
			Error failure
		}
	}
	h.document(&list, "runs")
	if len(list.Runs) != 1 || list.Runs[0].State != "failed" || list.Runs[0].Error.Reason != "run.interrupted" {
		t.Errorf("%+v", list.Runs)
	}
	h.open()
	h.finishes()
}

func TestCancelFreesEverything(t *testing.T) {
	t.Parallel()
	for _, phase := range []string{"step", "publish"} {
		t.Run(phase, func(t *testing.T) {
			h := newHouse(t)
			items(h)
			h.stop()
			fault, pause := "", ""
			if phase == "step" {
				h.close()
			} else {
				dir := t.TempDir()
				h.env = append(h.env, "TARN_FAULT_DIR="+dir)
				fault, pause = "run.publish.before=1*pause", filepath.Join(dir, "run.publish.before")
			}
			r := h.start(fault, "run", "--json")
			h.await("the "+phase, func() bool {
				if pause == "" {
					return ran(r.stdout.String()) > 0
				}
				_, err := os.Stat(pause)
				return err == nil
			})
			var list struct{ Runs []struct{ ID, State string } }
			h.document(&list, "runs")
			cancel := h.start("", "cancel", list.Runs[0].ID, "--json")
			if pause != "" {
				if err := os.Remove(pause); err != nil {
					t.Fatal(err)
				}
			}
			if got := cancel.end(); got.code != 0 {
				t.Fatal(got)
			}
			got := r.end()
			h.document(&list, "runs")
			// What is on its way to the branch may arrive before the request to cancel.
			switch state := list.Runs[0].State; {
			case state == "canceled" && got.code != 0:
				if shown := h.state(); len(shown) != itemCount {
					t.Errorf("main shows %v", shown)
				}
			case phase == "publish" && state == "succeeded" && got.code == 0:
			default:
				t.Errorf("the run %s: %v", state, got)
			}
			h.clean()
			h.empty()
			if pause == "" {
				h.open()
			}
			h.finishes()
		})
	}
}

// events decodes the JSON lines of a run.
func (r result) events() (found []struct{ Event, State, Step string }) {
	for line := range strings.Lines(r.stdout) {
		var e struct{ Event, State, Step string }
		if strings.HasPrefix(line, `{"`) && json.Unmarshal([]byte(line), &e) == nil {
			found = append(found, e)
		}
	}
	return found
}
