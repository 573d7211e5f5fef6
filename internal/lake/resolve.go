package lake

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"tarn.dev/tarn/internal/meta"
)

// MinIDPrefix is the least number of hex digits that may stand for a commit.
const MinIDPrefix = 4

// Resolve returns the commit that a ref names: a branch, a tag or at least four digits of a commit id,
// in this order, with any number of steps behind it:
//
//	~n      the n-th first parent (~ is ~1)
//	^n      the n-th parent of a merge (^ is ^1)
//	@{t}    directly behind a branch: where it was at time t (RFC 3339, or a date or date and time, UTC)
func (l *Lake) Resolve(ctx context.Context, ref string) (Commit, error) {
	base, steps := ref, ""
	if i := strings.IndexAny(ref, "~^@"); i >= 0 {
		base, steps = ref[:i], ref[i:]
	}
	var id Hash
	var err error
	if when, ok := strings.CutPrefix(steps, "@{"); ok {
		if when, steps, ok = strings.Cut(when, "}"); !ok {
			return Commit{}, ErrInvalidRef.Errorf("invalid ref '%s': the time after @{ has no closing }", clip(ref))
		}
		id, err = l.branchAt(ctx, base, when)
	} else {
		id, err = l.resolveName(ctx, base)
	}
	if err != nil {
		return Commit{}, err
	}
	c, err := l.Commit(ctx, id)
	for err == nil && steps != "" {
		c, steps, err = l.step(ctx, ref, c, steps)
	}
	return c, err
}

// step takes one ~n or ^n off steps.
func (l *Lake) step(ctx context.Context, ref string, c Commit, steps string) (Commit, string, error) {
	kind, rest := steps[0], steps[1:]
	digits := 0
	for digits < len(rest) && rest[digits] >= '0' && rest[digits] <= '9' {
		digits++
	}
	n := 1
	if digits > 0 {
		var err error
		if n, err = strconv.Atoi(rest[:digits]); err != nil {
			return Commit{}, "", ErrInvalidRef.Errorf("invalid ref '%s': %s is not a number of steps", clip(ref), clip(rest[:digits]))
		}
	}
	rest = rest[digits:]
	parent := 0
	switch {
	case kind == '^' && n == 0:
		return c, rest, nil
	case kind == '^':
		parent, n = n-1, 1
	case kind != '~':
		return Commit{}, "", ErrInvalidRef.Errorf("invalid ref '%s': %q is not one of ~n, ^n, @{time}", clip(ref), clip(steps))
	}
	for ; n > 0; n-- {
		if parent >= len(c.Parents) {
			what := "no parent"
			if len(c.Parents) > 0 {
				what = fmt.Sprintf("%d parents", len(c.Parents))
			}
			return Commit{}, "", ErrRefNotFound.Errorf("'%s' goes back too far: commit %s has %s", clip(ref), short(c.ID), what)
		}
		var err error
		if c, err = l.Commit(ctx, c.Parents[parent]); err != nil {
			return Commit{}, "", err
		}
	}
	return c, rest, nil
}

func (l *Lake) resolveName(ctx context.Context, name string) (Hash, error) {
	if err := CheckRefName(name); err != nil {
		if id, perr := ParseHash(name); perr == nil {
			return id, l.committed(ctx, id)
		}
		return Hash{}, err
	}
	for _, key := range []string{l.branchKey(name), l.tagKey(name)} {
		row, err := l.rows.Get(ctx, key)
		if err == nil {
			ref, err := parseRef(name, row)
			return ref.Commit, err
		}
		if !errors.Is(err, meta.ErrNotFound) {
			return Hash{}, err
		}
	}
	ids, err := l.commitsWithPrefix(ctx, name)
	switch {
	case err != nil:
		return Hash{}, err
	case len(ids) == 1:
		return ids[0], nil
	case len(ids) > 1:
		var some []string
		for _, id := range ids {
			some = append(some, id.String()[:min(len(name)+4, 2*HashSize)])
		}
		return Hash{}, ErrAmbiguousRef.Errorf("several commits begin with '%s': %s", name, strings.Join(some, ", "))
	}
	return Hash{}, l.refNotFound(ctx, ErrRefNotFound, "branch, tag or commit", name, l.Branches, l.Tags)
}

// committed returns ErrRefNotFound unless id is a commit of this lake.
func (l *Lake) committed(ctx context.Context, id Hash) error {
	_, err := l.rows.Get(ctx, l.commitKey(id.String()))
	if errors.Is(err, meta.ErrNotFound) {
		return ErrRefNotFound.Errorf("there is no commit %s", id)
	}
	return err
}

// commitsWithPrefix returns at most a few ids; enough to tell one from several.
func (l *Lake) commitsWithPrefix(ctx context.Context, digits string) ([]Hash, error) {
	if len(digits) < MinIDPrefix || strings.Trim(digits, "0123456789abcdef") != "" {
		return nil, nil
	}
	r := meta.Prefix(l.commitKey(digits))
	r.Limit = 4
	var ids []Hash
	for row, err := range l.rows.Scan(ctx, r) {
		if err != nil {
			return nil, err
		}
		id, err := ParseHash(strings.TrimPrefix(row.Key, l.commitKey("")))
		if err != nil {
			return nil, ErrCorrupt.Errorf("row %s names no commit", row.Key)
		}
		ids = append(ids, id)
	}
	return ids, nil
}

// branchAt returns where a branch was at a time.
func (l *Lake) branchAt(ctx context.Context, branch, when string) (Hash, error) {
	t, err := parseTime(when)
	if err != nil {
		return Hash{}, err
	}
	if err := CheckRefName(branch); err != nil {
		return Hash{}, err
	}
	for m, err := range l.moves(ctx, branch, t, 1) {
		switch {
		case err != nil:
			return Hash{}, err
		case m.Commit.IsZero():
			return Hash{}, ErrRefNotFound.Errorf("branch %s did not exist at %s: it was deleted at %s", branch, when, m.Time.Format(time.RFC3339))
		}
		return m.Commit, nil
	}
	ref, err := l.Branch(ctx, branch)
	if err != nil {
		return Hash{}, err
	}
	first := ref.Time
	for m, err := range l.Reflog(ctx, branch) {
		if err != nil {
			return Hash{}, err
		}
		first = m.Time
	}
	return Hash{}, ErrRefNotFound.Errorf("branch %s did not exist at %s: it begins at %s", branch, when, first.Format(time.RFC3339))
}

func parseTime(s string) (time.Time, error) {
	for _, layout := range []string{time.RFC3339Nano, time.DateTime, "2006-01-02T15:04:05", "2006-01-02 15:04", time.DateOnly} {
		if t, err := time.Parse(layout, s); err == nil {
			if y := t.Year(); y < 1970 || y > 2200 {
				break // outside of what nanoseconds since 1970 can say
			}
			return t.UTC(), nil
		}
	}
	return time.Time{}, ErrInvalidRef.Errorf("'%s' is not a time. Write @{2026-01-31}, @{2026-01-31 09:00} (UTC) or @{2026-01-31T09:00:00+02:00}", clip(s))
}

func short(id Hash) string { return id.String()[:7] }

// some lists the first few names.
func some(names []string) string {
	const most = 8
	names = slices.Sorted(slices.Values(names))
	if len(names) > most {
		return strings.Join(names[:most], ", ") + fmt.Sprintf(" and %d more", len(names)-most)
	}
	return strings.Join(names, ", ")
}
