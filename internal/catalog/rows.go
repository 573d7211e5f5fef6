package catalog

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"slices"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/compute"
	"github.com/apache/arrow-go/v18/arrow/memory"
	"github.com/apache/iceberg-go"
	"github.com/google/uuid"

	"tarn.dev/tarn/internal/catalog/datafile"
	"tarn.dev/tarn/internal/catalog/dataver"
	"tarn.dev/tarn/internal/lake"
)

// reader reads rows of data files that were laid out by the ids of one side. Rows and keys are known by
// their hashes: a column that a file lacks is null, which contributes nothing, so rows written before
// and after a column was added compare as they should.
type reader struct {
	c      *Catalog
	uuid   uuid.UUID
	ids    []datafile.ID
	schema *arrow.Schema // plain; may have columns that the ids lack
	key    []string      // none: rows are not told apart by key
	dir    string        // files still in a writer's directory; empty: in the store
}

// hashed is a batch with the hash of each row and of its key.
type hashed struct {
	rec  arrow.RecordBatch
	keys []dataver.Row // nil without a key
	rows []dataver.Row
}

// each calls fn with every batch of file.
func (r reader) each(ctx context.Context, file string, fn func(hashed) error) (err error) {
	var src datafile.Source
	if r.dir != "" {
		f, err := os.Open(path.Join(r.dir, file))
		if err != nil {
			return err
		}
		defer func() { _ = f.Close() }() // only read
		src = f
	} else if src, err = openData(ctx, r.c.blobs, dataName(r.uuid, file)); err != nil {
		return err
	}
	rows, err := dataver.NewHasher(r.schema)
	if err != nil {
		return err
	}
	var keys *dataver.Hasher
	var keySchema *arrow.Schema
	if len(r.key) > 0 {
		fields := make([]arrow.Field, len(r.key))
		for i, k := range r.key {
			fields[i] = r.schema.Field(r.schema.FieldIndices(k)[0])
		}
		keySchema = arrow.NewSchema(fields, nil)
		if keys, err = dataver.NewHasher(keySchema); err != nil {
			return err
		}
	}
	for rec, err := range datafile.Read(ctx, src, r.schema, r.ids) {
		if err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		h := hashed{rec: rec}
		if h.rows, err = rows.Rows(nil, rec); err != nil {
			return err
		}
		if keys != nil {
			if h.keys, err = keys.Rows(nil, array.NewRecordBatch(keySchema, columnsOf(rec, r.key), rec.NumRows())); err != nil {
				return err
			}
		}
		if err := fn(h); err != nil {
			return err
		}
	}
	return nil
}

func columnsOf(rec arrow.RecordBatch, names []string) []arrow.Array {
	cols := make([]arrow.Array, len(names))
	for i, n := range names {
		cols[i] = rec.Column(rec.Schema().FieldIndices(n)[0])
	}
	return cols
}

// narrowed is r with only the key columns.
func (r reader) narrowed() reader {
	fields := make([]arrow.Field, len(r.key))
	for i, k := range r.key {
		fields[i] = r.schema.Field(r.schema.FieldIndices(k)[0])
	}
	r.schema = arrow.NewSchema(fields, nil)
	return r
}

// checkKey refuses a key that names no column, or one twice.
func checkKey(name string, schema *arrow.Schema, key []string) error {
	for i, k := range key {
		if len(schema.FieldIndices(k)) == 0 {
			return ErrKey.Errorf("%s has no column %q for its key", name, k).WithDetail("column", k)
		}
		if slices.Contains(key[:i], k) {
			return ErrKey.Errorf("the key of %s names %q twice", name, k)
		}
	}
	if len(key) == 0 {
		return ErrKey.Errorf("%s has no row key", name).WithNext("declare one: --key COLUMN")
	}
	return nil
}

// filtered is rec with the rows that keep says.
func filtered(ctx context.Context, rec arrow.RecordBatch, keep []bool) (arrow.RecordBatch, error) {
	b := array.NewBooleanBuilder(memory.DefaultAllocator)
	b.AppendValues(keep, nil)
	return compute.FilterRecordBatch(compute.WithAllocator(ctx, memory.DefaultAllocator), rec, b.NewArray(), compute.DefaultFilterOptions())
}

