package dataver_test

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/memory"

	"tarn.dev/tarn/internal/catalog/dataver"
)

func sumOf(t testing.TB, recs ...arrow.RecordBatch) dataver.Sum {
	t.Helper()
	var s dataver.Sum
	for _, r := range recs {
		h, err := dataver.NewHasher(r.Schema())
		if err != nil {
			t.Fatal(err)
		}
		if err := h.Write(r); err != nil {
			t.Fatal(err)
		}
		s = s.Add(h.Sum())
	}
	return s
}

func batch(t testing.TB, cols ...any) arrow.RecordBatch {
	t.Helper()
	var fields []arrow.Field
	var arrs []arrow.Array
	for i := 0; i < len(cols); i += 2 {
		a := cols[i+1].(arrow.Array)
		fields = append(fields, arrow.Field{Name: cols[i].(string), Type: a.DataType(), Nullable: true})
		arrs = append(arrs, a)
	}
	return array.NewRecordBatch(arrow.NewSchema(fields, nil), arrs, int64(arrs[0].Len()))
}

func fromJSON(t testing.TB, dt arrow.DataType, js string) arrow.Array {
	t.Helper()
	a, _, err := array.FromJSON(memory.DefaultAllocator, dt, strings.NewReader(js))
	if err != nil {
		t.Fatalf("%s %s: %v", dt, js, err)
	}
	return a
}

func BenchmarkHash(b *testing.B) {
	const n = 1 << 20
	rng := rand.New(rand.NewPCG(1, 2))
	i64, f64 := array.NewInt64Builder(memory.DefaultAllocator), array.NewFloat64Builder(memory.DefaultAllocator)
	i32, str := array.NewInt32Builder(memory.DefaultAllocator), array.NewStringBuilder(memory.DefaultAllocator)
	ts := array.NewTimestampBuilder(memory.DefaultAllocator, arrow.FixedWidthTypes.Timestamp_us.(*arrow.TimestampType))
	for range n {
		i64.Append(rng.Int64())
		f64.Append(rng.Float64())
		i32.Append(rng.Int32())
		str.Append(fmt.Sprintf("airport-%d", rng.IntN(5000)))
		ts.Append(arrow.Timestamp(rng.Int64N(1 << 50)))
	}
	rec := batch(b, "id", i64.NewArray(), "delay", f64.NewArray(), "n", i32.NewArray(), "origin", str.NewArray(), "at", ts.NewArray())
	h, err := dataver.NewHasher(rec.Schema())
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(n)
	for b.Loop() {
		if err := h.Write(rec); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(n)*float64(b.N)/b.Elapsed().Seconds()/1e6, "Mrows/s")
}
