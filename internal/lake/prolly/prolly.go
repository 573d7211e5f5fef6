// Package prolly is an immutable, ordered map from bytes to bytes, kept as a tree of nodes that are
// named by the hash of their content.
//
// Where a node ends is decided by the keys in it, not by the order in which they arrived. So
//
//   - I1: the same map has the same root, whatever the order of changes that led to it;
//   - I2: an edit writes, and a diff reads, the nodes on the paths to what changed and no others;
//   - I3: a node is at most Params.Max bytes long, plus the item that crossed that line.
//
// A node on level 0 (a leaf) holds keys and values; a node on a level above holds, per child, the
// child's last key, hash and number of keys. The root is the lowest level that has a single node. The
// empty map has no node: its root is the zero hash.
//
// The package stores nothing itself and knows nothing of what keys and values mean. The bytes are
// specified in docs/formats/tree.md.
package prolly

import (
	"bytes"
	"context"
	"iter"

	"tarn.dev/tarn/internal/base/errdef"
)

// Hash names a node. The zero hash names the empty map.
type Hash [32]byte

// Limits of what an item may hold. Nodes are read whole, so a value that wants to be larger belongs in
// an object of its own.
const (
	MaxKey   = 16 << 10
	MaxValue = 1 << 20
)

var (
	// ErrCorrupt is returned for a node that is not what a writer of this package would have written.
	ErrCorrupt = errdef.New(errdef.DataLoss, "prolly.node_corrupt", "tree node is corrupt")
	// ErrTooLarge is returned by Edit for a key or value over the limits.
	ErrTooLarge = errdef.New(errdef.InvalidArgument, "prolly.item_too_large", "key or value is too large")
)

// Store holds nodes. Put returns the hash under which Get finds the same bytes.
type Store interface {
	Get(ctx context.Context, h Hash) ([]byte, error)
	Put(ctx context.Context, data []byte) (Hash, error)
}

// Item is a key with its value. The bytes belong to the map: do not change them.
type Item struct{ Key, Value []byte }

// Edit sets Key to Value, or removes it.
type Edit struct {
	Key, Value []byte
	Remove     bool
}

// Range selects keys: Start <= key < End. A nil End means no upper bound.
type Range struct {
	Start, End []byte
	Reverse    bool
}

// Prefix is the range of all keys that begin with p.
func Prefix(p []byte) Range {
	for i := len(p) - 1; i >= 0; i-- {
		if p[i] < 0xff {
			end := bytes.Clone(p[:i+1])
			end[i]++
			return Range{Start: p, End: end}
		}
	}
	return Range{Start: p}
}

func (r Range) beyond(key []byte) bool { return r.End != nil && bytes.Compare(key, r.End) >= 0 }

// Map is one immutable map. It is a small value; copies are the same map.
type Map struct {
	store Store
	root  Hash
}

// Open returns the map whose root is root. It reads nothing.
func Open(s Store, root Hash) Map { return Map{store: s, root: root} }

// Root names the map: two maps with the same content have the same root.
func (m Map) Root() Hash { return m.root }

// Get returns the value of key; ok is false when there is none.
func (m Map) Get(ctx context.Context, key []byte) (value []byte, ok bool, err error) {
	h := m.root
	for h != (Hash{}) {
		n, err := load(ctx, m.store, h)
		if err != nil {
			return nil, false, err
		}
		i, found := n.search(key)
		switch {
		case n.level == 0 && found:
			return n.items[i].value, true, nil
		case n.level == 0 || i == len(n.items):
			return nil, false, nil
		}
		h = n.items[i].child
	}
	return nil, false, nil
}

// Count is the number of keys; it costs one node.
func (m Map) Count(ctx context.Context) (int64, error) {
	if m.root == (Hash{}) {
		return 0, nil
	}
	n, err := load(ctx, m.store, m.root)
	if err != nil {
		return 0, err
	}
	return n.count(), nil
}

// Scan yields the items of r in order.
func (m Map) Scan(ctx context.Context, r Range) iter.Seq2[Item, error] {
	return func(yield func(Item, error) bool) {
		if m.root == (Hash{}) {
			return
		}
		if _, err := scan(ctx, m.store, m.root, r, func(it item) bool {
			return yield(Item{Key: it.key, Value: it.value}, nil)
		}); err != nil {
			yield(Item{}, err)
		}
	}
}

// scan visits the items of r under node h, and reports whether the visitor wants more.
func scan(ctx context.Context, s Store, h Hash, r Range, visit func(item) bool) (bool, error) {
	n, err := load(ctx, s, h)
	if err != nil {
		return false, err
	}
	lo, _ := n.search(r.Start)
	hi := len(n.items)
	if r.End != nil {
		// The first item at or past End is out of range in a leaf, but its subtree may begin before End.
		hi, _ = n.search(r.End)
		if n.level > 0 && hi < len(n.items) {
			hi++
		}
	}
	for k := 0; k < hi-lo; k++ {
		it := n.items[lo+k]
		if r.Reverse {
			it = n.items[hi-1-k]
		}
		more := true
		if n.level > 0 {
			more, err = scan(ctx, s, it.child, r, visit)
		} else {
			more = visit(it)
		}
		if err != nil || !more {
			return false, err
		}
	}
	return true, nil
}
