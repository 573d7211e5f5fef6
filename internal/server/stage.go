package server

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"iter"
	"maps"
	"path"
	"slices"
	"sync"

	tarnv1 "tarn.dev/tarn/api/gen/tarn/v1"
	"tarn.dev/tarn/internal/lake"
)

// stagedFiles is how many files a stage, and the update that it becomes, hold in memory: 10 MB or so.
const stagedFiles = 16 << 10

// stage collects the files of one commit. There may be more than fit in memory: those are in a tree that nothing names.
// Adding is safe for concurrent use; then come done and publish. It belongs to one call, for as long as which nothing
// that it has stored is collected.
type stage struct {
	lake   *lake.Lake
	batch  *lake.Batch
	reused int64                  // bytes that were stored already, of the batches before this one
	may    func(key string) error // refuses what clients do not write

	mu   sync.Mutex
	held map[string]lake.Entry // by key
	tree lake.Tree             // of all that are not held

	files int64
	bytes int64
	one   string // name of the file that came last
}

func newStage(ctx context.Context, l *lake.Lake, may func(key string) error) *stage {
	return &stage{lake: l, batch: l.Begin(ctx), may: may, held: map[string]lake.Entry{}, tree: l.Tree(lake.Hash{})}
}

func (s *stage) discard() { s.batch.Discard() }

// renew makes what was put durable, and goes on with another batch: one remembers each object that it has stored.
// Nothing is put meanwhile.
func (s *stage) renew(ctx context.Context) error {
	err := s.batch.Flush(ctx)
	s.reused += s.batch.Reused()
	s.batch.Discard()
	s.batch = s.lake.Begin(ctx)
	return err
}

// put stores the content of a file.
func (s *stage) put(ctx context.Context, name string, r io.Reader) error {
	key, err := s.key(name)
	if err != nil {
		return err
	}
	ref, err := s.batch.PutFile(ctx, r)
	if err != nil {
		return fmt.Errorf("put %s: %w", name, err)
	}
	return s.add(ctx, key, lake.FileEntry(ref))
}

func (s *stage) putWhole(ctx context.Context, files []*tarnv1.WholeFile) error {
	for _, f := range files {
		if err := s.put(ctx, f.GetPath(), bytes.NewReader(f.GetContent())); err != nil {
			return err
		}
	}
	return nil
}

// key is that of a file that may be written.
func (s *stage) key(name string) (string, error) {
	name, err := filePath(name)
	if err != nil {
		return "", err
	}
	key := lake.FileKey(name)
	return key, s.may(key)
}

func (s *stage) add(ctx context.Context, key string, e lake.Entry) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if was, twice := s.held[key]; twice {
		return errTwice(key, was, e)
	}
	s.held[key] = e
	s.files, s.bytes, s.one = s.files+1, s.bytes+e.Location.Size, lake.DisplayKey(key)
	if len(s.held) < stagedFiles {
		return nil
	}
	return s.spill(ctx)
}

func errTwice(key string, a, b lake.Entry) error {
	if a.Kind == lake.KindExternal && b.Kind == lake.KindExternal {
		return errPath.Errorf("two originals would both become %s: link them to folders of their own", lake.DisplayKey(key))
	}
	return errPath.Errorf("the path %s comes twice: its names differ only in how they are written (Unicode), or two sources have it", lake.DisplayKey(key))
}

// spill moves what is held to the tree.
func (s *stage) spill(ctx context.Context) error {
	before, err := s.tree.Count(ctx)
	if err != nil {
		return err
	}
	edits := make([]lake.Edit, 0, len(s.held))
	for _, key := range slices.Sorted(maps.Keys(s.held)) {
		e := s.held[key]
		edits = append(edits, lake.Edit{Key: key, Entry: &e})
	}
	grown, err := s.tree.Edit(ctx, s.batch, edits)
	if err != nil {
		return err
	}
	after, err := grown.Count(ctx)
	if err != nil {
		return err
	}
	if after != before+int64(len(edits)) {
		return s.findTwice(ctx, edits)
	}
	if err := s.batch.Flush(ctx); err != nil {
		return err
	}
	s.tree = s.lake.Tree(grown.Root()) // without the nodes that the other one keeps
	clear(s.held)
	return nil
}

