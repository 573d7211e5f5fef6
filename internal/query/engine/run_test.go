package engine_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/catalog/datafile"
	"tarn.dev/tarn/internal/query"
)

// table makes a table of Parquet files, written by the engine itself, from a query.
func table(t testing.TB, e *query.Engine, name query.Name, selects ...string) query.Source {
	t.Helper()
	source := query.Source{Name: name, Parquet: &query.ParquetScan{}}
	layout := datafile.Layout{First: 1, Table: name.Table}
	for _, sql := range selects {
		dir := t.TempDir()
		result, err := e.Run(t.Context(), query.Job{SQL: sql, Sinks: []query.Sink{{Kind: query.SinkTable, Path: dir, Table: &layout}}}, nil)
		if err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
		written := result.Outputs[0].Table
		for _, f := range written.Files {
			source.Parquet.Files = append(source.Parquet.Files, filepath.Join(dir, f.Name))
		}
		layout = datafile.Layout{Schema: written.Schema, IDs: written.IDs, First: written.Next, Table: name.Table}
		schema, err := datafile.DecodeSchema(written.Schema)
		if err != nil {
			t.Fatal(err)
		}
		stored, err := datafile.Stored(schema, written.IDs)
		if err != nil {
			t.Fatal(err)
		}
		source.Parquet.Columns = nil
		for i, f := range schema.Fields() {
			source.Parquet.Columns = append(source.Parquet.Columns, query.ColumnOf(written.IDs[i].ID, f.Name, f.Type, stored.Field(i).Type))
		}
	}
	return source
}

// resolver finds tables among sources.
func resolver(sources ...query.Source) query.Resolver {
	return query.ResolverFunc(func(_ context.Context, table query.Reference) (query.Source, error) {
		for _, s := range sources {
			if s.Name == table.Name {
				return s, nil
			}
		}
		return query.Source{}, errdef.Newf(errdef.NotFound, "test.table", "there is no table %s", table.Name)
	})
}

// runSQL plans and runs a statement and returns its rows as text.
func runSQL(t testing.TB, e *query.Engine, sql string, sources ...query.Source) (string, error) {
	t.Helper()
	plan, err := e.Plan(t.Context(), query.Request{SQL: sql}, resolver(sources...))
	if err != nil {
		return "", err
	}
	var out strings.Builder
	if _, err := e.Stream(t.Context(), plan, 0, &out); err != nil {
		return "", err
	}
	return text(readStream(t, []byte(out.String()))), nil
}

func TestFieldIDs(t *testing.T) {
	t.Parallel()
	e := start(t, query.Options{})
	s := table(t, e, query.Name{Table: "t"},
		"SELECT 1 AS id, 'a' AS name, 9::UTINYINT AS old",
		"SELECT 2 AS id, 1.5::DOUBLE AS score, 'b' AS name")
	s.Parquet.Columns[2].Name = "label" // renamed: the id stays
	got, err := runSQL(t, e, "SELECT * FROM t ORDER BY id", s)
	if err != nil {
		t.Fatal(err)
	}
	if want := "1,-,a\n2,1.5,b\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	s.Parquet.Files = nil
	got, err = runSQL(t, e, "SELECT count(*), max(label), sum(score) FROM t", s)
	if err != nil || got != "0,-,-\n" {
		t.Errorf("empty table: got %q, %v", got, err)
	}
}

func TestRefs(t *testing.T) {
	t.Parallel()
	e := start(t, query.Options{})
	main := table(t, e, query.Name{Table: "orders"}, "SELECT 1 AS id")
	dev := table(t, e, query.Name{Table: "orders", Ref: "dev"}, "SELECT 2 AS id")
	sales := table(t, e, query.Name{Namespace: "sales", Table: "orders", Ref: "dev"}, "SELECT 3 AS id")
	got, err := runSQL(t, e, `SELECT orders.id, d.id, x.id FROM orders, "orders@dev" d, sales.orders AS x AT (VERSION => 'dev')`, main, dev, sales)
	if err != nil || got != "1,2,3\n" {
		t.Errorf("got %q, %v", got, err)
	}
	if _, err := runSQL(t, e, "FROM ordres", main); !strings.Contains(fmt.Sprint(err), "no table ordres") {
		t.Errorf("got %v", err)
	}
}

