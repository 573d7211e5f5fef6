package catalog

import (
	"context"

	"tarn.dev/tarn/internal/catalog/dataver"
)

// taking says which rows of files go into the result of a merge by key.
type taking struct {
	key   []string
	take  func(key dataver.Row) bool
	whole map[string]bool // files all of whose rows do
}

// rowsByKey are the rows of some files: the hash of each row under the hash of its key.
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
	k := keyed{merging: m, key: key, perFile: map[string]rowsByKey{}}
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
	base           rowsByKey
	baseBy         map[dataver.Row]string // the removed file that a row of base is in
	source, target rowsByKey
	perFile        map[string]rowsByKey // of the files that were added
}

func (k *keyed) read(ctx context.Context) error {
	k.base, k.baseBy = rowsByKey{}, map[dataver.Row]string{}
	for _, n := range k.merging.base.live.names() {
		if !k.merging.source.removed[n] && !k.merging.target.removed[n] {
			continue
		}
		rows, err := k.readFile(ctx, k.merging.base, n, "the merge base", k.base)
		if err != nil {
			return err
		}
		for key := range rows {
			k.baseBy[key] = n
		}
	}
	k.source, k.target = rowsByKey{}, rowsByKey{}
	for _, x := range []struct {
		s    side
		name string
		into rowsByKey
	}{{k.merging.source, "the source", k.source}, {k.merging.target, "the target", k.target}} {
		for _, n := range x.s.added {
			rows, err := k.readFile(ctx, x.s, n, x.name, x.into)
			if err != nil {
				return err
			}
			k.perFile[n] = rows
		}
	}
	return nil
}

func (k *keyed) readFile(ctx context.Context, s side, file, who string, into rowsByKey) (rowsByKey, error) {
	rows := rowsByKey{}
	err := k.reader(s, k.key).each(ctx, file, func(h hashed) error {
		for i, key := range h.keys {
			if _, twice := into[key]; twice {
				return refuse(ReasonDuplicate, "%s: %s occurs twice in %s; a row key must be unique", k.name, keyText(k.key, h.rec, i), who)
			}
			into[key], rows[key] = h.rows[i], h.rows[i]
		}
		return nil
	})
	return rows, err
}

// row is the row that a side has for key, among those that were read.
func (k *keyed) row(key dataver.Row, added rowsByKey, removed map[string]bool) (dataver.Row, bool) {
	if r, ok := added[key]; ok {
		return r, true
	}
	if file, ok := k.baseBy[key]; ok && !removed[file] {
		return k.base[key], true
	}
	return dataver.Row{}, false
}

func (k *keyed) changed(key dataver.Row, added rowsByKey, removed map[string]bool) bool {
	now, has := k.row(key, added, removed)
	was, had := k.base[key]
	return has != had || now != was
}

func (k *keyed) bySource(key dataver.Row) bool {
	return k.changed(key, k.source, k.merging.source.removed)
}

func (k *keyed) byTarget(key dataver.Row) bool {
	return k.changed(key, k.target, k.merging.target.removed)
}

// fromSource reports whether the source's row of key, which is in a file that it added, is the result's.
func (k *keyed) fromSource(key dataver.Row) bool { return k.bySource(key) || !k.byTarget(key) }

// fromTarget is the same of the target; where both have the row, the source's file brings it.
func (k *keyed) fromTarget(key dataver.Row) bool {
	if _, both := k.source[key]; both {
		return !k.fromSource(key)
	}
	return !k.bySource(key)
}

func (k *keyed) whole(files []string, take func(dataver.Row) bool) map[string]bool {
	whole := map[string]bool{}
	for _, n := range files {
		whole[n] = true
		for key := range k.perFile[n] {
			if !take(key) {
				whole[n] = false
				break
			}
		}
	}
	return whole
}

// conflicts refuses keys that both sides changed, unless to the same row.
func (k *keyed) conflicts(ctx context.Context) error {
	both := map[dataver.Row]bool{}
	check := func(key dataver.Row) {
		s, hasS := k.row(key, k.source, k.merging.source.removed)
		t, hasT := k.row(key, k.target, k.merging.target.removed)
		if (hasS != hasT || s != t) && k.bySource(key) && k.byTarget(key) {
			both[key] = true
		}
	}
	for key := range k.base {
		check(key)
	}
	for key := range k.source {
		check(key)
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
