package lake

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/sync/errgroup"

	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/meta"
)

// ErrUnstableIndex is returned when segments are replaced faster than they can be read.
var ErrUnstableIndex = errdef.New(errdef.Unavailable, "lake.index_unstable", "the index keeps changing")

// location is a place together with its pack.
type location struct {
	pack Hash
	place
}

// packInfo is what this process knows of a pack.
type packInfo struct {
	packRow
	version int64
}

// index finds objects. A pack that no segment covers is loose: its footer is in memory. The rows are the
// truth; what is here may be old, which shows as a miss, as a failed condition or as a missing blob, and
// each of those leads to refresh.
type index struct {
	// changing is held by refresh from its scan until its result is in force, and by whoever registers
	// packs: a pack registered in between would be lost otherwise. It is taken before mu.
	changing sync.Mutex

	mu       sync.RWMutex
	packs    map[Hash]packInfo
	footers  map[Hash][]place  // of loose packs
	loose    map[Hash]location // the objects of footers
	damaged  map[Hash]error    // packs whose footer cannot be read
	segments []*segment
	unusable map[string]bool // segments that could not be read
	cuts     map[Hash]cutRow // commits that retention removed, and whose children are there
	scans    int64           // refreshes that ended

	compacting bool
	buckets    *lru.Cache[bucketKey, []byte]
}

// maxBuckets of segments are cached: 3.3 KB each, 13 MB in all.
const maxBuckets = 4096

func newIndex() *index {
	buckets, _ := lru.New[bucketKey, []byte](maxBuckets) // fails for a size of 0 only
	return &index{
		buckets: buckets,
		packs:   map[Hash]packInfo{}, footers: map[Hash][]place{}, loose: map[Hash]location{},
		damaged: map[Hash]error{}, unusable: map[string]bool{},
	}
}

// register lists packs that a transaction numbered version has just made live.
func (x *index) register(packs []*sealedPack, version int64) {
	x.changing.Lock()
	defer x.changing.Unlock()
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, p := range packs {
		if _, known := x.packs[p.name]; known {
			continue // a refresh saw the row first
		}
		x.packs[p.name] = packInfo{p.row, version}
		x.addLoose(p.name, p.places)
	}
}

func (x *index) addLoose(name Hash, places []place) {
	x.footers[name] = places
	for _, p := range places {
		if old, ok := x.loose[p.hash]; ok && x.packs[old.pack].State == packLive {
			continue
		}
		x.loose[p.hash] = location{name, p}
	}
}

// find returns where h is: in a live pack if there is one, else in a condemned one, which can be read
// until it is deleted. The state is empty if it is nowhere.
func (x *index) find(ctx context.Context, l *Lake, h Hash) (location, packState, error) {
	x.mu.RLock()
	best, state := x.loose[h], packState("")
	if !best.hash.IsZero() {
		state = x.packs[best.pack].State
	}
	segments := x.segments
	x.mu.RUnlock()
	for _, s := range segments {
		if state == packLive {
			break
		}
		hits, err := s.find(ctx, l, h)
		if err != nil {
			return location{}, "", err
		}
		x.mu.RLock()
		for _, hit := range hits {
			if st := x.packs[hit.pack].State; st == packLive || state == "" && st != "" {
				best, state = hit, st
			}
		}
		x.mu.RUnlock()
	}
	return best, state, nil
}

// locate finds an object. With fresh, a miss is only believed after the rows were read again.
func (l *Lake) locate(ctx context.Context, h Hash, fresh bool) (location, packState, error) {
	believe := !fresh
	for range 4 { // a segment may be replaced while it is read, and again while we look where it went
		scans := l.index.scanned()
		loc, state, err := l.index.find(ctx, l, h)
		if err == nil && (state != "" || believe) {
			return loc, state, nil
		}
		if err != nil && !l.index.drop(err) {
			return location{}, "", err
		}
		if err := l.refresh(ctx, scans); err != nil {
			return location{}, "", err
		}
		believe = true
	}
	return location{}, "", ErrUnstableIndex.Errorf("the index changed again and again while %s was looked up", h)
}

