package flow

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/apache/arrow-go/v18/arrow"

	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/catalog"
	"tarn.dev/tarn/internal/catalog/datafile"
	"tarn.dev/tarn/internal/catalog/dataver"
	"tarn.dev/tarn/internal/flow/manifest"
	"tarn.dev/tarn/internal/flow/memo"
	"tarn.dev/tarn/internal/lake"
	"tarn.dev/tarn/internal/lake/prolly"
)

// slot is what an asset's state says of one fragment: enough to know its share of the whole.
type slot struct {
	Key    memo.Key     `json:"key"`
	Tables []memo.Table `json:"tables,omitempty"`
	Files  []memo.File  `json:"files,omitempty"`
	// Provenance is the fragment's, so that a file of a folder leads to its own item.
	Provenance lake.Hash `json:"provenance,omitzero"`
}

// same reports whether two slots hold one result. The same key alone does not say so: --no-cache makes
// another result of it.
func (s slot) same(o slot) bool {
	return s.Key == o.Key && slices.Equal(s.Tables, o.Tables) && slices.EqualFunc(s.Files, o.Files, func(a, b memo.File) bool {
		return a.Path == b.Path && a.Ref.Hash == b.Ref.Hash
	})
}

// readSlots reads an asset's state.
func (f *Flow) readSlots(ctx context.Context, root lake.Hash) (map[string]slot, error) {
	return slotsIn(ctx, prolly.Open(f.lake.Nodes(nil), prolly.Hash(root)))
}

// slotsIn reads a state from its map, which may be too new to be durable.
func slotsIn(ctx context.Context, m prolly.Map) (map[string]slot, error) {
	out := map[string]slot{}
	for it, err := range m.Scan(ctx, prolly.Range{}) {
		if err != nil {
			return nil, fmt.Errorf("read slots: %w", err)
		}
		var s slot
		if err := json.Unmarshal(it.Value, &s); err != nil {
			return nil, errdef.Newf(errdef.DataLoss, "run.slots", "slot %q: %w", it.Key, err)
		}
		out[string(it.Key)] = s
	}
	return out, nil
}

// editSlots turns the state old into now, writing only what differs.
func (f *Flow) editSlots(ctx context.Context, b *lake.Batch, root lake.Hash, old, now map[string]slot) (lake.Hash, error) {
	var edits []prolly.Edit
	for id, s := range now {
		if o, ok := old[id]; ok && o.same(s) {
			continue
		}
		v, err := json.Marshal(s)
		if err != nil {
			return lake.Hash{}, fmt.Errorf("encode slot: %w", err)
		}
		edits = append(edits, prolly.Edit{Key: []byte(id), Value: v})
	}
	for id := range old {
		if _, ok := now[id]; !ok {
			edits = append(edits, prolly.Edit{Key: []byte(id), Remove: true})
		}
	}
	m, err := prolly.Open(f.lake.Nodes(b), prolly.Hash(root)).Edit(ctx, edits)
	if err != nil {
		return lake.Hash{}, fmt.Errorf("write slots: %w", err)
	}
	return lake.Hash(m.Root()), nil
}

// assembled is what a step's asset became: entries to publish, and what its children read.
type assembled struct {
	entries map[string]*lake.Entry // by tree key; nil removes
	values  []*value
	files   []fileValue
	changed bool
	outputs []Output
}

var errOverlap = errdef.New(errdef.UserCode, "run.output_overlap", "two items wrote one file")

