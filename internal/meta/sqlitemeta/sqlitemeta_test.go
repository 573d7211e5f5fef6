package sqlitemeta_test

import (
	"path/filepath"
	"testing"

	"tarn.dev/tarn/internal/meta"
	"tarn.dev/tarn/internal/meta/metatest"
	"tarn.dev/tarn/internal/meta/sqlitemeta"
)

func TestConformance(t *testing.T) {
	t.Parallel()
	metatest.Run(t,
		func(t *testing.T) meta.Store { return open(t, filepath.Join(t.TempDir(), "meta.db")) },
		func(t *testing.T, s meta.Store) meta.Store {
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			return open(t, s.(*sqlitemeta.Store).Path())
		})
}

func BenchmarkStore(b *testing.B) {
	metatest.Benchmark(b, func(b *testing.B) meta.Store {
		s := open(b, filepath.Join(b.TempDir(), "meta.db"))
		b.Cleanup(func() { _ = s.Close() })
		return s
	})
}

func open(t testing.TB, path string) *sqlitemeta.Store {
	t.Helper()
	s, err := sqlitemeta.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	return s
}
