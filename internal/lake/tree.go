package lake

import (
	"context"
	"fmt"
	"iter"
	"sync"

	"tarn.dev/tarn/internal/lake/prolly"
)

// Tree is an immutable map from key to entry, named by its root: one content, one root. The zero Hash
// is the root of the empty tree.
type Tree struct {
	nodes *nodeStore
	root  Hash
}

// KeyEntry is an entry with its key.
type KeyEntry struct {
	Key   string
	Entry Entry
}

// Edit sets the entry at Key, or removes it when Entry is nil.
type Edit struct {
	Key   string
	Entry *Entry
}

// Change is a key whose identity differs between two trees; nil is an absent entry.
type Change struct {
	Key           string
	Before, After *Entry
}

// Tree returns the tree with this root. It reads nothing.
func (l *Lake) Tree(root Hash) Tree { return Tree{nodes: &nodeStore{lake: l}, root: root} }

// Nodes is the store of prolly nodes for maps other than trees, such as slots. Maps edited in it keep
// new nodes in b and can be read before b is flushed. With a nil b it is read-only.
func (l *Lake) Nodes(b *Batch) prolly.Store { return &nodeStore{lake: l, batch: b} }

// Root names the tree.
func (t Tree) Root() Hash { return t.root }

func (t Tree) mapping() prolly.Map { return prolly.Open(t.nodes, prolly.Hash(t.root)) }

// Get returns the entry at key; ok is false when there is none.
func (t Tree) Get(ctx context.Context, key string) (e Entry, ok bool, err error) {
	if _, err := ParseKey(key); err != nil {
		return Entry{}, false, err
	}
	data, ok, err := t.mapping().Get(ctx, []byte(key))
	if err != nil || !ok {
		return Entry{}, false, err
	}
	e, err = t.nodes.lake.entry(key, data)
	return e, err == nil, err
}

// Count is the number of entries.
func (t Tree) Count(ctx context.Context) (int64, error) { return t.mapping().Count(ctx) }

// Scan yields the entries whose key begins with prefix and comes after the key after (empty: from the
// first), in bytewise order.
func (t Tree) Scan(ctx context.Context, prefix, after string) iter.Seq2[KeyEntry, error] {
	return func(yield func(KeyEntry, error) bool) {
		r := prolly.Prefix([]byte(prefix))
		if after >= prefix && after != "" {
			r.Start = append([]byte(after), 0)
		}
		for it, err := range t.mapping().Scan(ctx, r) {
			var e Entry
			if err == nil {
				e, err = t.nodes.lake.entry(string(it.Key), it.Value)
			}
			if !yield(KeyEntry{Key: string(it.Key), Entry: e}, err) || err != nil {
				return
			}
		}
	}
}

// Diff yields the keys beginning with prefix whose identity changes from t to other, in order. Entries
// that only lie elsewhere are no change.
func (t Tree) Diff(ctx context.Context, other Tree, prefix string) iter.Seq2[Change, error] {
	return func(yield func(Change, error) bool) {
		for c, err := range prolly.Diff(ctx, t.mapping(), other.mapping(), prolly.Prefix([]byte(prefix))) {
			change := Change{Key: string(c.Key)}
			if err == nil {
				change.Before, err = t.nodes.lake.side(change.Key, c.Before)
			}
			if err == nil {
				change.After, err = t.nodes.lake.side(change.Key, c.After)
			}
			if err == nil && change.Before.SameIdentity(change.After) {
				continue
			}
			if !yield(change, err) || err != nil {
				return
			}
		}
	}
}

// Edit returns the tree with all edits applied; of two for the same key the later one counts. New nodes
// go to b; the returned tree can be read before b is flushed. What an entry's location names must be in
// b or in the lake.
func (t Tree) Edit(ctx context.Context, b *Batch, edits []Edit) (Tree, error) {
	changes := make([]prolly.Edit, len(edits))
	for i, e := range edits {
		if _, err := ParseKey(e.Key); err != nil {
			return Tree{}, err
		}
		changes[i] = prolly.Edit{Key: []byte(e.Key), Remove: e.Entry == nil}
		if e.Entry != nil {
			data, err := encodeEntry(*e.Entry)
			if err == nil {
				err = b.put(e.Key, *e.Entry)
			}
			if err == nil {
				err = e.Entry.require(ctx, b)
			}
			if err != nil {
				return Tree{}, fmt.Errorf("%s: %w", DisplayKey(e.Key), err)
			}
			changes[i].Value = data
		}
	}
	nodes := t.nodes.writer(b)
	m, err := prolly.Open(nodes, prolly.Hash(t.root)).Edit(ctx, changes)
	return Tree{nodes: nodes, root: Hash(m.Root())}, err
}

func decodeAt(key string, data []byte) (Entry, error) {
	e, err := decodeEntry(data)
	if err != nil {
		return Entry{}, fmt.Errorf("%s: %w", DisplayKey(key), err)
	}
	return e, nil
}

// nodeStore keeps prolly nodes as objects. Those that wait in a batch are not in the lake yet, so it
// remembers what it has put.
type nodeStore struct {
	lake  *Lake
	batch *Batch     // nil: read-only
	below *nodeStore // where nodes of another batch may be

	mu      sync.Mutex
	pending map[prolly.Hash][]byte
}

// writer returns a store that puts into b and sees what s sees.
func (s *nodeStore) writer(b *Batch) *nodeStore {
	switch {
	case s.batch == b:
		return s
	case s.batch == nil:
		return &nodeStore{lake: s.lake, batch: b}
	}
	return &nodeStore{lake: s.lake, batch: b, below: s}
}

func (s *nodeStore) Get(ctx context.Context, h prolly.Hash) ([]byte, error) {
	for at := s; at != nil; at = at.below {
		at.mu.Lock()
		data, ok := at.pending[h]
		at.mu.Unlock()
		if ok {
			return data, nil
		}
	}
	return s.lake.Get(ctx, TypeTreeNode, Hash(h))
}

func (s *nodeStore) Put(ctx context.Context, data []byte) (prolly.Hash, error) {
	if s.batch == nil {
		return prolly.Hash{}, ErrReadOnly
	}
	h, err := s.batch.Put(ctx, TypeTreeNode, data)
	if err != nil {
		return prolly.Hash{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pending == nil {
		s.pending = map[prolly.Hash][]byte{}
	}
	s.pending[prolly.Hash(h)] = data
	return prolly.Hash(h), nil
}
