package catalog_test

import (
	"context"
	"path/filepath"
	"strings"
	"testing"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/memory"

	"tarn.dev/tarn/internal/blob"
	"tarn.dev/tarn/internal/blob/fsblob"
	"tarn.dev/tarn/internal/catalog"
	"tarn.dev/tarn/internal/catalog/datafile"
	"tarn.dev/tarn/internal/lake"
	"tarn.dev/tarn/internal/meta/sqlitemeta"
)

// bench is a catalog over real stores in a directory of its own.
type bench struct {
	*catalog.Catalog
	blobs blob.Store
	dir   string
}

func setup(t testing.TB) *bench {
	t.Helper()
	dir := t.TempDir()
	blobs, err := fsblob.Open(filepath.Join(dir, "blobs"))
	if err != nil {
		t.Fatal(err)
	}
	rows, err := sqlitemeta.Open(filepath.Join(dir, "meta.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := rows.Close(); err != nil {
			t.Error(err)
		}
	})
	return &bench{Catalog: catalog.Open(blobs, rows, "p/x/catalog/").WithScratch(t.TempDir()), blobs: blobs, dir: dir}
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

func TestCreateAppendReplace(t *testing.T) {
	t.Parallel()
	b, ctx := setup(t), context.Background()
	sc := schemaOf("id", arrow.PrimitiveTypes.Int64, "name", arrow.BinaryTypes.String)
	one := rec(t, sc, `[{"id":1,"name":"a"},{"id":2,"name":null}]`)
	e, err := b.Create(ctx, "orders", b.write(t, nil, false, one), nil)
	if err != nil {
		t.Fatal(err)
	}
	two := rec(t, schemaOf("id", arrow.PrimitiveTypes.Int64, "extra", arrow.PrimitiveTypes.Float64), `[{"id":3,"extra":1.5}]`)
	e2, err := b.Append(ctx, "orders", e, b.write(t, &e, true, two))
	if err != nil {
		t.Fatal(err)
	}
	if e2.Location.Rows != 3 {
		t.Errorf("rows = %d", e2.Location.Rows)
	}
	e3, err := b.Replace(ctx, "orders", &e2, b.write(t, &e2, false, one))
	if err != nil {
		t.Fatal(err)
	}
	if !e3.SameIdentity(&e) {
		t.Errorf("the same rows have versions %s and %s", e3.Version, e.Version)
	}
	scan, err := b.Scan(ctx, e2)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%+v", scan)
}
