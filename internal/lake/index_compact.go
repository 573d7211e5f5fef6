package lake

import (
	"cmp"
	"context"
	"errors"
	"io"
	"iter"
	"log/slog"
	"slices"

	"tarn.dev/tarn/internal/base/fault"
	"tarn.dev/tarn/internal/blob"
	"tarn.dev/tarn/internal/meta"
)

// When loose packs are folded into a segment. Opening a lake reads the footer of each, and their objects
// are in memory: both stay small.
const (
	maxLoosePacks   = 32
	maxLooseObjects = 1 << 16
)

// compactSoon folds loose packs into a segment in the background if there are many. One such work runs at
// a time; that it fails costs speed only, and the next batch tries again.
func (l *Lake) compactSoon() {
	x := l.index
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.compacting || len(x.footers) < maxLoosePacks && len(x.loose) < maxLooseObjects || context.Cause(l.stopped) != nil {
		return
	}
	x.compacting = true
	l.background.Add(1)
	go func() {
		defer l.background.Done()
		defer l.Enter()()
		err := l.compact(l.stopped)
		x.mu.Lock()
		x.compacting = false
		x.mu.Unlock()
		if err != nil && !errors.Is(err, ErrClosed) {
			slog.Warn("folding the lake's index", "prefix", l.prefix, "error", err)
		}
	}()
}

// compact folds the index once. Another process may be faster and take away a segment that is being
// read; then it is done again with what there is now.
func (l *Lake) compact(ctx context.Context) error {
	for {
		err := l.fold(ctx)
		if !l.index.drop(err) {
			return err
		}
		if err := l.refreshNow(ctx); err != nil {
			return err
		}
	}
}

// fold writes one segment over all loose packs and over the segments that are not much larger, so
// that sizes grow geometrically: there are O(log n) segments, and an entry is rewritten O(log n) times.
func (l *Lake) fold(ctx context.Context) error {
	x := l.index
	x.mu.RLock()
	packs := make([]Hash, 0, len(x.footers))
	var loose []location
	for name, places := range x.footers {
		packs = append(packs, name)
		for _, p := range places {
			loose = append(loose, location{name, p})
		}
	}
	segments := slices.SortedFunc(slices.Values(x.segments), func(a, b *segment) int { return cmp.Compare(a.entries, b.entries) })
	alive := make(map[Hash]bool, len(x.packs))
	for name := range x.packs {
		alive[name] = true
	}
	x.mu.RUnlock()
	if len(packs) == 0 {
		return nil
	}
	total := int64(len(loose))
	var inputs []*segment
	for _, s := range segments {
		if s.entries > 2*total {
			break
		}
		inputs = append(inputs, s)
		total += s.entries
	}
	return l.replaceSegments(ctx, packs, loose, inputs, alive)
}

// replaceSegments writes a segment of the loose locations and of inputs, whose place it takes, without
// the packs that are no longer alive. The rows of unusable segments go with it.
func (l *Lake) replaceSegments(ctx context.Context, packs []Hash, loose []location, inputs []*segment, alive map[Hash]bool) error {
	slices.SortFunc(loose, compareLocations)
	total := int64(len(loose))
	sources := []iter.Seq2[location, error]{yieldAll(loose)}
	known := make(map[Hash]bool, len(packs))
	for _, p := range packs {
		known[p] = true
	}
	l.index.mu.RLock()
	var old []string
	for name := range l.index.unusable {
		old = append(old, name)
	}
	l.index.mu.RUnlock()
	session, err := l.session(ctx)
	if err != nil {
		return err
	}
	conditions := []meta.Condition{session.Condition()}
	for _, s := range inputs {
		old = append(old, s.name)
		conditions = append(conditions, meta.Exists(l.segmentKey(s.name)))
		total += s.entries
		sources = append(sources, s.all(ctx, l.blobs))
		for _, p := range s.packs {
			if alive[p] && !known[p] {
				known[p] = true
				packs = append(packs, p)
			}
		}
	}
	slices.SortFunc(packs, compareHashes)

	name := randomSegmentName()
	s, size, err := l.putSegment(ctx, name, packs, total, only(known, mergeLocations(sources)))
	if err != nil {
		return err
	}
	row := segmentRow{Size: size, Objects: s.entries, Packs: len(packs)}
	writes := []meta.Write{meta.Set(l.segmentKey(name), mustJSON(row))}
	for _, o := range old {
		writes = append(writes, meta.Delete(l.segmentKey(o)))
	}
	if err := fault.Point("lake.index.before_row"); err != nil {
		return err
	}
	_, err = l.rows.Txn(ctx, conditions, writes)
	if errors.Is(err, meta.ErrConditionFailed) {
		// Another process has folded the same segments. Ours is of no use.
		return errors.Join(l.refreshNow(ctx), l.deleteSegments(ctx, []string{name}))
	}
	if err != nil {
		return err
	}
	if err := l.refreshNow(ctx); err != nil {
		return err
	}
	if err := fault.Point("lake.index.before_delete"); err != nil {
		return err
	}
	return l.deleteSegments(ctx, old)
}

