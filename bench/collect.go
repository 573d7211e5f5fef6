package main

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"tarn.dev/tarn/internal/lake"
)

// collected is what each file of this benchmark holds, and each commit.
const (
	collectedBytes = 300
	collectedAt    = 10_000
)

// collect frees half of a store's objects: those of a branch that is gone. Against git, which has the same files.
func collect(ctx context.Context, b *bench) (err error) {
	objects := b.size(1_000_000, 100_000)
	if err := forgetPeak(); err != nil {
		return err
	}
	l, closeLake, err := openLake(ctx, filepath.Join(b.dir, "collect"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closeLake()) }()
	if err := halfGarbage(ctx, l, objects); err != nil {
		return err
	}
	took, err := best(1, func() error {
		got, err := l.Collect(ctx, lake.CollectOptions{})
		if err == nil && got.Packs < objects/2/collectedAt {
			err = fmt.Errorf("only %d packs were freed", got.Packs)
		}
		return err
	})
	if err != nil {
		return err
	}
	peer, ratio := "", 0.0
	switch theirs, err := b.gitCollect(ctx, objects); {
	case errors.Is(err, exec.ErrNotFound):
		fmt.Println("git is not there: not compared with it")
	case err != nil:
		return err
	default:
		peer, ratio = fmt.Sprintf("git gc --prune=now (%s s)", number(theirs.Seconds())), took.Seconds()/theirs.Seconds()
	}
	row{fmt.Sprintf("collection of %d objects, half of them dead", objects), took.Seconds(), "s", nil, peer, ratio}.print()
	return printPeak("  most memory, writing them included")
}

// collectedFile is what the i-th file holds.
func collectedFile(i int) []byte {
	data := make([]byte, collectedBytes)
	binary.BigEndian.PutUint64(data, uint64(i))
	return data
}

func collectedName(i int) string { return fmt.Sprintf("d%d/f%d", i/1000, i) }

// halfGarbage fills main with half of the objects, and a branch that it deletes with the other half.
func halfGarbage(ctx context.Context, l *lake.Lake, objects int) error {
	fill := func(branch string, from, to int) error {
		for ; from < to; from += collectedAt {
			_, err := l.Update(ctx, branch, lake.CommitInfo{}, func(ctx context.Context, tx *lake.Tx) error {
				for i := from; i < from+collectedAt; i++ {
					h, err := tx.Batch().Put(ctx, lake.TypeChunk, collectedFile(i))
					if err != nil {
						return err
					}
					tx.Put(lake.FileKey(collectedName(i)), lake.FileEntry(lake.FileRef{Hash: h, Size: collectedBytes, Root: h}))
				}
				return nil
			})
			if err != nil {
				return err
			}
		}
		return nil
	}
	if err := fill(lake.MainBranch, 0, objects/2); err != nil {
		return err
	}
	head, err := l.Resolve(ctx, lake.MainBranch)
	if err != nil {
		return err
	}
	if _, err := l.CreateBranch(ctx, "dev", head.ID, ""); err != nil {
		return err
	}
	if err := fill("dev", objects/2, objects); err != nil {
		return err
	}
	_, err = l.DeleteBranch(ctx, "dev", "")
	return err
}

// gitCollect is how long git takes for the same: half of the files only on a branch that is gone.
func (b *bench) gitCollect(ctx context.Context, objects int) (time.Duration, error) {
	if _, err := exec.LookPath("git"); err != nil {
		return 0, err
	}
	dir := filepath.Join(b.dir, "collect.git")
	if _, err := b.command(ctx, b.dir, "git", "init", "-q", "--bare", dir); err != nil {
		return 0, err
	}
	cmd := exec.CommandContext(ctx, "git", "fast-import", "--quiet")
	cmd.Dir, cmd.Stderr = dir, os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return 0, err
	}
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	if err := errors.Join(fastImport(in, objects), in.Close(), cmd.Wait()); err != nil {
		return 0, fmt.Errorf("git fast-import: %w", err)
	}
	if _, err := b.command(ctx, dir, "git", "update-ref", "-d", "refs/heads/dev"); err != nil {
		return 0, err
	}
	return best(1, func() error { _, err := b.command(ctx, dir, "git", "gc", "--quiet", "--prune=now"); return err })
}

// fastImport writes the files and commits in the language of git fast-import.
func fastImport(to io.Writer, objects int) error {
	w := bufio.NewWriter(to)
	commit := func(branch string, from, to int, after string) {
		fmt.Fprintf(w, "commit refs/heads/%s\ncommitter bench <bench@example.org> 0 +0000\ndata 0\n%s", branch, after)
		for i := from; i < to; i++ {
			data := hex.EncodeToString(collectedFile(i))[:collectedBytes]
			fmt.Fprintf(w, "M 100644 inline %s\ndata %d\n%s\n", collectedName(i), len(data), data)
		}
	}
	for from := 0; from < objects/2; from += collectedAt {
		commit("main", from, from+collectedAt, "")
	}
	after := "from refs/heads/main\n"
	for from := objects / 2; from < objects; from += collectedAt {
		commit("dev", from, from+collectedAt, after)
		after = ""
	}
	return w.Flush()
}
