package cli

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// endless is a query that runs for hours and needs no memory.
const endless = "select count(*) from range(1000000000000) a, range(1000) b"

// engines lists the engine children of the place's server, by process id.
func (p *place) engines() []int {
	p.t.Helper()
	holder, ok := p.home.Holder()
	if !ok {
		return nil
	}
	var pids []int
	dirs, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		p.t.Fatal(err)
	}
	for _, name := range dirs {
		if parentOf(parentOf(filepath.Base(filepath.Dir(name)))) != strconv.Itoa(holder.PID) { // a supervisor stands between
			continue
		}
		argv, err := os.ReadFile(filepath.Join(filepath.Dir(name), "cmdline"))
		if err == nil && bytes.HasSuffix(argv, []byte("\x00engine\x00")) {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(name)))
			pids = append(pids, pid)
		}
	}
	return pids
}

// parentOf is the number of a process's parent; "" if it has ended.
func parentOf(pid string) string {
	stat, err := os.ReadFile("/proc/" + pid + "/stat")
	if err != nil {
		return ""
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	fields := strings.Fields(rest)
	if len(fields) < 2 {
		return ""
	}
	return fields[1]
}

// busy waits until an engine child has used processor time, and returns its process id.
func (p *place) busy() int {
	p.t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	deadline := time.Now().Add(30 * time.Second)
	for time.Now().Before(deadline) {
		for _, pid := range p.engines() {
			stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
			if err != nil {
				continue
			}
			_, rest, _ := strings.Cut(string(stat), ") ")
			fields := strings.Fields(rest)
			if ticks, _ := strconv.Atoi(fields[11]); ticks > 30 { // 0.3 s: more than its start takes
				return pid
			}
		}
		<-tick.C // there is no signal for processor time
	}
	p.t.Fatal("no engine became busy")
	return 0
}

// awaitGone waits until one of several processes has ended. The kernel says so by their descriptors.
func awaitGone(t *testing.T, pids ...int) {
	t.Helper()
	var polls []unix.PollFd
	for _, pid := range pids {
		fd, err := unix.PidfdOpen(pid, 0)
		if errors.Is(err, unix.ESRCH) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
		polls = append(polls, unix.PollFd{Fd: int32(fd), Events: unix.POLLIN})
	}
	for {
		n, err := unix.Poll(polls, int((10 * time.Second).Milliseconds()))
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || n == 0 {
			t.Fatalf("an engine runs on for nobody: %v (%v)", pids, err)
		}
		return
	}
}

func TestEndlessQueryIsCanceled(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	c := p.command("query", endless)
	var stderr bytes.Buffer
	c.Stderr = &stderr
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	pid := p.busy()
	start := time.Now()
	if err := c.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if code := exitCode(t, c.Wait()); code != 130 || !strings.Contains(stderr.String(), "canceled") {
		t.Errorf("exit %d: %s", code, &stderr)
	}
	awaitGone(t, pid)
	if took := time.Since(start); took > time.Second {
		t.Errorf("the engine was gone %v after Ctrl-C", took)
	}
	if out := p.must("query", "select 42 as answer"); out != "answer\n42\n" {
		t.Errorf("the next query: %s", out)
	}
}

func TestKilledClientEndsItsQuery(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	c := p.command("query", endless)
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	pid := p.busy()
	if err := c.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = c.Wait() // killed
	awaitGone(t, pid)
}

func TestKilledEngine(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	p.must("status")
	before, _ := p.home.Holder()
	c := p.command("query", endless)
	var stderr bytes.Buffer
	c.Stderr = &stderr
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	// Beside it, others are not disturbed.
	pid := p.busy()
	if out := p.must("query", "select 42 as answer"); out != "answer\n42\n" {
		t.Errorf("beside it: %s", out)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if code := exitCode(t, c.Wait()); code == 0 || !strings.Contains(stderr.String(), "the query engine ended in the middle of the query (signal: killed)") {
		t.Errorf("exit %d: %s", code, &stderr)
	}
	if out := p.must("query", "select 42 as answer"); out != "answer\n42\n" {
		t.Errorf("the next query: %s", out)
	}
	if after, _ := p.home.Holder(); after.PID != before.PID {
		t.Error("the server did not survive")
	}
}

func TestMemoryLimit(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	out, err := p.command("query", "--memory", "64MiB", "select list(range) as l from range(200000000)").CombinedOutput()
	if code := exitCode(t, err); code != 8 || !strings.Contains(string(out), "memory") {
		t.Errorf("exit %d: %s", code, out)
	}
	p.must("query", "select 1")
}

func TestManyRefsAndQueriesAtOnce(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	p.must("query", "create table t as select 0 as n")
	const refs = 50
	for i := range refs {
		branch := fmt.Sprintf("b%d", i)
		p.must("branch", "create", branch)
		p.must("query", "--into", branch, fmt.Sprintf("update t set n = %d", i))
	}
	sum := "select 0 as n"
	for i := range refs {
		sum += fmt.Sprintf(` union all from "t@b%d"`, i)
	}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			if out, err := p.command("query", "select sum(n) as s, count(*) as c from ("+sum+")").Output(); err != nil || string(out) != "s,c\n1225,51\n" {
				t.Errorf("%v: %s", err, out)
			}
		})
	}
	wg.Wait()
	p.must("fsck")
}

func TestRacingUpdates(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	p.must("query", "create table t as select 0 as n")
	const writers = 8
	var wg sync.WaitGroup
	for i := range writers {
		wg.Go(func() {
			if out, err := p.command("query", "update t set n = n + 1").CombinedOutput(); err != nil {
				t.Errorf("update: %v\n%s", err, out)
			}
		})
		wg.Go(func() {
			if out, err := p.command("query", fmt.Sprintf("insert into t values (%d)", 1000*(i+1))).CombinedOutput(); err != nil {
				t.Errorf("insert: %v\n%s", err, out)
			}
		})
	}
	wg.Wait()
	// Each row counts the updates that came after it; the first one counts all.
	if out := p.must("query", "select count(*) as c, min(n) as first, bool_and(n % 1000 <= 8) as once from t"); out != "c,first,once\n9,8,true\n" {
		t.Errorf("got %s", out)
	}
	if n := strings.Count(p.must("log", "t", "--json"), `"id"`); n != 2*writers+1 {
		t.Errorf("%d commits, want %d", n, 2*writers+1)
	}
	p.must("fsck")
}

var tryRun = regexp.MustCompile(`--ref (run/\S+) "([^"]+)"`)

func TestOffendersAreWhereTheErrorSays(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	if err := os.WriteFile(filepath.Join(p.dir, "tarn.toml"), []byte("[project]\nname = \"p\"\n[table.t]\nchecks = [\"unique(id)\"]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := p.command("query", "create table t as select 1 as id from range(3)").CombinedOutput()
	said := tryRun.FindStringSubmatch(string(out))
	if err == nil || said == nil {
		t.Fatalf("%v: %s", err, out)
	}
	if rows := p.must("query", "--ref", said[1], said[2]); strings.Count(rows, "\n") != 4 {
		t.Errorf("%s", rows)
	}
}

func TestReaderThatStopsEndsTheQuery(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	c := p.command("query", "select range as n from range(1000000000000)")
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 10)); err != nil {
		t.Fatal(err)
	}
	// The engine waits for its reader now, beside the one that is kept warm for the next query.
	all := p.engines()
	if err := out.Close(); err != nil {
		t.Fatal(err)
	}
	if err := c.Wait(); err == nil {
		t.Error("the command ended well")
	}
	awaitGone(t, all...)
}
