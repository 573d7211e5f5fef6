package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"tarn.dev/tarn/internal/blob/fsblob"
	"tarn.dev/tarn/internal/lake"
	"tarn.dev/tarn/internal/meta/sqlitemeta"
)

// history is what branches, commits, diffs and merges cost in trees of several sizes: it must follow the change, not the tree.
// Against one durable transaction of SQLite, which is the least that anything durable costs here.
func history(ctx context.Context, b *bench) error {
	unit, err := sqliteTransaction(ctx, filepath.Join(b.dir, "peer.db"))
	if err != nil {
		return err
	}
	sizes := []int{10_000, 100_000, 1_000_000, 10_000_000}
	if b.short {
		sizes = sizes[:2]
	}
	for _, keys := range sizes {
		if err := historyOf(ctx, filepath.Join(b.dir, fmt.Sprint(keys)), keys, unit); err != nil {
			return err
		}
	}
	return nil
}

func historyOf(ctx context.Context, dir string, keys int, unit time.Duration) (err error) {
	if err := forgetPeak(); err != nil {
		return err
	}
	l, closeLake, err := openLake(ctx, dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closeLake(), removeAll(dir)) }()
	h := &historian{lake: l, keys: keys}
	if err := h.fill(ctx); err != nil {
		return err
	}
	peer := fmt.Sprintf("one durable SQLite transaction (%s ms)", number(milliseconds(unit)))
	for _, m := range []struct {
		what   string
		budget *budget
		try    func(context.Context) (time.Duration, error)
	}{
		{"branch create", atMost(2), h.branch},
		{"one-change commit", nil, h.commit},
		{"diff of one change", nil, h.diff},
		{"merge of one change", atMost(10), h.merge},
	} {
		var took []time.Duration
		for range 31 {
			d, err := m.try(ctx)
			if err != nil {
				return err
			}
			took = append(took, d)
		}
		d := median(took)
		row{fmt.Sprintf("%s at %d keys, median", m.what, keys), milliseconds(d), "ms", m.budget, peer, float64(d) / float64(unit)}.print()
	}
	return printPeak(fmt.Sprintf("most memory at %d keys, in the server's part", keys))
}

// openLake makes a lake of its own in a folder.
func openLake(ctx context.Context, dir string) (*lake.Lake, func() error, error) {
	blobs, err := fsblob.Open(filepath.Join(dir, "blobs"))
	if err != nil {
		return nil, nil, err
	}
	rows, err := sqlitemeta.Open(filepath.Join(dir, "meta.db"))
	if err != nil {
		return nil, nil, err
	}
	l, err := lake.Open(ctx, blobs, rows, "p/bench/lake/", lake.Options{})
	if err != nil {
		return nil, nil, errors.Join(err, rows.Close())
	}
	return l, func() error { return errors.Join(l.Close(), rows.Close()) }, nil
}

// historian makes branches and changes, each time others.
type historian struct {
	lake *lake.Lake
	keys int
	n    int
}

func (h *historian) key(i int) string {
	return lake.FileKey(fmt.Sprintf("images/%05d/%08d.png", i/1000, i))
}

// fill makes the tree in commits of many keys each, as who has so many would.
func (h *historian) fill(ctx context.Context) error {
	const at = 100_000
	for from := 0; from < h.keys; from += at {
		_, err := h.lake.Update(ctx, "main", lake.CommitInfo{Message: "fill"}, func(_ context.Context, tx *lake.Tx) error {
			for i := from; i < min(from+at, h.keys); i++ {
				tx.Put(h.key(i), lake.Entry{Kind: lake.KindFile, Version: fmt.Sprintf("%064x", i)})
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// newBranch makes a branch at main.
func (h *historian) newBranch(ctx context.Context) (string, time.Duration, error) {
	h.n++
	head, err := h.lake.Resolve(ctx, "main")
	if err != nil {
		return "", 0, err
	}
	name := fmt.Sprintf("b%d", h.n)
	d, err := best(1, func() error { _, err := h.lake.CreateBranch(ctx, name, head.ID, ""); return err })
	return name, d, err
}

// change makes a commit on a branch that changes one key.
func (h *historian) change(ctx context.Context, branch string, key int) (c lake.Commit, d time.Duration, err error) {
	h.n++
	d, err = best(1, func() error {
		c, err = h.lake.Update(ctx, branch, lake.CommitInfo{Message: "change"}, func(_ context.Context, tx *lake.Tx) error {
			tx.Put(h.key(key), lake.Entry{Kind: lake.KindFile, Version: fmt.Sprintf("changed %d", h.n)})
			return nil
		})
		return err
	})
	return c, d, err
}

func (h *historian) branch(ctx context.Context) (time.Duration, error) {
	_, d, err := h.newBranch(ctx)
	return d, err
}

func (h *historian) commit(ctx context.Context) (time.Duration, error) {
	name, _, err := h.newBranch(ctx)
	if err != nil {
		return 0, err
	}
	_, d, err := h.change(ctx, name, h.n*7919%h.keys)
	return d, err
}

func (h *historian) diff(ctx context.Context) (time.Duration, error) {
	name, _, err := h.newBranch(ctx)
	if err != nil {
		return 0, err
	}
	from, err := h.lake.Resolve(ctx, "main")
	if err != nil {
		return 0, err
	}
	to, _, err := h.change(ctx, name, h.n*7919%h.keys)
	if err != nil {
		return 0, err
	}
	return best(1, func() error {
		changes := 0
		for _, err := range h.lake.Tree(from.Tree).Diff(ctx, h.lake.Tree(to.Tree), "") {
			if err != nil {
				return err
			}
			changes++
		}
		if changes != 1 {
			return fmt.Errorf("%d changes instead of one", changes)
		}
		return nil
	})
}

// merge merges one change into a branch with another one.
func (h *historian) merge(ctx context.Context) (time.Duration, error) {
	source, _, err := h.newBranch(ctx)
	if err != nil {
		return 0, err
	}
	target, _, err := h.newBranch(ctx)
	if err != nil {
		return 0, err
	}
	from, _, err := h.change(ctx, source, h.keys/4)
	if err != nil {
		return 0, err
	}
	if _, _, err := h.change(ctx, target, h.keys/2); err != nil {
		return 0, err
	}
	return best(1, func() error {
		result, _, err := h.lake.Merge(ctx, from.ID, target, lake.CommitInfo{Message: "merge"}, lake.MergeOptions{}, nil, false)
		if err == nil && len(result.Changes) != 1 {
			err = fmt.Errorf("%d changes instead of one", len(result.Changes))
		}
		return err
	})
}

// sqliteTransaction is how long it takes to make one row durable, in the median.
func sqliteTransaction(ctx context.Context, file string) (d time.Duration, err error) {
	db, err := sql.Open("sqlite", "file:"+file+"?_pragma=journal_mode(wal)&_pragma=synchronous(full)")
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	db.SetMaxOpenConns(1)
	if _, err := db.ExecContext(ctx, "CREATE TABLE t (k TEXT PRIMARY KEY, v BLOB)"); err != nil {
		return 0, err
	}
	var took []time.Duration
	for i := range 51 {
		d, err := best(1, func() error {
			_, err := db.ExecContext(ctx, "INSERT INTO t VALUES (?, ?)", fmt.Sprint(i), make([]byte, 100))
			return err
		})
		if err != nil {
			return 0, err
		}
		took = append(took, d)
	}
	return median(took), nil
}
