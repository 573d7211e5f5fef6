package engine_test

import (
	"strings"
	"testing"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/memory"
	"github.com/google/go-cmp/cmp"
)

var defaultAllocator = memory.DefaultAllocator

func emptyColumns(schema *arrow.Schema) []arrow.Array {
	b := array.NewRecordBuilder(defaultAllocator, schema)
	defer b.Release()
	return b.NewRecordBatch().Columns()
}

func diffLines(t testing.TB, what, want, got string) {
	t.Helper()
	if diff := cmp.Diff(strings.Split(want, "\n"), strings.Split(got, "\n")); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}
