package catalog

import (
	"context"
	"errors"

	"tarn.dev/tarn/internal/blob"
	"tarn.dev/tarn/internal/catalog/datafile"
	"tarn.dev/tarn/internal/catalog/dataver"
	"tarn.dev/tarn/internal/lake"
)

// Blobs lists the blobs that a table is made of: what must live as long as the entry does.
func (c *Catalog) Blobs(ctx context.Context, e lake.Entry) ([]string, error) {
	s, err := c.load(ctx, e)
	if err != nil {
		return nil, err
	}
	names := []string{e.Location.Table}
	uris := []string{}
	if snap := s.meta.snapshot(); snap != nil {
		uris = append(uris, snap.ManifestList)
	}
	list, err := c.manifests(ctx, s)
	if err != nil {
		return nil, err
	}
	for _, m := range list {
		uris = append(uris, m.FilePath())
	}
	files, err := c.entries(ctx, list)
	if err != nil {
		return nil, err
	}
	for _, f := range files.deletes {
		uris = append(uris, f.DataFile().FilePath())
	}
	for _, uri := range uris {
		n, err := blobName(uri)
		if err != nil {
			return nil, err
		}
		names = append(names, n)
	}
	for _, n := range files.names() {
		names = append(names, dataName(s.uuid, n))
	}
	return names, nil
}

// Verify holds a table to its invariants: all blobs are there, and the entry's version, rows and schema
// are those of its files. With rows, every row is read and each file's sum compared with its name.
func (c *Catalog) Verify(ctx context.Context, e lake.Entry, rows bool) error {
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
