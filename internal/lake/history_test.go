package lake_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/lake"
	"tarn.dev/tarn/internal/lake/laketest"
)

// entry is a file entry whose content is called version.
func entry(version string) lake.Entry {
	return lake.Entry{
		Kind: lake.KindFile, Version: version,
		Location: lake.Location{Ref: lake.FileRef{Size: int64(len(version)), Inline: []byte(version)}, Size: int64(len(version))},
	}
}

// put commits key = version pairs ("a=1", "b=" removes) to a branch.
func put(t *testing.T, l *lake.Lake, branch string, pairs ...string) lake.Commit {
	t.Helper()
	c, err := l.Update(t.Context(), branch, lake.CommitInfo{Author: "ann", Message: strings.Join(pairs, " ")}, edits(pairs...))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func edits(pairs ...string) func(context.Context, *lake.Tx) error {
	return func(_ context.Context, tx *lake.Tx) error {
		for _, p := range pairs {
			path, version, _ := strings.Cut(p, "=")
			if version == "" {
				tx.Delete(lake.FileKey(path))
				continue
			}
			tx.Put(lake.FileKey(path), entry(version))
		}
		return nil
	}
}

// files lists a tree as "path=version".
func files(t *testing.T, tree lake.Tree) []string {
	t.Helper()
	var out []string
	for e, err := range tree.Scan(t.Context(), "", "") {
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, lake.DisplayKey(e.Key)+"="+e.Entry.Version)
	}
	return out
}

func resolve(t *testing.T, l *lake.Lake, ref string) lake.Commit {
	t.Helper()
	c, err := l.Resolve(t.Context(), ref)
	if err != nil {
		t.Fatalf("resolve %s: %v", ref, err)
	}
	return c
}

func branch(t *testing.T, l *lake.Lake, name, from string) {
	t.Helper()
	if _, err := l.CreateBranch(t.Context(), name, resolve(t, l, from).ID, ""); err != nil {
		t.Fatal(err)
	}
}

func TestUpdateMakesOneCommit(t *testing.T) {
	t.Parallel()
	l := laketest.New(t)
	root := resolve(t, l, "main")
	if len(root.Parents) != 0 || !root.Tree.IsZero() {
		t.Fatalf("first commit is %+v", root)
	}
	c := put(t, l, "main", "a=1", "b/c=2")
	if d := cmp.Diff([]string{"a=1", "b/c=2"}, files(t, l.Tree(c.Tree))); d != "" {
		t.Error(d)
	}
	if head := resolve(t, l, "main"); !cmp.Equal(head, c) || head.Parents[0] != root.ID || head.Author != "ann" || head.Generation != 1 {
		t.Errorf("head is %+v, want %+v", head, c)
	}
	if again := put(t, l, "main", "a=1"); again.ID != c.ID {
		t.Error("an update that changes nothing made a commit")
	}
	boom := errors.New("boom")
	if _, err := l.Update(t.Context(), "main", lake.CommitInfo{}, func(context.Context, *lake.Tx) error { return boom }); !errors.Is(err, boom) {
		t.Errorf("error of fn came back as %v", err)
	}
	if head := resolve(t, l, "main"); head.ID != c.ID {
		t.Error("a failed update moved the branch")
	}
}

func TestFiftyUpdatersOnOneBranch(t *testing.T) {
	t.Parallel()
	l := laketest.New(t)
	var wg sync.WaitGroup
	for i := range 50 {
		wg.Go(func() {
			if _, err := l.Update(t.Context(), "main", lake.CommitInfo{}, edits(fmt.Sprintf("f%02d=%d", i, i))); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	head := resolve(t, l, "main")
	if n := len(files(t, l.Tree(head.Tree))); n != 50 || head.Generation != 50 {
		t.Errorf("%d files after %d commits", n, head.Generation)
	}
}

func TestResolve(t *testing.T) {
	t.Parallel()
	l := laketest.New(t)
	root := resolve(t, l, "main")
	one := put(t, l, "main", "a=1")
	between := time.Now().UTC()
	two := put(t, l, "main", "a=2")
	branch(t, l, "dev/x", "main~1")
	side := put(t, l, "dev/x", "b=1")
	if _, err := l.CreateTag(t.Context(), "v1", one.ID, ""); err != nil {
		t.Fatal(err)
	}
	_, merged, err := l.Merge(t.Context(), side.ID, "main", lake.CommitInfo{}, lake.MergeOptions{}, nil, false)
	if err != nil {
		t.Fatal(err)
	}
	for ref, want := range map[string]lake.Commit{
		"main": merged, "main~": two, "main^": two, "main^2": side, "main~2": one, "main~1^1": one, "main^2~1": one,
		"main~3": root, "main^0": merged, "main~0": merged, "v1": one, "v1~1": root, "dev/x": side,
		two.ID.String(): two, two.ID.String()[:12]: two, two.ID.String()[:10] + "~1": one,
		"main@{" + between.Format(time.RFC3339Nano) + "}":   one,
		"main@{" + between.Format(time.RFC3339Nano) + "}~1": root,
		"main@{2199-01-01}": merged, "main@{2199-01-01 10:00}": merged,
	} {
		if got := resolve(t, l, ref); got.ID != want.ID {
			t.Errorf("%s is %q, want %q", ref, got.Message, want.Message)
		}
	}
	for ref, want := range map[string]string{
		"mian":                      "lake.ref_not_found: there is no branch, tag or commit 'mian'. Did you mean main? Branches and tags: dev/x, main, v1.",
		"v2":                        "lake.ref_not_found: there is no branch, tag or commit 'v2'. Did you mean v1? Branches and tags: dev/x, main, v1.",
		"0000":                      "lake.ref_not_found: there is no branch, tag or commit '0000'. Branches and tags: dev/x, main, v1.",
		"":                          "lake.invalid_ref: the ref name is empty",
		"a b":                       `lake.invalid_ref: invalid ref name "a b": ' ' is not allowed`,
		"main~9":                    "lake.ref_not_found: 'main~9' goes back too far: commit " + root.ID.String()[:7] + " has no parent",
		"main^3":                    "lake.ref_not_found: 'main^3' goes back too far: commit " + merged.ID.String()[:7] + " has 2 parents",
		"main@{yesterday}":          "lake.invalid_ref: 'yesterday' is not a time. Write @{2026-01-31}, @{2026-01-31 09:00} (UTC) or @{2026-01-31T09:00:00+02:00}",
		"main@{2026":                "lake.invalid_ref: invalid ref 'main@{2026': the time after @{ has no closing }",
		"main@x":                    `lake.invalid_ref: invalid ref 'main@x': "@x" is not one of ~n, ^n, @{time}`,
		"main~1x":                   `lake.invalid_ref: invalid ref 'main~1x': "x" is not one of ~n, ^n, @{time}`,
		"main~99999999999999999999": "lake.invalid_ref: invalid ref 'main~99999999999999999999': 99999999999999999999 is not a number of steps",
		strings.Repeat("0", 64):     "lake.ref_not_found: there is no commit " + strings.Repeat("0", 64),
	} {
		_, err := l.Resolve(t.Context(), ref)
		if got := describe(err); got != want {
			t.Errorf("%s:\n got %s\nwant %s", ref, got, want)
		}
	}
	if _, err := l.Resolve(t.Context(), "main@{1999-01-01}"); !errors.Is(err, lake.ErrRefNotFound) || !strings.Contains(err.Error(), "begins at") {
		t.Error(err)
	}
}

// describe is an error as "reason: message".
func describe(err error) string {
	if err == nil {
		return "no error"
	}
	return errdef.As(err).Reason + ": " + err.Error()
}
