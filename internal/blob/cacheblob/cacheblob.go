// Package cacheblob keeps copies of blobs of a store far away, and of parts of them, within a budget of bytes: of whole
// ones as files, for programs that read files.
//
// A copy of a whole blob appears under its name whole and synced, or not at all. It stays while somebody uses it, which
// they say by the context that they ask with. What is put as a file of this host is kept as well, without a copy. Parts
// and small blobs carry their checksum in their name; they are not synced, and one that is not what it was is fetched
// again. Of all that nobody uses, what was used last is kept. Everything else passes through: whoever verifies a blob
// reads the store's.
//
// A blob never changes, so a copy is never compared with the store again. A blob that another host has deleted may be
// found here until its copy goes.
package cacheblob

import (
	"container/list"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/zeebo/blake3"

	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/blob"
)

// Errors of the copies; those of the blobs are the store's.
var (
	// ErrDisk means that a copy cannot be written or read.
	ErrDisk = errdef.New(errdef.Unavailable, "blob.cache_disk", "the disk reports an error")
	// ErrFull means that there is no room for a copy.
	ErrFull = errdef.New(errdef.ResourceExhausted, "blob.cache_full", "the disk is full").
		WithNext("free space on that disk, or start the server with a smaller TARN_BLOB_CACHE")
)

// unfinished begins the names of files that are being written.
const unfinished = "new-"

// Cache is a folder of copies. One process uses it at a time.
type Cache struct {
	dir    string
	budget int64

	fetching chan struct{} // one per part that is in memory

	mu      sync.Mutex
	bytes   int64
	copies  map[string]*replica // by the hash of what they are of
	resting *list.List          // of *replica that nobody uses; those used last are in front
}

// replica is a copy of a blob or of a part of one, or one that is being made.
type replica struct {
	id, path string
	size     int64
	users    int
	gone     bool          // its blob is deleted; it stays for those who use it
	made     chan struct{} // closed when path is there, or failed is set
	failed   error
	place    *list.Element // in resting
}

// Open returns the cache in dir, which it makes. It takes up to budget bytes, and more only for what is in use.
func Open(dir string, budget int64) (*Cache, error) {
	c := &Cache{dir: dir, budget: budget, fetching: make(chan struct{}, parallel), copies: map[string]*replica{}, resting: list.New()}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, classify(err, "make "+dir)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, classify(err, "read "+dir)
	}
	found := map[*replica]time.Time{}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		info, err := e.Info()
		if err != nil {
			return nil, classify(err, "read "+dir)
		}
		r := parse(path)
		if r == nil || r.size != info.Size() || c.copies[r.id] != nil {
			if err := os.RemoveAll(path); err != nil {
				return nil, classify(err, "clean "+dir)
			}
			continue
		}
		c.copies[r.id], found[r] = r, info.ModTime()
		c.bytes += r.size
	}
	byUse := slices.SortedFunc(func(yield func(*replica) bool) {
		for r := range found {
			if !yield(r) {
				return
			}
		}
	}, func(a, b *replica) int { return found[b].Compare(found[a]) })
	for _, r := range byUse {
		r.place = c.resting.PushBack(r)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c, c.shrink()
}

// parse reads a copy's name: the hash of what it is of, its size, and its checksum or something of its own.
func parse(path string) *replica {
	id, rest, _ := strings.Cut(filepath.Base(path), "-")
	text, _, _ := strings.Cut(rest, "-")
	size, err := strconv.ParseInt(text, 10, 64)
	if err != nil || len(id) != 32 {
		return nil
	}
	r := &replica{id: id, path: path, size: size, made: make(chan struct{})}
	close(r.made)
	return r
}

func (r *replica) whole() bool {
	info, err := os.Stat(r.path)
	return err == nil && info.Size() == r.size
}

// Of returns the blobs of a store, with copies of those that are asked for.
func (c *Cache) Of(far blob.Store) blob.FarStore { return &store{Store: far, cache: c} }

type store struct {
	blob.Store
	cache *Cache
}

// File implements blob.FileStore.
func (s *store) File(ctx context.Context, name string) (string, error) {
	if err := blob.CheckName(name); err != nil {
		return "", err
	}
	if err := blob.CheckEnds(ctx, name); err != nil {
		return "", err
	}
	for {
		if ctx.Err() != nil {
			return "", context.Cause(ctx)
		}
		r, first := s.cache.use(s.id(name))
		if first {
			r.failed = s.fetch(ctx, name, r)
			s.cache.settle(r)
		}
		select {
		case <-r.made:
		case <-ctx.Done():
			s.cache.rest(r)
			return "", context.Cause(ctx)
		}
		switch {
		case r.failed != nil && first:
			return "", r.failed
		case r.failed != nil: // for another caller, whose context may have ended: once more
		case r.whole():
			context.AfterFunc(ctx, func() { s.cache.rest(r) })
			return r.path, nil
		default: // somebody removed it: once more
			s.cache.forget(r.id)
			s.cache.rest(r)
		}
	}
}

// Put implements blob.Store. A file that is given away is kept as a copy.
func (s *store) Put(ctx context.Context, name string, r io.Reader) error {
	if err := s.Store.Put(ctx, name, r); err != nil {
		return err
	}
	given, ok := r.(blob.Given)
	if !ok {
		return nil
	}
	made, first := s.cache.use(s.id(name))
	if !first {
		s.cache.rest(made)
		return nil
	}
	made.failed = s.keep(made, given)
	s.cache.settle(made)
	if made.failed == nil {
		s.cache.rest(made)
	}
	return nil // without a copy the next reader fetches one
}

