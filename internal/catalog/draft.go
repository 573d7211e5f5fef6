package catalog

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/iceberg-go"
	"github.com/google/uuid"

	"tarn.dev/tarn/internal/base/fault"
	"tarn.dev/tarn/internal/blob"
	"tarn.dev/tarn/internal/catalog/datafile"
	"tarn.dev/tarn/internal/catalog/dataver"
	"tarn.dev/tarn/internal/lake"
)

// draft is a table about to be written: what its one snapshot will hold.
type draft struct {
	name       string
	uuid       uuid.UUID
	schema     *arrow.Schema
	ids        []datafile.ID
	lastID     int // highest field id ever used
	lastSeq    int64
	lastMillis int64
	generation string
	properties map[string]string // those that are not ours
	parent     *snapshot
	op         string // opAppend, opOverwrite or opReplace

	keep  []iceberg.ManifestFile  // manifests adopted as they are
	exist []iceberg.ManifestEntry // surviving entries of manifests that are rewritten
	add   []iceberg.DataFile

	sum       dataver.Sum // of keep and exist
	rowsKnown bool        // sum holds: no file of another engine is kept
	size      int64       // bytes of keep and exist
}

// draftOf begins with the columns and properties of s, and none of its rows.
func draftOf(name string, s *state) *draft {
	t := &draft{
		name: name, uuid: s.uuid, schema: s.schema, ids: s.ids,
		lastID: s.meta.LastColumnID, lastSeq: s.meta.LastSequence, lastMillis: s.meta.LastUpdated,
		generation: s.meta.Properties[generationProperty], properties: s.meta.Properties,
		parent: s.meta.snapshot(), op: opAppend, rowsKnown: true,
	}
	return t
}

// unite adds the columns that new rows bring.
func (t *draft) unite(add datafile.Result) error {
	schema, err := datafile.DecodeSchema(add.Schema)
	if err != nil {
		return err
	}
	merged, err := datafile.Merge(t.name, t.schema, schema)
	if err != nil {
		return err
	}
	ids, err := uniteIDs(t.name, t.ids, add.IDs)
	if err != nil {
		// The one column whose id may change: all its values were null, so no row has the old id.
		var changed bool
		for i, f := range t.schema.Fields() {
			if g, ok := schema.FieldsByName(f.Name); ok && f.Type.ID() == arrow.NULL && g[0].Type.ID() != arrow.NULL {
				t.ids = slices.Clone(t.ids)
				t.ids[i] = add.IDs[slices.IndexFunc(add.IDs, func(d datafile.ID) bool { return d.Name == f.Name })]
				changed = true
			}
		}
		if !changed {
			return err
		}
		if ids, err = uniteIDs(t.name, t.ids, add.IDs); err != nil {
			return err
		}
	}
	t.schema, t.ids, t.lastID = merged, ids, max(t.lastID, add.Next-1)
	return nil
}

// uniteIDs refuses one name with two ids: the files were laid out before another write added the column.
func uniteIDs(path string, have, add []datafile.ID) ([]datafile.ID, error) {
	out := slices.Clone(have)
	for _, a := range add {
		i := slices.IndexFunc(out, func(h datafile.ID) bool { return h.Name == a.Name })
		if i < 0 {
			out = append(out, a)
			continue
		}
		if out[i].ID != a.ID {
			return nil, ErrMoved.Errorf("%s.%s was added by somebody else meanwhile", path, a.Name).WithNext("write again")
		}
		kids, err := uniteIDs(path+"."+a.Name, out[i].Kids, a.Kids)
		if err != nil {
			return nil, err
		}
		out[i].Kids = kids
	}
	return out, nil
}

// stage copies the files of w into the store and passes each through the gate.
func (c *Catalog) stage(ctx context.Context, t *draft, w Written) ([]iceberg.DataFile, error) {
	written, err := datafile.DecodeSchema(w.Schema)
	if err != nil {
		return nil, err
	}
	stored, err := datafile.Stored(written, w.IDs)
	if err != nil {
		return nil, err
	}
	out := make([]iceberg.DataFile, 0, len(w.Files))
	for _, f := range w.Files {
		df, err := c.stageFile(ctx, t, stored, w.Dir, f)
		if err != nil {
			return nil, fmt.Errorf("add rows to %s: %w", t.name, err)
		}
		out = append(out, df)
	}
	return out, fault.Point("catalog.data.after_put")
}

