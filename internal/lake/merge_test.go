package lake_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"tarn.dev/tarn/internal/lake"
	"tarn.dev/tarn/internal/lake/laketest"
)

var noOptions = lake.MergeOptions{}

func merge(t *testing.T, l *lake.Lake, source, target string, info lake.CommitInfo, opt lake.MergeOptions) (lake.MergeResult, lake.Commit, error) {
	t.Helper()
	return l.Merge(t.Context(), resolve(t, l, source).ID, target, info, opt, nil, false)
}

// show lists what a result says.
func show(r lake.MergeResult) []string {
	version := func(e *lake.Entry) string {
		if e == nil {
			return "-"
		}
		return e.Version
	}
	var out []string
	for _, c := range r.Changes {
		out = append(out, fmt.Sprintf("%s %s>%s", lake.DisplayKey(c.Key), version(c.Before), version(c.After)))
	}
	for _, c := range r.Conflicts {
		out = append(out, fmt.Sprintf("%s: %s", c.Reason, c.Message))
	}
	return out
}

func TestMergeByKey(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		base, source, target string
		want                 string // changes and conflicts
		files                string
	}{
		"nothing":               {"a=1", "", "b=1", "", "a=1 b=1"},
		"source adds":           {"a=1", "b=2", "c=3", "b ->2", "a=1 b=2 c=3"},
		"source removes":        {"a=1 b=1", "b=", "c=3", "b 1>-", "a=1 c=3"},
		"both add the same":     {"a=1", "b=2", "b=2 c=1", "", "a=1 b=2 c=1"},
		"both remove":           {"a=1 b=1", "b=", "b= c=1", "", "a=1 c=1"},
		"both change the same":  {"a=1", "a=2", "a=2 c=1", "", "a=2 c=1"},
		"both change":           {"a=1", "a=2", "a=3", "lake.both_changed: a: both changed it", ""},
		"both add":              {"a=1", "b=2", "b=3", "lake.both_added: b: both added it, with different content", ""},
		"source removes, other": {"a=1", "a=", "a=3", "lake.deleted: a: the source deleted it, the target changed it", ""},
		"target removes, other": {"a=1", "a=3", "a=", "lake.deleted: a: the source changed it, the target deleted it", ""},
		"some fit":              {"a=1 b=1", "a=2 b=2", "b=3", "a 1>2|lake.both_changed: b: both changed it", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := laketest.New(t)
			put(t, l, "main", strings.Fields(c.base)...)
			branch(t, l, "dev", "main")
			put(t, l, "dev", strings.Fields(c.source)...)
			before := put(t, l, "main", strings.Fields(c.target)...)
			rehearsed, head, err := l.Merge(t.Context(), resolve(t, l, "dev").ID, "main", lake.CommitInfo{}, noOptions, nil, true)
			if err != nil || head.ID != before.ID || resolve(t, l, "main").ID != before.ID {
				t.Fatalf("dry run: %v, head %s", err, head.ID)
			}
			r, merged, err := merge(t, l, "dev", "main", lake.CommitInfo{}, noOptions)
			if d := cmp.Diff(strings.Split(c.want, "|"), append([]string(nil), append(show(r), emptyIf(len(show(r)) == 0)...)...)); d != "" {
				t.Error(d)
			}
			if d := cmp.Diff(show(rehearsed), show(r)); d != "" || rehearsed.Tree.Root() != r.Tree.Root() || rehearsed.Base != r.Base || rehearsed.FastForward != r.FastForward {
				t.Error("the dry run says something else:", d)
			}
			if c.files == "" {
				if !errors.Is(err, lake.ErrMergeConflict) || resolve(t, l, "main").ID != before.ID {
					t.Errorf("conflict: %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := strings.Join(files(t, l.Tree(merged.Tree)), " "); got != c.files {
				t.Errorf("merged is %s, want %s", got, c.files)
			}
		})
	}
}

func emptyIf(empty bool) []string {
	if empty {
		return []string{""}
	}
	return nil
}

