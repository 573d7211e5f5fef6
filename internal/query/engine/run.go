package engine

import (
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/apache/arrow-go/v18/arrow"

	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/query"
	"tarn.dev/tarn/internal/query/engine/duck"
)

// run does a job. ask gets what it needs of excerpts.
func run(db *duck.DB, job query.Job, stdout io.Writer, ask func(query.Needs) error) (query.Result, error) {
	if err := prepareJob(db, &job, ask); err != nil {
		return query.Result{}, err
	}
	if len(job.Bind) > 0 {
		bound, err := bindAll(db, job.Bind)
		return query.Result{Bound: bound}, err
	}
	if job.Write != nil && job.Write.Mode != query.Create {
		if err := runStaged(db, job); err != nil {
			return query.Result{}, err
		}
		job.SQL, job.Params = "FROM "+quote(query.Staged), nil
	}
	if i := slices.IndexFunc(job.Sinks, copiesItself); i >= 0 {
		if len(job.Sinks) != 1 {
			return query.Result{}, errdef.Newf(errdef.Internal, "query.bad_job", "a %s file is a job's only sink", job.Sinks[i].Format)
		}
		return runCopy(db, job)
	}
	stmt, err := prepare(db, job)
	if err != nil {
		return query.Result{}, err
	}
	defer stmt.Close()
	if job.Describe {
		schema, err := stmt.Schema()
		if err != nil {
			return query.Result{}, err
		}
		text, err := query.FormatSchema(schema)
		return query.Result{Schema: text}, err
	}
	rows, err := stmt.Stream(0)
	if err != nil {
		return query.Result{}, err
	}
	defer rows.Close()
	result, err := drain(rows, job, stdout)
	if err != nil {
		return query.Result{}, err
	}
	return result, nil
}

// drain sends every row to every sink.
func drain(rows *duck.Rows, job query.Job, stdout io.Writer) (result query.Result, err error) {
	open, err := openSinks(job.Sinks, rows.Schema(), stdout)
	defer func() {
		if err != nil {
			for _, sink := range open {
				sink.Abort()
			}
		}
	}()
	if err != nil {
		return result, err
	}
	if result.Schema, err = query.FormatSchema(rows.Schema()); err != nil {
		return result, err
	}
	for job.Limit == 0 || result.Rows < job.Limit {
		batch, err := rows.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return result, err
		}
		if left := job.Limit - result.Rows; job.Limit > 0 && batch.NumRows() > left {
			batch = firstRows(batch, left)
		}
		result.Rows += batch.NumRows()
		if err := writeAll(open, batch); err != nil {
			return result, err
		}
	}
	for _, sink := range open {
		output, err := sink.Close()
		if err != nil {
			return result, err
		}
		result.Outputs = append(result.Outputs, output)
	}
	return result, nil
}

// firstRows is the first n rows of a batch, which it takes over.
func firstRows(batch arrow.RecordBatch, n int64) arrow.RecordBatch {
	defer batch.Release()
	return batch.NewSlice(0, n)
}

func writeAll(sinks []BatchSink, batch arrow.RecordBatch) error {
	defer batch.Release()
	for _, sink := range sinks {
		if err := sink.Write(batch); err != nil {
			return err
		}
	}
	return nil
}

// prepareJob sets the job's limits, locks everything else out, makes its tables, and asks for what it needs of them.
func prepareJob(db *duck.DB, job *query.Job, ask func(query.Needs) error) error {
	if err := expandImports(db, job.Sources); err != nil {
		return err
	}
	if err := settle(db, job); err != nil {
		return err
	}
	settings := []string{"SET temp_directory = " + literal(job.TempDir)} // refused once external access is off
	if job.TempDir != "" && job.TempBytes > 0 {
		settings = append(settings, fmt.Sprintf("SET max_temp_directory_size = '%dB'", job.TempBytes))
	}
	if job.MemoryBytes > 0 {
		settings = append(settings, fmt.Sprintf("SET memory_limit = '%dB'", job.MemoryBytes))
	}
	if job.Threads > 0 {
		settings = append(settings, "SET threads = "+strconv.Itoa(job.Threads))
	}
	settings = append(settings,
		"SET allowed_paths = "+literals(filesOf(job)),
		"SET enable_external_access = false")
	if !slices.ContainsFunc(job.Sources, isExcerpt) {
		settings = append(settings, lock) // else when it is planned
	}
	if err := apply(db, settings...); err != nil {
		return err
	}
	for _, source := range job.Sources {
		if err := addSource(db, source); err != nil {
			return err
		}
	}
	return askFor(db, job, ask)
}

const lock = "SET lock_configuration = true"

