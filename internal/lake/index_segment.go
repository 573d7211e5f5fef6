package lake

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io"
	"iter"
	"math/bits"
	"strings"

	"github.com/zeebo/blake3"
	"golang.org/x/sync/errgroup"

	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/blob"
)

// The index segment format, version 1: docs/formats/pack.md.
const (
	segmentMagic    = "TARNIX1\n"
	segmentEndMagic = "TARNIE1\n"
	segmentEntry    = packEntry + 4                           // a place and the number of its pack
	segmentTrailer  = 8 + 8 + HashSize + len(segmentEndMagic) // entries, tables offset, checksum, magic
	segmentPrefix   = "index/"

	bucketSize   = 64 // entries, on average
	maxFanBits   = 24
	bucketSum    = 8 // bytes of a bucket's checksum
	bloomBits    = 10
	bloomProbes  = 7
	bloomAlign   = 64
	maxTableSize = 1 << 30
)

// segment is an immutable list of places in many packs, sorted by hash. Entries stay in the blob, in
// buckets by the first bits of the hash; what is in memory is under 3 bytes an entry.
type segment struct {
	name    string
	entries int64
	packs   []Hash
	fanBits int
	ends    []uint32 // per bucket: number of entries in it and all before
	sums    []byte   // per bucket: its checksum
	bloom   bloom
}

// segmentError says that a segment is missing or corrupt.
type segmentError struct {
	segment string
	err     error
}

func (e *segmentError) Error() string { return "index segment " + e.segment + ": " + e.err.Error() }

func (e *segmentError) Unwrap() error { return e.err }

// bloom answers "certainly not here" for most hashes that are not: a put of new data asks that for every
// object and segment.
type bloom []byte

func newBloom(entries int64) bloom {
	n := max(entries*bloomBits, bloomAlign)
	return make(bloom, (n+bloomAlign-1)/bloomAlign*(bloomAlign/8))
}

// bit is the i-th probe: the hash is uniform, so two of its words serve for any number of probes.
func (f bloom) bit(h Hash, i int) uint64 {
	a, b := binary.BigEndian.Uint64(h[8:]), binary.BigEndian.Uint64(h[16:])
	at, _ := bits.Mul64(a+uint64(i)*(b|1), uint64(len(f))*8)
	return at
}

func (f bloom) add(h Hash) {
	for i := range bloomProbes {
		at := f.bit(h, i)
		f[at/8] |= 1 << (at % 8)
	}
}

func (f bloom) mayHave(h Hash) bool {
	for i := range bloomProbes {
		if at := f.bit(h, i); f[at/8]&(1<<(at%8)) == 0 {
			return false
		}
	}
	return true
}

func fanBitsFor(entries int64) int {
	n := bits.Len64(uint64(entries / bucketSize))
	return min(n, maxFanBits)
}

func bucketOf(h Hash, fanBits int) int {
	return int(binary.BigEndian.Uint32(h[:]) >> (32 - fanBits))
}

var segmentHasher = blake3.NewDeriveKey("tarn.dev 2026 lake index segment v1")

func segmentSum(data []byte) (h Hash) {
	hasher := segmentHasher.Clone()
	_, _ = hasher.Write(data) // never fails
	hasher.Sum(h[:0])
	return h
}

func segmentBlob(name string) string { return segmentPrefix + name }

// randomSegmentName: like a pack's, a segment's name is used once.
func randomSegmentName() string {
	var n [16]byte
	_, _ = rand.Read(n[:]) // never fails
	return hex.EncodeToString(n[:])
}

// segmentWriter writes a segment while its entries come.
type segmentWriter struct {
	w       *bufio.Writer
	written int64
	packs   map[Hash]uint32
	s       segment
	bucket  []byte
	current int
}

