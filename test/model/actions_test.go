//go:build fault

package model

import (
	"crypto/sha256"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"tarn.dev/tarn/internal/lake"
)

func (m *machine) put(t *rapid.T) {
	branch := m.branch(t, "into")
	files := map[string]content{}
	for range rapid.IntRange(1, 3).Draw(t, "files") {
		files[pick(t, "name", fileNames)] = content{
			Seed: byte(rapid.IntRange(1, 3).Draw(t, "seed")),
			Size: pick(t, "size", []int64{0, 10, 300, 5_000, 70_000, 400_000}),
		}
	}
	m.putFiles(t, branch, files)
}

func (m *machine) putFiles(t *rapid.T, branch string, files map[string]content) {
	outs := m.same(t, put(branch, files))
	head := m.branches[branch]
	if refused(t, outs, head == nil || !fit(head.tree, slices.Collect(maps.Keys(files)))) {
		return
	}
	next := maps.Clone(head.tree)
	for name, c := range files {
		next[lake.FileKey(name)] = &entry{kind: lake.KindFile, content: c.String()}
	}
	m.wrote(t, branch, outs, m.history.put(branch, next))
}

var fileNames = []string{"a", "b", "d/x", "d/y", "d/e/z", "a/below"}

// fit says whether no file would be a folder, too.
func fit(t tree, names []string) bool {
	files := map[string]bool{}
	for key := range t {
		if name, ok := strings.CutPrefix(key, lake.FilePrefix); ok {
			files[name] = true
		}
	}
	for _, name := range names {
		files[name] = true
	}
	for name := range files {
		for other := range files {
			if strings.HasPrefix(other, name+"/") {
				return false
			}
		}
	}
	return true
}

func (m *machine) removeFiles(t *rapid.T) {
	branch := m.branch(t, "into")
	head := m.branches[branch]
	names := fileNames
	if head != nil {
		names = slices.DeleteFunc(slices.Clone(fileNames), func(name string) bool { return head.tree[lake.FileKey(name)] == nil })
	}
	name := pick(t, "file", append(slices.Clone(names), "none"))
	outs := m.same(t, remove(branch, name))
	if refused(t, outs, head == nil || head.tree[lake.FileKey(name)] == nil) {
		return
	}
	next := maps.Clone(head.tree)
	delete(next, lake.FileKey(name))
	m.wrote(t, branch, outs, m.history.put(branch, next))
}

func (m *machine) link(t *rapid.T) {
	branch := m.branch(t, "into")
	name := pick(t, "file", fileNames)
	original := pick(t, "original", []string{"linked-1", "linked-2"})
	outs := m.same(t, link(branch, "file://"+filepath.Join(m.dir, original), name))
	head := m.branches[branch]
	if refused(t, outs, head == nil || !fit(head.tree, []string{name})) {
		return
	}
	next := maps.Clone(head.tree)
	next[lake.FileKey(name)] = &entry{kind: lake.KindExternal, content: original}
	m.wrote(t, branch, outs, m.history.put(branch, next))
}

var tableNames = []string{"t1", "t2"}

func drawRows(t *rapid.T) []row {
	ids := rapid.SliceOfNDistinct(rapid.Int64Range(0, 9), 1, 5, rapid.ID).Draw(t, "ids")
	var rows []row
	for _, id := range ids {
		rows = append(rows, row{id, rapid.Int64Range(0, 3).Draw(t, "v")})
	}
	return rows
}

func (m *machine) writeTable(t *rapid.T) { m.toTable(t, writeTable) }

func (m *machine) importTable(t *rapid.T) {
	m.toTable(t, func(branch, table, mode string, rows []row) operation {
		m.files++
		text := "id,v\n"
		for _, r := range rows {
			text += fmt.Sprintf("%d,%d\n", r.ID, r.V)
		}
		return importTable(branch, table, mode, m.file(fmt.Sprintf("rows-%d.csv", m.files), text))
	})
}