func (c *Catalog) stageFile(ctx context.Context, t *draft, stored *arrow.Schema, dir string, f datafile.File) (_ iceberg.DataFile, err error) {
	if sum, ok := datafile.SumOf(f.Name, f.Rows); !ok || sum != f.Sum || filepath.Base(f.Name) != f.Name {
		return nil, ErrRefused.Errorf("%q is no name of a data file with data version %s", f.Name, f.Sum)
	}
	src, err := os.Open(filepath.Join(dir, f.Name))
	if err != nil {
		return nil, err
	}
	defer func() { _ = src.Close() }() // only read
	footer, err := datafile.Footer(src)
	if err != nil {
		return nil, err
	}
	if footer.GetNumRows() != f.Rows {
		return nil, ErrRefused.Errorf("%s has %d rows, %d were announced", f.Name, footer.GetNumRows(), f.Rows)
	}
	if err := datafile.Gate(footer, stored); err != nil {
		return nil, err
	}
	info, err := src.Stat()
	if err != nil {
		return nil, err
	}
	name := dataName(t.uuid, f.Name)
	stats, err := datafile.StatsOf(footer)
	if err != nil {
		return nil, ErrRefused.Errorf("%s: %w", f.Name, err)
	}
	if _, err := src.Seek(0, 0); err != nil {
		return nil, err
	}
	if err := c.blobs.Put(ctx, name, src); err != nil && !errors.Is(err, blob.ErrExists) {
		return nil, err // one that exists was put by an earlier attempt of this write: names are random
	}
	return describe(c.blobs.URI(name), f.Rows, info.Size(), stats)
}

// describe makes the entry of a data file in a manifest.
func describe(uri string, rows, size int64, s datafile.Stats) (iceberg.DataFile, error) {
	b, err := iceberg.NewDataFileBuilder(*iceberg.UnpartitionedSpec, iceberg.EntryContentData, uri, iceberg.ParquetFile, nil, nil, nil, rows, size)
	if err != nil {
		return nil, fmt.Errorf("describe data file: %w", err)
	}
	b.ColumnSizes(s.Bytes).ValueCounts(s.Values).NullValueCounts(s.Nulls)
	return b.LowerBoundValues(s.Lower).UpperBoundValues(s.Upper).SplitOffsets(s.Groups).Build(), nil
}

func (t *draft) icebergSchema() (*iceberg.Schema, error) {
	stored, err := datafile.Stored(t.schema, t.ids)
	if err != nil {
		return nil, err
	}
	fields, err := icebergFields(stored.Fields())
	if err != nil {
		return nil, err
	}
	return iceberg.NewSchema(0, fields...), nil
}

// commit writes manifests and metadata of t and returns the entry that points at them. Properties,
// partitioning and slots are those of prev.
func (c *Catalog) commit(ctx context.Context, t *draft, prev lake.Entry) (lake.Entry, error) {
	schema, err := t.icebergSchema()
	if err != nil {
		return lake.Entry{}, err
	}
	var snap *snapshot
	list := t.keep
	if len(t.add)+len(t.exist)+len(t.keep) > 0 {
		if snap, list, err = c.writeSnapshot(ctx, t, schema); err != nil {
			return lake.Entry{}, fmt.Errorf("write table %s: %w", t.name, err)
		}
	}
	e := lake.Entry{
		Kind: lake.KindTable, Schema: Fingerprint(t.schema), Partitioning: prev.Partitioning,
		Properties: prev.Properties, Location: lake.Location{Slots: prev.Location.Slots, Size: t.size},
	}
	for _, f := range t.add {
		e.Location.Size += f.FileSizeBytes()
	}
	if e.Version, e.Location.Rows, err = c.version(ctx, t, list); err != nil {
		return lake.Entry{}, err
	}
	if e.Location.Table, err = c.writeMetadata(ctx, t, schema, snap); err != nil {
		return lake.Entry{}, fmt.Errorf("write table %s: %w", t.name, err)
	}
	return e, nil
}

