package lake_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"tarn.dev/tarn/internal/blob/memblob"
	"tarn.dev/tarn/internal/lake"
	"tarn.dev/tarn/internal/lake/laketest"
	"tarn.dev/tarn/internal/meta"
	"tarn.dev/tarn/internal/meta/lease"
	"tarn.dev/tarn/internal/meta/sqlitemeta"
)

// stores are what a lake stands on, for tests that look or interfere below it.
func stores(t *testing.T) (*memblob.Store, meta.Store) {
	t.Helper()
	rows, err := sqlitemeta.Open(filepath.Join(t.TempDir(), "meta.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := rows.Close(); err != nil {
			t.Error(err)
		}
	})
	return memblob.New(), rows
}

func TestRequestIDMakesUpdatesIdempotent(t *testing.T) {
	t.Parallel()
	l := laketest.New(t)
	info := lake.CommitInfo{RequestID: "r/1 2"}
	first, err := l.Update(t.Context(), "main", info, edits("a=1"))
	if err != nil {
		t.Fatal(err)
	}
	put(t, l, "main", "a=2")
	again, err := l.Update(t.Context(), "main", info, func(context.Context, *lake.Tx) error {
		t.Error("the function ran again")
		return nil
	})
	if err != nil || again.ID != first.ID {
		t.Errorf("again: %s, %v", again.ID, err)
	}
	branch(t, l, "dev", "main")
	if _, err := l.Update(t.Context(), "dev", info, edits("a=3")); !errors.Is(err, lake.ErrRequestReused) {
		t.Errorf("on another branch: %v", err)
	}

	var wg sync.WaitGroup
	ids := make([]lake.Hash, 10)
	for i := range ids {
		wg.Go(func() {
			c, err := l.Update(t.Context(), "dev", lake.CommitInfo{RequestID: "same"}, edits(fmt.Sprintf("by=%d", i+1)))
			if err != nil {
				t.Error(err)
			}
			ids[i] = c.ID
		})
	}
	wg.Wait()
	for _, id := range ids {
		if id != ids[0] {
			t.Errorf("one request made %s and %s", ids[0], id)
		}
	}

	nothing := lake.CommitInfo{RequestID: "nothing"}
	head, err := l.Update(t.Context(), "main", nothing, edits())
	if err != nil {
		t.Fatal(err)
	}
	put(t, l, "main", "a=4")
	if again, err := l.Update(t.Context(), "main", nothing, edits("late=1")); err != nil || again.ID != head.ID {
		t.Errorf("a request that changed nothing did something the second time: %v", err)
	}
}

func TestUpdateWritesOtherRowsAlong(t *testing.T) {
	t.Parallel()
	blobs, rows := stores(t)
	l := laketest.OpenOn(t, blobs, rows, lake.Options{})
	also := func(condition meta.Condition, pairs ...string) (lake.Commit, error) {
		return l.Update(t.Context(), "main", lake.CommitInfo{}, func(ctx context.Context, tx *lake.Tx) error {
			tx.Also([]meta.Condition{condition}, []meta.Write{meta.Set("run/1", []byte("succeeded"))})
			return edits(pairs...)(ctx, tx)
		})
	}
	if _, err := also(meta.Exists("run/1"), "a=1"); !errors.Is(err, meta.ErrConditionFailed) {
		t.Errorf("a condition of the caller's failed with %v", err)
	}
	before := resolve(t, l, "main")
	if before.Generation != 0 {
		t.Error("a failed condition left a commit")
	}
	if c, err := also(meta.Absent("run/1")); err != nil || c.ID != before.ID {
		t.Errorf("rows without a change: %v", err)
	}
	if _, err := rows.Get(t.Context(), "run/1"); err != nil {
		t.Errorf("rows without a change were not written: %v", err)
	}
	if _, err := also(meta.Exists("run/1"), "a=1"); err != nil || resolve(t, l, "main").Generation != 1 {
		t.Error(err)
	}
}

