package catalog_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/memory"
	icebergio "github.com/apache/iceberg-go/io"
	"github.com/apache/iceberg-go/table"
	"github.com/google/go-cmp/cmp"

	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/blob"
	"tarn.dev/tarn/internal/blob/fsblob"
	"tarn.dev/tarn/internal/blob/memblob"
	"tarn.dev/tarn/internal/catalog"
	"tarn.dev/tarn/internal/catalog/datafile"
	"tarn.dev/tarn/internal/lake"
	"tarn.dev/tarn/internal/meta"
	"tarn.dev/tarn/internal/meta/sqlitemeta"
)

// bench is a catalog over stores of its own.
type bench struct {
	*catalog.Catalog
	blobs blob.Store
	meta  meta.Store
}

func setup(t testing.TB) *bench {
	t.Helper()
	blobs, err := fsblob.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return setupOn(t, blobs)
}

// inMemory is setup without files: for tests that make many tables.
func inMemory(t testing.TB) *bench {
	t.Helper()
	return setupOn(t, memblob.New())
}

func setupOn(t testing.TB, blobs blob.Store) *bench {
	t.Helper()
	rows, err := sqlitemeta.Open(filepath.Join(t.TempDir(), "meta.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := rows.Close(); err != nil {
			t.Error(err)
		}
	})
	return &bench{Catalog: catalog.Open(blobs, rows, "p/x/catalog/").WithScratch(t.TempDir()), blobs: blobs, meta: rows}
}

