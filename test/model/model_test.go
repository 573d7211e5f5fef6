//go:build fault

// Package model does random sequences of everything that users do, through the Go client, on real servers: on one that keeps all
// in its home, and on two that share a Postgres database and a bucket. Each answer must be the one that a small model in
// memory gives, and so the same on both. Servers are killed and crash at fault points meanwhile, garbage is collected, backups
// are made and restored. A sequence that fails is made shorter by rapid, and kept in testdata.
//
// It is about what is visible. How it is kept, and who waits for whom, other tests know.
package model

import (
	"context"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"tarn.dev/tarn/internal/base/fault/faulttest"
	"tarn.dev/tarn/internal/blob/s3blob/s3test"
	"tarn.dev/tarn/internal/lake"
	"tarn.dev/tarn/internal/meta/pgmeta/pgtest"
	"tarn.dev/tarn/internal/system"
	"tarn.dev/tarn/internal/system/backup"
)

// The test binary is also the servers that it starts, and what they start.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		if role, ok := system.Roles[os.Args[1]]; ok {
			os.Exit(role())
		}
	}
	flag.Parse()
	// Without a word from the command line, a minute or two of always the same sequences. Long runs draw new ones.
	asked := false
	flag.Visit(func(f *flag.Flag) { asked = asked || strings.HasPrefix(f.Name, "rapid.") })
	for name, value := range map[string]string{"rapid.checks": "4", "rapid.steps": "30", "rapid.seed": "21"} {
		if !asked {
			if err := flag.Set(name, value); err != nil {
				panic(err)
			}
		}
	}
	os.Exit(pgtest.Main(m))
}

func TestModel(t *testing.T) {
	t.Parallel()
	points, err := faulttest.Names("../../internal")
	if err != nil {
		t.Fatal(err)
	}
	at := &places{t: t, s3: s3test.Start(t)}
	rapid.Check(t, func(rt *rapid.T) {
		m := begin(rt, at, points)
		actions := m.actions()
		rt.Repeat(map[string]func(*rapid.T){"": m.check, "step": func(t *rapid.T) { pick(t, "action", actions).do(t) }})
		m.end(rt)
	})
}

// action is something that happens.
type action struct {
	name string
	do   func(*rapid.T)
}

func (a action) String() string { return a.name }

// actions has those twice and more that should happen more often.
func (m *machine) actions() []action {
	var all []action
	for _, a := range []struct {
		weight int
		action
	}{
		{6, action{"put", m.put}},
		{2, action{"remove files", m.removeFiles}},
		{2, action{"link", m.link}},
		{4, action{"write table", m.writeTable}},
		{1, action{"import", m.importTable}},
		{3, action{"change rows", m.changeRows}},
		{1, action{"remove table", m.removeTable}},
		{3, action{"create branch", m.createBranch}},
		{1, action{"delete branch", m.deleteBranch}},
		{1, action{"tag", m.tag}},
		{1, action{"delete tag", m.deleteTag}},
		{10, action{"merge", m.merge}},
		{4, action{"revert", m.revert}},
		{2, action{"read", m.read}},
		{1, action{"log", m.log}},
		{1, action{"diff", m.diff}},
		{2, action{"collect", m.collect}},
		{1, action{"end a server", m.endServer}},
		{4, action{"crash", m.arm}},
		{1, action{"run", m.run}},
		{1, action{"restore", m.restore}},
		{1, action{"fsck", m.fsck}},
	} {
		for range a.weight {
			all = append(all, a.action)
		}
	}
	return all
}

// pick draws one of all, each as likely: rapid's own choice prefers the first ones.
func pick[T any](t *rapid.T, label string, all []T) T {
	n := rapid.Custom(func(t *rapid.T) int {
		n := 0
		for range 10 {
			n *= 2
			if rapid.Bool().Draw(t, "bit") {
				n++
			}
		}
		return n
	}).Draw(t, label)
	t.Logf("%s: %v", label, all[n%len(all)])
	return all[n%len(all)]
}