// Delete implements blob.Store.
func (s *store) Delete(ctx context.Context, name string) error {
	err := s.Store.Delete(ctx, name)
	if err == nil || errors.Is(err, blob.ErrNotFound) {
		s.cache.forget(s.id(name))
		s.cache.forget(s.smallID(name))
	}
	return err
}

// id is what a blob's copy is called; stores of other buckets and projects have other ones.
func (s *store) id(name string) string { return s.idOf(name, "") }

// idOf is what the copy of a part of a blob is called; "" is all of it.
func (s *store) idOf(name, part string) string {
	sum := blake3.Sum256([]byte(s.URI(name) + part))
	return hex.EncodeToString(sum[:16])
}

// fetch makes the copy of a blob.
func (s *store) fetch(ctx context.Context, name string, r *replica) error {
	src, err := s.Get(ctx, name, 0, -1)
	if err != nil {
		return err
	}
	defer src.Close() // only read
	f, err := os.CreateTemp(s.cache.dir, unfinished)
	if err != nil {
		return classify(err, "copy blob "+name)
	}
	defer os.Remove(f.Name()) // it is there no more if all went well
	into := &destination{w: f}
	_, err = io.Copy(into, src)
	if err == nil {
		into.err = errors.Join(f.Chmod(0o444), f.Sync())
	}
	into.err = errors.Join(into.err, f.Close())
	switch {
	case into.err != nil:
		return classify(into.err, "copy blob "+name)
	case err != nil:
		return err
	}
	return s.cache.adopt(f.Name(), r, into.n)
}

// keep makes the copy of a file that was put, by another name for it.
func (s *store) keep(r *replica, given blob.Given) error {
	info, err := given.Stat()
	if err != nil {
		return classify(err, "keep "+given.Name())
	}
	name := filepath.Join(s.cache.dir, unfinished+r.id)
	if err := errors.Join(os.Link(given.Name(), name), given.Chmod(0o444), given.Sync()); err != nil {
		return classify(errors.Join(err, os.Remove(name)), "keep "+given.Name())
	}
	return s.cache.adopt(name, r, info.Size())
}

// adopt gives a finished file its name.
func (c *Cache) adopt(file string, r *replica, size int64) error {
	r.size = size
	r.path = filepath.Join(c.dir, fmt.Sprintf("%s-%d-%s", r.id, size, rand.Text()))
	if err := os.Rename(file, r.path); err != nil {
		return classify(err, "keep a copy")
	}
	return nil
}

// use returns the copy of a blob, which stays until rest. The first user of one that is not there has to make it.
func (c *Cache) use(id string) (r *replica, first bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if r = c.copies[id]; r == nil {
		r = &replica{id: id, users: 1, made: make(chan struct{})}
		c.copies[id] = r
		return r, true
	}
	r.users++
	if r.place != nil {
		c.resting.Remove(r.place)
		r.place = nil
	}
	return r, false
}

// settle tells those who wait for a copy that it is made, or has failed.
func (c *Cache) settle(r *replica) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if r.failed != nil {
		if !r.gone {
			delete(c.copies, r.id)
		}
	} else {
		c.bytes += r.size
	}
	close(r.made)
}

// rest ends a use.
func (c *Cache) rest(r *replica) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if r.users--; r.users > 0 || r.failed != nil {
		return
	}
	if r.gone {
		_ = c.drop(r) // the next start removes it
		return
	}
	now := time.Now()
	_ = os.Chtimes(r.path, now, now) // the order after a restart is the worse for it, no more
	r.place = c.resting.PushFront(r)
	_ = c.shrink() // the next one tries again
}

// forget ends the copy of a blob that is deleted.
func (c *Cache) forget(id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := c.copies[id]
	if r == nil {
		return
	}
	delete(c.copies, id)
	if r.gone = true; r.place != nil {
		_ = c.drop(r) // the next start removes it
	}
}

// shrink removes copies that rest until the others fit the budget. It is called with the lock.
func (c *Cache) shrink() error {
	for c.bytes > c.budget && c.resting.Len() > 0 {
		r := c.resting.Back().Value.(*replica)
		delete(c.copies, r.id)
		if err := c.drop(r); err != nil {
			return err
		}
	}
	return nil
}

// drop removes a copy that nobody uses. It is called with the lock.
func (c *Cache) drop(r *replica) error {
	if r.place != nil {
		c.resting.Remove(r.place)
		r.place = nil
	}
	c.bytes -= r.size
	if err := os.Remove(r.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return classify(err, "remove "+r.path)
	}
	return nil
}

func classify(err error, doing string) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return ErrFull.Errorf("%s: the disk is full: %w", doing, err)
	}
	return ErrDisk.Errorf("%s: %w", doing, err)
}

// destination counts, and remembers its own error, so that a full disk is told from a store that fails.
type destination struct {
	w   io.Writer
	n   int64
	err error
}

func (d *destination) Write(p []byte) (int, error) {
	n, err := d.w.Write(p)
	d.n += int64(n)
	if err != nil {
		d.err = err
	}
	return n, err
}
