// Package blob is the port to bulk storage: immutable bytes by name.
//
// A name is a slash-separated path of components from [A-Za-z0-9._=-], never "." or "..". A blob is
// written once and never changed; it is visible only whole. The store knows nothing of what the bytes
// mean. Implementations are children (memblob, fsblob, ...); every one passes blobtest.
package blob

import (
	"context"
	"io"
	"iter"
	"time"

	"tarn.dev/tarn/internal/base/errdef"
)

// Errors of every implementation.
var (
	// ErrNotFound is returned by Get, Stat and Delete for a name that has no blob.
	ErrNotFound = errdef.New(errdef.NotFound, "blob.not_found", "no such blob")
	// ErrExists is returned by Put for a name that has a blob; the existing one is untouched.
	ErrExists = errdef.New(errdef.AlreadyExists, "blob.exists", "blob exists")
)

// Info describes one blob.
type Info struct {
	Name    string
	Size    int64
	ModTime time.Time
}

// Store holds blobs. All methods are safe for concurrent use; a canceled context ends a call early
// with the cause and leaves nothing visible.
type Store interface {
	// Put stores everything r yields under name, if name is free, else returns ErrExists. On return
	// the blob is durable: it survives a crash of process and machine. On error nothing is visible.
	Put(ctx context.Context, name string, r io.Reader) error
	// Get reads length bytes from offset; length < 0 means to the end. Reading past the end yields
	// what is there. The caller closes the reader.
	Get(ctx context.Context, name string, offset, length int64) (io.ReadCloser, error)
	// Stat describes one blob.
	Stat(ctx context.Context, name string) (Info, error)
	// List yields the blobs whose name begins with prefix, in bytewise order of names.
	List(ctx context.Context, prefix string) iter.Seq2[Info, error]
	// Delete removes a blob. Readers that are open keep reading it.
	Delete(ctx context.Context, name string) error
	// URI is the address under which other programs (Iceberg readers, DuckDB) find name:
	// file:///... for a directory, s3://... for an object store.
	URI(name string) string
}

// FileStore is a Store whose blobs other programs of this host can read as files.
type FileStore interface {
	Store
	// File returns the path of a file that holds the whole blob. It is only to be read, and stays at least
	// until ctx has ended, which it must at some time.
	File(ctx context.Context, name string) (path string, err error)
}

// FarStore is a FileStore whose blobs are far away. What is read by these methods is kept on this host, as far as there
// is room for it, and is checked each time that it is read again.
type FarStore interface {
	FileStore
	// Small returns the whole of a blob that fits into memory.
	Small(ctx context.Context, name string) ([]byte, error)
	// Ranges reads parts of a blob that has size bytes, and calls take with each: from several goroutines, in any
	// order. The bytes are take's until it returns. A part takes up to MaxRange bytes.
	Ranges(ctx context.Context, name string, size int64, parts []Range, take func(part int, data []byte) error) error
	// Held is File for a blob that is here as a whole; false for any other.
	Held(ctx context.Context, name string) (path string, ok bool)
}

// Range is a part of a blob.
type Range struct{ Offset, Length int64 }

// End is where the range ends.
func (r Range) End() int64 { return r.Offset + r.Length }

// MaxRange bounds a part: so much of it is in memory.
const MaxRange = 4 << 20
