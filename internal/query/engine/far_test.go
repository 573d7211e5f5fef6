package engine_test

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/blob"
	"tarn.dev/tarn/internal/blob/cacheblob"
	"tarn.dev/tarn/internal/blob/memblob"
	"tarn.dev/tarn/internal/blob/s3blob"
	"tarn.dev/tarn/internal/blob/s3blob/s3test"
	"tarn.dev/tarn/internal/catalog/datafile"
	"tarn.dev/tarn/internal/query"
)

// cached is a store with copies in a folder of its own.
func cached(t *testing.T, store blob.Store, budget int64) blob.FarStore {
	t.Helper()
	c, err := cacheblob.Open(t.TempDir(), budget)
	if err != nil {
		t.Fatal(err)
	}
	return c.Of(store)
}

// away puts the files of a table into a store.
func away(t *testing.T, s query.Source, store blob.Store) []query.FarFile {
	t.Helper()
	var files []query.FarFile
	for i, path := range s.Parquet.Files {
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		info, err := f.Stat()
		if err != nil {
			t.Fatal(err)
		}
		name := fmt.Sprintf("%s/%d.parquet", s.Name.Table, i)
		if err := store.Put(t.Context(), name, f); err != nil {
			t.Fatal(err)
		}
		f.Close()
		files = append(files, query.FarFile{Name: name, Size: info.Size()})
	}
	return files
}

// farSource is a source whose files lie in blobs.
func farSource(t *testing.T, s query.Source, blobs blob.FarStore, files []query.FarFile) query.Source {
	t.Helper()
	return query.Source{Name: s.Name, Parquet: &query.ParquetScan{Columns: s.Parquet.Columns, Far: &query.Far{Blobs: blobs, Dir: t.TempDir(), Files: slices.Clone(files)}}}
}

// ordersRows is enough for two row groups.
const ordersRows = 600_000

// orders has columns of many types, and rows in the order of id and day; of the second file the rest is later.
func orders(t *testing.T, e *query.Engine) query.Source {
	t.Helper()
	const columns = `i AS id, i % 300 AS origin, i * 7 % 1000 / 10 AS delay, 'name ' || i // 1000 AS name, DATE '2020-01-01' + (i // 1000)::INT AS day,
		TIMESTAMP '2020-01-01' + to_seconds(i) AS moment, CASE WHEN i > 550000 THEN i END AS late, i % 2 = 0 AS even, {'a': i, 'b': [i, i + 1]} AS nested,
		(i % 100)::DECIMAL(9, 2) AS price, CASE WHEN i % 1000 = 7 THEN 'nan'::DOUBLE ELSE i END AS odd`
	return table(t, e, query.Name{Table: "orders"},
		fmt.Sprintf("SELECT %s FROM range(%d) r(i)", columns, ordersRows),
		fmt.Sprintf("SELECT %s, i AS added FROM range(%d, %d) r(i)", columns, ordersRows, ordersRows+5_000))
}

