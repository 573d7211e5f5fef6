package catalog_test

import (
	"context"
	"os"
	"strings"
	"testing"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/iceberg-go"
	icebergio "github.com/apache/iceberg-go/io"
	"github.com/apache/iceberg-go/table"
	"github.com/google/go-cmp/cmp"

	"tarn.dev/tarn/internal/catalog/datafile"
)

// TestStatisticsAreIcebergs compares what manifests say of a file with what iceberg-go finds in its footer.
func TestStatisticsAreIcebergs(t *testing.T) {
	t.Parallel()
	b := setup(t)
	decimal := func(precision, scale int32) arrow.DataType {
		return &arrow.Decimal128Type{Precision: precision, Scale: scale}
	}
	schema := schemaOf(
		"bool", arrow.FixedWidthTypes.Boolean, "int8", arrow.PrimitiveTypes.Int8, "int32", arrow.PrimitiveTypes.Int32, "int64", arrow.PrimitiveTypes.Int64,
		"float32", arrow.PrimitiveTypes.Float32, "float64", arrow.PrimitiveTypes.Float64, "small", decimal(5, 2), "large", decimal(38, 10), "zero", decimal(20, 0),
		"string", arrow.BinaryTypes.String, "long", arrow.BinaryTypes.LargeString, "last", arrow.BinaryTypes.String, "binary", arrow.BinaryTypes.Binary,
		"fixed", &arrow.FixedSizeBinaryType{ByteWidth: 3}, "date", arrow.FixedWidthTypes.Date32, "time", arrow.FixedWidthTypes.Time32s,
		"ts", &arrow.TimestampType{Unit: arrow.Millisecond}, "tz", &arrow.TimestampType{Unit: arrow.Nanosecond, TimeZone: "UTC"},
		"nulls", arrow.PrimitiveTypes.Int64, "list", arrow.ListOf(arrow.BinaryTypes.String),
		"struct", arrow.StructOf(arrow.Field{Name: "a", Type: arrow.PrimitiveTypes.Int32, Nullable: true}),
		"map", arrow.MapOf(arrow.BinaryTypes.String, arrow.PrimitiveTypes.Int64),
	)
	e, err := b.Create(context.Background(), "orders", b.write(t, nil, false, rec(t, schema, `[
		{"bool":false,"int8":-7,"int32":-1,"int64":-300,"float32":-0.5,"float64":-1e300,"small":"-1.28","large":"-0.0000000001","zero":"0",
		 "string":"a","long":"exactly sixteen!","last":"`+"\U0010ffff\ud7ff\ud7ff"+`","binary":"//////////////////////////8=","fixed":"AAEC",
		 "date":"1969-12-31","time":"00:00:01","ts":"1960-01-01 00:00:00.001","tz":"2024-01-01 00:00:00Z","list":["x",null],"struct":{"a":1},"map":[{"key":"k","value":1}]},
		{"bool":true,"int8":7,"int32":70000,"int64":1099511627776,"float32":0.5,"float64":1.5,"small":"1.28","large":"1234567890123456789012345678.0","zero":"-128",
		 "string":"zz","long":"größer als sechzehn Zeichen","last":"`+strings.Repeat("\U0010ffff", 15)+"\ud7ff"+` more","binary":"AA==","fixed":"////",
		 "date":"2024-02-29","time":"23:59:59","ts":"2024-01-01 00:00:00","tz":"2024-06-01 00:00:00Z"},
		{"zero":"128","long":null,"binary":"////////////////////AAAAAAA="}]`)), nil)
	if err != nil {
		t.Fatal(err)
	}
	meta := b.metadata(t, e)
	manifests, err := meta.CurrentSnapshot().Manifests(icebergio.LocalFS{})
	if err != nil {
		t.Fatal(err)
	}
	files := 0
	for _, m := range manifests {
		for entry, err := range m.Entries(icebergio.LocalFS{}, true) {
			if err != nil {
				t.Fatal(err)
			}
			files++
			got := entry.DataFile()
			src, err := os.Open(strings.TrimPrefix(got.FilePath(), "file://"))
			if err != nil {
				t.Fatal(err)
			}
			footer, err := datafile.Footer(src)
			if err != nil {
				t.Fatal(err)
			}
			want, err := table.DataFileFromMetadata(table.DataFileArgs{
				Schema: meta.CurrentSchema(), Spec: *iceberg.UnpartitionedSpec, Format: iceberg.ParquetFile, Metadata: footer,
				FilePath: got.FilePath(), FileSize: got.FileSizeBytes(), Content: iceberg.EntryContentData, FormatVersion: 2,
			})
			if err != nil {
				t.Fatal(err)
			}
			type stats struct {
				Sizes, Values, Nulls map[int]int64
				Lower, Upper         map[int][]byte
				Splits               []int64
				Rows                 int64
			}
			of := func(f iceberg.DataFile) stats {
				return stats{f.ColumnSizes(), f.ValueCounts(), f.NullValueCounts(), f.LowerBoundValues(), f.UpperBoundValues(), f.SplitOffsets(), f.Count()}
			}
			if diff := cmp.Diff(of(want), of(got)); diff != "" {
				t.Errorf("iceberg-go (-), manifest (+):\n%s", diff)
			}
			if len(got.LowerBoundValues()) != 18 {
				t.Errorf("%d columns have bounds", len(got.LowerBoundValues()))
			}
		}
	}
	if files != 1 {
		t.Errorf("%d files", files)
	}
}
