package flow

import (
	"context"
	"errors"
	"io"
	"iter"
	"net/url"
	"path"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/blob"
	"tarn.dev/tarn/internal/catalog"
	"tarn.dev/tarn/internal/external"
	"tarn.dev/tarn/internal/flow/memo"
	"tarn.dev/tarn/internal/lake"
	"tarn.dev/tarn/internal/query"
)

// ErrLinkSource means that a URL names no files that a table can be.
var ErrLinkSource = errdef.New(errdef.InvalidArgument, "table.link_source", "no Parquet files")

// LinkTable makes a table of Parquet files that stay where they are, as one commit. What reads the table reads them.
func (f *Flow) LinkTable(ctx context.Context, w TableWrite, urls []string) (*TableWritten, error) {
	w.Mode = ReplaceRows
	if err := w.check(); err != nil {
		return nil, err
	}
	if out, ok, err := f.tableAnswered(ctx, w); ok || err != nil {
		return out, err
	}
	if _, err := f.writable(ctx, w); err != nil {
		return nil, err
	}
	if w.Info.Message == "" {
		w.Info.Message = "Link " + w.Table
	}
	files, err := f.findParquet(ctx, urls)
	if err != nil {
		return nil, err
	}
	linked, err := f.lookInto(ctx, w.Table, files)
	if err != nil {
		return nil, err
	}
	key := tableKey(w.Table)
	pub, err := f.Publish(ctx, Publication{Branch: w.Branch, Info: w.Info, Dir: w.Dir, Change: func(ctx context.Context, tx *lake.Tx) error {
		head, err := entryAt(ctx, f.lake.Tree(tx.Head.Tree), key)
		if err != nil {
			return err
		}
		e, err := f.tables.Link(ctx, linked)
		if err != nil || head.SameIdentity(&e) {
			return err
		}
		p := memo.Provenance{Kind: memo.ByLink, Author: w.Info.Author, Time: now()}
		for _, file := range files {
			p.Source = append(p.Source, memo.FileSource{Path: file.URL, Size: file.Size, Hash: file.Version()})
		}
		if e.Location.Provenance, err = memo.PutProvenance(ctx, tx.Batch(), p); err != nil {
			return err
		}
		tx.Put(key, e)
		return nil
	}})
	if err != nil {
		return &TableWritten{Published: pub, Key: key}, err
	}
	return f.tableWritten(ctx, pub, key)
}

// findParquet lists the files that URLs name, each once; of folders, those whose names say that they are Parquet.
func (f *Flow) findParquet(ctx context.Context, urls []string) ([]external.State, error) {
	var files []external.State
	seen := map[string]bool{}
	for _, u := range urls {
		none := true
		for found, err := range f.Originals.Find(ctx, u) {
			if err != nil {
				return nil, err
			}
			if seen[found.URL] || !found.One && !isParquet(found.Name) {
				continue
			}
			none, seen[found.URL] = false, true
			files = append(files, found.State)
		}
		if none && len(seen) == 0 {
			return nil, ErrLinkSource.Errorf("%s holds no Parquet files (.parquet, .pq)", u).
				WithNext("files of other formats can be read into a table: tarn table import")
		}
	}
	if len(files) == 0 {
		return nil, ErrLinkSource.Errorf("no file was named")
	}
	return files, nil
}

// isParquet tells by the name of a file below a folder. What begins with a dot or an underscore are notes of its writers.
func isParquet(name string) bool {
	for part := range strings.SplitSeq(name, "/") {
		if strings.HasPrefix(part, ".") || strings.HasPrefix(part, "_") {
			return false
		}
	}
	_, format := ending(path.Base(name))
	return format == "parquet"
}

// lookInto finds the columns and the number of rows of files, which takes an engine: the table is what it makes of them.
func (f *Flow) lookInto(ctx context.Context, table string, files []external.State) (catalog.Linked, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	name := query.Name{Table: "linked"}
	source, err := f.linkedSource(ctx, name, files)
	if err != nil {
		return catalog.Linked{}, err
	}
	rows, err := f.count(ctx, query.Job{SQL: "SELECT count(*) FROM linked", Sources: []query.Source{source}})
	if err != nil {
		return catalog.Linked{}, unreadable(table, err)
	}
	described, err := f.Engine.Run(ctx, query.Job{SQL: "FROM linked", Sources: []query.Source{source}, Describe: true}, nil)
	if err != nil {
		return catalog.Linked{}, unreadable(table, err)
	}
	schema, err := query.ParseSchema(described.Schema)
	return catalog.Linked{Schema: schema, Rows: rows, Files: files}, err
}

