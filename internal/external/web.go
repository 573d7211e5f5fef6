package external

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"math/rand/v2"
	"net/http"
	"net/url"
	"path"
	"strings"
	"time"

	"tarn.dev/tarn/internal/base/stall"
)

// Bounds on how long a server is waited for.
const (
	attempts     = 5 // of a request, and of going on after a break without a byte
	firstWait    = 100 * time.Millisecond
	longestStall = time.Minute
	redirects    = 10
)

// web is the source of http and https.
type web struct{ client *http.Client }

func newWeb() *web {
	t := stall.Transport(longestStall)
	t.DisableCompression = true // sizes and etags are of the bytes themselves
	return &web{&http.Client{Transport: t, CheckRedirect: func(r *http.Request, via []*http.Request) error {
		if len(via) >= redirects {
			return fmt.Errorf("it leads on more than %d times", redirects)
		}
		if via[0].URL.Scheme == "https" && r.URL.Scheme != "https" {
			return errors.New("it leads from https to http")
		}
		return nil
	}}}
}

// ask makes a request until it gets an answer that repeating would not change.
func (w *web) ask(ctx context.Context, method string, u *url.URL, header map[string]string) (*http.Response, error) {
	for attempt := 1; ; attempt++ {
		r, err := http.NewRequestWithContext(ctx, method, u.String(), http.NoBody)
		if err != nil {
			return nil, ErrURL.Errorf("%.200q: %w", u, err)
		}
		for name, value := range header {
			r.Header.Set(name, value)
		}
		answer, err := w.client.Do(r)
		if err == nil && answer.StatusCode != http.StatusTooManyRequests && answer.StatusCode < 500 {
			return answer, nil
		}
		if err == nil {
			if answer.StatusCode == http.StatusNotImplemented {
				return answer, nil
			}
			_ = answer.Body.Close() // only read
			err = errors.New(answer.Status)
		}
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if attempt == attempts {
			if sent := new(url.Error); errors.As(err, &sent) {
				err = sent.Err
			}
			return nil, ErrUnreachable.Errorf("%s, asked %d times: %w", u, attempts, err).WithNext("try again later")
		}
		if err := pause(ctx, attempt); err != nil {
			return nil, err
		}
	}
}

