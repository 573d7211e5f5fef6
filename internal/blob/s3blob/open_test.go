package s3blob_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/blob"
	"tarn.dev/tarn/internal/blob/s3blob"
	"tarn.dev/tarn/internal/blob/s3blob/s3test"
)

func TestParse(t *testing.T) {
	t.Parallel()
	l, err := s3blob.Parse("s3://b/x/y/?endpoint=http://127.0.0.1:9000&region=eu-west-1&profile=team")
	if err != nil {
		t.Fatal(err)
	}
	if l.Bucket != "b" || l.Prefix != "x/y/" || l.Endpoint != "http://127.0.0.1:9000" || l.Region != "eu-west-1" || l.Profile != "team" {
		t.Errorf("%+v", l)
	}
	for _, wrong := range []string{
		"", "b", "gs://b/x", "s3:b", "s3://", "s3:///x", "s3://b:80/x", "s3://b/../c", "s3://b/a b", "s3://b//x//y", "s3://key:secret@b",
		"s3://b?endpoint=", "s3://b?endpoint=localhost:9000", "s3://b?endpoint=ftp://x", "s3://b?regoin=x", "s3://b?region=a&region=b", "s3://b#x",
		"s3://b--x-s3", "s3://b/" + strings.Repeat("x/", 300), "s3://b\x00", "s3://b?%zz",
	} {
		if _, err := s3blob.Parse(wrong); !errors.Is(err, s3blob.ErrURL) || len(errdef.As(err).Next) == 0 {
			t.Errorf("%q: %v", wrong, err)
		} else if strings.Contains(err.Error(), "secret") {
			t.Errorf("%q: the message holds the secret: %v", wrong, err)
		}
	}
}