func (m *machine) toTable(t *rapid.T, op func(branch, table, mode string, rows []row) operation) {
	branch := m.branch(t, "into")
	table := pick(t, "table", tableNames)
	mode := pick(t, "mode", []string{"replace", "append", "merge"})
	m.writeRows(t, branch, table, mode, drawRows(t), op)
}

func (m *machine) writeRows(t *rapid.T, branch, table, mode string, rows []row, op func(branch, table, mode string, rows []row) operation) {
	t.Helper()
	outs := m.same(t, op(branch, table, mode, rows))
	head := m.branches[branch]
	if head == nil {
		refused(t, outs, true)
		return
	}
	key := lake.TableKey(lake.DefaultNamespace, table)
	before := head.tree[key]
	next := m.newTable(before)
	twice := false
	if before != nil && mode != "replace" {
		maps.Copy(next.rows, before.rows)
	}
	for _, r := range rows {
		_, there := next.rows[r.ID]
		twice = twice || there && mode == "append"
		next.rows[r.ID] = r.V
	}
	if !refused(t, outs, twice) {
		m.setTable(t, branch, key, next, outs)
	}
}

// newTable is a table without rows that comes after another one, if there is one.
func (m *machine) newTable(before *entry) *entry {
	e := &entry{kind: lake.KindTable, rows: map[int64]int64{}, written: m.write()}
	if before != nil {
		e.table = before.table
	} else {
		m.tables++
		e.table = m.tables
	}
	return e
}

func (m *machine) setTable(t *rapid.T, branch, key string, e *entry, outs []outcome) {
	t.Helper()
	next := maps.Clone(m.branches[branch].tree)
	if !e.same(next[key]) {
		next[key] = e
	}
	m.wrote(t, branch, outs, m.history.put(branch, next))
}

func (m *machine) changeRows(t *rapid.T) {
	branch := m.branch(t, "into")
	table := pick(t, "table", tableNames)
	id, remove := rapid.Int64Range(0, 9).Draw(t, "id"), rapid.Bool().Draw(t, "remove")
	sql := fmt.Sprintf("UPDATE %s SET v = v + 1 WHERE id = %d", table, id)
	if remove {
		sql = fmt.Sprintf("DELETE FROM %s WHERE id >= %d", table, id)
	}
	outs := m.same(t, query(branch, branch, sql))
	head, key := m.branches[branch], lake.TableKey(lake.DefaultNamespace, table)
	if refused(t, outs, head == nil || head.tree[key] == nil) {
		return
	}
	next := m.newTable(head.tree[key])
	for k, v := range head.tree[key].rows {
		switch {
		case remove && k >= id:
		case k == id:
			next.rows[k] = v + 1
		default:
			next.rows[k] = v
		}
	}
	m.setTable(t, branch, key, next, outs)
}

func (m *machine) removeTable(t *rapid.T) {
	branch := m.branch(t, "into")
	table := pick(t, "table", tableNames)
	outs := m.same(t, removeTable(branch, table))
	head, key := m.branches[branch], lake.TableKey(lake.DefaultNamespace, table)
	if refused(t, outs, head == nil || head.tree[key] == nil) {
		return
	}
	next := maps.Clone(head.tree)
	delete(next, key)
	m.wrote(t, branch, outs, m.history.put(branch, next))
}

// orNowhere adds a name that nothing has, for one of twenty.
func orNowhere(names []string) []string {
	return append(slices.Repeat(names, 1+20/len(names)), "nowhere")
}

// branch draws a branch, mostly one that is there.
func (m *machine) branch(t *rapid.T, label string) string {
	return pick(t, label, orNowhere(slices.Sorted(maps.Keys(m.branches))))
}

// ref draws a branch or tag; nil when it is not there.
func (m *machine) ref(t *rapid.T, label string) (string, *commit) {
	names := append(slices.Sorted(maps.Keys(m.branches)), slices.Sorted(maps.Keys(m.tags))...)
	name := pick(t, label, orNowhere(names))
	if c := m.branches[name]; c != nil {
		return name, c
	}
	return name, m.tags[name]
}

