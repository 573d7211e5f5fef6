package project

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"
	"unicode/utf8"

	"github.com/zeebo/blake3"

	"tarn.dev/tarn/internal/base/errdef"
)

// MostBeside is how many bytes of files beside code a whole folder has: they are copied.
const MostBeside = 1 << 30

// whole is the last answer of Whole, and what it was asked.
type whole struct {
	folder []File
	code   string
	snap   *Snapshot
	left   []string
}

// Whole returns the snapshot extended by every file of the folder, the small ones first as long as there is room; left are the
// others. The bytes of each are kept in pool as they were read, so one that is written meanwhile fails nothing: it is
// what it was at some moment. A folder that has not changed costs a comparison.
func (f *Folder) Whole(s *Snapshot, pool string) (all *Snapshot, left []string, err error) {
	f.mu.Lock()
	last := f.whole
	f.mu.Unlock()
	if last.snap != nil && last.code == s.ID && slices.Equal(last.folder, s.folder) {
		return last.snap, last.left, nil
	}
	if err := os.MkdirAll(pool, 0o700); err != nil {
		return nil, nil, fmt.Errorf("lay out project: %w", err)
	}
	out := &Snapshot{folder: s.folder, given: s.given}
	for path := range s.given {
		out.Files = append(out.Files, *s.file(path))
	}
	room, settled := int64(MostBeside), true
	for _, file := range slices.SortedStableFunc(slices.Values(s.folder), func(a, b File) int { return cmp.Compare(a.Size, b.Size) }) {
		switch {
		case file.isCode() || slices.Contains(alwaysIn, file.Path): // as it was discovered
			if had := s.file(file.Path); had != nil {
				out.Files = append(out.Files, *had)
			}
			continue
		case !utf8.ValidString(file.Path) || file.Size > room:
			left = append(left, file.Path)
			continue
		}
		hash, remembered, err := f.pooled(file, pool)
		if errors.Is(err, fs.ErrNotExist) { // removed since it was listed
			continue
		}
		if err != nil {
			return nil, nil, errdef.Newf(errdef.FailedPrecondition, "project.unreadable", "cannot read %s: %w", file.Path, err)
		}
		room -= file.Size
		settled = settled && remembered
		out.Files = append(out.Files, SnapshotFile{Path: file.Path, Hash: hash, Size: file.Size})
	}
	out.seal()
	if settled {
		f.mu.Lock()
		f.whole = whole{folder: s.folder, code: s.ID, snap: out, left: left}
		f.mu.Unlock()
	}
	return out, left, nil
}

// pooled has a file's bytes in pool under their hash. settled says that the file's stamp stands for them.
func (f *Folder) pooled(file File, pool string) (hash string, settled bool, err error) {
	f.mu.Lock()
	k, ok := f.known[file.Path]
	f.mu.Unlock()
	if ok && k.stamp == file.stamp {
		if _, err := os.Lstat(filepath.Join(pool, k.hash)); err == nil {
			return k.hash, true, nil
		}
	}
	began := time.Now()
	r, err := os.Open(filepath.Join(f.dir, filepath.FromSlash(file.Path)))
	if err != nil {
		return "", false, err
	}
	defer r.Close()
	w, err := os.CreateTemp(pool, "new-*")
	if err != nil {
		return "", false, err
	}
	defer os.Remove(w.Name()) //nolint:errcheck // it has another name by then, or is not wanted
	h := blake3.New()
	_, err = io.Copy(io.MultiWriter(w, h), r)
	if err := errors.Join(err, w.Chmod(0o444), w.Close()); err != nil {
		return "", false, err
	}
	hash = fmt.Sprintf("%x", h.Sum(nil))
	if err := os.Link(w.Name(), filepath.Join(pool, hash)); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", false, err
	}
	return hash, f.remember(file, r, began, known{stamp: file.stamp, hash: hash}), nil
}

// MaterializeWhole lays out what Whole returned.
func (f *Folder) MaterializeWhole(s *Snapshot, root, pool string) (string, error) {
	return s.materialize(root, func(dst string, x SnapshotFile) error {
		err := os.Link(filepath.Join(pool, x.Hash), dst)
		if errors.Is(err, fs.ErrNotExist) { // code
			return layOut(dst, x, f.open)
		}
		if err != nil {
			return fmt.Errorf("lay out %s: %w", x.Path, err)
		}
		return nil
	})
}
