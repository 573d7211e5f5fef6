package pgmeta_test

import (
	"sync"
	"testing"

	"tarn.dev/tarn/internal/meta"
	"tarn.dev/tarn/internal/meta/metatest"
	"tarn.dev/tarn/internal/meta/pgmeta"
	"tarn.dev/tarn/internal/meta/pgmeta/pgtest"
)

func TestConformance(t *testing.T) {
	t.Parallel()
	var urls sync.Map
	metatest.Run(t,
		func(t *testing.T) meta.Store {
			url := pgtest.Database(t)
			s := open(t, url)
			urls.Store(s, url)
			return s
		},
		func(t *testing.T, s meta.Store) meta.Store {
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			url, _ := urls.Load(s)
			return open(t, url.(string))
		})
}

func BenchmarkStore(b *testing.B) {
	metatest.Benchmark(b, func(b *testing.B) meta.Store {
		s := open(b, pgtest.Start(b).Database(b))
		b.Cleanup(func() { _ = s.Close() })
		return s
	})
}

func open(t testing.TB, url string) *pgmeta.Store {
	t.Helper()
	s, err := pgmeta.Open(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	return s
}
