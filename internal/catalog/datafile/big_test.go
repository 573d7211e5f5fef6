package datafile_test

import (
	"context"
	"os"
	"strings"
	"testing"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/memory"

	"tarn.dev/tarn/internal/catalog/datafile"
)

// TestTwoGiBOfStrings writes more than 32-bit offsets can address from one batch.
func TestTwoGiBOfStrings(t *testing.T) {
	if os.Getenv("TARN_TEST_BIG") == "" {
		t.Skip("needs 8 GiB of memory; set TARN_TEST_BIG")
	}
	b := array.NewLargeStringBuilder(memory.DefaultAllocator)
	long := strings.Repeat("0123456789abcdef", 64<<10) // 1 MiB
	const n = 2200
	for i := range n {
		b.Append(long[i:])
	}
	want := column("c", b.NewLargeStringArray())
	dir, res, err := writeAll(t, datafile.Layout{First: 1}, want)
	if err != nil {
		t.Fatal(err)
	}
	sum, schema := sumOf(t, want), arrow.NewSchema([]arrow.Field{{Name: "c", Type: arrow.BinaryTypes.LargeString}}, nil)
	if sum != res.Sum() || sum.Rows != n {
		t.Fatalf("announced %s, wrote %s", res.Sum(), sum)
	}
	for _, f := range res.Files {
		src, err := os.Open(dir + "/" + f.Name)
		if err != nil {
			t.Fatal(err)
		}
		for rec, err := range datafile.Read(context.Background(), src, schema, res.IDs) {
			if err != nil {
				t.Fatal(err)
			}
			sum = sum.Sub(sumOf(t, rec))
		}
		if err := src.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if sum.Rows != 0 || sum.Lo != 0 || sum.Hi != 0 {
		t.Errorf("left over: %s", sum)
	}
}
