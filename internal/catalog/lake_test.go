package catalog_test

import (
	"context"
	"fmt"
	"sync"
	"testing"

	"github.com/apache/arrow-go/v18/arrow"

	"tarn.dev/tarn/internal/catalog"
	"tarn.dev/tarn/internal/lake"
	"tarn.dev/tarn/internal/lake/laketest"
)

var ordersKey = lake.TableKey("default", "orders")

// head is the entry of orders on main.
func head(t testing.TB, l *lake.Lake) lake.Entry {
	t.Helper()
	ctx := context.Background()
	c, err := l.Resolve(ctx, "main")
	if err != nil {
		t.Fatal(err)
	}
	e, ok, err := l.Tree(c.Tree).Get(ctx, ordersKey)
	if err != nil || !ok {
		t.Fatalf("orders on main: %v, %v", ok, err)
	}
	return e
}

// update is an append as a client makes it: rows are laid out and written for the head of some time,
// and added to whatever the head is when its turn has come.
func (b *bench) update(ctx context.Context, l *lake.Lake, info lake.CommitInfo, w catalog.Written) error {
	_, err := l.Update(ctx, "main", info, func(ctx context.Context, tx *lake.Tx) error {
		tree, err := tx.Tree(ctx)
		if err != nil {
			return err
		}
		prev, ok, err := tree.Get(ctx, ordersKey)
		if err != nil {
			return err
		}
		var e lake.Entry
		if ok {
			e, err = b.Append(ctx, "orders", prev, w)
		} else {
			e, err = b.Create(ctx, "orders", w, nil)
		}
		if err != nil {
			return err
		}
		tx.Put(ordersKey, e)
		return nil
	})
	return err
}

func TestConcurrentAppendsAllLand(t *testing.T) {
	t.Parallel()
	b := setup(t)
	l := laketest.OpenOn(t, b.blobs, b.meta, lake.Options{})
	ctx := context.Background()
	info := lake.CommitInfo{Author: "test", Message: "append"}
	if err := b.update(ctx, l, info, b.write(t, nil, false, rec(t, orders, `[{"id":-1}]`))); err != nil {
		t.Fatal(err)
	}
	start := head(t, l)
	const writers = 50
	written := make([]catalog.Written, writers)
	for i := range written { // all laid out for the same head
		written[i] = b.write(t, &start, true, rec(t, orders, fmt.Sprintf(`[{"id":%d,"name":"w"},{"id":%d}]`, i, 1000+i)))
	}
	var wg sync.WaitGroup
	errs := make([]error, writers)
	for i := range written {
		wg.Go(func() { errs[i] = b.update(ctx, l, info, written[i]) })
	}
	wg.Wait()
	for i, err := range errs {
		if err != nil {
			t.Errorf("writer %d: %v", i, err)
		}
	}
	e := head(t, l)
	if got := len(b.contents(t, e)); got != 1+2*writers {
		t.Errorf("%d rows, expected %d", got, 1+2*writers)
	}
	scan, err := b.Scan(ctx, e)
	if err != nil || len(scan.Files) != writers+1 {
		t.Errorf("%d files, %v", len(scan.Files), err)
	}
	if n := b.manifestCount(t, e); n > 3*8 {
		t.Errorf("%d manifests after %d appends", n, writers)
	}
}

