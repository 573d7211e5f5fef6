// Package imagetest has wheels and package indexes for tests: small, made on the spot, on loopback.
package imagetest

import (
	"archive/zip"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

// Wheel writes a wheel into a folder and returns its name. A file whose name begins with "info/" lies in
// the wheel's own folder, "data/" in that of what belongs elsewhere than among the modules.
func Wheel(t testing.TB, dir, name, version string, files map[string]string) string {
	t.Helper()
	file := fmt.Sprintf("%s-%s-py3-none-any.whl", name, version)
	f, err := os.Create(filepath.Join(dir, file))
	if err != nil {
		t.Fatal(err)
	}
	z := zip.NewWriter(f)
	base := name + "-" + version
	info := base + ".dist-info/"
	all := map[string]string{
		info + "METADATA": "Metadata-Version: 2.1\nName: " + name + "\nVersion: " + version + "\n",
		info + "WHEEL":    "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
	}
	record := ""
	for path, text := range files {
		if rest, ok := strings.CutPrefix(path, "info/"); ok {
			path = info + rest
		} else if rest, ok := strings.CutPrefix(path, "data/"); ok {
			path = base + ".data/" + rest
		}
		all[path] = text
		record += fmt.Sprintf("%s,sha256=%x,%d\n", path, text, len(text))
	}
	all[info+"RECORD"] = record + info + "METADATA,,\n" + info + "WHEEL,,\n" + info + "RECORD,,\n"
	for path, text := range all {
		w, err := z.Create(path)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, text); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(z.Close(), f.Close()); err != nil {
		t.Fatal(err)
	}
	return file
}

// Index is a package index on loopback that knows what it was asked for.
type Index struct {
	t      testing.TB
	server *httptest.Server
	dir    string // of the files

	mu       sync.Mutex
	password string // "" lets everybody in
	got      []string
}

// NewIndex starts one that ends with the test.
func NewIndex(t testing.TB) *Index {
	x := &Index{t: t, dir: t.TempDir()}
	files := http.StripPrefix("/files/", http.FileServer(http.Dir(x.dir)))
	x.server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		x.mu.Lock()
		wanted := x.password
		x.got = append(x.got, r.URL.Path)
		x.mu.Unlock()
		if _, password, _ := r.BasicAuth(); wanted != "" && password != wanted {
			w.Header().Set("WWW-Authenticate", "Basic realm=index")
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		if strings.HasPrefix(r.URL.Path, "/files/") {
			files.ServeHTTP(w, r)
			return
		}
		x.page(w, r)
	}))
	t.Cleanup(x.server.Close)
	return x
}

// page lists the files of one package.
func (x *Index) page(w http.ResponseWriter, r *http.Request) {
	name := filepath.Base(r.URL.Path)
	found, err := filepath.Glob(filepath.Join(x.dir, strings.ReplaceAll(name, "-", "_")+"-*"))
	if err != nil || len(found) == 0 {
		http.NotFound(w, r)
		return
	}
	w.Header().Set("Content-Type", "text/html")
	for _, path := range found {
		b, err := os.ReadFile(path)
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		fmt.Fprintf(w, `<a href="/files/%[1]s#sha256=%[2]x">%[1]s</a>`, filepath.Base(path), sha256.Sum256(b))
	}
}

// Add puts a wheel into it.
func (x *Index) Add(name, version string, files map[string]string) {
	Wheel(x.t, x.dir, name, version, files)
}

// URL is what users and settings call it.
func (x *Index) URL() string { return x.server.URL + "/simple" }

// Asked are the paths that were asked for.
func (x *Index) Asked() []string {
	x.mu.Lock()
	defer x.mu.Unlock()
	return slices.Clone(x.got)
}

// Forget forgets what was asked for.
func (x *Index) Forget() {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.got = nil
}

// Protect asks for a password from now on.
func (x *Index) Protect(password string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.password = password
}
