package sqlitemeta_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"tarn.dev/tarn/internal/meta"
)

// What was deleted or overwritten is in none of the database's files, also what lay in pages of its own, or in pages that
// were split since.
func TestScrub(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	dir := t.TempDir()
	s := open(t, filepath.Join(dir, "meta.db"))
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	write := func(value func(i int) meta.Write) {
		t.Helper()
		var writes []meta.Write
		for i := range 500 {
			writes = append(writes, value(i))
		}
		if _, err := s.Txn(ctx, nil, writes); err != nil {
			t.Fatal(err)
		}
	}
	key := func(i int) string { return fmt.Sprintf("k/%04d", i*7919%500) }
	holds := func() bool {
		t.Helper()
		files, err := filepath.Glob(filepath.Join(dir, "*"))
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range files {
			data, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			if bytes.Contains(data, []byte("SECRET")) {
				return true
			}
		}
		return false
	}
	for _, size := range []int{1, 40, 2000} {
		write(func(i int) meta.Write { return meta.Set(key(i), []byte(strings.Repeat("SECRET", size))) })
		if !holds() {
			t.Fatal("nothing was written")
		}
		write(func(i int) meta.Write {
			if i%2 == 0 {
				return meta.Delete(key(i))
			}
			return meta.Set(key(i), []byte("other"))
		})
		if err := s.Scrub(ctx); err != nil {
			t.Fatal(err)
		}
		if holds() {
			t.Errorf("values of %d bytes are still in the files", size*6)
		}
	}
	if row, err := s.Get(ctx, key(1)); err != nil || string(row.Value) != "other" {
		t.Errorf("a row that stayed is %q, %v", row.Value, err)
	}
}