func apply(db *duck.DB, settings ...string) error {
	for _, sql := range settings {
		if err := db.Exec(sql); err != nil {
			return fmt.Errorf("%.200s: %w", sql, err)
		}
	}
	return nil
}

// filesOf are the paths that DuckDB itself opens. Arrow files are opened by Go.
func filesOf(job *query.Job) []string {
	files := []string{}
	for _, source := range job.Sources {
		if source.Parquet != nil {
			files = append(files, source.Parquet.Files...)
		}
		if source.Import != nil {
			files = append(files, source.Import.Paths...)
		}
	}
	for _, sink := range job.Sinks {
		if copiesItself(sink) {
			files = append(files, sink.Path)
		}
	}
	return files
}

// runStaged runs a write on a temporary copy of its target; see query.Staged.
func runStaged(db *duck.DB, job query.Job) error {
	limit := ""
	if job.Write.Mode == query.Append {
		limit = " LIMIT 0"
	}
	if err := db.Exec("CREATE TEMP TABLE " + quote(query.Staged) + " AS FROM " + relation(job.Write.Target) + limit); err != nil {
		return err
	}
	stmt, err := prepare(db, job)
	if err != nil {
		return err
	}
	defer stmt.Close()
	rows, err := stmt.Stream(0)
	if err != nil {
		return err
	}
	defer rows.Close()
	for {
		batch, err := rows.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		batch.Release()
	}
}

// prepare binds the statement and its parameters; each parameter must be given and known.
func prepare(db *duck.DB, job query.Job) (*duck.Stmt, error) {
	stmt, err := db.Prepare(job.SQL)
	if err != nil {
		return nil, err
	}
	if err := bindParams(stmt, job.Params); err != nil {
		stmt.Close()
		return nil, err
	}
	return stmt, nil
}

func bindParams(stmt *duck.Stmt, params map[string]any) error {
	names := stmt.Params()
	for i, name := range names {
		value, ok := params[name]
		if !ok {
			return query.ErrParam.Errorf("parameter $%s has no value", name).WithNext("--param " + name + "=VALUE")
		}
		if err := stmt.Bind(i+1, value); err != nil {
			return query.ErrParam.Errorf("parameter $%s: %w", name, err)
		}
	}
	for name := range params {
		if !slices.Contains(names, name) {
			message := fmt.Sprintf("there is no parameter $%s", name)
			if len(names) > 0 {
				message += "; the statement has $" + strings.Join(names, ", $")
			}
			return query.ErrParam.Errorf("%s", message)
		}
	}
	return nil
}

// copiesItself reports a sink that DuckDB writes.
func copiesItself(sink query.Sink) bool {
	return sink.Kind == query.SinkFile && sink.Format != "arrow"
}

var copyOptions = map[string]string{
	"parquet": "FORMAT parquet, COMPRESSION zstd",
	"csv":     "FORMAT csv, HEADER true",
	"json":    "FORMAT json",
}

// runCopy lets DuckDB write the file: it knows every type and writes in parallel.
func runCopy(db *duck.DB, job query.Job) (query.Result, error) {
	sink := job.Sinks[0]
	options, ok := copyOptions[sink.Format]
	if !ok {
		return query.Result{}, query.ErrUnsupported.Errorf("files are written as parquet, csv, json or arrow, not %q", sink.Format)
	}
	// The newline ends a comment at the end of the statement.
	job.SQL = "COPY (" + withoutSemicolon(job.SQL) + "\n) TO " + literal(sink.Path) + " (" + options + ", USE_TMP_FILE false)"
	stmt, err := prepare(db, job)
	if err != nil {
		return query.Result{}, err
	}
	defer stmt.Close()
	rows, err := stmt.Stream(0)
	if err != nil {
		return query.Result{}, err
	}
	defer rows.Close()
	result := query.Result{}
	for {
		batch, err := rows.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return result, err
		}
		n, err := countColumn(batch)
		if err != nil {
			return result, err
		}
		result.Rows += n
	}
	size, err := finishFile(sink)
	if err != nil {
		return result, err
	}
	result.Outputs = []query.Output{{Kind: sink.Kind, Bytes: size}}
	return result, nil
}

func finishFile(sink query.Sink) (int64, error) {
	f, err := os.OpenFile(sink.Path, os.O_RDWR, 0)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	if sink.Sync {
		if err := f.Sync(); err != nil {
			return 0, err
		}
	}
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

// withoutSemicolon cuts the statement behind its last token.
func withoutSemicolon(sql string) string {
	tokens := lex(sql)
	for len(tokens) > 0 && tokens[len(tokens)-1].is(";") {
		tokens = tokens[:len(tokens)-1]
	}
	if len(tokens) == 0 {
		return ""
	}
	return sql[:tokens[len(tokens)-1].end]
}
