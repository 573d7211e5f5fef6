package lake

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"strings"

	"github.com/zeebo/blake3"

	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/blob"
	"tarn.dev/tarn/internal/meta"
)

// digest sums a set of places, whatever their order: it tells whether a segment lists what a footer
// lists without having both in memory.
type digest struct {
	count int64
	sum   uint64
}

func (d *digest) add(p place) {
	sum := blake3.Sum256(appendPlace(nil, p))
	d.count++
	d.sum += binary.BigEndian.Uint64(sum[:])
}

// packs verifies every pack, every segment, and counts the blobs that nothing names.
func (f *fsck) packs(ctx context.Context) error {
	if err := f.found("fsck.pack_row", f.l.packsPrefix(), f.l.refreshNow(ctx)); err != nil {
		return err
	}
	packs, segments, err := f.l.scanPacks(ctx)
	if err != nil {
		return f.found("fsck.pack_row", f.l.packsPrefix(), err)
	}
	digests := map[Hash]digest{}
	for name, info := range packs {
		d, err := f.pack(ctx, name, info.packRow)
		if err != nil && !f.l.rowGone(ctx, f.l.packKey(name)) {
			if err := f.found("fsck.pack", packBlob(name), err); err != nil {
				return err
			}
			continue
		}
		digests[name] = d
		f.stats.Packs++
		f.stats.Objects += d.count
		f.stats.Bytes += info.Size
	}
	for name, row := range segments {
		err := f.segment(ctx, name, row, packs, digests)
		if err != nil && !f.l.rowGone(ctx, f.l.segmentKey(name)) {
			if err := f.found("fsck.index", segmentBlob(name), err); err != nil {
				return err
			}
		}
	}
	return f.garbage(ctx)
}

// rowGone reports whether a row that was scanned has been deleted since: then what it named may be gone.
func (l *Lake) rowGone(ctx context.Context, key string) bool {
	_, err := l.rows.Get(ctx, key)
	return errors.Is(err, meta.ErrNotFound)
}

// pack verifies one pack and returns what its footer lists.
func (f *fsck) pack(ctx context.Context, name Hash, row packRow) (d digest, err error) {
	info, err := f.l.blobs.Stat(ctx, packBlob(name))
	if err != nil {
		return d, missingPack(name, err)
	}
	if info.Size != row.Size {
		return d, ErrCorrupt.Errorf("pack %s has %d bytes, its row says %d", name, info.Size, row.Size)
	}
	places, err := readFooter(ctx, f.l.blobs, name, row.Size)
	if err != nil {
		return d, err
	}
	if len(places) != row.Objects {
		return d, ErrCorrupt.Errorf("pack %s has %d objects, its row says %d", name, len(places), row.Objects)
	}
	for _, p := range places {
		d.add(p)
	}
	if !f.opt.Deep {
		return d, nil
	}
	data, err := readBlob(ctx, f.l.blobs, packBlob(name), 0, row.Size)
	if err != nil {
		return d, missingPack(name, err)
	}
	if int64(len(data)) != row.Size || string(data[:packHeader]) != packMagic {
		return d, ErrCorrupt.Errorf("pack %s does not begin as a pack", name)
	}
	var errs []error
	for _, p := range places {
		_, err := openObject(location{name, p}, data[p.offset:p.offset+p.stored])
		errs = append(errs, err)
	}
	return d, errors.Join(errs...)
}

// segment verifies that a segment lists, of every pack it covers that is still there, exactly what the
// pack's footer lists.
func (f *fsck) segment(ctx context.Context, name string, row segmentRow, packs map[Hash]packInfo, footers map[Hash]digest) error {
	s, err := openSegment(ctx, f.l.blobs, name, row.Size)
	if err != nil {
		return err
	}
	if s.entries != row.Objects || len(s.packs) != row.Packs {
		return ErrCorrupt.Errorf("segment %s has %d objects of %d packs, its row says %d of %d", name, s.entries, len(s.packs), row.Objects, row.Packs)
	}
	listed := map[Hash]digest{}
	var last location
	for loc, err := range s.all(ctx, f.l.blobs) {
		if err != nil {
			return err
		}
		if compareLocations(last, loc) > 0 {
			return ErrCorrupt.Errorf("segment %s is not sorted at %s", name, loc.hash)
		}
		if !s.bloom.mayHave(loc.hash) {
			return ErrCorrupt.Errorf("segment %s would not find %s", name, loc.hash)
		}
		last = loc
		d := listed[loc.pack]
		d.add(loc.place)
		listed[loc.pack] = d
	}
	for _, p := range s.packs {
		want, readable := footers[p]
		if _, there := packs[p]; there && readable && listed[p] != want {
			return ErrCorrupt.Errorf("segment %s lists %d objects of pack %s, its footer lists %d, or other ones", name, listed[p].count, p, want.count)
		}
	}
	return nil
}