func TestWrites(t *testing.T) {
	t.Parallel()
	e := start(t, query.Options{})
	target := table(t, e, query.Name{Table: "t"}, "SELECT i AS id, i * 10 AS v FROM range(3) r(i)")
	source := table(t, e, query.Name{Table: "s"}, "SELECT i AS id, i * 100 AS v FROM range(2, 4) r(i)")
	for _, c := range []struct{ sql, want string }{
		{"INSERT INTO t SELECT id + 10, v FROM t", "10,0\n11,10\n12,20\n"},
		{"INSERT INTO t (v) VALUES (7)", "-,7\n"},
		{"INSERT INTO t BY NAME SELECT 5 AS v, 4 AS id", "4,5\n"},
		{"UPDATE t SET v = t.v + s.v FROM s WHERE t.id = s.id", "0,0\n1,10\n2,220\n"},
		{"UPDATE t AS x SET v = (SELECT max(v) FROM t) WHERE id = 0", "0,20\n1,10\n2,20\n"},
		{"DELETE FROM t WHERE id IN (SELECT id FROM s)", "0,0\n1,10\n"},
		{"DELETE FROM t", ""},
		{"MERGE INTO t USING s ON t.id = s.id WHEN MATCHED THEN UPDATE SET v = s.v WHEN NOT MATCHED THEN INSERT VALUES (s.id, s.v)", "0,0\n1,10\n2,200\n3,300\n"},
		{"MERGE INTO t USING s USING (id) WHEN MATCHED THEN DELETE", "0,0\n1,10\n"},
		{"CREATE TABLE n AS SELECT sum(v) FROM t", "30\n"},
	} {
		got, err := runSQL(t, e, c.sql, target, source)
		if err != nil {
			t.Errorf("%s: %v", c.sql, err)
			continue
		}
		if diff := cmp.Diff(sorted(c.want), sorted(got)); diff != "" {
			t.Errorf("%s: (-want +got)\n%s", c.sql, diff)
		}
	}
	if _, err := runSQL(t, e, "INSERT INTO t SELECT 1, 2, 3", target); !errors.Is(err, query.ErrStatement) {
		t.Errorf("got %v", err)
	}
}

func sorted(s string) []string {
	lines := strings.Split(s, "\n")
	slices.Sort(lines)
	return lines
}

