package sqlitemeta

import (
	"errors"
	"fmt"
	"path/filepath"
	"testing"

	"tarn.dev/tarn/internal/meta"
)

// A watcher that comes back after deletions were forgotten is told so; one that starts at 0 needs none.
func TestCursorExpires(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "meta.db")
	s, err := open(path, 20)
	if err != nil {
		t.Fatal(err)
	}
	var first, last int64
	for i := range 50 {
		key := fmt.Sprintf("k/%d", i)
		for _, w := range []meta.Write{meta.Set(key, nil), meta.Delete(key)} {
			if last, err = s.Txn(t.Context(), nil, []meta.Write{w}); err != nil {
				t.Fatal(err)
			}
			if first == 0 {
				first = last
			}
		}
	}
	var left int
	if err := s.readers.QueryRow(`SELECT count(*) FROM gone`).Scan(&left); err != nil || left > 20 {
		t.Errorf("%d deletions are remembered, %v", left, err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if s, err = open(path, 20); err != nil { // the horizon outlives the process
		t.Fatal(err)
	}
	for cursor, want := range map[int64]bool{first: true, last - 30: true, last - 5: false, 0: false} {
		for _, err := range s.Watch(t.Context(), "k/", cursor) {
			if errors.Is(err, meta.ErrCursorExpired) != want || (err != nil && !want) {
				t.Errorf("watch from %d of %d: %v", cursor, last, err)
			}
			break
		}
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}
