package engine_test

import (
	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/memory"
)

var defaultAllocator = memory.DefaultAllocator

func emptyColumns(schema *arrow.Schema) []arrow.Array {
	b := array.NewRecordBuilder(defaultAllocator, schema)
	defer b.Release()
	return b.NewRecordBatch().Columns()
}
