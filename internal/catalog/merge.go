package catalog

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/iceberg-go"

	"tarn.dev/tarn/internal/catalog/datafile"
	"tarn.dev/tarn/internal/lake"
)

// Reasons of merge conflicts of tables.
const (
	ReasonReplaced  = "catalog.replaced"       // one side replaced all rows, the other changed some
	ReasonRewritten = "catalog.both_rewrote"   // both rewrote the same rows, and no key tells them apart
	ReasonRows      = "catalog.both_changed"   // the same keys, in different ways
	ReasonDuplicate = "catalog.key_not_unique" // a side has two rows of one key
	ReasonColumns   = "catalog.columns"        // columns that do not fit together
	ReasonDeletes   = "catalog.delete_files"   // delete files of another engine
	ReasonOther     = "catalog.other_table"    // not the same table, in spite of its name
	ReasonSlots     = "catalog.slots"          // an asset's state, and nobody here knows slots
	ReasonLinked    = "catalog.linked"         // the rows are in files of somebody else
	ReasonDeclared  = "catalog.properties"     // both changed a declared property
)

// Resolver merges two changes of a table. It implements lake.Resolver.
type Resolver struct {
	Catalog *Catalog
	// Slots merges tables that are the state of an asset, slot by slot; its owner knows what slots
	// hold. Without it they conflict.
	Slots func(ctx context.Context, b *lake.Batch, key string, base, source, target *lake.Entry) (*lake.Entry, *lake.Conflict, error)
}

var _ lake.Resolver = Resolver{}

// Resolve merges source and target, which both changed base.
func (r Resolver) Resolve(ctx context.Context, b *lake.Batch, key string, base, source, target *lake.Entry) (*lake.Entry, *lake.Conflict, error) {
	name := lake.DisplayKey(key)
	if !source.Location.Slots.IsZero() || !target.Location.Slots.IsZero() {
		if r.Slots != nil {
			return r.Slots(ctx, b, key, base, source, target)
		}
		return nil, conflict(ReasonSlots, "%s: both sides ran its asset", name), nil
	}
	if IsLinked(*source) || IsLinked(*target) || base != nil && IsLinked(*base) {
		return nil, conflict(ReasonLinked, "%s: a side links it to other files", name), nil
	}
	if base == nil {
		return nil, conflict(lake.ReasonBothAdded, "%s: both sides created it", name), nil
	}
	e, err := r.Catalog.Merge(ctx, name, *base, *source, *target)
	var c *conflictError
	if errors.As(err, &c) {
		return nil, &c.Conflict, nil
	}
	if err != nil {
		return nil, nil, err
	}
	return &e, nil, nil
}

// Hint tells how to go on after a conflict on a table.
func Hint(key, source, target string) []string {
	name := lake.DisplayKey(key)
	return []string{
		fmt.Sprintf("tarn diff %s..%s %s --rows", target, source, name),
		fmt.Sprintf("tarn merge %s --prefer %s=source", source, name),
	}
}

// conflictError carries a conflict out of the depth of a merge.
type conflictError struct{ lake.Conflict }

func (e *conflictError) Error() string { return e.Message }

func conflict(reason, format string, args ...any) *lake.Conflict {
	return &lake.Conflict{Reason: reason, Message: fmt.Sprintf(format, args...)}
}

func refuse(reason, format string, args ...any) error {
	return &conflictError{*conflict(reason, format, args...)}
}

// side is one of the three versions in a merge.
type side struct {
	entry   lake.Entry
	state   *state
	list    []iceberg.ManifestFile
	live    fileSet         // without the files that all three versions share by manifest
	added   []string        // files that base lacks
	removed map[string]bool // files that only base has
}

// merging is a three-way merge of one table.
type merging struct {
	c                    *Catalog
	name                 string
	base, source, target side
	shared               bool // a manifest is part of all three
	t                    *draft
	entry                lake.Entry // properties and so on of the result
}

