package image_test

import (
	"archive/zip"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"tarn.dev/tarn/internal/image"
)

// wheel writes a wheel into a folder and returns its name. A file whose name begins with "info/" lies in
// the wheel's own folder, "data/" in that of what belongs elsewhere than among the modules.
func wheel(t *testing.T, dir, name, version string, files map[string]string) string {
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

// index is a package index on loopback that knows what it was asked for.
type index struct {
	t      *testing.T
	server *httptest.Server
	dir    string // of the files

	mu       sync.Mutex
	password string // "" lets everybody in
	got      []string
}

func newIndex(t *testing.T) *index {
	x := &index{t: t, dir: t.TempDir()}
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
func (x *index) page(w http.ResponseWriter, r *http.Request) {
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

func (x *index) add(name, version string, files map[string]string) {
	wheel(x.t, x.dir, name, version, files)
}

func (x *index) url() string { return x.server.URL + "/simple" }

// env is the environment of a user whose only index this is.
func (x *index) env() []string {
	return append(userEnv(), "UV_DEFAULT_INDEX="+x.url(), "NO_PROXY=127.0.0.1", "UV_HTTP_RETRIES=0")
}

func (x *index) asked() []string {
	x.mu.Lock()
	defer x.mu.Unlock()
	return slices.Clone(x.got)
}

func (x *index) forget() {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.got = nil
}

// protect asks for a password from now on.
func (x *index) protect(password string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.password = password
}

// removeAll removes a folder that may hold read-only ones.
func removeAll(dir string) error {
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			return os.Chmod(path, 0o755)
		}
		return err
	})
	return errors.Join(err, os.RemoveAll(dir))
}

// A private index of the project is asked again when the packages are installed on another host, which
// knows the lock and not the project.
func TestPrivateIndex(t *testing.T) {
	t.Parallel()
	own := newIndex(t)
	own.add("tarn_test_private", "1.0", map[string]string{"tarn_test_private.py": "ok = True\n"})
	own.protect("secret")
	env := append(userEnv(), "UV_INDEX_OWN_USERNAME=u", "UV_INDEX_OWN_PASSWORD=secret", "NO_PROXY=127.0.0.1")
	spec := image.Spec{Packages: []string{"tarn-test-private"}}
	for name, text := range map[string]string{
		"uv.toml":        "[[index]]\nname = \"own\"\nurl = \"" + own.url() + "\"\n",
		"pyproject.toml": "[[tool.uv.index]]\nname = \"own\"\nurl = \"" + own.url() + "\"\n",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			project := t.TempDir()
			write(t, project, map[string]string{name: text})
			locks, err := open(t, scratch(t), env).Resolve(t.Context(), project, []image.Spec{spec})
			if err != nil {
				t.Fatal(err)
			}
			if text := read(t, filepath.Join(project, image.LockFile)); strings.Contains(text, "secret") {
				t.Errorf("a password is in tarn.lock: %s", text)
			}
			v, err := open(t, scratch(t), env).Ensure(t.Context(), locks[0], nil)
			if err != nil {
				t.Fatal(err)
			}
			run(t, v, "import tarn_test_private")
		})
	}
}
