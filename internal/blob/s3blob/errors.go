package s3blob

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws/ratelimit"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	"github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"tarn.dev/tarn/internal/base/errdef"
)

// Errors that an object store gives.
var (
	// ErrURL means that a URL is not that of a bucket.
	ErrURL = errdef.New(errdef.InvalidArgument, "blob.invalid_url", "not the URL of a bucket").
		WithNext("s3://BUCKET/PREFIX, for a server of your own s3://BUCKET/PREFIX?endpoint=http://HOST:PORT")
	// ErrNoCredentials means that none of the usual places has any.
	ErrNoCredentials = errdef.New(errdef.Unauthenticated, "blob.no_credentials", "no credentials for the bucket")
	// ErrCredentials means that the server does not know the key, or that the secret is another one.
	ErrCredentials = errdef.New(errdef.Unauthenticated, "blob.wrong_credentials", "the credentials are not accepted")
	// ErrNoBucket means that the bucket does not exist, here.
	ErrNoBucket = errdef.New(errdef.FailedPrecondition, "blob.no_bucket", "no such bucket")
	// ErrDenied means that these credentials may not do this.
	ErrDenied = errdef.New(errdef.PermissionDenied, "blob.denied", "no permission in the bucket")
	// ErrRegion means that the bucket lies in another region.
	ErrRegion = errdef.New(errdef.FailedPrecondition, "blob.wrong_region", "the bucket is in another region")
	// ErrUnconditional means that the server may lose one of two puts.
	ErrUnconditional = errdef.New(errdef.FailedPrecondition, "blob.no_conditional_put", "the server has no conditional puts").
				WithNext("use a server that has: Amazon S3, MinIO, Ceph, versitygw, Cloudflare R2 in their present versions")
	// ErrUnreachable means that nobody answers, or what answers is no object store.
	ErrUnreachable = errdef.New(errdef.Unavailable, "blob.unreachable", "the object store does not answer")
	// ErrBusy means that the store refused for as long as we were willing to ask again.
	ErrBusy = errdef.New(errdef.Unavailable, "blob.busy", "the object store is too busy")
	// ErrChanged means that bytes of a blob are not those that were written.
	ErrChanged = errdef.New(errdef.DataLoss, "blob.changed", "the stored bytes are not those that were written")
)

// Codes of S3 that decide something.
const (
	conflictCode  = "ConditionalRequestConflict" // another put of the same name is under way
	noUploadCode  = "NoSuchUpload"
	noBucketCode  = "NoSuchBucket"
	noKeyCode     = "NoSuchKey"
	headNoKeyCode = "NotFound" // what the SDK makes of an answer to HEAD
	badRegionCode = "AuthorizationHeaderMalformed"
)

// badCredentials are the codes for those; the last one is versitygw's.
var badCredentials = []string{"InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken", "TokenRefreshRequired", "XAdminUserNotFound"}

// status is the HTTP status of an answer, 0 if there was none.
func status(err error) int {
	var answer *smithyhttp.ResponseError
	if errors.As(err, &answer) {
		return answer.HTTPStatusCode()
	}
	return 0
}

// code is S3's word for what is wrong; answers to HEAD have none.
func code(err error) string {
	var api smithy.APIError
	if errors.As(err, &api) {
		return api.ErrorCode()
	}
	return ""
}