// Merge returns target with what changed from base to source. A conflict is an error that Resolver
// knows how to report.
func (c *Catalog) Merge(ctx context.Context, name string, base, source, target lake.Entry) (lake.Entry, error) {
	m := &merging{c: c, name: name}
	for _, x := range []struct {
		s *side
		e lake.Entry
	}{{&m.base, base}, {&m.source, source}, {&m.target, target}} {
		x.s.entry = x.e
		var err error
		if x.s.state, err = c.load(ctx, x.e); err != nil {
			return lake.Entry{}, err
		}
		if x.s.list, err = c.manifests(ctx, x.s.state); err != nil {
			return lake.Entry{}, err
		}
	}
	if m.base.state.uuid != m.source.state.uuid || m.base.state.uuid != m.target.state.uuid {
		return lake.Entry{}, refuse(ReasonOther, "%s: the two sides have different tables of this name", name)
	}
	if err := m.declared(); err != nil {
		return lake.Entry{}, err
	}
	if err := m.readFiles(ctx); err != nil {
		return lake.Entry{}, err
	}
	key, err := Key(m.entry)
	if err != nil {
		return lake.Entry{}, err
	}
	if len(key) == 0 && (m.replaced(m.source) || m.replaced(m.target)) {
		return lake.Entry{}, refuse(ReasonReplaced, "%s: one side replaced its rows while the other changed them", name)
	}
	if err := m.columns(); err != nil {
		return lake.Entry{}, err
	}
	if len(key) > 0 {
		err = m.byKey(ctx, key)
	} else {
		err = m.byFile(ctx)
	}
	if err != nil {
		return lake.Entry{}, err
	}
	return c.commit(ctx, m.t, m.entry)
}

// declared merges what entries declare: properties and partitioning.
func (m *merging) declared() error {
	b, s, t := m.base.entry, m.source.entry, m.target.entry
	m.entry = t
	m.entry.Properties = maps.Clone(t.Properties)
	names := slices.Collect(maps.Keys(s.Properties))
	for k := range b.Properties {
		names = append(names, k)
	}
	for _, k := range names {
		sv, inS := s.Properties[k]
		bv, inB := b.Properties[k]
		tv, inT := t.Properties[k]
		switch {
		case sv == bv && inS == inB, sv == tv && inS == inT:
			continue
		case tv != bv || inT != inB:
			return refuse(ReasonDeclared, "%s: both changed the property %s", m.name, k)
		case !inS:
			delete(m.entry.Properties, k)
		default:
			if m.entry.Properties == nil {
				m.entry.Properties = map[string]string{}
			}
			m.entry.Properties[k] = sv
		}
	}
	if s.Partitioning != b.Partitioning && s.Partitioning != t.Partitioning {
		if t.Partitioning != b.Partitioning {
			return refuse(ReasonDeclared, "%s: both changed its partitioning", m.name)
		}
		m.entry.Partitioning = s.Partitioning
	}
	return nil
}

// readFiles finds what each side added and removed. Manifests that all three have are not read.
func (m *merging) readFiles(ctx context.Context) error {
	count := map[string]int{}
	sides := []*side{&m.base, &m.source, &m.target}
	for _, s := range sides {
		for _, f := range s.list {
			count[f.FilePath()]++
			m.shared = m.shared || count[f.FilePath()] == len(sides)
		}
	}
	for _, s := range sides {
		own := slices.DeleteFunc(slices.Clone(s.list), func(f iceberg.ManifestFile) bool { return count[f.FilePath()] == len(sides) })
		var err error
		if s.live, err = m.c.entries(ctx, own); err != nil {
			return err
		}
		if len(s.live.deletes) > 0 || slices.ContainsFunc(s.list, func(f iceberg.ManifestFile) bool {
			return f.ManifestContent() == iceberg.ManifestContentDeletes
		}) {
			return refuse(ReasonDeletes, "%s: it has delete files of another engine; let it rewrite the table", m.name)
		}
	}
	for _, s := range sides[1:] {
		s.removed = map[string]bool{}
		for n := range m.base.live.data {
			if s.live.data[n] == nil {
				s.removed[n] = true
			}
		}
		for _, n := range s.live.names() {
			if m.base.live.data[n] == nil {
				s.added = append(s.added, n)
			}
		}
	}
	return nil
}

