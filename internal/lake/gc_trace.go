package lake

import (
	"bytes"
	"cmp"
	"context"
	"encoding/hex"
	"maps"
	"slices"
	"strings"
	"time"

	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/meta"
)

// ErrAmbiguousHash is returned for digits with which the hashes of several things begin.
var ErrAmbiguousHash = errdef.New(errdef.InvalidArgument, "lake.ambiguous_hash", "several things have a hash that begins so")

// Root is a row that keeps what it leads to.
type Root struct {
	Kind string // branch, tag, deleted branch, commit, result, run or step
	Name string
	// Commit is the newest one of a branch or tag that leads to the thing. It is the zero hash for others.
	Commit Hash
	// Head says that this is the commit which the branch or tag names.
	Head bool
	// Until is when the row lets go, unless the history holds the thing as well; zero: not by itself.
	Until time.Time
}

// Trace is what a hash is, and what leads to it.
type Trace struct {
	Hash, What string // What is a type of objects, "pack", "blob", or "content" of an entry
	Size       int64  // as stored; of content 0

	Pack      Hash // that holds the object, or that it is
	Condemned bool
	PackSize  int64
	Needed    int64 // bytes of the pack that something leads to

	Keys           []string // of entries that it is of or in: the first few
	Commits        int      // that lead to it
	Newest, Oldest Hash     // of these
	Roots          []Root   // branches and tags first; the first few of each kind
	More           int      // roots beyond those
}

const (
	maxTraceKeys  = 10
	maxTraceRoots = 20 // of each kind
)

// Trace finds what leads to the object, pack or blob with a name that begins with word, or to entries whose
// version does; nil if there is no such thing. It marks as a collection does, which is what it costs.
func (l *Lake) Trace(ctx context.Context, word string, opt CollectOptions) (*Trace, error) {
	if err := l.refreshNow(ctx); err != nil {
		return nil, err
	}
	t := &tracing{l: l, opt: opt, now: time.Now(), s: newSought(word)}
	if err := t.stored(ctx); err != nil {
		return nil, err
	}
	if err := t.mark(ctx); err != nil {
		return nil, err
	}
	if t.out.Hash == "" && !t.s.one(&t.out) {
		if err := t.lostBlob(ctx); t.out.Hash == "" || err != nil {
			return nil, err
		}
	}
	if len(t.s.found) > 1 {
		return nil, ErrAmbiguousHash.Errorf("'%s' is the beginning of %s", clip(word), some(slices.Collect(maps.Keys(t.s.found))))
	}
	if info, ok := t.packs[t.out.Pack]; ok {
		t.out.Condemned, t.out.PackSize, t.out.Needed = info.State == packCondemned, info.Size, t.m.liveBytes(t.out.Pack)
	}
	t.out.Keys = slices.Sorted(maps.Keys(t.s.keys))
	return &t.out, t.refs(ctx)
}

// sought is what a trace looks for while everything is marked. All methods do nothing on nil: in a collection.
type sought struct {
	word string
	pack Hash // looked for in place of the word
	hits int

	found map[string]string     // hash or name -> what it is
	keys  map[string]struct{}   // of entries
	leads map[Hash]struct{}     // objects below which there are hits: they are not visited twice
	upper map[[16]byte]struct{} // blobs below which there may be some: these are
	above [][16]byte            // blobs of the entry that is being marked

	root    Root
	before  int // hits when root began
	roots   []Root
	more    int
	commits []tracedCommit
}

// tracedCommit is a commit on the way to the refs that lead to it.
type tracedCommit struct {
	id         Hash
	generation int64
	time       time.Time
	hit        bool
}

func newSought(word string) *sought {
	return &sought{
		word: word, found: map[string]string{}, keys: map[string]struct{}{},
		leads: map[Hash]struct{}{}, upper: map[[16]byte]struct{}{},
	}
}

func (s *sought) count() int {
	if s == nil {
		return 0
	}
	return s.hits
}

func (s *sought) object(t Type, h Hash, loc location) {
	if s == nil {
		return
	}
	var digits [2 * HashSize]byte
	hex.Encode(digits[:], h[:])
	_, leads := s.leads[h]
	switch {
	case !s.pack.IsZero():
		if leads || loc.pack == s.pack {
			s.hits++
		}
	case bytes.HasPrefix(digits[:], []byte(s.word)):
		s.found[string(digits[:])] = t.String()
		s.hits++
	case leads:
		s.hits++
	}
}