// TestFarTables compares what queries give with the table on this host and in a store far away.
func TestFarTables(t *testing.T) {
	t.Parallel()
	e := start(t, query.Options{})
	here := orders(t, e)
	store := memblob.New()
	files := away(t, here, store)
	blobs := cached(t, store, 0) // what one query has read helps no other
	for _, sql := range []string{
		"SELECT origin, delay FROM orders WHERE id BETWEEN 550000 AND 550005",
		"SELECT count(*) FROM orders",
		"SELECT count(*), min(id), max(id), count(late) FROM orders",
		"SELECT * FROM orders ORDER BY id DESC LIMIT 3",
		"SELECT * FROM orders WHERE id = (SELECT max(id) FROM orders WHERE late IS NOT NULL)",
		"SELECT * FROM orders LIMIT 2",
		"SELECT * FROM orders WHERE id IN (3, 524287, 524288, 600001)",
		"SELECT id FROM orders WHERE id < 2 OR id >= 604999",
		"SELECT id, nested.b[2] FROM orders WHERE nested.a = 550001",
		"SELECT count(*) FROM orders WHERE day = '2021-06-01'",
		"SELECT count(*) FROM orders WHERE moment > '2020-01-07 12:00:00'",
		"SELECT count(*), sum(late) FROM orders WHERE late < 550100",
		"SELECT count(*) FROM orders WHERE name = 'name 599'",
		"SELECT count(*) FROM orders WHERE name LIKE 'name 59%'",
		"SELECT count(*) FROM orders WHERE odd > 599998",
		"SELECT count(*) FROM orders WHERE odd = 'nan'::DOUBLE",
		"SELECT count(*) FROM orders WHERE odd <= 10",
		"SELECT count(*) FROM orders WHERE price > 98.5",
		"SELECT count(*) FROM orders WHERE added IS NULL",
		"SELECT added FROM orders WHERE added > 604998",
		"SELECT count(*) FROM orders WHERE NOT even AND id > 590000",
		"SELECT id FROM orders WHERE id < 0",
		"SELECT count(*) FROM orders WHERE id <> 5 AND 1 = 1",
		"SELECT a.id, b.name FROM orders a JOIN orders b ON a.id + 590000 = b.id WHERE a.id < 3 ORDER BY ALL",
		"WITH a AS (FROM orders), b AS (FROM orders WHERE id = 3) SELECT a.id, b.name FROM a, b WHERE a.id IN (3, 7) AND a.id = b.id",
		"WITH a AS MATERIALIZED (FROM orders WHERE id < 4) SELECT a.id, (SELECT max(name) FROM orders o WHERE o.id = a.id) FROM a ORDER BY 1",
		"WITH RECURSIVE r AS (SELECT 1::BIGINT AS id UNION ALL SELECT o.id + 1 FROM orders o, r WHERE o.id = r.id AND o.id < 4) FROM r",
		"SELECT origin, count(*) AS n, avg(id) FROM orders GROUP BY ALL ORDER BY ALL LIMIT 3",
		"SELECT id, row_number() OVER (PARTITION BY origin ORDER BY id) AS n FROM orders WHERE id < 1000 QUALIFY n = 4 ORDER BY id LIMIT 3",
		"SELECT id FROM orders WHERE id > 600000 UNION ALL SELECT origin FROM orders WHERE id = 5 ORDER BY 1 LIMIT 2",
		"SELECT count(*) FROM orders WHERE id IN (SELECT id + 1 FROM orders WHERE day = '2020-01-05')",
		"SELECT id FROM orders a ANTI JOIN (FROM orders WHERE id > 5) b USING (id) ORDER BY id",
		"FROM (PIVOT (FROM orders WHERE id < 10) ON origin IN (1, 2) USING sum(id)) ORDER BY ALL",
		"DESCRIBE orders",
		"SELECT 1 FROM orders WHERE false",
		"SELECT count(*) FROM (SELECT * FROM orders)",
		"CREATE TABLE x AS SELECT id FROM orders WHERE id = 5",
		"INSERT INTO orders SELECT * FROM orders WHERE id = 600005",
		"DELETE FROM orders WHERE id > 3",
	} {
		t.Run(sql, func(t *testing.T) {
			t.Parallel()
			want, err := runSQL(t, e, sql, here)
			if err != nil {
				t.Fatal(err)
			}
			if got, err := runSQL(t, e, sql, farSource(t, here, blobs, files)); err != nil || got != want {
				t.Errorf("got %.300q, %v, want %.300q", got, err, want)
			}
		})
	}
	const sql = `SELECT a.id, b.id FROM orders a, "orders@dev" b WHERE a.id = b.id AND a.id = 600001`
	there := here
	there.Name.Ref = "dev"
	far, dev := farSource(t, here, blobs, files), farSource(t, there, blobs, files)
	far.Parquet.Far.Files[0].Path, dev.Parquet.Far.Files[0].Path = here.Parquet.Files[0], here.Parquet.Files[0] // files that are here
	if got, err := runSQL(t, e, sql, far, dev); err != nil || got != "600001,600001\n" {
		t.Errorf("two refs that share a file: %q, %v", got, err)
	}
	if _, err := runSQL(t, e, "SELECT id FROM orders WHERE id = (SELECT max(x) FROM orders)", farSource(t, here, blobs, files)); !strings.Contains(fmt.Sprint(err), `"x" not found`) {
		t.Error(err)
	}
}

