package datafile_test

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/parquet"
	"github.com/apache/arrow-go/v18/parquet/pqarrow"

	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/catalog/datafile"
)

// fileOf writes columns, with field ids from 1, in row groups of two rows.
func fileOf(t *testing.T, columns ...arrow.Array) []byte {
	t.Helper()
	fields := make([]arrow.Field, len(columns))
	for i, c := range columns {
		fields[i] = arrow.Field{
			Name: fmt.Sprint("c", i+1), Type: c.DataType(), Nullable: true,
			Metadata: arrow.MetadataFrom(map[string]string{"PARQUET:field_id": fmt.Sprint(i + 1)}),
		}
	}
	rec := array.NewRecordBatch(arrow.NewSchema(fields, nil), columns, int64(columns[0].Len()))
	var buf bytes.Buffer
	w, err := pqarrow.NewFileWriter(rec.Schema(), &buf, parquet.NewWriterProperties(parquet.WithMaxRowGroupLength(2)), pqarrow.NewArrowWriterProperties())
	if err != nil {
		t.Fatal(err)
	}
	for i := int64(0); i < rec.NumRows(); i += 2 {
		if err := w.Write(rec.NewSlice(i, min(i+2, rec.NumRows()))); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func selected(t *testing.T, file []byte, needs ...datafile.Need) datafile.Selection {
	t.Helper()
	footer, err := datafile.Footer(bytes.NewReader(file))
	if err != nil {
		t.Fatal(err)
	}
	s, err := datafile.Select(footer, int64(len(file)), needs)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func where(id int, one ...datafile.Comparison) datafile.Need {
	return datafile.Need{IDs: []int{id}, Where: []datafile.Condition{{ID: id, Any: one}}}
}

// TestSelectKeepsWhatMatches compares which row groups stay with which have a row that matches, for every comparison
// with each value and its neighbors. Where statistics tell all, they are the same.
func TestSelectKeepsWhatMatches(t *testing.T) {
	t.Parallel()
	t.Run("int", func(t *testing.T) {
		t.Parallel()
		for _, dt := range []arrow.DataType{arrow.PrimitiveTypes.Int64, arrow.FixedWidthTypes.Timestamp_us, arrow.FixedWidthTypes.Time64us} {
			compare(t, fromJSON(t, arrow.PrimitiveTypes.Int64, `[1, 3, 3, null, null, null, -7, 12, 4, 4]`), dt,
				[]int64{-8, -7, -6, 0, 1, 2, 3, 4, 5, 11, 12, 13}, func(op datafile.Op, v int64) datafile.Comparison { return datafile.Comparison{Op: op, Int: &v} })
		}
	})
	t.Run("float", func(t *testing.T) {
		t.Parallel()
		values := fromJSON(t, arrow.PrimitiveTypes.Float64, `[1, 3, 3, null, -7, 12.5]`)
		file := fileOf(t, values)
		for op, want := range map[datafile.Op][]int{datafile.Equal: {}, datafile.Less: {0, 1, 2}, datafile.LessEqual: {0, 1, 2}, datafile.Greater: {0, 1, 2}, datafile.GreaterEqual: {0, 1, 2}} {
			v := 13.0 // NaN would be greater, and statistics leave it out
			if got := selected(t, file, where(1, datafile.Comparison{Op: op, Float: &v})).Groups; !slices.Equal(got, want) {
				t.Errorf("%s %v: groups %v, want %v", op, v, got, want)
			}
		}
	})
	t.Run("text", func(t *testing.T) {
		t.Parallel()
		long := strings.Repeat("x", 5000) // the writer keeps no statistics of it
		file := fileOf(t, fromJSON(t, arrow.BinaryTypes.String, `["b", "é", "m", null, "y", "`+long+`"]`))
		for value, want := range map[string][]int{"a": {2}, "b": {0, 2}, "m": {0, 1, 2}, "n": {0, 2}, "z": {0, 2}, "é": {0, 2}, "ü": {2}} {
			if got := selected(t, file, where(1, datafile.Comparison{Op: datafile.Equal, Text: &value})).Groups; !slices.Equal(got, want) {
				t.Errorf("= %q: groups %v, want %v", value, got, want)
			}
		}
	})
}

// compare tries all comparisons of a column whose groups have no other values between their least and greatest that are tried.
func compare(t *testing.T, column arrow.Array, as arrow.DataType, tried []int64, of func(datafile.Op, int64) datafile.Comparison) {
	t.Helper()
	ints := column.(*array.Int64)
	file := fileOf(t, array.MakeFromData(array.NewData(as, ints.Len(), ints.Data().Buffers(), nil, ints.NullN(), 0)))
	for _, v := range tried {
		for op, holds := range map[datafile.Op]func(int) bool{
			datafile.Equal: func(c int) bool { return c == 0 }, datafile.Less: func(c int) bool { return c < 0 }, datafile.LessEqual: func(c int) bool { return c <= 0 },
			datafile.Greater: func(c int) bool { return c > 0 }, datafile.GreaterEqual: func(c int) bool { return c >= 0 },
		} {
			got := selected(t, file, where(1, of(op, v))).Groups
			for g := 0; g*2 < ints.Len(); g++ {
				match := false
				for i := g * 2; i < g*2+2; i++ {
					match = match || !ints.IsNull(i) && holds(cmp.Compare(ints.Value(i), v))
				}
				kept := slices.Contains(got, g)
				between := op == datafile.Equal && g == 3 || op == datafile.Equal && g == 0 // there may be others between
				if match && !kept || kept && !match && !between {
					t.Errorf("%s: %s %d: group %d kept: %t, matches: %t", as, op, v, g, kept, match)
				}
			}
		}
	}
}

func TestSelect(t *testing.T) {
	t.Parallel()
	ints := func(js string) arrow.Array { return fromJSON(t, arrow.PrimitiveTypes.Int64, js) }
	nested := fromJSON(t, arrow.StructOf(arrow.Field{Name: "a", Type: arrow.PrimitiveTypes.Int64, Nullable: true}, arrow.Field{Name: "b", Type: arrow.BinaryTypes.String, Nullable: true}),
		`[{"a": 1, "b": "x"}, null, {"a": 3, "b": "y"}, {"a": 4, "b": "z"}]`)
	file := fileOf(t, ints(`[1, 2, 3, 4]`), ints(`[40, 30, 20, 10]`), nested)
	one, four := int64(1), int64(4)
	first := datafile.Comparison{Op: datafile.Equal, Int: &one}
	last := datafile.Comparison{Op: datafile.GreaterEqual, Int: &four}
	for _, c := range []struct {
		what   string
		needs  []datafile.Need
		groups []int
		spans  int
	}{
		{"nothing", nil, []int{0, 1}, 0},
		{"no column", []datafile.Need{{}}, []int{0, 1}, 0},
		{"all", []datafile.Need{{All: true}}, []int{0, 1}, 8},
		{"a nested column", []datafile.Need{{IDs: []int{3}}}, []int{0, 1}, 4},
		{"a column that the file lacks", []datafile.Need{{IDs: []int{9}}}, []int{0, 1}, 0},
		{"a condition on a column that the file lacks", []datafile.Need{where(9, first)}, []int{0, 1}, 0},
		{"a condition on a nested column", []datafile.Need{where(3, first)}, []int{0, 1}, 4},
		{"a condition", []datafile.Need{where(1, first)}, []int{0}, 1},
		{"one or the other", []datafile.Need{where(1, first, last)}, []int{0, 1}, 2},
		{"two conditions", []datafile.Need{{IDs: []int{2}, Where: []datafile.Condition{{ID: 1, Any: []datafile.Comparison{first}}, {ID: 1, Any: []datafile.Comparison{last}}}}}, nil, 0},
		{"two scans", []datafile.Need{where(1, first), {IDs: []int{2}, Where: where(1, last).Where}}, []int{0, 1}, 4},
		{"of another kind", []datafile.Need{where(1, datafile.Comparison{Op: datafile.Equal, Text: new(string)})}, []int{0, 1}, 2},
		{"an unknown operator", []datafile.Need{where(1, datafile.Comparison{Op: "~", Int: &one})}, []int{0, 1}, 2},
	} {
		s := selected(t, file, c.needs...)
		if !slices.Equal(s.Groups, c.groups) || len(s.Spans) != c.spans {
			t.Errorf("%s: groups %v and %d spans, want %v and %d", c.what, s.Groups, len(s.Spans), c.groups, c.spans)
		}
	}
	footer, err := datafile.Footer(bytes.NewReader(file))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := datafile.Select(footer, 10, []datafile.Need{{All: true}}); errdef.CodeOf(err) != errdef.DataLoss {
		t.Errorf("pages outside of the file: %v", err)
	}
	text, err := datafile.FooterOf(footer, []int{1})
	if err != nil {
		t.Fatal(err)
	}
	some, err := datafile.Footer(bytes.NewReader(append(bytes.Clone(file[:len(file)-100]), text...)))
	if err != nil || some.NumRowGroups() != 1 || some.GetNumRows() != 2 || some.Schema.NumColumns() != 4 {
		t.Errorf("the footer of a row group: %v, %v", some, err)
	}
}