// blob reports whether what is below a blob is to be looked at again.
func (s *sought) blob(name string, key [16]byte) (again bool) {
	if s == nil {
		return false
	}
	s.above = append(s.above, key)
	if s.pack.IsZero() && s.isBlob(name) {
		s.found[name] = "blob"
		s.hits++
		for _, k := range s.above {
			s.upper[k] = struct{}{}
		}
	}
	_, again = s.upper[key]
	return again
}

// isBlob compares with a whole name, or with the beginning of its last part.
func (s *sought) isBlob(name string) bool {
	return name == s.word || strings.HasPrefix(name[strings.LastIndexByte(name, '/')+1:], s.word)
}

// entry looks at an entry; the returned function is called when what it leads to was marked.
func (s *sought) entry(key string, e Entry) (end func()) {
	if s == nil {
		return func() {}
	}
	before := s.hits
	s.above = s.above[:0]
	if s.pack.IsZero() && strings.HasPrefix(e.Version, s.word) {
		if _, object := s.found[e.Version]; !object {
			s.found[e.Version] = "content"
		}
		s.hits++
	}
	return func() {
		if s.hits > before && len(s.keys) < maxTraceKeys {
			s.keys[DisplayKey(key)] = struct{}{}
		}
	}
}

func (s *sought) commit(c Commit) {
	if s != nil {
		s.commits = append(s.commits, tracedCommit{id: c.ID, generation: c.Generation, time: c.Time})
	}
}

// at ends what is marked from one row and begins the next.
func (s *sought) at(next Root) {
	if s == nil {
		return
	}
	if hit := s.hits > s.before; hit && s.root.Kind == "commit" {
		s.commits[len(s.commits)-1].hit = true
	} else if hit {
		s.add(s.root)
	}
	s.root, s.before = next, s.hits
}

// add lists a root, unless there are many of its kind.
func (s *sought) add(r Root) {
	same := 0
	for _, other := range s.roots {
		if other.Kind == r.Kind {
			same++
		}
	}
	if same < maxTraceRoots {
		s.roots = append(s.roots, r)
		return
	}
	s.more++
}

// one says what was found on the way, if anything was.
func (s *sought) one(out *Trace) bool {
	for name, what := range s.found {
		out.Hash, out.What = name, what
	}
	return len(s.found) > 0
}

// tracing is one trace.
type tracing struct {
	l     *Lake
	opt   CollectOptions
	now   time.Time
	s     *sought
	m     *Mark
	packs map[Hash]packInfo
	out   Trace
}

// stored looks for a pack or an object, which may be there without being led to.
func (t *tracing) stored(ctx context.Context) error {
	var err error
	if t.packs, _, err = t.l.scanPacks(ctx); err != nil {
		return err
	}
	word := strings.TrimPrefix(t.s.word, packPrefix)
	for name, info := range t.packs {
		if strings.HasPrefix(name.String(), word) {
			t.s.found[name.String()] = "pack"
			t.s.pack, t.out.Pack = name, name
			t.out.Hash, t.out.What, t.out.Size = name.String(), "pack", info.Size
		}
	}
	objects, err := t.l.index.beginningWith(ctx, t.l, word)
	for t.l.index.drop(err) { // a segment was replaced while it was read
		if err = t.l.refreshNow(ctx); err == nil {
			objects, err = t.l.index.beginningWith(ctx, t.l, word)
		}
	}
	for _, loc := range objects {
		t.s.found[loc.hash.String()] = loc.typ.String()
		t.out = Trace{Hash: loc.hash.String(), What: loc.typ.String(), Size: int64(loc.stored), Pack: loc.pack}
	}
	return err
}

// mark marks everything, with an eye on what is sought.
func (t *tracing) mark(ctx context.Context) error {
	t.m = t.l.newMark(t.opt.Holder, t.l.graves.Load())
	t.m.sought = t.s
	prefix := t.l.commitKey("")
	for row, err := range t.l.rows.Scan(ctx, meta.Prefix(prefix)) {
		if err != nil {
			return err
		}
		id, err := ParseHash(strings.TrimPrefix(row.Key, prefix))
		if err != nil {
			return ErrCorrupt.Errorf("row %s names no commit", row.Key).WithNext("tarn fsck")
		}
		t.m.At(Root{Kind: "commit"})
		if err := t.m.commit(ctx, id); err != nil {
			return err
		}
	}
	t.m.At(Root{})
	if t.opt.Holder == nil {
		return nil
	}
	err := t.opt.Holder.Rows(ctx, t.m, nil)
	t.m.At(Root{})
	return err
}

