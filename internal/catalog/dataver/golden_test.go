package dataver_test

import (
	"bufio"
	"bytes"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/google/go-cmp/cmp"

	"tarn.dev/tarn/internal/catalog/dataver"
)

var rewrite = flag.Bool("rewrite", false, "write testdata/golden.txt anew")

// vectors are one-column tables; the name of the column is c.
var vectors = []struct {
	name string
	dt   arrow.DataType
	js   string
}{
	{"empty", arrow.PrimitiveTypes.Int64, `[]`},
	{"null", arrow.PrimitiveTypes.Int64, `[null]`},
	{"null-type", arrow.Null, `[null]`},
	{"bool", arrow.FixedWidthTypes.Boolean, `[true, false, null]`},
	{"int8", arrow.PrimitiveTypes.Int8, `[-1, 0, 1]`},
	{"int64", arrow.PrimitiveTypes.Int64, `[-1, 0, 1]`},
	{"int64-limits", arrow.PrimitiveTypes.Int64, `[-9223372036854775808, 9223372036854775807]`},
	{"uint64-limit", arrow.PrimitiveTypes.Uint64, `[18446744073709551615]`},
	{"float32", arrow.PrimitiveTypes.Float32, `[1.5, -0.25]`},
	{"float64", arrow.PrimitiveTypes.Float64, `[1.5, -0.25]`},
	{"float64-zero", arrow.PrimitiveTypes.Float64, `[-0.0]`},
	{"decimal", &arrow.Decimal128Type{Precision: 20, Scale: 2}, `["1.50", "-1.50", "100.00", "0.00"]`},
	{"decimal-narrow", &arrow.Decimal32Type{Precision: 8, Scale: 3}, `["1.500", "-1.500", "100.000", "0.000"]`},
	{"decimal-wide", &arrow.Decimal256Type{Precision: 60, Scale: 5}, `["1.5", "-1.5", "100", "0"]`},
	{"string", arrow.BinaryTypes.String, `["", "a", "größe"]`},
	{"binary", arrow.BinaryTypes.Binary, `["", "YQ==", "Z3LDtsOfZQ=="]`},
	{"date", arrow.FixedWidthTypes.Date32, `["1969-12-31", "2024-02-29"]`},
	{"date64", arrow.FixedWidthTypes.Date64, `["1969-12-31", "2024-02-29"]`},
	{"time", arrow.FixedWidthTypes.Time32ms, `["23:59:59.999"]`},
	{"timestamp-s", &arrow.TimestampType{Unit: arrow.Second}, `["1969-12-31 23:59:59", "2024-02-29 01:02:03"]`},
	{"timestamp-ns", &arrow.TimestampType{Unit: arrow.Nanosecond}, `["1969-12-31 23:59:59", "2024-02-29 01:02:03"]`},
	{"timestamp-tz", &arrow.TimestampType{Unit: arrow.Second, TimeZone: "UTC"}, `["1969-12-31 23:59:59Z", "2024-02-29 01:02:03Z"]`},
	{"timestamp-berlin", &arrow.TimestampType{Unit: arrow.Microsecond, TimeZone: "Europe/Berlin"}, `["1969-12-31 23:59:59Z", "2024-02-29 01:02:03Z"]`},
	{"duration", arrow.FixedWidthTypes.Duration_ms, `[-1, 86400000]`},
	{"interval", arrow.FixedWidthTypes.MonthDayNanoInterval, `[{"months":-1,"days":2,"nanoseconds":3}]`},
	{"list", arrow.ListOf(arrow.PrimitiveTypes.Int32), `[[1,2], [2,1], [], [null], null]`},
	{"list-fixed", arrow.FixedSizeListOf(2, arrow.PrimitiveTypes.Int64), `[[1,2], [2,1]]`},
	{"list-of-two", arrow.ListOf(arrow.PrimitiveTypes.Int32), `[[1,2], [2,1]]`},
	{"list-empty", arrow.ListOf(arrow.PrimitiveTypes.Int32), `[[]]`},
	{"list-of-null", arrow.ListOf(arrow.PrimitiveTypes.Int32), `[[null]]`},
	{"map", arrow.MapOf(arrow.BinaryTypes.String, arrow.PrimitiveTypes.Int32), `[[{"key":"a","value":1},{"key":"b","value":null}], [], null]`},
	{"map-turned", arrow.MapOf(arrow.BinaryTypes.String, arrow.PrimitiveTypes.Int32), `[[{"key":"b","value":null},{"key":"a","value":1}], [], null]`},
	{
		"struct", arrow.StructOf(arrow.Field{Name: "x", Type: arrow.PrimitiveTypes.Int32, Nullable: true}, arrow.Field{Name: "y", Type: arrow.BinaryTypes.String, Nullable: true}),
		`[{"x":1,"y":"a"}, {"x":null,"y":null}, null]`,
	},
	{"struct-null", arrow.StructOf(arrow.Field{Name: "x", Type: arrow.PrimitiveTypes.Int32, Nullable: true}), `[{"x":null}]`},
	{"dictionary", &arrow.DictionaryType{IndexType: arrow.PrimitiveTypes.Int8, ValueType: arrow.BinaryTypes.String}, `["", "a", "größe"]`},
}

