package s3blob

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/ratelimit"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/smithy-go/logging"

	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/base/stall"
	"tarn.dev/tarn/internal/blob"
)

// Scheme is how the URL of a bucket begins.
const Scheme = "s3"

// defaultRegion is what a server of one's own takes; the error of another region names the right one.
const defaultRegion = "us-east-1"

// Retries: a call that fails for a reason that may pass is made up to attempts times, after waits of up to 50 ms, 100 ms,
// and so on to 5 s: some 8 s on average. Calls that wait share a budget, so that a store that is down is not asked
// by everybody for ever.
const (
	attempts    = 10
	firstWait   = 50 * time.Millisecond
	longestWait = 5 * time.Second
	budget      = 200 // retries that may be owed at once; each call that succeeds at once pays a fifth of one back
	retryCost   = 5
)

// openAttempts is less: whoever starts a server waits for it, and what is wrong is mostly what they typed.
const openAttempts = 5

// longestStall is how long a connection may neither take nor give a byte before it is given up.
const longestStall = time.Minute

// Location is where a store lies: what a URL s3://BUCKET/PREFIX?endpoint=URL&region=NAME&profile=NAME says.
type Location struct {
	Bucket, Prefix            string // Prefix is empty or ends in "/"
	Endpoint, Region, Profile string // of the URL; empty ones are taken from the environment
	text                      string
}

// Parse reads the URL of a bucket.
func Parse(text string) (Location, error) {
	u, err := url.Parse(text)
	if err != nil {
		return Location{}, ErrURL.Errorf("%.200q: %w", text, errors.Unwrap(err))
	}
	l, err := locate(u)
	if err != nil {
		return Location{}, err
	}
	l.text = text
	if prefix := strings.Trim(u.Path, "/"); prefix != "" {
		if err := blob.CheckName(prefix); err != nil || len(prefix) > maxPrefix {
			return Location{}, ErrURL.Errorf("%.200q: a prefix is a path of letters, digits and ._=-, of up to %d bytes", text, maxPrefix)
		}
		l.Prefix = prefix + "/"
	}
	return l, nil
}

// locate reads a URL but for its path.
func locate(u *url.URL) (Location, error) {
	refuse := func(format string, args ...any) (Location, error) {
		return Location{}, ErrURL.Errorf("%.200q: "+format, append([]any{u.String()}, args...)...)
	}
	switch {
	case u.Scheme != Scheme || u.Opaque != "":
		return refuse("it does not begin with s3://")
	case u.User != nil:
		return Location{}, ErrURL.Errorf("the URL of bucket %s holds credentials, which would be stored with it", u.Host).
			WithNext("give them by AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or by a profile: ?profile=NAME")
	case u.Host == "" || strings.ContainsAny(u.Host, ":%"):
		return refuse("it names no bucket")
	case strings.HasSuffix(u.Host, "--x-s3"):
		return refuse("a directory bucket does not list in order; use a general purpose bucket")
	case u.Fragment != "":
		return refuse("what does # mean?")
	}
	l := Location{Bucket: u.Host, text: u.String()}
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return refuse("%w", err)
	}
	known := map[string]*string{"endpoint": &l.Endpoint, "region": &l.Region, "profile": &l.Profile}
	for name, values := range query {
		if known[name] == nil || len(values) != 1 || values[0] == "" {
			return refuse("%s=%s: endpoint, region and profile may be given, each once", name, strings.Join(values, ","))
		}
		*known[name] = values[0]
	}
	if e, err := url.Parse(l.Endpoint); l.Endpoint != "" && (err != nil || e.Host == "" || !slices.Contains([]string{"http", "https"}, e.Scheme)) {
		return refuse("the endpoint is not http://HOST:PORT or https://HOST")
	}
	return l, nil
}

// String is the URL as it was written.
func (l Location) String() string { return l.text }

// Open connects to a bucket, and checks it.
func Open(ctx context.Context, l Location) (*Store, error) {
	s, err := connect(ctx, l)
	if err != nil {
		return nil, err
	}
	if err := s.Check(ctx); err != nil {
		return nil, err
	}
	return s, nil
}

// OpenReading connects to a bucket that nothing is written to, which takes no right to write. What is wrong is told by the first call.
func OpenReading(ctx context.Context, l Location) (*Store, error) { return connect(ctx, l) }