func TestMergeShapes(t *testing.T) {
	t.Parallel()
	l := laketest.New(t)
	put(t, l, "main", "a=1")
	branch(t, l, "dev", "main")
	dev := put(t, l, "dev", "b=1")
	r, c, err := merge(t, l, "dev", "main", lake.CommitInfo{}, noOptions)
	if err != nil || !r.FastForward || c.ID != dev.ID || resolve(t, l, "main").ID != dev.ID {
		t.Fatalf("fast-forward gave %+v, %v", c, err)
	}
	r, c, err = merge(t, l, "dev", "main", lake.CommitInfo{}, noOptions)
	if err != nil || r.FastForward || len(r.Changes) != 0 || c.ID != dev.ID {
		t.Fatalf("merging what is there gave %+v, %v", c, err)
	}
	dev = put(t, l, "dev", "b=2")
	_, c, err = merge(t, l, "dev", "main", lake.CommitInfo{Message: "release"}, noOptions)
	if err != nil || c.Message != "release" || len(c.Parents) != 2 || c.Parents[1] != dev.ID || c.Tree != dev.Tree {
		t.Fatalf("merge with a message gave %+v, %v", c, err)
	}
	put(t, l, "main", "m=1")
	put(t, l, "dev", "d=1")
	_, c, err = merge(t, l, "dev", "main", lake.CommitInfo{Author: "bea"}, noOptions)
	if err != nil || c.Author != "bea" || !strings.HasPrefix(c.Message, "Merge ") || len(c.Parents) != 2 {
		t.Fatalf("merge gave %+v, %v", c, err)
	}
	var why []string
	for m, err := range l.Reflog(t.Context(), "main") {
		if err != nil {
			t.Fatal(err)
		}
		why = append(why, m.Why)
	}
	if d := cmp.Diff([]string{"merge", "update", "merge", "merge", "update", "create"}, why); d != "" {
		t.Error(d)
	}
}