func TestUpdateRefusesWhatIsNotThere(t *testing.T) {
	t.Parallel()
	l := laketest.New(t)
	b := l.Begin(t.Context())
	elsewhere, err := b.Put(t.Context(), lake.TypeRecord, []byte("in a batch that was not flushed"))
	if err != nil {
		t.Fatal(err)
	}
	for name, location := range map[string]lake.Location{
		"content":     {Ref: lake.FileRef{Root: lake.Hash{1}, Size: 1}},
		"big content": {Ref: lake.FileRef{Root: lake.Hash{1}, Size: 1, Height: 1}},
		"definition":  {Object: lake.Hash{1}},
		"slots":       {Slots: lake.Hash{1}},
		"provenance":  {Provenance: elsewhere},
	} {
		put := func() error {
			_, err := l.Update(t.Context(), "main", lake.CommitInfo{}, func(_ context.Context, tx *lake.Tx) error {
				tx.Put(lake.FileKey("a"), lake.Entry{Kind: lake.KindFile, Location: location})
				return nil
			})
			return err
		}
		if err := put(); !errors.Is(err, lake.ErrNotFound) {
			t.Errorf("missing %s: %v", name, err)
		}
		if name == "provenance" {
			if err := errors.Join(b.Flush(t.Context()), put()); err != nil {
				t.Error(err)
			}
		}
	}
}

// TestUpdateRunsAgainOnANewHead moves the branch past the queue, as nobody but a bug would.
func TestUpdateRunsAgainOnANewHead(t *testing.T) {
	t.Parallel()
	blobs, rows := stores(t)
	l := laketest.OpenOn(t, blobs, rows, lake.Options{})
	one := put(t, l, "main", "a=1")
	put(t, l, "main", "a=2")
	key := laketest.Prefix + "branch/main"
	calls := 0
	c, err := l.Update(t.Context(), "main", lake.CommitInfo{}, func(ctx context.Context, tx *lake.Tx) error {
		if calls++; calls == 1 {
			row, err := rows.Get(ctx, key)
			if err != nil {
				return err
			}
			if _, err := rows.Txn(ctx, nil, []meta.Write{meta.Set(key, row.Value)}); err != nil {
				return err
			}
		}
		return edits("b=1")(ctx, tx)
	})
	if err != nil || calls != 2 || c.Generation != one.Generation+2 {
		t.Errorf("%d calls, %+v, %v", calls, c, err)
	}
}

func TestFencedUpdateChangesNothing(t *testing.T) {
	t.Parallel()
	blobs, rows := stores(t)
	l := laketest.OpenOn(t, blobs, rows, lake.Options{})
	before := resolve(t, l, "main")
	_, err := l.Update(t.Context(), "main", lake.CommitInfo{}, func(ctx context.Context, tx *lake.Tx) error {
		// As another process would after this one had slept; it does not wait for the heart-beat's end.
		for row, err := range rows.Scan(ctx, meta.Prefix("s/")) {
			if err != nil {
				return err
			}
			if _, err := rows.Txn(ctx, nil, []meta.Write{meta.Delete(row.Key)}); err != nil {
				return err
			}
		}
		return edits("a=1")(ctx, tx)
	})
	if !errors.Is(err, lease.ErrLost) || resolve(t, l, "main").ID != before.ID {
		t.Errorf("a fenced update: %v", err)
	}
}

