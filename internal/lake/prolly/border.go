package prolly

import (
	"encoding/hex"

	"github.com/cespare/xxhash/v2"
)

// Params say where nodes end. They are part of every node, so that a map keeps its borders for life.
type Params struct {
	Min    int // a node lighter than this goes on
	Target int // about the mean weight of a node
	Max    int // a node this heavy ends
}

// DefaultParams are for new maps. 4 KiB holds about 40 entries: an edit in a map of 10^6 keys rewrites
// four nodes, and reading a page of a listing reads few.
var DefaultParams = Params{Min: 1 << 10, Target: 4 << 10, Max: 16 << 10}

// maxLevel is out of reach: a node above the leaves has at least two children.
const maxLevel = 63

func (p Params) valid() bool { return p.Min > 0 && p.Min <= p.Target && p.Target <= p.Max }

// weight is what an item counts towards the size of its node. It depends on the item only, never on
// its neighbours or on how numbers happen to be encoded.
func weight(level int, it item) int {
	if level == 0 {
		return len(it.key) + len(it.value)
	}
	return len(it.key) + len(it.child) + 8
}

// borders decides, item by item from the start of a node, where the node ends.
type borders struct {
	params Params
	level  int
	items  int
	weight int
}

// ends adds an item and reports whether the node ends behind it; then the next item begins a new one.
//
// Between Min and Max each byte of weight has the same chance of being a border, a higher one above
// Target; the die is the key's hash. So a border that two different neighbourhoods agree on is never
// far, and an edit ripples over few nodes. Above the leaves a node has at least two items: otherwise
// keys longer than Max would make a tower that never ends.
func (b *borders) ends(it item) bool {
	w := weight(b.level, it)
	b.items++
	b.weight += w
	end := false
	switch {
	case b.level > 0 && b.items < 2, b.weight < b.params.Min:
	case b.weight >= b.params.Max:
		end = true
	default:
		mean := uint64(b.params.Target)
		if b.weight >= b.params.Target {
			mean /= 2
		}
		end = (die(b.level, it.key)>>32)*mean>>32 < uint64(w)
	}
	if end {
		b.items, b.weight = 0, 0
	}
	return end
}

// die maps a key to a number that is random for our purpose and different on each level: the keys on a
// level are just those that rolled low on the one below. The mixing is the finalizer of splitmix64.
func die(level int, key []byte) uint64 {
	z := xxhash.Sum64(key) + uint64(level+1)*0x9e3779b97f4a7c15
	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9
	z = (z ^ (z >> 27)) * 0x94d049bb133111eb
	return z ^ (z >> 31)
}

func hexOf(h Hash) string { return hex.EncodeToString(h[:]) }