// traffic counts what passes from an S3 server.
type traffic struct{ requests, bytes atomic.Int64 }

// Through is a Fault that breaks nothing.
func (c *traffic) Through(w http.ResponseWriter, r *http.Request, next http.Handler) {
	c.requests.Add(1)
	next.ServeHTTP(&counting{w, c}, r)
}

// take returns what passed since the last time.
func (c *traffic) take() (requests, bytes int64) { return c.requests.Swap(0), c.bytes.Swap(0) }

type counting struct {
	http.ResponseWriter
	c *traffic
}

func (w *counting) Write(p []byte) (int, error) {
	w.c.bytes.Add(int64(len(p)))
	return w.ResponseWriter.Write(p)
}

func (w *counting) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// bucket is a bucket of an S3 server.
func bucket(t *testing.T) (*s3test.Server, blob.Store) {
	t.Helper()
	server := s3test.Start(t)
	at, err := s3blob.Parse("s3://" + server.Bucket(t) + "?endpoint=" + server.URL)
	if err != nil {
		t.Fatal(err)
	}
	store, err := s3blob.Open(t.Context(), at)
	if err != nil {
		t.Fatal(err)
	}
	return server, store
}

// TestBytesFromS3 counts the bytes of a query with two columns and a filter: footers, and the pages of these columns in
// the row groups that may have such rows. A second query fetches nothing, one with another column that column.
func TestBytesFromS3(t *testing.T) {
	t.Parallel()
	e := start(t, query.Options{})
	here := orders(t, e)
	server, store := bucket(t)
	files := away(t, here, store)
	source := farSource(t, here, cached(t, store, 1<<30), files)
	var count traffic
	server.Break(count.Through)
	ask := func(sql, want string, requests, bytes int64) {
		t.Helper()
		got, err := runSQL(t, e, sql, source)
		if err != nil || got != want {
			t.Errorf("%s: got %q, %v, want %q", sql, got, err, want)
		}
		if r, b := count.take(); r != requests || b != bytes {
			t.Errorf("%s: %d requests and %d bytes, want %d and %d", sql, r, b, requests, bytes)
		}
	}
	id, origin, delay, day := int64(1), int64(2), int64(3), int64(5)
	if columns := here.Parquet.Columns; columns[0].FieldID != 1 || columns[1].FieldID != 2 || columns[2].FieldID != 3 {
		t.Fatalf("columns are %v", columns)
	}
	size := func(group int, fields ...int64) (n int64) { return chunks(t, here.Parquet.Files[0], group, fields...) }
	const footer = 32 << 10
	small := files[1].Size // all of it is read at once
	if small > 160<<10 || files[0].Size < 1<<20 {
		t.Fatalf("files of %d and %d bytes", files[0].Size, small)
	}
	const sql = "SELECT origin, delay FROM orders WHERE id BETWEEN 570000 AND 570001"
	ask(sql, "0,0\n1,0.7\n", 3, footer+small+size(1, id, origin, delay)) // neighboring columns come by one request
	ask(sql, "0,0\n1,0.7\n", 0, 0)
	ask("SELECT count(*) FROM orders", "605000\n", 0, 0)
	ask("SELECT day FROM orders WHERE id = 570000", "2021-07-24\n", 1, size(1, day))
	ask("SELECT min(id) FROM orders WHERE delay = 12.5", "875\n", 2, size(0, id, delay)) // with a column between them

	// Of files of somebody else the columns alone decide, by their names.
	source = farSource(t, here, cached(t, store, 1<<30), files)
	source.Parquet.ByName = true
	ask(sql, "0,0\n1,0.7\n", 4, footer+small+size(0, id, origin, delay)+size(1, id, origin, delay))
	ask(sql, "0,0\n1,0.7\n", 0, 0)
	ask("SELECT count(*) FROM orders", "605000\n", 0, 0)
	ask("SELECT max(added) FROM orders", "604999\n", 0, 0) // of the small file alone
	source.Parquet.Columns = nil                           // when it is linked
	ask("SELECT count(*) FROM orders", "605000\n", 0, 0)
}

