package prolly

import (
	"bytes"
	"context"
	"encoding/binary"
	"math"
	"slices"

	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/lake/wire"
)

// magic opens every node: "TN" and the version of the format.
const magic = "TN\x01"

// item is one line of a node: in a leaf a key and its value, above it a child's last key, hash and
// number of keys.
type item struct {
	key   []byte
	value []byte
	child Hash
	keys  int64
}

type node struct {
	params Params
	level  int
	items  []item
	raw    []byte
	hash   Hash
}

func (n *node) lastKey() []byte { return n.items[len(n.items)-1].key }

// search returns the first item whose key is at or after key: in a node above the leaves, the child
// that key belongs to.
func (n *node) search(key []byte) (int, bool) {
	return slices.BinarySearchFunc(n.items, key, func(it item, k []byte) int { return bytes.Compare(it.key, k) })
}

func (n *node) count() int64 {
	if n.level == 0 {
		return int64(len(n.items))
	}
	var sum int64
	for _, it := range n.items {
		sum += it.keys
	}
	return sum
}

// encode is the inverse of decode.
func encode(p Params, level int, items []item) []byte {
	size := 32
	for _, it := range items {
		size += weight(level, it) + 2*binary.MaxVarintLen64
	}
	b := make([]byte, 0, size)
	b = append(b, magic...)
	b = binary.AppendUvarint(b, uint64(p.Min))
	b = binary.AppendUvarint(b, uint64(p.Target))
	b = binary.AppendUvarint(b, uint64(p.Max))
	b = binary.AppendUvarint(b, uint64(level))
	b = binary.AppendUvarint(b, uint64(len(items)))
	for _, it := range items {
		b = wire.AppendBytes(b, it.key)
		if level == 0 {
			b = wire.AppendBytes(b, it.value)
		} else {
			b = append(b, it.child[:]...)
			b = wire.AppendInt(b, it.keys)
		}
	}
	return b
}

// decode reads a node and refuses all bytes that encode would not have written.
func decode(data []byte) (*node, error) {
	r := wire.NewReader(data)
	if string(r.Take(len(magic))) != magic {
		return nil, ErrCorrupt.Errorf("tree node does not begin with %q", magic)
	}
	n := &node{raw: data}
	n.params = Params{Min: r.Size(), Target: r.Size(), Max: r.Size()}
	n.level = r.Size()
	count := r.Size()
	if !r.OK() || !n.params.valid() || n.level > maxLevel || count == 0 || count > len(data) {
		return nil, ErrCorrupt.Errorf("tree node has a bad header")
	}
	n.items = make([]item, count)
	total := int64(0)
	for i := range n.items {
		it := &n.items[i]
		it.key = r.Bytes()
		if n.level == 0 {
			it.value = r.Bytes()
		} else {
			copy(it.child[:], r.Take(len(it.child)))
			it.keys = r.Int()
			if it.keys == 0 || it.keys > math.MaxInt64-total {
				r.Fail()
			}
			total += it.keys
		}
		if !r.OK() {
			return nil, ErrCorrupt.Errorf("tree node ends or overflows in item %d of %d", i, count)
		}
		if i > 0 && bytes.Compare(n.items[i-1].key, it.key) >= 0 {
			return nil, ErrCorrupt.Errorf("tree node: key %q does not follow %q", it.key, n.items[i-1].key)
		}
	}
	if !r.Done() {
		return nil, ErrCorrupt.Errorf("tree node has %d bytes after its last item", r.Len())
	}
	return n, nil
}

func load(ctx context.Context, s Store, h Hash) (*node, error) {
	data, err := s.Get(ctx, h)
	if err != nil {
		return nil, err
	}
	n, err := decode(data)
	if err != nil {
		return nil, errdef.As(err).WithDetail("node", hexOf(h))
	}
	n.hash = h
	return n, nil
}

// Rewrite returns a stored leaf with other values of the same lengths: value returns that of an item, nil for the one
// it has. It returns nil when nothing changes, as for a node above the leaves.
func Rewrite(data []byte, value func(Item) ([]byte, error)) ([]byte, error) {
	n, err := decode(data)
	if err != nil || n.level > 0 {
		return nil, err
	}
	changed := false
	for i, it := range n.items {
		v, err := value(Item{Key: it.key, Value: it.value})
		if err != nil {
			return nil, err
		}
		if v == nil {
			continue
		}
		if len(v) != len(it.value) {
			return nil, ErrCorrupt.Errorf("a value of %d bytes cannot stand in place of one of %d", len(v), len(it.value))
		}
		n.items[i].value, changed = v, true
	}
	if !changed {
		return nil, nil
	}
	return encode(n.params, n.level, n.items), nil
}

// Visit decodes one stored node and calls child for each node below it, or item for each item of a leaf,
// in order.
func Visit(data []byte, child func(Hash) error, item func(Item) error) error {
	n, err := decode(data)
	if err != nil {
		return err
	}
	for _, it := range n.items {
		if n.level > 0 {
			err = child(it.child)
		} else {
			err = item(Item{Key: it.key, Value: it.value})
		}
		if err != nil {
			return err
		}
	}
	return nil
}
