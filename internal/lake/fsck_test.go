package lake

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"tarn.dev/tarn/internal/lake/prolly"
	"tarn.dev/tarn/internal/meta"
)

// TestFsckFindsBrokenHistory proves the oracle: every kind of damage to refs, commits, trees and entries
// is reported under its reason, and nothing is reported without.
func TestFsckFindsBrokenHistory(t *testing.T) {
	t.Parallel()
	type fixture struct {
		*testing.T
		l    *Lake
		head Commit
	}
	// commitTree stores a commit that no Update would make, and points main at it.
	commit := func(f fixture, change func(c *Commit), objects func(b *Batch)) {
		f.Helper()
		b := f.l.Begin(f.Context())
		if objects != nil {
			objects(b)
		}
		c := newCommit([]Commit{f.head}, f.head.Tree, CommitInfo{}, time.Now())
		change(&c)
		c.ID = put(f, b, TypeCommit, encodeCommit(c))
		flush(f, b)
		rows, err := f.l.moveRows(MainBranch, c, time.Now(), moveRow{Commit: c.ID, Why: "update"})
		if err != nil {
			f.Fatal(err)
		}
		if _, err := f.l.rows.Txn(f.Context(), nil, rows); err != nil {
			f.Fatal(err)
		}
	}
	tree := func(f fixture, edits ...prolly.Edit) Hash {
		f.Helper()
		b := f.l.Begin(f.Context())
		m, err := prolly.Open(f.l.Nodes(b), prolly.Hash{}).Edit(f.Context(), edits)
		if err != nil {
			f.Fatal(err)
		}
		flush(f, b)
		return Hash(m.Root())
	}
	encoded := func(f fixture, e Entry) []byte {
		f.Helper()
		data, err := encodeEntry(e)
		if err != nil {
			f.Fatal(err)
		}
		return data
	}
	key := []byte(FileKey("x"))
	set := func(f fixture, key string, value string) {
		f.Helper()
		if _, err := f.l.rows.Txn(f.Context(), nil, []meta.Write{meta.Set(f.l.prefix+key, []byte(value))}); err != nil {
			f.Fatal(err)
		}
	}
	for name, c := range map[string]struct {
		damage func(f fixture)
		want   []string
	}{
		"nothing":             {func(fixture) {}, nil},
		"ref to nowhere":      {func(f fixture) { set(f, "tag/v1", `{"commit":"`+strings.Repeat("ab", 32)+`"}`) }, []string{"fsck.commit"}},
		"ref that is no JSON": {func(f fixture) { set(f, "branch/dev", `main`) }, []string{"fsck.ref"}},
		"ref with a bad name": {func(f fixture) { set(f, "branch/a b", `{"commit":"`+f.head.ID.String()+`"}`) }, []string{"fsck.ref"}},
		"main is gone": {func(f fixture) {
			if _, err := f.l.rows.Txn(f.Context(), nil, []meta.Write{meta.Delete(f.l.branchKey("main"))}); err != nil {
				f.Fatal(err)
			}
		}, []string{"fsck.ref", "fsck.reflog"}},
		"commit without a row": {func(f fixture) {
			if _, err := f.l.rows.Txn(f.Context(), nil, []meta.Write{meta.Delete(f.l.commitKey(f.head.ID.String()))}); err != nil {
				f.Fatal(err)
			}
		}, []string{"fsck.commit"}},
		"row without a commit": {func(f fixture) { set(f, "commit/"+strings.Repeat("ab", 32), "") }, []string{"fsck.commit"}},
		"row with a bad id":    {func(f fixture) { set(f, "commit/xyz", "") }, []string{"fsck.commit"}},
		"wrong generation":     {func(f fixture) { commit(f, func(c *Commit) { c.Generation = 7 }, nil) }, []string{"fsck.commit"}},
		"missing parent":       {func(f fixture) { commit(f, func(c *Commit) { c.Parents = []Hash{{9}}; c.Generation = 0 }, nil) }, []string{"fsck.commit"}},
		"missing tree":         {func(f fixture) { commit(f, func(c *Commit) { c.Tree = Hash{9} }, nil) }, []string{"fsck.tree"}},
		"tree that is no tree": {func(f fixture) {
			var h Hash
			commit(f, func(c *Commit) { c.Tree = h }, func(b *Batch) { h = put(f, b, TypeTreeNode, []byte("no tree")) })
		}, []string{"fsck.tree"}},
		"entry that is none": {func(f fixture) {
			h := tree(f, prolly.Edit{Key: key, Value: []byte("no entry")})
			commit(f, func(c *Commit) { c.Tree = h }, nil)
		}, []string{"fsck.entry"}},
		"entry with a bad key": {func(f fixture) {
			h := tree(f, prolly.Edit{Key: []byte("file/.."), Value: encoded(f, Entry{Kind: KindFile})})
			commit(f, func(c *Commit) { c.Tree = h }, nil)
		}, []string{"fsck.entry"}},
		"missing definition": {func(f fixture) {
			h := tree(f, prolly.Edit{Key: []byte(DefKey("d")), Value: encoded(f, Entry{Kind: KindDef, Location: Location{Object: Hash{9}}})})
			commit(f, func(c *Commit) { c.Tree = h }, nil)
		}, []string{"fsck.entry"}},
		"missing slots": {func(f fixture) {
			h := tree(f, prolly.Edit{Key: []byte(TableKey("n", "t")), Value: encoded(f, Entry{Kind: KindTable, Location: Location{Slots: Hash{9}}})})
			commit(f, func(c *Commit) { c.Tree = h }, nil)
		}, []string{"fsck.slots"}},
		"missing content": {func(f fixture) {
			h := tree(f, prolly.Edit{Key: key, Value: encoded(f, Entry{Kind: KindFile, Location: Location{Ref: FileRef{Root: Hash{9}, Size: 1000}}})})
			commit(f, func(c *Commit) { c.Tree = h }, nil)
		}, []string{"fsck.file"}},
		"other content": {func(f fixture) {
			b := f.l.Begin(f.Context())
			ref, err := b.PutFile(f.Context(), strings.NewReader(strings.Repeat("a", 1000)))
			if err != nil {
				f.Fatal(err)
			}
			flush(f, b)
			ref.Hash[0] ^= 1
			h := tree(f, prolly.Edit{Key: key, Value: encoded(f, Entry{Kind: KindFile, Location: Location{Ref: ref}})})
			commit(f, func(c *Commit) { c.Tree = h }, nil)
		}, []string{"fsck.file"}},
		"reflog that is no JSON": {func(f fixture) { set(f, "reflog/main/0000000000000001", "no") }, []string{"fsck.reflog"}},
		"reflog that disagrees": {func(f fixture) {
			ref, err := f.l.Branch(f.Context(), "main")
			if err != nil {
				f.Fatal(err)
			}
			set(f, strings.TrimPrefix(f.l.moveKey("main", ref.Time), f.l.prefix), `{"commit":"`+f.head.Parents[0].String()+`","why":"update"}`)
		}, []string{"fsck.reflog"}},
		"request for no commit": {func(f fixture) { set(f, "request/r", `{"commit":"`+strings.Repeat("ab", 32)+`","branch":"main"}`) }, []string{"fsck.commit"}},
		"ticket of nobody":      {func(f fixture) { set(f, "queue/main/x", "?") }, []string{"fsck.ticket"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := fixture{T: t, l: newTestStore(t).open(t, Options{})}
			var err error
			f.head, err = f.l.Update(t.Context(), "main", CommitInfo{}, func(_ context.Context, tx *Tx) error {
				tx.Put(FileKey("a"), Entry{Kind: KindFile, Version: "1"})
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			c.damage(f)
			var reasons []string
			stats, err := f.l.Fsck(t.Context(), FsckOptions{Deep: true}, func(p Problem) {
				t.Log(p)
				reasons = append(reasons, p.Reason)
			})
			if err != nil {
				t.Fatal(err)
			}
			slices.Sort(reasons)
			if d := cmp.Diff(c.want, slices.Compact(reasons)); d != "" {
				t.Error(d)
			}
			if len(c.want) == 0 && (stats.Commits != 2 || stats.Branches != 1 || stats.Entries != 1 || stats.Nodes != 1) {
				t.Errorf("%+v", stats)
			}
		})
	}
}