// columns begins the result with the columns of both sides, united by name.
func (m *merging) columns() error {
	s, t := m.source.state, m.target.state
	for _, f := range m.base.state.schema.Fields() {
		_, inS := s.schema.FieldsByName(f.Name)
		if _, inT := t.schema.FieldsByName(f.Name); inS != inT {
			return refuse(ReasonColumns, "%s: one side dropped the column %s, the other changed the table", m.name, f.Name)
		}
	}
	merged, err := datafile.Merge(m.name, t.schema, s.schema)
	if errors.Is(err, datafile.ErrMismatch) {
		return refuse(ReasonColumns, "%s: the sides changed a column in ways that do not fit: %v", m.name, err)
	} else if err != nil {
		return err
	}
	m.t = draftOf(m.name, t)
	m.t.schema = merged
	m.t.ids, _ = preferIDs(t.ids, s.ids)
	m.t.lastID = max(m.t.lastID, s.meta.LastColumnID)
	m.t.lastSeq = max(m.t.lastSeq, s.meta.LastSequence)
	m.t.lastMillis = max(m.t.lastMillis, s.meta.LastUpdated)
	m.t.sum, m.t.rowsKnown = sumOfEntry(m.target.entry)
	if _, ok := sumOfEntry(m.source.entry); !ok {
		m.t.rowsKnown = false
	}
	m.t.size = m.target.entry.Location.Size
	m.t.op = opOverwrite
	return nil
}

// preferIDs unites two trees of ids; where one name has two, have's stays and clash is true: files
// written with the other must be written again.
func preferIDs(have, add []datafile.ID) (out []datafile.ID, clash bool) {
	out = slices.Clone(have)
	for _, a := range add {
		i := slices.IndexFunc(out, func(h datafile.ID) bool { return h.Name == a.Name })
		if i < 0 {
			out = append(out, a)
			continue
		}
		if out[i].ID != a.ID {
			clash = true
		}
		kids, below := preferIDs(out[i].Kids, a.Kids)
		out[i].Kids, clash = kids, clash || below
	}
	return out, clash
}

// replaced reports whether all rows of base were replaced on a side: by us, who mark it, or by another
// engine, which does not.
func (m *merging) replaced(s side) bool {
	if s.state.meta.Properties[generationProperty] != m.base.state.meta.Properties[generationProperty] {
		return true
	}
	_, ours := sumOfEntry(s.entry)
	return !ours && !m.shared && len(s.removed) > 0 && len(s.removed) == len(m.base.live.data)
}

// byFile merges by live files: right as long as no file was changed on both sides.
func (m *merging) byFile(ctx context.Context) error {
	for n := range m.source.removed {
		if m.target.removed[n] {
			return refuse(ReasonRewritten, "%s: both rewrote the same rows, and no key tells rows apart", m.name)
		}
	}
	if len(m.source.removed) == 0 && len(m.target.removed) == 0 {
		m.t.op = opAppend
	}
	if err := m.c.drop(ctx, m.t, m.target.list, m.source.removed); err != nil {
		return err
	}
	return m.adopt(ctx, m.source.added, nil)
}

// adopt adds files of the source to the result: as they are, or written again when their field ids
// mean something else here. only, if given, says which keys of a file to take.
func (m *merging) adopt(ctx context.Context, files []string, only *taking) error {
	_, clash := preferIDs(m.target.state.ids, m.source.state.ids)
	var rw *rewriter
	for _, n := range files {
		if !clash && (only == nil || only.whole[n]) {
			m.t.add = append(m.t.add, m.source.live.data[n].DataFile())
			continue
		}
		if rw == nil {
			var err error
			if rw, err = m.c.newRewriter(m.t); err != nil {
				return err
			}
		}
		if err := m.copy(ctx, m.source, n, rw, only); err != nil {
			rw.abandon()
			return err
		}
	}
	if rw == nil {
		return nil
	}
	return rw.close(ctx, m.c, m.t)
}

// copy writes rows of a side's file again: all, or those that only says.
func (m *merging) copy(ctx context.Context, s side, file string, rw *rewriter, only *taking) error {
	r := m.reader(s, nil)
	if only != nil {
		r.key = only.key
		return r.copy(ctx, file, rw, only.take)
	}
	return r.each(ctx, file, func(h hashed) error { return rw.w.Write(ctx, h.rec) })
}

// reader reads files of a side as rows of the result.
func (m *merging) reader(s side, key []string) reader {
	return reader{c: m.c, uuid: s.state.uuid, ids: s.state.ids, schema: plainOf(m.t.schema), key: key}
}

func plainOf(s *arrow.Schema) *arrow.Schema { return datafile.Plain(s) }
