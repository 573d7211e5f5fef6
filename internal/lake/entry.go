package lake

import (
	"bytes"
	"context"
	"encoding/binary"
	"maps"
	"slices"

	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/lake/prolly"
	"tarn.dev/tarn/internal/lake/wire"
)

// ErrInvalidEntry is returned for an entry that cannot be stored.
var ErrInvalidEntry = errdef.New(errdef.InvalidArgument, "lake.invalid_entry", "invalid entry")

// ErrEntryCorrupt is returned for stored bytes that no writer of entries wrote.
var ErrEntryCorrupt = errdef.New(errdef.DataLoss, "lake.entry_corrupt", "entry is corrupt")

// Kind is the sort of thing that an entry describes; it decides who merges two changes of it.
type Kind string

// The kinds of entries.
const (
	KindTable    Kind = "table"
	KindFile     Kind = "file"
	KindDef      Kind = "def"
	KindExternal Kind = "external"
	KindFolder   Kind = "folder" // the state of an asset that makes files; the files have entries of their own
)

var kinds = []Kind{KindTable, KindFile, KindDef, KindExternal, KindFolder}

// Entry is what a tree holds under a key: an identity and a location. Diff, merge, memo and staleness
// see the identity only; two entries of one identity may lie in different places.
type Entry struct {
	Kind         Kind
	Version      string // data version: what the content is
	Schema       string
	Partitioning string
	Properties   map[string]string

	Location Location

	// Forgotten is set when the content is gone for good; it is no part of what is stored.
	Forgotten *Tombstone
}

// Location says where the content of an entry is and what is known of it.
type Location struct {
	Ref        FileRef           // of a file: its bytes
	Object     Hash              // of a definition: its object
	Table      string            // of a table: blob name of its metadata file
	Slots      Hash              // of an asset: root of the map slot -> fragment; zero if none
	Provenance Hash              // how the content was made; zero if unknown
	Size, Rows int64             // for people and planners
	Data       map[string]string // anything else the kind's package needs to find the content
}

// SameIdentity reports whether e and o are the same content, wherever it lies. A nil entry is an
// absent one.
func (e *Entry) SameIdentity(o *Entry) bool {
	if e == nil || o == nil {
		return e == o
	}
	return e.Kind == o.Kind && e.Version == o.Version && e.Schema == o.Schema &&
		e.Partitioning == o.Partitioning && maps.Equal(e.Properties, o.Properties)
}

// require makes what the location names a condition of b's becoming visible: nothing that a tree names
// may be missing, also when garbage is collected meanwhile.
func (e *Entry) require(ctx context.Context, b *Batch) error {
	content := TypeChunk
	if e.Location.Ref.Height > 0 {
		content = TypeFileNode
	}
	for _, o := range [...]struct {
		typ  Type
		hash Hash
	}{
		{content, e.Location.Ref.Root},
		{TypeDef, e.Location.Object},
		{TypeTreeNode, e.Location.Slots},
		{TypeRecord, e.Location.Provenance},
	} {
		if o.hash.IsZero() {
			continue
		}
		if err := b.Require(ctx, o.typ, o.hash); err != nil {
			return err
		}
	}
	return nil
}

// entryFormat opens every encoded entry.
const entryFormat = 1

// The fields of a location. A bit is set exactly when its field has a value, in this order.
const (
	hasRefRoot = 1 << iota
	hasRefHeight
	hasRefSize
	hasRefInline
	hasRefHash
	hasObject
	hasTable
	hasSlots
	hasProvenance
	hasSize
	hasRows
	hasData
	allFields = 1<<iota - 1
)