// machine is one check: the model, and the stacks that must look like it.
type machine struct {
	*history
	dir      string // of what is imported, linked and run
	points   []string
	stacks   []*stack
	versions map[string]string // of each content: the same everywhere and for good
	changed  map[string]bool   // branches to look at
	files    int
	runs     []string // branches of runs
	restored bool
}

func begin(t *rapid.T, at *places, points []string) *machine {
	m := &machine{history: newHistory(), points: points, versions: map[string]string{}, changed: map[string]bool{}, dir: at.t.TempDir()}
	for _, open := range []func() (*stack, error){at.embedded, at.shared} {
		s, err := open()
		if s != nil {
			m.stacks = append(m.stacks, s)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		if err := on(m.stacks, (*stack).close); err != nil {
			t.Error(err)
		}
	})
	for i, out := range m.all(t, commits(lake.MainBranch)) {
		if len(out.Seen) != 1 {
			t.Fatalf("a new project has %d commits", len(out.Seen))
		}
		m.stacks[i].ids[m.root] = out.Seen[0]
	}
	m.seed(t)
	return m
}

// seed writes what is imported, linked and run, and lets two branches begin with some files and a table.
func (m *machine) seed(t *rapid.T) {
	m.file("linked-1", "an original")
	m.file("linked-2", strings.Repeat("another original\n", 10_000))
	m.file("run/tarn.toml", "[project]\nname = \""+project+"\"\n")
	m.file("run/doubled.sql", "SELECT id, v * 2 AS v FROM t1\n")
	m.file("run/total.sql", "SELECT count(*) AS id, coalesce(sum(v), 0)::BIGINT AS v FROM doubled\n")
	m.putFiles(t, lake.MainBranch, map[string]content{"a": {1, 10}, "b": {1, 5_000}, "d/x": {2, 300}})
	m.writeRows(t, lake.MainBranch, "t1", "replace", []row{{0, 1}, {1, 1}, {2, 1}, {3, 1}}, writeTable)
	for _, name := range []string{"dev", "feature"} {
		m.branchOff(t, name, lake.MainBranch, m.branches[lake.MainBranch])
	}
}

