package image_test

import (
	"archive/zip"
	"errors"
	"fmt"
	"io"
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
