package s3blob_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/blob"
	"tarn.dev/tarn/internal/blob/s3blob"
	"tarn.dev/tarn/internal/blob/s3blob/s3test"
)

// large takes three parts.
const large = 20<<20 + 17

// A put that was done, and whose answer is lost, succeeds; it is not taken for somebody else's.
func TestAnswerToPutIsLost(t *testing.T) {
	t.Parallel()
	for name, size := range map[string]int{"whole": 100, "parts": large} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server, s, _ := start(t)
			data := random(size)
			var lost atomic.Int64
			server.Break(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
				if !publishes(r) || lost.Add(1) > 1 {
					next.ServeHTTP(w, r)
					return
				}
				answer := httptest.NewRecorder()
				next.ServeHTTP(answer, r)
				if answer.Code != http.StatusOK {
					t.Errorf("the first put: %d %s", answer.Code, answer.Body)
				}
				panic(http.ErrAbortHandler) // cuts the connection
			})
			if err := s.Put(t.Context(), "a/b", bytes.NewReader(data)); err != nil {
				t.Fatal(err)
			}
			if lost.Load() < 2 {
				t.Error("no answer was lost")
			}
			same(t, s, "a/b", data)
			if err := s.Put(t.Context(), "a/b", bytes.NewReader(data)); !errors.Is(err, blob.ErrExists) {
				t.Errorf("another put of the same bytes: %v", err)
			}
		})
	}
}

// Who is refused for a put that then comes to nothing takes the name.
func TestPutIsRefusedForNothing(t *testing.T) {
	t.Parallel()
	for name, size := range map[string]int{"whole": 100, "parts": large} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server, s, _ := start(t)
			data := random(size)
			var refused atomic.Int64
			server.Break(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
				switch n := refused.Load(); {
				case publishes(r) && n == 0:
					refused.Add(1)
					refuse(w, http.StatusConflict, "ConditionalRequestConflict")
				case publishes(r) && n == 1:
					refused.Add(1)
					refuse(w, http.StatusPreconditionFailed, "PreconditionFailed")
				default:
					next.ServeHTTP(w, r)
				}
			})
			if err := s.Put(t.Context(), "a", bytes.NewReader(data)); err != nil {
				t.Fatal(err)
			}
			same(t, s, "a", data)
		})
	}
}

// A store that refuses everything two times of three loses nothing.
func TestThrottling(t *testing.T) {
	t.Parallel()
	server, s, _ := start(t)
	var n atomic.Int64
	server.Break(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		switch n.Add(1) % 6 { // of ten attempts one succeeds, however those of others lie between
		case 0:
			refuse(w, http.StatusServiceUnavailable, "SlowDown")
		case 3:
			refuse(w, http.StatusInternalServerError, "InternalError")
		default:
			next.ServeHTTP(w, r)
		}
	})
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			name, data := fmt.Sprintf("a/%d", i), random(1000+i)
			if err := s.Put(t.Context(), name, bytes.NewReader(data)); err != nil {
				t.Error(err)
				return
			}
			same(t, s, name, data)
		})
	}
	data := random(large)
	if err := s.Put(t.Context(), "b", bytes.NewReader(data)); err != nil {
		t.Fatal(err)
	}
	same(t, s, "b", data)
	all.Wait()
	count := 0
	for _, err := range s.List(t.Context(), "") {
		if err != nil {
			t.Fatal(err)
		}
		count++
	}
	if count != 9 {
		t.Errorf("%d blobs are listed", count)
	}
	if err := s.Delete(t.Context(), "b"); err != nil {
		t.Error(err)
	}
}

// A store that refuses for ever is given up, and nothing is visible.
func TestThrottlingWithoutEnd(t *testing.T) {
	t.Parallel()
	server, s, _ := start(t)
	var n atomic.Int64
	server.Break(func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
		n.Add(1)
		refuse(w, http.StatusServiceUnavailable, "SlowDown")
	})
	_, err := s.Stat(t.Context(), "a")
	if !errors.Is(err, s3blob.ErrBusy) || errdef.CodeOf(err) != errdef.Unavailable {
		t.Errorf("Stat: %v", err)
	}
	if n.Load() < 5 || n.Load() > 20 {
		t.Errorf("asked %d times", n.Load())
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("enough")
	server.Break(func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
		refuse(w, http.StatusServiceUnavailable, "SlowDown")
		cancel(why)
	})
	if err := s.Put(ctx, "a", strings.NewReader("x")); !errors.Is(err, why) {
		t.Errorf("a put that waits, when its context ends: %v", err)
	}
	server.Break(nil)
	if _, err := s.Stat(t.Context(), "a"); !errors.Is(err, blob.ErrNotFound) {
		t.Errorf("after it: %v", err)
	}
}

