package lake

import (
	"bytes"
	"context"
	"errors"
	"maps"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"

	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/base/fault"
	"tarn.dev/tarn/internal/meta"
	"tarn.dev/tarn/internal/meta/lease"
)

// ErrDiscarded is returned by every call on a batch after Discard.
var ErrDiscarded = errdef.New(errdef.FailedPrecondition, "lake.batch_discarded", "the batch was discarded")

// ErrCollected is returned when an object that a batch counted on was deleted before the batch became
// visible: its session had expired.
var ErrCollected = errdef.New(errdef.Conflict, "lake.object_collected", "an object was garbage collected")

// Batch collects new objects into packs. Nothing it holds is visible before Flush, or before the Update
// that it belongs to, has ended. It is safe for concurrent use, but Flush and Discard come after the
// puts have returned. Its memory is bounded by a few packs and chunks, and 50 bytes or so per object.
type Batch struct {
	l       *Lake
	leave   func()          // ends the operation that the batch is
	session *lease.Session  // its condition goes into every transaction
	ctx     context.Context //nolint:containedctx // the life of the uploads, which outlive the call that starts them
	cancel  context.CancelCauseFunc
	chunks  chan struct{} // a slot is held while a file's chunk is hashed and compressed
	scratch sync.Pool

	reused atomic.Int64 // bytes of chunks that were stored already

	mu        sync.Mutex
	uploaded  sync.Cond // an upload has ended
	uploading int
	current   *pack
	seen      map[Hash]struct{} // every object put
	graves    *graves           // as of the beginning
	dug       []*Tombstone      // of entries that were put
	sealed    []*sealedPack     // durable, without a row
	kept      int64             // their bytes
	relied    map[Hash][]Hash   // packs with a row and the objects of seen in them (L4)
	spare     [][]byte          // buffers of packs that are durable
}

// sealedPack is a pack that is durable.
type sealedPack struct {
	name   Hash
	places []place
	row    packRow
}

// keepBytes is how much becomes findable without a name that leads to it, before the batch has ended: so much may have to
// be stored again when a put is killed and repeated.
const keepBytes = 64 << 20

// maxUploads packs are written at a time: one keeps the disk busy while the other is synced.
const maxUploads = 2

// Begin starts a batch. End it with Discard, after Flush or the Update that it is given to: until then
// nothing that it may rely on is deleted. The end of ctx ends its work.
func (l *Lake) Begin(ctx context.Context) *Batch {
	b := &Batch{
		l: l, leave: l.Enter(), chunks: make(chan struct{}, 2*runtime.GOMAXPROCS(0)),
		scratch: sync.Pool{New: func() any { return new([]byte) }},
		seen:    map[Hash]struct{}{}, relied: map[Hash][]Hash{}, graves: l.graves.Load(),
	}
	b.uploaded.L = &b.mu
	b.ctx, b.cancel = context.WithCancelCause(ctx)
	var err error
	if b.session, err = l.session(ctx); err != nil {
		b.cancel(err)
	}
	return b
}

// Put stores an object, unless it is stored already, and returns its name. It keeps no reference to data.
func (b *Batch) Put(ctx context.Context, t Type, data []byte) (Hash, error) {
	if !t.valid() {
		return Hash{}, errdef.Newf(errdef.InvalidArgument, "lake.bad_type", "there is no object type %d", t)
	}
	if len(data) > MaxObject {
		return Hash{}, ErrTooLarge.Errorf("a %s of %d bytes is too large: at most %d", t, len(data), MaxObject)
	}
	h := HashOf(t, data)
	known, err := b.known(ctx, h)
	if known && t == TypeChunk {
		b.reused.Add(int64(len(data)))
	}
	if known || err != nil {
		return h, err
	}
	return h, b.store(h, t, data)
}

// Reused is how many bytes of files did not have to be stored, because they were there.
func (b *Batch) Reused() int64 { return b.reused.Load() }

// Require says that what the batch makes visible names an object that was put earlier: the object must
// exist and its pack must still be live then.
func (b *Batch) Require(ctx context.Context, t Type, h Hash) error {
	b.mu.Lock()
	_, seen := b.seen[h]
	b.mu.Unlock()
	if seen {
		return nil
	}
	loc, state, err := b.l.locate(ctx, h, true)
	if err != nil {
		return err
	}
	if state == "" || loc.typ != t {
		return b.l.notFound(t, h, loc, state)
	}
	b.rely(loc.pack, h)
	return nil
}

