package project

import (
	"context"
	"encoding/json"
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
	"unicode/utf8"

	"github.com/zeebo/blake3"

	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/lake"
)

// ErrChanged says that a file changed while it was read.
var ErrChanged = errdef.New(errdef.Unavailable, "project.changed", "a project file changed while it was read")

// Snapshot is the project's code at one moment: what a run executes, whatever is edited meanwhile.
type Snapshot struct {
	ID    string         // hash of Files
	Files []SnapshotFile // code, tarn.toml, and the other files that the code names; by path

	folder []File            // every file of the folder, also those not in Files; by path
	given  map[string]string // texts of files that the folder does not have
}

// SnapshotFile is one file of a snapshot.
type SnapshotFile struct {
	Path    string `json:"path"`
	Hash    string `json:"hash"`
	Size    int64  `json:"size"`
	Mention bool   `json:"-"` // code that contains the word tarn
}

// alwaysIn are the files besides code that decide how code runs.
var alwaysIn = []string{ConfigFile, "pyproject.toml", "requirements.txt"}

// Snapshot hashes the folder's code.
func (f *Folder) Snapshot(ctx context.Context) (*Snapshot, error) {
	files, err := f.Files(ctx)
	if err != nil {
		return nil, err
	}
	s := &Snapshot{folder: files}
	for _, file := range files {
		if !file.isCode() && !slices.Contains(alwaysIn, file.Path) {
			continue
		}
		if err := f.add(s, file); err != nil {
			return nil, err
		}
	}
	s.seal()
	return s, nil
}

// With returns the snapshot extended by the folder's files that match one of the globs, and the paths
// each glob matched.
func (f *Folder) With(s *Snapshot, globs []string) (*Snapshot, map[string][]string, error) {
	out := &Snapshot{Files: slices.Clone(s.Files), folder: s.folder, given: s.given}
	matched := map[string][]string{}
	have := map[string]bool{}
	for _, x := range s.Files {
		have[x.Path] = true
	}
	for _, g := range globs {
		for _, file := range s.candidates(g) {
			if !Match(g, file.Path) {
				continue
			}
			matched[g] = append(matched[g], file.Path)
			if have[file.Path] {
				continue
			}
			have[file.Path] = true
			if err := f.add(out, file); err != nil {
				return nil, nil, err
			}
		}
	}
	out.seal()
	return out, matched, nil
}

const (
	givenFile = "tarn_cell.py"
	mostGiven = 4 << 20
)

// Given returns the snapshot with a file that the folder does not have: what a notebook defines.
func (s *Snapshot) Given(path, text string) (*Snapshot, error) {
	refused := errdef.New(errdef.InvalidArgument, "project.given", "source beside the project cannot be used")
	switch {
	case path != givenFile:
		return nil, refused.Errorf("source beside the project is the file %s, not %q", givenFile, path)
	case s.Holds(path):
		return nil, refused.Errorf("%s is the name of what a notebook defines, and the project has a file of that name. Rename it", path)
	case len(text) > mostGiven || !utf8.ValidString(text):
		return nil, refused.Errorf("the notebook's source has %d bytes: at most %d, as UTF-8", len(text), mostGiven)
	}
	out := &Snapshot{Files: slices.Clone(s.Files), folder: s.folder, given: map[string]string{path: text}}
	out.Files = append(out.Files, SnapshotFile{Path: path, Hash: fmt.Sprintf("%x", blake3.Sum256([]byte(text))), Size: int64(len(text)), Mention: true})
	out.seal()
	return out, nil
}

// candidates are the files that a glob may match: a name without a pattern is looked up, because code
// may name hundreds of files in a folder of 50,000.
func (s *Snapshot) candidates(glob string) []File {
	if strings.ContainsAny(glob, "*?[") {
		return s.folder
	}
	i, ok := slices.BinarySearchFunc(s.folder, path.Clean(glob), func(f File, p string) int { return strings.Compare(f.Path, p) })
	if !ok {
		return nil
	}
	return s.folder[i : i+1]
}

func (f *Folder) add(s *Snapshot, file File) error {
	if !utf8.ValidString(file.Path) {
		return errdef.Newf(errdef.InvalidArgument, "project.name", "the name of %q is not UTF-8. Rename the file", file.Path)
	}
	hash, mention, err := f.hash(file)
	if err != nil {
		return err
	}
	s.Files = append(s.Files, SnapshotFile{Path: file.Path, Hash: hash, Size: file.Size, Mention: mention})
	return nil
}