// writeSegment writes the locations, sorted by hash and at most limit of them, to w.
func writeSegment(w io.Writer, packs []Hash, limit int64, locations iter.Seq2[location, error]) (*segment, int64, error) {
	sw := &segmentWriter{w: bufio.NewWriterSize(w, 256<<10), packs: map[Hash]uint32{}}
	fanBits := fanBitsFor(limit)
	sw.s = segment{packs: packs, fanBits: fanBits, ends: make([]uint32, 1<<fanBits), sums: make([]byte, bucketSum<<fanBits), bloom: newBloom(limit)}
	for i, p := range packs {
		sw.packs[p] = uint32(i)
	}
	if err := sw.write([]byte(segmentMagic)); err != nil {
		return nil, 0, err
	}
	for loc, err := range locations {
		if err != nil {
			return nil, 0, err
		}
		if err := sw.add(loc); err != nil {
			return nil, 0, err
		}
	}
	if err := sw.finish(); err != nil {
		return nil, 0, err
	}
	return &sw.s, sw.written, nil
}

func (w *segmentWriter) write(b []byte) error {
	n, err := w.w.Write(b)
	w.written += int64(n)
	return err
}

func (w *segmentWriter) add(loc location) error {
	for b := bucketOf(loc.hash, w.s.fanBits); w.current < b; {
		if err := w.closeBucket(); err != nil {
			return err
		}
	}
	w.bucket = appendPlace(w.bucket, loc.place)
	w.bucket = binary.BigEndian.AppendUint32(w.bucket, w.packs[loc.pack])
	w.s.bloom.add(loc.hash)
	w.s.entries++
	return nil
}

func (w *segmentWriter) closeBucket() error {
	sum := segmentSum(w.bucket)
	copy(w.s.sums[w.current*bucketSum:], sum[:bucketSum])
	w.s.ends[w.current] = uint32(w.s.entries)
	w.current++
	err := w.write(w.bucket)
	w.bucket = w.bucket[:0]
	return err
}

func (w *segmentWriter) finish() error {
	for w.current < len(w.s.ends) {
		if err := w.closeBucket(); err != nil {
			return err
		}
	}
	tail := w.s.appendTables(nil)
	tail = binary.BigEndian.AppendUint64(tail, uint64(w.s.entries))
	tail = binary.BigEndian.AppendUint64(tail, uint64(w.written))
	sum := segmentSum(tail)
	tail = append(tail, sum[:]...)
	tail = append(tail, segmentEndMagic...)
	if err := w.write(tail); err != nil {
		return err
	}
	return w.w.Flush()
}

func (s *segment) appendTables(b []byte) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(len(s.packs)))
	for _, p := range s.packs {
		b = append(b, p[:]...)
	}
	b = append(b, byte(s.fanBits))
	for _, end := range s.ends {
		b = binary.BigEndian.AppendUint32(b, end)
	}
	b = append(b, s.sums...)
	b = binary.BigEndian.AppendUint32(b, uint32(len(s.bloom)/(bloomAlign/8)))
	return append(b, s.bloom...)
}

// openSegment reads a segment's tables; an error of the segment itself is a *segmentError.
func openSegment(ctx context.Context, blobs blob.Store, name string, size int64) (*segment, error) {
	bad := func(why string) error { return &segmentError{name, ErrCorrupt.Errorf("%s", why)} }
	if size < int64(len(segmentMagic)+segmentTrailer) {
		return nil, bad("it cannot be of that size")
	}
	trailer, err := readBlob(ctx, blobs, segmentBlob(name), size-int64(segmentTrailer), int64(segmentTrailer))
	if err != nil {
		return nil, classifySegment(name, err)
	}
	if len(trailer) != segmentTrailer || string(trailer[segmentTrailer-len(segmentEndMagic):]) != segmentEndMagic {
		return nil, bad("its end is missing")
	}
	s := &segment{name: name, entries: int64(binary.BigEndian.Uint64(trailer))}
	offset := int64(binary.BigEndian.Uint64(trailer[8:]))
	length := size - int64(len(segmentEndMagic)) - HashSize - offset // the tables and the numbers behind them
	if s.entries < 0 || s.entries > size/segmentEntry || offset != int64(len(segmentMagic))+s.entries*segmentEntry || length < 16 || length > maxTableSize {
		return nil, bad("its trailer contradicts its size")
	}
	tables, err := readBlob(ctx, blobs, segmentBlob(name), offset, length)
	if err != nil {
		return nil, classifySegment(name, err)
	}
	if int64(len(tables)) != length || segmentSum(tables) != Hash(trailer[16:16+HashSize]) {
		return nil, bad("its tables are not what was written")
	}
	if !s.parseTables(tables[:len(tables)-16]) {
		return nil, bad("its tables are malformed")
	}
	return s, nil
}

