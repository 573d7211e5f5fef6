package lake

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/zeebo/blake3"

	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/base/fault"
	"tarn.dev/tarn/internal/lake/prolly"
	"tarn.dev/tarn/internal/meta"
)

// ErrForgotten is returned to who wants the content of what was forgotten.
var ErrForgotten = errdef.New(errdef.NotFound, "lake.forgotten", "its content was forgotten")

// Tombstone says that the content of an entry is gone, or about to go, for good: docs/design/forget.md.
// Its history stays.
type Tombstone struct {
	Key     string    `json:"key"`
	Content string    `json:"content"` // which of the entries at Key, see contentOf
	Version string    `json:"version"`
	Kind    Kind      `json:"kind"`
	Time    time.Time `json:"time"`
	Author  string    `json:"author,omitempty"`
	// Provenance and Steps find the results and logs that go along.
	Provenance Hash     `json:"provenance,omitzero"`
	Steps      []string `json:"steps,omitempty"`
	// Done says that a collection has freed the content. One that was interrupted goes on.
	Done bool `json:"done,omitempty"`
}

// NewTombstone is that of an entry.
func NewTombstone(key string, e Entry) Tombstone {
	return Tombstone{Key: key, Content: contentOf(e), Version: e.Version, Kind: e.Kind, Provenance: e.Location.Provenance}
}

// contentOf tells the contents at one key apart. Files are told apart by what they are: put again, the same
// bytes are the same objects. Tables and folders lie anew wherever they are written.
func contentOf(e Entry) string {
	switch {
	case e.Location.Table != "":
		return e.Location.Table
	case !e.Location.Slots.IsZero():
		return e.Location.Slots.String()
	}
	return e.Version
}

// unreadable is the error for who wants the content.
func (t *Tombstone) unreadable() error {
	by := ""
	if t.Author != "" {
		by = " by " + t.Author
	}
	return ErrForgotten.Errorf("%s, version %.12s, was forgotten on %s%s: its content is gone for good, its history stays",
		DisplayKey(t.Key), t.Version, t.Time.UTC().Format(time.RFC3339), by).
		WithDetail("key", t.Key).WithNext("tarn log " + DisplayKey(t.Key))
}

// Readable returns ErrForgotten, with when, for an entry whose content was forgotten.
func (e *Entry) Readable() error {
	if e.Forgotten == nil {
		return nil
	}
	return e.Forgotten.unreadable()
}

// graves are all tombstones, and the objects in whose place others are read, as of one snapshot.
type graves struct {
	version int64 // of the row that every change of them writes; 0: there is none
	entries map[grave]*Tombstone
	objects map[Hash]Hash
	records map[Hash]bool // of how what is forgotten was made
}

type grave struct{ key, content string }

// find returns the tombstone of an entry, if it has one.
func (g *graves) find(key string, e Entry) *Tombstone {
	if len(g.entries) == 0 {
		return nil
	}
	return g.entries[grave{key, contentOf(e)}]
}

// pending are the tombstones whose content is not known to be gone.
func (g *graves) pending() []*Tombstone {
	return slices.Collect(func(yield func(*Tombstone) bool) {
		for _, t := range g.entries {
			if !t.Done && !yield(t) {
				return
			}
		}
	})
}

// unchanged is the condition that nothing was forgotten since.
func (g *graves) unchanged(l *Lake) meta.Condition {
	if g.version == 0 {
		return meta.Absent(l.gravesKey())
	}
	return meta.At(l.gravesKey(), g.version)
}

func (l *Lake) gravesPrefix() string { return l.prefix + "forgotten/" }
func (l *Lake) gravesKey() string    { return l.gravesPrefix() + "changed" }
func (l *Lake) graveObjectKey(h Hash) string {
	return l.gravesPrefix() + "object/" + h.String()
}

// A key of the tree may be as long as a key of rows, so the row's has its hash.
func (l *Lake) graveKey(t *Tombstone) string {
	sum := blake3.Sum256([]byte(t.Key + "\x00" + t.Content))
	return fmt.Sprintf("%sentry/%x", l.gravesPrefix(), sum)
}

