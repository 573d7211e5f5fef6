package fsblob_test

import (
	"errors"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"tarn.dev/tarn/internal/blob"
	"tarn.dev/tarn/internal/blob/blobtest"
	"tarn.dev/tarn/internal/blob/fsblob"
)

func TestConformance(t *testing.T) {
	t.Parallel()
	blobtest.Run(t, func(t *testing.T) blob.Store { return open(t, t.TempDir()) })
	blobtest.RunFiles(t, func(t *testing.T) blob.FileStore { return open(t, t.TempDir()) })
}

func BenchmarkStore(b *testing.B) {
	blobtest.Benchmark(b, func(b *testing.B) blob.Store { return open(b, b.TempDir()) })
}

func open(t testing.TB, dir string) blob.FileStore {
	t.Helper()
	s, err := fsblob.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestGivenFileIsKeptWithoutACopy(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s, err := fsblob.Open(filepath.Join(dir, "store"))
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "given")
	if err := os.WriteFile(path, []byte("content"), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := s.Put(t.Context(), "a/b", blob.Given{File: f}); err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse(s.URI("a/b"))
	if err != nil {
		t.Fatal(err)
	}
	kept, err := os.Stat(u.Path)
	if err != nil {
		t.Fatal(err)
	}
	given, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	if !os.SameFile(kept, given) || kept.Mode().Perm() != 0o444 {
		t.Errorf("the store holds %v with mode %v, not the given file read-only", kept.Name(), kept.Mode())
	}
	if err := s.Put(t.Context(), "a/b", blob.Given{File: f}); !errors.Is(err, blob.ErrExists) {
		t.Errorf("second put: %v, want ErrExists", err)
	}
}

// A folder that is read only is left as it is.
func TestOpenReading(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "a"), []byte("content"), 0o400); err != nil {
		t.Fatal(err)
	}
	s, err := fsblob.OpenReading(dir)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := s.Stat(t.Context(), "a"); err != nil || info.Size != 7 {
		t.Errorf("%+v %v", info, err)
	}
	if err := s.Put(t.Context(), "b", strings.NewReader("x")); !errors.Is(err, fsblob.ErrPermission) {
		t.Error(err)
	}
	if err := s.Delete(t.Context(), "a"); !errors.Is(err, fsblob.ErrPermission) {
		t.Error(err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
		t.Errorf("%v %v", left, err)
	}
	if _, err := fsblob.OpenReading(filepath.Join(dir, "none")); err == nil {
		t.Error("a folder that is not there was opened")
	}
}
