package catalog

import (
	"context"
	"slices"

	"tarn.dev/tarn/internal/catalog/dataver"
)

// taking says which rows of files go into the result of a merge by key.
type taking struct {
	key   []string
	take  func(key dataver.Row) bool
	whole map[string]bool // files all of whose rows do
}

// rowsByKey are the rows of some files: the hash of each row under the hash of its key. 64 bytes a row:
// files with tens of millions of changed rows take gigabytes.
type rowsByKey map[dataver.Row]dataver.Row

// byKey merges row by row. Only files that a side added or removed are read: with B the rows of base's
// removed files, S and T those of the files that the sides added, a side's row of key k is
//
//	S[k], or B[k] if the side kept the file that holds it, or none
//
// and a side changed k if that differs from B[k]. The result is made of the files that both sides kept
// and of rows of S and T: where one side changed k its row, else the row of both.
func (m *merging) byKey(ctx context.Context, key []string) error {
	if err := checkKey(m.name, m.t.schema, key); err != nil {
		return refuse(ReasonColumns, "%v", err)
	}
	k := keyed{merging: m, key: key, perFile: map[string][]dataver.Row{}}
	if err := k.read(ctx); err != nil {
		return err
	}
	if err := k.conflicts(ctx); err != nil {
		return err
	}
	fromSource := &taking{key: key, take: k.fromSource, whole: k.whole(m.source.added, k.fromSource)}
	fromTarget := &taking{key: key, take: k.fromTarget, whole: k.whole(m.target.added, k.fromTarget)}
	gone := map[string]bool{}
	for n := range m.source.removed {
		gone[n] = true
	}
	var rewrite []string
	for _, n := range m.target.added {
		if !fromTarget.whole[n] {
			gone[n] = true
			rewrite = append(rewrite, n)
		}
	}
	if err := m.c.drop(ctx, m.t, m.target.list, gone); err != nil {
		return err
	}
	if len(rewrite) > 0 {
		rw, err := m.c.newRewriter(m.t)
		if err != nil {
			return err
		}
		for _, n := range rewrite {
			if err := m.copy(ctx, m.target, n, rw, fromTarget); err != nil {
				rw.abandon()
				return err
			}
		}
		if err := rw.close(ctx, m.c, m.t); err != nil {
			return err
		}
	}
	return m.adopt(ctx, m.source.added, fromSource)
}

// keyed is what byKey knows of the rows.
type keyed struct {
	*merging
	key            []string
	base           map[dataver.Row]baseRow
	source, target rowsByKey
	perFile        map[string][]dataver.Row // keys in the files that were added
	// Keys that a side changed: few, so that asking about every row stays cheap.
	bySource, byTarget map[dataver.Row]bool
}

// baseRow is a row of base in a file that a side removed.
type baseRow struct {
	row                dataver.Row
	bySource, byTarget bool // which side removed the file
}

func (k *keyed) read(ctx context.Context) error {
	k.base, k.source, k.target = map[dataver.Row]baseRow{}, rowsByKey{}, rowsByKey{}
	for _, n := range k.merging.base.live.names() {
		r := baseRow{bySource: k.merging.source.removed[n], byTarget: k.merging.target.removed[n]}
		if !r.bySource && !r.byTarget {
			continue
		}
		err := k.readFile(ctx, k.merging.base, n, "the merge base", func(key, row dataver.Row) bool {
			_, twice := k.base[key]
			r.row = row
			k.base[key] = r
			return !twice
		})
		if err != nil {
			return err
		}
	}
	for _, x := range []struct {
		s    side
		name string
		into rowsByKey
	}{{k.merging.source, "the source", k.source}, {k.merging.target, "the target", k.target}} {
		for _, n := range x.s.added {
			err := k.readFile(ctx, x.s, n, x.name, func(key, row dataver.Row) bool {
				_, twice := x.into[key]
				x.into[key] = row
				k.perFile[n] = append(k.perFile[n], key)
				return !twice
			})
			if err != nil {
				return err
			}
		}
	}
	k.bySource = k.changed(k.source, func(b baseRow) bool { return b.bySource })
	k.byTarget = k.changed(k.target, func(b baseRow) bool { return b.byTarget })
	return nil
}

