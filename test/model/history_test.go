//go:build fault

package model

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"tarn.dev/tarn/internal/catalog"
	"tarn.dev/tarn/internal/lake"
)

// entry is what a commit of the model holds under a key.
type entry struct {
	kind    lake.Kind
	content string          // of a file: a text that stands for its bytes
	rows    map[int64]int64 // of a table: v by id
	table   int             // which table it is: one that was removed and made again is another
	written int             // by which write its metadata is: the identity does not tell
}

// identity says what the content is, and nothing of where it lies.
func (e *entry) identity() string {
	if e == nil {
		return ""
	}
	if e.kind != lake.KindTable {
		return string(e.kind) + " " + e.content
	}
	var b strings.Builder
	b.WriteString("table")
	for _, id := range slices.Sorted(maps.Keys(e.rows)) {
		fmt.Fprintf(&b, " %d=%d", id, e.rows[id])
	}
	return b.String()
}

func (e *entry) same(o *entry) bool {
	return (e == nil) == (o == nil) && e.identity() == o.identity()
}

// exactly is also about where it lies.
func (e *entry) exactly(o *entry) bool {
	return e.same(o) && (e == nil || e.written == o.written)
}

type tree map[string]*entry

// commit is one state of the model's project.
type commit struct {
	parents    []*commit
	tree       tree
	ancestors  map[*commit]bool // with itself
	generation int              // the longest way to the root
	number     int              // in the order in which they were made
}

func (c *commit) String() string {
	var parents []int
	for _, p := range c.parents {
		parents = append(parents, p.number)
	}
	return fmt.Sprintf("commit %d of %v", c.number, parents)
}

func newCommit(number int, t tree, parents ...*commit) *commit {
	c := &commit{parents: parents, tree: t, ancestors: map[*commit]bool{}, number: number}
	c.ancestors[c] = true
	for _, p := range parents {
		maps.Copy(c.ancestors, p.ancestors)
		c.generation = max(c.generation, p.generation+1)
	}
	return c
}

// bases are the common ancestors that no other common ancestor descends from, the latest first.
func bases(a, b *commit) []*commit {
	var common []*commit
	for c := range a.ancestors {
		if b.ancestors[c] {
			common = append(common, c)
		}
	}
	best := slices.DeleteFunc(slices.Clone(common), func(c *commit) bool {
		return slices.ContainsFunc(common, func(o *commit) bool { return o != c && o.ancestors[c] })
	})
	slices.SortFunc(best, func(a, b *commit) int {
		return cmp.Or(cmp.Compare(b.generation, a.generation), cmp.Compare(b.number, a.number))
	})
	return best
}

// undecided is an entry of a merge base that the base's own parents disagree about.
const undecided = lake.Kind("undecided")

// ancestor is the tree that two commits are merged from. When merges crossed each other there are several bases: they
// are merged first, and what does not fit together there counts as changed by both sides.
func ancestor(a, b *commit) tree {
	all := bases(a, b)
	if len(all) == 0 {
		return tree{}
	}
	result := all[0].tree
	for _, other := range all[1:] {
		m := merge(ancestor(all[0], other), other.tree, result, mergeRules{})
		for _, c := range m.conflicts {
			m.tree[c.key] = &entry{kind: undecided}
		}
		result = m.tree
	}
	return result
}

// mergeRules say what happens to keys that both sides changed.
type mergeRules struct {
	prefer  map[string]lake.Side // by key: which side wins
	byRow   bool                 // tables are merged row by row
	written int                  // the number of this write
}

// conflict is a key that a merge cannot decide.
type conflict struct{ key, reason string }

func (c conflict) String() string { return c.key + " " + c.reason }

// merged is what came of a merge.
type merged struct {
	tree      tree
	changed   []string
	conflicts []conflict
}

