package flow_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/flow"
	"tarn.dev/tarn/internal/lake"
)

// on runs everything on a branch.
func (p *place) on(branch string) outcome {
	p.t.Helper()
	r := p.request()
	r.Ref, r.Into = branch, branch
	o := p.run(r)
	if o.Error != nil {
		p.t.Fatalf("run on %s: %v", branch, o.Error)
	}
	return o
}

func (p *place) putOn(branch, path, content string) {
	p.t.Helper()
	_, err := p.Publish(context.Background(), flow.Publication{
		Branch: branch, Info: lake.CommitInfo{Message: "Put"},
		Change: func(ctx context.Context, tx *lake.Tx) error {
			ref, err := tx.Batch().PutFile(ctx, strings.NewReader(content))
			if err == nil {
				tx.Put(lake.FileKey(path), lake.FileEntry(ref))
			}
			return err
		},
	})
	if err != nil {
		p.t.Fatal(err)
	}
}

// Two branches that processed different files of one asset both land, in a table and in a folder; what
// both made anew is a conflict that names it.
func TestMergeOfItems(t *testing.T) {
	t.Parallel()
	p := newPlace(t, "pipeline.py", items, "all.sql", "SELECT 1 AS one\n")
	p.putOn("main", "raw/a.txt", "a")
	p.on("main")
	if _, err := p.lake.CreateBranch(t.Context(), "dev", p.head(), ""); err != nil {
		t.Fatal(err)
	}
	p.putOn("dev", "raw/b.txt", "b")
	p.on("dev")
	p.putOn("main", "raw/c.txt", "c")
	p.on("main")
	dev, err := p.lake.Resolve(t.Context(), "dev")
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := p.Merge(t.Context(), flow.MergeRequest{Source: dev.ID, Branch: "main"}); err != nil {
		t.Fatal(err)
	}
	if got := p.files("upper/"); !cmp.Equal(got, []string{"upper/a.txt", "upper/b.txt", "upper/c.txt"}) {
		t.Errorf("after the merge: %v", got)
	}
	if o := p.on("main"); o.states() != "all:cached upper:cached" || !o.Commit.IsZero() {
		t.Errorf("a run after the merge: %s, commit %s", o.states(), o.Commit)
	}
}

func TestMergeOfRunsThatClash(t *testing.T) {
	t.Parallel()
	p := newPlace(t, "all.sql", "SELECT 1 AS one\n")
	p.on("main")
	if _, err := p.lake.CreateBranch(t.Context(), "dev", p.head(), ""); err != nil {
		t.Fatal(err)
	}
	p.write("all.sql", "SELECT 2 AS one\n")
	p.on("dev")
	p.write("all.sql", "SELECT 3 AS one\n")
	p.on("main")
	head := p.head()
	dev, err := p.lake.Resolve(t.Context(), "dev")
	if err != nil {
		t.Fatal(err)
	}
	res, _, err := p.Merge(t.Context(), flow.MergeRequest{Source: dev.ID, Branch: "main"})
	if err != nil && !errors.Is(err, lake.ErrMergeConflict) {
		t.Fatal(err)
	}
	var keys []string
	for _, c := range res.Conflicts {
		keys = append(keys, c.Key)
	}
	if !cmp.Equal(keys, []string{lake.DefKey("all"), lake.TableKey("default", "all")}) || p.head() != head {
		t.Errorf("conflicts %v; main moved: %v", keys, p.head() != head)
	}
}

// branches are the names of all branches, those of runs too.
func (p *place) branches() []string {
	p.t.Helper()
	var names []string
	for b, err := range p.lake.Branches(context.Background()) {
		if err != nil {
			p.t.Fatal(err)
		}
		names = append(names, b.Name)
	}
	return names
}

// Each side passes alone, and what they come to together does not. A dry run says so and leaves nothing
// behind; the merge keeps the offenders.
func TestMergeThatFailsACheck(t *testing.T) {
	t.Parallel()
	p := newPlace(t, "judged.sql", withChecks("checks", "SELECT 1 AS id\n", "id IN (SELECT id FROM known)"), "known.sql", "SELECT * FROM (VALUES (1), (7)) AS v(id)\n")
	p.on("main")
	if _, err := p.lake.CreateBranch(t.Context(), "dev", p.head(), ""); err != nil {
		t.Fatal(err)
	}
	p.write("judged.sql", withChecks("checks", "SELECT 7 AS id\n", "id IN (SELECT id FROM known)"))
	p.on("dev")
	p.write("judged.sql", withChecks("checks", "SELECT 1 AS id\n", "id IN (SELECT id FROM known)"), "known.sql", "SELECT 1 AS id\n")
	p.on("main")
	head, there := p.head(), p.branches()
	dev, err := p.lake.Resolve(t.Context(), "dev")
	if err != nil {
		t.Fatal(err)
	}
	r := flow.MergeRequest{Source: dev.ID, Branch: "main", DryRun: true}
	failed := func(pub flow.Published, err error) flow.CheckResult {
		t.Helper()
		if !errors.Is(err, flow.ErrCheckFailed) || len(pub.Checks) != 1 || p.head() != head {
			t.Fatalf("%v, checks %+v, main moved: %v", err, pub.Checks, p.head() != head)
		}
		return pub.Checks[0]
	}
	_, pub, err := p.Merge(t.Context(), r)
	if c := failed(pub, err); c.Kept != "" || len(errdef.As(err).Next) > 0 {
		t.Errorf("a dry run keeps %q, and says next %v", c.Kept, errdef.As(err).Next)
	}
	if now := p.branches(); !cmp.Equal(now, there) {
		t.Errorf("after a dry run: %v, before: %v", now, there)
	}
	r.DryRun = false
	_, pub, err = p.Merge(t.Context(), r)
	c := failed(pub, err)
	if now := p.branches(); len(now) != len(there)+1 || c.Kept == "" {
		t.Errorf("a merge keeps %q on %v, before: %v", c.Kept, now, there)
	}
}
