package datafile

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/parquet"
	"github.com/apache/arrow-go/v18/parquet/compress"
	"github.com/apache/arrow-go/v18/parquet/pqarrow"

	"tarn.dev/tarn/internal/catalog/dataver"
)

const (
	// fileBytes is where a file is cut.
	fileBytes = 64 << 20
	// groupRows and groupBytes bound a row group: the unit in which readers work in parallel and skip,
	// and what the writer holds in memory.
	groupRows  = 512 << 10
	groupBytes = 32 << 20
	// stepRows and stepBytes bound what is coerced, hashed and written at a time.
	stepRows  = 32 << 10
	stepBytes = 32 << 20
	// pageBytes is what a page may reach before its size is looked at: some readers (arrow-go) refuse
	// pages above 64 MiB.
	pageBytes = 4 << 20
)

// File is one Parquet file in the writer's directory.
type File struct {
	Name  string      `json:"name"`
	Rows  int64       `json:"rows"`
	Bytes int64       `json:"bytes"`
	Sum   dataver.Sum `json:"sum"`
}

// Result is everything a server needs to register what a writer left in its directory.
type Result struct {
	Schema []byte `json:"schema"` // Arrow IPC; as the rows came
	IDs    []ID   `json:"ids"`
	Next   int    `json:"next"`           // first field id that was not used
	Limit  int    `json:"limit"`          // of the layout
	UUID   string `json:"uuid,omitempty"` // of the layout
	Files  []File `json:"files"`
}

// Rows is the number of rows in all files.
func (r Result) Rows() (n int64) {
	for _, f := range r.Files {
		n += f.Rows
	}
	return n
}

// Sum is the data version of all files together.
func (r Result) Sum() (s dataver.Sum) {
	for _, f := range r.Files {
		s = s.Add(f.Sum)
	}
	return s
}

const (
	namePrefix = "rows1-"
	nameSuffix = ".parquet"
)

// FileName carries the sum of a file's rows in its name, so that it follows the file through every
// manifest of every branch and merge, and no other record of it can go missing.
func fileName(s dataver.Sum) string {
	var r [8]byte
	_, _ = rand.Read(r[:]) // never fails
	return namePrefix + s.Hex() + "-" + hex.EncodeToString(r[:]) + nameSuffix
}

// SumOf returns the sum that a file's name carries, given its rows; false for a file that another
// engine wrote.
func SumOf(name string, rows int64) (dataver.Sum, bool) {
	rest, ok := strings.CutPrefix(name, namePrefix)
	if !ok || !strings.HasSuffix(rest, nameSuffix) || len(rest) != 32+1+16+len(nameSuffix) || rest[32] != '-' {
		return dataver.Sum{}, false
	}
	s, err := dataver.Parse(fmt.Sprintf("%s%s:%d", dataver.Prefix, rest[:32], rows))
	return s, err == nil
}

// Writer writes batches of one schema into files. Close ends it; after an error only Close is allowed,
// which then removes what was written.
type Writer struct {
	dir    string
	schema *arrow.Schema // of the rows
	stored *arrow.Schema // of the files
	result Result
	sum    *dataver.Hasher
	before dataver.Sum // what sum was when the open file began
	out    *os.File
	count  *counter
	pq     *pqarrow.FileWriter
	group  int64 // rows in the open row group
	rows   int64 // rows in the open file
	err    error
}

// counter counts the bytes that reach the file.
type counter struct {
	w io.Writer
	n int64
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}

// NewWriter returns a Writer of files in dir, which must exist.
func NewWriter(dir string, schema *arrow.Schema, layout Layout) (*Writer, error) {
	if err := Check(schema); err != nil {
		return nil, err
	}
	have := arrow.NewSchema(nil, nil)
	if len(layout.Schema) > 0 {
		var err error
		if have, err = DecodeSchema(layout.Schema); err != nil {
			return nil, err
		}
	}
	w := &Writer{dir: dir}
	fields := schema.Fields()
	alloc := allocator{next: layout.First, limit: layout.Limit}
	for i, f := range fields {
		var hadType arrow.DataType
		var had *ID
		if at := have.FieldIndices(f.Name); len(at) > 0 {
			hadType, had = have.Field(at[0]).Type, find(layout.IDs, f.Name)
			if layout.Append && f.Type.ID() == arrow.NULL {
				f.Type = plain(hadType) // nulls of any type
				fields[i] = f
			}
			if _, ok := mergeType(hadType, f.Type); !ok && layout.Append {
				return nil, ErrMismatch.Errorf("%s.%s is %s, the new rows have %s", layout.Table, f.Name, hadType, f.Type).
					WithNext("cast the column, or replace the table")
			}
		}
		id, err := alloc.identify(f.Name, f.Name, f.Type, hadType, had)
		if err != nil {
			return nil, err
		}
		w.result.IDs = append(w.result.IDs, id)
	}
	w.result.Next, w.result.Limit, w.result.UUID = alloc.next, layout.Limit, layout.UUID
	meta := schema.Metadata()
	w.schema = arrow.NewSchema(fields, &meta)
	var err error
	if w.stored, err = Stored(w.schema, w.result.IDs); err != nil {
		return nil, err
	}
	if w.sum, err = dataver.NewHasher(w.schema); err != nil {
		return nil, err
	}
	w.result.Schema, err = EncodeSchema(w.schema)
	return w, err
}

// Write adds the rows of rec.
func (w *Writer) Write(ctx context.Context, rec arrow.RecordBatch) error {
	if w.err == nil {
		w.err = w.write(ctx, rec)
	}
	return w.err
}