func TestMergeBranches(t *testing.T) {
	t.Parallel()
	b := setup(t)
	l := laketest.OpenOn(t, b.blobs, b.meta, lake.Options{})
	ctx := context.Background()
	info := lake.CommitInfo{Author: "test", Message: "change"}
	put := func(branch string, f func(prev *lake.Entry) lake.Entry) lake.Commit {
		t.Helper()
		c, err := l.Update(ctx, branch, info, func(ctx context.Context, tx *lake.Tx) error {
			tree, err := tx.Tree(ctx)
			if err != nil {
				return err
			}
			prev, ok, err := tree.Get(ctx, ordersKey)
			if err != nil {
				return err
			}
			if !ok {
				tx.Put(ordersKey, f(nil))
			} else {
				tx.Put(ordersKey, f(&prev))
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	first := put("main", func(*lake.Entry) lake.Entry { return b.create(t, `[{"id":1,"name":"a"},{"id":2,"name":"b"}]`, "id") })
	if _, err := l.CreateBranch(ctx, "dev", first.ID, ""); err != nil {
		t.Fatal(err)
	}
	upsert := func(js string) func(*lake.Entry) lake.Entry {
		return func(prev *lake.Entry) lake.Entry { return b.upsert(t, *prev, orders, js) }
	}
	dev := put("dev", upsert(`[{"id":1,"name":"dev"}]`))
	put("main", upsert(`[{"id":2,"name":"main"}]`))
	opt := lake.MergeOptions{Resolvers: map[lake.Kind]lake.Resolver{lake.KindTable: catalog.Resolver{Catalog: b.Catalog}}}
	dry, _, err := l.Merge(ctx, dev.ID, "main", info, opt, nil, true)
	if err != nil || len(dry.Conflicts) > 0 {
		t.Fatalf("dry run: %+v, %v", dry.Conflicts, err)
	}
	if _, _, err := l.Merge(ctx, dev.ID, "main", info, opt, nil, false); err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(b.contents(t, head(t, l))); got != `[{"id":1,"name":"dev"} {"id":2,"name":"main"}]` {
		t.Error(got)
	}
	if e := dry.Changes[0].After; e.Version != head(t, l).Version {
		t.Errorf("the dry run has version %s, the merge %s", e.Version, head(t, l).Version)
	}
	// A branch that was merged goes on, and is merged again from the new base.
	dev = put("dev", upsert(`[{"id":3,"name":"more"}]`))
	if _, _, err := l.Merge(ctx, dev.ID, "main", info, opt, nil, false); err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(b.contents(t, head(t, l))); got != `[{"id":1,"name":"dev"} {"id":2,"name":"main"} {"id":3,"name":"more"}]` {
		t.Error(got)
	}
}

// TestFiltersFindRows asks pyiceberg for rows by values at the borders of the statistics that the
// registration took over from Parquet.
func TestFiltersFindRows(t *testing.T) {
	t.Parallel()
	b, ctx := setup(t), context.Background()
	sc := schemaOf("id", arrow.PrimitiveTypes.Int64, "ms", &arrow.TimestampType{Unit: arrow.Millisecond},
		"tz", &arrow.TimestampType{Unit: arrow.Second, TimeZone: "Europe/Berlin"}, "d", &arrow.Decimal128Type{Precision: 20, Scale: 2},
		"s", arrow.BinaryTypes.String, "f", arrow.PrimitiveTypes.Float64)
	e, err := b.Create(ctx, "orders", b.write(t, nil, false, rec(t, sc, `[
		{"id":1,"ms":"2024-01-01 00:00:00","tz":"2024-01-01 00:00:00Z","d":"-5.00","s":"a","f":-1.5},
		{"id":2,"ms":"2024-06-01 00:00:00","tz":"2024-06-01 00:00:00Z","d":"70000000000000.01","s":"zz","f":2.5}]`)), nil)
	if err != nil {
		t.Fatal(err)
	}
	e = b.append(t, e, sc, `[{"id":9}]`)
	for _, where := range []string{
		"ms == '2024-06-01T00:00:00'", "ms >= '2024-05-31T00:00:00'", "tz == '2024-06-01T00:00:00+00:00'", "d > 70000000000000.00",
		"s == 'zz'", "f > 2", "id == 2",
	} {
		rows := int64(0)
		for _, r := range b.readBy(t, "iceberg", e, where) {
			rows += r.NumRows()
		}
		if rows != 1 {
			t.Errorf("%s: %d rows", where, rows)
		}
	}
}
