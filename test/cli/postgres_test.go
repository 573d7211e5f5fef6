package cli

import (
	"fmt"
	"path/filepath"
	"slices"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"tarn.dev/tarn/internal/blob/s3blob/s3test"
	"tarn.dev/tarn/internal/meta/pgmeta/pgtest"
)

// The command line is the same with rows in Postgres, but for what restores a home: that one has its rows itself.
func TestScriptsOnPostgres(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t, "-c", "max_connections=400")
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil {
		t.Fatal(err)
	}
	files = slices.DeleteFunc(files, func(name string) bool { return filepath.Base(name) == "backup.txtar" })
	database := func() string {
		address, err := server.Create()
		if err != nil {
			t.Error(err)
		}
		return address
	}
	testscript.Run(t, scripts(testscript.Params{Files: files}, func() []string { return []string{"TARN_META=" + database()} }))
	store := s3test.Start(t)
	testscript.Run(t, scripts(testscript.Params{Dir: "testdata/postgres"}, func() []string {
		bucket := fmt.Sprintf("s3://%s/%%s?endpoint=%s", store.Bucket(t), store.URL)
		return append(s3test.Env(), "TARN_META="+database(), "OTHER_META="+database(), "OTHER_BLOB="+fmt.Sprintf(bucket, "other"))
	}))
}
