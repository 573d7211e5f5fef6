// Package laketest makes lakes for tests, and holds each of them to the invariants at the end of its
// test: fsck is the oracle of everything that writes to a lake.
package laketest

import (
	"context"
	"path/filepath"
	"testing"

	"tarn.dev/tarn/internal/blob"
	"tarn.dev/tarn/internal/blob/fsblob"
	"tarn.dev/tarn/internal/blob/memblob"
	"tarn.dev/tarn/internal/lake"
	"tarn.dev/tarn/internal/meta"
	"tarn.dev/tarn/internal/meta/sqlitemeta"
)

// Prefix is where the rows of these lakes are.
const Prefix = "p/test/lake/"

// New returns a lake in memory, with its rows in a SQLite file of the test's own folder.
func New(t testing.TB) *lake.Lake {
	t.Helper()
	return Open(t, memblob.New(), lake.Options{})
}

// NewDir returns a lake whose blobs are files in a folder of the test's own.
func NewDir(t testing.TB) *lake.Lake {
	t.Helper()
	blobs, err := fsblob.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return Open(t, blobs, lake.Options{})
}

// Open returns a lake on blobs, with its rows in a SQLite file of the test's own folder.
func Open(t testing.TB, blobs blob.Store, opt lake.Options) *lake.Lake {
	t.Helper()
	rows, err := sqlitemeta.Open(filepath.Join(t.TempDir(), "meta.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := rows.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return OpenOn(t, blobs, rows, opt)
}

// OpenOn returns a lake on both stores, which may have another one already.
func OpenOn(t testing.TB, blobs blob.Store, rows meta.Store, opt lake.Options) *lake.Lake {
	t.Helper()
	l, err := lake.Open(t.Context(), blobs, rows, Prefix, opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		// The test's own context has ended by now.
		ctx := context.Background()
		Fsck(ctx, t, l)
		if err := l.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return l
}

// Fsck fails the test for every problem of the lake.
func Fsck(ctx context.Context, t testing.TB, l *lake.Lake) lake.Stats {
	t.Helper()
	stats, err := l.Fsck(ctx, lake.FsckOptions{Deep: true}, func(p lake.Problem) { t.Errorf("fsck: %s", p) })
	if err != nil {
		t.Errorf("fsck: %v", err)
	}
	return stats
}
