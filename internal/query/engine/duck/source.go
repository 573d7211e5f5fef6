package duck

// #include <stdlib.h>
// #include "shim.h"
import "C"

import (
	"fmt"
	"io"
	"runtime"
	"runtime/cgo"
	"runtime/debug"
	"unsafe"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/bitutil"
	"github.com/apache/arrow-go/v18/arrow/cdata"
	"github.com/apache/arrow-go/v18/arrow/memory"
)

// Source is a table that can be scanned any number of times, also concurrently.
type Source interface {
	Schema() *arrow.Schema
	// Rows is the number of rows, -1 if unknown.
	Rows() int64
	// Open starts a scan of the given columns, in this order.
	Open(columns []int) (Reader, error)
}

// Reader is one scan. Next is safe for concurrent use and returns io.EOF at the end; the caller
// releases the batches.
type Reader interface {
	Next() (arrow.RecordBatch, error)
}

// guard runs a callback's body. A Go panic must not unwind into C++, so it becomes an error.
func guard(message **C.char, body func() error) {
	defer func() {
		if p := recover(); p != nil {
			*message = C.CString(fmt.Sprintf("panic in a table source: %v\n%.400s", p, debug.Stack()))
		}
	}()
	if err := body(); err != nil {
		*message = C.CString(err.Error())
	}
}

//export duckGoBind
func duckGoBind(handle C.uintptr_t, name *C.char, empty *C.struct_ArrowArray, schema *C.struct_ArrowSchema, rows *C.int64_t, message **C.char) (source C.uintptr_t) {
	guard(message, func() error {
		all := cgo.Handle(handle).Value().(*sources)
		all.mu.Lock()
		s := all.byName[C.GoString(name)]
		all.mu.Unlock()
		if s == nil {
			return fmt.Errorf("arrow_batches: no table %q", C.GoString(name))
		}
		builder := array.NewRecordBuilder(memory.DefaultAllocator, s.Schema())
		defer builder.Release()
		batch := builder.NewRecordBatch()
		defer batch.Release()
		cdata.ExportArrowRecordBatch(batch, (*cdata.CArrowArray)(unsafe.Pointer(empty)), (*cdata.CArrowSchema)(unsafe.Pointer(schema)))
		*rows = C.int64_t(s.Rows())
		source = C.uintptr_t(cgo.NewHandle(s))
		return nil
	})
	return source
}

//export duckGoOpen
func duckGoOpen(source C.uintptr_t, columns *C.int64_t, n C.int64_t, threads *C.int64_t, message **C.char) (scan C.uintptr_t) {
	guard(message, func() error {
		wanted := make([]int, n)
		for i, c := range unsafe.Slice(columns, n) {
			wanted[i] = int(c)
		}
		r, err := cgo.Handle(source).Value().(Source).Open(wanted)
		if err != nil {
			return err
		}
		*threads = C.int64_t(runtime.NumCPU())
		scan = C.uintptr_t(cgo.NewHandle(r))
		return nil
	})
	return scan
}

//export duckGoNext
func duckGoNext(scan C.uintptr_t, out *C.struct_ArrowArray, message **C.char) (more C.int) {
	guard(message, func() error {
		batch, err := cgo.Handle(scan).Value().(Reader).Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		defer func() { batch.Release() }()
		batch = withoutStructOffsets(batch)
		cdata.ExportArrowRecordBatch(batch, (*cdata.CArrowArray)(unsafe.Pointer(out)), nil)
		more = 1
		return nil
	})
	return more
}

//export duckGoFree
func duckGoFree(handle C.uintptr_t) { cgo.Handle(handle).Delete() }

// withoutStructOffsets works around arrow-go 18.8.0, which exports a sliced struct with its offset and
// with children that are sliced already: a reader shifts twice and reads wrong values. The offset is
// moved into the children first. It takes over the reference to batch.
func withoutStructOffsets(batch arrow.RecordBatch) arrow.RecordBatch {
	columns, changed := make([]arrow.Array, batch.NumCols()), false
	for i, column := range batch.Columns() {
		columns[i] = column
		if data := moveStructOffset(column.Data()); data != column.Data() {
			columns[i], changed = array.MakeFromData(data), true
			defer columns[i].Release()
		}
	}
	if !changed {
		return batch
	}
	defer batch.Release()
	return array.NewRecordBatch(batch.Schema(), columns, batch.NumRows())
}

func moveStructOffset(data arrow.ArrayData) arrow.ArrayData {
	if len(data.Children()) == 0 {
		return data
	}
	offset := data.Offset()
	sliced := data.DataType().ID() == arrow.STRUCT && offset != 0
	children, changed := make([]arrow.ArrayData, len(data.Children())), sliced
	for i, child := range data.Children() {
		if sliced {
			child = array.NewSliceData(child, int64(offset), int64(offset+data.Len()))
		}
		children[i] = moveStructOffset(child)
		changed = changed || children[i] != data.Children()[i]
	}
	if !changed {
		return data
	}
	buffers := data.Buffers()
	if sliced {
		if buffers[0] != nil {
			validity := memory.NewResizableBuffer(memory.DefaultAllocator)
			validity.Resize(int(bitutil.BytesForBits(int64(data.Len()))))
			bitutil.CopyBitmap(buffers[0].Bytes(), offset, data.Len(), validity.Bytes(), 0)
			buffers = []*memory.Buffer{validity}
		}
		offset = 0
	}
	return array.NewData(data.DataType(), data.Len(), buffers, children, data.NullN(), offset)
}
