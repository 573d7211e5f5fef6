package catalog

import (
	"context"
	"errors"
	"io/fs"
	"path"
	"strings"
	"time"

	icebergio "github.com/apache/iceberg-go/io"
	"github.com/google/uuid"

	"tarn.dev/tarn/internal/blob"
)

// Names of a table's blobs. A data file is known by the table's uuid and its own name, never by the URI
// that manifests hold for other engines: stores move.
func tableDir(id uuid.UUID) string              { return "tables/" + id.String() }
func dataName(id uuid.UUID, file string) string { return tableDir(id) + "/data/" + file }
func metaName(id uuid.UUID, file string) string { return tableDir(id) + "/metadata/" + file }

// blobName finds the blob that a URI in Iceberg metadata means, by its last four parts.
func blobName(uri string) (string, error) {
	parts := strings.Split(uri, "/")
	if n := len(parts); n >= 4 && parts[n-4] == "tables" && (parts[n-2] == "data" || parts[n-2] == "metadata") {
		name := strings.Join(parts[n-4:], "/")
		if err := blob.CheckName(name); err != nil {
			return "", ErrCorrupt.Errorf("table metadata names the file %q: %w", uri, err)
		}
		return name, nil
	}
	return "", ErrCorrupt.Errorf("table metadata names the file %q, which lies in no table", uri)
}

// fileIO gives iceberg-go the store to read from, for one call: its interface has no context.
type fileIO struct {
	ctx   context.Context
	blobs blob.Store
}

// Open opens the blob that a URI means.
func (f fileIO) Open(uri string) (icebergio.File, error) {
	name, err := blobName(uri)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: uri, Err: err}
	}
	b, err := openBlob(f.ctx, f.blobs, name)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: uri, Err: err}
	}
	return b, nil
}

// Remove refuses: what lives is decided by the lake.
func (f fileIO) Remove(uri string) error {
	return &fs.PathError{Op: "remove", Path: uri, Err: fs.ErrPermission}
}

// blobFile is a blob as iceberg-go wants a file.
type blobFile struct{ *blob.Reader }

func openBlob(ctx context.Context, blobs blob.Store, name string) (blobFile, error) {
	r, err := blob.OpenReader(ctx, blobs, name)
	if errors.Is(err, blob.ErrNotFound) {
		return blobFile{}, ErrCorrupt.Errorf("%s is missing: %w", name, err)
	}
	return blobFile{r}, err
}

// Close does nothing: no reader stays open between reads.
func (f blobFile) Close() error { return nil }

// Stat describes the blob.
func (f blobFile) Stat() (fs.FileInfo, error) { return blobInfo{f.Info()}, nil }

type blobInfo struct{ i blob.Info }

func (b blobInfo) Name() string       { return path.Base(b.i.Name) }
func (b blobInfo) Size() int64        { return b.i.Size }
func (b blobInfo) Mode() fs.FileMode  { return 0o444 }
func (b blobInfo) ModTime() time.Time { return b.i.ModTime }
func (b blobInfo) IsDir() bool        { return false }
func (b blobInfo) Sys() any           { return nil }