// putSegmentOf writes a segment of the locations, which it sorts, and returns its row.
func (l *Lake) putSegmentOf(ctx context.Context, name string, packs []Hash, locations []location) (segmentRow, error) {
	slices.SortFunc(locations, compareLocations)
	slices.SortFunc(packs, compareHashes)
	s, size, err := l.putSegment(ctx, name, packs, int64(len(locations)), yieldAll(locations))
	if err != nil {
		return segmentRow{}, err
	}
	return segmentRow{Size: size, Objects: s.entries, Packs: len(packs)}, nil
}

// putSegment streams a segment into its blob.
func (l *Lake) putSegment(ctx context.Context, name string, packs []Hash, limit int64, locations iter.Seq2[location, error]) (*segment, int64, error) {
	if err := fault.Point("lake.index.before_put"); err != nil {
		return nil, 0, err
	}
	type written struct {
		s    *segment
		size int64
		err  error
	}
	r, w := io.Pipe()
	result := make(chan written, 1)
	go func() {
		s, size, err := writeSegment(w, packs, limit, locations)
		_ = w.CloseWithError(err) // never fails
		result <- written{s, size, err}
	}()
	putErr := l.blobs.Put(ctx, segmentBlob(name), r)
	_ = r.CloseWithError(putErr) // never fails; it ends a writer that nobody reads
	got := <-result
	if got.err != nil {
		return nil, 0, got.err
	}
	if putErr != nil {
		return nil, 0, putErr
	}
	return got.s, got.size, fault.Point("lake.index.after_put")
}

// deleteSegments removes blobs that no row names. A reader that is about to use one finds it missing and
// reads the rows again.
func (l *Lake) deleteSegments(ctx context.Context, names []string) error {
	var errs []error
	for _, name := range names {
		if err := l.blobs.Delete(ctx, segmentBlob(name)); err != nil && !errors.Is(err, blob.ErrNotFound) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func compareLocations(a, b location) int {
	return cmp.Or(comparePlaces(a.place, b.place), compareHashes(a.pack, b.pack))
}

func yieldAll(locations []location) iter.Seq2[location, error] {
	return func(yield func(location, error) bool) {
		for _, loc := range locations {
			if !yield(loc, nil) {
				return
			}
		}
	}
}

// only drops the locations in packs that are not wanted.
func only(wanted map[Hash]bool, locations iter.Seq2[location, error]) iter.Seq2[location, error] {
	return func(yield func(location, error) bool) {
		for loc, err := range locations {
			if (err != nil || wanted[loc.pack]) && !yield(loc, err) {
				return
			}
		}
	}
}

// mergeLocations merges sorted sources; a location that several have is yielded once.
func mergeLocations(sources []iter.Seq2[location, error]) iter.Seq2[location, error] {
	return func(yield func(location, error) bool) {
		type head struct {
			loc  location
			next func() (location, error, bool)
		}
		var heads []head
		for _, source := range sources {
			next, stop := iter.Pull2(source)
			defer stop()
			loc, err, ok := next()
			if err != nil {
				yield(loc, err)
				return
			}
			if ok {
				heads = append(heads, head{loc, next})
			}
		}
		var last location
		for len(heads) > 0 { // O(log n) sources: a heap would not pay
			least := 0
			for i := range heads {
				if compareLocations(heads[i].loc, heads[least].loc) < 0 {
					least = i
				}
			}
			if loc := heads[least].loc; loc != last {
				last = loc
				if !yield(loc, nil) {
					return
				}
			}
			loc, err, ok := heads[least].next()
			switch {
			case err != nil:
				yield(loc, err)
				return
			case ok:
				heads[least].loc = loc
			default:
				heads = slices.Delete(heads, least, least+1)
			}
		}
	}
}