// TestRowsMayNameObjects puts an object that only a row names.
func TestRowsMayNameObjects(t *testing.T) {
	t.Parallel()
	blobs, rows := stores(t)
	l := laketest.OpenOn(t, blobs, rows, lake.Options{})
	var h lake.Hash
	_, err := l.Update(t.Context(), "main", lake.CommitInfo{}, func(ctx context.Context, tx *lake.Tx) (err error) {
		h, err = tx.Batch().Put(ctx, lake.TypeRecord, []byte("manifest"))
		tx.Also(nil, []meta.Write{meta.Set("run/1", []byte(h.String()))})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if data, err := l.Get(t.Context(), lake.TypeRecord, h); err != nil || string(data) != "manifest" {
		t.Errorf("%q, %v", data, err)
	}
}

// A change of a ref that is asked for again has its answer, whatever happened since; the id does nothing else.
func TestRequestIDMakesRefChangesIdempotent(t *testing.T) {
	t.Parallel()
	l := laketest.New(t)
	ctx := t.Context()
	head, err := l.Branch(ctx, "main")
	if err != nil {
		t.Fatal(err)
	}
	calls := []struct {
		name string
		do   func(request string) (lake.Ref, error)
	}{
		{"create branch", func(r string) (lake.Ref, error) { return l.CreateBranch(ctx, "dev", head.Commit, r) }},
		{"create tag", func(r string) (lake.Ref, error) { return l.CreateTag(ctx, "v1", head.Commit, r) }},
		{"delete branch", func(r string) (lake.Ref, error) { return l.DeleteBranch(ctx, "dev", r) }},
		{"delete tag", func(r string) (lake.Ref, error) { return l.DeleteTag(ctx, "v1", r) }},
	}
	first := make([]lake.Ref, len(calls))
	for i, c := range calls {
		if first[i], err = c.do("id of " + c.name); err != nil || first[i].Commit != head.Commit {
			t.Fatalf("%s: %v, %v", c.name, first[i], err)
		}
		// Sent many times at once, each gets the answer of the first.
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				if again, err := c.do("id of " + c.name); err != nil || !again.Time.Equal(first[i].Time) || again.Commit != first[i].Commit {
					t.Errorf("%s again: %v, %v; want %v", c.name, again, err, first[i])
				}
			})
		}
		wg.Wait()
		if _, err := c.do("another id"); err == nil {
			t.Errorf("%s: another request does it twice", c.name)
		}
	}
	for i, c := range calls {
		if again, err := c.do("id of " + c.name); err != nil || again.Commit != first[i].Commit {
			t.Errorf("%s after all: %v, %v", c.name, again, err)
		}
	}
	if _, err := l.Branch(ctx, "dev"); !errors.Is(err, lake.ErrBranchNotFound) {
		t.Errorf("a repeated request made the branch again: %v", err)
	}
	for name, do := range map[string]func() error{
		"another branch": func() error { _, err := l.CreateBranch(ctx, "x", head.Commit, "id of create branch"); return err },
		"a tag":          func() error { _, err := l.CreateTag(ctx, "dev", head.Commit, "id of create branch"); return err },
		"an update": func() error {
			_, err := l.Update(ctx, "main", lake.CommitInfo{RequestID: "id of create branch"}, edits("a=1"))
			return err
		},
	} {
		if err := do(); !errors.Is(err, lake.ErrRequestReused) {
			t.Errorf("the id for %s: %v", name, err)
		}
	}
}

// The same new request, many times at once, does one thing.
func TestRefRequestsAtOnce(t *testing.T) {
	t.Parallel()
	l := laketest.New(t)
	head, err := l.Branch(t.Context(), "main")
	if err != nil {
		t.Fatal(err)
	}
	for _, do := range []func() (lake.Ref, error){
		func() (lake.Ref, error) { return l.CreateBranch(t.Context(), "dev", head.Commit, "make") },
		func() (lake.Ref, error) { return l.DeleteBranch(t.Context(), "dev", "remove") },
	} {
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				if ref, err := do(); err != nil || ref.Commit != head.Commit {
					t.Errorf("%v, %v", ref, err)
				}
			})
		}
		wg.Wait()
	}
	moves := 0
	for _, err := range l.Reflog(t.Context(), "dev") {
		if err != nil {
			t.Fatal(err)
		}
		moves++
	}
	if moves != 2 {
		t.Errorf("the branch was made and removed in %d moves", moves)
	}
}

func TestBranchVanishesUnderAnUpdate(t *testing.T) {
	t.Parallel()
	l := laketest.New(t)
	branch(t, l, "dev", "main")
	_, err := l.Update(t.Context(), "dev", lake.CommitInfo{}, func(ctx context.Context, tx *lake.Tx) error {
		if _, err := l.DeleteBranch(ctx, "dev", ""); err != nil && !errors.Is(err, lake.ErrBranchNotFound) {
			return err
		}
		return edits("a=1")(ctx, tx)
	})
	if !errors.Is(err, lake.ErrBranchNotFound) {
		t.Error(err)
	}
	_, err = l.Update(t.Context(), "mian", lake.CommitInfo{}, edits("a=1"))
	if got, want := describe(err), "lake.branch_not_found: there is no branch 'mian'. Did you mean main? Branches: main."; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestCanceledUpdateLeavesTheQueue(t *testing.T) {
	t.Parallel()
	l := laketest.New(t)
	why := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	inside, goOn := make(chan struct{}), make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		if _, err := l.Update(t.Context(), "main", lake.CommitInfo{}, func(ctx context.Context, tx *lake.Tx) error {
			close(inside)
			<-goOn
			return edits("first=1")(ctx, tx)
		}); err != nil {
			t.Error(err)
		}
	})
	<-inside
	cancel(why)
	if _, err := l.Update(ctx, "main", lake.CommitInfo{}, edits("never=1")); !errors.Is(err, why) && !errors.Is(err, context.Canceled) {
		t.Errorf("canceled update: %v", err)
	}
	close(goOn)
	wg.Wait()
	c := put(t, l, "main", "second=1")
	if d := cmp.Diff([]string{"first=1", "second=1"}, files(t, l.Tree(c.Tree))); d != "" {
		t.Error(d)
	}
}

