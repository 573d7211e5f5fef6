package catalog_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/memory"

	"tarn.dev/tarn/internal/catalog/datafile"
)

// flights is a batch of n rows and five columns.
func flights(n int) arrow.RecordBatch {
	rng := rand.New(rand.NewPCG(1, 2))
	sc := schemaOf("id", arrow.PrimitiveTypes.Int64, "delay", arrow.PrimitiveTypes.Int32, "distance", arrow.PrimitiveTypes.Float64,
		"origin", arrow.BinaryTypes.String, "at", arrow.FixedWidthTypes.Timestamp_us)
	b := array.NewRecordBuilder(memory.DefaultAllocator, sc)
	for i := range n {
		b.Field(0).(*array.Int64Builder).Append(int64(i))
		b.Field(1).(*array.Int32Builder).Append(int32(rng.IntN(600)))
		b.Field(2).(*array.Float64Builder).Append(float64(rng.IntN(3000)))
		b.Field(3).(*array.StringBuilder).Append(fmt.Sprintf("A%02d", rng.IntN(300)))
		b.Field(4).(*array.TimestampBuilder).Append(arrow.Timestamp(1e15 + int64(i)*1e6))
	}
	return b.NewRecordBatch()
}

func BenchmarkWriteRows(b *testing.B) {
	rec, ctx := flights(1<<20), context.Background()
	for b.Loop() {
		w, err := datafile.NewWriter(b.TempDir(), rec.Schema(), datafile.Layout{First: 1})
		if err != nil {
			b.Fatal(err)
		}
		if err := w.Write(ctx, rec); err != nil {
			b.Fatal(err)
		}
		if _, err := w.Close(); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(rec.NumRows())*float64(b.N)/b.Elapsed().Seconds()/1e6, "Mrows/s")
}

func BenchmarkAppend(b *testing.B) {
	x, rec := setup(b), flights(1000)
	e, err := x.Create(context.Background(), "t", x.write(b, nil, false, rec), nil)
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if e, err = x.Append(context.Background(), "t", e, x.write(b, &e, true, rec)); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(x.manifestCount(b, e)), "manifests")
}

func BenchmarkReplace(b *testing.B) {
	x, rec := setup(b), flights(1000)
	e, err := x.Create(context.Background(), "t", x.write(b, nil, false, rec), nil)
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if e, err = x.Replace(context.Background(), "t", &e, x.write(b, &e, false, rec)); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkMergeByKey merges two branches that each changed 1 % of a million rows.
func BenchmarkMergeByKey(b *testing.B) {
	x, ctx := setup(b), context.Background()
	base := x.write(b, nil, false, flights(1<<20))
	e, err := x.Create(ctx, "t", base, map[string]string{"tarn.key": `["id"]`})
	if err != nil {
		b.Fatal(err)
	}
	sc := schemaOf("id", arrow.PrimitiveTypes.Int64, "delay", arrow.PrimitiveTypes.Int32)
	change := func(from, delay int) arrow.RecordBatch {
		r := array.NewRecordBuilder(memory.DefaultAllocator, sc)
		for i := from; i < 1<<20; i += 100 {
			r.Field(0).(*array.Int64Builder).Append(int64(i))
			r.Field(1).(*array.Int32Builder).Append(int32(delay))
		}
		return r.NewRecordBatch()
	}
	source, err := x.MergeByKey(ctx, "t", e, x.write(b, &e, true, change(0, -1)), []string{"id"})
	if err != nil {
		b.Fatal(err)
	}
	target, err := x.MergeByKey(ctx, "t", e, x.write(b, &e, true, change(1, -2)), []string{"id"})
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := x.Merge(ctx, "t", e, source, target); err != nil {
			b.Fatal(err)
		}
	}
}
