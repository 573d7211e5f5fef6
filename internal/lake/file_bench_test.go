package lake

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"

	"tarn.dev/tarn/internal/blob/fsblob"
)

func benchLake(b *testing.B) *Lake {
	b.Helper()
	store := newTestStore(b)
	blobs, err := fsblob.Open(b.TempDir())
	if err != nil {
		b.Fatal(err)
	}
	store.blobs = blobs
	return store.open(b, Options{})
}

// BenchmarkPutSmallFiles puts files of 4 KiB that have never been put; budget: 5,000 files/s.
func BenchmarkPutSmallFiles(b *testing.B) {
	l := benchLake(b)
	data := randomBytes(1, 4096)
	batch := l.Begin(b.Context())
	b.SetBytes(4096)
	for i := 0; b.Loop(); i++ {
		binary.BigEndian.PutUint64(data, uint64(i))
		if _, err := batch.PutFile(b.Context(), bytes.NewReader(data)); err != nil {
			b.Fatal(err)
		}
	}
	flush(b, batch)
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "files/s")
}

// BenchmarkPutSmallFilesAgain puts files that are in the lake.
func BenchmarkPutSmallFilesAgain(b *testing.B) {
	l := benchLake(b)
	data := randomBytes(1, 4096)
	const files = 100_000
	for range 2 {
		batch := l.Begin(b.Context())
		for i := range files {
			binary.BigEndian.PutUint64(data, uint64(i))
			if _, err := batch.PutFile(b.Context(), bytes.NewReader(data)); err != nil {
				b.Fatal(err)
			}
		}
		flush(b, batch)
	}
	l.background.Wait()
	for b.Loop() {
		batch := l.Begin(b.Context())
		for i := range 10_000 {
			binary.BigEndian.PutUint64(data, uint64(i*7919%files))
			if _, err := batch.PutFile(b.Context(), bytes.NewReader(data)); err != nil {
				b.Fatal(err)
			}
		}
		flush(b, batch)
	}
	b.ReportMetric(float64(b.N)*10_000/b.Elapsed().Seconds(), "files/s")
}

// BenchmarkPutLargeFile puts new content of 1 GiB, random and compressible.
func BenchmarkPutLargeFile(b *testing.B) {
	for _, kind := range []string{"random", "text"} {
		b.Run(kind, func(b *testing.B) {
			l := benchLake(b)
			const size = 1 << 30
			b.SetBytes(size)
			for i := 0; b.Loop(); i++ {
				batch := l.Begin(b.Context())
				if _, err := batch.PutFile(b.Context(), io.LimitReader(newSource(kind, uint64(i)), size)); err != nil {
					b.Fatal(err)
				}
				flush(b, batch)
			}
		})
	}
}

// BenchmarkCopyLargeFile is what BenchmarkPutLargeFile/random is measured against: the same bytes into a
// plain file, synced.
func BenchmarkCopyLargeFile(b *testing.B) {
	const size = 1 << 30
	dir := b.TempDir() // new files: writing over old blocks is faster, and no put does that
	b.SetBytes(size)
	for i := 0; b.Loop(); i++ {
		f, err := os.Create(filepath.Join(dir, fmt.Sprint(i)))
		if err != nil {
			b.Fatal(err)
		}
		_, err = io.CopyBuffer(struct{ io.Writer }{f}, io.LimitReader(newSource("random", uint64(i)), size), make([]byte, 256<<10))
		if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkReadLargeFile reads 256 MiB from start to end.
func BenchmarkReadLargeFile(b *testing.B) {
	l := benchLake(b)
	const size = 256 << 20
	batch := l.Begin(b.Context())
	ref, err := batch.PutFile(b.Context(), io.LimitReader(newSource("random", 1), size))
	if err != nil {
		b.Fatal(err)
	}
	flush(b, batch)
	b.SetBytes(size)
	for b.Loop() {
		r, err := l.OpenFile(b.Context(), ref)
		if err != nil {
			b.Fatal(err)
		}
		if n, err := io.Copy(io.Discard, r); n != size || err != nil {
			b.Fatal(n, err)
		}
		if err := r.Close(); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkLookup finds objects among a million, and misses others.
func BenchmarkLookup(b *testing.B) {
	for _, kind := range []string{"hit", "miss"} {
		b.Run(kind, func(b *testing.B) {
			l := benchLake(b)
			locations := make([]location, 1_000_000)
			pack := HashOf(TypeRecord, nil)
			for i := range locations {
				locations[i] = location{pack, place{hash: numbered(i), typ: TypeChunk, codec: codecRaw}}
			}
			row, err := l.putSegmentOf(b.Context(), "bench", []Hash{pack}, locations)
			if err != nil {
				b.Fatal(err)
			}
			s, err := openSegment(b.Context(), l.blobs, "bench", row.Size)
			if err != nil {
				b.Fatal(err)
			}
			b.ReportMetric(float64(len(s.bloom)+4*len(s.ends)+len(s.sums))/1e6, "bytes/object")
			for i := 0; b.Loop(); i++ {
				n := i * 7919 % len(locations)
				if kind == "miss" {
					n = len(locations) + i
				}
				hits, err := s.find(b.Context(), l, numbered(n))
				if err != nil || len(hits) != map[string]int{"hit": 1, "miss": 0}[kind] {
					b.Fatal(len(hits), err)
				}
			}
		})
	}
}

func numbered(i int) Hash { return HashOf(TypeRecord, fmt.Append(nil, i)) }