func TestRefs(t *testing.T) {
	t.Parallel()
	l := laketest.New(t)
	c := put(t, l, "main", "a=1")
	list := func() (out []string) {
		for _, seq := range []func(context.Context) func(func(lake.Ref, error) bool){
			func(ctx context.Context) func(func(lake.Ref, error) bool) { return l.Branches(ctx) },
			func(ctx context.Context) func(func(lake.Ref, error) bool) { return l.Tags(ctx) },
		} {
			for ref, err := range seq(t.Context()) {
				if err != nil {
					t.Fatal(err)
				}
				out = append(out, ref.Name)
			}
		}
		return out
	}
	branch(t, l, "dev", "main")
	branch(t, l, "dev/sub", "main")
	branch(t, l, "zürich-1.2_x", "main")
	if _, err := l.CreateTag(t.Context(), "v1", c.ID, ""); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]string{"dev", "dev/sub", "main", "zürich-1.2_x", "v1"}, list()); d != "" {
		t.Error(d)
	}
	for name, c := range map[string]struct {
		do   func() error
		want string
	}{
		"branch twice":     {func() error { _, err := l.CreateBranch(t.Context(), "dev", c.ID, ""); return err }, "lake.ref_exists: there is a branch 'dev' already"},
		"branch like tag":  {func() error { _, err := l.CreateBranch(t.Context(), "v1", c.ID, ""); return err }, "lake.ref_exists: there is a tag 'v1' already; tags do not move"},
		"tag twice":        {func() error { _, err := l.CreateTag(t.Context(), "v1", c.ID, ""); return err }, "lake.ref_exists: there is a tag 'v1' already; tags do not move"},
		"tag like branch":  {func() error { _, err := l.CreateTag(t.Context(), "dev", c.ID, ""); return err }, "lake.ref_exists: there is a branch 'dev' already"},
		"of no commit":     {func() error { _, err := l.CreateBranch(t.Context(), "x", lake.Hash{1}, ""); return err }, "lake.ref_not_found: there is no commit 01" + strings.Repeat("0", 62)},
		"of a tree":        {func() error { _, err := l.CreateTag(t.Context(), "x", c.Tree, ""); return err }, "lake.ref_not_found: there is no commit " + c.Tree.String()},
		"delete main":      {func() error { _, err := l.DeleteBranch(t.Context(), "main", ""); return err }, "lake.main_branch: the branch main cannot be deleted"},
		"delete no branch": {func() error { _, err := l.DeleteBranch(t.Context(), "deb", ""); return err }, "lake.branch_not_found: there is no branch 'deb'. Did you mean dev? Branches: dev, dev/sub, main, zürich-1.2_x."},
		"delete no tag":    {func() error { _, err := l.DeleteTag(t.Context(), "v9", ""); return err }, "lake.tag_not_found: there is no tag 'v9'. Did you mean v1? Tags: v1."},
	} {
		if got := describe(c.do()); got != c.want {
			t.Errorf("%s:\n got %s\nwant %s", name, got, c.want)
		}
	}
	if ref, err := l.DeleteBranch(t.Context(), "dev", ""); err != nil || ref.Commit != c.ID {
		t.Fatalf("%v, %v", ref, err)
	}
	if ref, err := l.DeleteTag(t.Context(), "v1", ""); err != nil || ref.Commit != c.ID {
		t.Fatalf("%v, %v", ref, err)
	}
	if d := cmp.Diff([]string{"dev/sub", "main", "zürich-1.2_x"}, list()); d != "" {
		t.Error(d)
	}
	branch(t, l, "v1", "main")  // the names are free again
	branch(t, l, "dev", "main") // and the reflog goes on
	var why []string
	for m, err := range l.Reflog(t.Context(), "dev") {
		if err != nil {
			t.Fatal(err)
		}
		why = append(why, m.Why)
	}
	if d := cmp.Diff([]string{"create", "delete", "create"}, why); d != "" {
		t.Error(d)
	}
}

