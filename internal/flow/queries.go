package flow

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/base/ids"
	"tarn.dev/tarn/internal/flow/memo"
	"tarn.dev/tarn/internal/lake"
	"tarn.dev/tarn/internal/query"
)

// Errors of queries.
var (
	// ErrQueryDrift is a statement that would write what changed originals give.
	ErrQueryDrift = errdef.New(errdef.InvalidArgument, "query.drift", "a write reads what was linked")
	// ErrQueryOutput is a file that a query's rows cannot go to.
	ErrQueryOutput = errdef.New(errdef.InvalidArgument, "query.output", "the rows cannot go to that file")
	// ErrQueryWrite is a statement that writes where none may, or the other way round.
	ErrQueryWrite = errdef.New(errdef.InvalidArgument, "query.write", "the statement writes a table")
)

// QueryRequest is one SQL statement.
type QueryRequest struct {
	SQL         string
	Ref         string // where it reads
	Params      map[string]any
	MemoryBytes int64 // of the engine; 0 takes its default

	Limit int64 // rows at most; the query ends when it has them. 0 is all
	Show  int64 // rows to stream at most; the others are only counted. 0 is all

	AcceptDrift bool // of linked tables, read what is there now. Not of a statement that writes

	// Output sends the rows of a SELECT to a file on this host. The zero value streams them.
	Output QueryOutput

	// Into and the rest are used by statements that write.
	Into string
	Info lake.CommitInfo
	Dir  string // the caller's project folder; "" for none
}

// QueryOutput is a file for rows.
type QueryOutput struct {
	Path   string // absolute
	Format string // parquet, csv, json or arrow
}

// QueryResult is what became of a statement.
type QueryResult struct {
	Kind   query.Kind
	Rows   int64       // that were streamed, or that the file holds
	Commit lake.Commit // it read
	// Written is set for a statement that writes: the table's state after it.
	Written *TableWritten
	Table   string
}

// Query runs a statement. The rows of a SELECT go to w as an Arrow IPC stream; a write is one commit.
func (f *Flow) Query(ctx context.Context, r QueryRequest, w io.Writer) (QueryResult, error) {
	an, err := f.Engine.Analyze(ctx, "", r.SQL)
	if err != nil {
		return QueryResult{}, err
	}
	if an.Write != nil && r.AcceptDrift {
		return QueryResult{}, ErrQueryDrift.Errorf("a statement that writes reads what was linked, so that its result says what it was made of").
			WithNext("link the table again first: tarn table link")
	}
	if an.Write != nil {
		return f.queryWrite(ctx, r, an)
	}
	s, err := f.snapshot(ctx, r.Ref)
	if err != nil {
		return QueryResult{}, err
	}
	s.drift = r.AcceptDrift
	plan, err := f.Engine.Plan(ctx, query.Request{SQL: r.SQL, Params: r.Params}, s)
	if err != nil {
		return QueryResult{}, err
	}
	plan.Job.MemoryBytes, plan.Job.Limit = r.MemoryBytes, r.Limit
	out := QueryResult{Kind: an.Kind, Commit: s.commit}
	var result query.Result
	switch {
	case r.Output.Path != "" && r.Limit > 0:
		return QueryResult{}, ErrQueryOutput.Errorf("a file gets all rows. Write LIMIT %d into the statement", r.Limit)
	case r.Output.Path != "":
		result, err = f.queryToFile(ctx, plan.Job, r.Output)
	default:
		result, err = f.Engine.Stream(ctx, plan, r.Show, w)
	}
	out.Rows = result.Rows
	return out, err
}

// snapshot resolves the tables of one query. A ref is looked up once, so that a query which names a table
// twice, or joins two tables of one ref, sees one commit.
type snapshot struct {
	f      *Flow
	ref    string
	commit lake.Commit
	drift  bool // of linked tables, what is there now
	others map[string]lake.Commit
	read   []memo.Source
}

func (f *Flow) snapshot(ctx context.Context, ref string) (*snapshot, error) {
	commit, err := f.lake.Resolve(ctx, ref)
	if err != nil {
		return nil, err
	}
	return &snapshot{f: f, ref: ref, commit: commit, others: map[string]lake.Commit{ref: commit}}, nil
}

// Resolve implements query.Resolver.
func (s *snapshot) Resolve(ctx context.Context, t query.Reference) (query.Source, error) {
	ref := t.Name.Ref
	if ref == "" {
		ref = s.ref
	}
	commit, ok := s.others[ref]
	if !ok {
		var err error
		if commit, err = s.f.lake.Resolve(ctx, ref); err != nil {
			return query.Source{}, err
		}
		s.others[ref] = commit
	}
	name := t.Name
	name.Ref = ""
	tree := s.f.lake.Tree(commit.Tree)
	source, err := s.f.TableSource(ctx, tree, ref, name, s.drift)
	if err != nil {
		return query.Source{}, err
	}
	e, err := entryAt(ctx, tree, keyOf(name))
	if err != nil {
		return query.Source{}, err
	}
	v := &value{key: keyOf(name), version: e.Version, schema: e.Schema, rows: e.Location.Rows, commit: commit.ID.String(), provenance: e.Location.Provenance}
	s.read = append(s.read, v.source(t.Name.String()))
	return source, nil
}

// queryToFile runs a job whose rows go to a file, which appears under its name when it is whole.
func (f *Flow) queryToFile(ctx context.Context, job query.Job, out QueryOutput) (query.Result, error) {
	if err := checkOutput(out.Path); err != nil {
		return query.Result{}, err
	}
	part := filepath.Join(filepath.Dir(out.Path), "."+filepath.Base(out.Path)+"."+ids.Request())
	job.Sinks = []query.Sink{{Kind: query.SinkFile, Path: part, Format: out.Format}}
	result, err := f.Engine.Run(ctx, job, nil)
	if err == nil {
		err = os.Rename(part, out.Path)
	}
	if err != nil {
		if removed := os.Remove(part); removed != nil && !errors.Is(removed, fs.ErrNotExist) {
			err = errors.Join(err, fmt.Errorf("remove the half-written file: %w", removed))
		}
		return query.Result{}, err
	}
	return result, nil
}

// checkOutput refuses what could not be written, before anything runs.
func checkOutput(path string) error {
	if !filepath.IsAbs(path) || strings.HasSuffix(path, "/") {
		return ErrQueryOutput.Errorf("%s is not the absolute path of a file", path)
	}
	dir := filepath.Dir(path)
	switch st, err := os.Stat(dir); {
	case errors.Is(err, fs.ErrNotExist):
		return ErrQueryOutput.Errorf("%s cannot be written: there is no folder %s", path, dir).WithNext("mkdir -p " + dir)
	case err != nil:
		return ErrQueryOutput.Errorf("%s cannot be written: %w", path, pathless(err))
	case !st.IsDir():
		return ErrQueryOutput.Errorf("%s cannot be written: %s is not a folder", path, dir)
	}
	switch st, err := os.Lstat(path); {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return ErrQueryOutput.Errorf("%s cannot be written: %w", path, pathless(err))
	case st.IsDir():
		return ErrQueryOutput.Errorf("%s is a folder. Name a file in it", path)
	case !st.Mode().IsRegular():
		return ErrQueryOutput.Errorf("%s is not a regular file (%s), and only such a file is replaced", path, st.Mode().Type())
	}
	return nil
}