func TestImport(t *testing.T) {
	t.Parallel()
	e := start(t, query.Options{})
	dir := t.TempDir()
	write := func(name, content string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("a.csv", "id,name\n1,x\n2,\"y, z\"\n")
	write("b.csv", "id,name\n3,w\n")
	write("c.txt", "1|a\n2|b\n")
	write("d.jsonl", "{\"id\": 1, \"tags\": [\"p\", \"q\"]}\n{\"id\": 2}\n")
	read := func(scan query.ImportScan) (string, error) {
		for i := range scan.Paths {
			scan.Paths[i] = filepath.Join(dir, scan.Paths[i])
		}
		return runSQL(t, e, "FROM f ORDER BY 1", query.Source{Name: query.Name{Table: "f"}, Import: &scan})
	}
	for _, c := range []struct {
		scan query.ImportScan
		want string
	}{
		{query.ImportScan{Format: "csv", Paths: []string{"*.csv"}}, "1,x\n2,y, z\n3,w\n"},
		{query.ImportScan{Format: "csv", Paths: []string{"c.txt"}, Options: map[string]any{
			"header": false, "delim": "|", "columns": map[string]any{"k": "DOUBLE", "v": "VARCHAR"},
		}}, "1,a\n2,b\n"},
		{query.ImportScan{Format: "json", Paths: []string{"d.jsonl"}}, "1,[\"p\",\"q\"]\n2,-\n"},
	} {
		got, err := read(c.scan)
		if err != nil || got != c.want {
			t.Errorf("%v: got %q, %v, want %q", c.scan, got, err, c.want)
		}
	}
	if _, err := read(query.ImportScan{Format: "csv", Paths: []string{"none-*.csv"}}); !errors.Is(err, query.ErrNoFiles) {
		t.Errorf("got %v", err)
	}
	if _, err := read(query.ImportScan{Format: "csv", Paths: []string{"a.csv"}, Options: map[string]any{"delimiter": ","}}); !errors.Is(err, query.ErrUnsupported) {
		t.Errorf("got %v", err)
	}
	if _, err := read(query.ImportScan{Format: "parquet", Paths: []string{"a.csv"}}); err == nil {
		t.Error("a CSV file was read as Parquet")
	}
}

// TestLocked tries to get out: past the analysis, straight at the engine.
func TestCorruptParquet(t *testing.T) {
	t.Parallel()
	e := start(t, query.Options{})
	path := filepath.Join(t.TempDir(), "bad.parquet")
	if err := os.WriteFile(path, []byte("PAR1\xff\xff\xff\xff\xff\xff\xff\xff\x08\x00\x00\x00PAR1"), 0o644); err != nil {
		t.Fatal(err)
	}
	_, err := runSQL(t, e, "FROM f", query.Source{Name: query.Name{Table: "f"}, Import: &query.ImportScan{Format: "parquet", Paths: []string{path}}})
	if !errors.Is(err, query.ErrCorrupt) {
		t.Errorf("reading a corrupt Parquet file = %v, want %v", err, query.ErrCorrupt)
	}
}

func TestLocked(t *testing.T) {
	t.Parallel()
	e := start(t, query.Options{})
	for _, sql := range []string{
		"FROM read_csv('/etc/passwd')",
		"FROM read_text('/etc/hostname')",
		"FROM glob('/etc/*')",
		"COPY (SELECT 1) TO '/tmp/tarn-escape.csv'",
		"ATTACH '/tmp/tarn-escape.db'",
		"INSTALL httpfs",
		"LOAD httpfs",
		"SET enable_external_access = true",
		"SET memory_limit = '1TB'",
		"RESET allowed_paths",
		"PRAGMA threads=100",
		"SELECT 1; SELECT 2",
		"",
	} {
		if _, err := e.Run(t.Context(), query.Job{SQL: sql, Sinks: stream}, nil); err == nil {
			t.Errorf("%s: ran", sql)
		} else if errdef.CodeOf(err) == errdef.Internal {
			t.Errorf("%s: %v", sql, err)
		}
	}
}

func TestParams(t *testing.T) {
	t.Parallel()
	e := start(t, query.Options{})
	run := func(params map[string]any) (string, error) {
		plan, err := e.Plan(t.Context(), query.Request{SQL: "SELECT $n + 1, $s, DATE '2024-05-01' > $d, $big, $nil::INT", Params: params}, resolver())
		if err != nil {
			return "", err
		}
		var out strings.Builder
		if _, err := e.Stream(t.Context(), plan, 0, &out); err != nil {
			return "", err
		}
		return text(readStream(t, []byte(out.String()))), nil
	}
	all := map[string]any{"n": 41, "s": "x'y\x00z", "d": "2024-01-01", "big": int64(9007199254740993), "nil": nil}
	got, err := run(all)
	if err != nil || got != "42,x'y\x00z,true,9007199254740993,-\n" {
		t.Errorf("got %q, %v", got, err)
	}
	delete(all, "s")
	if _, err := run(all); !errors.Is(err, query.ErrParam) || !strings.Contains(err.Error(), "$s") {
		t.Errorf("got %v", err)
	}
	all["s"], all["t"] = "", 1
	if _, err := run(all); !errors.Is(err, query.ErrParam) || !strings.Contains(err.Error(), "$t") {
		t.Errorf("got %v", err)
	}
}

const rowsForever = "SELECT i FROM range(100000000000) r(i)"

const endless = "SELECT count(*) FROM range(1000000000000) a, range(1000) b WHERE a.range % 7 = b.range"

func TestCancel(t *testing.T) {
	t.Parallel()
	e := start(t, query.Options{})
	reason := errors.New("not wanted any more")
	ctx, cancel := context.WithCancelCause(t.Context())
	done := make(chan error, 1)
	go func() {
		w := signalWriter(func() { cancel(reason) }) // the first rows arrive: the query runs
		_, err := e.Run(ctx, query.Job{SQL: rowsForever, Sinks: stream}, w)
		done <- err
	}()
	<-ctx.Done()
	began := time.Now()
	err := <-done
	if took := time.Since(began); took > time.Second {
		t.Errorf("cancelling took %v", took)
	}
	if !errors.Is(err, reason) {
		t.Errorf("got %v", err)
	}
	if got, err := runSQL(t, e, "SELECT 1"); err != nil || got != "1\n" {
		t.Errorf("next query: %q, %v", got, err)
	}
}

func TestDeadline(t *testing.T) {
	t.Parallel()
	e := start(t, query.Options{})
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	_, err := e.Run(ctx, query.Job{SQL: endless, Sinks: stream}, nil)
	if errdef.CodeOf(err) != errdef.DeadlineExceeded {
		t.Errorf("got %v", err)
	}
}

type signalWriter func()

func (s signalWriter) Write(p []byte) (int, error) {
	s()
	return len(p), nil
}

func TestReaderGone(t *testing.T) {
	t.Parallel()
	e := start(t, query.Options{})
	r, w := io.Pipe()
	gone := errors.New("gone")
	r.CloseWithError(gone)
	if _, err := e.Run(t.Context(), query.Job{SQL: rowsForever, Sinks: stream}, w); !errors.Is(err, gone) {
		t.Errorf("got %v", err)
	}
}

func TestOutOfMemory(t *testing.T) {
	t.Parallel()
	e := start(t, query.Options{})
	_, err := e.Run(t.Context(), query.Job{
		SQL:         "SELECT list(i || 'some more text') FROM range(30000000) r(i)",
		MemoryBytes: 50 << 20, TempBytes: 1 << 20, Sinks: stream,
	}, nil)
	if errdef.CodeOf(err) != errdef.ResourceExhausted {
		t.Errorf("got %v", err)
	}
}

func TestSpill(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	e := start(t, query.Options{Runtime: boxes(t, dir)})
	result, err := e.Run(t.Context(), query.Job{SQL: "SELECT i FROM range(4000000) r(i) ORDER BY hash(i)", MemoryBytes: 40 << 20, Sinks: stream}, nil)
	if err != nil || result.Rows != 4_000_000 {
		t.Errorf("got %+v, %v", result.Rows, err)
	}
	if err := e.Close(); err != nil { // waits for the process, and what it held
		t.Error(err)
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// marked is a command whose processes can be found: no other test has its mark.
func marked(t testing.TB) (command []string, pids func() []int) {
	mark := t.Name() + "/" + strconv.Itoa(os.Getpid())
	return self(role, mark), func() []int { return withArgument(t, mark) }
}

// withArgument finds the processes that have an argument, by the host's numbers.
func withArgument(t testing.TB, argument string) []int {
	t.Helper()
	entries, err := os.ReadDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	var found []int
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		line, _ := os.ReadFile("/proc/" + e.Name() + "/cmdline") // it may have ended
		if slices.Contains(strings.Split(string(line), "\x00"), argument) {
			found = append(found, pid)
		}
	}
	return found
}

func TestKilledChild(t *testing.T) {
	t.Parallel()
	command, pids := marked(t)
	e := start(t, query.Options{Command: command})
	kill := signalWriter(func() {
		for _, pid := range pids() { // also the warm spare
			syscall.Kill(pid, syscall.SIGKILL)
		}
	})
	_, err := e.Run(t.Context(), query.Job{SQL: rowsForever, Sinks: stream}, kill)
	if !errors.Is(err, query.ErrCrashed) || !strings.Contains(err.Error(), "killed") {
		t.Errorf("got %v", err)
	}
	if got, err := runSQL(t, e, "SELECT 1"); err != nil || got != "1\n" {
		t.Errorf("next query: %q, %v", got, err)
	}
}

func TestChildrenEnd(t *testing.T) {
	t.Parallel()
	command, pids := marked(t)
	e := query.New(query.Options{Runtime: boxes(t, t.TempDir()), Command: command})
	running := make(chan struct{})
	var once sync.Once
	done := make(chan error, 1)
	go func() {
		_, err := e.Run(t.Context(), query.Job{SQL: rowsForever, Sinks: stream},
			signalWriter(func() { once.Do(func() { close(running) }) }))
		done <- err
	}()
	<-running
	if len(pids()) == 0 {
		t.Error("no child is found")
	}
	if err := e.Close(); err != nil {
		t.Error(err)
	}
	if err := <-done; !errors.Is(err, query.ErrClosed) {
		t.Errorf("got %v", err)
	}
	if left := pids(); len(left) > 0 {
		t.Errorf("children are alive: %v", left)
	}
	if _, err := e.Run(t.Context(), query.Job{SQL: "SELECT 1"}, nil); !errors.Is(err, query.ErrClosed) {
		t.Errorf("got %v", err)
	}
}

func TestLaunchFails(t *testing.T) {
	t.Parallel()
	e := start(t, query.Options{Command: []string{"/nonexistent/tarn", "engine"}})
	if _, err := e.Run(t.Context(), query.Job{SQL: "SELECT 1"}, nil); !errors.Is(err, query.ErrCrashed) {
		t.Errorf("got %v", err)
	}
	mute := start(t, query.Options{Command: []string{"/bin/true"}})
	if _, err := mute.Run(t.Context(), query.Job{SQL: "SELECT 1"}, nil); !errors.Is(err, query.ErrCrashed) {
		t.Errorf("got %v", err)
	}
}

func TestConcurrent(t *testing.T) {
	t.Parallel()
	e := start(t, query.Options{Concurrent: 3})
	source := table(t, e, query.Name{Table: "t"}, "SELECT i FROM range(1000) r(i)")
	var group sync.WaitGroup
	for n := range 24 {
		group.Go(func() {
			if n%3 == 0 {
				ctx, cancel := context.WithTimeout(t.Context(), time.Duration(n)*4*time.Millisecond)
				defer cancel()
				if _, err := e.Run(ctx, query.Job{SQL: endless, Sinks: stream}, nil); errdef.CodeOf(err) != errdef.DeadlineExceeded {
					t.Errorf("got %v", err)
				}
				return
			}
			got, err := runSQL(t, e, fmt.Sprintf("SELECT sum(i) + %d FROM t", n), source)
			if want := fmt.Sprintf("%d\n", 499500+n); err != nil || got != want {
				t.Errorf("got %q, %v, want %q", got, err, want)
			}
		})
	}
	group.Wait()
}

// TestAnalyzeWhileBusy has every slot taken by a query without end.
func TestAnalyzeWhileBusy(t *testing.T) {
	t.Parallel()
	e := start(t, query.Options{Concurrent: 1})
	ctx, cancel := context.WithCancel(t.Context())
	running, done := make(chan struct{}), make(chan error, 1)
	var once sync.Once
	go func() {
		_, err := e.Run(ctx, query.Job{SQL: rowsForever, Sinks: stream}, signalWriter(func() { once.Do(func() { close(running) }) }))
		done <- err
	}()
	<-running
	if a, err := e.Analyze(t.Context(), "", "FROM t"); err != nil || len(a.Tables) != 1 {
		t.Errorf("got %v, %v", a, err)
	}
	waiting, giveUp := context.WithCancel(t.Context())
	giveUp()
	if _, err := e.Run(waiting, query.Job{SQL: "SELECT 1", Sinks: stream}, nil); errdef.CodeOf(err) != errdef.Canceled {
		t.Errorf("got %v", err)
	}
	cancel()
	if err := <-done; errdef.CodeOf(err) != errdef.Canceled {
		t.Errorf("got %v", err)
	}
}

func TestStable(t *testing.T) {
	t.Parallel()
	e := start(t, query.Options{})
	s := table(t, e, query.Name{Table: "t"}, "SELECT i FROM range(300000) r(i)")
	path := filepath.Join(t.TempDir(), "a.arrow")
	if _, err := e.Run(t.Context(), query.Job{SQL: "FROM t", Sources: []query.Source{s}, Sinks: []query.Sink{{Kind: query.SinkArrow, Path: path}}}, nil); err != nil {
		t.Fatal(err)
	}
	for _, source := range []query.Source{s, {Name: s.Name, Arrow: []string{path}}} {
		got, err := runSQL(t, e, "FROM t LIMIT 3 OFFSET 200000", source)
		if err != nil || got != "200000\n200001\n200002\n" {
			t.Errorf("got %q, %v", got, err)
		}
	}
}