// rewriter writes rows that were read back into new files of a draft.
type rewriter struct {
	w   *datafile.Writer
	dir string
}

func (c *Catalog) newRewriter(t *draft) (*rewriter, error) {
	schema, err := datafile.EncodeSchema(t.schema)
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp(c.scratch, "rewrite-")
	if err != nil {
		return nil, fmt.Errorf("rewrite rows of %s: %w", t.name, err)
	}
	layout := datafile.Layout{Schema: schema, IDs: t.ids, First: t.lastID + 1, Append: true, Table: t.name}
	w, err := datafile.NewWriter(dir, datafile.Plain(t.schema), layout)
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	return &rewriter{w: w, dir: dir}, nil
}

// close moves the files into the store and the draft.
func (r *rewriter) close(ctx context.Context, c *Catalog, t *draft) (err error) {
	defer func() { err = errors.Join(err, os.RemoveAll(r.dir)) }()
	res, err := r.w.Close()
	if err != nil {
		return err
	}
	files, err := c.stage(ctx, t, Written{Dir: r.dir, Result: res})
	if err != nil {
		return err
	}
	t.add = append(t.add, files...)
	return nil
}

// abandon removes what was written.
func (r *rewriter) abandon() {
	_, _ = r.w.Close()
	_ = os.RemoveAll(r.dir) // scratch is emptied at the next start anyway
}

// drop takes files out of what t keeps of list, whose entries are all. Manifests that hold none of them
// are adopted as they are.
func (c *Catalog) drop(ctx context.Context, t *draft, list []iceberg.ManifestFile, gone map[string]bool) error {
	t.keep, t.exist = nil, nil
	for _, m := range list {
		if len(gone) == 0 {
			t.keep = append(t.keep, m)
			continue
		}
		set, err := c.entries(ctx, []iceberg.ManifestFile{m})
		if err != nil {
			return err
		}
		hit := false
		for n := range set.data {
			hit = hit || gone[n]
		}
		if !hit {
			t.keep = append(t.keep, m)
			continue
		}
		for _, n := range set.names() {
			f := set.data[n].DataFile()
			if !gone[n] {
				t.exist = append(t.exist, set.data[n])
				continue
			}
			s, _ := datafile.SumOf(n, f.Count()) // rowsKnown tells whether sums count
			t.sum, t.size = t.sum.Sub(s), t.size-f.FileSizeBytes()
		}
	}
	return nil
}

// begin drafts prev with all its rows.
func (c *Catalog) begin(ctx context.Context, name string, prev lake.Entry) (*draft, *state, []iceberg.ManifestFile, error) {
	s, err := c.load(ctx, prev)
	if err != nil {
		return nil, nil, nil, err
	}
	t := draftOf(name, s)
	t.sum, t.rowsKnown = sumOfEntry(prev)
	t.size = prev.Location.Size
	list, err := c.manifests(ctx, s)
	t.keep = list
	return t, s, list, err
}

// Rewrite takes the data files called removed (their last name parts, as Scan lists them) out of a
// table and adds the rows of w: how rows are updated and deleted without touching the other files.
func (c *Catalog) Rewrite(ctx context.Context, name string, prev lake.Entry, removed []string, w Written) (lake.Entry, error) {
	t, s, list, err := c.begin(ctx, name, prev)
	if err != nil {
		return lake.Entry{}, err
	}
	if err := s.laidOut(name, w); err != nil {
		return lake.Entry{}, err
	}
	if err := t.unite(w.Result); err != nil {
		return lake.Entry{}, err
	}
	gone := map[string]bool{}
	for _, n := range removed {
		gone[path.Base(n)] = true
	}
	if err := c.drop(ctx, t, list, gone); err != nil {
		return lake.Entry{}, err
	}
	t.op = opOverwrite
	if t.add, err = c.stage(ctx, t, w); err != nil {
		return lake.Entry{}, err
	}
	c.release(ctx, s.uuid, w)
	return c.commit(ctx, t, prev)
}

