//go:build fault

package lake_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"tarn.dev/tarn/internal/base/fault/faulttest"
	"tarn.dev/tarn/internal/blob/fsblob"
	"tarn.dev/tarn/internal/lake"
	"tarn.dev/tarn/internal/lake/laketest"
	"tarn.dev/tarn/internal/meta/lease"
	"tarn.dev/tarn/internal/meta/sqlitemeta"
)

// crashDir tells the test binary that it is the child that will be killed, and where its lake is.
const crashDir = "TARN_LAKE_CRASH_DIR"

func TestMain(m *testing.M) {
	if dir := os.Getenv(crashDir); dir != "" {
		if err := crashChild(context.Background(), dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(3)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// crashChild commits, branches and merges, and says on stdout what has been acknowledged.
func crashChild(ctx context.Context, dir string) error {
	blobs, err := fsblob.Open(filepath.Join(dir, "blobs"))
	if err != nil {
		return err
	}
	rows, err := sqlitemeta.Open(filepath.Join(dir, "meta.db"))
	if err != nil {
		return err
	}
	l, err := lake.Open(ctx, blobs, rows, laketest.Prefix, lake.Options{})
	if err != nil {
		return err
	}
	for i := range 4 {
		c, err := l.Update(ctx, "main", lake.CommitInfo{RequestID: fmt.Sprint("main", i)}, edits(fmt.Sprintf("m%d=1", i)))
		if err != nil {
			return err
		}
		fmt.Println("commit", c.ID)
		name := fmt.Sprintf("dev%d", i)
		if _, err := l.CreateBranch(ctx, name, c.ID, ""); err != nil {
			return err
		}
		fmt.Println("branch", name)
		d, err := l.Update(ctx, name, lake.CommitInfo{Message: "put " + name}, func(ctx context.Context, tx *lake.Tx) error {
			ref, err := tx.Batch().PutFile(ctx, strings.NewReader(strings.Repeat("content ", 1000)+name))
			tx.Put(lake.FileKey(name), lake.FileEntry(ref))
			return err
		})
		if err != nil {
			return err
		}
		fmt.Println("commit", d.ID)
		if _, c, err = l.Merge(ctx, d.ID, "main", lake.CommitInfo{Message: "take " + name}, lake.MergeOptions{}, nil, false); err != nil {
			return err
		}
		fmt.Println("commit", c.ID)
		if err := collectBranch(ctx, l, name+"-gone"); err != nil {
			return err
		}
		if err := forgetOne(ctx, l, "secret/"+name); err != nil {
			return err
		}
	}
	// The index is folded in the background when there are many packs.
	for i := 0; i < 100 && strings.Contains(os.Getenv("TARN_FAULT"), indexPoint); i++ {
		c, err := l.Update(ctx, "main", lake.CommitInfo{Message: "more"}, edits(fmt.Sprintf("more=%d", i)))
		if err != nil {
			return err
		}
		fmt.Println("commit", c.ID)
	}
	return l.Close()
}

// collectBranch makes a branch with content of its own, half of it on main as well, removes it, and collects.
func collectBranch(ctx context.Context, l *lake.Lake, name string) error {
	head, err := l.Branch(ctx, "main")
	if err != nil {
		return err
	}
	if _, err := l.CreateBranch(ctx, name, head.Commit, ""); err != nil {
		return err
	}
	for _, branch := range []string{name, "main"} {
		sizes := []int{1000, 3000, 5000}
		if branch == "main" {
			sizes = sizes[:1] // shares a pack with what goes
		}
		_, err := l.Update(ctx, branch, lake.CommitInfo{Message: "fill"}, func(ctx context.Context, tx *lake.Tx) error {
			for _, n := range sizes {
				ref, err := tx.Batch().PutFile(ctx, bytes.NewReader(content(uint64(len(name)*n), n)))
				if err != nil {
					return err
				}
				tx.Put(lake.FileKey(fmt.Sprint(name, n)), lake.FileEntry(ref))
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	if _, err := l.DeleteBranch(ctx, name, ""); err != nil {
		return err
	}
	_, err = l.Collect(ctx, lake.CollectOptions{})
	return err
}

// secret is the content of files that the child forgets; it lies in nodes of trees.
func secret(name string) string { return "SECRET of " + name }

// forgetOne puts a file, removes it, and forgets it.
func forgetOne(ctx context.Context, l *lake.Lake, name string) error {
	key := lake.FileKey(name)
	entry := lake.Entry{}
	_, err := l.Update(ctx, "main", lake.CommitInfo{Message: "put " + name}, func(ctx context.Context, tx *lake.Tx) error {
		ref, err := tx.Batch().PutFile(ctx, strings.NewReader(secret(name)))
		entry = lake.FileEntry(ref)
		tx.Put(key, entry)
		return err
	})
	if err != nil {
		return err
	}
	_, err = l.Update(ctx, "main", lake.CommitInfo{Message: "remove " + name}, func(_ context.Context, tx *lake.Tx) error {
		tx.Delete(key)
		return nil
	})
	if err != nil {
		return err
	}
	fmt.Println("forgetting", key)
	_, err = l.Forget(ctx, []lake.Tombstone{lake.NewTombstone(key, entry)}, lake.CollectOptions{})
	return err
}

// indexPoint begins the names of points that only many packs lead to.
const indexPoint = "lake.index."

// TestDieAtEveryPoint kills a writer at each fault point, at its first and at later hits, or lets it
// fail there, and holds what is left to all invariants and to what the writer had acknowledged.
func TestDieAtEveryPoint(t *testing.T) {
	t.Parallel()
	points, err := faulttest.Names(".")
	if err != nil {
		t.Fatal(err)
	}
	for _, point := range points {
		for _, skip := range []int{0, 1, 3} {
			if strings.HasPrefix(point, indexPoint) && skip > 0 {
				continue // it is not reached so often
			}
			for _, action := range []string{"kill", "error(disk on fire)"} {
				t.Run(fmt.Sprintf("%s at %s after %d", action, point, skip), func(t *testing.T) {
					t.Parallel()
					dir := t.TempDir()
					child := exec.CommandContext(t.Context(), os.Args[0])
					child.Env = append(os.Environ(), crashDir+"="+dir, fmt.Sprintf("TARN_FAULT=%s=%d*off->1*%s", point, skip, action))
					var stderr strings.Builder
					child.Stderr = &stderr
					out, err := child.Output()
					status, ok := child.ProcessState.Sys().(syscall.WaitStatus)
					if !ok {
						t.Fatal(err)
					}
					died := status.Signal() == syscall.SIGKILL
					if action != "kill" {
						// What fails in the background is tried again and is no error of the writer's.
						background := strings.HasPrefix(point, indexPoint) && status.ExitStatus() == 0
						died = background || status.ExitStatus() == 3 && strings.Contains(stderr.String(), "disk on fire")
					}
					if !died {
						t.Fatalf("the child did not die of %s: %v\n%s", action, err, stderr.String())
					}
					survived(t, dir, string(out))
				})
			}
		}
	}
}

// survived reopens the lake, checks what was acknowledged, and works on.
func survived(t *testing.T, dir, acknowledged string) {
	blobs, err := fsblob.Open(filepath.Join(dir, "blobs"))
	if err != nil {
		t.Fatal(err)
	}
	rows, err := sqlitemeta.Open(filepath.Join(dir, "meta.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := rows.Close(); err != nil {
			t.Error(err)
		}
	})
	// The dead child's session is over at once: it is known to be dead, nobody needs to wait for it.
	for dead, err := range lease.Sessions(t.Context(), rows, "s") {
		if err == nil {
			err = lease.FenceGone(t.Context(), rows, dead.Key)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	l := laketest.OpenOn(t, blobs, rows, lake.Options{})
	laketest.Fsck(t.Context(), t, l)
	// Half a collection is no obstacle to the next.
	if _, err := l.Collect(t.Context(), lake.CollectOptions{}); err != nil {
		t.Error(err)
	}
	if stats := laketest.Fsck(t.Context(), t, l); stats.Garbage != 0 {
		t.Errorf("%d blobs without a row are left", stats.Garbage)
	}
	if err := forgottenIsGone(t.Context(), l); err != nil {
		t.Error(err)
	}
	lines := bufio.NewScanner(strings.NewReader(acknowledged))
	for lines.Scan() {
		kind, name, _ := strings.Cut(lines.Text(), " ")
		if kind == "forgetting" {
			continue
		}
		c := resolve(t, l, name)
		if kind == "branch" {
			continue
		}
		for e, err := range l.Tree(c.Tree).Scan(t.Context(), "", "") {
			if err != nil {
				t.Fatalf("%s: %v", e.Key, err)
			}
		}
	}
	// A request that was under way can be sent again, and is done once.
	for range 2 {
		for i := range 4 {
			if _, err := l.Update(t.Context(), "main", lake.CommitInfo{RequestID: fmt.Sprint("main", i)}, edits(fmt.Sprintf("m%d=1", i))); err != nil {
				t.Fatal(err)
			}
		}
	}
	count := 0
	for c, err := range l.Log(t.Context(), resolve(t, l, "main").ID, lake.LogOptions{}) {
		if err != nil {
			t.Fatal(err)
		}
		if c.Message == "" {
			count++
		}
	}
	if count != 4 {
		t.Errorf("4 requests have made %d commits", count)
	}
	put(t, l, "main", "after=1")
}

// forgottenIsGone holds that of what was begun to be forgotten nothing is left after a collection, in any commit.
func forgottenIsGone(ctx context.Context, l *lake.Lake) error {
	return l.History(ctx, []string{lake.FileKey("secret") + "/"}, func(h lake.Held) error {
		if h.Entry.Forgotten == nil {
			return nil
		}
		if !h.Entry.Forgotten.Done {
			return fmt.Errorf("%s is still to be forgotten", h.Key)
		}
		c, err := l.Commit(ctx, h.Commit)
		if err != nil {
			return err
		}
		for node, err := range treeNodes(ctx, l, c.Tree) {
			if err != nil {
				return err
			}
			if strings.Contains(string(node), secret(lake.DisplayKey(h.Key))) {
				return fmt.Errorf("%s is still in a tree of commit %s", h.Key, h.Commit)
			}
		}
		return nil
	})
}