func (c *Catalog) writeMetadata(ctx context.Context, t *draft, schema *iceberg.Schema, snap *snapshot) (string, error) {
	arrowBytes, err := datafile.EncodeSchema(t.schema)
	if err != nil {
		return "", err
	}
	props := map[string]string{"write.format.default": "parquet", "write.parquet.compression-codec": "zstd"}
	maps.Copy(props, t.properties)
	maps.Copy(props, map[string]string{
		"gc.enabled":               "false", // what is garbage is for the lake to know
		"commit.retry.num-retries": "0",
		schemaProperty:             base64.StdEncoding.EncodeToString(arrowBytes),
		generationProperty:         t.generation,
	})
	m := metadata{
		FormatVersion: 2, TableUUID: t.uuid, Location: c.blobs.URI(tableDir(t.uuid)),
		LastSequence: t.lastSeq, LastUpdated: max(time.Now().UnixMilli(), t.lastMillis), LastColumnID: t.lastID,
		Schemas: []*iceberg.Schema{schema}, Properties: props,
		Specs:         []json.RawMessage{json.RawMessage(`{"spec-id":0,"fields":[]}`)},
		LastPartition: 999, // by the specification: partition fields begin at 1000
		SortOrders:    []json.RawMessage{json.RawMessage(`{"order-id":0,"fields":[]}`)},
		SnapshotLog:   []map[string]any{}, MetadataLog: []map[string]any{},
	}
	if snap != nil {
		m.LastSequence, m.CurrentSnapshot = snap.Sequence, &snap.ID
		m.LastUpdated = max(m.LastUpdated, snap.Millis)
		m.Snapshots = []*snapshot{snap}
		m.Refs = map[string]any{"main": map[string]any{"snapshot-id": snap.ID, "type": "branch"}}
	}
	data, err := json.Marshal(m)
	if err != nil {
		return "", err
	}
	if err := fault.Point("catalog.metadata.before_put"); err != nil {
		return "", err
	}
	name := provedName(t.uuid, fmt.Sprintf("%05d-%s", m.LastSequence, uuid.NewString()), ".metadata.json", data)
	if err := c.blobs.Put(ctx, name, bytes.NewReader(data)); err != nil {
		return "", err
	}
	return name, fault.Point("catalog.metadata.after_put")
}

// writeSnapshot writes the manifests of t and the list of them.
func (c *Catalog) writeSnapshot(ctx context.Context, t *draft, schema *iceberg.Schema) (*snapshot, []iceberg.ManifestFile, error) {
	id := newSnapshotID()
	seq := t.lastSeq + 1
	list := slices.Clone(t.keep)
	exist, list, err := c.fold(ctx, t, list)
	if err != nil {
		return nil, nil, err
	}
	if len(exist)+len(t.add) > 0 {
		mf, err := c.writeManifests(ctx, t, schema, id, exist)
		if err != nil {
			return nil, nil, err
		}
		list = append(list, mf...)
	}
	var parent *int64
	if t.parent != nil {
		parent = &t.parent.ID
	}
	var buf bytes.Buffer
	if err := iceberg.WriteManifestList(2, &buf, id, parent, &seq, 0, list); err != nil {
		return nil, nil, fmt.Errorf("write manifest list: %w", err)
	}
	name := provedName(t.uuid, fmt.Sprintf("snap-%d-%s", id, uuid.NewString()), ".avro", buf.Bytes())
	if err := c.blobs.Put(ctx, name, &buf); err != nil {
		return nil, nil, fmt.Errorf("write manifest list: %w", err)
	}
	if err := fault.Point("catalog.manifest_list.after_put"); err != nil {
		return nil, nil, err
	}
	return &snapshot{
		ID: id, Sequence: seq, Millis: max(time.Now().UnixMilli(), t.lastMillis), ManifestList: c.blobs.URI(name),
		SchemaID: schema.ID, Summary: t.summary(list),
	}, list, nil
}

func newSnapshotID() int64 {
	u := uuid.New()
	var n uint64
	for _, b := range u[:8] {
		n = n<<8 | uint64(b)
	}
	return int64(n>>1) | 1
}

// summary holds the totals from which other engines derive those of their next snapshot.
func (t *draft) summary(list []iceberg.ManifestFile) map[string]string {
	var files, deletes, rows int64
	for _, m := range list {
		if n := int64(m.AddedDataFiles() + m.ExistingDataFiles()); m.ManifestContent() == iceberg.ManifestContentData {
			files, rows = files+n, rows+m.AddedRows()+m.ExistingRows()
		} else {
			deletes += n
		}
	}
	size, added, addedRows := t.size, int64(0), int64(0)
	for _, f := range t.add {
		added += f.FileSizeBytes()
		addedRows += f.Count()
	}
	num := func(n int64) string { return strconv.FormatInt(n, 10) }
	return map[string]string{
		"operation":        t.op,
		"added-data-files": num(int64(len(t.add))), "added-records": num(addedRows), "added-files-size": num(added),
		"total-data-files": num(files), "total-delete-files": num(deletes), "total-records": num(rows),
		"total-files-size": num(size + added), "total-position-deletes": "0", "total-equality-deletes": "0",
	}
}

