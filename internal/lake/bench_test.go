package lake_test

import (
	"context"
	"fmt"
	"sync"
	"testing"

	"tarn.dev/tarn/internal/blob/fsblob"
	"tarn.dev/tarn/internal/lake"
	"tarn.dev/tarn/internal/lake/laketest"
)

// million is how many keys the benchmarks' lake has: the size that the budgets name.
const million = 1_000_000

// bigLake is a lake of a million files in a folder, durable as in use.
func bigLake(b *testing.B) *lake.Lake {
	b.Helper()
	blobs, err := fsblob.Open(b.TempDir())
	if err != nil {
		b.Fatal(err)
	}
	l := laketest.Open(b, blobs, lake.Options{})
	_, err = l.Update(b.Context(), "main", lake.CommitInfo{}, func(ctx context.Context, tx *lake.Tx) error {
		edits := make([]lake.Edit, million)
		for i := range edits {
			e := entry(fmt.Sprintf("%064x", i))
			edits[i] = lake.Edit{Key: lake.FileKey(fmt.Sprintf("images/%03d/%07d.png", i%1000, i)), Entry: &e}
		}
		t, err := l.Tree(lake.Hash{}).Edit(ctx, tx.Batch(), edits)
		tx.SetTree(t)
		return err
	})
	if err != nil {
		b.Fatal(err)
	}
	return l
}

func BenchmarkMillionKeys(b *testing.B) {
	l := bigLake(b)
	n := 0
	next := func() string { n++; return fmt.Sprintf("b%d", n) }
	head := func(b *testing.B, ref string) lake.Commit {
		c, err := l.Resolve(b.Context(), ref)
		if err != nil {
			b.Fatal(err)
		}
		return c
	}
	change := func(b *testing.B, branch, path, version string) lake.Commit {
		c, err := l.Update(b.Context(), branch, lake.CommitInfo{}, edits(path+"="+version))
		if err != nil {
			b.Fatal(err)
		}
		return c
	}
	create := func(b *testing.B) string {
		name := next()
		if _, err := l.CreateBranch(b.Context(), name, head(b, "main").ID, ""); err != nil {
			b.Fatal(err)
		}
		return name
	}
	b.Run("branch create", func(b *testing.B) {
		for b.Loop() {
			create(b)
		}
	})
	b.Run("one-change commit", func(b *testing.B) {
		name := create(b)
		for b.Loop() {
			change(b, name, fmt.Sprintf("images/500/%07d.png", n), next())
		}
	})
	b.Run("diff", func(b *testing.B) {
		name := create(b)
		c := change(b, name, "images/500/0000500.png", "other")
		from := head(b, "main")
		for b.Loop() {
			changes := 0
			for _, err := range l.Tree(from.Tree).Diff(b.Context(), l.Tree(c.Tree), "") {
				if err != nil {
					b.Fatal(err)
				}
				changes++
			}
			if changes != 1 {
				b.Fatal(changes)
			}
		}
	})
	b.Run("merge of one change", func(b *testing.B) {
		for b.Loop() {
			b.StopTimer()
			source, target := create(b), create(b)
			s := change(b, source, "images/500/0000500.png", next())
			change(b, target, "images/900/0000900.png", next())
			b.StartTimer()
			_, _, err := l.Merge(b.Context(), s.ID, target, lake.CommitInfo{}, lake.MergeOptions{}, nil, false)
			if err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("50 updaters", func(b *testing.B) {
		name := create(b)
		for b.Loop() {
			var wg sync.WaitGroup
			for i := range 50 {
				wg.Go(func() {
					if _, err := l.Update(b.Context(), name, lake.CommitInfo{}, edits(fmt.Sprintf("new/%d=%d", i, n))); err != nil {
						b.Error(err)
					}
				})
			}
			wg.Wait()
			n++
		}
		b.ReportMetric(50*float64(b.N)/b.Elapsed().Seconds(), "updates/s")
	})
}
