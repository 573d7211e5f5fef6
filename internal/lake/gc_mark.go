package lake

import (
	"context"

	"github.com/zeebo/blake3"

	"tarn.dev/tarn/internal/lake/prolly"
	"tarn.dev/tarn/internal/meta"
)

// Holder tells garbage collection what the layers above keep: what their entries, definitions, records and
// rows lead to.
type Holder interface {
	// Entry marks what an entry names besides objects of the lake: the blobs of a table.
	Entry(ctx context.Context, m *Mark, e Entry) error
	// Object marks what a definition or record names. It is called once for each that is reached.
	Object(ctx context.Context, m *Mark, t Type, data []byte) error
	// Slot marks what an item of an asset's state names.
	Slot(ctx context.Context, m *Mark, value []byte) error
	// Rows marks what the holder's rows name, after everything that commits reach. Rows past their time are
	// not marked when remove is given: it is called for them, and takes them away.
	Rows(ctx context.Context, m *Mark, remove Remover) error
	// Clean returns what is left of a record of how something was made that is forgotten; nil if all of it may stay.
	Clean(data []byte) ([]byte, error)
	// Blobs are the prefixes of the names of its blobs: to each of those only a reference leads.
	Blobs() []string
}

// Remover takes rows away in the name of the collector.
type Remover func(ctx context.Context, conditions []meta.Condition, writes []meta.Write) error

// Mark is what roots lead to: of an object its pack and where it is in there, of a blob a part of the hash
// of its name. So a million objects are some 10 MB.
type Mark struct {
	l      *Lake
	holder Holder
	packs  map[Hash]*packMark
	blobs  map[[16]byte]struct{}
	sought *sought // what a trace looks for; nil in a collection

	graves  *graves
	pending map[string]bool        // versions that are to be forgotten
	cleaned map[Hash]cleanedObject // what is to be read in place of objects that hold what is forgotten
	shared  map[string]bool        // keys of entries that have the same content and are not forgotten
	// elsewhere: something else than an entry has it. leftover: rows of the holder have it that must not.
	elsewhere, leftover bool
}

// cleanedObject is what is to be read in place of the object at the location.
type cleanedObject struct {
	location
	data []byte
}

// packMark are the objects of a pack that are reached, by placeBit.
type packMark struct {
	places map[uint32]struct{}
	bytes  int64
}

// placeBit tells the objects of a pack apart: one that is stored in no bytes is where the next one is.
// Packs are at most 1 GiB.
func placeBit(p place) uint32 {
	bit := p.offset << 1
	if p.stored == 0 {
		bit++
	}
	return bit
}

func (l *Lake) newMark(h Holder, g *graves) *Mark {
	m := &Mark{
		l: l, holder: h, packs: map[Hash]*packMark{}, blobs: map[[16]byte]struct{}{},
		graves: g, pending: map[string]bool{}, cleaned: map[Hash]cleanedObject{}, shared: map[string]bool{},
	}
	for _, t := range g.pending() {
		m.pending[t.Version] = true
	}
	return m
}

// Forgotten are the tombstones whose content is to go with this collection.
func (m *Mark) Forgotten() []*Tombstone { return m.graves.pending() }

// has reports whether the object at p is reached.
func (m *Mark) has(pack Hash, p place) bool {
	reached := m.packs[pack]
	if reached == nil {
		return false
	}
	_, ok := reached.places[placeBit(p)]
	return ok
}

// liveBytes are those of a pack's objects that are reached.
func (m *Mark) liveBytes(pack Hash) int64 {
	if reached := m.packs[pack]; reached != nil {
		return reached.bytes
	}
	return 0
}

// mostlyDead says that a pack is worth rewriting: less than half of what its objects take is reached.
func (m *Mark) mostlyDead(name Hash, row packRow) bool {
	return m.packs[name] == nil || 2*m.liveBytes(name) < row.stored()
}

