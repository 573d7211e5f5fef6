package datafile_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/memory"
	"github.com/google/go-cmp/cmp"

	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/catalog/datafile"
)

func TestLossyValuesAreNamed(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		dt   arrow.DataType
		js   string
		want string
	}{
		{
			"uint64", arrow.PrimitiveTypes.Uint64, `[1, null, 18446744073709551615]`,
			"column c (uint64): 18446744073709551615 cannot be held as int64 without loss",
		},
		{
			"nanoseconds", &arrow.TimestampType{Unit: arrow.Nanosecond}, `["2024-01-01 00:00:00", "2024-01-01 00:00:00.000000001"]`,
			"column c (timestamp[ns]): 2024-01-01T00:00:00.000000001 cannot be held as timestamp[us] without loss",
		},
		{
			"seconds", &arrow.TimestampType{Unit: arrow.Second}, `[9223372036854775]`,
			"column c (timestamp[s]): ",
		},
		{
			"time", arrow.FixedWidthTypes.Time64ns, `["00:00:00.000000001"]`,
			"column c (time64[ns]): 00:00:00.000000001 cannot be held as time64[us] without loss",
		},
		{
			"decimal", &arrow.Decimal256Type{Precision: 60, Scale: 0}, `["1", "1234567890123456789012345678901234567890"]`,
			"column c (decimal256(60, 0)): 1234567890123456789012345678901234567890 cannot be held as decimal(38, 0) without loss",
		},
		{
			"in a list", arrow.ListOf(arrow.PrimitiveTypes.Uint64), `[[1], [18446744073709551615]]`,
			"column c.element (uint64): 18446744073709551615 cannot be held as int64 without loss",
		},
		{"date", arrow.FixedWidthTypes.Date64, `[86400001]`, "column c (date64): "},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			dir, res, err := writeAll(t, datafile.Layout{First: 1}, column("c", fromJSON(t, c.dt, c.js)))
			if !errors.Is(err, datafile.ErrLossy) || !strings.HasPrefix(err.Error(), c.want) {
				t.Fatalf("got %v, expected %s", err, c.want)
			}
			if errdef.As(err).Details["column"] == nil || len(res.Files) > 0 {
				t.Errorf("details %v, files %v", errdef.As(err).Details, res.Files)
			}
			left, err := os.ReadDir(dir)
			if err != nil || len(left) > 0 {
				t.Errorf("left behind: %v, %v", left, err)
			}
		})
	}
}

func TestSchemasThatNoTableHas(t *testing.T) {
	t.Parallel()
	num := arrow.PrimitiveTypes.Int64
	field := func(name string, dt arrow.DataType) arrow.Field {
		return arrow.Field{Name: name, Type: dt, Nullable: true}
	}
	long := strings.Repeat("ä", 5000)
	for _, c := range []struct {
		name   string
		fields []arrow.Field
		want   string
	}{
		{"none", nil, "a table needs at least one column"},
		{"no name", []arrow.Field{field("a", num), field("", num)}, "column 2 has no name"},
		{"twice", []arrow.Field{field("a", num), field("a", num)}, `two columns are named "a"`},
		{"twice within", []arrow.Field{field("s", arrow.StructOf(field("x", num), field("x", num)))}, `two fields of s are named "x"`},
		{"union", []arrow.Field{field("u", arrow.SparseUnionOf([]arrow.Field{field("x", num)}, []arrow.UnionTypeCode{0}))}, "column u has type sparse_union"},
		{"empty struct", []arrow.Field{field("s", arrow.StructOf())}, "column s is a struct without fields"},
		{"long name", []arrow.Field{field(long, num)}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w, err := datafile.NewWriter(t.TempDir(), arrow.NewSchema(c.fields, nil), datafile.Layout{First: 1})
			switch {
			case c.want == "" && err != nil:
				t.Error(err)
			case c.want == "":
				if _, err := w.Close(); err != nil {
					t.Error(err)
				}
			case err == nil || !strings.HasPrefix(err.Error(), c.want) || errdef.CodeOf(err) != errdef.InvalidArgument:
				t.Errorf("got %v (%s), expected %s", err, errdef.CodeOf(err), c.want)
			}
		})
	}
}

