package cli

import (
	"path/filepath"
	"sync/atomic"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"tarn.dev/tarn/internal/blob/s3blob/s3test"
)

// Scripts that store and read say the same when the data is in a bucket, also when no copy of it is kept here
// longer than it is used.
func TestScriptsInBucket(t *testing.T) {
	t.Parallel()
	server := s3test.Start(t)
	var files []string
	for _, name := range []string{
		"asset-owned", "branch", "check", "diff", "file-get", "file-put", "file-rm", "golden-check", "golden-columns", "golden-dbt", "items", "log", "merge",
		"provenance", "query", "revert", "run", "runs", "show", "table", "table-import", "table-rules",
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
