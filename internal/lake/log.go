package lake

import (
	"bytes"
	"container/heap"
	"context"
	"fmt"
	"iter"
	"slices"
	"strings"

	"tarn.dev/tarn/internal/base/errdef"
)

// LogOptions choose commits of a log.
type LogOptions struct {
	// Key keeps the commits that changed the entry at this key, or, when it ends in "/", any entry
	// below it.
	Key string
	// Limit ends the log after so many commits; 0 means all.
	Limit int
}

// Log yields from and its ancestors, children before parents, the newer one first where the graph
// leaves the choice. With a Key, a merge that took the entry over from one parent as it is is left out,
// and only that parent's history is followed.
func (l *Lake) Log(ctx context.Context, from Hash, opt LogOptions) iter.Seq2[Commit, error] {
	return func(yield func(Commit, error) bool) {
		if opt.Limit < 0 {
			yield(Commit{}, errdef.Newf(errdef.InvalidArgument, "lake.invalid_limit", "a log cannot have %d commits", opt.Limit))
			return
		}
		q := newWalk(l)
		if err := q.add(ctx, from, 0); err != nil {
			yield(Commit{}, err)
			return
		}
		shown := 0
		for q.Len() > 0 {
			v := q.next()
			changed, parents, err := l.changed(ctx, v.Commit, opt.Key)
			for _, p := range parents {
				if err == nil {
					err = q.add(ctx, p, 0)
				}
			}
			if err != nil {
				yield(Commit{}, err)
				return
			}
			if changed {
				if !yield(v.Commit, nil) {
					return
				}
				if shown++; shown == opt.Limit {
					return
				}
			}
		}
	}
}

// changed reports whether c differs from all of its parents at key, and which of them to follow.
func (l *Lake) changed(ctx context.Context, c Commit, key string) (bool, []Hash, error) {
	if key == "" {
		return true, c.Kept(), nil
	}
	if len(c.Kept()) == 0 {
		same, err := l.Tree(Hash{}).sameAt(ctx, l.Tree(c.Tree), key)
		return !same, nil, err
	}
	for _, id := range c.Kept() {
		p, err := l.Commit(ctx, id)
		if err != nil {
			return false, nil, err
		}
		same, err := l.Tree(p.Tree).sameAt(ctx, l.Tree(c.Tree), key)
		if err != nil {
			return false, nil, err
		}
		if same {
			return false, []Hash{id}, nil
		}
	}
	return true, c.Kept(), nil
}

// sameAt reports whether two trees have the same identity at key, or below it.
func (t Tree) sameAt(ctx context.Context, o Tree, key string) (bool, error) {
	if t.root == o.root {
		return true, nil
	}
	if strings.HasSuffix(key, "/") {
		for _, err := range t.Diff(ctx, o, key) {
			return false, err
		}
		return true, nil
	}
	a, inA, err := t.Get(ctx, key)
	if err != nil {
		return false, err
	}
	b, inB, err := o.Get(ctx, key)
	return inA == inB && (!inA || a.SameIdentity(&b)), err
}

// MergeBase returns the best common ancestor of two commits: of those that no other common ancestor
// descends from, the one of the highest generation, then the newest, then the one with the smallest id.
// The zero Hash means that the histories have nothing in common.
func (l *Lake) MergeBase(ctx context.Context, a, b Hash) (Hash, error) {
	bases, err := l.mergeBases(ctx, a, b)
	if err != nil || len(bases) == 0 {
		return Hash{}, err
	}
	return bases[0].ID, nil
}

// mergeBases returns the common ancestors that no other one descends from, the best first. There are
// several only after merges that crossed each other. With none, and a history that retention has cut, it is
// not known whether there was one: to merge as if there were none would bring back what was deleted.
func (l *Lake) mergeBases(ctx context.Context, a, b Hash) ([]Commit, error) {
	const fromA, fromB, both, below = 1, 2, 3, 4
	q := newWalk(l)
	for side, id := range map[uint8]Hash{fromA: a, fromB: b} {
		if err := q.add(ctx, id, side); err != nil {
			return nil, err
		}
	}
	var bases []Commit
	cut := false
	// Commits come in falling generation: all descendants of v came before it, so its marks are final.
	// When all that is left lies below a base, there is no other.
	for q.Len() > 0 && slices.ContainsFunc(q.queue, func(v *visit) bool { return v.marks&below == 0 }) {
		v := q.next()
		if v.marks == both {
			bases = append(bases, v.Commit)
			v.marks |= below
		}
		cut = cut || len(v.Cut) > 0
		for _, p := range v.Kept() {
			if err := q.add(ctx, p, v.marks); err != nil {
				return nil, err
			}
		}
	}
	if cut && len(bases) == 0 {
		return nil, ErrCut.Errorf("%s and %s have no commit in common any more: older ones were removed by the retention of a branch", short(a), short(b)).
			WithNext(fmt.Sprintf("tarn diff %s..%s   # what differs", short(b), short(a)))
	}
	return bases, nil
}

// IsAncestor reports whether a is b or one of its ancestors.
func (l *Lake) IsAncestor(ctx context.Context, a, b Hash) (bool, error) {
	base, err := l.MergeBase(ctx, a, b)
	return base == a, err
}

// walk visits commits in falling generation; among equals the newer first, then the smaller id.
type walk struct {
	l     *Lake
	seen  map[Hash]*visit
	queue []*visit
}

// visit is a commit on a walk, with the marks of those who led to it.
type visit struct {
	Commit
	marks uint8
}

func newWalk(l *Lake) *walk { return &walk{l: l, seen: map[Hash]*visit{}} }

// add puts a commit on the way, once, and adds marks to it.
func (w *walk) add(ctx context.Context, id Hash, marks uint8) error {
	v, ok := w.seen[id]
	if !ok {
		c, err := w.l.Commit(ctx, id)
		if err != nil {
			return err
		}
		v = &visit{Commit: c}
		w.seen[id] = v
		heap.Push(w, v)
	}
	v.marks |= marks
	return nil
}

func (w *walk) next() *visit { return heap.Pop(w).(*visit) }

// Len, Less, Swap, Push and Pop are for container/heap.
func (w *walk) Len() int { return len(w.queue) }

func (w *walk) Less(i, j int) bool {
	a, b := w.queue[i], w.queue[j]
	switch {
	case a.Generation != b.Generation:
		return a.Generation > b.Generation
	case !a.Time.Equal(b.Time):
		return a.Time.After(b.Time)
	}
	return bytes.Compare(a.ID[:], b.ID[:]) < 0
}

func (w *walk) Swap(i, j int) { w.queue[i], w.queue[j] = w.queue[j], w.queue[i] }

func (w *walk) Push(v any) { w.queue = append(w.queue, v.(*visit)) }

func (w *walk) Pop() any {
	last := len(w.queue) - 1
	v := w.queue[last]
	w.queue = w.queue[:last]
	return v
}