func (s *segment) parseTables(b []byte) bool {
	take := func(n int64) (part []byte) {
		if n > int64(len(b)) {
			b = nil
			return nil
		}
		part, b = b[:n], b[n:]
		return part
	}
	count := take(4)
	if count == nil {
		return false
	}
	packs := take(int64(binary.BigEndian.Uint32(count)) * HashSize)
	for ; len(packs) > 0; packs = packs[HashSize:] {
		s.packs = append(s.packs, Hash(packs[:HashSize]))
	}
	fan := take(1)
	if fan == nil || fan[0] > maxFanBits {
		return false
	}
	s.fanBits = int(fan[0])
	var last uint32
	for ends := take(4 << s.fanBits); len(ends) > 0; ends = ends[4:] {
		end := binary.BigEndian.Uint32(ends)
		if end < last {
			return false
		}
		s.ends, last = append(s.ends, end), end
	}
	s.sums = take(bucketSum << s.fanBits)
	words := take(4)
	if words == nil {
		return false
	}
	s.bloom = take(int64(binary.BigEndian.Uint32(words)) * (bloomAlign / 8))
	return len(s.ends) == 1<<s.fanBits && s.sums != nil && len(s.bloom) > 0 && len(b) == 0 && int64(last) == s.entries
}

// classifySegment marks what speaks of the segment and not of the way to it.
func classifySegment(name string, err error) error {
	if errors.Is(err, blob.ErrNotFound) || errdef.IsCorrupt(err) {
		return &segmentError{name, err}
	}
	return err
}

