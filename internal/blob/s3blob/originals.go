package s3blob

import (
	"context"
	"errors"
	"io"
	"iter"
	"net/http"
	"net/url"
	"path"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"

	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/blob"
	"tarn.dev/tarn/internal/external"
)

// Originals reads objects of any bucket as external.Source: s3://BUCKET/KEY, with the options of the URL of a bucket.
type Originals struct {
	mu      sync.Mutex
	buckets map[string]*Store // by URL without the key
}

var _ external.Source = (*Originals)(nil)

// bucket returns the bucket of a URL, and the key in it, which may be any.
func (o *Originals) bucket(ctx context.Context, u *url.URL) (*Store, string, error) {
	l, err := locate(u)
	if err != nil {
		return nil, "", err
	}
	key := strings.TrimPrefix(u.Path, "/")
	at := (&url.URL{Scheme: u.Scheme, Host: u.Host, RawQuery: u.RawQuery}).String()
	o.mu.Lock()
	defer o.mu.Unlock()
	if s := o.buckets[at]; s != nil {
		return s, key, nil
	}
	s, err := connect(context.WithoutCancel(ctx), l)
	if err != nil {
		return nil, "", err
	}
	if o.buckets == nil {
		o.buckets = map[string]*Store{}
	}
	o.buckets[at] = s
	return s, key, nil
}

// object is the URL of another key in the bucket of u.
func object(u *url.URL, key string) *url.URL {
	return &url.URL{Scheme: u.Scheme, Host: u.Host, Path: "/" + key, RawQuery: u.RawQuery}
}

// Find implements external.Source. A key that is an object is that; else it is a folder, which ends in a slash.
func (o *Originals) Find(ctx context.Context, u *url.URL) iter.Seq2[external.Found, error] {
	return func(yield func(external.Found, error) bool) {
		s, key, err := o.bucket(ctx, u)
		if err != nil {
			yield(external.Found{}, err)
			return
		}
		prefix, strip := key, len(key)
		if key != "" && !strings.HasSuffix(key, "/") {
			state, err := o.Stat(ctx, object(u, key))
			if !errors.Is(err, external.ErrGone) {
				yield(external.Found{State: state, Name: path.Base(key), One: true}, err)
				return
			}
			prefix, strip = key+"/", strings.LastIndex(key, "/")+1
		}
		for p := range s.pages(ctx, prefix, 0) {
			if p.err != nil {
				yield(external.Found{}, s.classifyOriginal(ctx, p.err, u))
				return
			}
			for _, found := range p.objects {
				key := aws.ToString(found.Key)
				if strings.HasSuffix(key, "/") { // what consoles make for an empty folder
					continue
				}
				state := external.State{
					URL: object(u, key).String(), ETag: aws.ToString(found.ETag), Size: aws.ToInt64(found.Size), Modified: whole(found.LastModified),
				}
				if !yield(external.Found{State: state, Name: key[strip:]}, nil) {
					return
				}
			}
		}
	}
}

// Stat implements external.Source.
func (o *Originals) Stat(ctx context.Context, u *url.URL) (external.State, error) {
	s, key, err := o.bucket(ctx, u)
	if err != nil {
		return external.State{}, err
	}
	out, err := s.head(ctx, key)
	if err != nil {
		return external.State{}, s.classifyOriginal(ctx, err, u)
	}
	return external.State{
		URL: u.String(), ETag: aws.ToString(out.ETag), Size: aws.ToInt64(out.ContentLength), Modified: whole(out.LastModified),
	}, nil
}

// Open implements external.Source.
func (o *Originals) Open(ctx context.Context, u *url.URL, etag string, part external.Part) (io.ReadCloser, external.State, error) {
	s, key, err := o.bucket(ctx, u)
	if err != nil {
		return nil, external.State{}, err
	}
	out, err := s.open(ctx, key, part.Offset, part.Length, etag)
	if err != nil {
		return nil, external.State{}, s.classifyOriginal(ctx, err, u)
	}
	state := external.State{
		URL: u.String(), ETag: aws.ToString(out.ETag), Size: external.Whole(aws.ToString(out.ContentRange), aws.ToInt64(out.ContentLength)), Modified: whole(out.LastModified),
	}
	r := &reader{ctx: ctx, store: s, name: u.String(), key: key, etag: state.ETag, body: out.Body, pos: part.Offset, end: part.End(state.Size)}
	return readCloser{blob.ReaderWithContext(ctx, r), r}, state, nil
}

// whole is a time in seconds: a list may tell more of it than the answer to HEAD.
func whole(at *time.Time) time.Time { return aws.ToTime(at).Truncate(time.Second) }

func (s *Store) classifyOriginal(ctx context.Context, err error, u *url.URL) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	switch c := code(err); {
	case c == noKeyCode, c == headNoKeyCode:
		return external.ErrGone.Errorf("%s: no such object", u)
	case status(err) == http.StatusPreconditionFailed, status(err) == http.StatusRequestedRangeNotSatisfiable: // it is shorter by now
		return external.ErrChanged.Errorf("%s has changed while it was read", u)
	}
	err = s.classify(err, u.String())
	if e := new(errdef.Error); errors.Is(err, ErrNoCredentials) && errors.As(err, &e) {
		// A server in the background has the variables of no shell.
		return e.WithNext("write them to ~/.aws/credentials, for a profile by ?profile=NAME", "or tarn server stop, and tarn server start in a terminal with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
	}
	return err
}