// rec builds a batch from a schema and JSON rows.
func rec(t testing.TB, schema *arrow.Schema, js string) arrow.RecordBatch {
	t.Helper()
	r, _, err := array.RecordFromJSON(memory.DefaultAllocator, schema, strings.NewReader(js))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func schemaOf(fields ...any) *arrow.Schema {
	var fs []arrow.Field
	for i := 0; i < len(fields); i += 2 {
		fs = append(fs, arrow.Field{Name: fields[i].(string), Type: fields[i+1].(arrow.DataType), Nullable: true})
	}
	return arrow.NewSchema(fs, nil)
}

func (b *bench) write(t testing.TB, prev *lake.Entry, extend bool, recs ...arrow.RecordBatch) catalog.Written {
	t.Helper()
	ctx := context.Background()
	l, err := b.Layout(ctx, "orders", prev, extend)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	w, err := datafile.NewWriter(dir, recs[0].Schema(), l)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range recs {
		if err := w.Write(ctx, r); err != nil {
			t.Fatal(err)
		}
	}
	res, err := w.Close()
	if err != nil {
		t.Fatal(err)
	}
	return catalog.Written{Dir: dir, Result: res}
}

// manifestCount reads the manifest list of e as any Iceberg reader would.
func (b *bench) manifestCount(t testing.TB, e lake.Entry) int {
	t.Helper()
	m := b.metadata(t, e)
	list, err := m.CurrentSnapshot().Manifests(icebergio.LocalFS{})
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}

func (b *bench) metadata(t testing.TB, e lake.Entry) table.Metadata {
	t.Helper()
	data, err := os.ReadFile(strings.TrimPrefix(b.blobs.URI(e.Location.Table), "file://"))
	if err != nil {
		t.Fatal(err)
	}
	m, err := table.ParseMetadataBytes(data)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestCreateAppendReplace(t *testing.T) {
	t.Parallel()
	b, ctx := setup(t), context.Background()
	one := rec(t, orders, `[{"id":1,"name":"a"},{"id":2,"name":null}]`)
	e, err := b.Create(ctx, "orders", b.write(t, nil, false, one), nil)
	if err != nil {
		t.Fatal(err)
	}
	e2 := b.append(t, e, schemaOf("id", arrow.PrimitiveTypes.Int64, "extra", arrow.PrimitiveTypes.Float64), `[{"id":3,"extra":1.5}]`)
	if diff := cmp.Diff([]string{`{"extra":1.5,"id":3}`, `{"id":1,"name":"a"}`, `{"id":2}`}, b.contents(t, e2)); diff != "" {
		t.Error(diff)
	}
	e3, err := b.Replace(ctx, "orders", &e2, b.write(t, &e2, false, one))
	if err != nil {
		t.Fatal(err)
	}
	if !e3.SameIdentity(&e) {
		t.Errorf("the same rows are %s %s and %s %s", e3.Version, e3.Schema, e.Version, e.Schema)
	}
	if e3.SameIdentity(&e2) {
		t.Error("other rows are the same")
	}
	m := b.metadata(t, e3)
	if len(m.Snapshots()) != 1 || m.Properties()["gc.enabled"] != "false" || m.CurrentSnapshot().SequenceNumber != 3 {
		t.Errorf("metadata: %+v", m)
	}
	b.contents(t, e) // old versions stay readable
}

func TestEmptyTables(t *testing.T) {
	t.Parallel()
	b, ctx := setup(t), context.Background()
	none := rec(t, orders, `[]`)
	e, err := b.Create(ctx, "orders", b.write(t, nil, false, none), nil)
	if err != nil {
		t.Fatal(err)
	}
	if got := b.contents(t, e); len(got) != 0 || e.Location.Rows != 0 {
		t.Errorf("%v, %+v", got, e)
	}
	e = b.append(t, e, orders, `[{"id":1}]`)
	if got := b.contents(t, e); len(got) != 1 {
		t.Errorf("%v", got)
	}
	e, err = b.Replace(ctx, "orders", &e, b.write(t, &e, false, none))
	if err != nil {
		t.Fatal(err)
	}
	if got := b.contents(t, e); len(got) != 0 {
		t.Errorf("%v", got)
	}
	wide, err := b.AddColumns(ctx, "orders", e, schemaOf("x", arrow.ListOf(arrow.PrimitiveTypes.Int8)))
	if err != nil {
		t.Fatal(err)
	}
	s, err := b.Schema(ctx, wide)
	if err != nil || s.NumFields() != 3 || wide.Version != e.Version || wide.Schema == e.Schema {
		t.Errorf("%v, %v: %s %s", s, err, wide.Version, wide.Schema)
	}
}

// TestNullColumnGetsAType appends text to a column that had only nulls, of no type.
func TestNullColumnGetsAType(t *testing.T) {
	t.Parallel()
	b, ctx := setup(t), context.Background()
	e, err := b.Create(ctx, "orders", b.write(t, nil, false, rec(t, schemaOf("id", arrow.PrimitiveTypes.Int64, "name", arrow.Null), `[{"id":1}]`)), nil)
	if err != nil {
		t.Fatal(err)
	}
	e = b.append(t, e, orders, `[{"id":2,"name":"b"}]`)
	e = b.append(t, e, schemaOf("id", arrow.PrimitiveTypes.Int64, "name", arrow.Null), `[{"id":3}]`)
	if diff := cmp.Diff([]string{`{"id":1}`, `{"id":2,"name":"b"}`, `{"id":3}`}, b.contents(t, e)); diff != "" {
		t.Error(diff)
	}
}

func TestTheGate(t *testing.T) {
	t.Parallel()
	b, ctx := setup(t), context.Background()
	w := b.write(t, nil, false, rec(t, orders, `[{"id":1}]`))
	for name, change := range map[string]func(w *catalog.Written){
		"another sum":      func(w *catalog.Written) { w.Files[0].Sum.Lo++ },
		"more rows":        func(w *catalog.Written) { w.Files[0].Rows++ },
		"a path":           func(w *catalog.Written) { w.Files[0].Name = "../" + w.Files[0].Name },
		"other ids":        func(w *catalog.Written) { w.IDs[0].ID, w.IDs[1].ID = 2, 1 },
		"a missing column": func(w *catalog.Written) { w.IDs = w.IDs[:1] },
	} {
		bad := w
		bad.Files, bad.IDs = slices.Clone(w.Files), slices.Clone(w.IDs)
		change(&bad)
		if e, err := b.Create(ctx, "orders", bad, nil); err == nil {
			t.Errorf("%s: accepted as %+v", name, e)
		}
	}
	if _, err := b.Create(ctx, "orders", w, nil); err != nil {
		t.Error(err)
	}
}

// TestMeanwhileAddedColumn appends rows laid out before somebody else added the same column.
func TestMeanwhileAddedColumn(t *testing.T) {
	t.Parallel()
	b := setup(t)
	e := b.create(t, `[{"id":1}]`)
	wide := rec(t, schemaOf("id", arrow.PrimitiveTypes.Int64, "x", arrow.PrimitiveTypes.Int64), `[{"id":2,"x":1}]`)
	late := b.write(t, &e, true, wide)
	moved, err := b.Append(context.Background(), "orders", e, b.write(t, &e, true, wide))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.Append(context.Background(), "orders", moved, late); !errors.Is(err, catalog.ErrMoved) || errdef.CodeOf(err) != errdef.Conflict {
		t.Errorf("got %v", err)
	}
}

// TestLaidOutForAnotherTable appends rows to a table of the same name that somebody else created.
func TestLaidOutForAnotherTable(t *testing.T) {
	t.Parallel()
	b, ctx := setup(t), context.Background()
	mine := b.write(t, nil, false, rec(t, schemaOf("id", arrow.PrimitiveTypes.Int64, "other", arrow.BinaryTypes.String), `[{"id":1}]`))
	theirs := b.create(t, `[{"id":1}]`) // whose column 2 is another one
	if _, err := b.Append(ctx, "orders", theirs, mine); !errors.Is(err, catalog.ErrMoved) {
		t.Errorf("append: %v", err)
	}
	if _, err := b.Replace(ctx, "orders", &theirs, mine); !errors.Is(err, catalog.ErrMoved) {
		t.Errorf("replace: %v", err)
	}
	if _, err := b.MergeByKey(ctx, "orders", theirs, mine, []string{"id"}); !errors.Is(err, catalog.ErrMoved) {
		t.Errorf("merge: %v", err)
	}
}

func TestMissingMetadata(t *testing.T) {
	t.Parallel()
	b := setup(t)
	e := b.create(t, `[{"id":1}]`)
	e.Location.Table = strings.Replace(e.Location.Table, "0001", "0002", 1)
	if _, err := b.Schema(context.Background(), e); !errdef.IsCorrupt(err) {
		t.Errorf("got %v", err)
	}
	if _, err := b.Schema(context.Background(), lake.Entry{Kind: lake.KindFile}); !errors.Is(err, catalog.ErrNotTable) {
		t.Errorf("got %v", err)
	}
}