func (s *stage) findTwice(ctx context.Context, edits []lake.Edit) error {
	for _, e := range edits {
		was, twice, err := s.tree.Get(ctx, e.Key)
		if err != nil {
			return err
		}
		if twice {
			return errTwice(e.Key, was, *e.Entry)
		}
	}
	return nil
}

// done makes everything durable: nothing is added any more.
func (s *stage) done(ctx context.Context) error {
	if !s.tree.Root().IsZero() && len(s.held) > 0 {
		if err := s.spill(ctx); err != nil {
			return err
		}
	}
	return s.renew(ctx)
}

func (s *stage) get(ctx context.Context, key string) (bool, error) {
	if _, ok := s.held[key]; ok {
		return true, nil
	}
	_, ok, err := s.tree.Get(ctx, key)
	return ok, err
}

// all yields the files in the order of their keys.
func (s *stage) all(ctx context.Context) iter.Seq2[lake.KeyEntry, error] {
	if !s.tree.Root().IsZero() {
		return s.tree.Scan(ctx, "", "")
	}
	return func(yield func(lake.KeyEntry, error) bool) {
		for _, key := range slices.Sorted(maps.Keys(s.held)) {
			if !yield(lake.KeyEntry{Key: key, Entry: s.held[key]}, nil) {
				return
			}
		}
	}
}

// publish makes the files one commit.
func (s *stage) publish(ctx context.Context, p *Project, w *tarnv1.Write, verb string) (*tarnv1.Written, error) {
	message := verb + " " + s.one
	switch s.files {
	case 0:
		message = verb + " nothing"
	case 1:
	default:
		message = fmt.Sprintf("%s %d files", verb, s.files)
	}
	pub, err := p.Flow.Publish(ctx, publication(w, message, s.apply))
	if err != nil {
		return nil, err
	}
	return written(w.GetInto(), pub), nil
}

// apply puts the files into the tree of an update. A path is a file or a folder, never both: copies on a disk could not
// hold it.
func (s *stage) apply(ctx context.Context, tx *lake.Tx) error {
	c := collisions{stage: s, tree: s.lake.Tree(tx.Head.Tree)}
	n := 0
	for ke, err := range s.all(ctx) {
		if err != nil {
			return err
		}
		if err := c.check(ctx, ke.Key); err != nil {
			return err
		}
		tx.Put(ke.Key, ke.Entry)
		if n++; n%stagedFiles == 0 {
			if err := tx.Spill(ctx); err != nil {
				return err
			}
		}
	}
	return nil
}

// collisions finds files at the place of folders, and folders at the place of files.
type collisions struct {
	stage   *stage
	tree    lake.Tree       // where the files go
	folders map[string]bool // by path: whether there is something in it; none of them is a file
}

// knownFolders bounds what is remembered: keys come in order, so that no folder is looked at often all the same.
const knownFolders = 4096

func (c *collisions) check(ctx context.Context, key string) error {
	name := lake.DisplayKey(key)
	full, err := c.folder(ctx, name, path.Dir(name))
	if err != nil || !full {
		return err
	}
	isFolder, err := anyUnder(ctx, c.tree, key+"/")
	if err == nil && isFolder {
		err = errPath.Errorf("%s is a folder: write %s/ to store something in it", name, name)
	}
	return err
}

// folder reports whether there is something in the folder dir, which name lies in.
func (c *collisions) folder(ctx context.Context, name, dir string) (full bool, err error) {
	if full, known := c.folders[dir]; known {
		return full, nil
	}
	prefix := lake.FilePrefix
	if dir != "." {
		if _, err := c.folder(ctx, name, path.Dir(dir)); err != nil {
			return false, err
		}
		if err := c.notAFile(ctx, name, dir); err != nil {
			return false, err
		}
		prefix = lake.FileKey(dir) + "/"
	}
	if full, err = anyUnder(ctx, c.tree, prefix); err != nil {
		return false, err
	}
	if c.folders == nil || len(c.folders) == knownFolders {
		c.folders = map[string]bool{}
	}
	c.folders[dir] = full
	return full, nil
}

func (c *collisions) notAFile(ctx context.Context, name, dir string) error {
	key := lake.FileKey(dir)
	_, isFile, err := c.tree.Get(ctx, key)
	if err == nil && !isFile {
		isFile, err = c.stage.get(ctx, key)
	}
	if err == nil && isFile {
		err = errPath.Errorf("%s cannot be stored: %s is a file, not a folder", name, dir)
	}
	return err
}
