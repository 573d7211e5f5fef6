package s3blob

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"

	"tarn.dev/tarn/internal/blob"
)

// Get implements blob.Store.
func (s *Store) Get(ctx context.Context, name string, offset, length int64) (io.ReadCloser, error) {
	key, err := s.key(ctx, name)
	if err != nil {
		return nil, err
	}
	if length == 0 {
		if _, err := s.Stat(ctx, name); err != nil {
			return nil, err
		}
		return io.NopCloser(bytes.NewReader(nil)), nil
	}
	offset = max(offset, 0)
	out, err := s.open(ctx, key, offset, length, "")
	if status(err) == http.StatusRequestedRangeNotSatisfiable { // it ends before offset
		return io.NopCloser(bytes.NewReader(nil)), nil
	}
	if err != nil {
		return nil, s.classifyNamed(ctx, err, name)
	}
	r := &reader{
		ctx: ctx, store: s, name: name, key: key, etag: aws.ToString(out.ETag), body: out.Body,
		pos: offset, end: offset + aws.ToInt64(out.ContentLength),
	}
	return readCloser{blob.ReaderWithContext(ctx, r), r}, nil
}

// open asks for length bytes from offset, of the object that has etag if that is not empty.
func (s *Store) open(ctx context.Context, key string, offset, length int64, etag string) (*s3.GetObjectOutput, error) {
	in := &s3.GetObjectInput{Bucket: &s.location.Bucket, Key: &key, ChecksumMode: types.ChecksumModeEnabled}
	switch {
	case length >= 0:
		in.Range = aws.String(fmt.Sprintf("bytes=%d-%d", offset, offset+length-1))
	case offset > 0:
		in.Range = aws.String(fmt.Sprintf("bytes=%d-", offset))
	}
	if etag != "" {
		in.IfMatch = &etag
	}
	return s.client.GetObject(ctx, in)
}

// reader reads an object's bytes from pos to end, over as many connections as it takes.
type reader struct {
	ctx              context.Context //nolint:containedctx // of the one Get that it belongs to
	store            *Store
	name, key, etag  string
	body             io.ReadCloser
	pos, end         int64
	failures         int // since the last byte
	failed, finished error
}

// Read reads on; a connection that breaks is replaced.
func (r *reader) Read(p []byte) (int, error) {
	for r.finished == nil {
		if r.failed != nil {
			if r.finished = r.resume(); r.finished != nil {
				break
			}
		}
		n, err := r.body.Read(p)
		r.pos += int64(n)
		if n > 0 {
			r.failures = 0
		}
		switch {
		case errors.Is(err, io.EOF) && r.pos == r.end:
			r.finished = io.EOF
		case err == nil:
		case r.pos == r.end: // all has come; the checksum is of something else
			r.finished = ErrChanged.Errorf("read blob %s: %w", r.name, err)
		case errors.Is(err, io.EOF):
			r.failed = io.ErrUnexpectedEOF
		default:
			r.failed = err
		}
		if n > 0 {
			return n, nil
		}
	}
	return 0, r.finished
}

// resume opens the rest of the object, after a wait if nothing has come since the last time.
func (r *reader) resume() error {
	if r.failures == attempts {
		return ErrUnreachable.Errorf("read blob %s: the connection breaks again and again, now at byte %d: %w", r.name, r.pos, r.failed)
	}
	if r.failures > 0 {
		if err := pause(r.ctx, r.failures); err != nil {
			return err
		}
	}
	if r.ctx.Err() != nil {
		return context.Cause(r.ctx)
	}
	r.failures++
	_ = r.body.Close() // it is broken
	out, err := r.store.open(r.ctx, r.key, r.pos, r.end-r.pos, r.etag)
	switch {
	case status(err) == http.StatusPreconditionFailed:
		return ErrChanged.Errorf("read blob %s: it was replaced while it was read", r.name)
	case err != nil:
		return r.store.classifyNamed(r.ctx, err, r.name)
	}
	r.body, r.failed = out.Body, nil
	return nil
}

// Close ends the connection that is read from.
func (r *reader) Close() error {
	_ = r.body.Close() // nothing was written
	return nil
}

type readCloser struct {
	io.Reader
	io.Closer
}
