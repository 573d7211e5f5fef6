// Package catalog keeps tables: Apache Iceberg v2 metadata, manifests and Parquet files in a blob
// store, found through entries of the lake. docs/design/tables.md tells the whole story.
//
// Every operation writes new immutable blobs and returns a new entry; it moves no branch. The caller
// puts the entry into a tree inside lake.Update, and calls again when the head has moved: blobs of a
// lost attempt are garbage that no ref reaches. History, tags and expiry are the lake's, so each
// metadata file holds exactly one snapshot.
package catalog

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/google/uuid"
	"github.com/zeebo/blake3"

	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/blob"
	"tarn.dev/tarn/internal/catalog/datafile"
	"tarn.dev/tarn/internal/catalog/dataver"
	"tarn.dev/tarn/internal/lake"
	"tarn.dev/tarn/internal/meta"
)

// Errors of this package.
var (
	// ErrNotTable is returned for an entry that is no table.
	ErrNotTable = errdef.New(errdef.InvalidArgument, "catalog.not_a_table", "not a table")
	// ErrCorrupt is returned when a table's metadata is missing or not what was written.
	ErrCorrupt = errdef.New(errdef.DataLoss, "catalog.metadata_corrupt", "table metadata is damaged")
	// ErrRefused is returned by the gate through which files become part of a table.
	ErrRefused = errdef.New(errdef.InvalidArgument, "catalog.file_refused", "data file refused")
	// ErrMoved is returned when files were laid out for columns that the table no longer has.
	ErrMoved = errdef.New(errdef.Conflict, "catalog.schema_moved", "the table's columns have changed")
	// ErrKey is returned when a row key names no column, is null, or is not unique.
	ErrKey = errdef.New(errdef.InvalidArgument, "catalog.bad_key", "not a row key")
	// ErrForeign is returned where rows of files with delete files would have to be read.
	ErrForeign = errdef.New(errdef.NotImplemented, "catalog.delete_files", "table has delete files of another engine")
)

// Properties of an entry and of a table.
const (
	// KeyProperty of an entry declares the row key; read and write it with Key and EncodeKey.
	KeyProperty = "tarn.key"
	// schemaProperty of a table is the Arrow schema its writer had, base64 of Arrow IPC.
	schemaProperty = "tarn.arrow-schema"
	// generationProperty of a table changes whenever all its rows are replaced, so that a merge can
	// tell a replaced table from one that was changed, whatever was appended since.
	generationProperty = "tarn.generation"
)

// Catalog reads and writes tables. It is safe for concurrent use.
type Catalog struct {
	blobs   blob.Store
	rows    meta.Store
	ids     string // prefix of the meta keys of the field-id pools
	scratch string
	direct  bool // reads no copies of metadata that are kept on this host
}

// Open returns a catalog over blobs that keeps its counters in rows under prefix.
func Open(blobs blob.Store, rows meta.Store, prefix string) *Catalog {
	return &Catalog{blobs: blobs, rows: rows, ids: prefix + "fieldid/", scratch: os.TempDir()}
}

// WithScratch returns a catalog that keeps files which it rewrites in the directory dir for as long as
// an operation lasts, instead of in the system's directory for temporary files.
func (c *Catalog) WithScratch(dir string) *Catalog {
	d := *c
	d.scratch = dir
	return &d
}

// Written is what a datafile.Writer left in a directory. Operations copy the files into the store;
// the directory stays the caller's.
type Written struct {
	Dir string
	datafile.Result
}

// EncodeKey is the value of KeyProperty for a key of columns.
func EncodeKey(columns ...string) string {
	b, err := json.Marshal(columns)
	if err != nil || len(columns) == 0 { // strings always marshal
		return ""
	}
	return string(b)
}

// Key returns the columns of the row key that e declares, nil for none.
func Key(e lake.Entry) ([]string, error) {
	text := e.Properties[KeyProperty]
	if text == "" {
		return nil, nil
	}
	var key []string
	if err := json.Unmarshal([]byte(text), &key); err != nil || len(key) == 0 {
		return nil, ErrKey.Errorf("%s is %q, expected a JSON array of column names", KeyProperty, text)
	}
	return key, nil
}

// state is what an entry of a table means.
type state struct {
	meta   *metadata
	uuid   uuid.UUID
	schema *arrow.Schema // as declared, with the schema's own metadata
	ids    []datafile.ID
}

