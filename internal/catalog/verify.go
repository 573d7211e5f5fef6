package catalog

import (
	"context"
	"errors"

	"github.com/apache/iceberg-go"

	"tarn.dev/tarn/internal/blob"
	"tarn.dev/tarn/internal/catalog/datafile"
	"tarn.dev/tarn/internal/catalog/dataver"
	"tarn.dev/tarn/internal/lake"
)

// Reach calls first with the name of each blob that a table is made of: what must live as long as the entry
// does. What is below a blob is left out when first says that it came before.
func (c *Catalog) Reach(ctx context.Context, e lake.Entry, first func(name string) bool) error {
	if !first(e.Location.Table) || IsLinked(e) {
		return nil
	}
	s, err := c.load(ctx, e)
	if err != nil {
		return err
	}
	uriFirst := func(uri string) (bool, error) {
		name, err := blobName(uri)
		return err == nil && first(name), err
	}
	if snap := s.meta.snapshot(); snap != nil {
		if ok, err := uriFirst(snap.ManifestList); !ok || err != nil {
			return err
		}
	}
	list, err := c.manifests(ctx, s)
	if err != nil {
		return err
	}
	for _, m := range list {
		ok, err := uriFirst(m.FilePath())
		if err != nil {
			return err
		}
		if !ok {
			continue
		}
		files, err := c.entries(ctx, []iceberg.ManifestFile{m})
		if err != nil {
			return err
		}
		for _, f := range files.deletes {
			if _, err := uriFirst(f.DataFile().FilePath()); err != nil {
				return err
			}
		}
		for _, n := range files.names() {
			first(dataName(s.uuid, n))
		}
	}
	return nil
}

// Verify holds a table to its invariants: all blobs are there, and the entry's version, rows and schema
// are those of its files. With rows, every row is read and each file's sum compared with its name. It reads what the
// store has, no copies.
func (c *Catalog) Verify(ctx context.Context, e lake.Entry, rows bool) error {
	stored := *c
	stored.direct = true
	c = &stored
	if IsLinked(e) {
		_, err := c.Linked(ctx, e)
		return err
	}
	s, err := c.load(ctx, e)
	if err != nil {
		return err
	}
	files, err := c.files(ctx, s)
	if err != nil {
		return err
	}
	version, count, err := versionOf(files)
	if err != nil {
		return err
	}
	if version != e.Version || count != e.Location.Rows {
		return ErrCorrupt.Errorf("the files of %s are version %s of %d rows, the entry says %s of %d", e.Location.Table, version, count, e.Version, e.Location.Rows)
	}
	if f := Fingerprint(s.schema); f != e.Schema {
		return ErrCorrupt.Errorf("the columns of %s are %s, the entry says %s", e.Location.Table, f, e.Schema)
	}
	for _, n := range files.names() {
		f := files.data[n].DataFile()
		info, err := c.blobs.Stat(ctx, dataName(s.uuid, n))
		switch {
		case errors.Is(err, blob.ErrNotFound):
			return ErrCorrupt.Errorf("data file %s is missing: %w", dataName(s.uuid, n), err)
		case err != nil:
			return err
		case info.Size != f.FileSizeBytes():
			return ErrCorrupt.Errorf("data file %s has %d bytes, %d were written", info.Name, info.Size, f.FileSizeBytes())
		}
		want, known := datafile.SumOf(n, f.Count())
		if !rows || !known {
			continue
		}
		var got dataver.Sum
		r := reader{c: c, uuid: s.uuid, ids: s.ids, schema: datafile.Plain(s.schema)}
		err = r.each(ctx, n, func(h hashed) error {
			for _, row := range h.rows {
				got = got.Add(dataver.Sum{Hi: row.Hi, Lo: row.Lo, Rows: 1})
			}
			return nil
		})
		if err != nil {
			return err
		}
		if got != want {
			return ErrCorrupt.Errorf("data file %s holds %s, its name says %s", info.Name, got, want)
		}
	}
	return nil
}