func unreadable(table string, err error) error {
	if code := errdef.CodeOf(err); code != errdef.InvalidArgument {
		return err
	}
	return ErrLinkSource.Errorf("%s cannot be a table of these files: %w", table, err)
}

// fetches is how many originals are fetched at once.
const fetches = 8

// linkedSource says how the engine reads files of somebody else, by the names of their columns. The files, and copies of
// those far away, stay until ctx has ended.
func (f *Flow) linkedSource(ctx context.Context, name query.Name, files []external.State) (query.Source, error) {
	paths := make([]string, len(files))
	var near []external.State // on this host, and read where they are
	var mu sync.Mutex
	// Not the group's own context: copies stay until the one that they are asked for with has ended.
	g := errgroup.Group{}
	g.SetLimit(fetches)
	for i, file := range files {
		g.Go(func() error {
			here, path, err := f.localOriginal(ctx, file)
			err = ofTable(err)
			mu.Lock()
			defer mu.Unlock()
			if paths[i] = path; here {
				near = append(near, file)
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return query.Source{}, err
	}
	scan := &query.ImportScan{Format: "parquet", Paths: paths, Options: map[string]any{"union_by_name": true, "hive_partitioning": false}}
	return query.Source{Name: name, Import: scan, Still: func(ctx context.Context) error {
		for _, file := range near {
			if err := f.Originals.Check(ctx, file); err != nil {
				return ofTable(err)
			}
		}
		return nil
	}}, nil
}

// ofTable says of an original of a table that has changed what to do next.
func ofTable(err error) error {
	if e := new(errdef.Error); errors.Is(err, external.ErrChanged) && errors.As(err, &e) {
		changed := *e
		changed.Next = []string{"link it again, as a new version: tarn table link", "take what is there now: tarn query --accept-drift"}
		return &changed
	}
	return err
}

// drifted puts what originals are now in the place of what was linked.
func (f *Flow) drifted(ctx context.Context, files []external.State) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(looks)
	for i := range files {
		g.Go(func() (err error) {
			files[i], err = f.Originals.Now(ctx, files[i].URL)
			return err
		})
	}
	return g.Wait()
}

// localOriginal is a file of this host with the bytes of an original: the original itself (here), or a copy.
func (f *Flow) localOriginal(ctx context.Context, file external.State) (here bool, at string, err error) {
	if err := f.Originals.Check(ctx, file); err != nil {
		return false, "", err
	}
	u, err := url.Parse(file.URL)
	if err != nil {
		return false, "", err
	}
	if u.Scheme == "file" {
		// The sandbox shows what a link leads to, and a path with a character of patterns would be one.
		real, err := filepath.EvalSymlinks(filepath.FromSlash(u.Path))
		if err == nil && !strings.ContainsAny(real, `*?[]\`) {
			return true, real, nil
		}
	}
	at, err = f.Copies.Of(originalBlob{f.Originals, file}).File(ctx, originalName)
	return false, at, err
}

// Copier gives blobs that are far away as files of this host.
type Copier interface {
	Of(far blob.Store) blob.FarStore
}

// originalBlob is a store with one blob, which is what was linked: so it is copied as blobs of a bucket are.
type originalBlob struct {
	originals *external.Originals
	state     external.State
}

// originalName is the name of the one blob of an originalBlob.
const originalName = "original"

var errOneOriginal = errdef.New(errdef.Internal, "table.one_original", "an original is read, and read whole")

// Get implements blob.Store.
func (o originalBlob) Get(ctx context.Context, _ string, offset, length int64) (io.ReadCloser, error) {
	if offset != 0 || length >= 0 {
		return nil, errOneOriginal
	}
	return o.originals.Open(ctx, o.state, 0)
}

// Stat implements blob.Store.
func (o originalBlob) Stat(context.Context, string) (blob.Info, error) {
	return blob.Info{Name: originalName, Size: o.state.Size, ModTime: o.state.Modified}, nil
}

// URI implements blob.Store. Copies go by it: another state of the same original is another one.
func (o originalBlob) URI(string) string { return "original:" + o.state.Version() }

// Put implements blob.Store.
func (originalBlob) Put(context.Context, string, io.Reader) error { return errOneOriginal }

// Delete implements blob.Store.
func (originalBlob) Delete(context.Context, string) error { return errOneOriginal }

// List implements blob.Store.
func (originalBlob) List(context.Context, string) iter.Seq2[blob.Info, error] {
	return func(yield func(blob.Info, error) bool) { yield(blob.Info{}, errOneOriginal) }
}