// MergeByKey adds the rows of w; each takes the place of the row of the same key, if there is one. Only
// files that hold such rows are rewritten. The key becomes the declared one.
func (c *Catalog) MergeByKey(ctx context.Context, name string, prev lake.Entry, w Written, key []string) (lake.Entry, error) {
	t, s, list, err := c.begin(ctx, name, prev)
	if err != nil {
		return lake.Entry{}, err
	}
	if err := s.laidOut(name, w); err != nil {
		return lake.Entry{}, err
	}
	if err := t.unite(w.Result); err != nil {
		return lake.Entry{}, err
	}
	plain := datafile.Plain(t.schema)
	if err := checkKey(name, s.schema, key); err != nil {
		return lake.Entry{}, err
	}
	files, err := c.entries(ctx, list)
	if err != nil {
		return lake.Entry{}, err
	}
	if len(files.deletes) > 0 {
		return lake.Entry{}, ErrForeign.Errorf("%s has %d delete files of another engine; let it rewrite the table", name, len(files.deletes))
	}
	fresh, err := c.newKeys(ctx, name, plain, w, key)
	if err != nil {
		return lake.Entry{}, err
	}
	old := reader{c: c, uuid: s.uuid, ids: s.ids, schema: plain, key: key}
	rw, err := c.newRewriter(t)
	if err != nil {
		return lake.Entry{}, err
	}
	gone := map[string]bool{}
	for _, n := range files.names() {
		hit, err := old.narrowed().any(ctx, n, func(k dataver.Row) bool { return fresh[k] })
		if err == nil && hit {
			gone[n] = true
			err = old.copy(ctx, n, rw, func(k dataver.Row) bool { return !fresh[k] })
		}
		if err != nil {
			rw.abandon()
			return lake.Entry{}, err
		}
	}
	if err := c.drop(ctx, t, list, gone); err != nil {
		rw.abandon()
		return lake.Entry{}, err
	}
	t.op = opOverwrite
	if t.add, err = c.stage(ctx, t, w); err != nil {
		rw.abandon()
		return lake.Entry{}, err
	}
	if err := rw.close(ctx, c, t); err != nil {
		return lake.Entry{}, err
	}
	c.release(ctx, s.uuid, w)
	return c.commit(ctx, t, withKey(prev, key))
}

func withKey(e lake.Entry, key []string) lake.Entry {
	props := map[string]string{KeyProperty: EncodeKey(key...)}
	for k, v := range e.Properties {
		if k != KeyProperty {
			props[k] = v
		}
	}
	e.Properties = props
	return e
}

// newKeys is the set of keys in w, each of which may occur once.
func (c *Catalog) newKeys(ctx context.Context, name string, plain *arrow.Schema, w Written, key []string) (map[dataver.Row]bool, error) {
	r := reader{c: c, ids: w.IDs, schema: plain, key: key, dir: w.Dir}
	written, err := datafile.DecodeSchema(w.Schema)
	if err != nil {
		return nil, err
	}
	if err := checkKey(name, written, key); err != nil {
		return nil, err
	}
	fresh := map[dataver.Row]bool{}
	for _, f := range w.Files {
		err := r.narrowed().each(ctx, f.Name, func(h hashed) error {
			for i, k := range h.keys {
				if fresh[k] {
					return ErrKey.Errorf("%s: %s occurs twice in the new rows", name, keyText(key, h.rec, i))
				}
				fresh[k] = true
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return fresh, nil
}

var errFound = errors.New("found")

// any reports whether file has a key for which is holds.
func (r reader) any(ctx context.Context, file string, is func(dataver.Row) bool) (bool, error) {
	err := r.each(ctx, file, func(h hashed) error {
		if slices.ContainsFunc(h.keys, is) {
			return errFound
		}
		return nil
	})
	if errors.Is(err, errFound) {
		return true, nil
	}
	return false, err
}

// copy writes the rows of file whose key keep accepts.
func (r reader) copy(ctx context.Context, file string, to *rewriter, keep func(dataver.Row) bool) error {
	return r.each(ctx, file, func(h hashed) error {
		mask := make([]bool, len(h.keys))
		for i, k := range h.keys {
			mask[i] = keep(k)
		}
		rec, err := filtered(ctx, h.rec, mask)
		if err != nil {
			return err
		}
		return to.w.Write(ctx, rec)
	})
}