func (w *Writer) write(ctx context.Context, rec arrow.RecordBatch) error {
	if int(rec.NumCols()) != w.schema.NumFields() {
		return ErrMismatch.Errorf("a batch has %d columns, expected %d", rec.NumCols(), w.schema.NumFields())
	}
	for start := int64(0); start < rec.NumRows(); {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		n := min(stepRows, rec.NumRows()-start)
		part := rec.NewSlice(start, start+n)
		if size := recordWeight(part); size > stepBytes {
			n = max(1, n*stepBytes/size)
			part = rec.NewSlice(start, start+n)
		}
		if err := w.step(ctx, part); err != nil {
			return err
		}
		start += n
	}
	return nil
}

func recordWeight(rec arrow.RecordBatch) (n int64) {
	for _, c := range rec.Columns() {
		n += weight(c)
	}
	return n
}

// weight is about the bytes of a's values, of its slice only.
func weight(a arrow.Array) (n int64) {
	switch t := a.(type) {
	case interface{ ValueBytes() []byte }:
		return int64(len(t.ValueBytes()))
	case interface{ ValueLen(int) int }:
		for i := range a.Len() {
			n += int64(t.ValueLen(i))
		}
		return n
	case *array.Struct:
		for i := range t.NumField() {
			n += weight(t.Field(i))
		}
		return n
	case array.ListLike:
		if a.Len() == 0 {
			return 0
		}
		from, _ := t.ValueOffsets(0)
		_, to := t.ValueOffsets(a.Len() - 1)
		if to < from { // views may lie in any order
			return weight(t.ListValues())
		}
		return weight(array.NewSlice(t.ListValues(), from, to))
	}
	return 8 * int64(a.Len())
}

func (w *Writer) step(ctx context.Context, rec arrow.RecordBatch) error {
	defer rec.Release()
	cols := make([]arrow.Array, rec.NumCols())
	typed := make([]arrow.Array, rec.NumCols())
	for i := range cols {
		f := w.schema.Field(i)
		if got := rec.ColumnName(i); got != f.Name {
			return ErrMismatch.Errorf("column %d of a batch is %s, expected %s", i+1, got, f.Name)
		}
		typed[i] = rec.Column(i)
		var err error
		if typed[i].DataType().ID() == arrow.NULL && f.Type.ID() != arrow.NULL {
			if typed[i], err = convert(ctx, f.Name, typed[i], f.Type); err != nil {
				return err
			}
		}
		if cols[i], err = convert(ctx, f.Name, typed[i], w.stored.Field(i).Type); err != nil {
			return err
		}
	}
	if w.pq == nil {
		if err := w.open(max(1, recordWeight(rec)/max(1, rec.NumRows()))); err != nil {
			return err
		}
	}
	if err := w.sum.Write(array.NewRecordBatch(w.schema, typed, rec.NumRows())); err != nil {
		return err
	}
	if err := w.pq.WriteBuffered(array.NewRecordBatch(w.stored, cols, rec.NumRows())); err != nil {
		return fmt.Errorf("write data file: %w", err)
	}
	w.rows += rec.NumRows()
	w.group += rec.NumRows()
	if w.group >= groupRows || w.pq.RowGroupTotalBytesWritten() >= groupBytes {
		w.group = 0
		if err := w.pq.NewBufferedRowGroupChecked(); err != nil {
			return fmt.Errorf("write data file: %w", err)
		}
	}
	if w.count.n+w.pq.RowGroupTotalCompressedBytes() >= fileBytes {
		return w.finish()
	}
	return nil
}

func (w *Writer) open(rowBytes int64) error {
	out, err := os.CreateTemp(w.dir, "open-*.parquet")
	if err != nil {
		return fmt.Errorf("create data file: %w", err)
	}
	w.out, w.count = out, &counter{w: out}
	props := parquet.NewWriterProperties(
		parquet.WithCompression(compress.Codecs.Zstd),
		parquet.WithCompressionLevel(1),
		parquet.WithMaxRowGroupLength(groupRows+stepRows), // cut by us, above
		parquet.WithBatchSize(min(max(pageBytes/rowBytes, 1), 1024)),
		parquet.WithCreatedBy("tarn"),
	)
	w.pq, err = pqarrow.NewFileWriter(w.stored, w.count, props, pqarrow.NewArrowWriterProperties())
	if err != nil {
		return fmt.Errorf("create data file: %w", err)
	}
	w.rows, w.group, w.before = 0, 0, w.sum.Sum()
	return nil
}

// finish closes the open file and gives it its name.
func (w *Writer) finish() error {
	if err := w.pq.Close(); err != nil {
		return fmt.Errorf("finish data file: %w", err)
	}
	w.pq = nil
	if err := w.out.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
		return fmt.Errorf("close data file: %w", err)
	}
	f := File{Rows: w.rows, Bytes: w.count.n, Sum: w.sum.Sum().Sub(w.before)}
	f.Name = fileName(f.Sum)
	if err := os.Rename(w.out.Name(), filepath.Join(w.dir, f.Name)); err != nil {
		return fmt.Errorf("name data file: %w", err)
	}
	w.out = nil
	w.result.Files = append(w.result.Files, f)
	return nil
}

// Close ends the last file and returns what to register.
func (w *Writer) Close() (Result, error) {
	if w.err == nil && w.pq != nil {
		w.err = w.finish()
	}
	if w.err == nil {
		return w.result, nil
	}
	errs := []error{w.err}
	if w.out != nil {
		_ = w.out.Close()
		errs = append(errs, os.Remove(w.out.Name()))
		w.out = nil
	}
	for _, f := range w.result.Files {
		errs = append(errs, os.Remove(filepath.Join(w.dir, f.Name)))
	}
	w.result.Files = nil
	return Result{}, errors.Join(errs...)
}
