package lake

import (
	"encoding/hex"
	"sync"

	"github.com/zeebo/blake3"

	"tarn.dev/tarn/internal/base/errdef"
)

// HashSize is the length of a Hash in bytes.
const HashSize = 32

// ErrBadHash is returned by ParseHash.
var ErrBadHash = errdef.New(errdef.InvalidArgument, "lake.bad_hash", "not a hash")

// Hash names an object by its type and content. The zero Hash names nothing.
type Hash [HashSize]byte

// ParseHash reads the 64 lower-case hex digits that String writes.
func ParseHash(s string) (Hash, error) {
	var h Hash
	if len(s) != 2*HashSize {
		return Hash{}, ErrBadHash.Errorf("%q is not a hash: want 64 hex digits, got %d characters", s, len(s))
	}
	if _, err := hex.Decode(h[:], []byte(s)); err != nil {
		return Hash{}, ErrBadHash.Errorf("%q is not a hash: %w", s, err)
	}
	if h.String() != s {
		return Hash{}, ErrBadHash.Errorf("%q is not a hash: want lower-case digits", s)
	}
	return h, nil
}

// String is the hash in lower-case hex.
func (h Hash) String() string { return hex.EncodeToString(h[:]) }

// IsZero reports whether h names nothing.
func (h Hash) IsZero() bool { return h == Hash{} }

// MarshalText writes the hex form; the zero Hash is empty.
func (h Hash) MarshalText() ([]byte, error) {
	if h.IsZero() {
		return []byte{}, nil
	}
	return []byte(h.String()), nil
}

// UnmarshalText reads what MarshalText writes.
func (h *Hash) UnmarshalText(text []byte) error {
	if len(text) == 0 {
		*h = Hash{}
		return nil
	}
	parsed, err := ParseHash(string(text))
	if err != nil {
		return err
	}
	*h = parsed
	return nil
}

// Type says what an object is. It is part of the object's name: equal bytes of two types have two hashes.
type Type uint8

// The types. Their numbers are part of the pack format.
const (
	TypeChunk    Type = iota + 1 // a piece of a file's content
	TypeFileNode                 // a list of chunks or of file nodes
	TypeTreeNode                 // a prolly tree node
	TypeCommit
	TypeDef    // the definition of a function
	TypeRecord // any record: provenance, manifest, bundle

	typeEnd
)

var typeNames = [typeEnd]string{"", "chunk", "file-node", "tree-node", "commit", "def", "record"}

// String is the type's name.
func (t Type) String() string {
	if t.valid() {
		return typeNames[t]
	}
	return "unknown"
}

func (t Type) valid() bool { return t > 0 && t < typeEnd }

// hashers keeps one pool per type: deriving a key costs as much as hashing 2 KiB.
var hashers = func() (pools [typeEnd]*sync.Pool) {
	for t := TypeChunk; t < typeEnd; t++ {
		base := blake3.NewDeriveKey("tarn.dev 2026 lake object v1 " + t.String())
		pools[t] = &sync.Pool{New: func() any { return base.Clone() }}
	}
	return pools
}()

// HashOf is the name of an object. A type that does not exist is a programming error.
func HashOf(t Type, data []byte) Hash {
	pool := hashers[t]
	hasher := pool.Get().(*blake3.Hasher)
	defer pool.Put(hasher)
	hasher.Reset()
	_, _ = hasher.Write(data) // never fails
	var h Hash
	hasher.Sum(h[:0])
	return h
}