// chunks are the bytes of the pages of columns in a row group.
func chunks(t *testing.T, path string, group int, fields ...int64) (n int64) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	footer, err := datafile.Footer(f)
	if err != nil {
		t.Fatal(err)
	}
	for i := range footer.Schema.NumColumns() {
		for _, id := range fields {
			if int64(footer.Schema.ColumnRoot(i).FieldID()) != id {
				continue
			}
			chunk, err := footer.RowGroup(group).ColumnChunk(i)
			if err != nil {
				t.Fatal(err)
			}
			n += chunk.TotalCompressedSize()
		}
	}
	return n
}

// TestS3FailsInTheMiddle breaks the store after the footers: a query gives its rows, or an error, and leaves nothing.
func TestS3FailsInTheMiddle(t *testing.T) {
	t.Parallel()
	e := start(t, query.Options{})
	here := orders(t, e)
	server, store := bucket(t)
	files := away(t, here, store)
	const sql = "SELECT sum(id), count(name) FROM orders"
	want, err := runSQL(t, e, sql, here)
	if err != nil {
		t.Fatal(err)
	}
	run := func(fault func(nth int64, w http.ResponseWriter, r *http.Request, next http.Handler)) (string, error) {
		source := farSource(t, here, cached(t, store, 1<<30), files)
		var n atomic.Int64
		server.Break(func(w http.ResponseWriter, r *http.Request, next http.Handler) { fault(n.Add(1), w, r, next) })
		defer server.Break(nil)
		got, err := runSQL(t, e, sql, source)
		if left, e := filepath.Glob(filepath.Join(source.Parquet.Far.Dir, "*")); e != nil || len(left) > 0 {
			t.Errorf("left %v, %v", left, e)
		}
		return got, err
	}
	slow := func(w http.ResponseWriter) { w.WriteHeader(http.StatusServiceUnavailable) }
	got, err := run(func(nth int64, w http.ResponseWriter, r *http.Request, next http.Handler) {
		if nth%3 == 0 {
			slow(w)
			return
		}
		next.ServeHTTP(w, r)
	})
	if err != nil || got != want {
		t.Errorf("a store that is busy for a while: %q, %v", got, err)
	}
	got, err = run(func(nth int64, w http.ResponseWriter, r *http.Request, next http.Handler) {
		if nth > 2 {
			slow(w)
			return
		}
		next.ServeHTTP(w, r)
	})
	if errdef.CodeOf(err) != errdef.Unavailable || got != "" {
		t.Errorf("a store that gets too busy: %q, %v", got, err)
	}
	var once sync.Once
	got, err = run(func(nth int64, w http.ResponseWriter, r *http.Request, next http.Handler) {
		if nth > 2 {
			once.Do(func() {
				server.Break(nil)
				if err := store.Delete(t.Context(), files[0].Name); err != nil {
					t.Error(err)
				}
			})
		}
		next.ServeHTTP(w, r)
	})
	if errdef.CodeOf(err) != errdef.DataLoss || !strings.Contains(err.Error(), files[0].Name) || got != "" {
		t.Errorf("a file that is deleted: %q, %v", got, err)
	}
	if got, err = runSQL(t, e, sql, here); err != nil || got != want {
		t.Errorf("the next query: %q, %v", got, err)
	}
}

// TestHoles reads excerpts that lack what is read: whatever the column, that is an error and no rows.
func TestHoles(t *testing.T) {
	t.Parallel()
	e := start(t, query.Options{})
	here := orders(t, e)
	path := filepath.Join(t.TempDir(), "hole.parquet")
	whole, err := os.ReadFile(here.Parquet.Files[0])
	if err != nil {
		t.Fatal(err)
	}
	const footer = 32 << 10
	hole := append(make([]byte, len(whole)-footer), whole[len(whole)-footer:]...)
	if err := os.WriteFile(path, hole, 0o600); err != nil {
		t.Fatal(err)
	}
	here.Parquet.Files = []string{path}
	for _, c := range here.Parquet.Columns[:11] {
		got, err := runSQL(t, e, fmt.Sprintf("SELECT %q FROM orders", c.Name), here)
		if errdef.CodeOf(err) != errdef.DataLoss || got != "" {
			t.Errorf("%s: %.100q, %v", c.Name, got, err)
		}
	}
}