// merge applies to target what source changed since base, key by key.
func merge(base, source, target tree, rules mergeRules) merged {
	m := merged{tree: maps.Clone(target)}
	keys := map[string]bool{}
	for _, t := range []tree{base, source, target} {
		for k := range t {
			keys[k] = true
		}
	}
	for _, k := range slices.Sorted(maps.Keys(keys)) {
		b, s, t := base[k], source[k], target[k]
		switch {
		case s.exactly(b): // only the target changed it, if anybody did
		case t.exactly(b):
			m.take(k, s)
		case s.same(t), s.same(b):
		case t.same(b), rules.prefer[k] == lake.Source:
			m.take(k, s)
		case rules.prefer[k] == lake.Target:
		default:
			m.decide(k, b, s, t, rules)
		}
	}
	return m
}

func (m *merged) take(key string, e *entry) {
	if !e.same(m.tree[key]) {
		m.changed = append(m.changed, key)
	}
	if e == nil {
		delete(m.tree, key)
		return
	}
	m.tree[key] = e
}

func (m *merged) decide(key string, b, s, t *entry, rules mergeRules) {
	reason := lake.ReasonBothChanged
	switch {
	case s == nil || t == nil:
		reason = lake.ReasonDeleted
	case s.kind != t.kind:
		reason = lake.ReasonKindChanged
	case b == nil, b.kind == undecided && s.kind == lake.KindTable:
		reason = lake.ReasonBothAdded
	case s.kind != lake.KindTable || !rules.byRow:
	case b.table != s.table || b.table != t.table:
		reason = catalog.ReasonOther
	default:
		rows, ok := mergeRows(b.rows, s.rows, t.rows)
		if ok {
			m.take(key, &entry{kind: lake.KindTable, rows: rows, table: t.table, written: rules.written})
			return
		}
		reason = catalog.ReasonRows
	}
	m.conflicts = append(m.conflicts, conflict{key, reason})
}

// mergeRows merges row by row; it cannot when both sides changed a row in different ways.
func mergeRows(base, source, target map[int64]int64) (map[int64]int64, bool) {
	type row struct {
		v  int64
		is bool
	}
	at := func(rows map[int64]int64, id int64) row {
		v, is := rows[id]
		return row{v, is}
	}
	result := maps.Clone(target)
	for _, rows := range []map[int64]int64{base, source} {
		for id := range rows {
			b, s, t := at(base, id), at(source, id), at(target, id)
			switch {
			case s == b || s == t:
			case t != b:
				return nil, false
			case s.is:
				result[id] = s.v
			default:
				delete(result, id)
			}
		}
	}
	return result, true
}

// differences are the keys that two trees have different content under.
func differences(a, b tree) []string {
	var keys []string
	for k := range a {
		if !a[k].same(b[k]) {
			keys = append(keys, k)
		}
	}
	for k := range b {
		if a[k] == nil {
			keys = append(keys, k)
		}
	}
	slices.Sort(keys)
	return keys
}

// history is the model: what users may see.
type history struct {
	root     *commit
	branches map[string]*commit
	tags     map[string]*commit
	commits  []*commit // all that there ever were
	tables   int
	writes   int
}

func newHistory() *history {
	root := newCommit(0, tree{})
	return &history{root: root, branches: map[string]*commit{lake.MainBranch: root}, tags: map[string]*commit{}, commits: []*commit{root}}
}

// put moves a branch to a new commit, unless the tree is the one that it has, with everything where it lies.
func (h *history) put(branch string, t tree, more ...*commit) bool {
	head := h.branches[branch]
	if len(more) == 0 && maps.EqualFunc(head.tree, t, (*entry).exactly) {
		return false
	}
	c := newCommit(len(h.commits), t, append([]*commit{head}, more...)...)
	h.commits = append(h.commits, c)
	h.branches[branch] = c
	return true
}

// reachable says whether a ref leads to a commit.
func (h *history) reachable(c *commit) bool {
	for _, refs := range []map[string]*commit{h.branches, h.tags} {
		for _, head := range refs {
			if head.ancestors[c] {
				return true
			}
		}
	}
	return false
}

func (h *history) write() int {
	h.writes++
	return h.writes
}
