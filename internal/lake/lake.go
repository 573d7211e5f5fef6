package lake

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"sync"
	"sync/atomic"

	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/blob"
	"tarn.dev/tarn/internal/meta"
	"tarn.dev/tarn/internal/meta/lease"
)

// ErrFormat is returned by Open for a lake that a newer Tarn wrote.
var ErrFormat = errdef.New(errdef.FailedPrecondition, "lake.format_newer", "the lake has a newer format")

// formatVersion grows with every change that an older binary would misread.
const formatVersion = 1

// Options tune a Lake. The zero value is what a project on one machine needs.
type Options struct {
	// PackBytes closes a pack that has grown so large; 0 means 16 MiB. Object stores like 64 MiB.
	PackBytes int
	// CacheBytes bounds the memory for objects that were read; 0 means 64 MiB.
	CacheBytes int64
	// Session is in whose name the lake writes and waits for its turns on branches; nil means one of its
	// own. A session opens a lake once at a time.
	Session *lease.Session
}

// Lake is one project's objects and history. It is safe for concurrent use, also by several processes.
type Lake struct {
	blobs  blob.Store
	rows   meta.Store
	prefix string
	opt    Options

	index  *index
	cache  *cache
	graves atomic.Pointer[graves]

	sessions   sessions
	operations operations

	// background is the work that Close waits for.
	background sync.WaitGroup
	following  sync.WaitGroup // takes new epochs over until stop
	stop       context.CancelCauseFunc
	stopped    context.Context //nolint:containedctx // the life of the background work
}

// ErrClosed is the cause with which Close ends background work.
var ErrClosed = errdef.New(errdef.Canceled, "lake.closed", "the lake was closed")

