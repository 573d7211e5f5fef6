// Package s3blob keeps blobs as objects in a bucket of Amazon S3, or of a server that speaks its protocol.
//
// A blob NAME is the object PREFIX/NAME. Put sends what fits a part as one object, and more as parts; the name is
// taken by the last request, on condition that nobody has it (If-None-Match: *), so put-if-absent holds under races
// between hosts. What a crash leaves are parts, which nobody sees but a lifecycle rule or ListMultipartUploads.
//
// Every put carries a mark of its own. When an answer was lost, the put is repeated; who is then told that the name
// is taken finds its own mark there, and knows that the first request had done it.
//
// What may pass (throttling, a server's failure, a lost connection) is repeated after random waits that grow, within
// a budget. A reader whose connection breaks goes on where it was, on condition that the object is the same.
//
// Where a bucket is weaker than a folder: a put that failed because the store could not be reached any more may still
// have happened; and a reader keeps reading a deleted blob only as long as its connection lasts.
package s3blob

import (
	"context"
	"errors"
	"io"
	"iter"
	"net/url"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"

	"tarn.dev/tarn/internal/blob"
)

// Limits on names: S3's for a whole key, and what is left to prefixes so that names of blobs fit.
const (
	maxKey    = 1024
	maxPrefix = 400
)

// Store is a blob.Store in a bucket, below a prefix. Make one with Open.
type Store struct {
	client   *s3.Client
	location Location
	prefix   string // empty or ends in "/"
}

var _ blob.Store = (*Store)(nil)

// Below is the store of the names that begin with folder and a slash.
func (s *Store) Below(folder string) *Store {
	return &Store{client: s.client, location: s.location, prefix: s.prefix + folder + "/"}
}

// Within says whether a place, which goes by the same bucket name, lies in this store.
func (s *Store) Within(l Location) bool {
	return l.Bucket == s.location.Bucket && strings.HasPrefix(l.Prefix, s.prefix)
}

// key is the object's key of a blob.
func (s *Store) key(ctx context.Context, name string) (string, error) {
	if err := blob.CheckName(name); err != nil {
		return "", err
	}
	if n := len(s.prefix) + len(name); n > maxKey {
		return "", blob.ErrInvalidName.Errorf("invalid blob name %.40q...: %d bytes with its prefix, at most %d", name, n, maxKey)
	}
	return s.prefix + name, ended(ctx, nil)
}

// Stat implements blob.Store.
func (s *Store) Stat(ctx context.Context, name string) (blob.Info, error) {
	key, err := s.key(ctx, name)
	if err != nil {
		return blob.Info{}, err
	}
	out, err := s.head(ctx, key)
	if err != nil {
		return blob.Info{}, s.classifyNamed(ctx, err, name)
	}
	return blob.Info{Name: name, Size: aws.ToInt64(out.ContentLength), ModTime: aws.ToTime(out.LastModified)}, nil
}

func (s *Store) head(ctx context.Context, key string) (*s3.HeadObjectOutput, error) {
	return s.client.HeadObject(ctx, &s3.HeadObjectInput{Bucket: &s.location.Bucket, Key: &key})
}

// Delete implements blob.Store. Of two that delete one blob at once, both may succeed.
func (s *Store) Delete(ctx context.Context, name string) error {
	if _, err := s.Stat(ctx, name); err != nil {
		return err
	}
	_, err := s.client.DeleteObject(ctx, &s3.DeleteObjectInput{Bucket: &s.location.Bucket, Key: aws.String(s.prefix + name)})
	if err != nil {
		return s.classifyNamed(ctx, err, name)
	}
	return nil
}

// URI implements blob.Store.
func (s *Store) URI(name string) string {
	return (&url.URL{Scheme: Scheme, Host: s.location.Bucket, Path: "/" + s.prefix + name}).String()
}

// List implements blob.Store. A blob that appears or goes while it runs may or may not be yielded.
func (s *Store) List(ctx context.Context, prefix string) iter.Seq2[blob.Info, error] {
	return func(yield func(blob.Info, error) bool) {
		if prefix != "" && blob.CheckName(prefix) != nil && blob.CheckName(prefix+"x") != nil {
			return // no name begins so
		}
		for p := range s.pages(ctx, s.prefix+prefix, 0) {
			if p.err != nil {
				yield(blob.Info{}, ended(ctx, s.classify(p.err, "list "+s.URI(prefix))))
				return
			}
			for _, o := range p.objects {
				name := strings.TrimPrefix(aws.ToString(o.Key), s.prefix)
				if blob.CheckName(name) != nil {
					continue // the marker, or somebody else's
				}
				if ctx.Err() != nil {
					yield(blob.Info{}, context.Cause(ctx))
					return
				}
				if !yield(blob.Info{Name: name, Size: aws.ToInt64(o.Size), ModTime: aws.ToTime(o.LastModified)}, nil) {
					return
				}
			}
		}
	}
}

type page struct {
	objects []types.Object
	err     error
}

// pages yields the objects whose key begins with prefix, most pages of 1,000; the first error is the last page.
func (s *Store) pages(ctx context.Context, prefix string, limit int32) iter.Seq[page] {
	return func(yield func(page) bool) {
		in := &s3.ListObjectsV2Input{Bucket: &s.location.Bucket, Prefix: &prefix}
		if limit > 0 {
			in.MaxKeys = &limit
		}
		for p := s3.NewListObjectsV2Paginator(s.client, in); p.HasMorePages(); {
			out, err := p.NextPage(ctx)
			if err != nil {
				yield(page{err: err})
				return
			}
			if !yield(page{objects: out.Contents}) {
				return
			}
		}
	}
}

// classifyNamed also knows the answers that are about one object.
func (s *Store) classifyNamed(ctx context.Context, err error, name string) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	// An answer to HEAD does not tell a bucket that is missing; it was there when the store was opened.
	if c := code(err); c == noKeyCode || c == headNoKeyCode {
		return blob.ErrNotFound.Errorf("no blob %s", name)
	}
	return s.classify(err, s.URI(name))
}

func (s *Store) readAll(ctx context.Context, key string, limit int64) (_ string, err error) {
	out, err := s.client.GetObject(ctx, &s3.GetObjectInput{Bucket: &s.location.Bucket, Key: &key})
	if err != nil {
		return "", err
	}
	b, err := io.ReadAll(io.LimitReader(out.Body, limit))
	return string(b), errors.Join(err, out.Body.Close())
}
