package lake

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strconv"
	"strings"
	"time"

	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/meta"
)

// ErrCut is returned for a commit that the retention of a branch removed, and by what needs such a one.
var ErrCut = errdef.New(errdef.FailedPrecondition, "lake.history_cut", "the history ends earlier: older commits were removed by retention")

// ErrInvalidRetention is returned for a retention that would keep nothing.
var ErrInvalidRetention = errdef.New(errdef.InvalidArgument, "lake.invalid_retention", "invalid retention")

// Retention says which commits a branch keeps: the last ones of its log, and those younger than Keep. Its
// head is always kept.
type Retention struct {
	Keep time.Duration `json:"keep_ns,omitempty"`
	Last int           `json:"last,omitempty"`
}

// String is a retention in words, for the reflog.
func (r Retention) String() string {
	var parts []string
	if r.Keep > 0 {
		parts = append(parts, strconv.FormatFloat(r.Keep.Hours()/24, 'f', -1, 64)+" days")
	}
	if r.Last > 0 {
		parts = append(parts, "the last "+strconv.Itoa(r.Last))
	}
	if len(parts) == 0 {
		return "all commits"
	}
	return strings.Join(parts, " and ")
}

// keeps reports whether the n-th commit of a log is kept, counted from 0.
func (r Retention) keeps(n int, age time.Duration) bool { return n < max(r.Last, 1) || age < r.Keep }

func (l *Lake) retainKey(branch string) string { return l.prefix + "retain/" + branch }

// Retain sets what a branch keeps; the zero Retention is everything. Collections remove the rest, unless
// another ref leads to it. The reflog has a line of it. With a request id it is done once.
func (l *Lake) Retain(ctx context.Context, branch string, r Retention, info CommitInfo) (Ref, error) {
	if r.Keep < 0 || r.Last < 0 {
		return Ref{}, ErrInvalidRetention.Errorf("a branch cannot keep %s", r)
	}
	for {
		ref, err := l.changeRef(ctx, info.RequestID, didRetain, branch, func() (Ref, []meta.Condition, []meta.Write, error) {
			ref, version, err := l.branch(ctx, branch)
			if err != nil {
				return Ref{}, nil, nil, err
			}
			ref.Time = after(ref.Time)
			writes, err := l.moveRows(branch, Commit{ID: ref.Commit}, ref.Time, moveRow{
				Commit: ref.Commit, Why: "retain " + r.String(), Author: info.Author, Request: info.RequestID,
			})
			set := meta.Delete(l.retainKey(branch))
			if r != (Retention{}) {
				set = meta.Set(l.retainKey(branch), mustJSON(r))
			}
			return ref, []meta.Condition{meta.At(l.branchKey(branch), version)}, append(writes, set), err
		})
		if !errors.Is(err, meta.ErrConditionFailed) { // else it moved
			return ref, err
		}
	}
}

// Retentions returns what branches keep that do not keep everything.
func (l *Lake) Retentions(ctx context.Context) (map[string]Retention, error) {
	out := map[string]Retention{}
	for row, err := range l.rows.Scan(ctx, meta.Prefix(l.retainKey(""))) {
		if err != nil {
			return nil, err
		}
		r, err := parseRetention(row)
		if err != nil {
			return nil, err
		}
		out[strings.TrimPrefix(row.Key, l.retainKey(""))] = r
	}
	return out, nil
}

func parseRetention(row meta.Row) (r Retention, err error) {
	if err = json.Unmarshal(row.Value, &r); err != nil {
		err = ErrCorrupt.Errorf("row %s is no retention: %w", row.Key, err)
	}
	return r, err
}

// A commit that goes while one stayed whose parent it is leaves a row, by which its absence is known.
func (l *Lake) cutKey(id string) string { return l.prefix + "cut/" + id }

type cutRow struct {
	Time time.Time `json:"time"`
}

// scanCuts reads the rows of such commits.
func (l *Lake) scanCuts(ctx context.Context) (map[Hash]cutRow, error) {
	out := map[Hash]cutRow{}
	for row, err := range l.rows.Scan(ctx, meta.Prefix(l.cutKey(""))) {
		if err != nil {
			return nil, err
		}
		id, err := ParseHash(strings.TrimPrefix(row.Key, l.cutKey("")))
		var cut cutRow
		if err == nil {
			err = json.Unmarshal(row.Value, &cut)
		}
		if err != nil {
			return nil, ErrCorrupt.Errorf("row %s: %w", row.Key, err)
		}
		out[id] = cut
	}
	return out, nil
}

// cut returns ErrCut for a commit that retention removed. What this process knows may be old: then the
// commit is still there, because collection waits for this process to read the rows again.
func (x *index) cut(id Hash) error {
	x.mu.RLock()
	defer x.mu.RUnlock()
	if row, ok := x.cuts[id]; ok {
		return ErrCut.Errorf("commit %s was removed by the retention of a branch on %s; the history ends behind it", short(id), row.Time.Format(time.DateOnly)).
			WithNext("tarn branch ls   # shows what each branch keeps")
	}
	return nil
}

// cutOf returns those of some commits that retention removed.
func (x *index) cutOf(parents []Hash) (out []Hash) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	for _, p := range parents {
		if _, ok := x.cuts[p]; ok {
			out = append(out, p)
		}
	}
	return out
}

// Kept returns the parents that are there.
func (c Commit) Kept() []Hash {
	if len(c.Cut) == 0 {
		return c.Parents
	}
	return slices.DeleteFunc(slices.Clone(c.Parents), func(p Hash) bool { return slices.Contains(c.Cut, p) })
}

// retainedHead is a branch that does not keep all of its history.
type retainedHead struct {
	commit Hash
	Retention
}

// retain adds the commits to kept that a branch keeps, and its other ones to released.
func (c *collection) retain(ctx context.Context, head retainedHead, kept, released map[Hash]bool) error {
	const candidate = 1 // led to by one that is kept
	q := newWalk(c.l)
	if err := q.add(ctx, head.commit, candidate); err != nil {
		return err
	}
	for n := 0; q.Len() > 0; {
		v := q.next()
		marks := uint8(0)
		if v.marks&candidate != 0 && head.keeps(n, c.now.Sub(v.Time)) {
			n++
			kept[v.ID], marks = true, candidate
		} else {
			released[v.ID] = true
		}
		for _, p := range v.Kept() {
			if err := q.add(ctx, p, marks); err != nil {
				return err
			}
		}
	}
	return nil
}

// edge returns the parents of commits that stay which do not stay, or are gone since an earlier collection.
func (c *collection) edge(ctx context.Context, r *roots, reached map[Hash]bool) (map[Hash]bool, error) {
	edge := map[Hash]bool{}
	if len(r.retained)+len(r.cuts) == 0 {
		return edge, nil // every parent stays
	}
	for id := range reached {
		commit, err := c.l.Commit(ctx, id)
		if err != nil {
			return nil, err
		}
		for _, p := range commit.Parents {
			if !reached[p] {
				edge[p] = true
			}
		}
	}
	return edge, nil
}