func (s *Snapshot) seal() {
	slices.SortFunc(s.Files, func(a, b SnapshotFile) int { return strings.Compare(a.Path, b.Path) })
	b, _ := json.Marshal(s.Files) // plain strings and numbers
	s.ID = fmt.Sprintf("%x", blake3.Sum256(b))
}

// Holds reports whether the folder had a file, also one that is no part of the snapshot.
func (s *Snapshot) Holds(path string) bool {
	_, ok := slices.BinarySearchFunc(s.folder, path, func(f File, path string) int { return strings.Compare(f.Path, path) })
	return ok
}

// Hash is the content hash of a file of the snapshot, "" if it is not in it.
func (s *Snapshot) Hash(path string) string {
	if f := s.file(path); f != nil {
		return f.Hash
	}
	return ""
}

// Digest is a hash of the content at a path: of a file, or of all files of the snapshot below it with their names; "" if it has none.
func (s *Snapshot) Digest(p string) string {
	if f := s.file(p); f != nil {
		return f.Hash
	}
	h, some := blake3.New(), false
	for _, f := range s.Files {
		if name, below := strings.CutPrefix(f.Path, p+"/"); below {
			some = true
			fmt.Fprintf(h, "%q %s\n", name, f.Hash) //nolint:errcheck // a hash never fails
		}
	}
	if !some {
		return ""
	}
	return fmt.Sprintf("%x", h.Sum(nil))
}

func (s *Snapshot) file(p string) *SnapshotFile {
	i, ok := slices.BinarySearchFunc(s.Files, p, func(f SnapshotFile, p string) int { return strings.Compare(f.Path, p) })
	if !ok {
		return nil
	}
	return &s.Files[i]
}

// Match reports whether a slash-separated path matches a glob: * and ? within one component, ** over
// any number of them, and at the end over one or more. A path matches itself, whatever it is called:
// code that opens "data[1].csv" means that file.
func Match(glob, p string) bool {
	glob = path.Clean(glob)
	return glob == p || matchParts(strings.Split(glob, "/"), strings.Split(p, "/"))
}

func matchParts(glob, p []string) bool {
	for len(glob) > 0 {
		if glob[0] == "**" {
			for len(glob) > 1 && glob[1] == "**" {
				glob = glob[1:] // each one more would multiply the ways to try
			}
			if len(glob) == 1 {
				return len(p) > 0
			}
			for i := 0; i <= len(p); i++ {
				if matchParts(glob[1:], p[i:]) {
					return true
				}
			}
			return false
		}
		if len(p) == 0 {
			return false
		}
		if ok, err := path.Match(glob[0], p[0]); err != nil || !ok {
			return false
		}
		glob, p = glob[1:], p[1:]
	}
	return len(p) == 0
}

// stored is a snapshot in the lake: a Record.
type stored struct {
	Files []storedFile `json:"files"`
}

type storedFile struct {
	Path string       `json:"path"`
	Hash string       `json:"hash"`
	Ref  lake.FileRef `json:"ref"`
}

// Store writes the snapshot's bytes into b and returns the record that names them. dir holds the
// snapshot's files, as Materialize laid them out.
func (s *Snapshot) Store(ctx context.Context, b *lake.Batch, dir string) (lake.Hash, error) {
	var rec stored
	for _, f := range s.Files {
		r, err := os.Open(filepath.Join(dir, filepath.FromSlash(f.Path)))
		if err != nil {
			return lake.Hash{}, fmt.Errorf("store project file %s: %w", f.Path, err)
		}
		ref, err := b.PutFile(ctx, r)
		r.Close()
		if err != nil {
			return lake.Hash{}, fmt.Errorf("store project file %s: %w", f.Path, err)
		}
		rec.Files = append(rec.Files, storedFile{Path: f.Path, Hash: f.Hash, Ref: ref})
	}
	body, err := json.Marshal(rec)
	if err != nil {
		return lake.Hash{}, fmt.Errorf("encode snapshot: %w", err)
	}
	return b.Put(ctx, lake.TypeRecord, body)
}