// writeManifests writes the entries of t into one manifest for each partition spec and content.
func (c *Catalog) writeManifests(ctx context.Context, t *draft, schema *iceberg.Schema, id int64, exist []iceberg.ManifestEntry) ([]iceberg.ManifestFile, error) {
	groups := map[iceberg.ManifestContent][]iceberg.ManifestEntry{}
	for _, e := range exist {
		snap, seq := e.SnapshotID(), e.SequenceNum()
		content := contentOf(e.DataFile())
		groups[content] = append(groups[content], iceberg.NewManifestEntry(iceberg.EntryStatusEXISTING, &snap, &seq, e.FileSequenceNum(), e.DataFile()))
	}
	for _, f := range t.add {
		groups[contentOf(f)] = append(groups[contentOf(f)], iceberg.NewManifestEntry(iceberg.EntryStatusADDED, &id, nil, nil, f))
	}
	var out []iceberg.ManifestFile
	for _, content := range []iceberg.ManifestContent{iceberg.ManifestContentData, iceberg.ManifestContentDeletes} {
		entries := groups[content]
		if len(entries) == 0 {
			continue
		}
		var buf bytes.Buffer
		w, err := iceberg.NewManifestWriter(2, &buf, *iceberg.UnpartitionedSpec, schema, id, iceberg.WithManifestWriterContent(content))
		if err != nil {
			return nil, fmt.Errorf("write manifest: %w", err)
		}
		for _, e := range entries {
			add := w.Add
			if e.Status() == iceberg.EntryStatusEXISTING {
				add = w.Existing
			}
			if err := add(e); err != nil {
				return nil, fmt.Errorf("write manifest: %w", err)
			}
		}
		if err := w.Close(); err != nil {
			return nil, fmt.Errorf("write manifest: %w", err)
		}
		name := provedName(t.uuid, uuid.NewString(), "-m0.avro", buf.Bytes())
		mf, err := w.ToManifestFile(c.blobs.URI(name), int64(buf.Len()))
		if err != nil {
			return nil, fmt.Errorf("write manifest: %w", err)
		}
		if err := c.blobs.Put(ctx, name, &buf); err != nil {
			return nil, fmt.Errorf("write manifest: %w", err)
		}
		if err := fault.Point("catalog.manifest.after_put"); err != nil {
			return nil, err
		}
		out = append(out, mf)
	}
	return out, nil
}

func contentOf(f iceberg.DataFile) iceberg.ManifestContent {
	if f.ContentType() == iceberg.EntryContentData {
		return iceberg.ManifestContentData
	}
	return iceberg.ManifestContentDeletes
}

// foldCount is how many data manifests of one size class are kept apart. More are rewritten into one,
// which is then of the next class: a table of n appends has O(log n) manifests, and each entry was
// rewritten O(log n) times.
const foldCount = 8

// fold picks the adopted manifests that are to be rewritten and returns their entries and the rest.
func (c *Catalog) fold(ctx context.Context, t *draft, list []iceberg.ManifestFile) ([]iceberg.ManifestEntry, []iceberg.ManifestFile, error) {
	exist := t.exist
	for {
		classes := map[int][]iceberg.ManifestFile{}
		for _, m := range list {
			if m.ManifestContent() == iceberg.ManifestContentData {
				n, class := m.AddedDataFiles()+m.ExistingDataFiles(), 0
				for ; n >= foldCount; n /= foldCount {
					class++
				}
				classes[class] = append(classes[class], m)
			}
		}
		class := -1
		for k, ms := range classes {
			if len(ms) >= foldCount {
				class = k
			}
		}
		if class < 0 {
			return exist, list, nil
		}
		for _, m := range classes[class] {
			for e, err := range m.Entries(fileIO{ctx, c}, true) {
				if err != nil {
					return nil, nil, ErrCorrupt.Errorf("read manifest %s: %w", m.FilePath(), err)
				}
				exist = append(exist, e)
			}
			list = slices.DeleteFunc(list, func(x iceberg.ManifestFile) bool { return x.FilePath() == m.FilePath() })
		}
	}
}

// manifests lists the manifests of s.
func (c *Catalog) manifests(ctx context.Context, s *state) ([]iceberg.ManifestFile, error) {
	snap := s.meta.snapshot()
	if snap == nil {
		return nil, nil
	}
	f, err := fileIO{ctx, c}.Open(snap.ManifestList)
	if err != nil {
		return nil, err
	}
	list, err := iceberg.ReadManifestList(f)
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, ErrCorrupt.Errorf("read manifest list %s: %w", snap.ManifestList, err)
	}
	return list, nil
}