// garbage counts the blobs that no row names: what a crash left between a blob and its row, or what a
// writer is about to name. They harm nothing.
func (f *fsck) garbage(ctx context.Context) error {
	return f.l.unnamed(ctx, func(info blob.Info) {
		f.stats.Garbage++
		f.stats.GarbageBytes += info.Size
	})
}

// unnamed visits the packs and index segments that no row names.
func (l *Lake) unnamed(ctx context.Context, visit func(blob.Info)) error {
	for _, dir := range []string{packPrefix, segmentPrefix} {
		for info, err := range l.blobs.List(ctx, dir) {
			if err != nil {
				return err
			}
			named, err := l.named(ctx, info.Name)
			if err != nil {
				return err
			}
			if !named {
				visit(info)
			}
		}
	}
	return nil
}

func (l *Lake) named(ctx context.Context, blobName string) (bool, error) {
	key := ""
	if name, ok := strings.CutPrefix(blobName, segmentPrefix); ok {
		key = l.segmentKey(name)
	} else if name, err := ParseHash(blobName[strings.LastIndexByte(blobName, '/')+1:]); err == nil && packBlob(name) == blobName {
		key = l.packKey(name)
	} else {
		return false, nil
	}
	_, err := l.rows.Get(ctx, key)
	if errors.Is(err, meta.ErrNotFound) {
		return false, nil
	}
	return err == nil, err
}

// CheckFile verifies that all parts of a file are there, with the sizes they are listed with; deep reads
// the content as well.
func (l *Lake) CheckFile(ctx context.Context, ref FileRef, deep bool) (err error) {
	r, err := l.OpenFile(ctx, ref)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	if deep {
		whole := blake3.New()
		if _, err := io.Copy(whole, r); err != nil {
			return err
		}
		if got := Hash(whole.Sum(nil)); got != ref.Hash {
			return ErrCorrupt.Errorf("the file's content has the hash %s, its entry says %s", got, ref.Hash)
		}
		return nil
	}
	chunks, ok := r.(*fileReader)
	for pos := int64(0); ok && pos < ref.Size; {
		s, err := chunks.find(pos)
		if err != nil {
			return err
		}
		loc, state, err := l.locate(ctx, s.hash, true)
		if err != nil {
			return err
		}
		if state == "" || loc.typ != TypeChunk || int64(loc.raw) != s.size {
			return ErrCorrupt.Errorf("chunk %s, %d bytes at offset %d of the file, is not there", s.hash, s.size, s.start)
		}
		pos = s.end()
	}
	return nil
}

// rebuildEntries bounds the memory of RebuildIndex.
const rebuildEntries = 1 << 20

// RebuildIndex writes the index anew from the footers of all packs (L5). Packs that cannot be read are
// left out; Fsck names them.
func (l *Lake) RebuildIndex(ctx context.Context) error {
	packs, rows, err := l.scanPacks(ctx)
	if err != nil {
		return err
	}
	old := map[string]bool{}
	for name := range rows {
		old[name] = true
	}
	for info, err := range l.blobs.List(ctx, segmentPrefix) {
		if err != nil {
			return err
		}
		old[strings.TrimPrefix(info.Name, segmentPrefix)] = true
	}
	var (
		writes    []meta.Write
		group     []Hash
		locations []location
	)
	fold := func() error {
		if len(group) == 0 {
			return nil
		}
		name := randomSegmentName()
		row, err := l.putSegmentOf(ctx, name, group, locations)
		writes = append(writes, meta.Set(l.segmentKey(name), mustJSON(row)))
		group, locations = nil, locations[:0]
		return err
	}
	for name, info := range packs {
		places, err := readFooter(ctx, l.blobs, name, info.Size)
		if errdef.IsCorrupt(err) {
			continue
		}
		if err != nil {
			return err
		}
		group = append(group, name)
		for _, p := range places {
			locations = append(locations, location{name, p})
		}
		if len(locations) >= rebuildEntries {
			if err := fold(); err != nil {
				return err
			}
		}
	}
	if err := fold(); err != nil {
		return err
	}
	for name := range rows {
		writes = append(writes, meta.Delete(l.segmentKey(name)))
	}
	if len(writes) > 0 {
		if _, err := l.rows.Txn(ctx, nil, writes); err != nil {
			return err
		}
	}
	if err := l.refreshNow(ctx); err != nil {
		return err
	}
	var errs []error
	for name := range old {
		if !l.rowGone(ctx, l.segmentKey(name)) {
			continue // another process has just written it
		}
		if err := l.blobs.Delete(ctx, segmentBlob(name)); err != nil && !errors.Is(err, blob.ErrNotFound) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
