// Package fsblob keeps blobs as files in a directory.
//
// A blob NAME is the read-only file DIR/NAME. Put writes a temporary file in the same file system,
// syncs it, links it under its name (which fails if the name is taken, so put-if-absent holds under
// races) and syncs the folder. A crash leaves temporary files only.
//
// Temporary files live in DIR/~tmp, which no blob name can reach, in one folder per opened store. The
// store holds a flock on its folder for as long as its process lives. Open removes every folder whose
// lock is free: its owner is gone, whatever the clock says. Open holds a lock on ~tmp meanwhile, so
// that it never takes a folder that another Open has made but not yet locked.
//
// A name below another blob's name ("a" and "a/b") is refused with blob.ErrInvalidName. A deletion may
// be undone by a crash of the machine. Symbolic links and special files are not blobs.
package fsblob

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"

	"tarn.dev/tarn/internal/base/fault"
	"tarn.dev/tarn/internal/blob"
)

const tmpFolder = "~tmp"

type store struct {
	dir  string
	tmp  *os.File // own folder for temporary files, locked while open
	next atomic.Uint64
	// durable holds folders that are known to survive a crash. Who uses a folder first syncs its
	// parent, also when somebody else made it a moment ago and has not synced yet.
	durable sync.Map
}

// Open returns the store in dir, which is made if it does not exist.
func Open(dir string) (blob.FileStore, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, classify(err, "open blob folder "+dir, reading)
	}
	if err := os.MkdirAll(filepath.Join(dir, tmpFolder), 0o777); err != nil {
		return nil, classify(err, "open blob folder "+dir, writing)
	}
	if err := syncDir(dir); err != nil {
		return nil, classify(err, "open blob folder "+dir, writing)
	}
	tmp, err := claimTmp(filepath.Join(dir, tmpFolder))
	if err != nil {
		return nil, classify(err, "open blob folder "+dir, writing)
	}
	s := &store{dir: dir, tmp: tmp}
	s.durable.Store(dir, true)
	return s, nil
}

// OpenReading returns the store in dir, which may be on a disk that cannot be written: nothing is made there, Put and Delete fail.
func OpenReading(dir string) (blob.Store, error) {
	dir, err := filepath.Abs(dir)
	if err == nil {
		_, err = os.ReadDir(dir)
	}
	if err != nil {
		return nil, classify(err, "open blob folder "+dir, reading)
	}
	return &store{dir: dir}, nil
}

// writable fails where the store was opened for reading.
func (s *store) writable(doing, name string) error {
	if s.tmp == nil {
		return ErrPermission.Errorf("%s %s: the folder %s was opened for reading", doing, name, s.dir)
	}
	return nil
}