// object marks an object, which must be there: below one that is missing nothing would be marked.
func (m *Mark) object(ctx context.Context, t Type, h Hash) (loc location, first bool, err error) {
	loc, state, err := m.l.locate(ctx, h, true)
	if err != nil {
		return loc, false, err
	}
	if as, replaced := m.graves.objects[h]; state == "" && replaced {
		return m.object(ctx, t, as)
	}
	if state == "" || loc.typ != t {
		return loc, false, ErrCorrupt.Errorf("garbage cannot be told from the rest: %w", m.l.notFound(t, h, loc, state)).WithNext("tarn fsck")
	}
	reached := m.packs[loc.pack]
	if reached == nil {
		reached = &packMark{places: map[uint32]struct{}{}}
		m.packs[loc.pack] = reached
	}
	m.sought.object(t, h, loc)
	bit := placeBit(loc.place)
	if _, ok := reached.places[bit]; ok {
		return loc, false, nil
	}
	reached.places[bit] = struct{}{}
	reached.bytes += int64(loc.stored)
	return loc, true, nil
}

// unmark takes a mark back.
func (m *Mark) unmark(loc location) {
	reached := m.packs[loc.pack]
	delete(reached.places, placeBit(loc.place))
	reached.bytes -= int64(loc.stored)
}

// read returns a node or record. It does not go through the cache, which is for those who come again.
func (m *Mark) read(ctx context.Context, loc location) ([]byte, error) {
	if data, ok := m.l.cache.get(loc.hash, loc.typ); ok {
		return data, nil
	}
	return m.l.read(ctx, loc)
}

// within reads an object that was marked for the first time and marks what it names.
func (m *Mark) within(ctx context.Context, loc location, names func(data []byte) error) error {
	before := m.sought.count()
	data, err := m.read(ctx, loc)
	if err == nil {
		err = names(data)
	}
	if m.sought.count() > before {
		m.sought.leads[loc.hash] = struct{}{}
	}
	return err
}

// At says which row the things that are marked next are kept by.
func (m *Mark) At(r Root) { m.sought.at(r) }

// Blob marks a blob and reports whether it was not marked before.
func (m *Mark) Blob(name string) bool {
	sum := blake3.Sum256([]byte(name))
	key := [16]byte(sum[:])
	_, marked := m.blobs[key]
	m.blobs[key] = struct{}{}
	return m.sought.blob(name, key) || !marked
}

// HasBlob reports whether a blob is marked.
func (m *Mark) HasBlob(name string) bool {
	sum := blake3.Sum256([]byte(name))
	_, ok := m.blobs[[16]byte(sum[:])]
	return ok
}

// HasFile reports whether a file's content is marked.
func (m *Mark) HasFile(ctx context.Context, ref FileRef) (bool, error) {
	if ref.Root.IsZero() {
		return true, nil
	}
	loc, _, err := m.l.locate(ctx, ref.Root, true)
	return err == nil && m.has(loc.pack, loc.place), err
}

// Leftover says that a row of the holder has what is to be forgotten: the collection must be done again.
func (m *Mark) Leftover() { m.leftover = true }

// File marks a file's content that something else than an entry has.
func (m *Mark) File(ctx context.Context, ref FileRef) error {
	m.elsewhere = m.elsewhere || m.pending[ref.Hash.String()]
	return m.file(ctx, ref)
}

func (m *Mark) file(ctx context.Context, ref FileRef) error {
	if ref.Root.IsZero() {
		return nil
	}
	return m.filePart(ctx, fileChild{ref.Root, ref.Size}, ref.Height)
}

func (m *Mark) filePart(ctx context.Context, part fileChild, height uint8) error {
	if height == 0 {
		_, _, err := m.object(ctx, TypeChunk, part.hash)
		return err
	}
	loc, first, err := m.object(ctx, TypeFileNode, part.hash)
	if err != nil || !first {
		return err
	}
	return m.within(ctx, loc, func(data []byte) error {
		children, err := decodeFileNode(data, height, part.size)
		for _, c := range children {
			if err == nil {
				err = m.filePart(ctx, c, height-1)
			}
		}
		return err
	})
}