// lostBlob looks for a blob that nothing led to.
func (t *tracing) lostBlob(ctx context.Context) error {
	if t.opt.Holder == nil {
		return nil
	}
	for _, prefix := range t.opt.Holder.Blobs() {
		for info, err := range t.l.blobs.List(ctx, prefix) {
			if err != nil {
				return err
			}
			if t.s.isBlob(info.Name) {
				t.out.Hash, t.out.What, t.out.Size = info.Name, "blob", info.Size
				t.s.found[info.Name] = "blob"
			}
		}
	}
	return nil
}

// refs finds the branches and tags whose commits lead to it, and the newest one of each that does.
func (t *tracing) refs(ctx context.Context) error {
	commits := t.s.commits
	var hits []tracedCommit
	for _, c := range commits {
		if c.hit {
			hits = append(hits, c)
		}
	}
	t.out.Roots, t.out.More = t.s.roots, t.s.more
	if len(hits) == 0 {
		return nil
	}
	byTime := func(a, b tracedCommit) int {
		return cmp.Or(a.time.Compare(b.time), cmp.Compare(a.generation, b.generation))
	}
	t.out.Commits, t.out.Newest, t.out.Oldest = len(hits), slices.MaxFunc(hits, byTime).id, slices.MinFunc(hits, byTime).id

	// From ancestors to descendants, so that each commit knows the newest one below it.
	slices.SortFunc(commits, func(a, b tracedCommit) int { return cmp.Compare(a.generation, b.generation) })
	last := make(map[Hash]int, len(commits))
	for i, c := range commits {
		if c.hit {
			last[c.id] = i
			continue
		}
		commit, err := t.l.Commit(ctx, c.id)
		if err != nil {
			return err
		}
		for _, p := range commit.Parents {
			at, leads := last[p]
			if have, ok := last[c.id]; leads && (!ok || byTime(commits[have], commits[at]) < 0) {
				last[c.id] = at
			}
		}
	}
	own := &sought{}
	root := func(kind, name string, head Hash, until time.Time) {
		if at, ok := last[head]; ok {
			own.add(Root{Kind: kind, Name: name, Commit: commits[at].id, Head: commits[at].id == head, Until: until})
		}
	}
	err := t.named(ctx, root)
	t.out.Roots, t.out.More = append(own.roots, t.out.Roots...), t.out.More+own.more
	return err
}

// named calls root for everything that names commits.
func (t *tracing) named(ctx context.Context, root func(kind, name string, head Hash, until time.Time)) error {
	for _, of := range []struct{ kind, prefix string }{{"branch", t.l.branchKey("")}, {"tag", t.l.tagKey("")}} {
		for ref, err := range t.l.refs(ctx, of.prefix) {
			if err != nil {
				return err
			}
			root(of.kind, ref.Name, ref.Commit, time.Time{})
		}
	}
	log := reflogReader{c: &collection{l: t.l, opt: t.opt, now: t.now}, r: &roots{moves: map[Hash][]string{}}}
	for row, err := range t.l.rows.Scan(ctx, meta.Prefix(t.l.prefix+"reflog/")) {
		if err != nil {
			return err
		}
		if err := log.line(row); err != nil {
			return err
		}
	}
	for _, d := range log.deleted {
		root("deleted branch", d.branch, d.commit, d.until)
	}
	return nil
}

// beginningWith returns the objects whose hash begins with digits, at least seven of them.
func (x *index) beginningWith(ctx context.Context, l *Lake, digits string) (map[Hash]location, error) {
	first, err := ParseHash(digits + strings.Repeat("0", max(0, 2*HashSize-len(digits))))
	if err != nil {
		return nil, nil // no digits: a name
	}
	has := func(h Hash) bool { return strings.HasPrefix(h.String(), digits) }
	out := map[Hash]location{}
	x.mu.RLock()
	for h, loc := range x.loose {
		if has(h) {
			out[h] = loc
		}
	}
	segments, packs := x.segments, x.packs
	x.mu.RUnlock()
	for _, s := range segments {
		// Seven digits are more than the bits that buckets are told apart by, so one bucket has them all.
		bucket, err := s.bucket(ctx, l, bucketOf(first, s.fanBits))
		if err != nil {
			return nil, err
		}
		for b := bucket; len(b) > 0; b = b[segmentEntry:] {
			loc, err := s.location(b)
			if err != nil {
				return nil, err
			}
			if _, alive := packs[loc.pack]; alive && has(loc.hash) {
				out[loc.hash] = loc
			}
		}
	}
	return out, nil
}
