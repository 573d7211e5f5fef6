package duck

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestHeader holds our copy of DuckDB's C header to the one of the linked library: a shim compiled
// against another version would read structs wrongly.
func TestHeader(t *testing.T) {
	t.Parallel()
	out, err := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", "{{.Dir}}", "github.com/duckdb/duckdb-go-bindings").Output()
	if err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile(filepath.Join(strings.TrimSpace(string(out)), "include", "duckdb.h"))
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile("duckdb.h")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Error("duckdb.h is not the linked library's: copy it from the module's include folder")
	}
}