// encodeEntry writes e: the identity as one byte string, so that identities compare as bytes, then the
// location. See docs/formats/entry.md.
func encodeEntry(e Entry) ([]byte, error) {
	if !slices.Contains(kinds, e.Kind) {
		return nil, ErrInvalidEntry.Errorf("entry has the unknown kind %q", e.Kind)
	}
	l := e.Location
	if l.Size < 0 || l.Rows < 0 || l.Ref.Size < 0 {
		return nil, ErrInvalidEntry.Errorf("entry has a negative size")
	}
	var id []byte
	for _, s := range []string{string(e.Kind), e.Version, e.Schema, e.Partitioning} {
		id = wire.AppendBytes(id, s)
	}
	id = appendStrings(id, e.Properties)
	b := wire.AppendBytes([]byte{entryFormat}, id)

	fields := 0
	for i, has := range [...]bool{
		!l.Ref.Root.IsZero(), l.Ref.Height != 0, l.Ref.Size != 0, len(l.Ref.Inline) > 0, !l.Ref.Hash.IsZero(),
		!l.Object.IsZero(), l.Table != "", !l.Slots.IsZero(), !l.Provenance.IsZero(),
		l.Size != 0, l.Rows != 0, len(l.Data) > 0,
	} {
		if has {
			fields |= 1 << i
		}
	}
	b = binary.AppendUvarint(b, uint64(fields))
	number := func(bit int, v int64) {
		if fields&bit != 0 {
			b = wire.AppendInt(b, v)
		}
	}
	hash := func(bit int, h Hash) {
		if fields&bit != 0 {
			b = append(b, h[:]...)
		}
	}
	hash(hasRefRoot, l.Ref.Root)
	number(hasRefHeight, int64(l.Ref.Height))
	number(hasRefSize, l.Ref.Size)
	if fields&hasRefInline != 0 {
		b = wire.AppendBytes(b, l.Ref.Inline)
	}
	hash(hasRefHash, l.Ref.Hash)
	hash(hasObject, l.Object)
	if fields&hasTable != 0 {
		b = wire.AppendBytes(b, l.Table)
	}
	hash(hasSlots, l.Slots)
	hash(hasProvenance, l.Provenance)
	number(hasSize, l.Size)
	number(hasRows, l.Rows)
	if fields&hasData != 0 {
		b = appendStrings(b, l.Data)
	}
	if len(b) > prolly.MaxValue {
		return nil, ErrInvalidEntry.Errorf("entry has %d bytes, at most %d are allowed", len(b), prolly.MaxValue)
	}
	return b, nil
}

// decodeEntry is the inverse of encodeEntry and refuses all other bytes.
func decodeEntry(data []byte) (Entry, error) {
	r := wire.NewReader(data)
	if f := r.Take(1); len(f) == 0 || f[0] != entryFormat {
		return Entry{}, ErrEntryCorrupt.Errorf("entry does not begin with format %d; a newer Tarn may have written it", entryFormat)
	}
	id := wire.NewReader(r.Bytes())
	e := Entry{Kind: Kind(id.String()), Version: id.String(), Schema: id.String(), Partitioning: id.String()}
	e.Properties = readStrings(id)
	fields := r.Size()
	hash := func(bit int) (h Hash) {
		if fields&bit != 0 {
			copy(h[:], r.Take(len(h)))
		}
		return h
	}
	number := func(bit int) int64 {
		if fields&bit == 0 {
			return 0
		}
		return r.Int()
	}
	l := &e.Location
	l.Ref.Root = hash(hasRefRoot)
	height := number(hasRefHeight)
	l.Ref.Height = uint8(height)
	l.Ref.Size = number(hasRefSize)
	if fields&hasRefInline != 0 {
		l.Ref.Inline = bytes.Clone(r.Bytes())
	}
	l.Ref.Hash = hash(hasRefHash)
	l.Object = hash(hasObject)
	if fields&hasTable != 0 {
		l.Table = r.String()
	}
	l.Slots = hash(hasSlots)
	l.Provenance = hash(hasProvenance)
	l.Size = number(hasSize)
	l.Rows = number(hasRows)
	if fields&hasData != 0 {
		l.Data = readStrings(r)
	}
	if !id.Done() || !r.Done() || height > maxHeight || fields&^allFields != 0 {
		return Entry{}, ErrEntryCorrupt.Errorf("entry of %d bytes is cut off or has too much", len(data))
	}
	// A set bit with an empty field, properties out of order: written again it would not be the same.
	if again, err := encodeEntry(e); err != nil || !bytes.Equal(again, data) {
		return Entry{}, ErrEntryCorrupt.Errorf("entry of %d bytes is not canonical", len(data))
	}
	return e, nil
}

func appendStrings(b []byte, m map[string]string) []byte {
	b = wire.AppendInt(b, int64(len(m)))
	for _, k := range slices.Sorted(maps.Keys(m)) {
		b = wire.AppendBytes(b, k)
		b = wire.AppendBytes(b, m[k])
	}
	return b
}

// readStrings reads a map; an empty one is nil.
func readStrings(r *wire.Reader) map[string]string {
	n := r.Size()
	if n > r.Len() {
		r.Fail()
	}
	if n == 0 || !r.OK() {
		return nil
	}
	m := make(map[string]string, n)
	for range n {
		k := r.String()
		m[k] = r.String()
	}
	return m
}
