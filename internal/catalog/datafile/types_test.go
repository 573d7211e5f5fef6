package datafile_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/memory"

	"tarn.dev/tarn/internal/catalog/datafile"
	"tarn.dev/tarn/internal/catalog/dataver"
)

func fromJSON(t testing.TB, dt arrow.DataType, js string) arrow.Array {
	t.Helper()
	a, _, err := array.FromJSON(memory.DefaultAllocator, dt, strings.NewReader(js))
	if err != nil {
		t.Fatalf("%s from %s: %v", dt, js, err)
	}
	return a
}

func column(name string, a arrow.Array) arrow.RecordBatch {
	s := arrow.NewSchema([]arrow.Field{{Name: name, Type: a.DataType(), Nullable: true}}, nil)
	return array.NewRecordBatch(s, []arrow.Array{a}, int64(a.Len()))
}

func writeAll(t testing.TB, layout datafile.Layout, recs ...arrow.RecordBatch) (string, datafile.Result, error) {
	t.Helper()
	dir := t.TempDir()
	w, err := datafile.NewWriter(dir, recs[0].Schema(), layout)
	if err != nil {
		return dir, datafile.Result{}, err
	}
	for _, r := range recs {
		if err := w.Write(context.Background(), r); err != nil {
			break // Close returns it
		}
	}
	res, err := w.Close()
	return dir, res, err
}

func readAll(t testing.TB, dir string, res datafile.Result, schema *arrow.Schema) []arrow.RecordBatch {
	t.Helper()
	var out []arrow.RecordBatch
	for _, f := range res.Files {
		src, err := os.Open(filepath.Join(dir, f.Name))
		if err != nil {
			t.Fatal(err)
		}
		for rec, err := range datafile.Read(context.Background(), src, schema, res.IDs) {
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, rec)
		}
		if err := src.Close(); err != nil {
			t.Fatal(err)
		}
	}
	return out
}

