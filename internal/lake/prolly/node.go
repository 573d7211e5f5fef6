package prolly

import (
	"bytes"
	"context"
	"encoding/binary"
	"math"
	"slices"

	"tarn.dev/tarn/internal/base/errdef"
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

// equal compares items of one level.
func (it item) equal(o item) bool {
	return bytes.Equal(it.key, o.key) && bytes.Equal(it.value, o.value) && it.child == o.child && it.keys == o.keys
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
		b = binary.AppendUvarint(b, uint64(len(it.key)))
		b = append(b, it.key...)
		if level == 0 {
			b = binary.AppendUvarint(b, uint64(len(it.value)))
			b = append(b, it.value...)
		} else {
			b = append(b, it.child[:]...)
			b = binary.AppendUvarint(b, uint64(it.keys))
		}
	}
	return b
}

// decode reads a node and refuses all bytes that encode would not have written.
func decode(data []byte) (*node, error) {
	r := reader{rest: data}
	if string(r.take(uint64(len(magic)))) != magic {
		return nil, ErrCorrupt.Errorf("tree node does not begin with %q", magic)
	}
	n := &node{raw: data}
	n.params = Params{Min: r.size(), Target: r.size(), Max: r.size()}
	n.level = r.size()
	count := r.uvarint()
	if r.bad || !n.params.valid() || n.level > maxLevel || count == 0 || count > uint64(len(data)) {
		return nil, ErrCorrupt.Errorf("tree node has a bad header")
	}
	n.items = make([]item, count)
	total := int64(0)
	for i := range n.items {
		it := &n.items[i]
		it.key = r.take(r.uvarint())
		if n.level == 0 {
			it.value = r.take(r.uvarint())
		} else {
			copy(it.child[:], r.take(uint64(len(it.child))))
			keys := r.uvarint()
			if keys == 0 || keys > uint64(math.MaxInt64-total) {
				r.bad = true
			}
			it.keys = int64(keys)
			total += it.keys
		}
		if r.bad {
			return nil, ErrCorrupt.Errorf("tree node ends or overflows in item %d of %d", i, count)
		}
		if i > 0 && bytes.Compare(n.items[i-1].key, it.key) >= 0 {
			return nil, ErrCorrupt.Errorf("tree node: key %q does not follow %q", it.key, n.items[i-1].key)
		}
	}
	if len(r.rest) != 0 {
		return nil, ErrCorrupt.Errorf("tree node has %d bytes after its last item", len(r.rest))
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

// reader takes apart bytes that may be hostile; after the first violation bad stays true and all reads
// yield zero values.
type reader struct {
	rest []byte
	bad  bool
}

func (r *reader) uvarint() uint64 {
	v, n := binary.Uvarint(r.rest)
	// A last byte of zero is a longer form of a shorter number: one value, one encoding.
	if r.bad || n <= 0 || (n > 1 && r.rest[n-1] == 0) {
		r.bad = true
		return 0
	}
	r.rest = r.rest[n:]
	return v
}

// size reads a number that must fit a 32-bit int.
func (r *reader) size() int {
	v := r.uvarint()
	if v > math.MaxInt32 {
		r.bad = true
		return 0
	}
	return int(v)
}

func (r *reader) take(n uint64) []byte {
	if r.bad || n > uint64(len(r.rest)) {
		r.bad = true
		return nil
	}
	b := r.rest[:n:n]
	r.rest = r.rest[n:]
	return b
}