// A reader whose connection breaks goes on where it was, and asks for the same object.
func TestConnectionBreaksWhileReading(t *testing.T) {
	t.Parallel()
	server, s, _ := start(t)
	data := random(5 << 20)
	if err := s.Put(t.Context(), "a", bytes.NewReader(data)); err != nil {
		t.Fatal(err)
	}
	var asked []string
	server.Break(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		asked = append(asked, r.Header.Get("Range"))
		if len(asked) > 1 && r.Header.Get("If-Match") == "" {
			t.Error("the rest may be another object's")
		}
		if len(asked)%4 == 3 { // not even a byte
			panic(http.ErrAbortHandler)
		}
		next.ServeHTTP(&cut{ResponseWriter: w, left: 1<<20 + 5}, r)
	})
	same(t, s, "a", data)
	if len(asked) < 5 {
		t.Errorf("asked for %q", asked)
	}
	asked = nil
	r, err := s.Get(t.Context(), "a", 1<<20, 3<<20)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, data[1<<20:4<<20]) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	if want := fmt.Sprintf("bytes=%d-%d", 2<<20+5, 4<<20-1); len(asked) < 2 || asked[1] != want {
		t.Errorf("asked for %q, second want %q", asked, want)
	}
}

// What is read after a break is the same blob, or an error; never bytes of something else.
func TestBlobGoesWhileReading(t *testing.T) {
	t.Parallel()
	server, s, _ := start(t)
	for name, c := range map[string]struct {
		then func() error
		want error
	}{
		"deleted": {func() error { return s.Delete(t.Context(), "deleted") }, blob.ErrNotFound},
		"replaced": {func() error {
			return errors.Join(s.Delete(t.Context(), "replaced"), s.Put(t.Context(), "replaced", bytes.NewReader(random(4<<20))))
		}, s3blob.ErrChanged},
	} {
		if err := s.Put(t.Context(), name, bytes.NewReader(make([]byte, 4<<20))); err != nil {
			t.Fatal(err)
		}
		server.Break(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			next.ServeHTTP(&cut{ResponseWriter: w, left: 1 << 20}, r)
		})
		r, err := s.Get(t.Context(), name, 0, -1)
		if err != nil {
			t.Fatal(err)
		}
		server.Break(nil)
		if err := c.then(); err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(r)
		if !errors.Is(err, c.want) || len(got) != 1<<20 {
			t.Errorf("%s: %d bytes, then %v", name, len(got), err)
		}
	}
}

// Of large puts that race for one name, one succeeds; the others leave no parts.
func TestRaceOfPutsInParts(t *testing.T) {
	t.Parallel()
	_, s, parts := start(t)
	var won atomic.Pointer[[]byte]
	var all sync.WaitGroup
	for w := range 4 {
		data := bytes.Repeat([]byte{byte(w)}, 9<<20)
		all.Go(func() {
			switch err := s.Put(t.Context(), "a", bytes.NewReader(data)); {
			case err == nil:
				if !won.CompareAndSwap(nil, &data) {
					t.Error("two puts succeeded")
				}
			case !errors.Is(err, blob.ErrExists):
				t.Error(err)
			}
		})
	}
	all.Wait()
	if won.Load() == nil {
		t.Fatal("no put succeeded")
	}
	same(t, s, "a", *won.Load())
	if n := parts(); n != 0 {
		t.Errorf("%d uploads are left", n)
	}
}

func TestFailedPutsLeaveNoParts(t *testing.T) {
	t.Parallel()
	server, s, parts := start(t)
	broken := errors.New("source broke")
	err := s.Put(t.Context(), "a", io.MultiReader(bytes.NewReader(random(large)), iotest.ErrReader(broken)))
	if !errors.Is(err, broken) {
		t.Errorf("source: %v", err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("enough")
	server.Break(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if r.Method == http.MethodPut && r.URL.Query().Get("partNumber") != "1" {
			<-ctx.Done() // it comes too late to be stored
			return
		}
		next.ServeHTTP(w, r)
		if r.Method == http.MethodPut {
			cancel(why)
		}
	})
	if err := s.Put(ctx, "a", bytes.NewReader(random(large))); !errors.Is(err, why) {
		t.Errorf("canceled: %v", err)
	}
	server.Break(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if r.Method == http.MethodPut && r.URL.Query().Get("partNumber") == "2" {
			refuse(w, http.StatusForbidden, "AccessDenied")
			return
		}
		next.ServeHTTP(w, r)
	})
	if err := s.Put(t.Context(), "a", bytes.NewReader(random(large))); !errors.Is(err, s3blob.ErrDenied) {
		t.Errorf("denied: %v", err)
	}
	server.Break(nil)
	if n := parts(); n != 0 {
		t.Errorf("%d uploads are left", n)
	}
	if _, err := s.Stat(t.Context(), "a"); !errors.Is(err, blob.ErrNotFound) {
		t.Error(err)
	}
}

// A source that ends in the middle of a part with io.ErrUnexpectedEOF is broken, not at its end.
func TestTruncatedSource(t *testing.T) {
	t.Parallel()
	_, s, _ := start(t)
	if err := s.Put(t.Context(), "a", io.MultiReader(strings.NewReader("half"), iotest.ErrReader(io.ErrUnexpectedEOF))); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("put: %v", err)
	}
	if _, err := s.Stat(t.Context(), "a"); !errors.Is(err, blob.ErrNotFound) {
		t.Error(err)
	}
}

