package s3blob

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"golang.org/x/sync/errgroup"

	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/base/fault"
	"tarn.dev/tarn/internal/blob"
)

// What a large blob is cut into. S3 takes 10,000 parts of 5 MiB or more, so a blob may have 78 GiB; a put holds up to
// three parts in memory.
const (
	partSize = 8 << 20
	maxParts = 10_000
	inFlight = 2

	smallPart = 64 << 10
)

// markKey is the metadata under which an object says which put made it.
const markKey = "tarn-put"

// How long, and how often, a failed put tries to remove its parts.
const (
	abortTime  = 10 * time.Second
	abortTries = 4
)

// putting is one put under way.
type putting struct {
	store     *Store
	name, key string
	mark      map[string]string
	whole     []byte  // the blob, if it is smaller than a part
	uploadID  *string // else that of its parts
	parts     []*types.CompletedPart
}

// Put implements blob.Store.
func (s *Store) Put(ctx context.Context, name string, r io.Reader) error {
	key, err := s.key(ctx, name)
	if err != nil {
		return err
	}
	p := &putting{store: s, name: name, key: key, mark: map[string]string{markKey: rand.Text()}}
	if err = p.bring(ctx, blob.ReaderWithContext(ctx, r)); err == nil {
		err = p.publish(ctx)
	}
	if err == nil {
		return nil
	}
	if p.uploadID != nil {
		p.abort(ctx)
	}
	return ended(ctx, err)
}

// bring reads everything, and uploads it if it is more than a part. Nothing is visible after it.
func (p *putting) bring(ctx context.Context, r io.Reader) error {
	first, err := p.next(r)
	if err != nil {
		return err
	}
	if len(first) < partSize {
		p.whole = first
		return nil
	}
	if _, err := p.store.head(ctx, p.key); err == nil { // spares the upload; publish decides
		return p.exists()
	}
	out, err := p.store.client.CreateMultipartUpload(ctx, &s3.CreateMultipartUploadInput{
		Bucket: &p.store.location.Bucket, Key: &p.key, Metadata: p.mark,
		ChecksumAlgorithm: types.ChecksumAlgorithmCrc32, ChecksumType: types.ChecksumTypeFullObject,
	})
	if err != nil {
		return p.classify(err)
	}
	p.uploadID = out.UploadId
	return p.upload(ctx, first, r)
}

// next reads a part. One that is shorter than partSize is the last. Most blobs are small, and take no whole part.
func (p *putting) next(r io.Reader) ([]byte, error) {
	part, n := make([]byte, smallPart), 0
	for {
		if n == len(part) {
			if n == partSize {
				return part, nil
			}
			part = append(make([]byte, 0, partSize), part...)[:partSize]
		}
		k, err := r.Read(part[n:])
		n += k
		switch {
		case errors.Is(err, io.EOF):
			return part[:n], nil
		case err != nil:
			return nil, fmt.Errorf("put blob %s: %w", p.name, err)
		}
	}
}

// upload uploads parts while it reads the next one.
func (p *putting) upload(ctx context.Context, part []byte, r io.Reader) (err error) {
	uploads, ctx := errgroup.WithContext(ctx)
	uploads.SetLimit(inFlight)
	defer func() {
		if failed := uploads.Wait(); err == nil {
			err = failed
		}
	}()
	for len(part) > 0 && ctx.Err() == nil {
		if len(p.parts) == maxParts {
			return errdef.Newf(errdef.InvalidArgument, "blob.too_large", "put blob %s: it has more than %d GiB", p.name, maxParts*partSize>>30)
		}
		number := int32(len(p.parts) + 1) //nolint:gosec // at most maxParts
		sent, data := &types.CompletedPart{PartNumber: &number}, part
		p.parts = append(p.parts, sent)
		uploads.Go(func() error { return p.send(ctx, sent, data) })
		if len(part) < partSize {
			break
		}
		if part, err = p.next(r); err != nil {
			return err
		}
	}
	return nil
}

func (p *putting) send(ctx context.Context, part *types.CompletedPart, data []byte) error {
	out, err := p.store.client.UploadPart(ctx, &s3.UploadPartInput{
		Bucket: &p.store.location.Bucket, Key: &p.key, UploadId: p.uploadID, PartNumber: part.PartNumber, Body: bytes.NewReader(data),
		ChecksumAlgorithm: types.ChecksumAlgorithmCrc32,
	})
	if err != nil {
		return p.classify(err)
	}
	part.ETag, part.ChecksumCRC32 = out.ETag, out.ChecksumCRC32
	return nil
}

// publish makes the blob visible, if its name is free.
func (p *putting) publish(ctx context.Context) error {
	for try := 0; ; try++ {
		err := p.take(ctx)
		if err == nil {
			return fault.Point("blob.s3.after_put")
		}
		free, err := p.settle(ctx, err)
		if err == nil || !free || try == attempts {
			return err
		}
		if err := pause(ctx, try); err != nil {
			return err
		}
	}
}

func (p *putting) take(ctx context.Context) error {
	if err := fault.Point("blob.s3.before_put"); err != nil {
		return err
	}
	if p.uploadID == nil {
		_, err := p.store.client.PutObject(ctx, &s3.PutObjectInput{
			Bucket: &p.store.location.Bucket, Key: &p.key, Body: bytes.NewReader(p.whole), IfNoneMatch: aws.String("*"), Metadata: p.mark,
		})
		return err
	}
	parts := make([]types.CompletedPart, len(p.parts))
	for i, part := range p.parts {
		parts[i] = *part
	}
	_, err := p.store.client.CompleteMultipartUpload(ctx, &s3.CompleteMultipartUploadInput{
		Bucket: &p.store.location.Bucket, Key: &p.key, UploadId: p.uploadID, IfNoneMatch: aws.String("*"),
		MultipartUpload: &types.CompletedMultipartUpload{Parts: parts}, ChecksumType: types.ChecksumTypeFullObject,
	})
	return err
}

// settle finds out what became of a blob that the server refused, or did not answer for any more. The name is free
// if the other put for which it was refused came to nothing, or what it made is deleted.
func (p *putting) settle(ctx context.Context, err error) (free bool, _ error) {
	refused := status(err) == http.StatusPreconditionFailed || code(err) == conflictCode
	gone := code(err) == noUploadCode
	if answered := status(err) != 0 && status(err) < 500; answered && !refused && !gone {
		return false, p.classify(err)
	}
	there, headErr := p.store.head(ctx, p.key)
	switch {
	case headErr == nil && there.Metadata[markKey] == p.mark[markKey]:
		return false, nil // an earlier request of ours had done it; its answer was lost
	case headErr == nil:
		return false, p.exists()
	}
	return refused && status(headErr) == http.StatusNotFound, p.classify(err)
}

// abort removes the parts of a put that failed, also when its context has ended. A part that was under way may arrive
// after the first attempt. Parts that it cannot remove are as those of a crash.
func (p *putting) abort(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), abortTime)
	defer cancel()
	for try := range abortTries {
		_, err := p.store.client.AbortMultipartUpload(ctx, &s3.AbortMultipartUploadInput{
			Bucket: &p.store.location.Bucket, Key: &p.key, UploadId: p.uploadID,
		})
		if err != nil || pause(ctx, try) != nil {
			return // most of the time because there is no such upload any more
		}
	}
}

func (p *putting) exists() error { return blob.ErrExists.Errorf("blob %s exists", p.name) }

func (p *putting) classify(err error) error { return p.store.classify(err, "put blob "+p.name) }

// pause waits before the next try.
func pause(ctx context.Context, try int) error {
	t := time.NewTimer(wait(try))
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