// claimTmp removes the folders of stores that are gone and makes a locked one for this store.
func claimTmp(root string) (*os.File, error) {
	gate, err := os.Open(root)
	if err != nil {
		return nil, err
	}
	defer gate.Close() // nothing was written; closing also unlocks
	if err := flock(gate, syscall.LOCK_EX); err != nil {
		return nil, err
	}
	old, err := os.ReadDir(root)
	if err != nil {
		return nil, err
	}
	for _, e := range old {
		if err := removeAbandoned(filepath.Join(root, e.Name())); err != nil {
			return nil, err
		}
	}
	own, err := os.MkdirTemp(root, fmt.Sprintf("%d-", os.Getpid()))
	if err != nil {
		return nil, err
	}
	f, err := os.Open(own)
	if err != nil {
		return nil, err
	}
	if err := flock(f, syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

func removeAbandoned(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close() // opened for its lock only
	switch err := flock(f, syscall.LOCK_EX|syscall.LOCK_NB); {
	case errors.Is(err, syscall.EWOULDBLOCK):
		return nil
	case err != nil:
		return err
	}
	return os.RemoveAll(dir)
}

func flock(f *os.File, how int) error {
	for {
		err := syscall.Flock(int(f.Fd()), how)
		if !errors.Is(err, syscall.EINTR) {
			return err
		}
	}
}

// Put implements blob.Store.
func (s *store) Put(ctx context.Context, name string, r io.Reader) error {
	if err := blob.CheckName(name); err != nil {
		return err
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err := s.writable("put blob", name); err != nil {
		return err
	}
	path := s.path(name)
	if _, err := os.Lstat(path); err == nil { // spares the copy; the link below decides
		return s.taken(name)
	}
	tmp := filepath.Join(s.tmp.Name(), fmt.Sprint(s.next.Add(1)))
	err := s.keep(ctx, name, tmp, path, r)
	if rm := os.Remove(tmp); rm != nil && !errors.Is(rm, fs.ErrNotExist) && err == nil {
		return classify(rm, "put blob "+name, writing)
	}
	return err
}

// keep stores what r yields: a file that is given away by a second name for it, where the file system can.
func (s *store) keep(ctx context.Context, name, tmp, path string, r io.Reader) error {
	given, ok := r.(blob.Given)
	if !ok || os.Link(given.Name(), tmp) != nil {
		return s.put(ctx, name, tmp, path, r)
	}
	if err := errors.Join(given.Chmod(0o444), given.Sync()); err != nil {
		return classify(err, "put blob "+name, writing)
	}
	return s.link(name, tmp, path)
}

func (s *store) put(ctx context.Context, name, tmp, path string, r io.Reader) error {
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o444)
	if err != nil {
		return classify(err, "put blob "+name, writing)
	}
	w := &destination{w: f}
	if _, err = io.CopyBuffer(w, onlyReader{blob.ReaderWithContext(ctx, r)}, make([]byte, 256<<10)); err == nil {
		if err = f.Sync(); err != nil {
			w.err = err
		}
	}
	if cerr := f.Close(); err == nil && cerr != nil {
		err, w.err = cerr, cerr
	}
	if w.err != nil {
		return classify(w.err, "put blob "+name, writing)
	}
	if err != nil { // the caller's reader, or ctx
		return fmt.Errorf("put blob %s: %w", name, err)
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return s.link(name, tmp, path)
}

// link makes tmp visible as path. A folder that somebody removed meanwhile is made once more.
func (s *store) link(name, tmp, path string) error {
	for try := 0; ; try++ {
		err := s.ensureDir(filepath.Dir(path))
		if err == nil {
			err = fault.Point("blob.put.before_link")
		}
		if err == nil {
			err = os.Link(tmp, path)
		}
		switch {
		case err == nil:
			err := fault.Point("blob.put.after_link")
			if err == nil {
				err = syncDir(filepath.Dir(path))
			}
			if err != nil {
				// Whether the name survives a crash is not known, so it must not stay.
				return classify(errors.Join(err, os.Remove(path)), "put blob "+name, writing)
			}
			return nil
		case errors.Is(err, fs.ErrExist):
			return s.taken(name)
		case errors.Is(err, fs.ErrNotExist) && try == 0:
			s.forget(filepath.Dir(path))
		case errors.Is(err, syscall.ENOTDIR):
			return blob.ErrInvalidName.Errorf("invalid blob name %q: it lies below the name of another blob", name)
		default:
			return classify(err, "put blob "+name, writing)
		}
	}
}

func (s *store) taken(name string) error {
	if info, err := os.Lstat(s.path(name)); err == nil && info.IsDir() {
		return blob.ErrInvalidName.Errorf("invalid blob name %q: other blobs lie below it", name)
	}
	return blob.ErrExists.Errorf("blob %s exists", name)
}

// ensureDir makes dir and what it lies in, durably.
func (s *store) ensureDir(dir string) error {
	if _, ok := s.durable.Load(dir); ok {
		return nil
	}
	if err := s.ensureDir(filepath.Dir(dir)); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o777); err != nil {
		if !errors.Is(err, fs.ErrExist) {
			return err
		}
		if info, serr := os.Stat(dir); serr == nil && !info.IsDir() {
			return syscall.ENOTDIR
		}
	}
	if err := syncDir(filepath.Dir(dir)); err != nil {
		return err
	}
	s.durable.Store(dir, true)
	return nil
}

func (s *store) forget(dir string) {
	for ; dir != s.dir && len(dir) > len(s.dir); dir = filepath.Dir(dir) {
		s.durable.Delete(dir)
	}
}

// Get implements blob.Store.
func (s *store) Get(ctx context.Context, name string, offset, length int64) (io.ReadCloser, error) {
	f, err := s.open(ctx, name)
	if err != nil {
		return nil, err
	}
	if offset > 0 {
		if _, err := f.Seek(offset, io.SeekStart); err != nil {
			return nil, errors.Join(classify(err, "read blob "+name, reading), f.Close())
		}
	}
	var r io.Reader = &source{r: f, name: name}
	if length >= 0 {
		r = io.LimitReader(r, length)
	}
	return readCloser{blob.ReaderWithContext(ctx, r), f}, nil
}

// Stat implements blob.Store.
func (s *store) Stat(ctx context.Context, name string) (blob.Info, error) {
	if err := blob.CheckName(name); err != nil {
		return blob.Info{}, err
	}
	if ctx.Err() != nil {
		return blob.Info{}, context.Cause(ctx)
	}
	info, err := os.Lstat(s.path(name))
	if err != nil {
		return blob.Info{}, s.classifyNamed(err, name)
	}
	if !info.Mode().IsRegular() {
		return blob.Info{}, blob.ErrNotFound.Errorf("no blob %s", name)
	}
	return blob.Info{Name: name, Size: info.Size(), ModTime: info.ModTime()}, nil
}

// File implements blob.FileStore: the blob's own file.
func (s *store) File(ctx context.Context, name string) (string, error) {
	if _, err := s.Stat(ctx, name); err != nil {
		return "", err
	}
	return s.path(name), blob.CheckEnds(ctx, name)
}

// Delete implements blob.Store. Folders stay, so that it never races with a Put into them.
func (s *store) Delete(ctx context.Context, name string) error {
	if _, err := s.Stat(ctx, name); err != nil {
		return err
	}
	if err := s.writable("delete blob", name); err != nil {
		return err
	}
	if err := os.Remove(s.path(name)); err != nil {
		return s.classifyNamed(err, name)
	}
	return nil
}

// URI implements blob.Store.
func (s *store) URI(name string) string {
	return (&url.URL{Scheme: "file", Path: filepath.ToSlash(s.path(name))}).String()
}

// List implements blob.Store. A blob that appears or goes while it runs may or may not be yielded.
func (s *store) List(ctx context.Context, prefix string) iter.Seq2[blob.Info, error] {
	return func(yield func(blob.Info, error) bool) {
		base := prefix[:strings.LastIndexByte(prefix, '/')+1]
		if base != "" && blob.CheckName(strings.TrimSuffix(base, "/")) != nil {
			return // no name begins so
		}
		s.walk(ctx, base, prefix, yield)
	}
}

// walk yields what is in folder base ("" or "x/y/") and below; it returns false to stop.
func (s *store) walk(ctx context.Context, base, prefix string, yield func(blob.Info, error) bool) bool {
	if ctx.Err() != nil {
		yield(blob.Info{}, context.Cause(ctx))
		return false
	}
	entries, err := os.ReadDir(filepath.Join(s.dir, filepath.FromSlash(base)))
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ENOTDIR):
		return true
	case err != nil:
		yield(blob.Info{}, classify(err, "list blobs in "+base, reading))
		return false
	}
	names := make([]string, 0, len(entries))
	byName := make(map[string]fs.DirEntry, len(entries))
	for _, e := range entries {
		// A folder sorts as "name/": its blobs come after "name.x", whose '.' is below '/'.
		name := base + e.Name()
		if e.IsDir() {
			name += "/"
		}
		if blob.CheckName(e.Name()) != nil || !(strings.HasPrefix(name, prefix) || strings.HasPrefix(prefix, name)) {
			continue
		}
		names = append(names, name)
		byName[name] = e
	}
	slices.Sort(names)
	for _, name := range names {
		if strings.HasSuffix(name, "/") {
			if !s.walk(ctx, name, prefix, yield) {
				return false
			}
			continue
		}
		if !strings.HasPrefix(name, prefix) || !byName[name].Type().IsRegular() {
			continue
		}
		info, err := byName[name].Info()
		if errors.Is(err, fs.ErrNotExist) {
			continue // deleted meanwhile
		}
		if err != nil {
			yield(blob.Info{}, classify(err, "list blobs in "+base, reading))
			return false
		}
		if ctx.Err() != nil {
			yield(blob.Info{}, context.Cause(ctx))
			return false
		}
		if !yield(blob.Info{Name: name, Size: info.Size(), ModTime: info.ModTime()}, nil) {
			return false
		}
	}
	return true
}