// assemble folds a step's fragments into its asset: slots, tables, folder. New objects go to b. Tables that are known by their
// fragments alone are in w before they are written, and readable is called.
func (f *Flow) assemble(ctx context.Context, w *world, wk *work, b *lake.Batch, readable func()) (*assembled, error) {
	fn := wk.node.Function
	old := map[string]slot{}
	root := lake.Hash{}
	if wk.state != nil {
		root = wk.state.Location.Slots
		var err error
		if old, err = f.readSlots(ctx, root); err != nil {
			return nil, err
		}
	}
	now := map[string]slot{}
	onto := fn.Mode == manifest.Append || fn.Mode == manifest.Merge
	if onto {
		for id, s := range old {
			now[id] = s
		}
	}
	var added []slot
	var prov lake.Hash
	for i := range wk.items {
		inv := &wk.items[i]
		id := slotOf(fn, inv)
		// A result that was made again takes the slot. What was appended or merged stays: it is in the table.
		if o, ok := old[id]; ok && o.Key == inv.key && (inv.fragment == nil || onto) {
			now[id] = o
			continue
		}
		frag, err := f.fragmentOf(ctx, inv)
		if err != nil {
			return nil, err
		}
		s := slot{Key: inv.key, Tables: frag.Tables, Files: frag.Files, Provenance: frag.Provenance}
		now[id], prov = s, frag.Provenance
		added = append(added, s)
	}
	out := &assembled{entries: map[string]*lake.Entry{}}
	if len(added) == 0 && len(now) == len(old) && wk.state != nil {
		return out, f.unchanged(ctx, w, wk, out)
	}
	out.changed = true
	root, err := f.editSlots(ctx, b, root, old, now)
	if err != nil {
		return nil, err
	}
	if prov.IsZero() && wk.state != nil { // items only went away
		prov = wk.state.Location.Provenance
	}
	if !onto && !fn.WritesFiles() {
		known, err := f.known(fn, sortedSlots(now), prov)
		if err != nil {
			return nil, err
		}
		for _, v := range known {
			w.put(v)
		}
		if len(known) > 0 {
			readable()
		}
	}
	for _, name := range fn.Outputs {
		if err := f.assembleTable(ctx, w, wk, out, name, now, added, root, prov); err != nil {
			return nil, fmt.Errorf("assemble %s: %w", name, err)
		}
	}
	if fn.WritesFiles() {
		if err := f.assembleFolder(ctx, w, wk, out, old, now, root, prov); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// known are an asset's tables by the fragments that hold all their rows; none if that does not make tables of one kind.
func (f *Flow) known(fn *manifest.Function, all []slot, prov lake.Hash) (values []*value, err error) {
	for _, name := range fn.Outputs {
		v := &value{name: name, key: tableKey(name), provenance: prov}
		for _, s := range all {
			switch {
			case s.table(name) == nil:
				return nil, nil
			case s.empty(name):
			case v.schema == "":
				v.schema = s.table(name).Schema
			case v.schema != s.table(name).Schema:
				return nil, nil
			}
		}
		if v.schema == "" {
			return nil, nil
		}
		var sum dataver.Sum
		if v.arrow, sum, err = slotBlobs(name, all); err != nil {
			return nil, err
		}
		v.version, v.rows = sum.String(), sum.Rows
		values = append(values, v)
	}
	return values, nil
}

// assembleInto assembles an asset, for those that read it in w.
func (f *Flow) assembleInto(ctx context.Context, w *world, wk *work, b *lake.Batch, readable func()) (*assembled, error) {
	out, err := f.assemble(ctx, w, wk, b, readable)
	if err != nil {
		return nil, err
	}
	for _, v := range out.values {
		if read := w.put(v); read != nil && read.identity() != v.identity() {
			return nil, errdef.Newf(errdef.Internal, "run.identity", "%s was read as %s and written as %s", v.name, read.identity(), v.identity())
		}
	}
	if wk.node.WritesFiles() && out.changed {
		w.putFiles(wk.node.Name, out.files)
	}
	return out, nil
}

// unchanged reports the asset as the base has it.
func (f *Flow) unchanged(ctx context.Context, w *world, wk *work, out *assembled) error {
	for _, name := range wk.node.Outputs {
		v, err := w.table(ctx, name, "")
		if err != nil {
			return err
		}
		if v != nil {
			out.values = append(out.values, v)
			out.outputs = append(out.outputs, Output{Asset: wk.node.Name, Name: name, Kind: "table", Rows: v.rows, Before: v.rows})
		}
	}
	if wk.node.WritesFiles() && wk.state != nil {
		out.outputs = append(out.outputs, Output{Asset: wk.node.Name, Name: wk.node.Name, Kind: "folder", Rows: wk.state.Location.Rows, Before: wk.state.Location.Rows})
	}
	return nil
}

// sortedSlots are the slots in order of id.
func sortedSlots(m map[string]slot) []slot {
	ids := make([]string, 0, len(m))
	for id := range m {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	out := make([]slot, len(ids))
	for i, id := range ids {
		out[i] = m[id]
	}
	return out
}

// table is a fragment's table of that name. Two assets of identical SQL share one fragment, so a table that
// stands alone is meant whatever it is called.
func (s slot) table(name string) *memo.Table {
	if len(s.Tables) == 1 {
		return &s.Tables[0]
	}
	for i := range s.Tables {
		if s.Tables[i].Name == name {
			return &s.Tables[i]
		}
	}
	return nil
}

// empty tells a result without rows to take columns from. It adds nothing to a table.
func (s slot) empty(table string) bool {
	t := s.table(table)
	return t != nil && t.Schema == noColumns && t.Sum.Rows == 0
}

// modeData is where an asset's entry keeps its mode: a merge of branches must fold as a run would.
const modeData = "mode"

// assembleTable writes one output table from its fragments.
func (f *Flow) assembleTable(ctx context.Context, w *world, wk *work, out *assembled, name string, now map[string]slot, added []slot, root, prov lake.Hash) error {
	fn := wk.node.Function
	key := tableKey(name)
	prev, err := w.entry(ctx, key)
	if err != nil {
		return err
	}
	all := sortedSlots(now)
	if len(all) == 0 {
		if prev != nil {
			out.entries[key] = nil
		}
		return nil
	}
	parts := all
	onto := (fn.Mode == manifest.Append || fn.Mode == manifest.Merge) && prev != nil
	if onto {
		parts = added
	}
	blobs, _, err := slotBlobs(name, parts)
	if err != nil {
		return err
	}
	paths, err := f.paths(ctx, blobs)
	if err != nil {
		return err
	}
	var entry lake.Entry
	switch {
	case len(paths) > 0:
		if entry, err = f.writeTable(ctx, fn, name, prev, paths, onto); err != nil {
			return err
		}
	case onto: // nothing was added
		entry = *prev
	default:
		return errResult.Errorf("%s returned no rows, and a list has no columns of its own. Return a DataFrame or pa.Table with its columns.", fn.Name)
	}
	entry.Location.Slots, entry.Location.Provenance = root, prov
	entry.Location.Data = map[string]string{modeData: string(fn.Mode)}
	if len(fn.Key) > 0 {
		entry.Properties = withProperty(entry.Properties, catalog.KeyProperty, catalog.EncodeKey(fn.Key...))
	}
	out.entries[key] = &entry
	v := &value{name: name, key: key, version: entry.Version, schema: entry.Schema, rows: entry.Location.Rows, entry: &entry, provenance: prov}
	if !onto {
		v.arrow = blobs
	}
	out.values = append(out.values, v)
	o := Output{Asset: fn.Name, Name: name, Kind: "table", Rows: v.rows, Changed: prev == nil || !prev.SameIdentity(&entry)}
	if prev != nil {
		o.Before = prev.Location.Rows
	}
	out.outputs = append(out.outputs, o)
	return nil
}

func withProperty(m map[string]string, key, v string) map[string]string {
	out := map[string]string{key: v}
	for k, x := range m {
		if k != key {
			out[k] = x
		}
	}
	return out
}

// writeTable writes Arrow fragments as data files and makes the table's next entry.
func (f *Flow) writeTable(ctx context.Context, fn *manifest.Function, name string, prev *lake.Entry, paths []string, onto bool) (lake.Entry, error) {
	return f.withTableDir(ctx, name, prev, onto, paths, func(w catalog.Written) (lake.Entry, error) {
		switch {
		case onto && fn.Mode == manifest.Append:
			return f.tables.Append(ctx, name, *prev, w)
		case onto:
			return f.tables.MergeByKey(ctx, name, *prev, w, fn.Key)
		}
		return f.tables.Replace(ctx, name, prev, w)
	})
}

// withTableDir writes Arrow files as data files into a scratch folder that lasts for the call of use.
func (f *Flow) withTableDir(ctx context.Context, name string, prev *lake.Entry, onto bool, paths []string, use func(w catalog.Written) (lake.Entry, error)) (lake.Entry, error) {
	dir, err := f.tempDir("tables", "t-*")
	if err != nil {
		return lake.Entry{}, err
	}
	defer os.RemoveAll(dir)
	layout, err := f.tables.Layout(ctx, name, prev, onto)
	if err != nil {
		return lake.Entry{}, err
	}
	written, err := writeFiles(ctx, dir, layout, paths)
	if err != nil {
		return lake.Entry{}, err
	}
	return use(written)
}

func writeFiles(ctx context.Context, dir string, layout datafile.Layout, paths []string) (catalog.Written, error) {
	var dw *datafile.Writer
	var schema *arrow.Schema
	err := eachBatch(paths, func(s *arrow.Schema) (err error) {
		schema = s
		dw, err = datafile.NewWriter(dir, s, layout)
		return err
	}, func(rec arrow.RecordBatch) error {
		if catalog.Fingerprint(rec.Schema()) != catalog.Fingerprint(schema) {
			return errResult.Errorf("the items' results have different columns: %s and %s", fields(schema), fields(rec.Schema()))
		}
		return dw.Write(ctx, rec)
	})
	if dw == nil {
		return catalog.Written{}, err
	}
	res, closeErr := dw.Close()
	if err := errors.Join(err, closeErr); err != nil {
		return catalog.Written{}, err
	}
	return catalog.Written{Dir: dir, Result: res}, nil
}

func fields(s *arrow.Schema) string {
	var out []string
	for _, f := range s.Fields() {
		out = append(out, f.Name+" "+f.Type.String())
	}
	return manifest.List(out)
}

// assembleFolder publishes the files of all slots under the asset's name.
func (f *Flow) assembleFolder(ctx context.Context, w *world, wk *work, out *assembled, old, now map[string]slot, root, prov lake.Hash) error {
	fn := wk.node.Function
	owner := map[string]string{}
	var total int64
	for id, s := range now {
		for _, file := range s.Files {
			p := fn.Name + "/" + file.Path
			if other, ok := owner[p]; ok {
				return errOverlap.Errorf("two items of %s wrote %s: %s and %s", fn.Name, file.Path, min(id, other), max(id, other))
			}
			owner[p] = id
			total += file.Ref.Size
			out.files = append(out.files, fileValue{path: p, ref: file.Ref, hash: file.Ref.Hash.String(), prov: s.Provenance})
		}
	}
	for id, s := range old {
		if n, ok := now[id]; ok && n.same(s) {
			continue
		}
		for _, file := range s.Files {
			out.entries[lake.FileKey(fn.Name+"/"+file.Path)] = nil
		}
	}
	for _, v := range out.files {
		id := owner[v.path]
		if o, ok := old[id]; ok && o.same(now[id]) {
			continue
		}
		out.entries[lake.FileKey(v.path)] = &lake.Entry{
			Kind: lake.KindFile, Version: v.hash, Location: lake.Location{Ref: v.ref, Size: v.ref.Size, Provenance: v.prov},
		}
	}
	o := Output{Asset: fn.Name, Name: fn.Name, Kind: "folder", Rows: int64(len(out.files)), Changed: true}
	if wk.state != nil {
		o.Before = wk.state.Location.Rows
	}
	out.outputs = append(out.outputs, o)
	if len(fn.Outputs) == 0 { // the folder itself holds the state
		out.entries[lake.FileKey(fn.Name)] = &lake.Entry{
			Kind: lake.KindFolder, Version: root.String(),
			Location: lake.Location{Slots: root, Provenance: prov, Rows: int64(len(out.files)), Size: total},
		}
	}
	return nil
}
