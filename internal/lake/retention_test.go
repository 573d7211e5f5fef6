package lake_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"tarn.dev/tarn/internal/lake"
	"tarn.dev/tarn/internal/lake/laketest"
)

func retain(t *testing.T, l *lake.Lake, branch string, r lake.Retention) {
	t.Helper()
	if _, err := l.Retain(t.Context(), branch, r, lake.CommitInfo{}); err != nil {
		t.Fatal(err)
	}
}

// history lists a branch's commits, the newest first.
func history(t *testing.T, l *lake.Lake, ref string) (ids []lake.Hash) {
	t.Helper()
	for c, err := range l.Log(t.Context(), resolve(t, l, ref).ID, lake.LogOptions{}) {
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, c.ID)
	}
	return ids
}

// What a branch does not keep goes, with its bytes; the history ends there and says so, also for others that
// open the lake, and time and again.
func TestRetention(t *testing.T) {
	t.Parallel()
	blobs, rows := stores(t)
	l := laketest.OpenOn(t, blobs, rows, lake.Options{})
	for i := range 20 {
		putContent(t, l, "main", "x", content(uint64(i), 50_000))
	}
	all := history(t, l, "main")
	before := storedIn(t, blobs)
	retain(t, l, "main", lake.Retention{Keep: time.Hour, Last: 5})
	if got := collect(t, l, lake.CollectOptions{}); got.Commits != 0 {
		t.Fatalf("all are young: %+v", got)
	}
	retain(t, l, "main", lake.Retention{Keep: time.Nanosecond, Last: 5})
	would := collect(t, l, lake.CollectOptions{DryRun: true})
	got := collect(t, l, lake.CollectOptions{})
	if got != would || got.Commits != 16 || got.Bytes < 15*50_000 || before-storedIn(t, blobs) < 15*50_000 {
		t.Fatalf("freed %+v, would have freed %+v", got, would)
	}
	for _, l := range []*lake.Lake{l, laketest.OpenOn(t, blobs, rows, lake.Options{})} {
		if left := history(t, l, "main"); !slices.Equal(left, all[:5]) {
			t.Errorf("left are %v of %v", left, all)
		}
		last := resolve(t, l, "main~4")
		if !slices.Equal(last.Cut, last.Parents) || len(last.Kept()) != 0 {
			t.Errorf("the last one: %+v", last)
		}
		for _, ref := range []string{"main~5", "main~9"} {
			if _, err := l.Resolve(t.Context(), ref); !errors.Is(err, lake.ErrCut) {
				t.Errorf("%s: %v", ref, err)
			}
		}
		if _, err := l.Resolve(t.Context(), all[7].String()); !errors.Is(err, lake.ErrRefNotFound) {
			t.Errorf("a commit that is gone: %v", err)
		}
		if _, _, err := l.Revert(t.Context(), last.ID, "main", lake.CommitInfo{}, lake.MergeOptions{}, nil); !errors.Is(err, lake.ErrCut) {
			t.Errorf("revert of the last one: %v", err)
		}
		laketest.Fsck(t.Context(), t, l)
	}
	if got := collect(t, l, lake.CollectOptions{}); got != (lake.Collected{}) {
		t.Errorf("again: %+v", got)
	}
	putContent(t, l, "main", "y", content(100, 50_000))
	if got := collect(t, l, lake.CollectOptions{}); got.Commits != 1 {
		t.Errorf("a commit later: %+v", got)
	}
	laketest.Fsck(t.Context(), t, l)
	retain(t, l, "main", lake.Retention{})
	putContent(t, l, "main", "y", content(101, 50_000))
	if got := collect(t, l, lake.CollectOptions{}); got.Commits != 0 || len(history(t, l, "main")) != 6 {
		t.Errorf("without retention: %+v", got)
	}
}

// Another branch and a tag keep what they lead to; a deleted branch, and one that keeps its own commits only,
// do not hold up what retention releases of the history below.
func TestRetentionAndOtherRefs(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		also func(t *testing.T, l *lake.Lake)
		left int // of the 21 commits
	}{
		"nothing else": {func(*testing.T, *lake.Lake) {}, 3},
		"a branch":     {func(t *testing.T, l *lake.Lake) { branch(t, l, "dev", "main~10") }, 3 + 11},
		"a tag": {func(t *testing.T, l *lake.Lake) {
			if _, err := l.CreateTag(t.Context(), "v1", resolve(t, l, "main~10").ID, ""); err != nil {
				t.Fatal(err)
			}
		}, 3 + 11},
		"a deleted branch": {func(t *testing.T, l *lake.Lake) {
			branch(t, l, "dev", "main~10")
			if _, err := l.DeleteBranch(t.Context(), "dev", ""); err != nil {
				t.Fatal(err)
			}
		}, 3 + 1},
		"a head": {func(t *testing.T, l *lake.Lake) { branch(t, l, "run/1", "main~10") }, 3 + 1},
		"a branch that keeps four": {func(t *testing.T, l *lake.Lake) {
			branch(t, l, "dev", "main~10")
			retain(t, l, "dev", lake.Retention{Last: 4})
		}, 3 + 4},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			blobs, rows := stores(t)
			l := laketest.OpenOn(t, blobs, rows, lake.Options{})
			for i := range 20 {
				putContent(t, l, "main", "x", content(uint64(i), 1000))
			}
			c.also(t, l)
			retain(t, l, "main", lake.Retention{Last: 3})
			got := collect(t, l, lake.CollectOptions{Keep: time.Hour, HeadOnly: func(b string) bool { return b == "run/1" }})
			if left := 21 - got.Commits; left != c.left {
				t.Errorf("%d commits are left, want %d", left, c.left)
			}
			laketest.Fsck(t.Context(), t, l)
			if _, err := l.UndeleteBranch(t.Context(), "dev", lake.Hash{}, lake.CommitInfo{}); err != nil && name == "a deleted branch" {
				t.Error(err)
			}
			laketest.Fsck(t.Context(), t, l)
		})
	}
}

// Where retention may have removed the merge base, nothing is merged: as if there had been none, what one
// side deleted would come back.
func TestMergeAcrossRetention(t *testing.T) {
	t.Parallel()
	blobs, rows := stores(t)
	l := laketest.OpenOn(t, blobs, rows, lake.Options{})
	putContent(t, l, "main", "x", content(1, 1000))
	branch(t, l, "dev", "main")
	for i := range 5 {
		putContent(t, l, "main", fmt.Sprint("m", i), content(uint64(10+i), 1000))
		putContent(t, l, "dev", fmt.Sprint("d", i), content(uint64(20+i), 1000))
	}
	branch(t, l, "late", "main")
	putContent(t, l, "late", "l", content(30, 1000))
	for _, b := range []string{"main", "dev"} {
		retain(t, l, b, lake.Retention{Last: 2})
	}
	retain(t, l, "late", lake.Retention{Last: 2})
	collect(t, l, lake.CollectOptions{})
	if _, _, err := l.Merge(t.Context(), resolve(t, l, "dev").ID, "main", lake.CommitInfo{}, lake.MergeOptions{}, nil, false); !errors.Is(err, lake.ErrCut) {
		t.Errorf("merge of dev: %v", err)
	}
	if _, _, err := l.Merge(t.Context(), resolve(t, l, "late").ID, "main", lake.CommitInfo{}, lake.MergeOptions{}, nil, false); err != nil {
		t.Errorf("merge of late, whose base is there: %v", err)
	}
	laketest.Fsck(t.Context(), t, l)
}
