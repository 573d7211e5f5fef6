package image

import (
	"os"
	"path/filepath"
	"testing"
)

func TestCompile(t *testing.T) {
	t.Parallel()
	s, err := Open(t.TempDir(), os.Environ(), nil)
	if err != nil {
		t.Fatal(err)
	}
	python, err := s.choose(t.Context(), "test", pyRange{})
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	source := filepath.Join(dir, "pkg", "m.py")
	if err := os.MkdirAll(filepath.Dir(source), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(source, []byte("x = 1\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	compiled := func() int {
		found, err := filepath.Glob(filepath.Join(dir, "pkg", "__pycache__", "m.*.pyc"))
		if err != nil {
			t.Fatal(err)
		}
		return len(found)
	}
	if err := s.Compile(t.Context(), python.Path, dir); err != nil || compiled() != 1 {
		t.Fatalf("%v, %d compiled files", err, compiled())
	}
	// The second call does nothing: it needs no interpreter any more.
	if err := os.RemoveAll(filepath.Join(dir, "pkg", "__pycache__")); err != nil {
		t.Fatal(err)
	}
	if err := s.Compile(t.Context(), python.Path, dir); err != nil || compiled() != 0 {
		t.Fatalf("%v, %d compiled files", err, compiled())
	}
	if err := s.Compile(t.Context(), filepath.Join(dir, "no-python"), dir); err == nil {
		t.Fatal("an interpreter that is not there compiled something")
	}
}