// readGraves reads the tombstones of this moment; from then on readers and writers see them.
func (l *Lake) readGraves(ctx context.Context) (*graves, error) {
	g := &graves{entries: map[grave]*Tombstone{}, objects: map[Hash]Hash{}, records: map[Hash]bool{}}
	for row, err := range l.rows.Scan(ctx, meta.Prefix(l.gravesPrefix())) {
		if err != nil {
			return nil, err
		}
		if err := g.add(l, row); err != nil {
			return nil, ErrCorrupt.Errorf("row %s: %w", row.Key, err).WithNext("tarn fsck")
		}
	}
	l.graves.Store(g)
	return g, nil
}

func (g *graves) add(l *Lake, row meta.Row) error {
	switch name, ok := strings.CutPrefix(row.Key, l.gravesPrefix()+"object/"); {
	case row.Key == l.gravesKey():
		g.version = row.Version
	case ok:
		h, err := ParseHash(name)
		if err != nil {
			return err
		}
		as, err := ParseHash(string(row.Value))
		g.objects[h] = as
		return err
	default:
		var t Tombstone
		if err := json.Unmarshal(row.Value, &t); err != nil {
			return err
		}
		g.entries[grave{t.Key, t.Content}] = &t
		g.records[t.Provenance] = true
	}
	return nil
}

// entry decodes what a tree holds at key. Of what was forgotten it knows all but where the content was.
func (l *Lake) entry(key string, data []byte) (Entry, error) {
	e, err := decodeAt(key, data)
	if err != nil {
		return Entry{}, err
	}
	if e.Forgotten = l.graves.Load().find(key, e); e.Forgotten != nil {
		e.Location.Ref.Root, e.Location.Ref.Height, e.Location.Ref.Inline = Hash{}, 0, nil
		e.Location.Slots = Hash{}
	}
	return e, nil
}

// forgotten reports whether nothing of the content is left here: it says so itself, or has zeros in its place.
func (r FileRef) forgotten() bool {
	if !r.Root.IsZero() || r.Size == 0 {
		return false
	}
	return len(r.Inline) == 0 || isZero(r.Inline) && blake3.Sum256(r.Inline) != r.Hash
}

func isZero(b []byte) bool { return bytes.Count(b, []byte{0}) == len(b) }

// side decodes one side of a comparison; nil is an absent entry.
func (l *Lake) side(key string, data []byte) (*Entry, error) {
	if data == nil {
		return nil, nil
	}
	e, err := l.entry(key, data)
	if err != nil {
		return nil, err
	}
	return &e, nil
}

// put notes that an entry is written: who stores what was forgotten knows what they do, and it is there again.
func (b *Batch) put(key string, e Entry) error {
	if err := e.Readable(); err != nil {
		return err
	}
	if t := b.graves.find(key, e); t != nil {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.dug = append(b.dug, t)
	}
	return nil
}

// unearth returns what the transaction must assert and write that makes entries visible.
func (b *Batch) unearth() ([]meta.Condition, []meta.Write) {
	b.mu.Lock()
	defer b.mu.Unlock()
	keys := map[string]bool{}
	for _, t := range b.dug {
		keys[b.l.graveKey(t)] = true
	}
	var writes []meta.Write
	for key := range keys {
		writes = append(writes, meta.Delete(key))
	}
	if len(writes) > 0 {
		writes = append(writes, meta.Set(b.l.gravesKey(), nil))
	}
	return []meta.Condition{b.graves.unchanged(b.l)}, writes
}

// Held is an entry that a commit holds.
type Held struct {
	Key    string
	Entry  Entry
	Commit Hash // one of those that came to hold it
}

// History yields every entry that any commit came to hold under one of the prefixes. One that several commits came to
// hold comes several times. It costs what the commits changed there.
func (l *Lake) History(ctx context.Context, prefixes []string, yield func(Held) error) error {
	there := map[Hash]bool{}
	for row, err := range l.rows.Scan(ctx, meta.Prefix(l.commitKey(""))) {
		if err != nil {
			return err
		}
		id, err := ParseHash(strings.TrimPrefix(row.Key, l.commitKey("")))
		if err != nil {
			return ErrCorrupt.Errorf("row %s names no commit", row.Key).WithNext("tarn fsck")
		}
		there[id] = true
	}
	for id := range there {
		c, err := l.Commit(ctx, id)
		if err != nil {
			return err
		}
		before := l.Tree(Hash{})
		if len(c.Parents) > 0 && there[c.Parents[0]] { // else retention has cut it off: all that it holds is new
			parent, err := l.Commit(ctx, c.Parents[0])
			if err != nil {
				return err
			}
			before = l.Tree(parent.Tree)
		}
		for _, prefix := range prefixes {
			if err := l.came(ctx, before, c, prefix, yield); err != nil {
				return err
			}
		}
	}
	return nil
}

