package cli

import (
	"path/filepath"
	"slices"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

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
	files = append(files, "testdata/postgres/backup-rows.txtar")
	testscript.Run(t, scripts(testscript.Params{Files: files}, func() []string {
		address, err := server.Create()
		if err != nil {
			t.Error(err)
		}
		return []string{"TARN_META=" + address}
	}))
}