// LoadSnapshot lays the stored snapshot out under root and returns the folder.
func LoadSnapshot(ctx context.Context, l *lake.Lake, id lake.Hash, root string) (string, error) {
	body, err := l.Get(ctx, lake.TypeRecord, id)
	if err != nil {
		return "", fmt.Errorf("read snapshot %s: %w", id, err)
	}
	var rec stored
	if err := json.Unmarshal(body, &rec); err != nil {
		return "", errdef.Newf(errdef.DataLoss, "project.snapshot", "snapshot %s: %w", id, err)
	}
	s := &Snapshot{}
	refs := map[string]lake.FileRef{}
	for _, f := range rec.Files {
		if !filepath.IsLocal(f.Path) {
			return "", errdef.Newf(errdef.DataLoss, "project.snapshot", "snapshot %s has a file outside of the project: %q", id, f.Path)
		}
		s.Files = append(s.Files, SnapshotFile{Path: f.Path, Hash: f.Hash, Size: f.Ref.Size})
		refs[f.Path] = f.Ref
	}
	s.seal()
	return s.materialize(root, func(dst string, f SnapshotFile) error {
		return layOut(dst, f, func(f SnapshotFile) (io.ReadCloser, error) { return l.OpenFile(ctx, refs[f.Path]) })
	})
}

// Materialize lays the snapshot out as a read-only folder under root and returns it. The same snapshot
// is laid out once.
func (f *Folder) Materialize(s *Snapshot, root string) (string, error) {
	return s.materialize(root, func(dst string, x SnapshotFile) error { return layOut(dst, x, f.open) })
}

func (f *Folder) open(x SnapshotFile) (io.ReadCloser, error) {
	return os.Open(filepath.Join(f.dir, filepath.FromSlash(x.Path)))
}

var laying sync.Mutex

func (s *Snapshot) materialize(root string, place func(dst string, file SnapshotFile) error) (string, error) {
	laying.Lock()
	defer laying.Unlock()
	dir := filepath.Join(root, s.ID)
	if _, err := os.Stat(dir); err == nil {
		return dir, nil
	}
	if err := os.MkdirAll(root, 0o755); err != nil {
		return "", fmt.Errorf("lay out project: %w", err)
	}
	tmp, err := os.MkdirTemp(root, "new-*")
	if err != nil {
		return "", fmt.Errorf("lay out project: %w", err)
	}
	defer os.RemoveAll(tmp)
	for _, file := range s.Files {
		dst := filepath.Join(tmp, filepath.FromSlash(file.Path))
		if err := os.MkdirAll(filepath.Dir(dst), 0o755); err != nil {
			return "", fmt.Errorf("lay out %s: %w", file.Path, err)
		}
		if text, ok := s.given[file.Path]; ok {
			if err := os.WriteFile(dst, []byte(text), 0o444); err != nil { //nolint:gosec // as every file of it
				return "", fmt.Errorf("lay out %s: %w", file.Path, err)
			}
			continue
		}
		if err := place(dst, file); err != nil {
			return "", err
		}
	}
	if err := os.Chmod(tmp, 0o755); err != nil {
		return "", fmt.Errorf("lay out project: %w", err)
	}
	if err := os.Rename(tmp, dir); err != nil {
		return "", fmt.Errorf("lay out project: %w", err)
	}
	return dir, nil
}

func layOut(dst string, file SnapshotFile, open func(SnapshotFile) (io.ReadCloser, error)) error {
	r, err := open(file)
	if errors.Is(err, fs.ErrNotExist) {
		return ErrChanged.Errorf("%s was removed while it was read; run again", file.Path)
	}
	if err != nil {
		return fmt.Errorf("lay out %s: %w", file.Path, err)
	}
	defer r.Close()
	w, err := os.OpenFile(dst, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("lay out %s: %w", file.Path, err)
	}
	h := blake3.New()
	if _, err := io.Copy(io.MultiWriter(w, h), r); err != nil {
		w.Close()
		return fmt.Errorf("lay out %s: %w", file.Path, err)
	}
	if err := w.Close(); err != nil {
		return fmt.Errorf("lay out %s: %w", file.Path, err)
	}
	if got := fmt.Sprintf("%x", h.Sum(nil)); got != file.Hash {
		return ErrChanged.Errorf("%s changed while it was read; run again", file.Path)
	}
	return os.Chmod(dst, 0o444)
}
