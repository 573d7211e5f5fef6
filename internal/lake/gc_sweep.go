package lake

import (
	"bytes"
	"context"
	"errors"
	"maps"
	"slices"

	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/base/fault"
	"tarn.dev/tarn/internal/blob"
	"tarn.dev/tarn/internal/meta"
)

// sweep frees what m, which was marked after the wait, does not reach.
func (c *collection) sweep(ctx context.Context, m *Mark) error {
	c.say("freeing")
	if err := c.sweepUnnamed(ctx); err != nil {
		return err
	}
	if err := c.sweepBlobs(ctx, m); err != nil {
		return err
	}
	if err := c.sweepPacks(ctx, m); err != nil {
		return err
	}
	if err := c.l.refreshNow(ctx); err != nil {
		return err
	}
	return c.sweepSegments(ctx)
}

// sweepUnnamed deletes packs and segments that had no row when the epoch began, and have none now that
// everybody who could have written one has ended.
func (c *collection) sweepUnnamed(ctx context.Context) error {
	return c.l.unnamed(ctx, func(info blob.Info) {
		if _, before := c.unnamed[info.Name]; before {
			c.garbage = append(c.garbage, info)
		}
	})
}

// sweepBlobs deletes the blobs that only references lead to, and that none does.
func (c *collection) sweepBlobs(ctx context.Context, m *Mark) error {
	for _, info := range c.garbage {
		if m.HasBlob(info.Name) {
			continue
		}
		if err := c.delete(ctx, info.Name); err != nil {
			return err
		}
		c.got.Blobs++
		c.got.Bytes += info.Size
	}
	return nil
}

func (c *collection) delete(ctx context.Context, name string) error {
	if err := c.l.blobs.Delete(ctx, name); err != nil && !errors.Is(err, blob.ErrNotFound) {
		return err
	}
	return nil
}

// leaving is a condemned pack on its way out.
type leaving struct {
	name Hash
	info packInfo
}

// sweepPacks ends the condemnation of every pack: it goes, what is reached in it is copied before, or it
// is live again. A pack with an object that is damaged stays for fsck to find; it is still readable.
func (c *collection) sweepPacks(ctx context.Context, m *Mark) error {
	packs, _, err := c.l.scanPacks(ctx)
	if err != nil {
		return err
	}
	s := packSweep{c: c}
	for _, name := range slices.SortedFunc(maps.Keys(packs), compareHashes) {
		info := packs[name]
		if info.State != packCondemned {
			continue
		}
		err := s.pack(ctx, m, leaving{name, info})
		if errdef.IsCorrupt(err) {
			c.say("pack %s stays, it is damaged: %v", name, err)
			c.damaged = err
			continue
		}
		if err != nil {
			return err
		}
	}
	return s.flush(ctx)
}

// packSweep moves what is reached in some packs into one, and then lets them go together.
type packSweep struct {
	c    *collection
	next *pack
	out  []leaving
}

func (s *packSweep) pack(ctx context.Context, m *Mark, p leaving) error {
	l := s.c.l
	places, err := readFooter(ctx, l.blobs, p.name, p.info.Size)
	if err != nil {
		return err
	}
	reached := slices.DeleteFunc(slices.Clone(places), func(at place) bool { return !m.has(p.name, at) })
	if !s.c.leaves(m, p.name, p.info.packRow) {
		return s.reprieve(ctx, p)
	}
	var copies [][]byte
	for _, at := range reached {
		stored, err := readBlob(ctx, l.blobs, packBlob(p.name), int64(at.offset), int64(at.stored))
		if err != nil {
			return missingPack(p.name, err)
		}
		if _, err := openObject(location{p.name, at}, stored); err != nil { // damage is not handed on
			return err
		}
		copies = append(copies, stored)
	}
	if s.next == nil && len(copies) > 0 {
		s.next = newPack(nil)
	}
	for i, at := range reached {
		s.next.add(at.hash, at.typ, copies[i], at.codec, int(at.raw))
	}
	if len(copies) > 0 {
		s.c.got.Rewritten++
	}
	s.out = append(s.out, p)
	if len(s.out) >= rowsAtOnce || s.next != nil && len(s.next.data) >= l.opt.PackBytes {
		return s.flush(ctx)
	}
	return nil
}