func connect(ctx context.Context, l Location) (*Store, error) {
	var from []func(*config.LoadOptions) error
	if l.Region != "" {
		from = append(from, config.WithRegion(l.Region))
	}
	if l.Profile != "" {
		from = append(from, config.WithSharedConfigProfile(l.Profile))
	}
	c, err := config.LoadDefaultConfig(ctx, append(from, config.WithDefaultRegion(defaultRegion))...)
	if err != nil {
		var none config.SharedConfigProfileNotExistError
		if errors.As(err, &none) {
			return nil, ErrNoCredentials.Errorf("%s: there is no profile %s", l, none.Profile).WithNext("aws configure list-profiles")
		}
		return nil, errdef.Newf(errdef.FailedPrecondition, "blob.s3_config", "%s: read the AWS configuration: %w", l, err)
	}
	client := s3.NewFromConfig(c, func(o *s3.Options) {
		if l.Endpoint != "" {
			o.BaseEndpoint = aws.String(l.Endpoint)
		}
		// A server of one's own has rarely a host name for each bucket.
		o.UsePathStyle = o.BaseEndpoint != nil
		o.HTTPClient = &http.Client{Transport: stall.Transport(longestStall)}
		o.Retryer = retry.NewStandard(func(r *retry.StandardOptions) {
			r.MaxAttempts = attempts
			r.Backoff = retry.BackoffDelayerFunc(func(attempt int, _ error) (time.Duration, error) { return wait(attempt), nil })
			r.RateLimiter = ratelimit.NewTokenRateLimit(budget * retryCost)
			r.RetryCost, r.RetryTimeoutCost, r.NoRetryIncrement = retryCost, retryCost, 1
			r.Retryables = append(r.Retryables, retry.RetryableErrorCode{Codes: map[string]struct{}{
				conflictCode: {}, "OperationAborted": {},
			}})
		})
		o.Logger = logging.Nop{} // what matters comes back as an error
	})
	return &Store{client: client, location: l, prefix: l.Prefix}, nil
}

// wait is how long to wait before attempt+1: a random part of a time that doubles, so that those that were refused
// together do not come back together.
func wait(attempt int) time.Duration {
	longest := longestWait
	if attempt < 16 {
		longest = min(longestWait, firstWait<<attempt)
	}
	return rand.N(longest)
}

// Objects that no blob's name reaches: marker says what lies here, and that a put can be refused; ownerMark, whose it is.
const (
	marker    = "~tarn"
	format    = "tarn-blobs 1\n"
	ownerMark = "~owner"
	maxOwner  = 100
)

// Claim makes the place that of an owner, if it is nobody's, and returns whose it is.
func (s *Store) Claim(ctx context.Context, owner string) (string, error) {
	doing := "claim " + s.location.String()
	_, err := s.putOnce(ctx, ownerMark, owner)
	switch {
	case err == nil:
		return owner, nil
	case status(err) != http.StatusPreconditionFailed:
		return "", ended(ctx, s.classify(err, doing))
	}
	found, err := s.readAll(ctx, s.prefix+ownerMark, maxOwner)
	if err != nil {
		return "", ended(ctx, s.classify(err, doing))
	}
	return found, nil
}

// putOnce puts an object that is no blob, if it is not there.
func (s *Store) putOnce(ctx context.Context, name, text string) (*s3.PutObjectOutput, error) {
	return s.client.PutObject(ctx, &s3.PutObjectInput{
		Bucket: &s.location.Bucket, Key: aws.String(s.prefix + name), Body: strings.NewReader(text), IfNoneMatch: aws.String("*"),
	})
}

// Check makes sure that the bucket can be listed, written to, and keeps puts apart.
func (s *Store) Check(ctx context.Context) error {
	few := s3.New(s.client.Options(), func(o *s3.Options) { o.Retryer = retry.AddWithMaxAttempts(o.Retryer, openAttempts) })
	err := (&Store{client: few, location: s.location, prefix: s.location.Prefix}).probe(ctx)
	if err != nil {
		return ended(ctx, err)
	}
	return nil
}

// probe puts the marker, which is there from the second time on, and then once more, which must be refused: a server
// that ignores conditions would let two writers take one name.
func (s *Store) probe(ctx context.Context) error {
	for page := range s.pages(ctx, s.prefix, 1) {
		if page.err != nil {
			return s.classify(page.err, "list "+s.location.String())
		}
		break
	}
	doing := "write to " + s.location.String()
	for range 2 {
		_, err := s.putOnce(ctx, marker, format)
		switch {
		case err == nil:
		case status(err) == http.StatusPreconditionFailed:
			return s.checkFormat(ctx)
		case status(err) == http.StatusNotImplemented:
			return s.unconditional()
		default:
			return s.classify(err, doing)
		}
	}
	return s.unconditional()
}

func (s *Store) unconditional() error {
	return ErrUnconditional.Errorf("%s: this server does not refuse a put of a name that is taken (If-None-Match: *)", s.location)
}

func (s *Store) checkFormat(ctx context.Context) error {
	text, err := s.readAll(ctx, s.prefix+marker, int64(len(format))+1)
	if err != nil {
		return s.classify(err, "read "+s.location.String())
	}
	if text != format {
		return errdef.Newf(errdef.FailedPrecondition, "blob.format_newer", "%s: the object %s says %.40q, not %q",
			s.location, s.prefix+marker, text, format).WithNext("install the newer tarn, or use another prefix")
	}
	return nil
}
