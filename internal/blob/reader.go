package blob

import (
	"bytes"
	"context"
	"errors"
	"io"

	"tarn.dev/tarn/internal/base/errdef"
)

// wholeBytes is the size up to which a Reader reads a blob in one go: manifests, lists, most footers.
const wholeBytes = 1 << 20

// Reader reads a blob at any offset, for libraries that want a file. It asks the store for each range, and keeps
// nothing open.
type Reader struct {
	ctx   context.Context //nolint:containedctx // the interfaces of files have none
	blobs Store
	info  Info
	whole *bytes.Reader // of a small blob
	pos   int64
}

// OpenReader returns a reader of a blob, which works until ctx ends.
func OpenReader(ctx context.Context, blobs Store, name string) (*Reader, error) {
	info, err := blobs.Stat(ctx, name)
	if err != nil {
		return nil, err
	}
	r := &Reader{ctx: ctx, blobs: blobs, info: info}
	if info.Size > wholeBytes {
		return r, nil
	}
	data, err := ReadAll(ctx, blobs, name)
	if err != nil {
		return nil, err
	}
	r.whole = bytes.NewReader(data)
	return r, nil
}

// Info describes the blob.
func (r *Reader) Info() Info { return r.info }

// ReadAt reads a range of the blob.
func (r *Reader) ReadAt(p []byte, off int64) (n int, err error) {
	if r.whole != nil {
		return r.whole.ReadAt(p, off)
	}
	if off >= r.info.Size {
		return 0, io.EOF
	}
	src, err := r.blobs.Get(r.ctx, r.info.Name, off, int64(len(p)))
	if err != nil {
		return 0, err
	}
	n, err = io.ReadFull(src, p)
	if errors.Is(err, io.ErrUnexpectedEOF) {
		err = io.EOF
	}
	if e := src.Close(); err == nil {
		err = e
	}
	return n, err
}

// Read reads on from where the last Read or Seek ended.
func (r *Reader) Read(p []byte) (int, error) {
	n, err := r.ReadAt(p, r.pos)
	r.pos += int64(n)
	if n > 0 && errors.Is(err, io.EOF) {
		err = nil
	}
	return n, err
}

// Seek sets the place of the next Read.
func (r *Reader) Seek(off int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		off += r.pos
	case io.SeekEnd:
		off += r.info.Size
	}
	if off < 0 {
		return 0, errdef.Newf(errdef.Internal, "blob.seek", "seek before the start of %s", r.info.Name)
	}
	r.pos = off
	return off, nil
}