// same names vectors that must agree; all others must differ.
var same = [][]string{
	{"null", "null-type"},
	{"int8", "int64"},
	{"float32", "float64"},
	{"decimal", "decimal-narrow", "decimal-wide"},
	{"date", "date64"},
	{"timestamp-s", "timestamp-ns"},
	{"timestamp-tz", "timestamp-berlin"},
	{"list-fixed", "list-of-two"},
	{"map", "map-turned"},
	{"string", "dictionary"},
}

func TestGolden(t *testing.T) {
	t.Parallel()
	var got bytes.Buffer
	sums := map[string]dataver.Sum{}
	for _, v := range vectors {
		sums[v.name] = sumOf(t, batch(t, "c", fromJSON(t, v.dt, v.js)))
		fmt.Fprintf(&got, "%s\t%s\t%s\t%s\n", v.name, v.dt, v.js, sums[v.name])
	}
	if *rewrite {
		if err := os.WriteFile("testdata/golden.txt", got.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile("testdata/golden.txt")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got.String()); diff != "" {
		t.Errorf("the format has changed: that needs a new version (docs/formats/data-version.md)\n%s", diff)
	}
	group := map[string]string{}
	for _, names := range same {
		for _, n := range names {
			group[n] = names[0]
		}
	}
	for _, a := range vectors {
		for _, b := range vectors {
			equal := a.name == b.name || group[a.name] != "" && group[a.name] == group[b.name]
			if (sums[a.name] == sums[b.name]) != equal {
				t.Errorf("%s and %s: equal is %v, expected %v", a.name, b.name, !equal, equal)
			}
		}
	}
	for s := bufio.NewScanner(bytes.NewReader(want)); s.Scan(); {
		text := s.Text()[strings.LastIndexByte(s.Text(), '\t')+1:]
		if p, err := dataver.Parse(text); err != nil || p.String() != text {
			t.Errorf("%s comes back as %s, %v", text, p, err)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	t.Parallel()
	zeros := strings.Repeat("0", 32)
	for _, text := range []string{
		"", "rows1:", zeros, "rows2:" + zeros + ":0", "rows1:" + zeros, "rows1:" + zeros + ":", "rows1:" + zeros + ":-1",
		"rows1:" + zeros + ":01", "rows1:" + zeros + ":+1", "rows1:" + strings.Repeat("A", 32) + ":1", "rows1:" + zeros + "0:1",
		"rows1:" + zeros + ":99999999999999999999",
	} {
		if s, err := dataver.Parse(text); err == nil {
			t.Errorf("%q is taken for %s", text, s)
		}
	}
}