// commit draws one that a ref leads to.
func (m *machine) commit(t *rapid.T) *commit {
	return pick(t, "commit", slices.DeleteFunc(slices.Clone(m.commits), func(c *commit) bool { return !m.reachable(c) }))
}

func (m *machine) createBranch(t *rapid.T) {
	name := pick(t, "name", []string{"dev", "feature", "fix/1", "main", "v1"})
	from, at := m.ref(t, "from")
	m.branchOff(t, name, from, at)
}

func (m *machine) branchOff(t *rapid.T, name, from string, at *commit) {
	t.Helper()
	outs := m.same(t, createBranch(name, from))
	if refused(t, outs, at == nil || m.branches[name] != nil || m.tags[name] != nil) {
		return
	}
	m.branches[name] = at
	m.wrote(t, name, outs, false)
}

func (m *machine) deleteBranch(t *rapid.T) {
	name := m.branch(t, "name")
	outs := m.same(t, deleteBranch(name))
	if refused(t, outs, name == lake.MainBranch || m.branches[name] == nil) {
		return
	}
	m.wrote(t, name, outs, false)
	delete(m.branches, name)
}

func (m *machine) tag(t *rapid.T) {
	name := pick(t, "name", []string{"v1", "v2", "dev"})
	c := m.commit(t)
	outs := m.same(t, createTag(name, c))
	if !refused(t, outs, m.branches[name] != nil || m.tags[name] != nil) {
		m.tags[name] = c
	}
}

func (m *machine) deleteTag(t *rapid.T) {
	name := pick(t, "name", []string{"v1", "v2", "dev"})
	outs := m.same(t, deleteTag(name))
	if !refused(t, outs, m.tags[name] == nil) {
		delete(m.tags, name)
	}
}

func (m *machine) merge(t *rapid.T) {
	into := m.branch(t, "into")
	source, from := m.ref(t, "source")
	message := pick(t, "message", []string{"", "Bring it together"})
	target := m.branches[into]
	rehearsed := m.same(t, mergeInto(into, source, message, nil, true))
	if refused(t, rehearsed, target == nil || from == nil) {
		return
	}
	rules := mergeRules{byRow: true, written: m.write()}
	want := m.compare(t, rehearsed, merge(ancestor(from, target), from.tree, target.tree, rules))
	prefer := map[string]string{}
	if len(want.conflicts) > 0 {
		side := pick(t, "prefer", []lake.Side{"", lake.Source, lake.Target})
		if side == "" {
			outs := m.same(t, mergeInto(into, source, message, nil, false))
			m.compare(t, outs, want)
			m.changed[into] = true
			return
		}
		rules.prefer = map[string]lake.Side{}
		for _, c := range want.conflicts {
			rules.prefer[c.key], prefer[c.key] = side, string(side)
		}
		want = merge(ancestor(from, target), from.tree, target.tree, rules)
	}
	outs := m.same(t, mergeInto(into, source, message, prefer, false))
	m.compare(t, outs, want)
	switch {
	case target.ancestors[from]:
		m.wrote(t, into, outs, false)
	case from.ancestors[target] && message == "":
		m.branches[into] = from
		m.wrote(t, into, outs, true)
	default:
		m.history.put(into, want.tree, from)
		m.wrote(t, into, outs, true)
	}
}