// classify gives an error of the store a code, and says what to do. What nobody foresaw stays internal.
func (s *Store) classify(err error, doing string) error {
	where, bucket := s.location.String(), s.location.Bucket
	if e := new(errdef.Error); errors.As(err, &e) {
		return err
	}
	err = short{err}
	switch c, http4 := code(err), status(err); {
	case lacksCredentials(err):
		return ErrNoCredentials.Errorf("%s: no credentials found: %w", doing, err).
			WithNext("export AWS_ACCESS_KEY_ID=... AWS_SECRET_ACCESS_KEY=...", "or name a profile of ~/.aws/config: ?profile=NAME")
	case slices.Contains(badCredentials, c):
		return ErrCredentials.Errorf("%s: the credentials are not accepted: %w", doing, err).
			WithNext("check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN, or the profile, and that they are for this endpoint")
	case c == noBucketCode:
		return ErrNoBucket.Errorf("%s: there is no bucket %s at %s: %w", doing, bucket, s.endpoint(), err).
			WithNext("aws s3 mb s3://" + bucket)
	case c == badRegionCode, http4 == http.StatusMovedPermanently:
		return s.wrongRegion(err, doing)
	case c == "AccessDenied", http4 == http.StatusForbidden:
		return ErrDenied.Errorf("%s: no permission: %w", doing, err).
			WithNext("allow s3:ListBucket on " + bucket + ", and s3:GetObject, s3:PutObject, s3:DeleteObject, s3:AbortMultipartUpload on what is in it")
	case isThrottle(err), http4 == http.StatusServiceUnavailable, http4 == http.StatusTooManyRequests:
		return ErrBusy.Errorf("%s: %s refuses, however often it is asked: %w", doing, where, err).WithNext("try again later")
	case http4 >= 500:
		return ErrUnreachable.Errorf("%s: %s fails, however often it is asked: %w", doing, where, err).WithNext("try again later")
	case isForeign(err):
		return ErrUnreachable.Errorf("%s: what answers at %s is no object store: %w", doing, s.endpoint(), err).
			WithNext("check the endpoint: ?endpoint=http://HOST:PORT in the URL, or AWS_ENDPOINT_URL")
	case isTransport(err):
		return ErrUnreachable.Errorf("%s: %s does not answer: %w", doing, s.endpoint(), err).
			WithNext("check the endpoint: ?endpoint=http://HOST:PORT in the URL, or AWS_ENDPOINT_URL", "check the network")
	}
	return errdef.Newf(errdef.Internal, "blob.s3", "%s: %w", doing, err)
}

func (s *Store) wrongRegion(err error, doing string) error {
	var answer *smithyhttp.ResponseError
	errors.As(err, &answer)
	right := ""
	if answer != nil && answer.Response != nil {
		right = answer.Response.Header.Get("X-Amz-Bucket-Region")
	}
	if right == "" { // the message says: the region 'us-east-1' is wrong; expecting 'eu-west-1'
		_, rest, _ := strings.Cut(err.Error(), "expecting ")
		if words := strings.FieldsFunc(rest, func(c rune) bool { return strings.ContainsRune(`"'`, c) }); len(words) > 0 {
			right = words[0]
		}
	}
	e := ErrRegion.Errorf("%s: bucket %s is not in region %s: %w", doing, s.location.Bucket, s.client.Options().Region, err)
	if right != "" {
		return e.WithNext("add region=" + right + " to the URL, or export AWS_REGION=" + right)
	}
	return e.WithNext("add region=NAME to the URL, or export AWS_REGION=NAME")
}

// short is an error of the SDK that says what happened, and not through how many layers it came.
type short struct{ error }

func (s short) Unwrap() error { return s.error }

func (s short) Error() string {
	var api smithy.APIError
	var send *smithyhttp.RequestSendError
	var answer interface{ ServiceRequestID() string }
	switch {
	case errors.As(s.error, &api) && errors.As(s.error, &answer) && answer.ServiceRequestID() != "":
		return fmt.Sprintf("%s: %s (request %s)", api.ErrorCode(), api.ErrorMessage(), answer.ServiceRequestID())
	case errors.As(s.error, &api):
		return api.ErrorCode() + ": " + api.ErrorMessage()
	case errors.As(s.error, &send):
		return send.Err.Error()
	}
	return s.error.Error()
}

// endpoint is who was asked.
func (s *Store) endpoint() string {
	o := s.client.Options()
	if o.BaseEndpoint != nil {
		return *o.BaseEndpoint
	}
	return "Amazon S3 in " + o.Region
}

func lacksCredentials(err error) bool {
	var signing *v4.SigningError
	return errors.As(err, &signing) || status(err) == 0 && strings.Contains(err.Error(), "credentials")
}

func isThrottle(err error) bool {
	var spent ratelimit.QuotaExceededError
	return retry.IsErrorThrottles(retry.DefaultThrottles).IsErrorThrottle(err).Bool() || errors.As(err, &spent)
}

// isForeign tells the answers of something else, a web server for example: every object store numbers its requests.
func isForeign(err error) bool {
	var answer *smithyhttp.ResponseError
	var unread *smithy.DeserializationError
	if errors.As(err, &answer) && answer.HTTPStatusCode() != 0 {
		return answer.Response.Header.Get("X-Amz-Request-Id") == ""
	}
	return errors.As(err, &unread)
}

func isTransport(err error) bool {
	var send *smithyhttp.RequestSendError
	var network net.Error
	var address *url.Error
	return errors.As(err, &send) || errors.As(err, &network) || errors.As(err, &address)
}

// ended returns why ctx has ended, else err.
func ended(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}
