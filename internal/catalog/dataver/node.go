package dataver

import (
	"math/bits"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/zeebo/xxh3"
)

// class separates values that mean different things though their words are equal. Its numbers are
// part of the format.
type class byte

const (
	classBool     class = 1
	classInt      class = 2
	classFloat    class = 3
	classDecimal  class = 4
	classString   class = 5
	classBinary   class = 6
	classDate     class = 7
	classTime     class = 8
	classLocal    class = 9  // timestamp without a zone
	classInstant  class = 10 // timestamp with one
	classDuration class = 11
	classInterval class = 12
	classList     class = 13
	classMap      class = 14
	classStruct   class = 15
)

// block is how many values are read into words before they are mixed; both buffers stay in L1.
const block = 256

// node hashes one column, or one field of a nested one.
type node struct {
	seed  seed
	load  func(a arrow.Array, start int, lo, hi []uint64) // leaves: the words of len(lo) values
	shape shape
	kids  []*node
	acc   vec // of children

	// The contributions of a dictionary are kept for as long as batches share it.
	dict     arrow.ArrayData
	dictVals vec
}

type shape byte

const (
	shapeLeaf shape = iota
	shapeNull
	shapeList
	shapeMap
	shapeStruct
	shapeDictionary
	shapeRunEnd
	shapeExtension
)

func newSeed(name string, c class) seed {
	key := append([]byte{byte(c)}, name...)
	x, y := xxh3.Hash128Seed(key, 0), xxh3.Hash128Seed(key, 1)
	return seed{x.Lo, x.Hi, y.Lo, y.Hi}
}

// newNode builds the hasher of a column; name goes into the hash, path only into errors.
func newNode(path, name string, dt arrow.DataType) (*node, error) {
	kid := func(path, name string, dt arrow.DataType, into *node) error {
		k, err := newNode(path, name, dt)
		if err == nil {
			into.kids = append(into.kids, k)
		}
		return err
	}
	n := &node{}
	var err error
	switch t := dt.(type) {
	case *arrow.NullType:
		n.shape = shapeNull
	case *arrow.DictionaryType:
		n.shape, err = shapeDictionary, kid(path, name, t.ValueType, n)
	case *arrow.RunEndEncodedType:
		n.shape, err = shapeRunEnd, kid(path, name, t.Encoded(), n)
	case arrow.ExtensionType:
		n.shape, err = shapeExtension, kid(path, name, t.StorageType(), n)
	case *arrow.MapType: // before ListLikeType, which it also is
		n.shape, n.seed = shapeMap, newSeed(name, classMap)
		if err = kid(path+".key", "key", t.KeyType(), n); err == nil {
			err = kid(path+".value", "value", t.ItemType(), n)
		}
	case *arrow.StructType:
		n.shape, n.seed = shapeStruct, newSeed(name, classStruct)
		seen := map[string]bool{}
		for _, f := range t.Fields() {
			if seen[f.Name] {
				return nil, ErrDuplicate.Errorf("two fields of %s are named %q", path, f.Name)
			}
			seen[f.Name] = true
			if err = kid(path+"."+f.Name, f.Name, f.Type, n); err != nil {
				break
			}
		}
	case arrow.ListLikeType:
		n.shape, n.seed = shapeList, newSeed(name, classList)
		err = kid(path+".element", "element", t.Elem(), n)
	default:
		var c class
		if c, n.load = leaf(dt); n.load == nil {
			return nil, ErrUnsupported.Errorf("column %s has type %s, which has no data version", path, dt)
		}
		n.seed = newSeed(name, c)
	}
	if err != nil {
		return nil, err
	}
	return n, nil
}

// add adds the contributions of a[start:start+count] to acc. A null contributes nothing, so a column
// that a file lacks and a column of nulls are one.
func (n *node) add(a arrow.Array, start, count int, acc vec) {
	switch n.shape {
	case shapeNull:
		return
	case shapeExtension:
		n.kids[0].add(a.(array.ExtensionArray).Storage(), start, count, acc)
		return
	case shapeDictionary:
		n.addDictionary(a.(*array.Dictionary), start, count, acc)
		return
	case shapeRunEnd:
		n.addRuns(a.(*array.RunEndEncoded), start, count, acc)
		return
	}
	var lo, hi [block]uint64
	nulls := a.NullN() > 0
	for i := 0; i < count; i += block {
		m := min(block, count-i)
		switch n.shape {
		case shapeLeaf:
			n.load(a, start+i, lo[:m], hi[:m])
		case shapeList:
			n.lists(a.(array.ListLike), start+i, lo[:m], hi[:m])
		case shapeMap:
			n.maps(a.(*array.Map), start+i, lo[:m], hi[:m])
		case shapeStruct:
			n.structs(a.(*array.Struct), start+i, lo[:m], hi[:m])
		}
		to := vec{acc.lo[i : i+m], acc.hi[i : i+m]}
		if nulls {
			n.seed.mixValid(a, start+i, lo[:m], hi[:m], to)
		} else {
			n.seed.mix(lo[:m], hi[:m], to)
		}
	}
}

