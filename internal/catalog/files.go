package catalog

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"io/fs"
	"path"
	"strings"
	"time"

	icebergio "github.com/apache/iceberg-go/io"
	"github.com/google/uuid"
	"github.com/zeebo/blake3"

	"tarn.dev/tarn/internal/blob"
)

// Names of a table's blobs. A data file is known by the table's uuid and its own name, never by the URI
// that manifests hold for other engines: stores move.
func tableDir(id uuid.UUID) string              { return "tables/" + id.String() }
func dataName(id uuid.UUID, file string) string { return tableDir(id) + "/data/" + file }
func metaName(id uuid.UUID, file string) string { return tableDir(id) + "/metadata/" + file }

// provedName is metaName with a hash of the bytes, so that metadata and manifests prove themselves from the entry
// on: what an entry names, and what that names, is what was written.
func provedName(id uuid.UUID, stem, suffix string, data []byte) string {
	return metaName(id, stem+"-"+nameHash(data)+suffix)
}

func nameHash(data []byte) string {
	h := blake3.NewDeriveKey("tarn.dev 2026 table metadata v1")
	_, _ = h.Write(data) // a hash never fails
	return hex.EncodeToString(h.Sum(nil)[:16])
}

// prove returns ErrCorrupt for bytes that are not those of the hash in name. Names of older tables, and of files
// of other engines, have none.
func prove(name string, data []byte) error {
	stem := name
	for _, suffix := range []string{".metadata.json", ".link.json", "-m0.avro", ".avro"} {
		stem = strings.TrimSuffix(stem, suffix)
	}
	hash := stem[strings.LastIndexByte(stem, '-')+1:] // the last part of a uuid is shorter
	if len(hash) != 32 || hash == nameHash(data) {
		return nil
	}
	return ErrCorrupt.Errorf("%s is not what was written: its bytes do not match the hash in its name", name)
}

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

// fileIO gives iceberg-go manifests to read, for one call: its interface has no context.
type fileIO struct {
	ctx context.Context
	c   *Catalog
}

// Open opens the blob that a URI means.
func (f fileIO) Open(uri string) (icebergio.File, error) {
	name, err := blobName(uri)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: uri, Err: err}
	}
	data, err := f.c.small(f.ctx, name)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: uri, Err: err}
	}
	return manifestFile{bytes.NewReader(data), name}, nil
}

// Remove refuses: what lives is decided by the lake.
func (f fileIO) Remove(uri string) error {
	return &fs.PathError{Op: "remove", Path: uri, Err: fs.ErrPermission}
}

// manifestFile is a blob in memory as iceberg-go wants a file.
type manifestFile struct {
	*bytes.Reader
	name string
}

// Close has nothing to close.
func (f manifestFile) Close() error { return nil }

// Stat describes the blob.
func (f manifestFile) Stat() (fs.FileInfo, error) {
	return manifestInfo{path.Base(f.name), f.Size()}, nil
}

type manifestInfo struct {
	name string
	size int64
}

func (i manifestInfo) Name() string       { return i.name }
func (i manifestInfo) Size() int64        { return i.size }
func (i manifestInfo) Mode() fs.FileMode  { return 0o444 }
func (i manifestInfo) ModTime() time.Time { return time.Time{} }
func (i manifestInfo) IsDir() bool        { return false }
func (i manifestInfo) Sys() any           { return nil }

// openData opens a data file.
func openData(ctx context.Context, blobs blob.Store, name string) (*blob.Reader, error) {
	r, err := blob.OpenReader(ctx, blobs, name)
	if errors.Is(err, blob.ErrNotFound) {
		return nil, ErrCorrupt.Errorf("%s is missing: %w", name, err)
	}
	return r, err
}