// known reports whether h needs no storing.
func (b *Batch) known(ctx context.Context, h Hash) (bool, error) {
	if err := errors.Join(context.Cause(b.ctx), context.Cause(ctx)); err != nil {
		return false, err
	}
	b.mu.Lock()
	_, seen := b.seen[h]
	b.mu.Unlock()
	if seen {
		return true, nil
	}
	// A miss is believed: storing an object twice costs its space, reading the rows for each new one
	// would cost every put.
	loc, state, err := b.l.locate(ctx, h, false)
	if err != nil || state != packLive {
		return false, err
	}
	b.rely(loc.pack, h)
	return true, nil
}

func (b *Batch) rely(pack, h Hash) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if _, ok := b.seen[h]; !ok {
		b.seen[h] = struct{}{}
		b.relied[pack] = append(b.relied[pack], h)
	}
}

// store adds an object that is new.
func (b *Batch) store(h Hash, t Type, data []byte) error {
	scratch := b.scratch.Get().(*[]byte)
	defer b.scratch.Put(scratch)
	stored, c := encode(data, *scratch)
	if c != codecRaw {
		*scratch = stored
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if _, ok := b.seen[h]; ok {
		return nil // another goroutine was faster
	}
	b.seen[h] = struct{}{}
	return b.add(h, t, stored, c, len(data))
}

// add appends to the current pack and sends the pack off when it is full. mu is held, and given up while
// all uploads are busy: no pack begins before another is durable, which bounds the memory.
func (b *Batch) add(h Hash, t Type, stored []byte, c codec, raw int) error {
	for b.current == nil && b.uploading >= maxUploads {
		b.uploaded.Wait()
	}
	if err := context.Cause(b.ctx); err != nil {
		return err
	}
	if b.current == nil {
		var buffer []byte
		if n := len(b.spare); n > 0 {
			buffer, b.spare = b.spare[n-1], b.spare[:n-1]
		}
		b.current = newPack(buffer)
	}
	b.current.add(h, t, stored, c, raw)
	if len(b.current.data) >= b.l.opt.PackBytes {
		b.send()
	}
	return nil
}

// send starts the upload of the current pack, if there is one; mu is held. An upload that fails ends the
// batch with its error.
func (b *Batch) send() {
	if b.current == nil {
		return
	}
	p := b.current
	b.current = nil
	b.uploading++
	go func() {
		err := b.upload(p)
		if err == nil {
			err = b.keep(p)
		}
		if err != nil {
			b.cancel(err)
		}
		b.mu.Lock()
		defer b.mu.Unlock()
		b.spare = append(b.spare, p.data)
		b.uploading--
		b.uploaded.Broadcast()
	}()
}

// keep lists a pack that is durable. When many are, they get their rows.
func (b *Batch) keep(p *pack) error {
	b.mu.Lock()
	b.sealed = append(b.sealed, &sealedPack{p.name, p.places, packRow{State: packLive, Size: int64(len(p.data)), Objects: len(p.places)}})
	b.kept += int64(len(p.data))
	if b.kept < keepBytes {
		b.mu.Unlock()
		return nil
	}
	sealed := b.sealed
	b.sealed, b.kept = nil, 0
	b.mu.Unlock()
	conditions, writes := b.rowsOf(sealed)
	version, err := b.l.rows.Txn(b.ctx, conditions, writes)
	if err != nil {
		return lostSession(b.session, err)
	}
	b.list(sealed, version)
	return nil
}

// rowsOf is what makes packs findable.
func (b *Batch) rowsOf(sealed []*sealedPack) (conditions []meta.Condition, writes []meta.Write) {
	conditions = append(conditions, b.session.Condition())
	for _, p := range sealed {
		conditions = append(conditions, meta.Absent(b.l.packKey(p.name)))
		writes = append(writes, meta.Set(b.l.packKey(p.name), mustJSON(p.row)))
	}
	return conditions, writes
}

// upload makes a pack durable. If its row is never written, it is garbage that fsck reports.
func (b *Batch) upload(p *pack) error {
	p.finish(randomNonce())
	if err := fault.Point("lake.pack.before_put"); err != nil {
		return err
	}
	if err := b.l.blobs.Put(b.ctx, packBlob(p.name), bytes.NewReader(p.data)); err != nil {
		return err
	}
	return fault.Point("lake.pack.after_put")
}

// seal makes everything put so far durable and returns what a transaction must assert and write to make
// it visible; after the transaction comes settle. If the transaction fails on a condition, more may be
// put and seal called again: it then also replaces what was condemned in the meantime.
func (b *Batch) seal(ctx context.Context) ([]meta.Condition, []meta.Write, error) {
	conditions, err := b.assertRelied(ctx)
	if err != nil {
		return nil, nil, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.send()
	for b.uploading > 0 {
		b.uploaded.Wait()
	}
	if err := errors.Join(context.Cause(b.ctx), context.Cause(ctx)); err != nil {
		return nil, nil, err
	}
	rows, writes := b.rowsOf(b.sealed)
	return append(conditions, rows...), writes, nil
}

// assertRelied reads the rows of the packs in which dedup hits lie and returns the conditions that they
// do not change.
func (b *Batch) assertRelied(ctx context.Context) ([]meta.Condition, error) {
	asserted := map[Hash]meta.Condition{}
	for {
		name, ok := b.unasserted(asserted)
		if !ok {
			return slices.Collect(maps.Values(asserted)), nil
		}
		row, err := b.l.rows.Get(ctx, b.l.packKey(name))
		if err != nil && !errors.Is(err, meta.ErrNotFound) {
			return nil, err
		}
		var r packRow
		if err == nil {
			if r, err = parsePackRow(row); err != nil {
				return nil, err
			}
		}
		if r.State == packLive {
			asserted[name] = meta.At(row.Key, row.Version)
		} else if err := b.replace(ctx, name); err != nil {
			return nil, err
		}
	}
}

func (b *Batch) unasserted(asserted map[Hash]meta.Condition) (Hash, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for name := range b.relied {
		if _, ok := asserted[name]; !ok {
			return name, true
		}
	}
	return Hash{}, false
}

// replace ends the reliance on a pack that is no longer live: its objects are relied on elsewhere or
// stored again. They can still be read, because deletion waits for the sessions that began before the
// pack was condemned.
func (b *Batch) replace(ctx context.Context, name Hash) error {
	if err := b.l.refreshNow(ctx); err != nil {
		return err
	}
	b.mu.Lock()
	objects := b.relied[name]
	delete(b.relied, name)
	b.mu.Unlock()
	for _, h := range objects {
		loc, state, err := b.l.locate(ctx, h, true)
		if err != nil {
			return err
		}
		switch state {
		case packLive:
			b.mu.Lock()
			b.relied[loc.pack] = append(b.relied[loc.pack], h)
			b.mu.Unlock()
		case packCondemned:
			data, err := b.l.read(ctx, loc)
			if err != nil {
				return err
			}
			b.mu.Lock()
			delete(b.seen, h)
			b.mu.Unlock()
			if err := b.store(h, loc.typ, data); err != nil {
				return err
			}
		default:
			return ErrCollected.Errorf("%s was garbage collected before this write ended", h).
				WithNext("try again")
		}
	}
	return nil
}

// settle tells the batch that the transaction numbered version applied what seal returned. The batch can
// be used on; it now relies on the packs it has just made live.
func (b *Batch) settle(version int64) {
	b.mu.Lock()
	sealed := b.sealed
	b.sealed, b.kept = nil, 0
	b.mu.Unlock()
	b.list(sealed, version)
}

// list tells what knows of packs that the transaction numbered version has given these their rows.
func (b *Batch) list(sealed []*sealedPack, version int64) {
	b.mu.Lock()
	for _, p := range sealed {
		for _, pl := range p.places {
			b.relied[p.name] = append(b.relied[p.name], pl.hash)
		}
	}
	b.mu.Unlock()
	b.l.index.register(sealed, version)
	b.l.compactSoon()
}

// Flush makes everything put so far durable and findable, without a name that leads to it.
func (b *Batch) Flush(ctx context.Context) error {
	for {
		conditions, writes, err := b.seal(ctx)
		if err != nil {
			return err
		}
		if len(writes) == 0 {
			return nil
		}
		version, err := b.l.rows.Txn(ctx, conditions, writes)
		if err == nil {
			b.settle(version)
			return nil
		}
		// Else garbage collection condemned a pack, once each: this ends.
		if err := lostSession(b.session, err); !errors.Is(err, meta.ErrConditionFailed) || errors.Is(err, lease.ErrLost) {
			return err
		}
	}
}

// forget lets go of the names of objects that Flush has made findable: the index knows them. What the batch relies on
// it still does.
func (b *Batch) forget() {
	b.mu.Lock()
	defer b.mu.Unlock()
	clear(b.seen)
}

// Discard ends the batch and forgets what was not flushed. Discarding twice, or after Flush, is no error; it also ends the operation that the batch is.
func (b *Batch) Discard() {
	b.cancel(ErrDiscarded)
	b.mu.Lock()
	defer b.mu.Unlock()
	for b.uploading > 0 {
		b.uploaded.Wait()
	}
	b.current, b.sealed, b.spare = nil, nil, nil
	b.leave()
}