// mix adds the contribution of each value (lo, hi) to acc.
func (s *seed) mix(lo, hi []uint64, acc vec) {
	hi, accLo, accHi := hi[:len(lo)], acc.lo[:len(lo)], acc.hi[:len(lo)]
	a, b, c, d := s.a, s.b, s.c, s.d
	for i, v := range lo {
		w := hi[i]
		x, y := mum(v^a, w^b), mum(v^c, w^d)
		accLo[i] += mum(x^v, d|1)
		accHi[i] += mum(y^bits.RotateLeft64(v, 32)+w, b|1)
	}
}

// mixValid is mix for the values that are not null.
func (s *seed) mixValid(arr arrow.Array, start int, lo, hi []uint64, acc vec) {
	for i := range lo {
		if arr.IsValid(start + i) {
			s.mix(lo[i:i+1], hi[i:i+1], vec{acc.lo[i : i+1], acc.hi[i : i+1]})
		}
	}
}

func (n *node) addDictionary(a *array.Dictionary, start, count int, acc vec) {
	values := a.Dictionary()
	if data := a.Data().Dictionary(); n.dict != data {
		n.dictVals = n.acc.zeroed(values.Len())
		n.kids[0].add(values, 0, values.Len(), n.dictVals)
		n.dict = data
	}
	for i := range count {
		if a.IsValid(start + i) {
			j := a.GetValueIndex(start + i)
			acc.lo[i] += n.dictVals.lo[j]
			acc.hi[i] += n.dictVals.hi[j]
		}
	}
}

func (n *node) addRuns(a *array.RunEndEncoded, start, count int, acc vec) {
	if count == 0 {
		return
	}
	first := a.GetPhysicalIndex(start)
	last := a.GetPhysicalIndex(start + count - 1)
	vals := n.acc.zeroed(last - first + 1)
	n.kids[0].add(a.Values(), first, last-first+1, vals)
	for i := range count {
		j := a.GetPhysicalIndex(start+i) - first
		acc.lo[i] += vals.lo[j]
		acc.hi[i] += vals.hi[j]
	}
}

func (n *node) lists(a array.ListLike, start int, lo, hi []uint64) {
	for i := 0; i < len(lo); {
		// Neighbouring lists that touch are read in one go; views may lie anywhere.
		from, to := a.ValueOffsets(start + i)
		j := i + 1
		for ; j < len(lo); j++ {
			s, e := a.ValueOffsets(start + j)
			if s != to {
				break
			}
			to = e
		}
		vals := n.acc.zeroed(int(to - from))
		n.kids[0].add(a.ListValues(), int(from), int(to-from), vals)
		for ; i < j; i++ {
			s, e := a.ValueOffsets(start + i)
			x, y := k0, uint64(e-s)
			for k := s - from; k < e-from; k++ {
				x, y = mum(x^vals.lo[k], k1)+vals.hi[k], mum(y^vals.hi[k], k2)+vals.lo[k]
			}
			lo[i], hi[i] = x, y
		}
	}
}

func (n *node) maps(a *array.Map, start int, lo, hi []uint64) {
	from, _ := a.ValueOffsets(start)
	_, to := a.ValueOffsets(start + len(lo) - 1)
	vals := n.acc.zeroed(int(to - from))
	n.kids[0].add(a.Keys(), int(from), int(to-from), vals)
	n.kids[1].add(a.Items(), int(from), int(to-from), vals)
	for i := range lo {
		s, e := a.ValueOffsets(start + i)
		sum := Sum{Lo: uint64(e - s)}
		for k := s - from; k < e-from; k++ {
			l, h := finish(vals.lo[k], vals.hi[k])
			sum = sum.Add(Sum{Lo: l, Hi: h})
		}
		lo[i], hi[i] = sum.Lo, sum.Hi
	}
}

func (n *node) structs(a *array.Struct, start int, lo, hi []uint64) {
	vals := n.acc.zeroed(len(lo))
	for i, k := range n.kids {
		k.add(a.Field(i), start, len(lo), vals)
	}
	for i := range lo {
		lo[i], hi[i] = finish(vals.lo[i], vals.hi[i])
	}
}