// find returns every place of h.
func (s *segment) find(ctx context.Context, l *Lake, h Hash) ([]location, error) {
	if !s.bloom.mayHave(h) {
		return nil, nil
	}
	bucket, err := s.bucket(ctx, l, bucketOf(h, s.fanBits))
	if err != nil {
		return nil, err
	}
	lo, hi := 0, len(bucket)/segmentEntry
	for lo < hi {
		mid := (lo + hi) / 2
		if bytes.Compare(bucket[mid*segmentEntry:][:HashSize], h[:]) < 0 {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	var hits []location
	for b := bucket[lo*segmentEntry:]; len(b) > 0 && Hash(b[:HashSize]) == h; b = b[segmentEntry:] {
		loc, err := s.location(b)
		if err != nil {
			return nil, err
		}
		hits = append(hits, loc)
	}
	return hits, nil
}

func (s *segment) location(b []byte) (location, error) {
	n := binary.BigEndian.Uint32(b[packEntry:])
	if int64(n) >= int64(len(s.packs)) {
		return location{}, &segmentError{s.name, ErrCorrupt.Errorf("it names pack %d of %d", n, len(s.packs))}
	}
	return location{s.packs[n], parsePlace(b)}, nil
}

type bucketKey struct {
	segment *segment
	bucket  int
}

func (s *segment) bucket(ctx context.Context, l *Lake, i int) ([]byte, error) {
	key := bucketKey{s, i}
	if b, ok := l.index.buckets.Get(key); ok {
		return b, nil
	}
	offset, length := s.span(i)
	b, err := readBlob(ctx, l.blobs, segmentBlob(s.name), offset, length)
	if err != nil {
		return nil, classifySegment(s.name, err)
	}
	if err := s.checkBucket(i, b); err != nil {
		return nil, err
	}
	l.index.buckets.Add(key, b)
	return b, nil
}

// span is where the blob has a bucket.
func (s *segment) span(i int) (offset, length int64) {
	var begin int64
	if i > 0 {
		begin = int64(s.ends[i-1])
	}
	return int64(len(segmentMagic)) + begin*segmentEntry, (int64(s.ends[i]) - begin) * segmentEntry
}

func (s *segment) checkBucket(i int, b []byte) error {
	sum := segmentSum(b)
	if _, length := s.span(i); int64(len(b)) != length || !bytes.Equal(sum[:bucketSum], s.sums[i*bucketSum:][:bucketSum]) {
		return &segmentError{s.name, ErrCorrupt.Errorf("bucket %d is not what was written", i)}
	}
	return nil
}

// all yields every location in order, reading the blob once.
func (s *segment) all(ctx context.Context, blobs blob.Store) iter.Seq2[location, error] {
	return func(yield func(location, error) bool) {
		r, err := blobs.Get(ctx, segmentBlob(s.name), int64(len(segmentMagic)), s.entries*segmentEntry)
		if err != nil {
			yield(location{}, classifySegment(s.name, err))
			return
		}
		defer r.Close() //nolint:errcheck // read only, and every byte is checked
		buffered := bufio.NewReaderSize(r, 256<<10)
		var bucket []byte
		for i := range s.ends {
			_, length := s.span(i)
			bucket = append(bucket[:0], make([]byte, length)...)
			if _, err := io.ReadFull(buffered, bucket); err != nil {
				if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
					err = &segmentError{s.name, ErrCorrupt.Errorf("it is shorter than it was")}
				}
				yield(location{}, err)
				return
			}
			if err := s.checkBucket(i, bucket); err != nil {
				yield(location{}, err)
				return
			}
			for b := bucket; len(b) > 0; b = b[segmentEntry:] {
				loc, err := s.location(b)
				if !yield(loc, err) || err != nil {
					return
				}
			}
		}
	}
}

// openSegments returns the segments of rows, those already open as they are. A segment that cannot be
// read is unusable, not an error: its packs are loose then.
func (l *Lake) openSegments(ctx context.Context, rows map[string]segmentRow) ([]*segment, map[string]bool, error) {
	l.index.mu.RLock()
	unusable := map[string]bool{}
	known := map[string]*segment{}
	for _, s := range l.index.segments {
		known[s.name] = s
	}
	for name := range l.index.unusable {
		if _, ok := rows[name]; ok {
			unusable[name] = true
		}
	}
	l.index.mu.RUnlock()
	opened := make([]*segment, 0, len(rows))
	var missing []string
	for name := range rows {
		if s := known[name]; s != nil {
			opened = append(opened, s)
		} else if !unusable[name] {
			missing = append(missing, name)
		}
	}
	results, failed := make([]*segment, len(missing)), make([]error, len(missing))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(8)
	for i, name := range missing {
		g.Go(func() error {
			results[i], failed[i] = openSegment(gctx, l.blobs, name, rows[name].Size)
			if bad := (*segmentError)(nil); failed[i] != nil && !errors.As(failed[i], &bad) {
				return failed[i]
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return nil, nil, err
	}
	for i, name := range missing {
		if failed[i] != nil {
			unusable[name] = true
		} else {
			opened = append(opened, results[i])
		}
	}
	return opened, unusable, nil
}

// IndexRow and IndexBlob tell what holds a lake's index, which is made anew from the packs: a row by its key below the lake's prefix.
func IndexRow(key string) bool { return strings.HasPrefix(key, "packs/s/") }

// IndexBlob tells it of a blob.
func IndexBlob(name string) bool { return strings.HasPrefix(name, segmentPrefix) }
