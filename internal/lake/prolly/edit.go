package prolly

import (
	"bytes"
	"context"
	"slices"
)

// Edit returns the map with all edits applied, writing only nodes that are not in m. Edits may come in
// any order; of two for the same key the later one counts.
func (m Map) Edit(ctx context.Context, edits []Edit) (Map, error) {
	return m.edit(ctx, DefaultParams, edits)
}

// edit is Edit with the parameters that an empty m takes.
func (m Map) edit(ctx context.Context, p Params, edits []Edit) (Map, error) {
	ops, err := operations(edits)
	if err != nil || len(ops) == 0 {
		return m, err
	}
	e := editor{store: m.store, params: p, cache: map[Hash]*node{}}
	if m.root != (Hash{}) {
		if e.root, err = e.load(ctx, m.root); err != nil {
			return Map{}, err
		}
		e.params = e.root.params
	}
	for level := 0; ; level++ {
		res, err := e.rewrite(ctx, level, ops)
		switch {
		case err != nil:
			return Map{}, err
		case res.root != nil:
			root, err := e.collapse(ctx, *res.root)
			return Map{store: m.store, root: root}, err
		case len(res.next) == 0:
			return m, nil // every node came out as it was
		}
		ops = res.next
	}
}

// collapse goes down from a node with a single child, which an old node at the right edge may be, to
// the lowest level that has a single node.
func (e *editor) collapse(ctx context.Context, root Hash) (Hash, error) {
	for root != (Hash{}) {
		n, err := e.load(ctx, root)
		if err != nil || n.level == 0 || len(n.items) > 1 {
			return root, err
		}
		root = n.items[0].child
	}
	return root, nil
}

// operation is an edit of one level: of keys on level 0, of children above it.
type operation struct {
	item
	remove bool
}

func operations(edits []Edit) ([]operation, error) {
	ops := make([]operation, 0, len(edits))
	for _, e := range edits {
		if len(e.Key) > MaxKey {
			return nil, ErrTooLarge.Errorf("a key of %d bytes is over the limit of %d: %.60q...", len(e.Key), MaxKey, e.Key)
		}
		if len(e.Value) > MaxValue {
			return nil, ErrTooLarge.Errorf("the value of %.200q has %d bytes, over the limit of %d", e.Key, len(e.Value), MaxValue)
		}
		op := operation{item: item{key: e.Key}, remove: e.Remove}
		if !e.Remove {
			op.value = e.Value
		}
		ops = append(ops, op)
	}
	byKey := func(a, b operation) int { return bytes.Compare(a.key, b.key) }
	if !slices.IsSortedFunc(ops, byKey) {
		slices.SortStableFunc(ops, byKey)
	}
	out := ops[:0]
	for _, op := range ops {
		if n := len(out); n > 0 && bytes.Equal(out[n-1].key, op.key) {
			out[n-1] = op
			continue
		}
		out = append(out, op)
	}
	return out, nil
}

type editor struct {
	store  Store
	params Params
	root   *node          // of the old map; nil when that is empty
	cache  map[Hash]*node // nodes above the leaves, which every level's pass descends through
}

func (e *editor) load(ctx context.Context, h Hash) (*node, error) {
	if n, ok := e.cache[h]; ok {
		return n, nil
	}
	n, err := load(ctx, e.store, h)
	if err == nil && n.level > 0 {
		e.cache[h] = n
	}
	return n, err
}

// rewritten is the outcome of one level: the new root, if the level turned out to have it, or else the
// operations that the level above must apply. Neither means that nothing changed.
type rewritten struct {
	root *Hash
	next []operation
}

