package flow

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"

	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/blob"
	"tarn.dev/tarn/internal/catalog"
	"tarn.dev/tarn/internal/flow/discover"
	"tarn.dev/tarn/internal/flow/manifest"
	"tarn.dev/tarn/internal/lake"
	"tarn.dev/tarn/internal/query"
)

// NoTable is the error for a table that a ref does not have: it names the nearest one.
func NoTable(name, ref string, there []string) error {
	return ErrNoTable.Errorf("no table '%s' on %s. %sTables on %s: %s.", name, ref, manifest.DidYouMean(name, there), ref, manifest.List(there))
}

// analyzer lets discovery read SQL through the engine.
type analyzer struct{ engine *query.Engine }

// AnalyzeSelect implements discover.Analyzer.
func (a analyzer) AnalyzeSelect(ctx context.Context, file, sql string) (discover.SQLInfo, error) {
	an, err := a.engine.Analyze(ctx, file, sql)
	if err != nil {
		return discover.SQLInfo{}, err
	}
	if an.Kind != query.Select {
		return discover.SQLInfo{}, query.ErrUnsupported.Errorf("%s: an asset is one SELECT, and this is %s", file, an.Kind)
	}
	info := discover.SQLInfo{Params: an.Params}
	for _, t := range an.Tables {
		n := t.Name
		n.Ref = ""
		info.Tables = append(info.Tables, discover.SQLTable{Name: n.String(), Ref: t.Name.Ref, Line: t.Line})
	}
	return info, nil
}

// tableSource says how the engine reads a table of the history. Its files stay until ctx has ended. With drift, a linked one is
// what its files are now.
func (f *Flow) tableSource(ctx context.Context, name query.Name, e lake.Entry, drift bool) (query.Source, error) {
	if catalog.IsLinked(e) {
		linked, err := f.tables.Linked(ctx, e)
		if err != nil {
			return query.Source{}, err
		}
		if drift {
			if err := f.drifted(ctx, linked.Files); err != nil {
				return query.Source{}, err
			}
		}
		return f.linkedSource(ctx, name, linked)
	}
	scan, err := f.tables.Scan(ctx, e)
	if err != nil {
		return query.Source{}, err
	}
	out := &query.ParquetScan{}
	for _, c := range scan.Columns {
		out.Columns = append(out.Columns, query.ColumnOf(c.FieldID, c.Name, c.Declared, c.Stored))
	}
	if far, ok := f.blobs.(blob.FarStore); ok {
		out.Far, err = f.farFiles(ctx, far, scan.Files)
		return query.Source{Name: name, Parquet: out}, err
	}
	for _, file := range scan.Files {
		path, err := f.blobs.File(ctx, file.Name)
		if err != nil {
			return query.Source{}, err
		}
		out.Files = append(out.Files, path)
	}
	return query.Source{Name: name, Parquet: out}, nil
}

// farDir is where the engine gets parts of files that are not here.
func (f *Flow) farDir() (string, error) {
	dir := f.scratch("far")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", fmt.Errorf("make scratch folder: %w", err)
	}
	return dir, nil
}

// farFiles are files of which the engine gets what it reads, but for those that are here.
func (f *Flow) farFiles(ctx context.Context, far blob.FarStore, files []catalog.ScanFile) (*query.Far, error) {
	dir, err := f.farDir()
	if err != nil {
		return nil, err
	}
	out := &query.Far{Blobs: far, Dir: dir}
	for _, file := range files {
		path, _ := far.Held(ctx, file.Name)
		out.Files = append(out.Files, query.FarFile{Name: file.Name, Size: file.Bytes, Path: path})
	}
	return out, nil
}

// TableSource says where the engine finds a table of a ref.
func (f *Flow) TableSource(ctx context.Context, t lake.Tree, ref string, name query.Name, drift bool) (query.Source, error) {
	if name.Ref != "" {
		commit, err := f.lake.Resolve(ctx, name.Ref)
		if err != nil {
			return query.Source{}, err
		}
		t, ref = f.lake.Tree(commit.Tree), name.Ref
	}
	e, err := entryAt(ctx, t, keyOf(name))
	if err != nil {
		return query.Source{}, err
	}
	if e == nil {
		names, err := tableNames(ctx, t)
		if err != nil {
			return query.Source{}, err
		}
		name.Ref = ""
		return query.Source{}, NoTable(name.String(), ref, names)
	}
	return f.tableSource(ctx, query.Name{}, *e, drift)
}

// tempDir makes a new folder on scratch, among those of its kind.
func (f *Flow) tempDir(kind, pattern string) (string, error) {
	root := f.scratch(kind)
	err := os.MkdirAll(root, 0o700)
	if err == nil {
		root, err = os.MkdirTemp(root, pattern)
	}
	if err != nil {
		return "", fmt.Errorf("make scratch folder: %w", err)
	}
	return root, nil
}

// runToArrow runs a job into an Arrow file on scratch; done removes it.
func (f *Flow) runToArrow(ctx context.Context, job query.Job) (path string, done func(), err error) {
	dir, err := f.tempDir("steps", "q-*")
	if err != nil {
		return "", nil, err
	}
	done = func() { _ = os.RemoveAll(dir) } // scratch is emptied at the next start anyway
	path = filepath.Join(dir, "out.arrow")
	job.Sinks = []query.Sink{{Kind: query.SinkArrow, Path: path}}
	if _, err := f.Engine.Run(ctx, job, nil); err != nil {
		done()
		return "", nil, err
	}
	return path, done, nil
}

// count runs a query whose answer is one whole number.
func (f *Flow) count(ctx context.Context, job query.Job) (n int64, err error) {
	path, done, err := f.runToArrow(ctx, job)
	if err != nil {
		return 0, err
	}
	defer done()
	err = eachBatch([]string{path}, func(*arrow.Schema) error { return nil }, func(rec arrow.RecordBatch) error {
		col, ok := rec.Column(0).(*array.Int64)
		if !ok || col.Len() != 1 {
			return errdef.Newf(errdef.Internal, "run.count", "a count came as %d rows of %s", rec.NumRows(), rec.Column(0).DataType())
		}
		n = col.Value(0)
		return nil
	})
	return n, err
}

// onces lets the first of several callers do a thing while the others wait for it.
type onces struct {
	mu  sync.Mutex
	now map[string]chan struct{}
}

// do calls fn unless another caller with this name is in it: then it waits and calls fn afterwards, which
// finds the work done.
func (o *onces) do(ctx context.Context, name string, fn func() error) error {
	for {
		o.mu.Lock()
		if o.now == nil {
			o.now = map[string]chan struct{}{}
		}
		busy := o.now[name]
		if busy == nil {
			o.now[name] = make(chan struct{})
		}
		o.mu.Unlock()
		if busy == nil {
			break
		}
		select {
		case <-busy:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	defer func() {
		o.mu.Lock()
		defer o.mu.Unlock()
		close(o.now[name])
		delete(o.now, name)
	}()
	return fn()
}
