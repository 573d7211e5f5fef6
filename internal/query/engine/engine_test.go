package engine_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/ipc"

	"tarn.dev/tarn/internal/blob/s3blob/s3test"
	"tarn.dev/tarn/internal/query"
	"tarn.dev/tarn/internal/query/engine"
	"tarn.dev/tarn/internal/runtime"
	"tarn.dev/tarn/internal/runtime/process"
)

// The test binary is also the engine child: started with this argument it plays the role.
const role = "tarn-engine-child"

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == role {
		os.Exit(engine.Main(os.Stdin, os.Stdout, os.NewFile(3, "results")))
	}
	if len(os.Args) > 1 && os.Args[1] == process.Role {
		os.Exit(process.InitMain())
	}
	if len(os.Args) > 1 && os.Args[1] == parentRole {
		parent(os.Args[2], os.Args[3])
	}
	if len(os.Args) > 1 && os.Args[1] == intruderRole {
		intrude()
	}
	for _, v := range s3test.Env() {
		name, value, _ := strings.Cut(v, "=")
		if err := os.Setenv(name, value); err != nil {
			panic(err)
		}
	}
	os.Exit(m.Run())
}

// self is a command that starts this program in a role.
func self(args ...string) []string {
	path, err := os.Executable()
	if err != nil {
		panic(err)
	}
	return append([]string{path}, args...)
}

// level is the strongest that this user has here, or TARN_LEVEL.
var level = sync.OnceValue(func() runtime.Level {
	dir, err := os.MkdirTemp("", "level")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	found, _, err := process.Choose(context.Background(), process.Place{Dir: dir}, os.Getenv("TARN_LEVEL"))
	if err != nil {
		panic(err)
	}
	return found
})

// boxes makes sandboxes in dir.
func boxes(t testing.TB, dir string) runtime.Runtime {
	t.Helper()
	rt, err := process.New(process.Place{Dir: dir}, level())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := rt.Close(); err != nil {
			t.Error(err)
		}
	})
	return rt
}

// start gives a pool of its own to a test.
func start(t testing.TB, opt query.Options) *query.Engine {
	t.Helper()
	if opt.Runtime == nil {
		opt.Runtime = boxes(t, t.TempDir())
	}
	if opt.Command == nil {
		opt.Command = self(role)
	}
	e := query.New(opt)
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	})
	return e
}

var stream = []query.Sink{{Kind: query.SinkStream}}

// rows runs a job and returns its stream as one batch.
func rows(t testing.TB, e *query.Engine, job query.Job) (arrow.RecordBatch, query.Result) {
	t.Helper()
	job.Sinks = stream
	var out bytes.Buffer
	result, err := e.Run(t.Context(), job, &out)
	if err != nil {
		t.Fatalf("%s: %v", job.SQL, err)
	}
	return readStream(t, out.Bytes()), result
}

func readStream(t testing.TB, data []byte) arrow.RecordBatch {
	t.Helper()
	r, err := ipc.NewReader(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	var batches []arrow.RecordBatch
	for r.Next() {
		batch := r.RecordBatch()
		batch.Retain()
		batches = append(batches, batch)
	}
	if err := r.Err(); err != nil {
		t.Fatal(err)
	}
	table := array.NewTableFromRecords(r.Schema(), batches)
	reader := array.NewTableReader(table, -1)
	if !reader.Next() {
		return array.NewRecordBatch(r.Schema(), emptyColumns(r.Schema()), 0)
	}
	batch := reader.RecordBatch()
	if batch.NumRows() != table.NumRows() { // chunked: put the chunks together
		columns := make([]arrow.Array, table.NumCols())
		for i := range columns {
			joined, err := array.Concatenate(table.Column(i).Data().Chunks(), defaultAllocator)
			if err != nil {
				t.Fatal(err)
			}
			columns[i] = joined
		}
		return array.NewRecordBatch(r.Schema(), columns, table.NumRows())
	}
	batch.Retain()
	return batch
}

// text renders rows as CSV-like lines, NULL as "-".
func text(batch arrow.RecordBatch) string {
	var b strings.Builder
	for r := range int(batch.NumRows()) {
		for c := range int(batch.NumCols()) {
			if c > 0 {
				b.WriteByte(',')
			}
			if batch.Column(c).IsNull(r) {
				b.WriteByte('-')
			} else {
				b.WriteString(batch.Column(c).ValueStr(r))
			}
		}
		b.WriteByte('\n')
	}
	return b.String()
}

func TestSelect(t *testing.T) {
	t.Parallel()
	e := start(t, query.Options{})
	batch, result := rows(t, e, query.Job{SQL: "SELECT 42 AS answer, 'x' || $name AS s, current_setting('TimeZone') AS tz", Params: map[string]any{"name": "y"}})
	if got, want := text(batch), "42,xy,UTC\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if result.Rows != 1 || result.Outputs[0].Bytes == 0 || result.CPU == 0 || result.PeakMemoryBytes == 0 {
		t.Errorf("result %+v", result)
	}
	schema, err := query.ParseSchema(result.Schema)
	if err != nil || schema.Field(0).Name != "answer" {
		t.Errorf("schema %v, %v", schema, err)
	}
}

func TestArrowToArrow(t *testing.T) {
	t.Parallel()
	e := start(t, query.Options{})
	path := filepath.Join(t.TempDir(), "a.arrow")
	sink := []query.Sink{{Kind: query.SinkArrow, Path: path, Sync: true}}
	if _, err := e.Run(t.Context(), query.Job{SQL: "SELECT i, i::VARCHAR AS s FROM range(200000) t(i)", Sinks: sink}, nil); err != nil {
		t.Fatal(err)
	}
	batch, _ := rows(t, e, query.Job{
		SQL:     `SELECT count(*), sum(i), max(length(s)), min(o.s) FROM sales."orders@dev" AS o`,
		Sources: []query.Source{{Name: query.Name{Namespace: "sales", Table: "orders", Ref: "dev"}, Arrow: []string{path}}},
	})
	if got, want := text(batch), "200000,19999900000,6,0\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestParquet(t *testing.T) {
	t.Parallel()
	e := start(t, query.Options{})
	path := filepath.Join(t.TempDir(), "a.parquet")
	copyTo := []query.Sink{{Kind: query.SinkFile, Format: "parquet", Path: path}}
	result, err := e.Run(t.Context(), query.Job{SQL: "SELECT i AS n FROM range(5) t(i) -- five;", Sinks: copyTo}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if result.Rows != 5 || result.Outputs[0].Bytes == 0 {
		t.Errorf("result %+v", result)
	}
	batch, _ := rows(t, e, query.Job{
		SQL:     "SELECT sum(n) FROM t",
		Sources: []query.Source{{Name: query.Name{Table: "t"}, Import: &query.ImportScan{Format: "parquet", Paths: []string{path}}}},
	})
	if got, want := text(batch), "10\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestErrorAndNext(t *testing.T) {
	t.Parallel()
	e := start(t, query.Options{})
	_, err := e.Run(t.Context(), query.Job{SQL: "SELECT * FROM nothing", Sinks: stream}, nil)
	if !errors.Is(err, query.ErrStatement) || !strings.Contains(err.Error(), "nothing") {
		t.Errorf("got %v", err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("enough"))
	if _, err := e.Run(ctx, query.Job{SQL: "SELECT 1", Sinks: stream}, nil); err == nil || !strings.Contains(err.Error(), "enough") {
		t.Errorf("got %v", err)
	}
	batch, _ := rows(t, e, query.Job{SQL: "SELECT 1"})
	if got := text(batch); got != "1\n" {
		t.Errorf("got %q", got)
	}
}
