package image_test

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
	"strings"
	"testing"

	"tarn.dev/tarn/internal/image"
)

// wheel writes a wheel of version 1.0 into a folder that serves as package index.
func wheel(t *testing.T, index, name string, files map[string]string) {
	t.Helper()
	f, err := os.Create(filepath.Join(index, name+"-1.0-py3-none-any.whl"))
	if err != nil {
		t.Fatal(err)
	}
	z := zip.NewWriter(f)
	info := name + "-1.0.dist-info/"
	all := map[string]string{
		info + "METADATA": "Metadata-Version: 2.1\nName: " + name + "\nVersion: 1.0\n",
		info + "WHEEL":    "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
	}
	record := ""
	for path, text := range files {
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
}

// Two packages that bring one path: the same one wins on every host, and the view says so.
func TestOverlappingPackages(t *testing.T) {
	t.Parallel()
	index := t.TempDir()
	for _, who := range []string{"aaa", "bbb", "ccc"} {
		wheel(t, index, "tarn_test_"+who, map[string]string{
			"shared/__init__.py": "who = '" + who + "'\n", "shared/same.py": "x = 1\n", "tarn_test_" + who + ".py": "ok = True\n",
		})
	}
	env := append(userEnv(), "UV_NO_INDEX=1", "UV_OFFLINE=1", "UV_FIND_LINKS="+index)
	for range 3 { // uv alone gives several outcomes
		s := open(t, scratch(t), env)
		locks, err := s.Resolve(t.Context(), t.TempDir(), []image.Spec{{Packages: []string{"tarn-test-aaa", "tarn-test-bbb", "tarn-test-ccc"}}})
		if err != nil {
			t.Fatal(err)
		}
		var said strings.Builder
		v, err := s.Ensure(t.Context(), locks[0], func(line string) { said.WriteString(line + "\n") })
		if err != nil {
			t.Fatal(err)
		}
		if got := run(t, v, "import shared, shared.same, tarn_test_aaa, tarn_test_bbb; print(shared.who)"); got != "ccc" {
			t.Errorf("the winner is %s", got)
		}
		const note = "shared/__init__.py is in tarn-test-aaa, tarn-test-bbb, tarn-test-ccc; that of tarn-test-ccc is used\n"
		if got := read(t, filepath.Join(v.SitePackages, ".tarn-overlaps")); got != note || !strings.Contains(said.String(), note) {
			t.Errorf("the view says %q; was told %q", got, said.String())
		}
		checkView(t, v)
	}
}

// A private index of the project is asked again when the packages are installed on another host, which
// knows the lock and not the project.
func TestPrivateIndex(t *testing.T) {
	t.Parallel()
	files := t.TempDir()
	wheel(t, files, "tarn_test_private", map[string]string{"tarn_test_private.py": "ok = True\n"})
	const file = "tarn_test_private-1.0-py3-none-any.whl"
	b := read(t, filepath.Join(files, file))
	mux := http.NewServeMux()
	mux.HandleFunc("/simple/tarn-test-private/", func(w http.ResponseWriter, r *http.Request) {
		if _, password, _ := r.BasicAuth(); password != "secret" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		w.Header().Set("Content-Type", "text/html")
		fmt.Fprintf(w, `<a href="/files/%s#sha256=%x">%s</a>`, file, sha256.Sum256([]byte(b)), file)
	})
	mux.Handle("/files/", http.StripPrefix("/files/", http.FileServer(http.Dir(files))))
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)

	env := append(userEnv(), "UV_INDEX_OWN_USERNAME=u", "UV_INDEX_OWN_PASSWORD=secret", "NO_PROXY=127.0.0.1")
	spec := image.Spec{Packages: []string{"tarn-test-private"}}
	for name, text := range map[string]string{
		"uv.toml":        "[[index]]\nname = \"own\"\nurl = \"" + server.URL + "/simple\"\n",
		"pyproject.toml": "[[tool.uv.index]]\nname = \"own\"\nurl = \"" + server.URL + "/simple\"\n",
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