func (s *store) path(name string) string { return filepath.Join(s.dir, filepath.FromSlash(name)) }

func (s *store) open(ctx context.Context, name string) (*os.File, error) {
	if err := blob.CheckName(name); err != nil {
		return nil, err
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	f, err := os.OpenFile(s.path(name), os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, s.classifyNamed(err, name)
	}
	info, err := f.Stat()
	if err != nil {
		return nil, errors.Join(classify(err, "read blob "+name, reading), f.Close())
	}
	if !info.Mode().IsRegular() {
		return nil, errors.Join(blob.ErrNotFound.Errorf("no blob %s", name), f.Close())
	}
	return f, nil
}

func (s *store) classifyNamed(err error, name string) error {
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ENOTDIR), errors.Is(err, syscall.ELOOP):
		return blob.ErrNotFound.Errorf("no blob %s", name)
	}
	return classify(err, "read blob "+name, reading)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// destination remembers its own error, so that a full disk is told from a failing reader.
type destination struct {
	w   io.Writer
	err error
}

func (d *destination) Write(p []byte) (int, error) {
	n, err := d.w.Write(p)
	if err != nil {
		d.err = err
	}
	return n, err
}

// source classifies read errors of a blob's file.
type source struct {
	r    io.Reader
	name string
}

func (s *source) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	if err != nil && err != io.EOF {
		err = classify(err, "read blob "+s.name, reading)
	}
	return n, err
}

// onlyReader hides WriterTo, which would pass the context check by.
type onlyReader struct{ io.Reader }

type readCloser struct {
	io.Reader
	io.Closer
}
