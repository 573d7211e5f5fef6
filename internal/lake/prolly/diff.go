package prolly

import (
	"bytes"
	"context"
	"iter"
)

// Change is a key whose value differs between two maps. Before or After is nil where the key is absent;
// a value that is present is not nil, even if empty.
type Change struct{ Key, Before, After []byte }

// Diff yields the changes of r from a to b in key order (Reverse is ignored). It does not read subtrees
// that both maps have.
func Diff(ctx context.Context, a, b Map, r Range) iter.Seq2[Change, error] {
	return func(yield func(Change, error) bool) {
		x, y := newWalker(a, r), newWalker(b, r)
		for {
			if err := together(ctx, x, y); err != nil {
				yield(Change{}, err)
				return
			}
			p, q := x.peek(), y.peek()
			var c Change
			switch order := comparePeeks(p, q); {
			case p == nil && q == nil:
				return
			case order < 0:
				c = Change{Key: p.key, Before: present(p.value)}
				x.pop()
			case order > 0:
				c = Change{Key: q.key, After: present(q.value)}
				y.pop()
			default:
				x.pop()
				y.pop()
				if bytes.Equal(p.value, q.value) {
					continue
				}
				c = Change{Key: p.key, Before: present(p.value), After: present(q.value)}
			}
			if !yield(c, nil) {
				return
			}
		}
	}
}

// comparePeeks orders two leaf items, the end of a walk last.
func comparePeeks(p, q *step) int {
	switch {
	case p == nil && q == nil:
		return 0
	case p == nil:
		return 1
	case q == nil:
		return -1
	}
	return bytes.Compare(p.key, q.key)
}

// present keeps an empty value apart from an absent one.
func present(v []byte) []byte {
	if v == nil {
		return []byte{}
	}
	return v
}

// together brings both walks to a leaf item or the end, skipping subtrees that both stand before. The
// higher one is opened first: an equal subtree below it can still be met whole.
func together(ctx context.Context, x, y *walker) error {
	for {
		p, q := x.peek(), y.peek()
		px, qx := p != nil && p.level > 0, q != nil && q.level > 0
		switch {
		case !px && !qx:
			return nil
		case px && qx && p.level == q.level && p.child == q.child:
			x.pop()
			y.pop()
		case px && (!qx || p.level >= q.level):
			if err := x.open(ctx); err != nil {
				return err
			}
		default:
			if err := y.open(ctx); err != nil {
				return err
			}
		}
	}
}

// step is what a walker stands before: a leaf item (level 0) or the child of a node (its level, from 1).
type step struct {
	item
	level int
}

// walker goes over a map in key order and lets its user decide to open a subtree or to pass it.
type walker struct {
	m      Map
	r      Range
	frames []frame
	top    *step // the root, until it is opened
	cur    step
}

func newWalker(m Map, r Range) *walker {
	w := &walker{m: m, r: r}
	if m.root != (Hash{}) {
		// The level of the root is not known before it is read; any that is above all serves.
		w.top = &step{item: item{child: m.root}, level: maxLevel + 2}
	}
	return w
}

// peek returns the step that is next, nil at the end. It stays valid until the next peek.
func (w *walker) peek() *step {
	if w.top != nil {
		return w.top
	}
	for len(w.frames) > 0 {
		f := &w.frames[len(w.frames)-1]
		if f.at == len(f.node.items) {
			w.frames = w.frames[:len(w.frames)-1]
			continue
		}
		it := f.node.items[f.at]
		if f.node.level == 0 && w.r.beyond(it.key) || f.at > 0 && w.r.beyond(f.node.items[f.at-1].key) {
			w.frames = nil
			break
		}
		w.cur = step{item: it, level: f.node.level}
		return &w.cur
	}
	return nil
}

// pop passes the next step whole.
func (w *walker) pop() {
	if w.top != nil {
		w.top = nil
		return
	}
	w.frames[len(w.frames)-1].at++
}

// open replaces the next step, a subtree, by what is in it.
func (w *walker) open(ctx context.Context) error {
	s := *w.peek()
	n, err := load(ctx, w.m.store, s.child)
	if err != nil {
		return err
	}
	w.pop()
	at, _ := n.search(w.r.Start)
	w.frames = append(w.frames, frame{node: n, at: at})
	return nil
}
