package fusefs

import (
	"context"
	"errors"
	"io/fs"
	"path"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/cespare/xxhash/v2"
	"github.com/hanwen/go-fuse/v2/fuse"
)

// forever is how long the kernel may keep what it was told.
const forever = 24 * time.Hour

// files answers the kernel. It is written to the raw interface of the library: its tree of nodes costs several times as
// much for each file that the kernel knows as the map here.
type files struct {
	fuse.RawFileSystem // refuses everything else
	tree               Tree
	content            *content
	options            Options
	owner              fuse.Owner
	ctx                context.Context //nolint:containedctx // of the mount

	mu       sync.Mutex
	nodes    map[uint64]*node
	listings map[uint64]*listing
	opened   uint64 // listings, ever
}

// node is a file that the kernel knows.
type node struct {
	path    string
	entry   Entry
	lookups uint64 // how often the kernel was told of it
}

// listing is an open folder.
type listing struct {
	mu    sync.Mutex
	path  string
	begin uint64 // how many entries come before the page
	page  []Entry
	more  bool
}

func newFiles(ctx context.Context, t Tree, o Options, owner fuse.Owner) *files {
	return &files{
		RawFileSystem: fuse.NewDefaultRawFileSystem(), tree: t, content: newContent(ctx, t), options: o, owner: owner, ctx: ctx,
		nodes:    map[uint64]*node{fuse.FUSE_ROOT_ID: {entry: Entry{Mode: fs.ModeDir}, lookups: 1}},
		listings: map[uint64]*listing{},
	}
}

// number is the inode number of a path: the same in every mount of the same tree. Two files may have the same.
func number(path string) uint64 { return max(xxhash.Sum64String(path), fuse.FUSE_ROOT_ID+1) }

func join(folder, name string) string { return strings.TrimPrefix(folder+"/"+name, "/") }

func folderOf(path string) string { return path[:strings.LastIndexByte(path, '/')+1] }

func (f *files) node(id uint64) *node {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.nodes[id]
}

// remember makes a file known to the kernel, by an id that no other file has.
func (f *files) remember(name string, e Entry) (id uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for id = number(name); ; id++ {
		n := f.nodes[id]
		if n == nil {
			n = &node{path: name, entry: e}
			n.entry.Name = path.Base(name) // not one of its own, beside the path's
			f.nodes[id] = n
		}
		if n.path == name {
			n.lookups++
			return id
		}
	}
}

// Forget implements fuse.RawFileSystem.
func (f *files) Forget(id, lookups uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if n := f.nodes[id]; n != nil {
		if n.lookups -= min(lookups, n.lookups); n.lookups == 0 {
			delete(f.nodes, id)
		}
	}
}

// call is the context of one question to the tree.
func (f *files) call(interrupted <-chan struct{}) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithTimeoutCause(f.ctx, patience, ErrSlow)
	go func() {
		if await(interrupted, ctx.Done()) != nil {
			cancel()
		}
	}()
	return ctx, cancel
}

// status is what a program sees of an error. Its reason goes to whoever mounted.
func (f *files) status(ctx context.Context, path string, err error) fuse.Status {
	err = reason(ctx, err)
	switch {
	case f.ctx.Err() != nil: // it ends
		return fuse.Status(syscall.ENOTCONN)
	case errors.Is(err, fs.ErrNotExist):
		return fuse.ENOENT
	case errors.Is(err, syscall.EINTR) || errors.Is(err, context.Canceled):
		return fuse.EINTR
	}
	f.options.Report(path, err)
	return fuse.EIO
}

// Lookup implements fuse.RawFileSystem.
func (f *files) Lookup(interrupted <-chan struct{}, header *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	parent := f.node(header.NodeId)
	if parent == nil {
		return fuse.Status(syscall.ESTALE)
	}
	ctx, cancel := f.call(interrupted)
	defer cancel()
	e, err := f.tree.Look(ctx, parent.path, name)
	if errors.Is(err, fs.ErrNotExist) {
		out.SetEntryTimeout(forever) // without a node: it is not there, and will not be
		return fuse.OK
	}
	at := join(parent.path, name)
	if err != nil {
		return f.status(ctx, at, err)
	}
	f.known(at, e, out)
	return fuse.OK
}

// known tells the kernel of a file.
func (f *files) known(at string, e Entry, out *fuse.EntryOut) {
	out.NodeId = f.remember(at, e)
	out.SetEntryTimeout(forever)
	out.SetAttrTimeout(forever)
	f.attributes(at, e, &out.Attr)
}

func (f *files) attributes(at string, e Entry, out *fuse.Attr) {
	*out = fuse.Attr{Ino: number(at), Size: uint64(e.Size), Blocks: uint64(e.Size+511) / 512, Mode: mode(e), Nlink: 1, Owner: f.owner, Blksize: smallFile}
	if at == "" {
		out.Ino = fuse.FUSE_ROOT_ID
	}
	out.SetTimes(&f.options.Time, &f.options.Time, &f.options.Time)
}

// mode has the owner's right to write, though nobody can: copies shall have it.
func mode(e Entry) uint32 {
	switch {
	case e.Mode.IsDir():
		return syscall.S_IFDIR | 0o755
	case e.Mode&fs.ModeSymlink != 0:
		return syscall.S_IFLNK | 0o777
	case e.Mode&0o100 != 0:
		return syscall.S_IFREG | 0o755
	}
	return syscall.S_IFREG | 0o644
}

