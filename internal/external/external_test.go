package external_test

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"tarn.dev/tarn/internal/external"
)

func TestSame(t *testing.T) {
	t.Parallel()
	at := time.Date(2024, 1, 2, 3, 4, 5, 0, time.UTC)
	was := external.State{URL: "u", ETag: `"a"`, Size: 3, Modified: at}
	timed := external.State{URL: "u", Size: 3, Modified: at}
	for name, c := range map[string]struct {
		was, now external.State
		same     bool
	}{
		"all":                      {was, was, true},
		"etag, at another time":    {was, external.State{ETag: `"a"`, Size: 3, Modified: at.Add(time.Hour)}, true},
		"etag, compressed":         {was, external.State{ETag: `W/"a"`, Size: 3}, true},
		"another etag":             {was, external.State{ETag: `"b"`, Size: 3, Modified: at}, false},
		"another size":             {was, external.State{ETag: `"a"`, Size: 4, Modified: at}, false},
		"no etag any more":         {was, timed, false},
		"time":                     {timed, timed, true},
		"time, and an etag by now": {timed, was, true},
		"another time":             {timed, external.State{Size: 3, Modified: at.Add(time.Second)}, false},
		"no time any more":         {timed, external.State{Size: 3}, false},
	} {
		if got := c.was.Same(c.now); got != c.same {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// A version is what tells states apart, and no more.
func TestVersion(t *testing.T) {
	t.Parallel()
	at := time.Date(2024, 1, 2, 3, 4, 5, 6, time.UTC)
	one := external.State{URL: "u", ETag: `"a"`, Size: 3, Modified: at}
	const pinned = "841cce99961fedd55af719bc353edd39487f87972e563a147ba5c56e2077600b"
	if got := one.Version(); got != pinned {
		t.Errorf("the version of a state is %s, not what it was", got)
	}
	later := one
	later.Modified = at.Add(time.Hour)
	if later.Version() != one.Version() {
		t.Error("the time counts beside an etag")
	}
	seen := map[string]bool{one.Version(): true}
	for _, s := range []external.State{
		{URL: "v", ETag: `"a"`, Size: 3},
		{URL: "u", ETag: `"b"`, Size: 3},
		{URL: "u", ETag: `"a"`, Size: 4},
		{URL: "u", Size: 3, Modified: at},
		{URL: "u", Size: 3, Modified: at.Add(1)},
	} {
		if seen[s.Version()] {
			t.Errorf("%+v has the version of another", s)
		}
		seen[s.Version()] = true
	}
}

// A file that is written to while it is read ends in an error, not in a mixture.
func TestWrittenWhileRead(t *testing.T) {
	t.Parallel()
	for name, then := range map[string]func(f *os.File) error{
		"longer":  func(f *os.File) error { _, err := f.WriteString("more"); return err },
		"shorter": func(f *os.File) error { return f.Truncate(100_000) },
		"other":   func(f *os.File) error { _, err := f.WriteAt([]byte("x"), 0); return err },
	} {
		file := filepath.Join(t.TempDir(), "a")
		if err := os.WriteFile(file, []byte(strings.Repeat("a", 300_000)), 0o600); err != nil {
			t.Fatal(err)
		}
		past := time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC)
		if err := os.Chtimes(file, past, past); err != nil {
			t.Fatal(err)
		}
		o := external.New(nil)
		var was external.State
		for found, err := range o.Find(t.Context(), (&url.URL{Scheme: "file", Path: file}).String()) {
			if err != nil {
				t.Fatal(err)
			}
			was = found.State
		}
		r, err := o.Open(t.Context(), was, external.All)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(r, make([]byte, 200_000)); err != nil {
			t.Fatal(err)
		}
		w, err := os.OpenFile(file, os.O_RDWR|os.O_APPEND, 0)
		if name == "other" {
			w, err = os.OpenFile(file, os.O_RDWR, 0)
		}
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(then(w), w.Close()); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadAll(r); !errors.Is(err, external.ErrChanged) {
			t.Errorf("%s: %v", name, err)
		}
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	}
}

// Whoever wants a part of an original gets that part, also from a server that sends whole files only; a change is noticed.
func TestOpenInTheMiddle(t *testing.T) {
	t.Parallel()
	content := strings.Repeat("0123456789", 1000)
	file := filepath.Join(t.TempDir(), "a")
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	var shorter atomic.Bool
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		has := content
		w.Header().Set("ETag", `"1"`)
		if shorter.Load() {
			has = "0123"
			w.Header().Set("ETag", `"2"`)
		}
		if r.URL.Path == "/whole" {
			r.Header.Del("Range")
		}
		http.ServeContent(w, r, "a", time.Time{}, strings.NewReader(has))
	}))
	t.Cleanup(web.Close)
	o := external.New(nil)
	for _, u := range []string{(&url.URL{Scheme: "file", Path: file}).String(), web.URL + "/parts", web.URL + "/whole"} {
		var was external.State
		for found, err := range o.Find(t.Context(), u) {
			if err != nil {
				t.Fatal(err)
			}
			was = found.State
		}
		for _, part := range []external.Part{{0, -1}, {1, -1}, {9999, -1}, {0, 10}, {4001, 100}, {9990, 10}, {9990, 100}} {
			r, err := o.Open(t.Context(), was, part)
			if err != nil {
				t.Fatalf("%v of %s: %v", part, u, err)
			}
			got, err := io.ReadAll(r)
			if err := errors.Join(err, r.Close()); err != nil || string(got) != content[part.Offset:part.End(int64(len(content)))] {
				t.Errorf("%v of %s: %d bytes, %v", part, u, len(got), err)
			}
		}
		if strings.HasPrefix(u, "http") {
			shorter.Store(true)
			if _, err := o.Open(t.Context(), was, external.Part{Offset: 5000, Length: -1}); !errors.Is(err, external.ErrChanged) {
				t.Errorf("%s, which is shorter now: %v", u, err)
			}
			shorter.Store(false)
		}
	}
}