func TestMergeKeepsTheTargetsLocation(t *testing.T) {
	t.Parallel()
	l := laketest.New(t)
	put(t, l, "main", "same=1", "moved=1")
	branch(t, l, "dev", "main")
	set := func(branch, path, version, where string) {
		t.Helper()
		_, err := l.Update(t.Context(), branch, lake.CommitInfo{}, func(_ context.Context, tx *lake.Tx) error {
			e := entry(version)
			e.Location.Data = map[string]string{"where": where}
			tx.Put(lake.FileKey(path), e)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	set("dev", "same", "2", "dev")
	set("main", "same", "2", "main")
	set("dev", "moved", "1", "dev") // the source only moved it, nobody else touched it
	r, c, err := merge(t, l, "dev", "main", lake.CommitInfo{}, noOptions)
	if err != nil || len(r.Changes) != 0 {
		t.Fatal(show(r), err)
	}
	for path, want := range map[string]string{"same": "main", "moved": "dev"} {
		e, _, err := l.Tree(c.Tree).Get(t.Context(), lake.FileKey(path))
		if err != nil || e.Location.Data["where"] != want {
			t.Errorf("%s lies in %v, want %s: %v", path, e.Location.Data, want, err)
		}
	}
}

func TestMergePreferAndResolver(t *testing.T) {
	t.Parallel()
	l := laketest.New(t)
	put(t, l, "main", "a=1", "b=1", "c=1")
	branch(t, l, "dev", "main")
	put(t, l, "dev", "a=2", "b=2", "c=2", "d=2")
	put(t, l, "main", "a=3", "b=3", "c=", "d=3")
	source := resolve(t, l, "dev").ID
	prefer := func(pairs ...string) lake.MergeOptions {
		opt := lake.MergeOptions{Prefer: map[string]lake.Side{}}
		for _, p := range pairs {
			k, v, _ := strings.Cut(p, "=")
			opt.Prefer[lake.FileKey(k)] = lake.Side(v)
		}
		return opt
	}
	resolver := resolverFunc(func(key string, base, source, target *lake.Entry) (*lake.Entry, *lake.Conflict, error) {
		switch {
		case lake.DisplayKey(key) == "a":
			e := entry(base.Version + "+" + source.Version + "+" + target.Version)
			return &e, nil, nil
		case base == nil:
			return nil, nil, errors.New("broken")
		}
		return nil, &lake.Conflict{Reason: "file.lines", Message: "b: line 3", Details: []int{3}}, nil
	})
	for _, c := range []struct {
		opt  lake.MergeOptions
		want string
	}{
		{noOptions, "lake.both_changed: a: both changed it|lake.both_changed: b: both changed it|lake.deleted: c: the source changed it, the target deleted it|lake.both_added: d: both added it, with different content"},
		{prefer("a=source", "b=target", "c=source", "d=target"), "a 3>2|c ->2"},
		{prefer("a=source", "b=source", "c=target"), "a 3>2|b 3>2|lake.both_added: d: both added it, with different content"},
		{prefer("a=ours"), "lake.invalid_prefer: prefer a=ours: the side is source or target"},
		{prefer("x=source"), "lake.invalid_prefer: prefer x=source: neither side has x"},
		{prefer("../x=source"), `lake.invalid_name: invalid file name "../x": ".." is not allowed as a component`},
		{lake.MergeOptions{Resolvers: map[lake.Kind]lake.Resolver{lake.KindFile: resolver}, Prefer: prefer("d=target").Prefer}, "a 3>1+2+3|file.lines: b: line 3|lake.deleted: c: the source changed it, the target deleted it"},
		{lake.MergeOptions{Resolvers: map[lake.Kind]lake.Resolver{lake.KindFile: resolver}}, "internal: merge d: broken"},
	} {
		r, _, err := l.Merge(t.Context(), source, "main", lake.CommitInfo{}, c.opt, nil, true)
		got := strings.Join(show(r), "|")
		if err != nil {
			got = describe(err)
		}
		if got != c.want {
			t.Errorf("%v:\n got %s\nwant %s", c.opt.Prefer, got, c.want)
		}
	}
	_, _, err := merge(t, l, "dev", "main", lake.CommitInfo{}, noOptions)
	if got := describe(err); !strings.HasSuffix(got, "d: both added it, with different content. main is unchanged.") {
		t.Error(got)
	}
}

type resolverFunc func(key string, base, source, target *lake.Entry) (*lake.Entry, *lake.Conflict, error)

func (f resolverFunc) Resolve(_ context.Context, _ *lake.Batch, key string, base, source, target *lake.Entry) (*lake.Entry, *lake.Conflict, error) {
	return f(key, base, source, target)
}

func TestMergeGate(t *testing.T) {
	t.Parallel()
	l := laketest.New(t)
	put(t, l, "main", "a=1")
	branch(t, l, "dev", "main")
	put(t, l, "dev", "b=1")
	refused := errors.New("unique(id) failed")
	for _, dryRun := range []bool{true, false} {
		before := resolve(t, l, "main")
		_, _, err := l.Merge(t.Context(), resolve(t, l, "dev").ID, "main", lake.CommitInfo{}, noOptions, func(ctx context.Context, r lake.MergeResult) error {
			if d := cmp.Diff([]string{"b ->1"}, show(r)); d != "" {
				t.Error(d)
			}
			if _, ok, err := r.Tree.Get(ctx, lake.FileKey("b")); !ok || err != nil {
				t.Error("the gate does not see the merged tree", err)
			}
			return refused
		}, dryRun)
		if !errors.Is(err, refused) || resolve(t, l, "main").ID != before.ID {
			t.Errorf("dry run %v: %v", dryRun, err)
		}
	}
}

func TestCrissCross(t *testing.T) {
	t.Parallel()
	l := laketest.New(t)
	put(t, l, "main", "base=1")
	branch(t, l, "dev", "main")
	m1 := put(t, l, "main", "m=1")
	d1 := put(t, l, "dev", "d=1")
	for target, source := range map[string]lake.Commit{"main": d1, "dev": m1} {
		if _, _, err := l.Merge(t.Context(), source.ID, target, lake.CommitInfo{}, noOptions, nil, false); err != nil {
			t.Fatal(err)
		}
	}
	m2, d2 := put(t, l, "main", "m=2"), put(t, l, "dev", "d=2")
	ab, err := l.MergeBase(t.Context(), m2.ID, d2.ID)
	if err != nil || (ab != m1.ID && ab != d1.ID) {
		t.Fatalf("merge base %s: %v", ab, err)
	}
	if ba, err := l.MergeBase(t.Context(), d2.ID, m2.ID); err != nil || ba != ab {
		t.Errorf("the other way round it is %s: %v", ba, err)
	}
	_, c, err := merge(t, l, "dev", "main", lake.CommitInfo{}, noOptions)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]string{"base=1", "d=2", "m=2"}, files(t, l.Tree(c.Tree))); d != "" {
		t.Error(d)
	}
}

// TestCrissCrossUndecided crosses two merges that decided one key differently.
func TestCrissCrossUndecided(t *testing.T) {
	t.Parallel()
	l := laketest.New(t)
	put(t, l, "main", "k=0")
	branch(t, l, "dev", "main")
	m1 := put(t, l, "main", "k=1")
	d1 := put(t, l, "dev", "k=2")
	mine := lake.MergeOptions{Prefer: map[string]lake.Side{lake.FileKey("k"): lake.Target}}
	for target, source := range map[string]lake.Commit{"main": d1, "dev": m1} {
		if _, _, err := l.Merge(t.Context(), source.ID, target, lake.CommitInfo{}, mine, nil, false); err != nil {
			t.Fatal(err)
		}
	}
	r, _, err := merge(t, l, "dev", "main", lake.CommitInfo{}, noOptions)
	if d := cmp.Diff([]string{"lake.both_changed: k: both changed it"}, show(r)); d != "" || !errors.Is(err, lake.ErrMergeConflict) {
		t.Error(d, err)
	}
	put(t, l, "main", "k=3")
	put(t, l, "dev", "k=3")
	if _, _, err := merge(t, l, "dev", "main", lake.CommitInfo{}, noOptions); err != nil {
		t.Error(err)
	}
}

func TestRevert(t *testing.T) {
	t.Parallel()
	l := laketest.New(t)
	put(t, l, "main", "a=1")
	bad := put(t, l, "main", "a=2", "b=2")
	put(t, l, "main", "c=1")
	_, c, err := l.Revert(t.Context(), bad.ID, "main", lake.CommitInfo{}, noOptions, nil)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]string{"a=1", "c=1"}, files(t, l.Tree(c.Tree))); d != "" {
		t.Error(d)
	}
	if want := "Revert " + bad.ID.String()[:7] + " (a=2 b=2)"; c.Message != want {
		t.Errorf("message %q, want %q", c.Message, want)
	}
	if _, again, err := l.Revert(t.Context(), bad.ID, "main", lake.CommitInfo{}, noOptions, nil); err != nil || again.ID != c.ID {
		t.Errorf("reverting what is gone gave %s, %v", again.ID, err)
	}
	_, back, err := l.Revert(t.Context(), c.ID, "main", lake.CommitInfo{Message: "it was right"}, noOptions, nil)
	if err != nil || back.Message != "it was right" {
		t.Fatal(err)
	}
	put(t, l, "main", "a=9")
	if _, _, err := l.Revert(t.Context(), bad.ID, "main", lake.CommitInfo{}, noOptions, nil); !errors.Is(err, lake.ErrMergeConflict) {
		t.Errorf("reverting what others built on: %v", err)
	}
	if _, _, err := l.Revert(t.Context(), bad.ID, "main", lake.CommitInfo{}, lake.MergeOptions{Prefer: map[string]lake.Side{lake.FileKey("a"): lake.Target}}, nil); err != nil {
		t.Error(err)
	}
}

