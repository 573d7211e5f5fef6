package flow

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/apache/arrow-go/v18/arrow/ipc"

	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/catalog/datafile"
	"tarn.dev/tarn/internal/flow/memo"
)

// ErrRows is a client's rows that cannot be read.
var ErrRows = errdef.New(errdef.InvalidArgument, "table.rows", "not an Arrow IPC stream")

// WriteRows writes the rows of an Arrow IPC stream to a table, as one commit. The stream is kept on
// scratch until then: it cannot be read twice, and the table may have to be laid out again.
func (f *Flow) WriteRows(ctx context.Context, w TableWrite, in io.Reader) (*TableWritten, error) {
	if err := w.check(); err != nil {
		return nil, err
	}
	if _, err := f.writable(ctx, w); err != nil { // before the bytes travel
		return nil, err
	}
	if w.Info.Message == "" {
		w.Info.Message = "Write " + w.Table
	}
	dir, err := f.tempDir("tables", "rows-*")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "rows.arrow")
	if err := receiveRows(in, path); err != nil {
		return nil, err
	}
	return f.writeTableRows(ctx, w, func(ctx context.Context, dir string, layout datafile.Layout) (datafile.Result, error) {
		written, err := writeFiles(ctx, dir, layout, []string{path})
		return written.Result, err
	}, func() memo.Provenance {
		return memo.Provenance{Kind: memo.ByWrite, Author: w.Info.Author, Time: now()}
	})
}

// receiveRows turns an Arrow IPC stream into an Arrow file.
func receiveRows(in io.Reader, path string) (err error) {
	var broken error // of the transport, which tells more than what Arrow makes of it
	rd, err := ipc.NewReader(readerFunc(func(b []byte) (int, error) {
		n, err := in.Read(b)
		if err != nil && !errors.Is(err, io.EOF) {
			broken = err
		}
		return n, err
	}))
	if err != nil {
		return errors.Join(broken, ErrRows.Errorf("the rows are not an Arrow IPC stream: %w", err))
	}
	defer rd.Release()
	out, err := os.Create(path)
	if err != nil {
		return fmt.Errorf("keep the rows: %w", err)
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	w, err := ipc.NewFileWriter(out, ipc.WithSchema(rd.Schema()))
	if err != nil {
		return ErrRows.Errorf("the rows cannot be kept: %w", err)
	}
	for rd.Next() {
		if err := w.Write(rd.RecordBatch()); err != nil {
			return fmt.Errorf("keep the rows: %w", err)
		}
	}
	if err := rd.Err(); err != nil || broken != nil {
		return errors.Join(broken, ErrRows.Errorf("the rows end in the middle: %w", err))
	}
	return w.Close()
}

type readerFunc func(b []byte) (int, error)

func (f readerFunc) Read(b []byte) (int, error) { return f(b) }
