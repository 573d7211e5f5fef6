//go:build fault

package crash

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// paused starts a run that stops right before it publishes; release lets it go on.
func paused(h *house, args ...string) (r *running, release func()) {
	h.t.Helper()
	return pausedAt(h, "run.publish.before", args...)
}

// pausedAt starts a run that stops where it first comes to a fault point.
func pausedAt(h *house, point string, args ...string) (r *running, release func()) {
	h.t.Helper()
	if h.server() != 0 {
		h.stop()
	}
	dir := h.t.TempDir()
	h.env = append(h.env, "TARN_FAULT_DIR="+dir)
	mark := filepath.Join(dir, point)
	r = h.start(point+"=1*pause", append([]string{"run", "--json"}, args...)...)
	h.await("the run to come to "+point, func() bool { _, err := os.Stat(mark); return err == nil })
	return r, func() {
		if err := os.Remove(mark); err != nil {
			h.t.Fatal(err)
		}
	}
}

func replans(r result) (n int) {
	for _, e := range r.events() {
		if e.Event == "run" && e.State == "replan" {
			n++
		}
	}
	return n
}

// after is what main shows when pipelines of these factors have run, one after the other.
func after(t *testing.T, factors ...int) map[string]string {
	t.Helper()
	h := newHouse(t)
	for _, f := range factors {
		pipeline(h, f)
		h.run("run")
	}
	return h.state()
}

// The run that comes second plans again on what the first published: main ends as if they had run one
// after the other, and shows no mix in between.
func TestRunsWithOverlappingOutputs(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	pipeline(h, 2)
	r, release := paused(h)
	pipeline(h, 3)
	h.run("run")
	if diff := cmp.Diff(after(t, 3), h.state()); diff != "" {
		t.Errorf("after the first run (-want +got):\n%s", diff)
	}
	release()
	got := r.end()
	if got.code != 0 || replans(got) != 1 {
		t.Errorf("%d re-plans: %v", replans(got), got)
	}
	if diff := cmp.Diff(after(t, 3, 2), h.state()); diff != "" {
		t.Errorf("after both (-want +got):\n%s", diff)
	}
	h.clean()
}

// Runs that write different assets both land as they are.
func TestRunsWithDisjointOutputs(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	pipeline(h, 2)
	r, release := paused(h, "orders")
	h.run("run", "other")
	release()
	if got := r.end(); got.code != 0 || replans(got) != 0 {
		t.Errorf("%d re-plans: %v", replans(got), got)
	}
	h.run("run")
	if diff := cmp.Diff(after(t, 2), h.state()); diff != "" {
		t.Error(diff)
	}
	h.clean()
}

// A run publishes what it computed from the commit that it read, also when its input has moved on: the
// next run takes the new input up.
func TestRunBesideAnImportOfItsInput(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	h.write("a.csv", "id\n1\n2\n")
	h.write("b.csv", "id\n1\n2\n3\n")
	h.run("table", "import", "a.csv", "--as", "src")
	h.write("total.sql", "SELECT count(*) AS n FROM src")
	r, release := paused(h)
	h.run("table", "import", "b.csv", "--as", "src")
	release()
	if got := r.end(); got.code != 0 || replans(got) != 0 {
		t.Errorf("%d re-plans: %v", replans(got), got)
	}
	total := func() string {
		return h.run("query", "SELECT t.n, (SELECT count(*) FROM src) AS rows FROM total t", "--format", "csv")
	}
	if got, want := total(), "n,rows\n2,3\n"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	h.run("run")
	if got, want := total(), "n,rows\n3,3\n"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	h.clean()
}

// Nobody's write is lost, however many write to one branch.
func TestFiftyPublishers(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	h.run("status")
	const publishers = 50
	var all []*running
	var want []string
	for i := range publishers {
		name := fmt.Sprintf("files/%02d", i)
		h.write(name, name)
		want = append(want, "file/"+name)
		all = append(all, h.start("", "file", "put", name, name, "--json"))
	}
	for _, r := range all {
		if got := r.end(); got.code != 0 {
			t.Error(got)
		}
	}
	var got []string
	for key := range h.state() {
		got = append(got, key)
	}
	slices.Sort(got)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	var history struct{ Commits []struct{} }
	h.document(&history, "log", "--ref", "main", "--limit", "0")
	if len(history.Commits) != publishers+1 {
		t.Errorf("%d commits", len(history.Commits))
	}
	h.clean()
}

// writesTable is where a step's table is nearly written, and its rows are durable.
const writesTable = "catalog.metadata.before_put"

// A step does not wait until the table that it reads is written.
func TestStepBesideTheWriteOfItsInput(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	h.write("a.sql", "SELECT 20 AS n")
	h.write("b.sql", "SELECT n + 1 AS n FROM a")
	r, release := pausedAt(h, writesTable)
	h.await("the step behind it", func() bool {
		return strings.Contains(r.stdout.String(), `"never ran here","state":"running","step":"b"`)
	})
	release()
	if got := r.end(); got.code != 0 {
		t.Fatal(got)
	}
	if out := h.run("query", "SELECT n FROM b"); !strings.Contains(out, "21") {
		t.Error(out)
	}
	h.clean()
}

// When it cannot be written nothing is published, and what was computed counts.
func TestInputThatCannotBeWritten(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	h.write("a.sql", "SELECT 20 AS n")
	h.write("b.sql", "SELECT n + 1 AS n FROM a")
	before := h.state()
	h.stop()
	if f := h.try(writesTable+"=1*error(disk on fire)", "run", "--json").failure(t); !strings.Contains(f.Message, "disk on fire") {
		t.Errorf("%+v", f)
	}
	if diff := cmp.Diff(before, h.state()); diff != "" {
		t.Errorf("main (-want +got):\n%s", diff)
	}
	h.clean()
	if states := ended(t, h.run("run", "--json")); states["a"] != "cached" {
		t.Errorf("the next run: %v", states)
	}
	if out := h.run("query", "SELECT n FROM b"); !strings.Contains(out, "21") {
		t.Error(out)
	}
	h.clean()
}
