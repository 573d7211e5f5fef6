// Package project reads a project folder: its configuration, which files belong to it, and their
// contents' hashes.
//
// A Folder remembers what it hashed, so that looking again at 50,000 unchanged files costs one lstat
// each. Code (Python, SQL, scripts) is always part of a Snapshot; other files only when code names
// them. A Snapshot can be stored in the lake and laid out again elsewhere, byte for byte.
package project

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/zeebo/blake3"
	"golang.org/x/sync/errgroup"

	"tarn.dev/tarn/internal/base/errdef"
)

// Folder is a project folder with what is remembered of its files. Safe for concurrent use.
type Folder struct {
	dir string

	mu    sync.Mutex
	known map[string]known
	whole whole
}

type known struct {
	stamp   stamp
	hash    string
	mention bool // contains "tarn"
}

// stamp changes whenever a file's bytes may have.
type stamp struct {
	size         int64
	mtime, ctime int64
	inode        uint64
}

// Open returns the folder at dir, which must be absolute.
func Open(dir string) *Folder { return &Folder{dir: dir, known: map[string]known{}} }

// Dir is the folder's absolute path.
func (f *Folder) Dir() string { return f.dir }

// File is one file of the folder.
type File struct {
	Path  string // slash-separated, relative to the folder
	Size  int64
	stamp stamp
}

// IsPython, IsSQL and IsScript tell code by its name.
func (f File) IsPython() bool { return path.Ext(f.Path) == ".py" }

// IsSQL reports a .sql file.
func (f File) IsSQL() bool { return path.Ext(f.Path) == ".sql" }

// IsScript reports a file in a scripting language that may carry a tarn header.
func (f File) IsScript() bool { return slices.Contains(scriptExts, path.Ext(f.Path)) }

func (f File) isCode() bool { return f.IsPython() || f.IsSQL() || f.IsScript() }

var scriptExts = []string{".sh", ".bash", ".R", ".r", ".jl", ".js", ".mjs", ".rb", ".pl", ".awk", ".lua", ".php"}

// Files lists the project's files in order of path: regular files that are neither hidden, nor
// ignored by a .gitignore, nor in a virtual environment or a package folder.
func (f *Folder) Files(ctx context.Context) ([]File, error) {
	w := &walker{root: f.dir}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(8)
	w.group = g
	g.Go(func() error { return w.dir(ctx, "", nil) })
	if err := g.Wait(); err != nil {
		return nil, fmt.Errorf("read project folder %s: %w", f.dir, err)
	}
	slices.SortFunc(w.files, func(a, b File) int { return strings.Compare(a.Path, b.Path) })
	return w.files, nil
}

type walker struct {
	root  string
	group *errgroup.Group
	mu    sync.Mutex
	files []File
}

func skipFolder(abs, name string) bool {
	if strings.HasPrefix(name, ".") || name == "__pycache__" || name == "node_modules" {
		return true
	}
	if b, err := os.ReadFile(filepath.Join(abs, "format")); err == nil && bytes.HasPrefix(b, []byte("tarn-home")) {
		return true // a store that somebody keeps beside the code
	}
	_, err := os.Lstat(filepath.Join(abs, "pyvenv.cfg"))
	return err == nil
}

func (w *walker) dir(ctx context.Context, rel string, rs rules) error {
	if err := context.Cause(ctx); err != nil {
		return err
	}
	abs := filepath.Join(w.root, filepath.FromSlash(rel))
	entries, err := os.ReadDir(abs)
	if errors.Is(err, fs.ErrNotExist) && rel != "" {
		return nil // removed while we looked
	}
	if err != nil {
		return err
	}
	if b, err := os.ReadFile(filepath.Join(abs, ".gitignore")); err == nil {
		rs = append(slices.Clone(rs), readRules(rel, b)...)
	}
	var here []File
	for _, e := range entries {
		p := path.Join(rel, e.Name())
		switch {
		case strings.HasPrefix(e.Name(), "."), rs.ignored(p, e.IsDir()):
		case e.IsDir():
			if skipFolder(filepath.Join(abs, e.Name()), e.Name()) {
				continue
			}
			sub := func() error { return w.dir(ctx, p, rs) }
			if !w.group.TryGo(sub) {
				if err := sub(); err != nil {
					return err
				}
			}
		case e.Type().IsRegular():
			info, err := e.Info()
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err != nil {
				return err
			}
			here = append(here, File{Path: p, Size: info.Size(), stamp: stampOf(info)})
		}
	}
	w.mu.Lock()
	w.files = append(w.files, here...)
	w.mu.Unlock()
	return nil
}

func stampOf(info fs.FileInfo) stamp {
	s := stamp{size: info.Size(), mtime: info.ModTime().UnixNano()}
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		s.ctime, s.inode = st.Ctim.Nano(), st.Ino
	}
	return s
}

// settle is how much older than its hashing a file's last change must be for the hash to be
// remembered: within a clock tick, a second write could leave the same stamp.
const settle = 50 * time.Millisecond

// hash returns the content hash of file and whether it mentions tarn.
func (f *Folder) hash(file File) (string, bool, error) {
	f.mu.Lock()
	k, ok := f.known[file.Path]
	f.mu.Unlock()
	if ok && k.stamp == file.stamp {
		return k.hash, k.mention, nil
	}
	began := time.Now()
	r, err := os.Open(filepath.Join(f.dir, filepath.FromSlash(file.Path)))
	if err != nil {
		return "", false, errdef.Newf(errdef.FailedPrecondition, "project.unreadable", "cannot read %s: %w", file.Path, err)
	}
	defer r.Close()
	h := blake3.New()
	var seen mention
	var w io.Writer = h
	if file.isCode() {
		w = io.MultiWriter(h, &seen)
	}
	if _, err := io.Copy(w, r); err != nil {
		return "", false, errdef.Newf(errdef.FailedPrecondition, "project.unreadable", "cannot read %s: %w", file.Path, err)
	}
	k = known{stamp: file.stamp, hash: fmt.Sprintf("%x", h.Sum(nil)), mention: seen.found}
	f.remember(file, r, began, k)
	return k.hash, k.mention, nil
}

// remember keeps what is known of a file that was read from r, if its stamp stands for it.
func (f *Folder) remember(file File, r *os.File, began time.Time, k known) bool {
	info, err := r.Stat()
	if err != nil || stampOf(info) != file.stamp || began.UnixNano()-file.stamp.ctime <= settle.Nanoseconds() {
		return false
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.known[file.Path] = k
	return true
}

// mention is a writer that looks for the word tarn, also across writes.
type mention struct {
	tail  []byte
	found bool
}

func (m *mention) Write(p []byte) (int, error) {
	if !m.found {
		m.tail = append(m.tail, p...)
		m.found = bytes.Contains(m.tail, []byte("tarn"))
		if n := len(m.tail); n > 3 {
			m.tail = append(m.tail[:0], m.tail[n-3:]...)
		}
	}
	return len(p), nil
}