// compare holds what a merge says of itself against the model.
func (m *machine) compare(t *rapid.T, outs []outcome, want merged) merged {
	t.Helper()
	var conflicts []string
	for _, c := range want.conflicts {
		conflicts = append(conflicts, c.String())
	}
	if diff := cmp.Diff(conflicts, outs[0].Conflicts, cmpopts.EquateEmpty()); diff != "" {
		t.Fatalf("conflicts (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(want.changed, outs[0].Changes, cmpopts.EquateEmpty()); diff != "" {
		t.Fatalf("changes (-want +got):\n%s", diff)
	}
	return want
}

func (m *machine) revert(t *rapid.T) {
	into := m.branch(t, "into")
	undo := m.commit(t)
	outs := m.same(t, revert(into, undo))
	head := m.branches[into]
	if head == nil {
		refused(t, outs, true)
		return
	}
	parent := tree{}
	if len(undo.parents) > 0 {
		parent = undo.parents[0].tree
	}
	want := merge(undo.tree, parent, head.tree, mergeRules{byRow: true, written: m.write()})
	if refused(t, outs, len(want.conflicts) > 0) {
		m.changed[into] = true
		return
	}
	m.wrote(t, into, outs, m.history.put(into, want.tree))
}

// read compares every byte and row of a ref.
func (m *machine) read(t *rapid.T) {
	ref, at := m.ref(t, "ref")
	m.readAll(t, ref, at)
}

func (m *machine) readAll(t *rapid.T, ref string, at *commit) {
	t.Helper()
	var want []string
	if at != nil {
		for _, name := range fileNames {
			if e := at.tree[lake.FileKey(name)]; e != nil {
				want = append(want, sum(name, m.bytes(e)))
			}
		}
	}
	outs := m.same(t, get(ref, "**"))
	if !refused(t, outs, len(want) == 0) {
		slices.Sort(want)
		slices.Sort(outs[0].Seen)
		if diff := cmp.Diff(want, outs[0].Seen); diff != "" {
			t.Fatalf("files of %s (-want +got):\n%s", ref, diff)
		}
	}
	for _, table := range tableNames {
		outs := m.same(t, query(ref, "", "SELECT id, v FROM "+table+" ORDER BY id"))
		if at == nil || at.tree[lake.TableKey(lake.DefaultNamespace, table)] == nil {
			refused(t, outs, true)
			continue
		}
		rows := at.tree[lake.TableKey(lake.DefaultNamespace, table)].rows
		var want []string
		for _, id := range slices.Sorted(maps.Keys(rows)) {
			want = append(want, fmt.Sprintf("%d=%d", id, rows[id]))
		}
		if refused(t, outs, false); !slices.Equal(want, outs[0].Seen) {
			t.Fatalf("%s on %s has the rows %v, want %v", table, ref, outs[0].Seen, want)
		}
	}
}

func sum(name string, data []byte) string {
	return fmt.Sprintf("%s: %d bytes, %x", name, len(data), sha256.Sum256(data))
}

// bytes are those of a file or link of the model.
func (m *machine) bytes(e *entry) []byte {
	if e.kind == lake.KindExternal {
		b, err := os.ReadFile(filepath.Join(m.dir, e.content))
		if err != nil {
			panic(err)
		}
		return b
	}
	var c content
	if _, err := fmt.Sscanf(e.content, "%d bytes of %d", &c.Size, &c.Seed); err != nil {
		panic(err)
	}
	return c.bytes()
}

func (m *machine) log(t *rapid.T) {
	ref, at := m.ref(t, "ref")
	m.hasHistory(t, ref, at)
}

// hasHistory compares the commits that a ref leads to.
func (m *machine) hasHistory(t *rapid.T, ref string, at *commit) {
	t.Helper()
	outs := m.all(t, commits(ref))
	if refused(t, outs, at == nil) {
		return
	}
	for i, s := range m.stacks {
		var want []string
		for c := range at.ancestors {
			want = append(want, s.ids[c])
		}
		slices.Sort(want)
		slices.Sort(outs[i].Seen)
		if diff := cmp.Diff(want, outs[i].Seen); diff != "" {
			t.Fatalf("%s: log of %s (-want +got):\n%s", s.name, ref, diff)
		}
	}
}

func (m *machine) diff(t *rapid.T) {
	a, b := m.commit(t), m.commit(t)
	out := m.same(t, diff(func(s *stack) string { return s.ids[a] }, func(s *stack) string { return s.ids[b] }))[0]
	refused(t, []outcome{out}, false)
	if diff := cmp.Diff(differences(a.tree, b.tree), out.Changes, cmpopts.EquateEmpty()); diff != "" {
		t.Fatalf("diff (-want +got):\n%s", diff)
	}
}