// pause waits before another attempt, for a random part of a time that doubles.
func pause(ctx context.Context, attempt int) error {
	select {
	case <-time.After(rand.N(firstWait << attempt)):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// judge closes an answer that holds no original and says why.
func judge(u *url.URL, answer *http.Response) error {
	if answer.StatusCode == http.StatusOK || answer.StatusCode == http.StatusPartialContent {
		return nil
	}
	_ = answer.Body.Close() // only read
	switch answer.StatusCode {
	case http.StatusNotFound, http.StatusGone:
		return ErrGone.Errorf("%s: %s", u, answer.Status)
	case http.StatusUnauthorized, http.StatusForbidden:
		return ErrDenied.Errorf("%s: %s", u, answer.Status)
	case http.StatusPreconditionFailed, http.StatusRequestedRangeNotSatisfiable: // it is shorter by now
		return ErrChanged.Errorf("%s has changed while it was read", u)
	}
	return ErrUnreachable.Errorf("%s: its server answers %s", u, answer.Status)
}

func stateIn(u *url.URL, answer *http.Response) State {
	s := State{URL: u.String(), ETag: answer.Header.Get("ETag"), Size: Whole(answer.Header.Get("Content-Range"), answer.ContentLength)}
	if at, err := http.ParseTime(answer.Header.Get("Last-Modified")); err == nil {
		s.Modified = at
	}
	return s
}

// Find implements Source: a URL of the web is one file.
func (w *web) Find(ctx context.Context, u *url.URL) iter.Seq2[Found, error] {
	return func(yield func(Found, error) bool) {
		name := path.Base(u.Path)
		if name == "." || strings.HasSuffix(u.Path, "/") {
			yield(Found{}, ErrURL.Errorf("%s: the URL of a web server names one file; what lies in a folder cannot be listed", u))
			return
		}
		state, err := w.Stat(ctx, u)
		yield(Found{State: state, Name: name, One: true}, err)
	}
}

// Stat implements Source. A server that does not answer HEAD, or not with a size, is asked for the file.
func (w *web) Stat(ctx context.Context, u *url.URL) (State, error) {
	answer, err := w.ask(ctx, http.MethodHead, u, nil)
	if err != nil {
		return State{}, err
	}
	_ = answer.Body.Close() // has none
	unfit := answer.StatusCode == http.StatusMethodNotAllowed || answer.StatusCode == http.StatusNotImplemented
	if unfit || answer.StatusCode == http.StatusOK && answer.ContentLength < 0 {
		if answer, err = w.ask(ctx, http.MethodGet, u, nil); err != nil {
			return State{}, err
		}
		_ = answer.Body.Close() // only read
	}
	if err := judge(u, answer); err != nil {
		return State{}, err
	}
	return stateIn(u, answer), nil
}

// Open implements Source. Of a server that sends no parts, what comes before the part is read and thrown away.
func (w *web) Open(ctx context.Context, u *url.URL, etag string, part Part) (io.ReadCloser, State, error) {
	answer, err := w.get(ctx, u, etag, part)
	if err != nil {
		return nil, State{}, err
	}
	state := stateIn(u, answer)
	d := &download{ctx: ctx, web: w, url: u, state: state, body: answer.Body, end: part.End(state.Size)}
	if answer.StatusCode == http.StatusPartialContent {
		d.pos = part.Offset
	}
	if _, err := io.CopyN(io.Discard, d, part.Offset-d.pos); err != nil {
		return nil, State{}, errors.Join(err, d.Close())
	}
	return d, state, nil
}

// get asks for a part of a file. The condition holds only for a strong etag: no server may match a weak one.
func (w *web) get(ctx context.Context, u *url.URL, etag string, part Part) (*http.Response, error) {
	header := map[string]string{}
	if etag != "" && !strings.HasPrefix(etag, weak) {
		header["If-Match"] = etag
	}
	if text := part.Header(); text != "" {
		header["Range"] = text
	}
	answer, err := w.ask(ctx, http.MethodGet, u, header)
	if err != nil {
		return nil, err
	}
	return answer, judge(u, answer)
}

// download reads a file, over as many connections as it takes where the file has a strong etag.
type download struct {
	ctx      context.Context //nolint:containedctx // of the one Open that it belongs to
	web      *web
	url      *url.URL
	state    State
	body     io.ReadCloser
	pos, end int64
	failures int // since the last byte
}

// Read implements io.Reader.
func (d *download) Read(p []byte) (int, error) {
	for {
		if d.state.Size >= 0 { // what a server that sends no parts sends after the end is not wanted
			if d.pos >= d.end {
				return 0, io.EOF
			}
			p = p[:min(int64(len(p)), d.end-d.pos)]
		}
		n, err := d.body.Read(p)
		if d.pos += int64(n); n > 0 {
			d.failures = 0
			if err != nil && !errors.Is(err, io.EOF) {
				err = nil // the next read meets it again
			}
			return n, err
		}
		if err == nil || errors.Is(err, io.EOF) {
			return n, err
		}
		if err := d.resume(err); err != nil {
			return 0, err
		}
	}
}

// resume opens the rest of the file after a break.
func (d *download) resume(broken error) error {
	if d.ctx.Err() != nil {
		return context.Cause(d.ctx)
	}
	etag := d.state.ETag
	if d.failures++; d.failures == attempts || etag == "" || strings.HasPrefix(etag, weak) || d.state.Size < 0 {
		return ErrUnreachable.Errorf("%s: the connection breaks at byte %d: %w", d.url, d.pos, broken).WithNext("try again later")
	}
	if err := pause(d.ctx, d.failures); err != nil {
		return err
	}
	answer, err := d.web.get(d.ctx, d.url, etag, Part{d.pos, d.end - d.pos})
	if err != nil {
		return err
	}
	if answer.StatusCode != http.StatusPartialContent || answer.Header.Get("ETag") != etag || answer.ContentLength != d.end-d.pos {
		_ = answer.Body.Close() // only read
		return ErrUnreachable.Errorf("%s: the connection breaks at byte %d, and its server does not give the rest: %w", d.url, d.pos, broken)
	}
	_ = d.body.Close() // it is broken
	d.body = answer.Body
	return nil
}

// Close ends the connection.
func (d *download) Close() error {
	_ = d.body.Close() // only read
	return nil
}
