package catalog_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/apache/arrow-go/v18/arrow"

	"tarn.dev/tarn/internal/blob/fsblob"
	"tarn.dev/tarn/internal/lake"
)

// TestRelocate moves the folder of a table. Others find it again when it was relocated, we do all the time, and merges of
// what was written before and after take it for one table.
func TestRelocate(t *testing.T) {
	t.Parallel()
	ctx, parent := context.Background(), t.TempDir()
	open := func(name string) *bench {
		blobs, err := fsblob.Open(filepath.Join(parent, name))
		if err != nil {
			t.Fatal(err)
		}
		return setupOn(t, blobs)
	}
	b := open("before")
	sc := schemaOf("id", arrow.PrimitiveTypes.Int64, "s", arrow.BinaryTypes.String)
	base, err := b.Create(ctx, "orders", b.write(t, nil, false, rec(t, sc, `[{"id":1,"s":"a"},{"id":2}]`)), nil)
	if err != nil {
		t.Fatal(err)
	}
	both, err := b.Append(ctx, "orders", base, b.write(t, &base, true, rec(t, sc, `[{"id":3,"s":"c"}]`)))
	if err != nil {
		t.Fatal(err)
	}
	empty, err := b.Create(ctx, "empty", b.write(t, nil, false, rec(t, sc, `[]`)), nil)
	if err != nil {
		t.Fatal(err)
	}
	if same, err := b.Relocate(ctx, "orders", both); err != nil || same.Location.Table != both.Location.Table {
		t.Errorf("a table that nobody moved: %v, %v", same, err)
	}
	if err := os.Rename(filepath.Join(parent, "before"), filepath.Join(parent, "after")); err != nil {
		t.Fatal(err)
	}
	b = open("after")
	for _, e := range []lake.Entry{both, empty} {
		moved, err := b.Relocate(ctx, "orders", e)
		if err != nil {
			t.Fatal(err)
		}
		if !moved.SameIdentity(&e) || moved.Location.Rows != e.Location.Rows || moved.Location.Table == e.Location.Table {
			t.Errorf("%+v became %+v", e, moved)
		}
		if err := b.Verify(ctx, moved, true); err != nil {
			t.Error(err)
		}
		if again, err := b.Relocate(ctx, "orders", moved); err != nil || again.Location.Table != moved.Location.Table {
			t.Errorf("relocated twice: %v, %v", again, err)
		}
		if e.Location.Rows == 0 {
			continue
		}
		if got := sumOf(t, b.readBy(t, "iceberg", moved)...).String(); got != e.Version {
			t.Errorf("pyiceberg read %s, the table is %s", got, e.Version)
		}
		longer, err := b.Append(ctx, "orders", moved, b.write(t, &moved, true, rec(t, sc, `[{"id":4}]`)))
		if err != nil {
			t.Fatal(err)
		}
		other, err := b.Append(ctx, "orders", base, b.write(t, &base, true, rec(t, sc, `[{"id":5}]`)))
		if err != nil {
			t.Fatal(err)
		}
		merged, err := b.Merge(ctx, "orders", base, longer, other)
		if err != nil || merged.Location.Rows != 5 {
			t.Errorf("merged are %d rows, %v", merged.Location.Rows, err)
		}
	}
}