func TestLog(t *testing.T) {
	t.Parallel()
	l := laketest.New(t)
	put(t, l, "main", "a=1", "x/y=1")
	branch(t, l, "dev", "main")
	put(t, l, "dev", "b=1")
	put(t, l, "main", "a=2")
	put(t, l, "dev", "x/z=1")
	if _, _, err := merge(t, l, "dev", "main", lake.CommitInfo{Message: "M"}, noOptions); err != nil {
		t.Fatal(err)
	}
	put(t, l, "main", "b=")
	messages := func(opt lake.LogOptions) string {
		t.Helper()
		var out []string
		for c, err := range l.Log(t.Context(), resolve(t, l, "main").ID, opt) {
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, c.Message)
		}
		return strings.Join(out, ", ")
	}
	for _, c := range []struct {
		opt  lake.LogOptions
		want string
	}{
		{lake.LogOptions{}, "b=, M, x/z=1, a=2, b=1, a=1 x/y=1, Begin project"},
		{lake.LogOptions{Limit: 2}, "b=, M"},
		{lake.LogOptions{Key: lake.FileKey("a")}, "a=2, a=1 x/y=1"},
		{lake.LogOptions{Key: lake.FileKey("b")}, "b=, b=1"},
		{lake.LogOptions{Key: lake.FileKey("x") + "/"}, "x/z=1, a=1 x/y=1"},
		{lake.LogOptions{Key: lake.FileKey("x") + "/", Limit: 1}, "x/z=1"},
		{lake.LogOptions{Key: lake.FileKey("nowhere")}, ""},
	} {
		if got := messages(c.opt); got != c.want {
			t.Errorf("log %+v: %s, want %s", c.opt, got, c.want)
		}
	}
}

