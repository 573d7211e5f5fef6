package datafile_test

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/parquet"
	"github.com/apache/arrow-go/v18/parquet/pqarrow"

	"tarn.dev/tarn/internal/catalog/datafile"
)

// TestBoundsOfRowGroups writes row groups of two rows each: a bound holds for all of them, or there is none.
func TestBoundsOfRowGroups(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 5000) // longer than the writer keeps
	for _, c := range []struct {
		name         string
		dt           arrow.DataType
		js           string
		lower, upper string
	}{
		{"int64", arrow.PrimitiveTypes.Int64, `[5, 4, -1, 3, 900, null]`, "ffffffffffffffff", "8403000000000000"},
		{"nulls in one", arrow.PrimitiveTypes.Int32, `[5, 4, null, null]`, "04000000", "05000000"},
		{"text", arrow.BinaryTypes.String, `["m", "n", "a", "z"]`, "61", "7a"},
		{"greatest is too long", arrow.BinaryTypes.String, `["a", "b", "c", "` + long + `"]`, "", ""},
		{"both are too long", arrow.BinaryTypes.String, `["a", "b", "` + long + `", "` + long + `"]`, "", ""},
		{"all NaN in one", arrow.PrimitiveTypes.Float64, `[1, 2, "NaN", "NaN"]`, "", ""},
		{"decimal", &arrow.Decimal128Type{Precision: 20, Scale: 2}, `["1.00", "-1.28", "1.27", "-1.29"]`, "ff7f", "7f"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			rec := column("c", fromJSON(t, c.dt, c.js))
			var buf bytes.Buffer
			w, err := pqarrow.NewFileWriter(rec.Schema(), &buf, parquet.NewWriterProperties(parquet.WithMaxRowGroupLength(2)), pqarrow.NewArrowWriterProperties())
			if err != nil {
				t.Fatal(err)
			}
			for i := int64(0); i < rec.NumRows(); i += 2 {
				if err := w.Write(rec.NewSlice(i, i+2)); err != nil {
					t.Fatal(err)
				}
			}
			if err := w.Close(); err != nil {
				t.Fatal(err)
			}
			footer, err := datafile.Footer(bytes.NewReader(buf.Bytes()))
			if err != nil {
				t.Fatal(err)
			}
			s, err := datafile.StatsOf(footer)
			if err != nil {
				t.Fatal(err)
			}
			id := int(footer.Schema.Column(0).SchemaNode().FieldID())
			if lower, upper := fmt.Sprintf("%x", s.Lower[id]), fmt.Sprintf("%x", s.Upper[id]); lower != c.lower || upper != c.upper {
				t.Errorf("bounds %q and %q, want %q and %q", lower, upper, c.lower, c.upper)
			}
			if int64(len(s.Groups)) != rec.NumRows()/2 || s.Values[id] != rec.NumRows() || s.Nulls[id] != int64(rec.Column(0).NullN()) {
				t.Errorf("%d row groups, %d values, %d nulls", len(s.Groups), s.Values[id], s.Nulls[id])
			}
		})
	}
}