func TestHostileNames(t *testing.T) {
	t.Parallel()
	for _, name := range []string{
		"", " ", "a b", "a\tb", "-a", ".a", "a/.b", "a/-b", "/a", "a/", "a//b", "a..b", "a~1", "a^", "a@{1}", "a:b", "a\\b", "a*", "a\x00b",
		"e\u0301", "\xff", strings.Repeat("a", 256), strings.Repeat("0", 64), "a?b", "a[b", "..", ".",
	} {
		if err := lake.CheckRefName(name); !errors.Is(err, lake.ErrInvalidRef) {
			t.Errorf("ref name %q: %v", name, err)
		}
	}
	l := laketest.New(t)
	for _, key := range []string{
		lake.FileKey(""), lake.FileKey("a//b"), lake.FileKey("/a"), lake.FileKey("a/"), lake.FileKey("."), lake.FileKey("a/../b"),
		lake.FileKey("a\nb"), lake.FileKey("a\x00"), lake.FileKey("a\x7f"), lake.FileKey("\xff"), lake.FileKey(strings.Repeat("a", 256)),
		lake.FileKey(strings.Repeat("a/", 2100) + "a"), lake.TableKey("", "t"), lake.TableKey("n", ""), lake.TableKey("..", "t"), lake.DefKey(""),
		"", "file", "file/", "other/x", "table/a", "table/a/b/c", "def/a/b", "file/%2f", "file/%", "file/%41", "file/e\u0301",
	} {
		_, err := l.Update(t.Context(), "main", lake.CommitInfo{}, func(_ context.Context, tx *lake.Tx) error {
			tx.Put(key, entry("1"))
			return nil
		})
		if !errors.Is(err, lake.ErrInvalidKey) {
			t.Errorf("key %q: %v", key, err)
		}
		if _, _, err := l.Tree(lake.Hash{}).Get(t.Context(), key); !errors.Is(err, lake.ErrInvalidKey) {
			t.Errorf("get %q: %v", key, err)
		}
	}
	good := map[string]string{
		lake.FileKey("a b.txt"): "a b.txt", lake.FileKey("...hidden"): "...hidden", lake.FileKey("100%/x"): "100%/x",
		lake.FileKey("e\u0301"): "é", lake.FileKey("日本/🙂"): "日本/🙂", lake.FileKey(strings.Repeat("a", 255)): strings.Repeat("a", 255),
		lake.TableKey("default", "or/ders"): "or/ders", lake.TableKey("sales", "a.b"): "sales.a.b", lake.DefKey("x y"): "x y",
	}
	c, err := l.Update(t.Context(), "main", lake.CommitInfo{}, func(_ context.Context, tx *lake.Tx) error {
		for key := range good {
			tx.Put(key, entry("1"))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for e, err := range l.Tree(c.Tree).Scan(t.Context(), "", "") {
		if err != nil {
			t.Fatal(err)
		}
		got[e.Key] = lake.DisplayKey(e.Key)
	}
	if d := cmp.Diff(good, got); d != "" {
		t.Error(d)
	}
	for _, info := range []lake.CommitInfo{{Message: strings.Repeat("x", lake.MaxMessage+1)}, {Author: "\xff"}, {RequestID: strings.Repeat("x", 2000)}} {
		if _, err := l.Update(t.Context(), "main", info, edits("a=1")); !errors.Is(err, lake.ErrInvalidCommit) {
			t.Errorf("commit info was accepted: %v", err)
		}
	}
}

// TestFsckBesideWriters checks again and again while a branch is worked on.
func TestFsckBesideWriters(t *testing.T) {
	t.Parallel()
	l := laketest.New(t)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := range 20 {
			name := fmt.Sprintf("run/%d", i)
			c, err := l.Update(t.Context(), "main", lake.CommitInfo{RequestID: name}, edits(fmt.Sprintf("a%d=1", i)))
			if err == nil {
				_, err = l.CreateBranch(t.Context(), name, c.ID, "")
			}
			if err == nil && i%2 == 0 {
				_, err = l.DeleteBranch(t.Context(), name, "")
			}
			if err != nil {
				t.Error(err)
				return
			}
		}
	}()
	for working := true; working; {
		select {
		case <-done:
			working = false
		default:
		}
		laketest.Fsck(t.Context(), t, l)
	}
}

// TestHistoryMatchesModel runs random operations on a lake and on plain maps.
func TestHistoryMatchesModel(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		// One lake for all draws would make them depend on each other; a lake in memory is cheap.
		blobs, rows := stores(t)
		l, err := lake.Open(t.Context(), blobs, rows, "p/model/lake/", lake.Options{})
		if err != nil {
			rt.Fatal(err)
		}
		defer func() {
			laketest.Fsck(t.Context(), t, l)
			if err := l.Close(); err != nil {
				rt.Error(err)
			}
		}()
		branches := map[string]map[string]string{"main": {}}
		known := func(name string) map[string]string { return branches[name] }
		name := func(label string) string {
			return rapid.SampledFrom(slices.Sorted(maps.Keys(branches))).Draw(rt, label)
		}
		head := func(name string) lake.Commit {
			c, err := l.Resolve(t.Context(), name)
			if err != nil {
				rt.Fatal(err)
			}
			return c
		}
		actions := map[string]func(*rapid.T){
			"update": func(rt *rapid.T) {
				b := name("branch")
				path := rapid.StringMatching(`[a-d](/[ab])?`).Draw(rt, "path")
				version := rapid.StringMatching(`[123]?`).Draw(rt, "version")
				if _, err := l.Update(t.Context(), b, lake.CommitInfo{}, edits(path+"="+version)); err != nil {
					rt.Fatal(err)
				}
				if version == "" {
					delete(known(b), path)
				} else {
					known(b)[path] = version
				}
			},
			"create": func(rt *rapid.T) {
				b, from := rapid.StringMatching(`[xyz]`).Draw(rt, "name"), name("from")
				_, err := l.CreateBranch(t.Context(), b, head(from).ID, "")
				if _, taken := branches[b]; taken != errors.Is(err, lake.ErrRefExists) || (!taken && err != nil) {
					rt.Fatal(err)
				}
				if err == nil {
					branches[b] = maps.Clone(known(from))
				}
			},
			"delete": func(rt *rapid.T) {
				b := name("branch")
				if _, err := l.DeleteBranch(t.Context(), b, ""); (b == "main") != errors.Is(err, lake.ErrMainBranch) {
					rt.Fatal(err)
				}
				if b != "main" {
					delete(branches, b)
				}
			},
			"merge preferring the source": func(rt *rapid.T) {
				source, target := name("source"), name("target")
				prefer := map[string]lake.Side{}
				rehearsed, _, err := l.Merge(t.Context(), head(source).ID, target, lake.CommitInfo{}, lake.MergeOptions{}, nil, true)
				if err != nil {
					rt.Fatal(err)
				}
				for _, c := range rehearsed.Conflicts {
					prefer[c.Key] = lake.Source
				}
				r, _, err := l.Merge(t.Context(), head(source).ID, target, lake.CommitInfo{}, lake.MergeOptions{Prefer: prefer}, nil, false)
				if err != nil {
					rt.Fatal(err)
				}
				for _, c := range r.Changes {
					if c.After == nil {
						delete(known(target), lake.DisplayKey(c.Key))
						continue
					}
					known(target)[lake.DisplayKey(c.Key)] = c.After.Version
					if known(source)[lake.DisplayKey(c.Key)] != c.After.Version {
						rt.Fatalf("%s came from nowhere", c.Key)
					}
				}
			},
		}
		// Not Repeat, whose 30 steps, each of them durable, would take 10 s over all draws.
		for range rapid.IntRange(1, 12).Draw(rt, "steps") {
			actions[rapid.SampledFrom(slices.Sorted(maps.Keys(actions))).Draw(rt, "action")](rt)
			for b, want := range branches {
				got := map[string]string{}
				for e, err := range l.Tree(head(b).Tree).Scan(t.Context(), "", "") {
					if err != nil {
						rt.Fatal(err)
					}
					got[lake.DisplayKey(e.Key)] = e.Entry.Version
				}
				if d := cmp.Diff(want, got); d != "" {
					rt.Fatal(b, d)
				}
			}
		}
	})
}