// TestMergeLaws draws three contents and holds MergeTrees to its laws and to a model over plain maps.
func TestMergeLaws(t *testing.T) {
	t.Parallel()
	l := laketest.New(t)
	content := rapid.MapOfN(rapid.StringMatching(`[a-f](/[a-c])?`), rapid.StringMatching(`[123]`), 0, 10)
	rapid.Check(t, func(t *rapid.T) {
		b := l.Begin(t.Context())
		defer b.Discard()
		tree := func(m map[string]string) lake.Tree {
			var edits []lake.Edit
			for k, v := range m {
				e := entry(v)
				edits = append(edits, lake.Edit{Key: lake.FileKey(k), Entry: &e})
			}
			tr, err := l.Tree(lake.Hash{}).Edit(t.Context(), b, edits)
			if err != nil {
				t.Fatal(err)
			}
			return tr
		}
		baseModel, sourceModel, targetModel := content.Draw(t, "base"), content.Draw(t, "source"), content.Draw(t, "target")
		base, source, target := tree(baseModel), tree(sourceModel), tree(targetModel)
		do := func(base, source, target lake.Tree) lake.MergeResult {
			r, err := l.MergeTrees(t.Context(), b, base, source, target, noOptions)
			if err != nil {
				t.Fatal(err)
			}
			return r
		}
		conflicts := func(r lake.MergeResult) (keys []string) {
			for _, c := range r.Conflicts {
				keys = append(keys, lake.DisplayKey(c.Key)+" "+c.Reason)
			}
			return keys
		}
		if r := do(base, base, target); r.Tree.Root() != target.Root() || len(r.Changes)+len(r.Conflicts) != 0 {
			t.Fatal("an unchanged source changes the target")
		}
		if r := do(base, source, base); r.Tree.Root() != source.Root() || len(r.Conflicts) != 0 {
			t.Fatal("an unchanged target does not become the source")
		}
		if r := do(base, source, source); r.Tree.Root() != source.Root() || len(r.Changes)+len(r.Conflicts) != 0 {
			t.Fatal("merging with oneself changes something")
		}
		forth, back := do(base, source, target), do(base, target, source)
		if d := cmp.Diff(conflicts(forth), conflicts(back)); d != "" {
			t.Fatal("the sides disagree about conflicts", d)
		}
		if len(forth.Conflicts) == 0 {
			if forth.Tree.Root() != back.Tree.Root() {
				t.Fatal("the sides disagree about the result")
			}
			if again := do(base, source, forth.Tree); again.Tree.Root() != forth.Tree.Root() || len(again.Conflicts) != 0 {
				t.Fatal("merging twice is not merging once")
			}
		}
		all := maps.Clone(baseModel)
		maps.Copy(all, sourceModel)
		maps.Copy(all, targetModel)
		want, wantConflicts := maps.Clone(targetModel), 0
		for _, k := range slices.Sorted(maps.Keys(all)) {
			bv, sv, tv := baseModel[k], sourceModel[k], targetModel[k]
			switch {
			case sv == bv || sv == tv:
			case tv != bv:
				wantConflicts++
			case sv == "":
				delete(want, k)
			default:
				want[k] = sv
			}
		}
		if forth.Tree.Root() != tree(want).Root() || len(forth.Conflicts) != wantConflicts {
			t.Fatalf("%d conflicts, want %d; or another tree than the model's", len(forth.Conflicts), wantConflicts)
		}
	})
}