// came yields what a commit holds under a prefix and the tree before did not.
func (l *Lake) came(ctx context.Context, before Tree, c Commit, prefix string, yield func(Held) error) error {
	// Not Tree.Diff: entries that only lie elsewhere are other contents here.
	for ch, err := range prolly.Diff(ctx, before.mapping(), l.Tree(c.Tree).mapping(), prolly.Prefix([]byte(prefix))) {
		if err != nil {
			return err
		}
		if ch.After == nil {
			continue
		}
		e, err := l.entry(string(ch.Key), ch.After)
		if err == nil {
			err = yield(Held{Key: string(ch.Key), Entry: e, Commit: c.ID})
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// Forgotten is what came of forgetting.
type Forgotten struct {
	Collected
	// Spared are keys that were to be forgotten, and got the same content again meanwhile.
	Spared []string
	// Shared are keys that were not to be forgotten and have the same content, which stays with them; Elsewhere says that
	// the code of the project or a result has it.
	Shared    []string
	Elsewhere bool
}

// maxForgetRounds bounds how often a collection is done again because what is forgotten was stored again meanwhile, by
// who had read it before.
const maxForgetRounds = 4

// Forget frees contents for good, wherever commits lead to them, by a collection that keeps nothing else unreached
// either. What ends it early leaves tombstones: the next collection goes on.
func (l *Lake) Forget(ctx context.Context, tombstones []Tombstone, opt CollectOptions) (Forgotten, error) {
	var all Forgotten
	for round := 1; ; round++ {
		c := &collection{opt: opt, forgot: &Forgotten{}}
		if round == 1 {
			c.bury = tombstones
		}
		got, err := l.run(ctx, c)
		all.Commits += got.Commits
		all.Rows += got.Rows
		all.Packs += got.Packs
		all.Rewritten += got.Rewritten
		all.Blobs += got.Blobs
		all.Bytes += got.Bytes
		all.Spared = append(all.Spared, c.forgot.Spared...)
		all.Shared, all.Elsewhere = c.forgot.Shared, c.forgot.Elsewhere
		if !errors.Is(err, errUnfinished) || round == maxForgetRounds {
			return all, err
		}
	}
}

// buryAll writes the tombstones that the collection was asked for. From then on whoever commits has seen them: what a
// commit brought in between keeps its content, and is named in the result.
func (c *collection) buryAll(ctx context.Context) error {
	if len(c.bury) == 0 {
		return nil
	}
	l := c.l
	for group := range slices.Chunk(c.bury, rowsAtOnce) {
		var writes []meta.Write
		for _, t := range group {
			t.Time, t.Done = c.now.UTC(), false
			writes = append(writes, meta.Set(l.graveKey(&t), mustJSON(t)))
		}
		if err := c.txn(ctx, nil, append(writes, meta.Set(l.gravesKey(), nil))); err != nil {
			return fmt.Errorf("write what is forgotten: %w", err)
		}
	}
	if err := fault.Point("lake.forget.after_bury"); err != nil {
		return err
	}
	g, err := l.readGraves(ctx)
	if err != nil {
		return err
	}
	return c.spare(ctx, g)
}

// spare takes the tombstones away whose content a branch has.
func (c *collection) spare(ctx context.Context, g *graves) error {
	l := c.l
	for ref, err := range l.Branches(ctx) {
		if err != nil {
			return err
		}
		head, err := l.Commit(ctx, ref.Commit)
		if err != nil {
			return err
		}
		for _, t := range g.pending() {
			data, ok, err := l.Tree(head.Tree).mapping().Get(ctx, []byte(t.Key))
			if err != nil {
				return err
			}
			if !ok {
				continue
			}
			e, err := decodeAt(t.Key, data)
			if err != nil {
				return err
			}
			if contentOf(e) != t.Content {
				continue
			}
			delete(g.entries, grave{t.Key, t.Content})
			c.forgot.Spared = append(c.forgot.Spared, t.Key)
			if err := c.txn(ctx, nil, []meta.Write{meta.Delete(l.graveKey(t)), meta.Set(l.gravesKey(), nil)}); err != nil {
				return err
			}
		}
	}
	if len(c.forgot.Spared) == 0 {
		return nil
	}
	_, err := l.readGraves(ctx)
	return err
}

// cleaned returns a leaf of a tree without the contents in it that were forgotten, nil for one that has none. The
// contents become zeros: every length, and so every border between nodes, stays.
func (g *graves) cleaned(data []byte) ([]byte, error) {
	if len(g.entries) == 0 {
		return nil, nil
	}
	return prolly.Rewrite(data, func(it prolly.Item) ([]byte, error) {
		e, err := decodeAt(string(it.Key), it.Value)
		if err != nil {
			return nil, err
		}
		inline := e.Location.Ref.Inline
		if g.find(string(it.Key), e) == nil || isZero(inline) {
			return nil, nil
		}
		clear(inline)
		return encodeEntry(e)
	})
}

// replace stores what is read from now on in place of the objects in which something forgotten was found.
func (c *collection) replace(ctx context.Context, m *Mark) error {
	if len(m.cleaned) == 0 || c.turn == nil {
		return nil
	}
	c.say("replacing %d objects", len(m.cleaned))
	l := c.l
	for group := range slices.Chunk(slices.SortedFunc(maps.Keys(m.cleaned), compareHashes), rowsAtOnce) {
		p := newPack(nil)
		var writes []meta.Write
		for _, h := range group {
			o := m.cleaned[h]
			as := HashOf(o.typ, o.data)
			stored, codec := encode(o.data, nil)
			p.add(as, o.typ, stored, codec, len(o.data))
			writes = append(writes, meta.Set(l.graveObjectKey(h), []byte(as.String())))
		}
		p.finish(randomNonce())
		if err := l.blobs.Put(ctx, packBlob(p.name), bytes.NewReader(p.data)); err != nil {
			return err
		}
		row := packRow{State: packLive, Size: int64(len(p.data)), Objects: len(p.places)}
		writes = append(writes, meta.Set(l.packKey(p.name), mustJSON(row)), meta.Set(l.gravesKey(), nil))
		if err := c.txn(ctx, []meta.Condition{meta.Absent(l.packKey(p.name))}, writes); err != nil {
			return err
		}
	}
	if err := fault.Point("lake.forget.after_replace"); err != nil {
		return err
	}
	if err := l.refreshNow(ctx); err != nil {
		return err
	}
	var err error
	if m.graves, err = l.readGraves(ctx); err != nil {
		return err
	}
	for h, o := range m.cleaned {
		m.unmark(o.location)
		if _, _, err := m.object(ctx, o.typ, m.graves.objects[h]); err != nil {
			return err
		}
	}
	return nil
}

// forgotten ends a collection that has freed what was to be forgotten.
func (c *collection) forgotten(ctx context.Context, m *Mark) error {
	if len(m.cleaned) > 0 || m.leftover {
		return errUnfinished.Errorf("contents that are forgotten were stored again meanwhile")
	}
	if c.damaged != nil {
		return errUnfinished.Errorf("a damaged pack stays, which may hold what is forgotten: %w", c.damaged).WithNext("tarn fsck --deep")
	}
	if err := fault.Point("lake.forget.before_done"); err != nil {
		return err
	}
	if c.forgot != nil {
		c.forgot.Shared, c.forgot.Elsewhere = slices.Sorted(maps.Keys(m.shared)), m.elsewhere
	}
	l := c.l
	for group := range slices.Chunk(m.graves.pending(), rowsAtOnce) {
		var conditions []meta.Condition
		var writes []meta.Write
		for _, t := range group {
			done := *t
			done.Done = true
			conditions = append(conditions, meta.Exists(l.graveKey(t)))
			writes = append(writes, meta.Set(l.graveKey(t), mustJSON(done)))
		}
		err := c.txn(ctx, conditions, append(writes, meta.Set(l.gravesKey(), nil)))
		if errors.Is(err, meta.ErrConditionFailed) { // one was stored again
			err = errUnfinished
		}
		if err != nil {
			return err
		}
	}
	l.cache.purge()
	_, err := l.readGraves(ctx)
	return err
}

// errUnfinished ends a collection after which something is left that was to be forgotten; the next one goes on.
var errUnfinished = errdef.New(errdef.Unavailable, "lake.forget_unfinished", "not all is gone that was to be forgotten")
