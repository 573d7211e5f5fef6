package lake_test

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"tarn.dev/tarn/internal/lake"
	"tarn.dev/tarn/internal/lake/laketest"
)

// trace asks what leads to a word, and shows the roots as text.
func trace(t *testing.T, l *lake.Lake, word string) (*lake.Trace, []string) {
	t.Helper()
	got, err := l.Trace(t.Context(), word, lake.CollectOptions{Keep: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	if got == nil {
		return nil, nil
	}
	var roots []string
	for _, r := range got.Roots {
		roots = append(roots, fmt.Sprint(r.Kind, " ", r.Name, " ", r.Head))
	}
	return got, roots
}

// Everything that leads to a file's content is named: branches whose head has it, those with it in their
// history only, tags, and deleted branches for as long as they are remembered.
func TestTrace(t *testing.T) {
	t.Parallel()
	blobs, rows := stores(t)
	l := laketest.OpenOn(t, blobs, rows, lake.Options{})
	first := putContent(t, l, "main", "a/x", content(1, 200_000))
	e, _, err := l.Tree(first.Tree).Get(t.Context(), lake.FileKey("a/x"))
	if err != nil {
		t.Fatal(err)
	}
	root := e.Location.Ref.Root.String()
	if _, err := l.CreateTag(t.Context(), "v1", first.ID, ""); err != nil {
		t.Fatal(err)
	}
	for i := range 5 { // the trees of these commits share the node that leads to the file, or have another one
		putContent(t, l, "main", fmt.Sprint("b", i), content(uint64(10+i), 1000))
	}
	branch(t, l, "dev", "main")
	newest := resolve(t, l, "main")
	if _, err := l.Update(t.Context(), "main", lake.CommitInfo{}, func(_ context.Context, tx *lake.Tx) error { tx.Delete(lake.FileKey("a/x")); return nil }); err != nil {
		t.Fatal(err)
	}
	if _, err := l.DeleteBranch(t.Context(), "dev", ""); err != nil {
		t.Fatal(err)
	}
	for _, word := range []string{root, root[:7], e.Version[:12]} {
		got, roots := trace(t, l, word)
		want := []string{"branch main false", "tag v1 true", "deleted branch dev true"}
		if got == nil || !slices.Equal(roots, want) || got.Commits != 6 || got.Newest != newest.ID || got.Oldest != first.ID || !slices.Equal(got.Keys, []string{"a/x"}) {
			t.Fatalf("%s: %v\n%+v", word, roots, got)
		}
		if until := got.Roots[2].Until; time.Until(until) > time.Hour || time.Until(until) < 50*time.Minute {
			t.Errorf("the deleted branch lets go at %s", until)
		}
		if got.Roots[0].Commit != newest.ID {
			t.Errorf("the newest commit of main with it is %s, want %s", got.Roots[0].Commit, newest.ID)
		}
	}
	got, _ := trace(t, l, root)
	pack, roots := trace(t, l, got.Pack.String())
	if pack.What != "pack" || pack.Needed == 0 || pack.Size < pack.Needed || len(roots) == 0 || !slices.Contains(pack.Keys, "a/x") {
		t.Errorf("the pack: %v %+v", roots, pack)
	}
	if got, _ := trace(t, l, "0123456789"); got != nil {
		t.Errorf("nothing has that hash: %+v", got)
	}
}

// What nothing leads to is there until it is collected, and says so.
func TestTraceOfGarbage(t *testing.T) {
	t.Parallel()
	blobs, rows := stores(t)
	l := laketest.OpenOn(t, blobs, rows, lake.Options{})
	branch(t, l, "dev", "main")
	c := putContent(t, l, "dev", "x", content(1, 200_000))
	e, _, err := l.Tree(c.Tree).Get(t.Context(), lake.FileKey("x"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.DeleteBranch(t.Context(), "dev", ""); err != nil {
		t.Fatal(err)
	}
	word := e.Location.Ref.Root.String()
	got, err := l.Trace(t.Context(), word, lake.CollectOptions{})
	if err != nil || got == nil || len(got.Roots) != 0 || got.Commits != 1 {
		t.Fatalf("after its branch's time: %+v, %v", got, err)
	}
	collect(t, l, lake.CollectOptions{})
	if got, err := l.Trace(t.Context(), word, lake.CollectOptions{}); got != nil || err != nil {
		t.Errorf("after the collection: %+v, %v", got, err)
	}
}
