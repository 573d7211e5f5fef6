package cli

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/blob/s3blob/s3test"
)

// Scripts that store and read say the same when the data is in a bucket, also when no copy of it is kept here
// longer than it is used.
func TestScriptsInBucket(t *testing.T) {
	t.Parallel()
	server := s3test.Start(t)
	var files []string
	for _, name := range []string{
		"asset-owned", "branch", "check", "debug", "diff", "file-get", "file-put", "file-rm", "golden-check", "golden-columns", "golden-dbt", "items", "log", "merge",
		"project-rm", "provenance", "query", "revert", "run", "runs", "show", "table", "table-import", "table-rules",
	} {
		files = append(files, filepath.Join("testdata", name+".txtar"))
	}
	var n atomic.Int64
	testscript.Run(t, scripts(testscript.Params{Files: files}, func() []string {
		cache := "TARN_BLOB_CACHE=0"
		if n.Add(1)%2 == 0 {
			cache = "TARN_BLOB_CACHE=1GiB"
		}
		return append(s3test.Env(), cache, "TARN_BLOB=s3://"+server.Bucket(t)+"/a/b?endpoint="+server.URL)
	}))
}

// What a home remembers of its bucket, and what is said when the bucket cannot be used.
func TestBucketOfAHome(t *testing.T) {
	t.Parallel()
	server := s3test.Start(t)
	testscript.Run(t, scripts(testscript.Params{Dir: "testdata/bucket"}, func() []string {
		return append(s3test.Env(), "BUCKET="+server.Bucket(t), "OTHER="+server.Bucket(t), "ENDPOINT="+server.URL)
	}))
}

// A store that is away fails what needs it, and nothing of that is visible; what was there is there when it is back.
func TestBucketIsAway(t *testing.T) {
	t.Parallel()
	server := s3test.Start(t)
	p := newPlace(t)
	p.env = append(append(p.env, s3test.Env()...), "TARN_BLOB=s3://"+server.Bucket(t)+"?endpoint="+server.URL)
	p.must("file", "put", "tarn.toml", "before")
	server.Break(func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
		w.WriteHeader(http.StatusServiceUnavailable)
	})
	out, err := p.command("file", "put", "tarn.toml", "after").CombinedOutput()
	if code := exitCode(t, err); code != errdef.Unavailable.Row().Exit || !strings.Contains(string(out), "try again") {
		t.Errorf("exit code %d: %s", code, out)
	}
	server.Break(nil)
	if got := p.must("file", "ls", "-r"); !strings.Contains(got, "before") || strings.Contains(got, "after") {
		t.Errorf("main holds %s", got)
	}
	p.must("file", "put", "tarn.toml", "after")
	p.must("fsck", "--deep")
}

// A store that fails often, loses answers and breaks connections loses nothing, and nobody notices.
func TestBucketIsUnreliable(t *testing.T) {
	t.Parallel()
	server := s3test.Start(t)
	p := newPlace(t)
	p.env = append(append(p.env, s3test.Env()...), "TARN_BLOB_CACHE=0", "TARN_BLOB=s3://"+server.Bucket(t)+"?endpoint="+server.URL)
	p.must("query", "select 1 as n")
	var n, broken atomic.Int64
	server.Break(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		switch n.Add(1) % 7 {
		case 0, 3:
			broken.Add(1)
			w.WriteHeader(http.StatusServiceUnavailable)
		case 2: // done, and not answered
			broken.Add(1)
			next.ServeHTTP(httptest.NewRecorder(), r)
			panic(http.ErrAbortHandler)
		case 5: // before all of the answer has come
			broken.Add(1)
			next.ServeHTTP(&half{ResponseWriter: w, left: 1000}, r)
		default:
			next.ServeHTTP(w, r)
		}
	})
	const rows = 200_000
	p.must("query", fmt.Sprintf("create table numbers as select range as n, md5(range::varchar) as h from range(%d)", rows))
	big := strings.Repeat("0123456789abcdef\n", 200_000)
	if err := os.WriteFile(filepath.Join(p.dir, "big"), []byte(big), 0o600); err != nil {
		t.Fatal(err)
	}
	p.must("file", "put", "big", "big")
	if got := p.must("query", "--format", "csv", "select count(*) as n, sum(n)::bigint as s from numbers"); !strings.Contains(got, fmt.Sprintf("%d,%d", rows, rows*(rows-1)/2)) {
		t.Errorf("the table holds %s", got)
	}
	if got := p.must("file", "cat", "big"); got != big {
		t.Errorf("the file has %d bytes", len(got))
	}
	p.must("fsck", "--deep")
	if broken.Load() < 20 {
		t.Errorf("only %d requests were broken", broken.Load())
	}
}

// Of a table in a bucket a query fetches metadata, footers and the columns that it reads, and the next one nothing: not
// from a server that has started anew either.
func TestQueryFetchesOnce(t *testing.T) {
	t.Parallel()
	server := s3test.Start(t)
	p := newPlace(t)
	p.env = append(append(p.env, s3test.Env()...), "TARN_BLOB=s3://"+server.Bucket(t)+"?endpoint="+server.URL)
	p.must("query", "create table numbers as select range as n, md5(range::varchar) as h from range(600000)") // 20 MB, nearly all of it h
	p.must("server", "stop")
	if err := os.RemoveAll(p.home.BlobCache()); err != nil {
		t.Fatal(err)
	}
	var requests, bytes atomic.Int64
	server.Break(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if strings.Contains(r.URL.Path, "/tables/") {
			requests.Add(1)
			w = &measured{w, &bytes}
		}
		next.ServeHTTP(w, r)
	})
	for i, again := range []bool{false, true, true} {
		if got := p.must("query", "--format", "csv", "select count(*), sum(n)::bigint from numbers where n > 5"); !strings.Contains(got, "599994,179999699985") {
			t.Errorf("query %d: %s", i, got)
		}
		if n, b := requests.Swap(0), bytes.Swap(0); again && n > 0 || !again && (n == 0 || b > 4<<20) {
			t.Errorf("query %d: %d requests and %d bytes", i, n, b)
		}
		if again {
			p.must("server", "stop")
		}
	}
	requests.Store(0)
	p.must("fsck", "--deep")
	if requests.Load() == 0 {
		t.Error("fsck looked at copies")
	}
}

// measured counts what is answered.
type measured struct {
	http.ResponseWriter
	n *atomic.Int64
}

func (m *measured) Write(b []byte) (int, error) {
	m.n.Add(int64(len(b)))
	return m.ResponseWriter.Write(b)
}

// half breaks the connection after so many bytes of an answer.
type half struct {
	http.ResponseWriter
	left int
}

func (h *half) Write(b []byte) (int, error) {
	n, err := h.ResponseWriter.Write(b[:min(len(b), h.left)])
	if h.left -= n; h.left == 0 {
		panic(http.ErrAbortHandler)
	}
	return n, err
}
