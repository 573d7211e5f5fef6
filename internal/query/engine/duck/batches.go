package duck

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/ipc"
	"github.com/apache/arrow-go/v18/arrow/memory"
	"golang.org/x/sys/unix"
)

// morselRows is what one thread takes at a time: 30 vectors measured best on 2 threads.
const morselRows = 30 * 2048

// Batches is a Source over batches in memory or in mapped files.
type Batches struct {
	schema  *arrow.Schema
	batches []arrow.RecordBatch
	mapped  [][]byte
}

// NewBatches makes a source of batches that share a schema. It keeps a reference to each.
func NewBatches(schema *arrow.Schema, batches ...arrow.RecordBatch) *Batches {
	for _, batch := range batches {
		batch.Retain()
	}
	return &Batches{schema: schema, batches: batches}
}

// ErrNoFiles is returned by OpenFiles for an empty list: there is no schema without a file.
var ErrNoFiles = errors.New("an Arrow table needs at least one file")

// OpenFiles maps Arrow IPC files of one schema. Uncompressed buffers are used in place.
func OpenFiles(paths []string) (*Batches, error) {
	if len(paths) == 0 {
		return nil, ErrNoFiles
	}
	s := &Batches{}
	for _, path := range paths {
		if err := s.add(path); err != nil {
			return nil, errors.Join(fmt.Errorf("arrow file %s: %w", path, err), s.Close())
		}
	}
	return s, nil
}

func (s *Batches) add(path string) (err error) {
	defer func() {
		if p := recover(); p != nil { // arrow-go panics on some damaged files
			err = fmt.Errorf("not a valid Arrow file: %v", p)
		}
	}()
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if info.Size() == 0 {
		return errors.New("the file is empty")
	}
	data, err := unix.Mmap(int(f.Fd()), 0, int(info.Size()), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return fmt.Errorf("map: %w", err)
	}
	s.mapped = append(s.mapped, data)
	r, err := openMapped(data)
	if err != nil {
		return err
	}
	if s.schema == nil {
		s.schema = r.Schema()
	} else if !s.schema.Equal(r.Schema()) {
		return fmt.Errorf("its schema differs from the first file's:\n%s\n%s", r.Schema(), s.schema)
	}
	for i := range r.NumRecords() {
		batch, err := r.RecordBatchAt(i)
		if err != nil {
			return fmt.Errorf("batch %d: %w", i, err)
		}
		s.batches = append(s.batches, batch)
	}
	return nil
}

// openMapped reads a file in place, unless it has dictionaries: arrow-go 18.8.0 panics on those in a
// mapped file, so such a file is copied into memory.
func openMapped(data []byte) (*ipc.FileReader, error) {
	r, err := ipc.NewFileReader(bytes.NewReader(data)) // reads no more than the schema
	if err != nil {
		return nil, err
	}
	for _, field := range r.Schema().Fields() {
		if hasDictionary(field.Type) {
			return r, nil
		}
	}
	return ipc.NewMappedFileReader(data)
}

func hasDictionary(t arrow.DataType) bool {
	if t.ID() == arrow.DICTIONARY {
		return true
	}
	nested, ok := t.(arrow.NestedType)
	if !ok {
		return false
	}
	for _, field := range nested.Fields() {
		if hasDictionary(field.Type) {
			return true
		}
	}
	return false
}

// Close releases the batches and unmaps the files. No scan may be running.
func (s *Batches) Close() error {
	for _, batch := range s.batches {
		batch.Release()
	}
	var errs []error
	for _, data := range s.mapped {
		errs = append(errs, unix.Munmap(data))
	}
	s.batches, s.mapped = nil, nil
	return errors.Join(errs...)
}

// Schema implements Source. DuckDB has no 16-bit floats, so they are read as 32-bit ones.
func (s *Batches) Schema() *arrow.Schema {
	fields := s.schema.Fields()
	for i := range fields {
		if fields[i].Type.ID() == arrow.FLOAT16 {
			fields[i].Type = arrow.PrimitiveTypes.Float32
		}
	}
	return arrow.NewSchema(fields, nil)
}

// Rows implements Source.
func (s *Batches) Rows() (n int64) {
	for _, batch := range s.batches {
		n += batch.NumRows()
	}
	return n
}

// Open implements Source.
func (s *Batches) Open(columns []int) (Reader, error) {
	schema := s.Schema()
	fields := make([]arrow.Field, len(columns))
	for i, c := range columns {
		fields[i] = schema.Field(c)
	}
	return &morsels{source: s, columns: columns, schema: arrow.NewSchema(fields, nil)}, nil
}

// morsels hands out slices of the batches, so that threads share a large batch.
type morsels struct {
	source  *Batches
	columns []int
	schema  *arrow.Schema

	mu     sync.Mutex
	batch  int
	offset int64
}

// Next implements Reader.
func (m *morsels) Next() (arrow.RecordBatch, error) {
	batch, start, end := m.take()
	if batch == nil {
		return nil, io.EOF
	}
	columns := make([]arrow.Array, len(m.columns))
	for i, c := range m.columns {
		columns[i] = array.NewSlice(batch.Column(c), start, end)
		if half, ok := columns[i].(*array.Float16); ok {
			columns[i] = widen(half)
			half.Release()
		}
		defer columns[i].Release()
	}
	return array.NewRecordBatch(m.schema, columns, end-start), nil
}

func widen(half *array.Float16) arrow.Array {
	b := array.NewFloat32Builder(memory.DefaultAllocator)
	defer b.Release()
	for i, v := range half.Values() {
		if half.IsNull(i) {
			b.AppendNull()
		} else {
			b.Append(v.Float32())
		}
	}
	return b.NewFloat32Array()
}

func (m *morsels) take() (batch arrow.RecordBatch, start, end int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	all := m.source.batches
	for m.batch < len(all) && m.offset >= all[m.batch].NumRows() {
		m.batch, m.offset = m.batch+1, 0
	}
	if m.batch >= len(all) {
		return nil, 0, 0
	}
	batch, start = all[m.batch], m.offset
	end = min(start+morselRows, batch.NumRows())
	m.offset = end
	return batch, start, end
}