// load reads the table that e points at.
func (c *Catalog) load(ctx context.Context, e lake.Entry) (*state, error) {
	if e.Kind != lake.KindTable || e.Location.Table == "" {
		return nil, ErrNotTable.Errorf("the entry is a %s, not a table", e.Kind)
	}
	if IsLinked(e) {
		return nil, ErrLinked.Errorf("the table's rows are in files of somebody else")
	}
	if err := e.Readable(); err != nil {
		return nil, err
	}
	data, err := c.small(ctx, e.Location.Table)
	if err != nil {
		return nil, fmt.Errorf("read table metadata: %w", err)
	}
	m, err := parseMetadata(data)
	if err != nil {
		return nil, ErrCorrupt.Errorf("read table metadata %s: %w", e.Location.Table, err)
	}
	s := &state{meta: m, uuid: m.TableUUID, ids: idsOf(m.schema().Fields())}
	s.schema, err = arrowSchema(m)
	return s, err
}

// laidOut refuses files whose field ids come from another pool: they would name other columns here.
func (s *state) laidOut(name string, w Written) error {
	if w.UUID != s.uuid.String() {
		return ErrMoved.Errorf("%s was created or replaced by somebody else meanwhile", name).WithNext("write again")
	}
	return nil
}

// Schema returns the Arrow schema of a table as its writer declared it.
func (c *Catalog) Schema(ctx context.Context, e lake.Entry) (*arrow.Schema, error) {
	if IsLinked(e) {
		l, err := c.Linked(ctx, e)
		return l.Schema, err
	}
	s, err := c.load(ctx, e)
	if err != nil {
		return nil, err
	}
	return s.schema, nil
}

// Layout returns what a writer needs to know before it writes files for the table name, whose entry is
// prev; nil for a table that does not exist yet. With extend, columns must fit those that are there.
func (c *Catalog) Layout(ctx context.Context, name string, prev *lake.Entry, extend bool) (datafile.Layout, error) {
	l := datafile.Layout{First: 1, Append: extend, Table: name}
	if prev == nil || IsLinked(*prev) && !extend {
		return l, nil
	}
	if err := ours(name, *prev); err != nil {
		return l, err
	}
	s, err := c.load(ctx, *prev)
	if err != nil {
		return l, err
	}
	if l.Schema, err = datafile.EncodeSchema(s.schema); err != nil {
		return l, err
	}
	l.IDs, l.UUID = s.ids, s.uuid.String()
	l.First, l.Limit, err = c.reserve(ctx, s.uuid, s.meta.LastColumnID+1)
	return l, err
}

// Create makes a table of its own (a new uuid), with the rows of w. properties become those of the entry.
func (c *Catalog) Create(ctx context.Context, name string, w Written, properties map[string]string) (lake.Entry, error) {
	id, err := uuid.NewRandom()
	if err != nil {
		return lake.Entry{}, fmt.Errorf("create table %s: %w", name, err)
	}
	schema, err := datafile.DecodeSchema(w.Schema)
	if err != nil {
		return lake.Entry{}, err
	}
	t := &draft{name: name, uuid: id, schema: schema, ids: w.IDs, lastID: w.Next - 1, generation: uuid.NewString(), op: opAppend}
	if t.add, err = c.stage(ctx, t, w); err != nil {
		return lake.Entry{}, err
	}
	return c.commit(ctx, t, lake.Entry{Properties: properties})
}

// Replace swaps all rows and columns of a table for those of w and keeps its uuid; no old manifest is
// read. A nil prev, and a linked one, creates the table.
func (c *Catalog) Replace(ctx context.Context, name string, prev *lake.Entry, w Written) (lake.Entry, error) {
	if prev == nil || IsLinked(*prev) {
		return c.Create(ctx, name, w, nil)
	}
	s, err := c.load(ctx, *prev)
	if err != nil {
		return lake.Entry{}, err
	}
	if err := s.laidOut(name, w); err != nil {
		return lake.Entry{}, err
	}
	schema, err := datafile.DecodeSchema(w.Schema)
	if err != nil {
		return lake.Entry{}, err
	}
	t := draftOf(name, s)
	t.schema, t.ids, t.generation, t.op = schema, w.IDs, uuid.NewString(), opOverwrite
	t.lastID = max(t.lastID, w.Next-1)
	if t.add, err = c.stage(ctx, t, w); err != nil {
		return lake.Entry{}, err
	}
	c.release(ctx, s.uuid, w)
	return c.commit(ctx, t, *prev)
}

// Append adds the rows of w. Columns are united by name: new ones are null in old rows, missing ones in
// new rows.
func (c *Catalog) Append(ctx context.Context, name string, prev lake.Entry, w Written) (lake.Entry, error) {
	t, err := c.extend(ctx, name, prev, w)
	if err != nil {
		return lake.Entry{}, err
	}
	return c.commit(ctx, t, prev)
}

