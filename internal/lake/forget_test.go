package lake_test

import (
	"bytes"
	"context"
	"errors"
	"iter"
	"strings"
	"testing"

	"tarn.dev/tarn/internal/lake"
	"tarn.dev/tarn/internal/lake/laketest"
	"tarn.dev/tarn/internal/lake/prolly"
)

// treeNodes yields the nodes of a tree, as they are read.
func treeNodes(ctx context.Context, l *lake.Lake, root lake.Hash) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		pending := []lake.Hash{root}
		for len(pending) > 0 {
			h := pending[0]
			pending = pending[1:]
			data, err := l.Get(ctx, lake.TypeTreeNode, h)
			if err == nil {
				err = prolly.Visit(data, func(child prolly.Hash) error {
					pending = append(pending, lake.Hash(child))
					return nil
				}, func(prolly.Item) error { return nil })
			}
			if !yield(data, err) || err != nil {
				return
			}
		}
	}
}

// tombstones are those of all that any commit has of a key.
func tombstones(t *testing.T, l *lake.Lake, key string) (out []lake.Tombstone) {
	t.Helper()
	err := l.History(t.Context(), []string{key}, func(h lake.Held) error {
		if h.Key == key {
			out = append(out, lake.NewTombstone(key, h.Entry))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func forget(t *testing.T, l *lake.Lake, key string) lake.Forgotten {
	t.Helper()
	got, err := l.Forget(t.Context(), tombstones(t, l, key), lake.CollectOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func entryOf(t *testing.T, l *lake.Lake, ref, name string) lake.Entry {
	t.Helper()
	e, ok, err := l.Tree(resolve(t, l, ref).Tree).Get(t.Context(), lake.FileKey(name))
	if err != nil || !ok {
		t.Fatalf("%s at %s: %v, %v", name, ref, ok, err)
	}
	return e
}

// What is forgotten is freed although commits lead to it, whatever share of its pack it is, and on every server; what lies
// beside it stays.
func TestForget(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	blobs, rows := stores(t)
	l := laketest.OpenOn(t, blobs, rows, lake.Options{})
	other := laketest.OpenOn(t, blobs, rows, lake.Options{})
	names := []string{"kept", "large", "small"}
	data := map[string][]byte{"kept": content(1, 500_000), "large": content(2, 50_000), "small": []byte("SMALL SECRET")}
	_, err := l.Update(ctx, "main", lake.CommitInfo{}, func(ctx context.Context, tx *lake.Tx) error {
		for _, name := range names {
			ref, err := tx.Batch().PutFile(ctx, bytes.NewReader(data[name]))
			if err != nil {
				return err
			}
			tx.Put(lake.FileKey(name), lake.FileEntry(ref))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	before := resolve(t, l, "main")
	putContent(t, l, "main", "twin", data["large"])
	for _, name := range names { // other has it all in memory
		if got := fileContent(t, other, before.ID.String(), name); !bytes.Equal(got, data[name]) {
			t.Fatalf("%s is another one", name)
		}
	}
	remove := func(name string) {
		t.Helper()
		_, err := l.Update(ctx, "main", lake.CommitInfo{}, func(_ context.Context, tx *lake.Tx) error {
			tx.Delete(lake.FileKey(name))
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}

	// What a branch has is spared: somebody put it again at the last moment.
	if got := forget(t, l, lake.FileKey("small")); len(got.Spared) != 1 {
		t.Errorf("forgotten at a head: %+v", got)
	}
	remove("small")
	forget(t, l, lake.FileKey("small"))
	remove("large")
	if got := forget(t, l, lake.FileKey("large")); len(got.Shared) != 1 || got.Shared[0] != lake.FileKey("twin") {
		t.Errorf("the content is also at %v", got.Shared)
	}
	remove("twin")
	stored := storedIn(t, blobs)
	forget(t, l, lake.FileKey("twin"))
	if freed := stored - storedIn(t, blobs); freed < 40_000 {
		t.Errorf("%d bytes went", freed)
	}
	for _, at := range []*lake.Lake{l, other} {
		for _, name := range names[1:] {
			e := entryOf(t, at, before.ID.String(), name)
			if err := e.Readable(); !errors.Is(err, lake.ErrForgotten) || !strings.Contains(err.Error(), name) {
				t.Errorf("%s is readable: %v", name, err)
			}
			if _, err := at.OpenFile(ctx, e.Location.Ref); !errors.Is(err, lake.ErrForgotten) {
				t.Errorf("open %s: %v", name, err)
			}
		}
		if got := fileContent(t, at, before.ID.String(), "kept"); !bytes.Equal(got, data["kept"]) {
			t.Error("kept is another one")
		}
		for node, err := range treeNodes(ctx, at, before.Tree) {
			if err != nil || bytes.Contains(node, data["small"]) {
				t.Errorf("the small file is still in the tree: %v", err)
			}
		}
	}
	laketest.Fsck(ctx, t, l)

	// It cannot be brought back by a name, only by its content; then it stays.
	if _, _, err := l.Revert(ctx, resolve(t, l, "main~2").ID, "main", lake.CommitInfo{}, lake.MergeOptions{}, nil); !errors.Is(err, lake.ErrForgotten) {
		t.Errorf("revert of its removal: %v", err)
	}
	for _, name := range names[1:] {
		putContent(t, other, "main", name, data[name])
	}
	collect(t, l, lake.CollectOptions{})
	for _, at := range []*lake.Lake{l, other} {
		for _, name := range names {
			if got := fileContent(t, at, "main", name); !bytes.Equal(got, data[name]) {
				t.Errorf("%s, put again, is another one", name)
			}
		}
	}
	laketest.Fsck(ctx, t, l)
}