// readFile gives each row to put, which says whether its key is new.
func (k *keyed) readFile(ctx context.Context, s side, file, who string, put func(key, row dataver.Row) bool) error {
	return k.reader(s, k.key).each(ctx, file, func(h hashed) error {
		for i, key := range h.keys {
			if !put(key, h.rows[i]) {
				return refuse(ReasonDuplicate, "%s: %s occurs twice in %s; a row key must be unique", k.name, keyText(k.key, h.rec, i), who)
			}
		}
		return nil
	})
}

// changed is the set of keys whose row a side added, changed or removed.
func (k *keyed) changed(added rowsByKey, removed func(baseRow) bool) map[dataver.Row]bool {
	set := map[dataver.Row]bool{}
	for key, row := range added {
		if was, had := k.base[key]; !had || was.row != row {
			set[key] = true
		}
	}
	for key, was := range k.base {
		if _, has := added[key]; !has && removed(was) {
			set[key] = true
		}
	}
	return set
}

// fromSource reports whether the source's row of key, which is in a file that it added, is the result's.
func (k *keyed) fromSource(key dataver.Row) bool { return k.bySource[key] || !k.byTarget[key] }

// fromTarget is the same of the target; where both have the row, the source's file brings it.
func (k *keyed) fromTarget(key dataver.Row) bool {
	if _, both := k.source[key]; both {
		return !k.fromSource(key)
	}
	return !k.bySource[key]
}

func (k *keyed) whole(files []string, take func(dataver.Row) bool) map[string]bool {
	whole := map[string]bool{}
	for _, n := range files {
		whole[n] = !slices.ContainsFunc(k.perFile[n], func(key dataver.Row) bool { return !take(key) })
	}
	return whole
}

// conflicts refuses keys that both sides changed, unless to the same row.
func (k *keyed) conflicts(ctx context.Context) error {
	both := map[dataver.Row]bool{}
	for key := range k.bySource {
		// A key that a side changed is in a file that it added, or gone.
		s, hasS := k.source[key]
		t, hasT := k.target[key]
		if k.byTarget[key] && (hasS != hasT || s != t) {
			both[key] = true
		}
	}
	if len(both) == 0 {
		return nil
	}
	texts, err := k.texts(ctx, both)
	if err != nil {
		return err
	}
	sortTexts(texts)
	const shown = 5
	list := ""
	for i, text := range texts[:min(shown, len(texts))] {
		if i > 0 {
			list += ", "
		}
		list += text
	}
	if len(texts) > shown {
		list += ", ..."
	}
	e := refuse(ReasonRows, "%s: both changed %s = %s (%s of %s)", k.name, keyNames(k.key), list,
		thousands(int64(len(both))), thousands(k.merging.target.entry.Location.Rows)).(*conflictError)
	e.Details = map[string]any{"key": k.key, "values": texts[:min(len(texts), 1000)], "count": len(both)}
	return e
}

// texts spells keys out, from whatever side has a row of them.
func (k *keyed) texts(ctx context.Context, keys map[dataver.Row]bool) ([]string, error) {
	left := map[dataver.Row]bool{}
	for key := range keys {
		left[key] = true
	}
	var texts []string
	find := func(s side, files []string) error {
		for _, n := range files {
			if len(left) == 0 {
				return nil
			}
			err := k.reader(s, k.key).narrowed().each(ctx, n, func(h hashed) error {
				for i, key := range h.keys {
					if left[key] {
						delete(left, key)
						texts = append(texts, keyValues(k.key, h.rec, i))
					}
				}
				return nil
			})
			if err != nil {
				return err
			}
		}
		return nil
	}
	var removed []string
	for _, n := range k.merging.base.live.names() {
		if k.merging.source.removed[n] || k.merging.target.removed[n] {
			removed = append(removed, n)
		}
	}
	for _, x := range []struct {
		s     side
		files []string
	}{{k.merging.source, k.merging.source.added}, {k.merging.target, k.merging.target.added}, {k.merging.base, removed}} {
		if err := find(x.s, x.files); err != nil {
			return nil, err
		}
	}
	return texts, nil
}