// Each way to type it wrong has an error of its own, which names what was typed and what to do.
func TestOpenRefuses(t *testing.T) {
	server := s3test.Start(t)
	bucket := server.Bucket(t)
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := closed.Close(); err != nil {
		t.Fatal(err)
	}
	web := httptest.NewServer(http.NotFoundHandler())
	defer web.Close()
	page := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "<html><p>Hello</html>") }))
	defer page.Close()
	profiles := filepath.Join(t.TempDir(), "config")
	if err := os.WriteFile(profiles, []byte("[profile team]\naws_access_key_id = "+s3test.Key+"\naws_secret_access_key = "+s3test.Secret+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	here := "?endpoint=" + server.URL
	for name, c := range map[string]struct {
		url   string
		env   map[string]string
		fault s3test.Fault
		want  error
		says  []string
	}{
		"works":           {url: bucket + here},
		"endpoint by env": {url: bucket, env: map[string]string{"AWS_ENDPOINT_URL": server.URL}},
		"profile":         {url: bucket + here + "&profile=team", env: map[string]string{"AWS_CONFIG_FILE": profiles, "AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}},
		"no profile":      {url: bucket + here + "&profile=none", want: s3blob.ErrNoCredentials, says: []string{"none"}},
		"no credentials": {
			url: bucket + here, env: map[string]string{"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""},
			want: s3blob.ErrNoCredentials, says: []string{bucket, "AWS_ACCESS_KEY_ID"},
		},
		"wrong key":    {url: bucket + here, env: map[string]string{"AWS_ACCESS_KEY_ID": "nobody"}, want: s3blob.ErrCredentials, says: []string{bucket}},
		"wrong secret": {url: bucket + here, env: map[string]string{"AWS_SECRET_ACCESS_KEY": "guessed"}, want: s3blob.ErrCredentials, says: []string{bucket}},
		"no bucket":    {url: "nowhere/x" + here, want: s3blob.ErrNoBucket, says: []string{"nowhere", server.URL, "aws s3 mb s3://nowhere"}},
		"wrong region": {url: bucket + here + "&region=eu-west-1", want: s3blob.ErrRegion, says: []string{bucket, "eu-west-1", "region=us-east-1"}},
		"wrong region of Amazon": {
			url: bucket + here, want: s3blob.ErrRegion, says: []string{bucket, "us-east-1", "region=eu-north-1"},
			fault: func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
				w.Header().Set("X-Amz-Bucket-Region", "eu-north-1")
				refuse(w, http.StatusMovedPermanently, "PermanentRedirect")
			},
		},
		"denied": {
			url: bucket + here, want: s3blob.ErrDenied, says: []string{bucket, "s3:PutObject"},
			fault: func(w http.ResponseWriter, r *http.Request, next http.Handler) {
				if r.Method == http.MethodPut {
					refuse(w, http.StatusForbidden, "AccessDenied")
					return
				}
				next.ServeHTTP(w, r)
			},
		},
		"not reachable":   {url: bucket + "?endpoint=http://" + closed.Addr().String(), want: s3blob.ErrUnreachable, says: []string{closed.Addr().String() + " does not answer", "endpoint"}},
		"no object store": {url: bucket + "?endpoint=" + web.URL, want: s3blob.ErrUnreachable, says: []string{web.URL, "endpoint"}},
		"some web page":   {url: bucket + "?endpoint=" + page.URL, want: s3blob.ErrUnreachable, says: []string{page.URL, "endpoint"}},
		"no conditions": {
			url: bucket + "/other" + here, want: s3blob.ErrUnconditional, says: []string{bucket, "If-None-Match"},
			fault: func(w http.ResponseWriter, r *http.Request, next http.Handler) {
				if r.Method == http.MethodPut {
					w = httptest.NewRecorder() // and says that all is well
				}
				next.ServeHTTP(w, r)
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			for k, v := range c.env {
				t.Setenv(k, v)
			}
			server.Break(c.fault)
			l, err := s3blob.Parse("s3://" + c.url)
			if err != nil {
				t.Fatal(err)
			}
			_, err = s3blob.Open(t.Context(), l)
			if c.want == nil {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			if !errors.Is(err, c.want) {
				t.Fatalf("%s: %v, want %v", errdef.CodeOf(err), err, c.want)
			}
			text := err.Error() + "\n" + strings.Join(errdef.As(err).Next, "\n")
			for _, s := range c.says {
				if !strings.Contains(text, s) {
					t.Errorf("does not say %s:\n%s", s, text)
				}
			}
			if len(errdef.As(err).Next) == 0 {
				t.Errorf("does not say what to do: %s", text)
			}
		})
	}
}

// A prefix of a newer format is left alone; objects of somebody else are not blobs.
func TestWhatElseLiesInTheBucket(t *testing.T) {
	t.Parallel()
	server := s3test.Start(t)
	bucket := server.Bucket(t)
	s := open(t, server, bucket)
	if err := s.Put(t.Context(), "a", strings.NewReader("x")); err != nil {
		t.Fatal(err)
	}
	server.Break(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if r.Method == http.MethodGet && strings.HasSuffix(r.URL.Path, "~tarn") {
			_, _ = io.Copy(w, bytes.NewReader([]byte("tarn-blobs 2\n")))
			return
		}
		next.ServeHTTP(w, r)
	})
	l, err := s3blob.Parse("s3://" + bucket + "?endpoint=" + server.URL)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s3blob.Open(t.Context(), l); errdef.CodeOf(err) != errdef.FailedPrecondition {
		t.Errorf("a newer format: %v", err)
	}
	server.Break(nil)
	for info, err := range s.List(t.Context(), "") {
		if err != nil || info.Name != "a" {
			t.Errorf("listed %v, %v", info, err)
		}
	}
	if got := s.URI("x/y"); got != "s3://"+bucket+"/x/y" {
		t.Error(got)
	}
	if err := s.Below("p").Put(t.Context(), strings.Repeat("x/", 511)+"x", strings.NewReader("")); !errors.Is(err, blob.ErrInvalidName) {
		t.Errorf("a name that is too long with its prefix: %v", err)
	}
}