func (x *index) scanned() int64 {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return x.scans
}

// drop takes the segment that err speaks of out of use; false if err is about something else.
func (x *index) drop(err error) bool {
	var bad *segmentError
	if !errors.As(err, &bad) {
		return false
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	x.unusable[bad.segment] = true
	x.segments = slices.DeleteFunc(slices.Clone(x.segments), func(s *segment) bool { return s.name == bad.segment })
	return true
}

// refreshNow reads the rows of this moment.
func (l *Lake) refreshNow(ctx context.Context) error { return l.refresh(ctx, l.index.scanned()) }

// refresh reads the rows again, unless another call did so, from beginning to end, after the caller read
// scans.
func (l *Lake) refresh(ctx context.Context, scans int64) error {
	x := l.index
	x.changing.Lock()
	defer x.changing.Unlock()
	if x.scanned() > scans+1 {
		return nil
	}
	packs, rows, err := l.scanPacks(ctx)
	if err != nil {
		return err
	}
	cuts, err := l.scanCuts(ctx)
	if err != nil {
		return err
	}
	segments, unusable, err := l.openSegments(ctx, rows)
	if err != nil {
		return err
	}
	covered := map[Hash]bool{}
	for _, s := range segments {
		for _, p := range s.packs {
			covered[p] = true
		}
	}
	footers, damaged, err := l.readLoose(ctx, packs, covered)
	if err != nil {
		return err
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	x.packs, x.segments, x.unusable, x.damaged, x.cuts = packs, segments, unusable, damaged, cuts
	x.footers, x.loose = map[Hash][]place{}, map[Hash]location{}
	for name, places := range footers {
		x.addLoose(name, places)
	}
	x.scans++
	return nil
}

// scanPacks reads the rows of packs and segments in one snapshot.
func (l *Lake) scanPacks(ctx context.Context) (map[Hash]packInfo, map[string]segmentRow, error) {
	packs, segments := map[Hash]packInfo{}, map[string]segmentRow{}
	for row, err := range l.rows.Scan(ctx, meta.Prefix(l.packsPrefix())) {
		if err != nil {
			return nil, nil, err
		}
		if name, ok := strings.CutPrefix(row.Key, l.segmentKey("")); ok {
			var r segmentRow
			if err := json.Unmarshal(row.Value, &r); err != nil {
				return nil, nil, ErrCorrupt.Errorf("row %s: %w", row.Key, err)
			}
			segments[name] = r
			continue
		}
		name, ok := l.packOfKey(row.Key)
		if !ok {
			return nil, nil, ErrCorrupt.Errorf("row %s names no pack", row.Key)
		}
		r, err := parsePackRow(row)
		if err != nil {
			return nil, nil, err
		}
		packs[name] = packInfo{r, row.Version}
	}
	return packs, segments, nil
}

// readLoose returns the footers of the packs that are not covered, from memory where it has them. A
// footer that cannot be read is no error: the other packs must stay readable.
func (l *Lake) readLoose(ctx context.Context, packs map[Hash]packInfo, covered map[Hash]bool) (map[Hash][]place, map[Hash]error, error) {
	l.index.mu.RLock()
	known := maps.Clone(l.index.footers)
	l.index.mu.RUnlock()
	var mu sync.Mutex
	footers, damaged := map[Hash][]place{}, map[Hash]error{}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(8)
	for name, info := range packs {
		if covered[name] {
			continue
		}
		g.Go(func() error {
			places, ok := known[name]
			var err error
			if !ok {
				places, err = readFooter(gctx, l.blobs, name, info.Size)
			}
			if err != nil && !errdef.IsCorrupt(err) {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				damaged[name] = err
			} else {
				footers[name] = places
			}
			return nil
		})
	}
	return footers, damaged, g.Wait()
}

// damage is the reason to doubt a miss: the object may be in a pack that cannot be read.
func (x *index) damage() error {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return errors.Join(slices.Collect(maps.Values(x.damaged))...)
}