// Object marks a definition or record, with what the holder knows it to name. The zero hash is none.
func (m *Mark) Object(ctx context.Context, t Type, h Hash) error {
	if h.IsZero() {
		return nil
	}
	loc, first, err := m.object(ctx, t, h)
	if err != nil || !first || m.holder == nil {
		return err
	}
	return m.within(ctx, loc, func(data []byte) (err error) {
		if m.graves.records[h] {
			data, err = m.clean(ctx, loc, data, m.holder.Clean)
		}
		if err == nil {
			err = m.holder.Object(ctx, m, t, data)
		}
		return err
	})
}

// nodes marks the nodes of a map and calls item for the items of those that were not marked before.
// What clean, if any, makes of a node is marked in its place.
func (m *Mark) nodes(ctx context.Context, root Hash, clean func([]byte) ([]byte, error), item func(prolly.Item) error) error {
	if root.IsZero() {
		return nil
	}
	loc, first, err := m.object(ctx, TypeTreeNode, root)
	if err != nil || !first {
		return err
	}
	return m.within(ctx, loc, func(data []byte) error {
		if data, err = m.clean(ctx, loc, data, clean); err != nil {
			return err
		}
		return prolly.Visit(data, func(child prolly.Hash) error { return m.nodes(ctx, Hash(child), clean, item) }, item)
	})
}

// clean takes the mark of an object back that holds what is forgotten, for the one that is read in its place. There is
// none yet when the object is met for the first time.
func (m *Mark) clean(ctx context.Context, loc location, data []byte, clean func([]byte) ([]byte, error)) ([]byte, error) {
	if clean == nil {
		return data, nil
	}
	cleaned, err := clean(data)
	if err != nil || cleaned == nil {
		return data, err
	}
	if as, known := m.graves.objects[loc.hash]; known && as == HashOf(loc.typ, cleaned) {
		m.unmark(loc)
		_, _, err := m.object(ctx, loc.typ, as)
		return cleaned, err
	}
	m.cleaned[loc.hash] = cleanedObject{loc, cleaned}
	return cleaned, nil
}

// commit marks a commit and its tree. Its parents have rows of their own.
func (m *Mark) commit(ctx context.Context, id Hash) error {
	loc, first, err := m.object(ctx, TypeCommit, id)
	if err != nil || !first {
		return err
	}
	data, err := m.read(ctx, loc)
	if err != nil {
		return err
	}
	c, err := decodeCommit(id, data)
	if err != nil {
		return err
	}
	m.sought.commit(c)
	return m.nodes(ctx, c.Tree, m.graves.cleaned, func(it prolly.Item) error {
		e, err := decodeAt(string(it.Key), it.Value)
		if err != nil {
			return err
		}
		if m.graves.find(string(it.Key), e) != nil {
			return m.Object(ctx, TypeRecord, e.Location.Provenance)
		}
		if m.pending[e.Version] {
			m.shared[string(it.Key)] = true
		}
		return m.entry(ctx, string(it.Key), e)
	})
}

func (m *Mark) entry(ctx context.Context, key string, e Entry) error {
	defer m.sought.entry(key, e)()
	at := e.Location
	if err := m.file(ctx, at.Ref); err != nil {
		return err
	}
	if err := m.Object(ctx, TypeDef, at.Object); err != nil {
		return err
	}
	if err := m.Object(ctx, TypeRecord, at.Provenance); err != nil {
		return err
	}
	err := m.nodes(ctx, at.Slots, nil, func(it prolly.Item) error {
		if m.holder == nil {
			return nil
		}
		return m.holder.Slot(ctx, m, it.Value)
	})
	if err != nil || m.holder == nil {
		return err
	}
	return m.holder.Entry(ctx, m, e)
}