func TestAppendMustFit(t *testing.T) {
	t.Parallel()
	_, res, err := writeAll(t, datafile.Layout{First: 1}, column("c", fromJSON(t, arrow.PrimitiveTypes.Int32, `[1]`)))
	if err != nil {
		t.Fatal(err)
	}
	layout := datafile.Layout{Schema: res.Schema, IDs: res.IDs, First: 100, Limit: 101, Append: true, Table: "orders"}
	for _, c := range []struct {
		name string
		dt   arrow.DataType
		js   string
		want string
		id   int
	}{
		{"wider", arrow.PrimitiveTypes.Int64, `[1]`, "", 1},
		{"narrower", arrow.PrimitiveTypes.Uint8, `[1]`, "", 1},
		{"nulls", arrow.Null, `[null]`, "", 1},
		{"text", arrow.BinaryTypes.String, `["x"]`, "orders.c is int32, the new rows have utf8", 0},
		{"float", arrow.PrimitiveTypes.Float64, `[1]`, "orders.c is int32, the new rows have float64", 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			_, res, err := writeAll(t, layout, column("c", fromJSON(t, c.dt, c.js)))
			if c.want != "" {
				if !errors.Is(err, datafile.ErrMismatch) || err.Error() != c.want {
					t.Errorf("got %v, expected %s", err, c.want)
				}
				return
			}
			if err != nil || res.IDs[0].ID != c.id {
				t.Errorf("ids %v, error %v", res.IDs, err)
			}
		})
	}
	anew := layout
	anew.Append = false // a replaced column of another type is another column
	_, res, err = writeAll(t, anew, column("c", fromJSON(t, arrow.BinaryTypes.String, `["x"]`)))
	if err != nil || res.IDs[0].ID != 100 {
		t.Errorf("replaced: %v, %v", res.IDs, err)
	}
	two := array.NewRecordBatch(arrow.NewSchema([]arrow.Field{{Name: "x", Type: arrow.Null}, {Name: "y", Type: arrow.Null}}, nil),
		[]arrow.Array{array.NewNull(1), array.NewNull(1)}, 1)
	if _, _, err = writeAll(t, anew, two); !errors.Is(err, datafile.ErrColumns) {
		t.Errorf("more columns than ids: %v", err)
	}
}

func TestResultTravels(t *testing.T) {
	t.Parallel()
	_, res, err := writeAll(t, datafile.Layout{First: 1}, column("c", fromJSON(t, arrow.ListOf(arrow.PrimitiveTypes.Int64), `[[1], null]`)))
	if err != nil {
		t.Fatal(err)
	}
	data, err := json.Marshal(res)
	if err != nil {
		t.Fatal(err)
	}
	var back datafile.Result
	if err := json.Unmarshal(data, &back); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(res, back); diff != "" {
		t.Error(diff)
	}
	if s, ok := datafile.SumOf(res.Files[0].Name, 2); !ok || s != res.Sum() {
		t.Errorf("the name %s gives %v", res.Files[0].Name, s)
	}
	for _, name := range []string{"", "x.parquet", "rows1-" + strings.Repeat("z", 32) + "-0123456789abcdef.parquet", strings.ToUpper(res.Files[0].Name)} {
		if s, ok := datafile.SumOf(name, 1); ok {
			t.Errorf("%q gives %v", name, s)
		}
	}
}

func TestNoRows(t *testing.T) {
	t.Parallel()
	_, res, err := writeAll(t, datafile.Layout{First: 1}, column("c", fromJSON(t, arrow.PrimitiveTypes.Int64, `[]`)))
	if err != nil || len(res.Files) != 0 || res.Rows() != 0 || res.Sum().String() != "rows1:00000000000000000000000000000000:0" {
		t.Errorf("%+v, %v", res, err)
	}
}

// TestFilesAreCut writes more than fits in one file, and one value that is large by itself.
func TestFilesAreCut(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("writes 200 MB")
	}
	b := array.NewLargeStringBuilder(memory.DefaultAllocator)
	noise := make([]byte, 64<<10)
	for i := range 3000 { // incompressible enough: a xorshift of bytes
		x := uint64(i)*0x9e3779b97f4a7c15 + 1
		for j := range noise {
			x ^= x << 13
			x ^= x >> 7
			x ^= x << 17
			noise[j] = byte(x)
		}
		b.Append(string(noise))
	}
	want := column("c", b.NewArray())
	dir, res, err := writeAll(t, datafile.Layout{First: 1}, want.NewSlice(0, 1500), want.NewSlice(1500, 3000))
	if err != nil {
		t.Fatal(err)
	}
	if len(res.Files) < 2 {
		t.Errorf("%d files", len(res.Files))
	}
	if got := sumOf(t, readAll(t, dir, res, datafile.Plain(want.Schema()))...); got != sumOf(t, want) || got != res.Sum() {
		t.Errorf("read %s, wrote %s", got, res.Sum())
	}
}

func TestDamagedFiles(t *testing.T) {
	t.Parallel()
	dir, res, err := writeAll(t, datafile.Layout{First: 1}, column("c", fromJSON(t, arrow.BinaryTypes.String, `["some", "text", null]`)))
	if err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(dir + "/" + res.Files[0].Name)
	if err != nil {
		t.Fatal(err)
	}
	schema := arrow.NewSchema([]arrow.Field{{Name: "c", Type: arrow.BinaryTypes.String}}, nil)
	read := func(data []byte) (rows int64, err error) {
		for rec, err := range datafile.Read(context.Background(), strings.NewReader(string(data)), schema, res.IDs) {
			if err != nil {
				return rows, err
			}
			rows += rec.NumRows()
		}
		return rows, nil
	}
	for n := range len(whole) {
		if _, err := read(whole[:n]); err == nil {
			t.Fatalf("the first %d of %d bytes are taken for a file", n, len(whole))
		}
	}
	for i := range whole { // any answer will do, as long as it is one
		bad := append([]byte(nil), whole...)
		bad[i] ^= 0x41
		_, _ = read(bad)
		if footer, err := datafile.Footer(bytes.NewReader(bad)); err == nil {
			_, _ = datafile.StatsOf(footer)
		}
	}
}