func (m *machine) file(name, text string) string {
	path := filepath.Join(m.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		panic(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		panic(err)
	}
	return path
}

// all does an operation on all stacks, on a server that is drawn.
func (m *machine) all(t *rapid.T, op operation) []outcome {
	t.Helper()
	number := rapid.IntRange(0, 1).Draw(t, "server")
	outs := make([]outcome, len(m.stacks))
	err := on(m.stacks, func(s *stack) (err error) {
		outs[slices.Index(m.stacks, s)], err = s.call(number, op)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return outs
}

// same does an operation on all stacks: what comes of it must be the same.
func (m *machine) same(t *rapid.T, op operation) []outcome {
	t.Helper()
	outs := m.all(t, op)
	for i := range outs[1:] {
		if diff := cmp.Diff(outs[0], outs[i+1], cmpopts.IgnoreUnexported(outcome{})); diff != "" {
			t.Fatalf("%s and %s differ:\n%s", m.stacks[0].name, m.stacks[i+1].name, diff)
		}
	}
	return outs
}

// refused fails unless the operation has failed, or not, as the model says.
func refused(t *rapid.T, outs []outcome, want bool) bool {
	t.Helper()
	if got := outs[0].Reason; (got != "") != want {
		t.Fatalf("the error is %q, and should there be one: %v", got, want)
	}
	return want
}

// wrote compares a write with what the model made of it.
func (m *machine) wrote(t *rapid.T, branch string, outs []outcome, changed bool) {
	t.Helper()
	if outs[0].Changed != changed {
		t.Fatalf("%s changed: %v, want %v", branch, outs[0].Changed, changed)
	}
	head := m.branches[branch]
	for i, s := range m.stacks {
		if s.ids[head] == "" {
			s.ids[head] = outs[i].commit
		}
		if s.ids[head] != outs[i].commit {
			t.Fatalf("%s: %s is at %s, want %s", s.name, branch, outs[i].commit, s.ids[head])
		}
	}
	m.changed[branch] = true
}

// check looks at all refs, and at what is on the branches that changed.
func (m *machine) check(t *rapid.T) {
	outs := m.all(t, refs())
	for i, s := range m.stacks {
		var want []string
		for _, refs := range []map[string]*commit{m.branches, m.tags} {
			for _, name := range slices.Sorted(maps.Keys(refs)) {
				want = append(want, name+" "+s.ids[refs[name]])
			}
		}
		got := slices.DeleteFunc(outs[i].Seen, func(ref string) bool { return strings.HasPrefix(ref, runBranches) })
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("%s: refs (-want +got):\n%s", s.name, diff)
		}
	}
	for _, branch := range slices.Sorted(maps.Keys(m.changed)) {
		if m.branches[branch] != nil {
			m.looksLike(t, branch, m.branches[branch])
			m.hasHistory(t, branch, m.branches[branch])
		}
	}
	clear(m.changed)
}

// looksLike compares all that a ref shows with a commit of the model.
func (m *machine) looksLike(t *rapid.T, ref string, want *commit) {
	t.Helper()
	out := m.same(t, diff(func(s *stack) string { return s.ids[m.root] }, func(*stack) string { return ref }))[0]
	if refused(t, []outcome{out}, false); !slices.Equal(out.Changes, slices.Sorted(maps.Keys(want.tree))) {
		t.Fatalf("%s has %v, want %v", ref, out.Changes, slices.Sorted(maps.Keys(want.tree)))
	}
	for i, key := range out.Changes {
		content := want.tree[key].identity()
		if known := m.versions[content]; known != "" && known != out.Seen[i] {
			t.Fatalf("%s on %s has version %s: not that of %s, which is %s", key, ref, out.Seen[i], content, known)
		}
		m.versions[content] = out.Seen[i]
	}
}

func (m *machine) collect(t *rapid.T) {
	refused(t, m.same(t, collect(false)), false)
	for branch := range m.branches {
		m.changed[branch] = true
	}
}

// endServer ends one server of each stack, by force or not, and starts it again.
func (m *machine) endServer(t *rapid.T) {
	number, force := rapid.IntRange(0, 1).Draw(t, "server"), rapid.Bool().Draw(t, "kill")
	err := on(m.stacks, func(s *stack) error {
		one := s.servers[number%len(s.servers)]
		if force {
			if err := one.kill(); err != nil {
				return err
			}
			return one.start("")
		}
		return one.stop()
	})
	if err != nil {
		t.Fatal(err)
	}
}

// arm lets a server of each stack die when it has come by a fault point so many times.
func (m *machine) arm(t *rapid.T) {
	number := rapid.IntRange(0, 1).Draw(t, "server")
	point, skip := pick(t, "point", m.points), rapid.IntRange(0, 3).Draw(t, "skip")
	err := on(m.stacks, func(s *stack) error {
		one := s.servers[number%len(s.servers)]
		if err := one.kill(); err != nil {
			return err
		}
		return one.start(fmt.Sprintf("%s=%d*off->1*kill", point, skip))
	})
	if err != nil {
		t.Fatal(err)
	}
}

// maxRuns of a check: they take the longest.
const maxRuns = 2

// runBranches are the branches of runs, which the model does not follow.
const runBranches = "of-runs/"

// run runs a pipeline on a branch of its own, and looks at what it made. A second time there is nothing to do.
func (m *machine) run(t *rapid.T) {
	if len(m.runs) == maxRuns {
		t.Skip("enough")
	}
	from, at := m.ref(t, "from")
	if at == nil {
		t.Skip("nowhere")
	}
	branch := fmt.Sprint(runBranches, len(m.runs))
	m.runs = append(m.runs, branch)
	refused(t, m.same(t, createBranch(branch, from)), false)
	t1 := at.tree[lake.TableKey(lake.DefaultNamespace, "t1")]
	first := m.same(t, run(branch, filepath.Join(m.dir, "run")))
	if refused(t, first, t1 == nil) {
		return
	}
	second := m.same(t, run(branch, filepath.Join(m.dir, "run")))
	refused(t, second, false)
	for i, out := range second {
		if out.commit != "" && out.commit != first[i].commit {
			t.Fatalf("%s: the second run made the commit %s", m.stacks[i].name, out.commit)
		}
	}
	var want []string
	total := int64(0)
	for _, id := range slices.Sorted(maps.Keys(t1.rows)) {
		want = append(want, fmt.Sprintf("%d=%d", id, 2*t1.rows[id]))
		total += 2 * t1.rows[id]
	}
	want = append(want, fmt.Sprintf("%d=%d", len(t1.rows), total))
	got := append(m.same(t, query(branch, "", "SELECT id, v FROM doubled ORDER BY id"))[0].Seen, m.same(t, query(branch, "", "SELECT id, v FROM total"))[0].Seen...)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatalf("what the run made (-want +got):\n%s", diff)
	}
}

// restore makes a backup, and fills a new home from it.
func (m *machine) restore(t *rapid.T) {
	if m.restored {
		t.Skip("enough")
	}
	m.restored = true
	place := func(s *stack) string { return filepath.Join(s.dir, "backups") }
	refused(t, m.same(t, backUp(place)), false)
	copies := make([]*stack, len(m.stacks))
	err := on(m.stacks, func(s *stack) error {
		c := &stack{name: s.name + ", restored", dir: filepath.Join(s.dir, "restored"), ids: s.ids}
		copies[slices.Index(m.stacks, s)] = c
		one, err := newServer(filepath.Join(c.dir, "home"), nil)
		if err != nil {
			return err
		}
		c.servers = []*server{one}
		if _, err := system.Restore(context.Background(), one.home, system.Places{}, place(s), "", func(backup.Progress) {}); err != nil {
			return err
		}
		return one.start("")
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := on(copies, (*stack).close); err != nil {
			t.Error(err)
		}
	}()
	restored := *m
	restored.stacks, restored.changed = copies, map[string]bool{}
	restored.whole(t)
}

func (m *machine) fsck(t *rapid.T) {
	if out := m.same(t, fsck())[0]; out.Reason != "" || len(out.Seen) > 0 {
		t.Fatalf("fsck: %s %v", out.Reason, out.Seen)
	}
}

// whole looks at everything.
func (m *machine) whole(t *rapid.T) {
	for name := range m.branches {
		m.changed[name] = true
	}
	m.check(t)
	for _, name := range slices.Sorted(maps.Keys(m.branches)) {
		m.readAll(t, name, m.branches[name])
	}
	for _, name := range slices.Sorted(maps.Keys(m.tags)) {
		m.looksLike(t, name, m.tags[name])
	}
	for _, name := range m.runs {
		m.same(t, diff(func(s *stack) string { return s.ids[m.root] }, func(*stack) string { return name }))
	}
	m.fsck(t)
}

// end looks at everything, and then that all goes which nothing leads to any more.
func (m *machine) end(t *rapid.T) {
	m.whole(t)
	for name := range m.branches {
		if name != lake.MainBranch {
			refused(t, m.same(t, deleteBranch(name)), false)
		}
	}
	for _, name := range m.runs {
		refused(t, m.same(t, deleteBranch(name)), false)
	}
	for name := range m.tags {
		refused(t, m.same(t, deleteTag(name)), false)
	}
	maps.DeleteFunc(m.branches, func(name string, _ *commit) bool { return name != lake.MainBranch })
	clear(m.tags)
	m.runs = nil
	refused(t, m.same(t, collect(false)), false)
	if left := m.same(t, collect(true))[0].Seen; !slices.Equal(left, []string{"0 commits, 0 packs, 0 blobs, 0 bytes"}) {
		t.Errorf("not freed: %v", left)
	}
	m.whole(t)
}