func sumOf(t testing.TB, recs ...arrow.RecordBatch) (s dataver.Sum) {
	t.Helper()
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

// typed is a column of each type that a table can have.
var typed = []struct {
	name string
	dt   arrow.DataType
	js   string
}{
	{"null", arrow.Null, `[null, null, null]`},
	{"bool", arrow.FixedWidthTypes.Boolean, `[true, null, false]`},
	{"int8", arrow.PrimitiveTypes.Int8, `[-128, null, 127]`},
	{"int16", arrow.PrimitiveTypes.Int16, `[-32768, null, 32767]`},
	{"int32", arrow.PrimitiveTypes.Int32, `[-2147483648, null, 7]`},
	{"int64", arrow.PrimitiveTypes.Int64, `[-9223372036854775808, null, 7]`},
	{"uint8", arrow.PrimitiveTypes.Uint8, `[0, null, 255]`},
	{"uint16", arrow.PrimitiveTypes.Uint16, `[0, null, 65535]`},
	{"uint32", arrow.PrimitiveTypes.Uint32, `[0, null, 4294967295]`},
	{"uint64", arrow.PrimitiveTypes.Uint64, `[0, null, 9223372036854775807]`},
	{"float16", arrow.FixedWidthTypes.Float16, `[1.5, null, -0.25]`},
	{"float32", arrow.PrimitiveTypes.Float32, `[1.1, null, -0.0]`},
	{"float64", arrow.PrimitiveTypes.Float64, `[1.1, null, 1e300]`},
	{"decimal32", &arrow.Decimal32Type{Precision: 7, Scale: 2}, `["123.45", null, "-1.00"]`},
	{"decimal64", &arrow.Decimal64Type{Precision: 16, Scale: 3}, `["123.456", null, "-1.000"]`},
	{"decimal128", &arrow.Decimal128Type{Precision: 38, Scale: 10}, `["1234567890123456789012345678.0123456789", null, "0"]`},
	{"decimal256", &arrow.Decimal256Type{Precision: 60, Scale: 5}, `["123456789012345678901.50000", null, "-2"]`},
	{"string", arrow.BinaryTypes.String, `["", null, "größe \u0000 x"]`},
	{"large_string", arrow.BinaryTypes.LargeString, `["a", null, "b"]`},
	{"string_view", arrow.BinaryTypes.StringView, `["a", null, "longer than twelve bytes"]`},
	{"binary", arrow.BinaryTypes.Binary, `["AAE=", null, ""]`},
	{"large_binary", arrow.BinaryTypes.LargeBinary, `["AAE=", null, ""]`},
	{"binary_view", arrow.BinaryTypes.BinaryView, `["AAE=", null, ""]`},
	{"fixed_binary", &arrow.FixedSizeBinaryType{ByteWidth: 3}, `["AAEC", null, "////"]`},
	{"date32", arrow.FixedWidthTypes.Date32, `["1969-12-31", null, "2024-02-29"]`},
	{"date64", arrow.FixedWidthTypes.Date64, `["1969-12-31", null, "2024-02-29"]`},
	{"time32s", arrow.FixedWidthTypes.Time32s, `["00:00:00", null, "23:59:59"]`},
	{"time32ms", arrow.FixedWidthTypes.Time32ms, `["00:00:00.001", null, "23:59:59.999"]`},
	{"time64us", arrow.FixedWidthTypes.Time64us, `["00:00:00.000001", null, "23:59:59.999999"]`},
	{"time64ns", arrow.FixedWidthTypes.Time64ns, `["00:00:00.000001000", null, "23:59:59"]`},
	{"timestamp_s", &arrow.TimestampType{Unit: arrow.Second}, `["1900-01-01 00:00:01", null, "2262-05-01 00:00:00"]`},
	{"timestamp_ms", &arrow.TimestampType{Unit: arrow.Millisecond}, `["1900-01-01 00:00:01.001", null, "2024-01-01 00:00:00"]`},
	{"timestamp_us", &arrow.TimestampType{Unit: arrow.Microsecond}, `["1900-01-01 00:00:01.000001", null, "2024-01-01 00:00:00"]`},
	{"timestamp_ns", &arrow.TimestampType{Unit: arrow.Nanosecond}, `["1900-01-01 00:00:01.000001000", null, "2024-01-01 00:00:00"]`},
	{"timestamp_tz", &arrow.TimestampType{Unit: arrow.Millisecond, TimeZone: "Europe/Berlin"}, `["2024-03-31 01:30:00Z", null, "2024-01-01 00:00:00Z"]`},
	{"duration_ms", arrow.FixedWidthTypes.Duration_ms, `[-1, null, 86400000]`},
	{"month_interval", arrow.FixedWidthTypes.MonthInterval, `[{"months":1}, null, {"months":-3}]`},
	{"day_time_interval", arrow.FixedWidthTypes.DayTimeInterval, `[{"days":1,"milliseconds":7}, null, {"days":-3,"milliseconds":-1}]`},
	{"month_day_nano", arrow.FixedWidthTypes.MonthDayNanoInterval, `[{"months":1,"days":2,"nanoseconds":3}, null, {"months":0,"days":0,"nanoseconds":-1}]`},
	{"list", arrow.ListOf(arrow.PrimitiveTypes.Int16), `[[1,null,3], null, []]`},
	{"large_list", arrow.LargeListOf(arrow.BinaryTypes.String), `[["a",null], null, []]`},
	{"fixed_list", arrow.FixedSizeListOf(2, arrow.PrimitiveTypes.Uint8), `[[1,2], null, [3,null]]`},
	{"list_of_list", arrow.ListOf(arrow.ListOf(arrow.BinaryTypes.String)), `[[["a"],null,[]], null, [["b",null]]]`},
	{
		"struct", arrow.StructOf(arrow.Field{Name: "a", Type: arrow.PrimitiveTypes.Uint32, Nullable: true}, arrow.Field{Name: "b", Type: arrow.ListOf(arrow.BinaryTypes.String), Nullable: true}),
		`[{"a":1,"b":["x"]}, null, {"a":null,"b":[]}]`,
	},
	{"map", arrow.MapOf(arrow.BinaryTypes.String, arrow.FixedWidthTypes.Date64), `[[{"key":"k","value":"2024-02-29"},{"key":"l","value":null}], null, []]`},
	{"dictionary", &arrow.DictionaryType{IndexType: arrow.PrimitiveTypes.Int8, ValueType: arrow.BinaryTypes.String}, `["a", null, "a"]`},
	{"run_end", arrow.RunEndEncodedOf(arrow.PrimitiveTypes.Int32, arrow.BinaryTypes.String), `["a", null, "a"]`},
}

func TestEveryTypeComesBack(t *testing.T) {
	t.Parallel()
	for _, c := range typed {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			a := fromJSON(t, c.dt, c.js)
			want := column(c.name, a)
			dir, res, err := writeAll(t, datafile.Layout{First: 1}, want)
			if err != nil {
				t.Fatal(err)
			}
			plain := datafile.Plain(want.Schema())
			got := readAll(t, dir, res, plain)
			if len(got) != 1 {
				t.Fatalf("%d batches", len(got))
			}
			// The text of the values must be that of plain arrays of the same type.
			if c.dt.ID() != arrow.DICTIONARY && c.dt.ID() != arrow.RUN_END_ENCODED && arrow.TypeEqual(plain.Field(0).Type, c.dt) {
				if !array.Equal(got[0].Column(0), a) {
					t.Errorf("read %s, wrote %s", got[0].Column(0), a)
				}
			}
			if g, w := sumOf(t, got...), sumOf(t, want); g != w || g != res.Sum() {
				t.Errorf("read %s, wrote %s, announced %s: %s", g, w, res.Sum(), got[0].Column(0))
			}
		})
	}
}

func TestEveryTypeComesBackFromSlices(t *testing.T) {
	t.Parallel()
	for _, c := range typed {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			a := fromJSON(t, c.dt, c.js)
			six, err := array.Concatenate([]arrow.Array{a, a, a}, memory.DefaultAllocator)
			if err != nil {
				t.Skipf("arrow-go cannot join arrays of %s: %v", c.dt, err)
			}
			want := column(c.name, six)
			dir, res, err := writeAll(t, datafile.Layout{First: 1}, want.NewSlice(2, 5), want.NewSlice(0, 0), want.NewSlice(7, 9))
			if err != nil {
				t.Fatal(err)
			}
			got := readAll(t, dir, res, datafile.Plain(want.Schema()))
			// rows 2,0,1 and 1,2 of the three
			if g, w := sumOf(t, got...), sumOf(t, want.NewSlice(2, 5), want.NewSlice(7, 9)); g != w || g != res.Sum() || g.Rows != 5 {
				t.Errorf("read %s, wrote %s, announced %s", g, w, res.Sum())
			}
		})
	}
}
