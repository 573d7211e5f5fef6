package blobtest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/blob"
)

// RunFiles checks what a blob.FileStore promises beyond a blob.Store. Each call of open returns an empty store.
func RunFiles(t *testing.T, open func(t *testing.T) blob.FileStore) {
	for name, test := range map[string]func(*testing.T, blob.FileStore){
		"file_holds_the_blob":       fileHolds,
		"file_of_a_given_file":      fileOfGiven,
		"file_of_none":              fileOfNone,
		"file_after_delete_and_put": fileAfterDelete,
		"files_at_once":             filesAtOnce,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, open(t))
		})
	}
}

func fileHolds(t *testing.T, s blob.FileStore) {
	for _, data := range []string{"", "x", string(randomBytes(3<<20 + 1))} {
		name := fmt.Sprintf("a/b=1/%d.bin", len(data))
		put(t, s, name, data)
		for range 2 {
			equal(t, readFile(t, s, name), data)
		}
	}
}

func fileOfGiven(t *testing.T, s blob.FileStore) {
	path := filepath.Join(t.TempDir(), "given")
	must(t, os.WriteFile(path, []byte("content"), 0o600))
	f, err := os.Open(path)
	must(t, err)
	must(t, s.Put(t.Context(), "a", blob.Given{File: f}))
	must(t, errors.Join(f.Close(), os.Remove(path)))
	equal(t, readFile(t, s, "a"), "content")
	equal(t, get(t, s, "a", 0, -1), "content")
}

func fileOfNone(t *testing.T, s blob.FileStore) {
	put(t, s, "a/b", "x")
	for _, name := range []string{"none", "a", "a/b/c"} {
		_, err := s.File(t.Context(), name)
		wantErr(t, err, blob.ErrNotFound)
	}
	for _, name := range hostile {
		_, err := s.File(t.Context(), name)
		wantErr(t, err, blob.ErrInvalidName)
	}
	if _, err := s.File(context.WithoutCancel(t.Context()), "a/b"); errdef.CodeOf(err) != errdef.Internal {
		t.Errorf("of a context that never ends: %v", err)
	}
	why := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(why)
	_, err := s.File(ctx, "a/b")
	wantErr(t, err, why)
}

func fileAfterDelete(t *testing.T, s blob.FileStore) {
	for i := range 3 {
		put(t, s, "a", fmt.Sprint(i))
		equal(t, readFile(t, s, "a"), fmt.Sprint(i))
		must(t, s.Delete(t.Context(), "a"))
		_, err := s.File(t.Context(), "a")
		wantErr(t, err, blob.ErrNotFound)
	}
}

func filesAtOnce(t *testing.T, s blob.FileStore) {
	for i := range 4 {
		put(t, s, fmt.Sprint(i), strings.Repeat(fmt.Sprint(i), 100_000))
	}
	var wg sync.WaitGroup
	for i := range 32 {
		wg.Go(func() {
			name := fmt.Sprint(i % 4)
			path, err := s.File(t.Context(), name)
			if err != nil {
				t.Error(err)
				return
			}
			if data, err := os.ReadFile(path); err != nil || string(data) != strings.Repeat(name, 100_000) {
				t.Errorf("%s: %d bytes, %v", name, len(data), err)
			}
		})
	}
	wg.Wait()
}

func readFile(t *testing.T, s blob.FileStore, name string) string {
	t.Helper()
	path, err := s.File(t.Context(), name)
	must(t, err)
	data, err := os.ReadFile(path)
	must(t, err)
	return string(data)
}
