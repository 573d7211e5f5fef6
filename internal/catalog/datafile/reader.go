package datafile

import (
	"context"
	"errors"
	"io"
	"iter"
	"strconv"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/memory"
	"github.com/apache/arrow-go/v18/parquet"
	"github.com/apache/arrow-go/v18/parquet/file"
	"github.com/apache/arrow-go/v18/parquet/metadata"
	"github.com/apache/arrow-go/v18/parquet/pqarrow"
)

// readBytes bounds a batch that is read: far below the 2 GiB that the offsets of one may span.
const readBytes = 64 << 20

// maxPage is the largest page that is read; a value must fit in one.
const maxPage = 1 << 30

// Source is an open data file.
type Source interface {
	io.ReaderAt
	io.Seeker
}

// decode calls into the Parquet decoder. It panics on some damaged files (a flipped bit in a page header
// is enough), and the bytes of one file must not end the process.
func decode(doing string, f func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = ErrCorrupt.Errorf("%s: %v", doing, p)
		}
	}()
	if err := f(); err != nil {
		return ErrCorrupt.Errorf("%s: %w", doing, err)
	}
	return nil
}

// Footer reads the metadata of a Parquet file.
func Footer(src Source) (m *metadata.FileMetaData, err error) {
	err = decode("read footer", func() error {
		pf, err := file.NewParquetReader(src)
		if err == nil {
			m = pf.MetaData()
		}
		return err
	})
	return m, err
}

// Read yields the rows of src as batches of schema, whose columns are found in the file by the field
// ids of ids; a column that the file lacks is null.
func Read(ctx context.Context, src Source, schema *arrow.Schema, ids []ID) iter.Seq2[arrow.RecordBatch, error] {
	return func(yield func(arrow.RecordBatch, error) bool) {
		err := read(ctx, src, schema, ids, func(rec arrow.RecordBatch) bool { return yield(rec, nil) })
		if err != nil {
			yield(nil, err)
		}
	}
}

func read(ctx context.Context, src Source, schema *arrow.Schema, ids []ID, yield func(arrow.RecordBatch) bool) error {
	var pf *file.Reader
	var fr *pqarrow.FileReader
	err := decode("read footer", func() (err error) {
		props := parquet.NewReaderProperties(memory.DefaultAllocator)
		props.MaxCompressedPageSize, props.MaxUncompressedPageSize = maxPage, maxPage
		if pf, err = file.NewParquetReader(src, file.WithReadProps(props)); err != nil {
			return err
		}
		fr, err = pqarrow.NewFileReader(pf, pqarrow.ArrowReadProperties{BatchSize: batchRows(pf.MetaData())}, memory.DefaultAllocator)
		return err
	})
	if err != nil {
		return err
	}
	byID := map[int]*pqarrow.SchemaField{}
	for i := range fr.Manifest.Fields {
		f := &fr.Manifest.Fields[i]
		if id, err := strconv.Atoi(metaValue(f.Field.Metadata, fieldIDKey)); err == nil {
			byID[id] = f
		}
	}
	var leaves []int
	at := map[string]int{} // column of schema -> column of what is read
	seen := map[int]int{}  // position in the file -> column of what is read
	for i := range fr.Manifest.Fields {
		for _, f := range schema.Fields() {
			if id := find(ids, f.Name); id != nil && byID[id.ID] == &fr.Manifest.Fields[i] {
				if _, ok := seen[i]; !ok {
					seen[i] = len(seen)
					leaves = appendLeaves(leaves, &fr.Manifest.Fields[i])
				}
				at[f.Name] = seen[i]
			}
		}
	}
	emit := func(cols []arrow.Array, rows int64) (bool, error) {
		out := make([]arrow.Array, schema.NumFields())
		for i, f := range schema.Fields() {
			j, ok := at[f.Name]
			if !ok {
				out[i] = array.MakeArrayOfNull(memory.DefaultAllocator, f.Type, int(rows))
				continue
			}
			var err error
			if out[i], err = convert(ctx, f.Name, cols[j], f.Type); err != nil {
				return false, err
			}
		}
		return yield(array.NewRecordBatch(schema, out, rows)), nil
	}
	if len(leaves) == 0 {
		const step = 64 << 10
		for left := pf.NumRows(); left > 0; left -= step {
			if more, err := emit(nil, min(left, step)); err != nil || !more {
				return err
			}
		}
		return nil
	}
	var rr pqarrow.RecordReader
	err = decode("read data file", func() (err error) {
		rr, err = fr.GetRecordReader(ctx, leaves, nil)
		return err
	})
	if err != nil {
		return err
	}
	for {
		var rec arrow.RecordBatch
		err := decode("read data file", func() error {
			if rr.Next() {
				rec = rr.RecordBatch()
				return nil
			}
			if err := rr.Err(); !errors.Is(err, io.EOF) {
				return err
			}
			return nil
		})
		if err != nil {
			if cause := context.Cause(ctx); cause != nil {
				return cause
			}
			return err
		}
		if rec == nil {
			return nil
		}
		if more, err := emit(rec.Columns(), rec.NumRows()); err != nil || !more {
			return err
		}
	}
}

func metaValue(m arrow.Metadata, key string) string {
	v, _ := m.GetValue(key)
	return v
}

func appendLeaves(to []int, f *pqarrow.SchemaField) []int {
	if f.IsLeaf() {
		return append(to, f.ColIndex)
	}
	for i := range f.Children {
		to = appendLeaves(to, &f.Children[i])
	}
	return to
}

func batchRows(m *metadata.FileMetaData) int64 {
	var bytes int64
	for i := range m.NumRowGroups() {
		bytes += m.RowGroup(i).TotalByteSize()
	}
	const most = 64 << 10
	if bytes == 0 {
		return most
	}
	return max(1, min(most, readBytes*m.GetNumRows()/bytes))
}
