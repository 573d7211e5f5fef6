package lake_test

import (
	"errors"
	"testing"
	"time"

	"tarn.dev/tarn/internal/lake"
	"tarn.dev/tarn/internal/lake/laketest"
)

// A deleted branch comes back where it was, or where it was before, as long as garbage collection keeps it.
func TestUndelete(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	l := laketest.New(t)
	branch(t, l, "dev/x", "main")
	earlier := put(t, l, "dev/x", "a=1")
	last := put(t, l, "dev/x", "a=2")
	remove := func() {
		t.Helper()
		if _, err := l.DeleteBranch(ctx, "dev/x", ""); err != nil {
			t.Fatal(err)
		}
	}
	undelete := func(at lake.Hash, request string) (lake.Ref, error) {
		return l.UndeleteBranch(ctx, "dev/x", at, lake.CommitInfo{Author: "ann", RequestID: request})
	}

	if _, err := undelete(lake.Hash{}, ""); !errors.Is(err, lake.ErrRefExists) {
		t.Errorf("a branch that was not deleted: %v", err)
	}
	remove()
	collect(t, l, lake.CollectOptions{Keep: time.Hour})
	for range 2 { // the same request
		if ref, err := undelete(lake.Hash{}, "back"); err != nil || ref.Commit != last.ID {
			t.Fatalf("it came back as %v, %v; want %v", ref, err, last.ID)
		}
	}
	remove()
	if _, err := undelete(lake.Hash{1}, ""); !errors.Is(err, lake.ErrNeverThere) {
		t.Errorf("where it never was: %v", err)
	}
	if ref, err := undelete(earlier.ID, ""); err != nil || ref.Commit != earlier.ID {
		t.Fatalf("it came back as %v, %v; want %v", ref, err, earlier.ID)
	}
	if got := collect(t, l, lake.CollectOptions{}); got.Commits != 1 {
		t.Errorf("of a branch that came back at an earlier commit, %d commits went, not 1", got.Commits)
	}
	if d := files(t, l.Tree(resolve(t, l, "dev/x").Tree)); len(d) != 1 || d[0] != "a=1" {
		t.Errorf("it holds %v", d)
	}

	var whys []string
	var newest time.Time
	for m, err := range l.Reflog(ctx, "dev/x") {
		if err != nil {
			t.Fatal(err)
		}
		if !newest.IsZero() && !m.Time.Before(newest) {
			t.Errorf("the move at %s is not before the one at %s", m.Time, newest)
		}
		newest = m.Time
		whys = append(whys, m.Why+m.Author+m.Request)
	}
	if len(whys) == 0 || whys[0] != "undeleteann" {
		t.Errorf("moves are %v", whys)
	}

	remove()
	collect(t, l, lake.CollectOptions{})
	if _, err := undelete(lake.Hash{}, ""); !errors.Is(err, lake.ErrBranchNotFound) {
		t.Errorf("after its time: %v", err)
	}
}
