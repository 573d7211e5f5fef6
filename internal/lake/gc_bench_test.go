package lake

import (
	"context"
	"encoding/binary"
	"fmt"
	"runtime"
	"testing"

	"tarn.dev/tarn/internal/blob/fsblob"
	"tarn.dev/tarn/internal/meta/sqlitemeta"
)

// BenchmarkCollect frees half of a lake's objects: those of a branch that is gone. It prints what an object
// costs, and what marks of the other half take in memory.
func BenchmarkCollect(b *testing.B) {
	const at = 10_000
	for _, n := range []int{100_000, 1_000_000} {
		b.Run(fmt.Sprint(n, " objects"), func(b *testing.B) {
			for range b.N {
				b.StopTimer()
				l, head := halfGarbage(b, n, at)
				m := l.newMark(nil)
				before := heapMB()
				if err := m.commit(b.Context(), head.ID); err != nil {
					b.Fatal(err)
				}
				b.ReportMetric(heapMB()-before, "MB-of-marks")
				runtime.KeepAlive(m)
				b.StartTimer()
				got, err := l.Collect(b.Context(), CollectOptions{})
				b.StopTimer()
				if err != nil || got.Packs != n/2/at {
					b.Fatalf("%+v, %v", got, err)
				}
				if err := l.Close(); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N)/float64(n), "us/object")
		})
	}
}

func heapMB() float64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return float64(m.HeapAlloc) / (1 << 20)
}

// halfGarbage is a lake whose main has n/2 small files; a branch that was deleted had n/2 more.
func halfGarbage(b *testing.B, n, at int) (*Lake, Commit) {
	b.Helper()
	dir := b.TempDir()
	rows, err := sqlitemeta.Open(dir + "/meta.db")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = rows.Close() })
	blobs, err := fsblob.Open(dir + "/blobs")
	if err != nil {
		b.Fatal(err)
	}
	ctx := b.Context()
	l, err := Open(ctx, blobs, rows, "l/", Options{})
	if err != nil {
		b.Fatal(err)
	}
	fill := func(branch string, from, to int) {
		for ; from < to; from += at {
			_, err := l.Update(ctx, branch, CommitInfo{}, func(ctx context.Context, tx *Tx) error {
				data := make([]byte, 300)
				for i := from; i < from+at; i++ {
					binary.BigEndian.PutUint64(data, uint64(i))
					h, err := tx.Batch().Put(ctx, TypeChunk, data)
					if err != nil {
						return err
					}
					tx.Put(FileKey(fmt.Sprintf("d%d/f%d", i/1000, i)), FileEntry(FileRef{Hash: h, Size: int64(len(data)), Root: h}))
				}
				return nil
			})
			if err != nil {
				b.Fatal(err)
			}
		}
	}
	fill(MainBranch, 0, n/2)
	head, err := l.Resolve(ctx, MainBranch)
	if err != nil {
		b.Fatal(err)
	}
	if _, err := l.CreateBranch(ctx, "dev", head.ID, ""); err != nil {
		b.Fatal(err)
	}
	fill("dev", n/2, n)
	if _, err := l.DeleteBranch(ctx, "dev", ""); err != nil {
		b.Fatal(err)
	}
	return l, head
}
