package pgmeta_test

import (
	"fmt"
	"sync"
	"testing"

	"tarn.dev/tarn/internal/meta"
	"tarn.dev/tarn/internal/meta/pgmeta"
	"tarn.dev/tarn/internal/meta/pgmeta/pgtest"
)

// Three servers write and watch one database at once. A watcher sees every transaction of all of them,
// in order, and none twice: each writes a key of its own, so nothing can be folded.
func TestSeveralServers(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	stores := []*pgmeta.Store{open(t, url), open(t, url), open(t, url)}
	const writers, each = 4, 30
	var watching, writing sync.WaitGroup
	for i, s := range stores {
		events := s.Watch(t.Context(), "k/", -1)
		watching.Go(func() {
			seen, last := map[string]bool{}, int64(0)
			for e, err := range events {
				if err != nil {
					t.Errorf("watch: %v", err)
					return
				}
				if e.Version <= last || seen[e.Key] {
					t.Errorf("%s with number %d after %d, seen before: %v", e.Key, e.Version, last, seen[e.Key])
				}
				seen[e.Key], last = true, e.Version
				if len(seen) == len(stores)*writers*each {
					return
				}
			}
		})
		for w := range writers {
			writing.Go(func() {
				for n := range each {
					key := fmt.Sprintf("k/%d/%d/%d", i, w, n)
					v, err := s.Txn(t.Context(), []meta.Condition{meta.Absent(key)}, []meta.Write{meta.Set(key, nil)})
					if err != nil {
						t.Errorf("txn: %v", err)
						return
					}
					// What one server has acknowledged the others have.
					row, err := stores[(i+1)%len(stores)].Get(t.Context(), key)
					if err != nil || row.Version != v {
						t.Errorf("%s: %d, want %d: %v", key, row.Version, v, err)
					}
				}
			})
		}
		writing.Go(func() {
			for range each {
				increment(t, s, "n")
			}
		})
	}
	writing.Wait()
	watching.Wait()
	for _, s := range stores {
		must(t, s.Close())
	}
}

// Servers that start at once on an empty database make one set of tables.
func TestServersStartAtOnce(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	var wg sync.WaitGroup
	for i := range 6 {
		wg.Go(func() {
			s, err := pgmeta.Open(t.Context(), url)
			if err != nil {
				t.Errorf("open: %v", err)
				return
			}
			if _, err := s.Txn(t.Context(), nil, []meta.Write{meta.Set(fmt.Sprint(i), nil)}); err != nil {
				t.Errorf("txn: %v", err)
			}
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

// A scan of more than is read ahead goes on from its snapshot while its rows are changed, and holds up
// neither the store's other reads nor Close.
func TestLongScan(t *testing.T) {
	t.Parallel()
	s := open(t, pgtest.Database(t))
	const n = 60
	for i := range n {
		must2(s.Txn(t.Context(), nil, []meta.Write{meta.Set(fmt.Sprintf("k/%02d", i), make([]byte, 100_000))}))
	}
	var wg sync.WaitGroup
	for range 12 { // more than the pool has connections
		wg.Go(func() {
			seen := 0
			for row, err := range s.Scan(t.Context(), meta.Prefix("k/")) {
				if err != nil {
					t.Errorf("scan: %v", err)
					return
				}
				if seen++; seen == 30 {
					must2(s.Txn(t.Context(), nil, []meta.Write{meta.Set("l", nil)}))
					if _, err := s.Get(t.Context(), row.Key); err != nil {
						t.Errorf("get: %v", err)
					}
				}
			}
			if seen != n {
				t.Errorf("%d rows", seen)
			}
		})
	}
	wg.Wait()
	for _, err := range s.Scan(t.Context(), meta.Prefix("k/")) {
		must(t, err)
		break // leaves a connection with rows unread
	}
	for i, err := range s.Scan(t.Context(), meta.Prefix("k/")) {
		if i.Key == "k/00" {
			must(t, s.Close())
		}
		if err != nil {
			return
		}
	}
	t.Error("a scan outlived its store")
}
