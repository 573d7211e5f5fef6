//go:build fault

package lake

import (
	"errors"
	"testing"

	"tarn.dev/tarn/internal/base/fault"
)

// TestFaults fails each step of making objects durable: what was flushed before stays, fsck is clean,
// what is left behind is counted as garbage, and the same put succeeds afterwards.
func TestFaults(t *testing.T) { //nolint:paralleltest // points are the process's
	for point, garbage := range map[string]int{
		"lake.pack.before_put":     0,
		"lake.pack.after_put":      1,
		"lake.index.before_put":    0,
		"lake.index.after_put":     1,
		"lake.index.before_row":    1,
		"lake.index.before_delete": 1,
	} {
		t.Run(point, func(t *testing.T) { //nolint:paralleltest // as above
			store := newTestStore(t)
			l := store.open(t, Options{})
			objects := manyPacks(t, l, maxLoosePacks+1)
			l.background.Wait()
			for i := range 20 { // enough for a fold to take the first segment in
				b := l.Begin(t.Context())
				data := randomBytes(uint64(1000+i), 10)
				objects[put(t, b, TypeRecord, data)] = data
				flush(t, b)
			}
			b := l.Begin(t.Context())
			data := randomBytes(1<<20, 10)
			put(t, b, TypeRecord, data)
			if err := fault.Set(point, "1*error(no)"); err != nil {
				t.Fatal(err)
			}
			err := b.Flush(t.Context())
			if err == nil {
				objects[HashOf(TypeRecord, data)] = data
				err = l.fold(t.Context())
			}
			if !errors.Is(err, fault.ErrInjected) {
				t.Fatalf("the point was not passed: %v", err)
			}
			if err := fault.Set(point, ""); err != nil {
				t.Fatal(err)
			}
			b.Discard()

			l = store.open(t, Options{})
			stats, err := l.Fsck(t.Context(), FsckOptions{Deep: true}, func(p Problem) { t.Error(p) })
			if err != nil {
				t.Fatal(err)
			}
			if stats.Garbage != garbage {
				t.Errorf("%d blobs are garbage, want %d", stats.Garbage, garbage)
			}
			b = l.Begin(t.Context())
			objects[put(t, b, TypeRecord, data)] = data
			flush(t, b)
			if err := l.fold(t.Context()); err != nil {
				t.Fatal(err)
			}
			for h, data := range objects {
				wantObject(t, store.open(t, Options{}), TypeRecord, h, data)
			}
		})
	}
}