// Open opens the lake whose rows begin with prefix, and makes it if there is none.
func Open(ctx context.Context, blobs blob.Store, rows meta.Store, prefix string, opt Options) (*Lake, error) {
	if opt.PackBytes == 0 {
		opt.PackBytes = packTarget
	}
	if opt.CacheBytes == 0 {
		opt.CacheBytes = 64 << 20
	}
	if opt.PackBytes < 0 || opt.PackBytes > maxPackBytes || opt.CacheBytes < 0 {
		return nil, errdef.Newf(errdef.InvalidArgument, "lake.bad_options", "lake options are out of range: packs of %d bytes, cache of %d bytes", opt.PackBytes, opt.CacheBytes)
	}
	l := &Lake{
		blobs: blobs, rows: rows, prefix: strings.TrimSuffix(prefix, "/") + "/", opt: opt,
		index: newIndex(), cache: newCache(opt.CacheBytes), sessions: sessions{current: opt.Session, given: opt.Session != nil},
	}
	l.stopped, l.stop = context.WithCancelCause(context.WithoutCancel(ctx))
	if err := l.checkFormat(ctx); err != nil {
		return nil, err
	}
	if err := l.begin(ctx); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// begin takes part in garbage collection, reads the index, and makes the first commit.
func (l *Lake) begin(ctx context.Context) error {
	_, err := l.readGraves(ctx)
	if err != nil {
		return err
	}
	if l.sessions.given {
		err = l.takePart(ctx, l.sessions.current)
	} else {
		_, err = l.session(ctx)
	}
	if err != nil {
		return err
	}
	return l.openHistory(ctx)
}

// Close waits for background work to end. Batches and readers must be done.
func (l *Lake) Close() error {
	l.index.mu.Lock() // background work begins under it, never after stop
	l.stop(ErrClosed)
	l.index.mu.Unlock()
	l.background.Wait()
	l.following.Wait()
	return l.leaveAll(context.WithoutCancel(l.stopped))
}

type formatRow struct {
	Version int `json:"version"`
}

func (l *Lake) checkFormat(ctx context.Context) error {
	key := l.prefix + "format"
	row, err := l.rows.Get(ctx, key)
	if errors.Is(err, meta.ErrNotFound) {
		_, err = l.rows.Txn(ctx, []meta.Condition{meta.Absent(key)}, []meta.Write{meta.Set(key, mustJSON(formatRow{formatVersion}))})
		if err == nil {
			return nil
		}
		if !errors.Is(err, meta.ErrConditionFailed) {
			return err
		}
		row, err = l.rows.Get(ctx, key) // another process made the lake at the same time
	}
	if err != nil {
		return err
	}
	var f formatRow
	if err := json.Unmarshal(row.Value, &f); err != nil || f.Version < 1 {
		return ErrCorrupt.Errorf("row %s is not a format: %q", key, row.Value)
	}
	if f.Version > formatVersion {
		return ErrFormat.Errorf("the lake has format %d, this Tarn reads up to %d", f.Version, formatVersion).
			WithNext("use the Tarn that wrote it, or a newer one")
	}
	return nil
}

// Get returns an object. The bytes are shared: do not change them.
func (l *Lake) Get(ctx context.Context, t Type, h Hash) ([]byte, error) {
	if data, ok := l.cache.get(h, t); ok {
		return data, nil
	}
	var lastErr error
	for range 3 { // a pack found may be deleted by garbage collection before it is read
		loc, state, err := l.locate(ctx, h, true)
		if err != nil {
			return nil, err
		}
		if as, replaced := l.graves.Load().objects[h]; state == "" && replaced {
			return l.Get(ctx, t, as)
		}
		if state == "" || loc.typ != t {
			return nil, l.notFound(t, h, loc, state)
		}
		data, err := l.read(ctx, loc)
		if err == nil {
			if t != TypeChunk { // a file read once would push out every tree node
				l.cache.add(h, t, data)
			}
			return data, nil
		}
		lastErr = err
		if !errors.Is(err, blob.ErrNotFound) {
			break
		}
		if err := l.refreshNow(ctx); err != nil {
			return nil, err
		}
	}
	return nil, lastErr
}

func (l *Lake) notFound(t Type, h Hash, loc location, state packState) error {
	if state != "" {
		return ErrNotFound.Errorf("no %s %s: it is a %s", t, h, loc.typ)
	}
	if err := l.index.damage(); err != nil {
		return ErrCorrupt.Errorf("%s %s is not found and may be in a damaged pack: %w", t, h, err)
	}
	return ErrNotFound.Errorf("no %s %s", t, h)
}

// Has reports whether a live or condemned pack holds the object. A miss reads the rows of all packs, to
// see what other processes have written.
func (l *Lake) Has(ctx context.Context, t Type, h Hash) (bool, error) {
	loc, state, err := l.locate(ctx, h, true)
	return err == nil && state != "" && loc.typ == t, err
}

// read reads one object from its pack and checks it (L1).
func (l *Lake) read(ctx context.Context, loc location) ([]byte, error) {
	if loc.stored > MaxObject {
		return nil, ErrCorrupt.Errorf("pack %s, %s: the index lists an impossible object", loc.pack, loc.hash)
	}
	stored, err := readBlob(ctx, l.blobs, packBlob(loc.pack), int64(loc.offset), int64(loc.stored))
	if err != nil {
		return nil, missingPack(loc.pack, err)
	}
	return openObject(loc, stored)
}

// openObject turns stored bytes into the object, or says which object of which pack is corrupt.
func openObject(loc location, stored []byte) ([]byte, error) {
	bad := func(format string, args ...any) error {
		return ErrCorrupt.Errorf("pack %s, %s %s: "+format, append([]any{loc.pack, loc.typ, loc.hash}, args...)...).
			WithDetail("pack", loc.pack.String()).WithDetail("object", loc.hash.String())
	}
	if len(stored) != int(loc.stored) {
		return nil, bad("%d of %d bytes are there", len(stored), loc.stored)
	}
	if loc.raw > MaxObject || !loc.typ.valid() {
		return nil, bad("the index lists an impossible object")
	}
	data, err := decode(stored, loc.codec, int(loc.raw))
	if err != nil {
		return nil, bad("%w", err)
	}
	if HashOf(loc.typ, data) != loc.hash {
		return nil, bad("its bytes do not match its hash")
	}
	return data, nil
}