// The server's clock counts: requests follow it when it refuses ours.
func TestClockSkew(t *testing.T) {
	t.Parallel()
	server, s, _ := start(t)
	var dates []time.Time
	server.Break(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		at, err := time.Parse("20060102T150405Z", r.Header.Get("X-Amz-Date"))
		if err != nil {
			t.Error(err)
		}
		if dates = append(dates, at); len(dates) == 1 {
			w.Header().Set("Date", time.Now().Add(10*time.Minute).UTC().Format(http.TimeFormat))
			refuse(w, http.StatusForbidden, "RequestTimeTooSkewed")
			return
		}
		next.ServeHTTP(w, r)
	})
	if err := s.Put(t.Context(), "a", strings.NewReader("x")); err != nil {
		t.Fatal(err)
	}
	if len(dates) != 2 || dates[1].Sub(dates[0]) < 9*time.Minute {
		t.Errorf("requests were dated %v", dates)
	}
}

func start(t *testing.T) (_ *s3test.Server, _ *s3blob.Store, parts func() int) {
	t.Helper()
	server := s3test.Start(t)
	bucket := server.Bucket(t)
	return server, open(t, server, bucket), func() int { return uploads(t, server, bucket) }
}

// uploads counts the puts in parts that were begun and not ended.
func uploads(t *testing.T, server *s3test.Server, bucket string) int {
	t.Helper()
	c, err := config.LoadDefaultConfig(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	client := s3.NewFromConfig(c, func(o *s3.Options) { o.BaseEndpoint, o.UsePathStyle = &server.URL, true })
	out, err := client.ListMultipartUploads(t.Context(), &s3.ListMultipartUploadsInput{Bucket: aws.String(bucket)})
	if err != nil {
		t.Fatal(err)
	}
	return len(out.Uploads)
}

// publishes tells the request that makes a blob visible.
func publishes(r *http.Request) bool {
	return r.Header.Get("If-None-Match") == "*" && (r.Method == http.MethodPut || r.Method == http.MethodPost)
}

// refuse answers as S3 does.
func refuse(w http.ResponseWriter, status int, code string) {
	w.Header().Set("Content-Type", "application/xml")
	w.WriteHeader(status)
	fmt.Fprintf(w, `<?xml version="1.0" encoding="UTF-8"?><Error><Code>%s</Code><Message>made by a test</Message></Error>`, code)
}

// cut breaks the connection after so many bytes of a body.
type cut struct {
	http.ResponseWriter
	left int
}

func (c *cut) Write(p []byte) (int, error) {
	n, err := c.ResponseWriter.Write(p[:min(len(p), c.left)])
	if c.left -= n; c.left == 0 {
		http.NewResponseController(c.ResponseWriter).Flush() //nolint:errcheck // it is cut off now
		panic(http.ErrAbortHandler)
	}
	return n, err
}

func (c *cut) Unwrap() http.ResponseWriter { return c.ResponseWriter }

func same(t *testing.T, s blob.Store, name string, want []byte) {
	t.Helper()
	r, err := s.Get(t.Context(), name, 0, -1)
	if err != nil {
		t.Error(err)
		return
	}
	got, err := io.ReadAll(r)
	if err := errors.Join(err, r.Close()); err != nil || !bytes.Equal(got, want) {
		t.Errorf("%s: %d bytes, want %d; %v", name, len(got), len(want), err)
	}
}

func random(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(rand.Uint32())
	}
	return b
}

// A process that is killed in the middle of a large put leaves nothing that is visible, and parts that can be found.
func TestKilledWhilePutting(t *testing.T) {
	t.Parallel()
	server := s3test.Start(t)
	bucket := server.Bucket(t)
	s := open(t, server, bucket)
	completes := make(chan bool)
	server.Break(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if r.Method == http.MethodPost && publishes(r) {
			_, _ = io.Copy(io.Discard, r.Body) // only then it is seen that the other side is gone
			completes <- true
			<-r.Context().Done()
			panic(http.ErrAbortHandler)
		}
		next.ServeHTTP(w, r)
	})
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	child := exec.Command(self, putRole, "s3://"+bucket+"?endpoint="+server.URL)
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	<-completes
	if err := child.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := child.Wait(); err == nil {
		t.Error("the child was not killed")
	}
	server.Break(nil)
	if _, err := s.Stat(t.Context(), "a"); !errors.Is(err, blob.ErrNotFound) {
		t.Errorf("visible: %v", err)
	}
	for info, err := range s.List(t.Context(), "") {
		t.Errorf("listed: %v, %v", info, err)
	}
	if n := uploads(t, server, bucket); n != 1 {
		t.Errorf("%d uploads can be found", n)
	}
	if err := s.Put(t.Context(), "a", strings.NewReader("then it works")); err != nil {
		t.Error(err)
	}
}
