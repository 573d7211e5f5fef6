package cli

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/rogpeppe/go-internal/testscript"

	"tarn.dev/tarn/internal/blob/s3blob/s3test"
)

// Links to a web server whose files change, to a bucket, and to files of this host.
func TestLinks(t *testing.T) {
	t.Parallel()
	store := s3test.Start(t)
	web := httptest.NewServer(&originals{files: map[string]string{}})
	t.Cleanup(web.Close)
	params := scripts(testscript.Params{Dir: "testdata/link"}, func() []string {
		bucket := store.Bucket(t)
		return append(s3test.Env(), "BUCKET="+bucket, "ENDPOINT="+store.URL, "WEB="+web.URL)
	})
	params.Cmds["serve"] = func(ts *testscript.TestScript, neg bool, args []string) {
		text, gone := given(ts, neg, args)
		method := http.MethodPut
		if gone {
			method = http.MethodDelete
		}
		r := httptest.NewRequest(method, args[0], strings.NewReader(text))
		web.Config.Handler.ServeHTTP(httptest.NewRecorder(), r)
	}
	params.Cmds["object"] = func(ts *testscript.TestScript, neg bool, args []string) {
		text, gone := given(ts, neg, args)
		bucket, err := ts.Getenv("BUCKET"), error(nil)
		if gone {
			_, err = store.Client().DeleteObject(t.Context(), &s3.DeleteObjectInput{Bucket: &bucket, Key: &args[0]})
		} else {
			_, err = store.Client().PutObject(t.Context(), &s3.PutObjectInput{Bucket: &bucket, Key: &args[0], Body: strings.NewReader(text)})
		}
		ts.Check(err)
	}
	params.Cmds["touched"] = touched
	testscript.Run(t, params)
}

// given reads the arguments of a command that lets a server have a file: PATH TEXT, PATH @FILE, or PATH when it is to have none.
func given(ts *testscript.TestScript, neg bool, args []string) (text string, gone bool) {
	if neg || len(args) < 1 || len(args) > 2 {
		ts.Fatalf("usage: serve PATH [TEXT | @FILE], object KEY [TEXT | @FILE]")
	}
	if len(args) == 1 {
		return "", true
	}
	if file, ok := strings.CutPrefix(args[1], "@"); ok {
		return ts.ReadFile(file), false
	}
	return args[1], false
}

// touched FILE: the file's time is another one; its size and bytes are as before.
func touched(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: touched FILE")
	}
	at := time.Date(2020, 1, 2, 3, 4, 5, 0, time.UTC)
	ts.Check(os.Chtimes(filepath.Clean(ts.MkAbs(args[0])), at, at))
}

// originals are files whose server tells etag and time, or by the name of their folder less: /etag, /weak, /time, /none; or
// gives them otherwise: /moved leads to /etag, /head gives no answer to HEAD, /broken breaks every connection once.
type originals struct {
	mu     sync.Mutex
	files  map[string]string
	breaks int
}

func (o *originals) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	o.mu.Lock()
	defer o.mu.Unlock()
	switch r.Method {
	case http.MethodPut:
		text, err := io.ReadAll(r.Body)
		if err != nil {
			panic(err)
		}
		o.files[r.URL.Path] = string(text)
		return
	case http.MethodDelete:
		delete(o.files, r.URL.Path)
		return
	}
	dir, name := filepath.Split(r.URL.Path)
	text, ok := o.files[r.URL.Path]
	etag, at := fmt.Sprintf(`"%x"`, text), time.Date(2024, 1, 1, 0, 0, len(text), 0, time.UTC)
	switch {
	case dir == "/moved/":
		http.Redirect(w, r, "/etag/"+name, http.StatusFound)
		return
	case dir == "/secret/":
		http.Error(w, "no", http.StatusForbidden)
		return
	case !ok:
		http.NotFound(w, r)
		return
	case dir == "/head/" && r.Method == http.MethodHead:
		http.Error(w, "no", http.StatusMethodNotAllowed)
		return
	}
	switch dir {
	case "/weak/":
		etag = "W/" + etag
	case "/time/":
		etag = ""
	case "/none/":
		etag, at = "", time.Time{}
	}
	if etag != "" {
		w.Header().Set("ETag", etag)
	}
	if dir == "/broken/" && r.Method == http.MethodGet {
		if o.breaks++; o.breaks%2 == 1 {
			w = &cutShort{w, len(text) / 2}
		}
	}
	http.ServeContent(w, r, "", at, strings.NewReader(text))
}

// cutShort breaks the connection after some bytes.
type cutShort struct {
	http.ResponseWriter
	left int
}

func (h *cutShort) Write(p []byte) (int, error) {
	if len(p) < h.left {
		h.left -= len(p)
		return h.ResponseWriter.Write(p)
	}
	_, _ = h.ResponseWriter.Write(p[:h.left])
	_ = http.NewResponseController(h.ResponseWriter).Flush()
	panic(http.ErrAbortHandler)
}
