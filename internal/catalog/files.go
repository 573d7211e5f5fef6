package catalog

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"path"
	"strings"
	"time"

	icebergio "github.com/apache/iceberg-go/io"
	"github.com/google/uuid"

	"tarn.dev/tarn/internal/base/errdef"
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

// blobFile is a blob that can be read at any offset.
type blobFile struct {
	ctx   context.Context
	blobs blob.Store
	info  blob.Info
	whole *bytes.Reader // small files are read once
	pos   int64
}

// wholeBytes is the size up to which a blob is read in one go: manifests, lists, most footers.
const wholeBytes = 1 << 20

func openBlob(ctx context.Context, blobs blob.Store, name string) (*blobFile, error) {
	info, err := blobs.Stat(ctx, name)
	if err != nil {
		if errors.Is(err, blob.ErrNotFound) {
			return nil, ErrCorrupt.Errorf("%s is missing: %w", name, err)
		}
		return nil, err
	}
	f := &blobFile{ctx: ctx, blobs: blobs, info: info}
	if info.Size <= wholeBytes {
		data, err := readBlob(ctx, blobs, name)
		if err != nil {
			return nil, err
		}
		f.whole = bytes.NewReader(data)
	}
	return f, nil
}

// ReadAt reads a range of the blob.
func (f *blobFile) ReadAt(p []byte, off int64) (n int, err error) {
	if f.whole != nil {
		return f.whole.ReadAt(p, off)
	}
	if off >= f.info.Size {
		return 0, io.EOF
	}
	r, err := f.blobs.Get(f.ctx, f.info.Name, off, int64(len(p)))
	if err != nil {
		return 0, err
	}
	n, err = io.ReadFull(r, p)
	if errors.Is(err, io.ErrUnexpectedEOF) {
		err = io.EOF
	}
	if e := r.Close(); err == nil {
		err = e
	}
	return n, err
}

// Read reads on from where the last Read or Seek ended.
func (f *blobFile) Read(p []byte) (int, error) {
	n, err := f.ReadAt(p, f.pos)
	f.pos += int64(n)
	if n > 0 && errors.Is(err, io.EOF) {
		err = nil
	}
	return n, err
}

// Seek sets the place of the next Read.
func (f *blobFile) Seek(off int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		off += f.pos
	case io.SeekEnd:
		off += f.info.Size
	}
	if off < 0 {
		return 0, errdef.Newf(errdef.Internal, "catalog.seek", "seek before the start of %s", f.info.Name)
	}
	f.pos = off
	return off, nil
}

// Close does nothing: no reader stays open between reads.
func (f *blobFile) Close() error { return nil }

// Stat describes the blob.
func (f *blobFile) Stat() (fs.FileInfo, error) { return blobInfo{f.info}, nil }

type blobInfo struct{ i blob.Info }

func (b blobInfo) Name() string       { return path.Base(b.i.Name) }
func (b blobInfo) Size() int64        { return b.i.Size }
func (b blobInfo) Mode() fs.FileMode  { return 0o444 }
func (b blobInfo) ModTime() time.Time { return b.i.ModTime }
func (b blobInfo) IsDir() bool        { return false }
func (b blobInfo) Sys() any           { return nil }
