package engine

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/ipc"

	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/catalog/datafile"
	"tarn.dev/tarn/internal/query"
)

// BatchSink takes the rows of a query. Write must not keep the batch without retaining it. Exactly one
// of Close and Abort is called at the end; Abort leaves nothing behind that looks complete.
type BatchSink interface {
	Write(batch arrow.RecordBatch) error
	Close() (query.Output, error)
	Abort()
}

// openSinks returns also on error the sinks that are open.
func openSinks(sinks []query.Sink, schema *arrow.Schema, stdout io.Writer) ([]BatchSink, error) {
	var open []BatchSink
	for _, sink := range sinks {
		s, err := openSink(sink, schema, stdout)
		if err != nil {
			return open, err
		}
		open = append(open, s)
	}
	return open, nil
}

func openSink(sink query.Sink, schema *arrow.Schema, stdout io.Writer) (BatchSink, error) {
	switch {
	case sink.Kind == query.SinkStream:
		return newStream(schema, stdout, sink.Rows), nil
	case sink.Kind == query.SinkArrow, sink.Kind == query.SinkFile && sink.Format == "arrow":
		return newArrowFile(sink, schema)
	case sink.Kind == query.SinkTable && sink.Table != nil:
		w, err := datafile.NewWriter(sink.Path, schema, *sink.Table)
		if err != nil {
			return nil, err
		}
		return table{w}, nil
	}
	return nil, errdef.Newf(errdef.Internal, "query.bad_job", "there is no sink %q", sink.Kind)
}

// stream writes an Arrow IPC stream. Each batch is flushed: a reader sees the first rows at once. An
// aborted stream lacks its end mark.
type stream struct {
	count  *counter
	buffer *bufio.Writer
	w      *ipc.Writer
	most   int64 // rows; 0 is all
	rows   int64
}

func newStream(schema *arrow.Schema, to io.Writer, most int64) *stream {
	s := &stream{count: &counter{w: to}, most: most}
	s.buffer = bufio.NewWriterSize(s.count, 256<<10)
	s.w = ipc.NewWriter(s.buffer, ipc.WithSchema(schema))
	return s
}

func (s *stream) Write(batch arrow.RecordBatch) error {
	if s.most > 0 {
		n := min(s.most-s.rows, batch.NumRows())
		if n == 0 {
			return nil
		}
		s.rows += n
		batch = batch.NewSlice(0, n)
		defer batch.Release()
	}
	if err := s.w.Write(batch); err != nil {
		return fmt.Errorf("write stream: %w", err)
	}
	return s.buffer.Flush()
}

func (s *stream) Close() (query.Output, error) {
	if err := s.w.Close(); err != nil { // writes the schema of an empty result, too
		return query.Output{}, fmt.Errorf("write stream: %w", err)
	}
	if err := s.buffer.Flush(); err != nil {
		return query.Output{}, fmt.Errorf("write stream: %w", err)
	}
	return query.Output{Kind: query.SinkStream, Bytes: s.count.n}, nil
}

func (s *stream) Abort() {}

type counter struct {
	w io.Writer
	n int64
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}

// arrowFile writes an uncompressed Arrow IPC file, whose buffers a reader can map.
type arrowFile struct {
	sink   query.Sink
	file   *os.File
	buffer *bufio.Writer
	w      *ipc.FileWriter
	schema *arrow.Schema
	rows   int64
}

func newArrowFile(sink query.Sink, schema *arrow.Schema) (*arrowFile, error) {
	f, err := os.OpenFile(sink.Path, os.O_RDWR|os.O_TRUNC, 0)
	if err != nil {
		return nil, err
	}
	a := &arrowFile{sink: sink, file: f, buffer: bufio.NewWriterSize(f, 1<<20), schema: schema}
	if a.w, err = ipc.NewFileWriter(a.buffer, ipc.WithSchema(schema)); err != nil {
		a.Abort()
		return nil, fmt.Errorf("write %s: %w", sink.Path, err)
	}
	return a, nil
}

func (a *arrowFile) Write(batch arrow.RecordBatch) error {
	a.rows += batch.NumRows()
	if err := a.w.Write(batch); err != nil {
		return fmt.Errorf("write %s: %w", a.sink.Path, err)
	}
	return nil
}

func (a *arrowFile) Close() (query.Output, error) {
	if err := a.finish(); err != nil {
		a.Abort()
		return query.Output{}, fmt.Errorf("write %s: %w", a.sink.Path, err)
	}
	info, err := os.Stat(a.sink.Path)
	if err != nil {
		return query.Output{}, err
	}
	return query.Output{Kind: a.sink.Kind, Bytes: info.Size()}, nil
}

func (a *arrowFile) finish() error {
	if err := a.w.Close(); err != nil {
		return err
	}
	if err := a.buffer.Flush(); err != nil {
		return err
	}
	if a.sink.Sync {
		if err := a.file.Sync(); err != nil {
			return err
		}
	}
	return a.file.Close()
}

func (a *arrowFile) Abort() { a.file.Close() } // the caller made the file

// table writes the data files of a table.
type table struct{ w *datafile.Writer }

// Write needs no context: the process is what gets cancelled.
func (t table) Write(batch arrow.RecordBatch) error { return t.w.Write(context.Background(), batch) }

func (t table) Close() (query.Output, error) {
	result, err := t.w.Close()
	if err != nil {
		return query.Output{}, err
	}
	return query.Output{Kind: query.SinkTable, Table: &result}, nil
}

func (t table) Abort() { t.w.Close() } // leaves files that nobody registers; the folder is scratch

// countColumn adds up the column "count" of COPY's answer.
func countColumn(batch arrow.RecordBatch) (int64, error) {
	defer batch.Release()
	for i, field := range batch.Schema().Fields() {
		if field.Name != "count" && field.Name != "Count" {
			continue
		}
		var sum int64
		switch column := batch.Column(i).(type) {
		case *array.Int64:
			for _, n := range column.Int64Values() {
				sum += n
			}
			return sum, nil
		case *array.Uint64:
			for _, n := range column.Uint64Values() {
				sum += int64(n)
			}
			return sum, nil
		}
	}
	return 0, fmt.Errorf("COPY answered %s", batch.Schema())
}