// extend drafts a table with the rows and columns of w added.
func (c *Catalog) extend(ctx context.Context, name string, prev lake.Entry, w Written) (*draft, error) {
	s, err := c.load(ctx, prev)
	if err != nil {
		return nil, err
	}
	if err := s.laidOut(name, w); err != nil {
		return nil, err
	}
	t := draftOf(name, s)
	if err := t.unite(w.Result); err != nil {
		return nil, err
	}
	if t.add, err = c.stage(ctx, t, w); err != nil {
		return nil, err
	}
	if t.keep, err = c.manifests(ctx, s); err != nil {
		return nil, err
	}
	if t.sum, t.rowsKnown = sumOfEntry(prev); !t.rowsKnown {
		t.sum = dataver.Sum{}
	}
	t.size = prev.Location.Size
	c.release(ctx, s.uuid, w)
	return t, nil
}

// AddColumns unites the table's columns with those of schema by name; the new ones are null in all rows.
func (c *Catalog) AddColumns(ctx context.Context, name string, prev lake.Entry, schema *arrow.Schema) (lake.Entry, error) {
	l, err := c.Layout(ctx, name, &prev, true)
	if err != nil {
		return lake.Entry{}, err
	}
	w, err := datafile.NewWriter(c.scratch, schema, l)
	if err != nil {
		return lake.Entry{}, err
	}
	res, err := w.Close()
	if err != nil {
		return lake.Entry{}, err
	}
	return c.Append(ctx, name, prev, Written{Dir: c.scratch, Result: res})
}

// sumOfEntry is the additive version of e; false when files of other engines made it one of files.
func sumOfEntry(e lake.Entry) (dataver.Sum, bool) {
	s, err := dataver.Parse(e.Version)
	return s, err == nil
}

// Fingerprint identifies the columns of a schema, in their order: names and types, without encodings
// (dictionaries, large and view variants) and nullability.
func Fingerprint(s *arrow.Schema) string {
	h := blake3.NewDeriveKey("tarn.dev 2026 table schema v1")
	for _, f := range datafile.Plain(s).Fields() {
		for _, part := range []string{f.Name, canonicalType(f.Type)} {
			_, _ = fmt.Fprintf(h, "%d:%s", len(part), part) // a hash never fails
		}
	}
	return "schema1:" + hex.EncodeToString(h.Sum(nil)[:16])
}

func canonicalType(dt arrow.DataType) string {
	switch t := dt.(type) {
	case *arrow.LargeStringType, *arrow.StringViewType:
		return arrow.BinaryTypes.String.String()
	case *arrow.LargeBinaryType, *arrow.BinaryViewType:
		return arrow.BinaryTypes.Binary.String()
	case *arrow.StructType:
		parts := make([]string, t.NumFields())
		for i, f := range t.Fields() {
			parts[i] = fmt.Sprintf("%q:%s", f.Name, canonicalType(f.Type))
		}
		return "struct<" + strings.Join(parts, ",") + ">"
	case *arrow.MapType:
		return "map<" + canonicalType(t.KeyType()) + "," + canonicalType(t.ItemType()) + ">"
	case *arrow.FixedSizeListType:
		return fmt.Sprintf("list<%s>[%d]", canonicalType(t.Elem()), t.Len())
	case arrow.ListLikeType:
		return "list<" + canonicalType(t.Elem()) + ">"
	}
	return dt.String()
}

// small returns the whole of a blob of metadata, which many operations read again. A missing one is data loss: an entry
// points at it.
func (c *Catalog) small(ctx context.Context, name string) (data []byte, err error) {
	if far, ok := c.blobs.(blob.FarStore); ok && !c.direct {
		if data, err = far.Small(ctx, name); err == nil && prove(name, data) == nil {
			return data, nil
		} // else the copy may be what is damaged
	}
	data, err = blob.ReadAll(ctx, c.blobs, name)
	if errdef.CodeOf(err) == errdef.NotFound {
		return nil, ErrCorrupt.Errorf("%s is missing: %w", name, err)
	}
	if err == nil {
		err = prove(name, data)
	}
	return data, err
}

func arrowSchema(m *metadata) (*arrow.Schema, error) {
	text, ok := m.Properties[schemaProperty]
	if !ok {
		return nil, ErrCorrupt.Errorf("property %s is missing", schemaProperty)
	}
	data, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		return nil, ErrCorrupt.Errorf("property %s: %w", schemaProperty, err)
	}
	s, err := datafile.DecodeSchema(data)
	if err != nil {
		return nil, err
	}
	names := make([]string, 0, s.NumFields())
	for _, f := range m.schema().Fields() {
		names = append(names, f.Name)
	}
	for i, f := range s.Fields() {
		if len(names) != s.NumFields() || !slices.Contains(names, f.Name) {
			return nil, ErrCorrupt.Errorf("property %s does not fit the table: column %d, %s", schemaProperty, i+1, f.Name)
		}
	}
	return s, nil
}
