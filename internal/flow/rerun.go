package flow

import (
	"context"
	"fmt"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/dustin/go-humanize"

	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/flow/check"
	"tarn.dev/tarn/internal/lake"
	"tarn.dev/tarn/internal/query"
)

// Verdicts of a rerun.
const (
	verdictIdentical = "identical"
	verdictNoise     = "float noise"
	verdictDifferent = "different"
	verdictMissing   = "missing"
)

// compare holds the outputs of a rerun against what the original run made: the commit it published, or
// its run branch.
func (lv *live) compare(ctx context.Context, p *plan, results map[string]*assembled) error {
	f := lv.f
	old, err := f.Get(ctx, lv.run.RerunOf)
	if err != nil {
		return err
	}
	tree, err := f.resultTree(ctx, old)
	if err != nil {
		return err
	}
	var verdicts []Verdict
	for _, n := range p.nodes {
		r := results[n.Name]
		if r == nil {
			continue
		}
		for _, v := range r.values {
			was, err := entryAt(ctx, tree, v.key)
			if err != nil {
				return err
			}
			verdict, err := f.compareTable(ctx, v, was)
			if err != nil {
				return fmt.Errorf("compare %s: %w", v.name, err)
			}
			verdicts = append(verdicts, verdict)
		}
		if n.WritesFiles() {
			verdict, err := f.compareFolder(ctx, n.Name, r.files, tree)
			if err != nil {
				return err
			}
			verdicts = append(verdicts, verdict)
		}
	}
	lv.mu.Lock()
	defer lv.mu.Unlock()
	lv.run.Verdicts = verdicts
	return nil
}

// resultTree is where a run's outputs are: in what it published, else in what was there already.
func (f *Flow) resultTree(ctx context.Context, run *Run) (lake.Tree, error) {
	id := run.Commit
	if id.IsZero() {
		commit, err := f.lake.Resolve(ctx, runBranch+run.ID)
		if err == nil {
			return f.lake.Tree(commit.Tree), nil
		}
		if errdef.CodeOf(err) != errdef.NotFound {
			return lake.Tree{}, err
		}
		id = run.Base // everything was reused
	}
	commit, err := f.lake.Commit(ctx, id)
	if err != nil {
		return lake.Tree{}, err
	}
	return f.lake.Tree(commit.Tree), nil
}

func (f *Flow) compareTable(ctx context.Context, v *value, was *lake.Entry) (Verdict, error) {
	out := Verdict{Name: v.name, Verdict: verdictIdentical}
	switch {
	case was == nil:
		out.Verdict, out.Detail = verdictMissing, "the original run made no such table"
		return out, nil
	case was.Version == v.version && was.Schema == v.schema:
		return out, nil
	case was.Schema != v.schema:
		out.Verdict, out.Detail = verdictDifferent, "the columns differ"
		return out, nil
	}
	old := &value{name: v.name, key: v.key, entry: was}
	exact, err := f.countDifferences(ctx, v, old, false)
	if err != nil {
		return out, err
	}
	rounded, err := f.countDifferences(ctx, v, old, true)
	if err != nil {
		return out, err
	}
	if rounded == 0 {
		out.Verdict, out.Detail = verdictNoise, fmt.Sprintf("%s rows differ in the last digits of floating-point numbers", humanize.Comma(exact))
		return out, nil
	}
	out.Verdict, out.Detail = verdictDifferent, fmt.Sprintf("%s rows of %s differ", humanize.Comma(rounded), humanize.Comma(v.rows))
	return out, nil
}

// countDifferences counts the rows of one table, as a bag, that the other does not have, on the side that
// has more of them; rounded compares
// floating-point numbers by nine significant digits.
func (f *Flow) countDifferences(ctx context.Context, a, b *value, rounded bool) (int64, error) {
	srcA, err := f.source(ctx, query.Name{Table: "a"}, a)
	if err != nil {
		return 0, err
	}
	srcB, err := f.source(ctx, query.Name{Table: "b"}, b)
	if err != nil {
		return 0, err
	}
	schema, err := f.tables.Schema(ctx, *b.entry)
	if err != nil {
		return 0, err
	}
	cols := ""
	for i, field := range schema.Fields() {
		c := check.Quote(field.Name)
		if id := field.Type.ID(); rounded && (id == arrow.FLOAT64 || id == arrow.FLOAT32) {
			c = fmt.Sprintf("format('{:.9e}', %s) AS %s", c, c)
		}
		if i > 0 {
			cols += ", "
		}
		cols += c
	}
	sql := fmt.Sprintf(`SELECT greatest(
	(SELECT count(*) FROM (SELECT %[1]s FROM a EXCEPT ALL SELECT %[1]s FROM b)),
	(SELECT count(*) FROM (SELECT %[1]s FROM b EXCEPT ALL SELECT %[1]s FROM a)))::BIGINT AS n`, cols)
	return f.count(ctx, query.Job{SQL: sql, Sources: []query.Source{srcA, srcB}})
}

func (f *Flow) compareFolder(ctx context.Context, name string, files []fileValue, tree lake.Tree) (Verdict, error) {
	out := Verdict{Name: name + "/", Verdict: verdictIdentical}
	was := map[string]string{}
	for ke, err := range tree.Scan(ctx, lake.FileKey(name)+"/", "") {
		if err != nil {
			return out, err
		}
		was[lake.DisplayKey(ke.Key)] = ke.Entry.Version
	}
	differ := 0
	for _, v := range files {
		if was[v.path] != v.hash {
			differ++
		}
		delete(was, v.path)
	}
	if differ += len(was); differ > 0 {
		out.Verdict, out.Detail = verdictDifferent, fmt.Sprintf("%d files differ", differ)
	}
	return out, nil
}
