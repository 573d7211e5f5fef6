package prolly

import (
	"bytes"
	"context"
)

// cursor walks the nodes of one level of the old map, forward only. The frames lead from a virtual
// parent of the root down to the level above; in the last frame at is the next node to hand out, in
// the others the child that the walk is in. Without frames the level has no nodes.
type cursor struct {
	*editor
	level  int
	frames []frame
}

type frame struct {
	node *node
	at   int
}

// first stands before the first node of the level.
func (c *cursor) first(ctx context.Context) error {
	if c.root == nil || c.root.level < c.level {
		return nil
	}
	top := &node{level: c.root.level + 1, items: []item{{key: c.root.lastKey(), child: c.root.hash}}}
	c.frames = []frame{{node: top}}
	return c.descend(ctx, func(*node) int { return 0 })
}

// descend adds frames down to the one above the level, choosing in each node where to stand.
func (c *cursor) descend(ctx context.Context, choose func(*node) int) error {
	for {
		f := c.frames[len(c.frames)-1]
		if f.node.level == c.level+1 {
			return nil
		}
		n, err := c.load(ctx, f.node.items[f.at].child)
		if err != nil {
			return err
		}
		if n.level != f.node.level-1 {
			return ErrCorrupt.Errorf("tree node %s of level %d has a child of level %d", hexOf(f.node.hash), f.node.level, n.level)
		}
		c.frames = append(c.frames, frame{node: n, at: choose(n)})
	}
}

// atEnd reports whether all nodes of the level have been passed.
func (c *cursor) atEnd() bool {
	for i, f := range c.frames {
		last := len(f.node.items) - 1
		if i == len(c.frames)-1 {
			last++
		}
		if f.at < last {
			return false
		}
	}
	return true
}

// settle moves on to the next parent when all children of the current one have been passed.
func (c *cursor) settle(ctx context.Context) error {
	if f := c.frames[len(c.frames)-1]; f.at < len(f.node.items) {
		return nil
	}
	for {
		c.frames = c.frames[:len(c.frames)-1]
		f := &c.frames[len(c.frames)-1]
		if f.at++; f.at < len(f.node.items) {
			return c.descend(ctx, func(*node) int { return 0 })
		}
	}
}

// next hands out a node and passes it; nil at the end.
func (c *cursor) next(ctx context.Context) (*node, error) {
	if c.atEnd() {
		return nil, nil
	}
	if err := c.settle(ctx); err != nil {
		return nil, err
	}
	f := &c.frames[len(c.frames)-1]
	f.at++
	return c.load(ctx, f.node.items[f.at-1].child)
}

// seek moves forward to the node that key belongs to, which is the last one for a key beyond all, and
// reports whether that skipped any node.
func (c *cursor) seek(ctx context.Context, key []byte) (skipped bool, err error) {
	if c.atEnd() {
		return false, nil
	}
	if err := c.settle(ctx); err != nil {
		return false, err
	}
	f := c.frames[len(c.frames)-1]
	from := f.node.items[f.at].key
	if bytes.Compare(from, key) >= 0 {
		return false, nil
	}
	for len(c.frames) > 1 && bytes.Compare(c.frames[len(c.frames)-1].node.lastKey(), key) < 0 {
		c.frames = c.frames[:len(c.frames)-1]
	}
	choose := func(n *node) int {
		i, _ := n.search(key)
		return min(i, len(n.items)-1)
	}
	last := &c.frames[len(c.frames)-1]
	last.at = choose(last.node)
	if err := c.descend(ctx, choose); err != nil {
		return false, err
	}
	f = c.frames[len(c.frames)-1]
	return !bytes.Equal(from, f.node.items[f.at].key), nil
}