// reprieve makes a pack live again: it turned out to be in use.
func (s *packSweep) reprieve(ctx context.Context, p leaving) error {
	row := p.info.packRow
	row.State, row.Epoch = packLive, 0
	key := s.c.l.packKey(p.name)
	return s.c.txn(ctx, []meta.Condition{meta.At(key, p.info.version)}, []meta.Write{meta.Set(key, mustJSON(row))})
}

// flush swaps the rows of the packs for that of the one with what is reached in them, and deletes them.
func (s *packSweep) flush(ctx context.Context) error {
	if len(s.out) == 0 {
		return nil
	}
	c, l := s.c, s.c.l
	var conditions []meta.Condition
	var writes []meta.Write
	var freed int64
	for _, p := range s.out {
		key := l.packKey(p.name)
		conditions = append(conditions, meta.At(key, p.info.version))
		writes = append(writes, meta.Delete(key))
		freed += p.info.Size
	}
	var sealed []*sealedPack
	if s.next != nil {
		s.next.finish(randomNonce())
		if err := l.blobs.Put(ctx, packBlob(s.next.name), bytes.NewReader(s.next.data)); err != nil {
			return err
		}
		row := packRow{State: packLive, Size: int64(len(s.next.data)), Objects: len(s.next.places)}
		sealed = append(sealed, &sealedPack{s.next.name, s.next.places, row})
		conditions = append(conditions, meta.Absent(l.packKey(s.next.name)))
		writes = append(writes, meta.Set(l.packKey(s.next.name), mustJSON(row)))
		freed -= row.Size
	}
	if err := fault.Point("lake.gc.before_swap"); err != nil {
		return err
	}
	version, err := l.rows.Txn(ctx, append(c.turn.Conditions(), conditions...), writes)
	if err != nil {
		return err
	}
	l.index.register(sealed, version)
	if err := fault.Point("lake.gc.after_swap"); err != nil {
		return err
	}
	for _, p := range s.out {
		if err := c.delete(ctx, packBlob(p.name)); err != nil {
			return err
		}
	}
	c.got.Packs += len(s.out)
	c.got.Bytes += freed
	s.next, s.out = nil, nil
	return nil
}

// sweepSegments removes the index segments of whose packs none is left, and writes those anew of whose
// entries less than half are in packs that are there: so an entry that goes costs as much as copying one.
func (c *collection) sweepSegments(ctx context.Context) error {
	x := c.l.index
	x.mu.RLock()
	var dead []string
	var thin []*segment
	alive := make(map[Hash]bool, len(x.packs))
	for p := range x.packs {
		alive[p] = true
	}
	for _, s := range x.segments {
		var left int64
		for _, p := range s.packs {
			left += int64(x.packs[p].Objects)
		}
		switch {
		case left == 0:
			dead = append(dead, s.name)
		case 2*left < s.entries:
			thin = append(thin, s)
		}
	}
	x.mu.RUnlock()
	if len(dead) > 0 {
		var writes []meta.Write
		for _, name := range dead {
			writes = append(writes, meta.Delete(c.l.segmentKey(name)))
		}
		if err := c.txn(ctx, nil, writes); err != nil {
			return err
		}
		if err := errors.Join(c.l.refreshNow(ctx), c.l.deleteSegments(ctx, dead)); err != nil {
			return err
		}
	}
	if len(thin) == 0 {
		return nil
	}
	err := c.l.replaceSegments(ctx, nil, nil, thin, alive)
	if x.drop(err) { // another process was folding it
		err = c.l.refreshNow(ctx)
	}
	return err
}