// rewrite applies ops to the nodes of one level. It cuts anew from the start of the first node that an
// operation touches until a new border falls together with an old one, then jumps to the next touched
// node: from a common border on, the same items make the same nodes.
func (e *editor) rewrite(ctx context.Context, level int, ops []operation) (rewritten, error) {
	old := cursor{editor: e, level: level}
	if err := old.first(ctx); err != nil {
		return rewritten{}, err
	}
	w := writer{editor: e, level: level, borders: borders{params: e.params, level: level}}
	kept := false // some old node stays on this level
	for len(ops) > 0 {
		skipped, err := old.seek(ctx, ops[0].key)
		if err != nil {
			return rewritten{}, err
		}
		kept = kept || skipped
		for {
			var n *node
			if n, err = old.next(ctx); err != nil {
				return rewritten{}, err
			}
			if n != nil {
				w.removed = append(w.removed, n)
			}
			if ops, err = w.merge(ctx, n, old.atEnd(), ops); err != nil {
				return rewritten{}, err
			}
			if len(w.items) == 0 || old.atEnd() {
				break
			}
		}
	}
	kept = kept || !old.atEnd()
	if len(w.items) > 0 {
		// Only the end of the level leaves items over. A lone item on a level without other nodes
		// means that the level below has a single node: the root.
		if level > 0 && !kept && len(w.added) == 0 && len(w.items) == 1 {
			return rewritten{root: &w.items[0].child}, nil
		}
		if err := w.flush(ctx); err != nil {
			return rewritten{}, err
		}
	}
	if !kept && len(w.added) <= 1 {
		root := Hash{}
		if len(w.added) == 1 {
			root = w.added[0].child
		}
		return rewritten{root: &root}, nil
	}
	return rewritten{next: w.operations()}, nil
}

// writer cuts the items of one level into nodes.
type writer struct {
	*editor
	level   int
	borders borders
	items   []item  // of the node being filled
	removed []*node // old nodes that were cut anew, in order
	added   []item  // new nodes, in order, as items of the level above
	matched int     // removed[:matched] end before any key to come
}

// merge feeds the items of n, with the operations that fall into it applied, and returns the rest of
// the operations. The last node of a level takes all of them.
func (w *writer) merge(ctx context.Context, n *node, last bool, ops []operation) ([]operation, error) {
	var items []item
	if n != nil {
		items = n.items
	}
	for len(items) > 0 || (last && len(ops) > 0) {
		c := -1 // item first
		switch {
		case len(items) == 0:
			c = 1
		case len(ops) > 0:
			c = bytes.Compare(items[0].key, ops[0].key)
		}
		next, drop := item{}, false
		if c >= 0 {
			next, drop = ops[0].item, ops[0].remove
			ops = ops[1:]
		} else {
			next = items[0]
		}
		if c <= 0 {
			items = items[1:]
		}
		if drop {
			continue
		}
		w.items = append(w.items, next)
		if w.borders.ends(next) {
			if err := w.flush(ctx); err != nil {
				return nil, err
			}
		}
	}
	return ops, nil
}

// flush stores the node being filled, unless the same node is there already.
func (w *writer) flush(ctx context.Context) error {
	n := &node{params: w.params, level: w.level, items: w.items}
	it := item{key: n.lastKey(), keys: n.count()}
	raw := encode(w.params, w.level, w.items)
	if h, ok := w.unchanged(it.key, raw); ok {
		it.child = h
	} else {
		h, err := w.store.Put(ctx, raw)
		if err != nil {
			return err
		}
		it.child = h
	}
	w.added = append(w.added, it)
	w.items = w.items[:0]
	w.borders.items, w.borders.weight = 0, 0
	return nil
}

// unchanged returns the hash of the old node that raw repeats, if any. Nodes come in key order.
func (w *writer) unchanged(lastKey, raw []byte) (Hash, bool) {
	for ; w.matched < len(w.removed); w.matched++ {
		switch n := w.removed[w.matched]; bytes.Compare(n.lastKey(), lastKey) {
		case 0:
			return n.hash, bytes.Equal(n.raw, raw)
		case 1:
			return Hash{}, false
		}
	}
	return Hash{}, false
}

// operations are what the level above must do: drop the removed nodes, take the added ones. A node that
// came out as it was needs none, unless the old map has no level above that would hold it.
func (w *writer) operations() []operation {
	var ops []operation
	above := w.root != nil && w.root.level > w.level
	removed, added := w.removed, w.added
	for len(removed) > 0 || len(added) > 0 {
		c := -1 // removed first
		switch {
		case len(removed) == 0:
			c = 1
		case len(added) > 0:
			c = bytes.Compare(removed[0].lastKey(), added[0].key)
		}
		switch {
		case c < 0:
			ops = append(ops, operation{item: item{key: removed[0].lastKey()}, remove: true})
		case c > 0 || !above || removed[0].hash != added[0].child:
			ops = append(ops, operation{item: added[0]})
		}
		if c <= 0 {
			removed = removed[1:]
		}
		if c >= 0 {
			added = added[1:]
		}
	}
	return ops
}