// GetAttr implements fuse.RawFileSystem.
func (f *files) GetAttr(_ <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	n := f.node(in.NodeId)
	if n == nil {
		return fuse.Status(syscall.ESTALE)
	}
	f.attributes(n.path, n.entry, &out.Attr)
	out.SetTimeout(forever)
	return fuse.OK
}

// Readlink implements fuse.RawFileSystem.
func (f *files) Readlink(_ <-chan struct{}, header *fuse.InHeader) ([]byte, fuse.Status) {
	n := f.node(header.NodeId)
	if n == nil {
		return nil, fuse.Status(syscall.ESTALE)
	}
	return []byte(n.entry.Target), fuse.OK
}

// Open implements fuse.RawFileSystem. The kernel understands that files need no opening, keeps what it has read of
// them, and never asks again: two questions less for each file.
func (f *files) Open(<-chan struct{}, *fuse.OpenIn, *fuse.OpenOut) fuse.Status { return fuse.ENOSYS }

// Read implements fuse.RawFileSystem.
func (f *files) Read(interrupted <-chan struct{}, in *fuse.ReadIn, _ []byte) (fuse.ReadResult, fuse.Status) {
	n := f.node(in.NodeId)
	if n == nil {
		return nil, fuse.Status(syscall.ESTALE)
	}
	parts, err := f.content.read(interrupted, n.path, n.entry.Size, int64(in.Offset), int64(in.Size))
	if err != nil {
		return nil, f.status(f.ctx, n.path, err)
	}
	if len(parts) == 1 {
		return fuse.ReadResultData(parts[0]), fuse.OK
	}
	return fuse.ReadResultVector(parts), fuse.OK
}

// OpenDir implements fuse.RawFileSystem.
func (f *files) OpenDir(_ <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	n := f.node(in.NodeId)
	if n == nil {
		return fuse.Status(syscall.ESTALE)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.opened++
	f.listings[f.opened] = &listing{path: n.path, more: true}
	out.Fh, out.OpenFlags = f.opened, fuse.FOPEN_KEEP_CACHE|fuse.FOPEN_CACHE_DIR
	return fuse.OK
}

// ReleaseDir implements fuse.RawFileSystem.
func (f *files) ReleaseDir(in *fuse.ReleaseIn) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.listings, in.Fh)
}

// ReadDir implements fuse.RawFileSystem.
func (f *files) ReadDir(interrupted <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	return f.list(interrupted, in, func(_ string, _ *Entry, d fuse.DirEntry) bool { return out.AddDirEntry(d) })
}

// ReadDirPlus implements fuse.RawFileSystem.
func (f *files) ReadDirPlus(interrupted <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	return f.list(interrupted, in, func(at string, e *Entry, d fuse.DirEntry) bool {
		told := out.AddDirLookupEntry(d)
		if told != nil && e != nil {
			f.known(at, *e, told)
		}
		return told != nil
	})
}

// list adds what comes behind the first in.Offset entries of a folder, until add has no more room.
func (f *files) list(interrupted <-chan struct{}, in *fuse.ReadIn, add func(at string, e *Entry, d fuse.DirEntry) bool) fuse.Status {
	f.mu.Lock()
	l := f.listings[in.Fh]
	f.mu.Unlock()
	if l == nil {
		return fuse.EBADF
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	ctx, cancel := f.call(interrupted)
	defer cancel()
	dots := []string{".", ".."}
	for i := in.Offset; ; i++ {
		if i < uint64(len(dots)) {
			if !add("", nil, fuse.DirEntry{Name: dots[i], Mode: syscall.S_IFDIR, Ino: in.NodeId, Off: i + 1}) {
				return fuse.OK
			}
			continue
		}
		e, err := l.entry(ctx, f.tree, i-uint64(len(dots)))
		if err != nil {
			return f.status(ctx, l.path, err)
		}
		if e == nil {
			return fuse.OK
		}
		at := join(l.path, e.Name)
		if !add(at, e, fuse.DirEntry{Name: e.Name, Mode: mode(*e), Ino: number(at), Off: i + 1}) {
			return fuse.OK
		}
	}
}

// entry returns the i-th entry of the folder, nil behind the last one. It holds one page at a time.
func (l *listing) entry(ctx context.Context, t Tree, i uint64) (*Entry, error) {
	if i < l.begin { // read again from the begin
		l.begin, l.page, l.more = 0, nil, true
	}
	for i >= l.begin+uint64(len(l.page)) {
		if !l.more {
			return nil, nil
		}
		var after *Entry
		if len(l.page) > 0 {
			after = &l.page[len(l.page)-1]
		}
		page, more, err := t.List(ctx, l.path, after)
		if err != nil {
			return nil, err
		}
		l.begin += uint64(len(l.page))
		l.page, l.more = page, more && len(page) > 0
	}
	return &l.page[i-l.begin], nil
}

// StatFs implements fuse.RawFileSystem. How much there is nobody has counted.
func (f *files) StatFs(_ <-chan struct{}, _ *fuse.InHeader, out *fuse.StatfsOut) fuse.Status {
	*out = fuse.StatfsOut{Bsize: 4096, Frsize: 4096, NameLen: 255}
	return fuse.OK
}
