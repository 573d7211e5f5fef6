package lake

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"time"

	"tarn.dev/tarn/internal/meta"
)

// roots are what the rows of the history said in one snapshot.
type roots struct {
	commits  map[Hash]int64    // versions of their rows
	named    []Hash            // by branches and tags that keep all of their history
	retained []retainedHead    // branches that do not
	weak     []Hash            // by moves that are remembered, and CollectOptions.HeadOnly: what retention releases they do not keep
	cuts     []string          // keys of commits that an earlier collection noted as gone
	moves    map[Hash][]string // keys of reflog lines that name a commit
	requests map[Hash][]string // keys of requests that led to a commit
	old      []string          // keys of moves and requests past their time
}

// removeRoots takes away the rows of commits that nothing reaches any more, and small rows past their time.
func (c *collection) removeRoots(ctx context.Context) error {
	r, err := c.readRoots(ctx)
	if err != nil {
		return err
	}
	reached, err := c.reach(ctx, r)
	if err != nil {
		return err
	}
	edge, err := c.edge(ctx, r, reached)
	if err != nil {
		return err
	}
	unreached, err := c.unreached(ctx, r, reached)
	if err != nil {
		return err
	}
	for _, key := range r.cuts {
		if id, err := ParseHash(strings.TrimPrefix(key, c.l.cutKey(""))); err == nil && !edge[id] {
			r.old = append(r.old, key) // no commit has it as a parent any more
		}
	}
	for group := range slices.Chunk(unreached, rowsAtOnce) {
		var conditions []meta.Condition
		var keys []string
		var noted []meta.Write
		for _, commit := range group {
			id := commit.ID.String()
			conditions = append(conditions, meta.At(c.l.commitKey(id), r.commits[commit.ID]))
			keys = append(append(append(keys, c.l.commitKey(id)), r.requests[commit.ID]...), r.moves[commit.ID]...)
			if edge[commit.ID] {
				noted = append(noted, meta.Set(c.l.cutKey(id), mustJSON(cutRow{Time: c.now})))
			}
		}
		err := c.removeRows(ctx, conditions, keys, noted...)
		if errors.Is(err, meta.ErrConditionFailed) {
			// One of them was named again. It keeps its ancestors, and what is noted of them, and the next
			// collection sees the rest.
			r.old = slices.DeleteFunc(r.old, func(key string) bool { return strings.HasPrefix(key, c.l.cutKey("")) })
			break
		}
		if err != nil {
			return err
		}
		c.got.Commits += len(group)
		c.got.Rows -= len(group)
		for _, commit := range group {
			if c.turn == nil {
				c.gone[commit.ID] = r.commits[commit.ID]
			}
		}
	}
	for group := range slices.Chunk(r.old, rowsAtOnce) {
		if err := c.removeRows(ctx, nil, group); err != nil {
			return err
		}
	}
	return nil
}

// removeRows deletes rows in one transaction, which may note something.
func (c *collection) removeRows(ctx context.Context, conditions []meta.Condition, keys []string, noted ...meta.Write) error {
	slices.Sort(keys)
	keys = slices.Compact(keys)
	writes := make([]meta.Write, len(keys))
	for i, key := range keys {
		writes[i] = meta.Delete(key)
	}
	if err := c.txn(ctx, conditions, append(writes, noted...)); err != nil {
		return err
	}
	c.got.Rows += len(keys)
	return nil
}

// readRoots reads commits and what names them in one snapshot: a commit that is missing in it came later,
// and so did whatever names that. See docs/design/garbage.md, R3.
func (c *collection) readRoots(ctx context.Context) (*roots, error) {
	l := c.l
	r := &roots{commits: map[Hash]int64{}, requests: map[Hash][]string{}, moves: map[Hash][]string{}}
	c.gone = map[Hash]int64{}
	heads, retentions := map[string]Hash{}, map[string]Retention{}
	log := reflogReader{c: c, r: r}
	for row, err := range l.rows.Scan(ctx, meta.Range{Start: l.branchKey(""), End: meta.Prefix(l.tagKey("")).End}) {
		if err != nil {
			return nil, err
		}
		switch key := row.Key; {
		case strings.HasPrefix(key, l.branchKey("")):
			var ref Ref
			ref, err = parseRef(strings.TrimPrefix(key, l.branchKey("")), row)
			heads[ref.Name] = ref.Commit
		case strings.HasPrefix(key, l.retainKey("")):
			retentions[strings.TrimPrefix(key, l.retainKey(""))], err = parseRetention(row)
		case strings.HasPrefix(key, l.cutKey("")):
			r.cuts = append(r.cuts, key)
		case strings.HasPrefix(key, l.tagKey("")):
			var ref Ref
			if ref, err = parseRef(key, row); err == nil {
				r.named = append(r.named, ref.Commit)
			}
		case strings.HasPrefix(key, l.commitKey("")):
			var id Hash
			if id, err = ParseHash(strings.TrimPrefix(key, l.commitKey(""))); err == nil {
				r.commits[id] = row.Version
			}
		case strings.HasPrefix(key, l.prefix+"reflog/"):
			err = log.line(row)
		case strings.HasPrefix(key, l.requestKey("")):
			var done requestRow
			if err = json.Unmarshal(row.Value, &done); err == nil {
				r.requests[done.Commit] = append(r.requests[done.Commit], key)
				if c.now.Sub(done.Time) >= requestAge {
					r.old = append(r.old, key)
				}
			}
		}
		if err != nil {
			return nil, ErrCorrupt.Errorf("row %s: %w", row.Key, err).WithNext("tarn fsck")
		}
	}
	for branch, head := range heads {
		retention, ok := retentions[branch]
		switch {
		case ok:
			r.retained = append(r.retained, retainedHead{head, retention})
		case c.opt.HeadOnly != nil && c.opt.HeadOnly(branch):
			r.weak = append(r.weak, head)
		default:
			r.named = append(r.named, head)
		}
	}
	return r, nil
}

