package catalog

import (
	"context"
	"path"

	"github.com/apache/iceberg-go"

	"tarn.dev/tarn/internal/catalog/dataver"
	"tarn.dev/tarn/internal/lake"
)

// Relocate writes metadata and manifests that name a table's files where they lie now, for other engines: our own code finds
// them by uuid and name. Rows and identity stay. It returns e itself when nothing in it names another place.
func (c *Catalog) Relocate(ctx context.Context, name string, e lake.Entry) (lake.Entry, error) {
	if IsLinked(e) {
		return e, nil
	}
	s, err := c.load(ctx, e)
	if err != nil {
		return e, err
	}
	list, err := c.manifests(ctx, s)
	if err != nil {
		return e, err
	}
	files, err := c.entries(ctx, list)
	if err != nil {
		return e, err
	}
	if !c.elsewhere(s, list, files) {
		return e, nil
	}
	if len(files.deletes) > 0 {
		return e, ErrForeign.Errorf("%s has %d delete files of another engine; let it rewrite the table", name, len(files.deletes))
	}
	t := draftOf(name, s)
	t.op, t.size = opReplace, e.Location.Size
	for _, n := range files.names() {
		moved, err := c.moved(s, files.data[n])
		if err != nil {
			return e, err
		}
		t.exist = append(t.exist, moved)
	}
	if t.sum, t.rowsKnown = sumOfEntry(e); !t.rowsKnown {
		t.sum = dataver.Sum{}
	}
	next, err := c.commit(ctx, t, e)
	if err != nil {
		return e, err
	}
	out := e
	out.Location.Table = next.Location.Table
	if !next.SameIdentity(&e) {
		return e, ErrCorrupt.Errorf("%s is version %s, its files are version %s", name, e.Version, next.Version)
	}
	return out, nil
}

// elsewhere reports whether anything of a table names another place than the one where it lies.
func (c *Catalog) elsewhere(s *state, list []iceberg.ManifestFile, files fileSet) bool {
	if s.meta.Location != c.blobs.URI(tableDir(s.uuid)) {
		return true
	}
	if snap := s.meta.snapshot(); snap != nil && snap.ManifestList != c.blobs.URI(metaName(s.uuid, path.Base(snap.ManifestList))) {
		return true
	}
	for _, m := range list {
		if m.FilePath() != c.blobs.URI(metaName(s.uuid, path.Base(m.FilePath()))) {
			return true
		}
	}
	for n, f := range files.data {
		if f.DataFile().FilePath() != c.blobs.URI(dataName(s.uuid, n)) {
			return true
		}
	}
	return false
}

// moved is the entry of a data file, at the place where it lies.
func (c *Catalog) moved(s *state, e iceberg.ManifestEntry) (iceberg.ManifestEntry, error) {
	f := e.DataFile()
	b, err := iceberg.NewDataFileBuilder(*iceberg.UnpartitionedSpec, iceberg.EntryContentData, c.blobs.URI(dataName(s.uuid, path.Base(f.FilePath()))),
		f.FileFormat(), nil, nil, nil, f.Count(), f.FileSizeBytes())
	if err != nil {
		return nil, ErrCorrupt.Errorf("manifest entry of %s: %w", f.FilePath(), err)
	}
	b.ColumnSizes(f.ColumnSizes()).ValueCounts(f.ValueCounts()).NullValueCounts(f.NullValueCounts()).NaNValueCounts(f.NaNValueCounts())
	b.LowerBoundValues(f.LowerBoundValues()).UpperBoundValues(f.UpperBoundValues()).SplitOffsets(f.SplitOffsets())
	snap, seq := e.SnapshotID(), e.SequenceNum()
	return iceberg.NewManifestEntry(iceberg.EntryStatusEXISTING, &snap, &seq, e.FileSequenceNum(), b.Build()), nil
}
