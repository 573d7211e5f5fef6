package prolly

import (
	"bytes"
	"context"
)

// Checker verifies maps node by node: that every node exists, is encoded canonically, ends where the
// border rule says, and is described rightly by its parent. It remembers what it has seen, so that
// maps which share nodes are checked at the cost of their differences.
type Checker struct {
	store Store
	leaf  func(ctx context.Context, it Item) error
	seen  map[Hash]verdict
	nodes int
}

// verdict is what a parent must know of a node: what it says in its line for it, and whether the node
// may only stand at the right edge of the tree, because it or the last node below it on some level is
// not closed by the border rule.
type verdict struct {
	err      error
	level    int
	lastKey  []byte
	keys     int64
	params   Params
	edgeOnly bool
	items    int
}

// NewChecker returns a checker of maps in s. It calls leaf for the items of each leaf once.
func NewChecker(s Store, leaf func(ctx context.Context, it Item) error) *Checker {
	return &Checker{store: s, leaf: leaf, seen: map[Hash]verdict{}}
}

// Nodes is the number of different nodes seen so far.
func (c *Checker) Nodes() int { return c.nodes }

// Check verifies the map with this root and returns the first violation.
func (c *Checker) Check(ctx context.Context, root Hash) error {
	if root == (Hash{}) {
		return nil
	}
	v := c.visit(ctx, root)
	if v.err == nil && v.level > 0 && v.items == 1 {
		return ErrCorrupt.Errorf("tree root %s has a single child", hexOf(root))
	}
	return v.err
}

func (c *Checker) visit(ctx context.Context, h Hash) verdict {
	if v, ok := c.seen[h]; ok {
		return v
	}
	if err := context.Cause(ctx); err != nil {
		return verdict{err: err}
	}
	v := c.inspect(ctx, h)
	if context.Cause(ctx) == nil {
		c.seen[h] = v
		c.nodes++
	}
	return v
}

func (c *Checker) inspect(ctx context.Context, h Hash) verdict {
	n, err := load(ctx, c.store, h)
	if err != nil {
		return verdict{err: err}
	}
	bad := func(format string, args ...any) verdict {
		return verdict{err: ErrCorrupt.Errorf("tree node "+hexOf(h)+": "+format, args...)}
	}
	if !bytes.Equal(encode(n.params, n.level, n.items), n.raw) {
		return bad("its bytes are not canonical")
	}
	v := verdict{level: n.level, lastKey: n.lastKey(), keys: n.count(), params: n.params, items: len(n.items)}
	b := borders{params: n.params, level: n.level}
	for i, it := range n.items {
		last := i == len(n.items)-1
		switch end := b.ends(it); {
		case end && !last:
			return bad("it goes on behind a border at item %d of %d", i, len(n.items))
		case !end && last:
			v.edgeOnly = true
		}
		if n.level == 0 {
			if len(it.key) > MaxKey || len(it.value) > MaxValue {
				return bad("item %d is over the size limits", i)
			}
			if err := c.leaf(ctx, Item{Key: it.key, Value: it.value}); err != nil {
				return verdict{err: err}
			}
			continue
		}
		child := c.visit(ctx, it.child)
		switch {
		case child.err != nil:
			return verdict{err: child.err}
		case child.level != n.level-1:
			return bad("child %d has level %d", i, child.level)
		case child.params != n.params:
			return bad("child %d has other parameters", i)
		case !bytes.Equal(child.lastKey, it.key):
			return bad("child %d ends with key %q, not %q", i, child.lastKey, it.key)
		case child.keys != it.keys:
			return bad("child %d has %d keys, not %d", i, child.keys, it.keys)
		case child.edgeOnly && !last:
			return bad("child %d ends without a border", i)
		}
		v.edgeOnly = v.edgeOnly || (last && child.edgeOnly)
	}
	return v
}