// reflogReader tells the lines of reflogs that are remembered from those that are not. Only the deletion of
// a branch leaves commits unreached, so its lines matter, and they are remembered for Keep after it.
type reflogReader struct {
	c *collection
	r *roots

	branch  string
	lines   []moveLine // since the branch was last made
	deleted []deletedBranch
}

// deletedBranch is one whose commits are remembered for a time.
type deletedBranch struct {
	branch string
	commit Hash
	until  time.Time
}

type moveLine struct {
	key    string
	commit Hash
}

func (x *reflogReader) line(row meta.Row) error {
	branch := row.Key[:strings.LastIndexByte(row.Key, '/')+1]
	move, err := parseMove(row, branch)
	if err != nil {
		return err
	}
	if branch != x.branch {
		x.branch, x.lines = branch, nil
	}
	x.lines = append(x.lines, moveLine{row.Key, move.Commit})
	if !move.Commit.IsZero() {
		x.r.moves[move.Commit] = append(x.r.moves[move.Commit], row.Key)
		return nil
	}
	if head := x.lines[max(0, len(x.lines)-2)]; x.c.now.Sub(move.Time) < x.c.opt.Keep {
		x.deleted = append(x.deleted, deletedBranch{meta.SplitKey(strings.TrimPrefix(branch, x.c.l.prefix+"reflog/"))[0], head.commit, move.Time.Add(x.c.opt.Keep)})
	}
	for _, line := range x.lines {
		switch {
		case x.c.now.Sub(move.Time) >= x.c.opt.Keep:
			x.r.old = append(x.r.old, line.key)
		case !line.commit.IsZero():
			x.r.weak = append(x.r.weak, line.commit)
		}
	}
	x.lines = nil
	return nil
}

// reach returns the commits that stay.
func (c *collection) reach(ctx context.Context, r *roots) (map[Hash]bool, error) {
	reached, released := map[Hash]bool{}, map[Hash]bool{}
	if err := c.follow(ctx, r.named, reached, nil); err != nil {
		return nil, err
	}
	for _, head := range r.retained {
		if err := c.retain(ctx, head, reached, released); err != nil {
			return nil, err
		}
	}
	return reached, c.follow(ctx, r.weak, reached, released)
}

// follow adds commits to reached with their ancestors, as far as these are not in except.
func (c *collection) follow(ctx context.Context, named []Hash, reached, except map[Hash]bool) error {
	for len(named) > 0 {
		id := named[len(named)-1]
		named = named[:len(named)-1]
		if reached[id] {
			continue
		}
		reached[id] = true
		commit, err := c.l.Commit(ctx, id)
		if err != nil {
			return err
		}
		for _, p := range commit.Kept() {
			if !except[p] {
				named = append(named, p)
			}
		}
	}
	return nil
}

// unreached returns the other commits, descendants before ancestors.
func (c *collection) unreached(ctx context.Context, r *roots, reached map[Hash]bool) ([]Commit, error) {
	var out []Commit
	for id := range r.commits {
		if reached[id] {
			continue
		}
		commit, err := c.l.Commit(ctx, id)
		if err != nil {
			return nil, err
		}
		out = append(out, Commit{ID: id, Generation: commit.Generation})
	}
	slices.SortFunc(out, func(a, b Commit) int {
		return cmp.Or(cmp.Compare(b.Generation, a.Generation), compareHashes(a.ID, b.ID))
	})
	return out, nil
}
