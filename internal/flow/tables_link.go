package flow

import (
	"context"
	"errors"
	"io"
	"iter"
	"net/url"
	"path"
	"path/filepath"
	"strconv"
	"strings"

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
	name := query.Name{Table: "linked"}
	source, err := f.linkedSource(ctx, name, catalog.Linked{Files: files})
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

// linkedSource says how the engine reads files of somebody else, by the names of their columns: those of this host where
// they are, of others what it needs of them.
func (f *Flow) linkedSource(ctx context.Context, name query.Name, linked catalog.Linked) (query.Source, error) {
	dir, err := f.farDir()
	if err != nil {
		return query.Source{}, err
	}
	far := &query.Far{Blobs: f.Copies.Of(originals{f.Originals, linked.Files}), Dir: dir, Files: make([]query.FarFile, len(linked.Files))}
	here := make([]bool, len(linked.Files))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(looks)
	for i, file := range linked.Files {
		g.Go(func() error {
			path, err := f.nearPath(file)
			if err == nil {
				err = ofTable(f.Originals.Check(ctx, file))
			}
			here[i], far.Files[i] = path != "", query.FarFile{Name: originalName(i), Size: file.Size, Path: path, URL: file.URL}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return query.Source{}, err
	}
	scan := &query.ParquetScan{ByName: true, Far: far}
	if linked.Schema != nil {
		for _, c := range linked.Schema.Fields() {
			scan.Columns = append(scan.Columns, query.ColumnOf(0, c.Name, c.Type, c.Type))
		}
	}
	return query.Source{Name: name, Parquet: scan, Still: func(ctx context.Context) error {
		for i, file := range linked.Files {
			if !here[i] { // what came from far is compared as it comes
				continue
			}
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

// nearPath is where the engine can read an original itself; "" if it cannot.
func (f *Flow) nearPath(file external.State) (string, error) {
	u, err := url.Parse(file.URL)
	if err != nil || u.Scheme != "file" {
		return "", err
	}
	// The sandbox shows what a link leads to, and a path with a character of patterns would be one.
	real, err := filepath.EvalSymlinks(filepath.FromSlash(u.Path))
	if err != nil || strings.ContainsAny(real, `*?[]\`) {
		return "", nil // reading it says what is wrong
	}
	return real, nil
}

// Copier keeps what is read of blobs that are far away.
type Copier interface {
	Of(far blob.Store) blob.FarStore
}

// originals are what was linked, as blobs: so parts of them are kept as those of a bucket are.
type originals struct {
	sources *external.Originals
	states  []external.State
}

// originalName is the name of the i-th of the originals.
func originalName(i int) string { return strconv.Itoa(i) }

var errReadOriginal = errdef.New(errdef.Internal, "table.read_original", "an original is only read")

// at is what was recorded of an original.
func (o originals) at(name string) (external.State, error) {
	i, err := strconv.Atoi(name)
	if err != nil || i < 0 || i >= len(o.states) {
		return external.State{}, errReadOriginal.Errorf("there is no original %q", name)
	}
	return o.states[i], nil
}

// Get implements blob.Store.
func (o originals) Get(ctx context.Context, name string, offset, length int64) (io.ReadCloser, error) {
	state, err := o.at(name)
	if err != nil {
		return nil, err
	}
	r, err := o.sources.Open(ctx, state, external.Part{Offset: offset, Length: length})
	return r, ofTable(err)
}

// Stat implements blob.Store.
func (o originals) Stat(_ context.Context, name string) (blob.Info, error) {
	state, err := o.at(name)
	return blob.Info{Name: name, Size: state.Size, ModTime: state.Modified}, err
}

// URI implements blob.Store. What is kept goes by it: another state of the same original is another one.
func (o originals) URI(name string) string {
	state, err := o.at(name)
	if err != nil {
		return ""
	}
	return "original:" + state.Version()
}

// Put implements blob.Store.
func (originals) Put(context.Context, string, io.Reader) error { return errReadOriginal }

// Delete implements blob.Store.
func (originals) Delete(context.Context, string) error { return errReadOriginal }

// List implements blob.Store.
func (originals) List(context.Context, string) iter.Seq2[blob.Info, error] {
	return func(yield func(blob.Info, error) bool) { yield(blob.Info{}, errReadOriginal) }
}
