package image_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"tarn.dev/tarn/internal/image"
)

func TestParseInlineScript(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, source string
		want         image.Spec
		ok           bool
		err          string
	}{
		{"none", "import pandas\n# /// other\n# x = 1\n# ///\n", image.Spec{}, false, ""},
		{
			"block", "#!/usr/bin/env python3\n# /// script\n# requires-python = \">=3.10\"\n# dependencies = [\n#   \"pandas<3\",\n#\n#   \"six\",\n# ]\n#\n# [[tool.uv.index]]\n# url = \"http://127.0.0.1:9/simple\"\n# ///\nimport pandas\n",
			image.Spec{Name: "x.py", Python: ">=3.10", Packages: []string{"pandas<3", "six"}, Indexes: []string{"http://127.0.0.1:9/simple"}},
			true, "",
		},
		{"windows", "# /// script\r\n# dependencies = [\"six\"]\r\n# ///\r\n", image.Spec{Name: "x.py", Packages: []string{"six"}}, true, ""},
		{"empty", "# /// script\n#\n# ///\n", image.Spec{Name: "x.py"}, true, ""},
		{"not closed", "# /// script\n# dependencies = [\"six\"]\nimport six\n", image.Spec{}, false, ""},
		{"two", "# /// script\n# dependencies = []\n# ///\n\n# /// script\n# dependencies = []\n# ///\n", image.Spec{}, false, "x.py has 2 script blocks"},
		{"not TOML", "# /// script\n# dependencies = [\n# ///\n", image.Spec{}, false, "x.py: script block"},
		{"wrong type", "# /// script\n# dependencies = \"six\"\n# ///\n", image.Spec{}, false, "x.py: script block"},
		{"option", "# /// script\n# dependencies = [\"-e .\"]\n# ///\n", image.Spec{}, false, `environment x.py: "-e ."`},
	} {
		got, ok, err := image.ParseInlineScript("x.py", []byte(c.source))
		if (err != nil) != (c.err != "") || err != nil && (!errors.Is(err, image.ErrRequirement) || !strings.Contains(err.Error(), c.err)) {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if diff := cmp.Diff(c.want, got); err == nil && (diff != "" || ok != c.ok) {
			t.Errorf("%s: %t %s", c.name, ok, diff)
		}
	}
}

func write(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
}

func TestReadRequirements(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write(t, dir, map[string]string{
		"requirements.txt": "\ufeff# comment\r\n--extra-index-url http://127.0.0.1:9/simple\r\npandas==2.2.3 \\\r\n    --hash=sha256:aa \\\r\n    --hash=sha256:bb\r\n-r more/base.txt\r\nsix  # why\r\n",
		"more/base.txt":    "idna>=3 ; python_version < '4'\n-r\tdeep.txt\n",
		"more/deep.txt":    "attrs[tests]~=23.1",
		"loop.txt":         "-r loop.txt",
		"gone.txt":         "-r missing.txt",
		"editable.txt":     "six\n-e .\n",
		"git.txt":          "git+https://example.invalid/x.git",
	})
	got, err := image.ReadRequirements(filepath.Join(dir, "requirements.txt"))
	if err != nil {
		t.Fatal(err)
	}
	want := image.Spec{
		Name: "requirements.txt", Packages: []string{"pandas==2.2.3", "idna>=3 ; python_version < '4'", "attrs[tests]~=23.1", "six"},
		Indexes: []string{"http://127.0.0.1:9/simple"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	for name, says := range map[string]string{"loop.txt": "includes itself", "gone.txt": "missing.txt", "editable.txt": `"-e ."`, "git.txt": "git+https"} {
		if _, err := image.ReadRequirements(filepath.Join(dir, name)); !errors.Is(err, image.ErrRequirement) || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := image.ReadRequirements(filepath.Join(dir, "nothing.txt")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a file that is not there: %v", err)
	}
}

func TestReadPyproject(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write(t, dir, map[string]string{
		"pyproject.toml": "[project]\nname = \"x\"\nrequires-python = \">=3.9\"\ndependencies = [\"six\"]\n[[tool.uv.index]]\nurl = \"http://127.0.0.1:9/\"\n",
		"tools.toml":     "[tool.ruff]\nline-length = 100\n",
		"broken.toml":    "[project\n",
	})
	got, ok, err := image.ReadPyproject(filepath.Join(dir, "pyproject.toml"))
	want := image.Spec{Name: "pyproject.toml", Python: ">=3.9", Packages: []string{"six"}, Indexes: []string{"http://127.0.0.1:9/"}}
	if diff := cmp.Diff(want, got); err != nil || !ok || diff != "" {
		t.Error(ok, err, diff)
	}
	if _, ok, err := image.ReadPyproject(filepath.Join(dir, "tools.toml")); ok || err != nil {
		t.Errorf("without [project]: %t, %v", ok, err)
	}
	if _, _, err := image.ReadPyproject(filepath.Join(dir, "broken.toml")); !errors.Is(err, image.ErrRequirement) || !strings.Contains(err.Error(), "broken.toml") {
		t.Errorf("broken: %v", err)
	}
}

// Interpreters are found by name in every place, each once, and a shim is never run.
func TestInterpreters(t *testing.T) {
	t.Parallel()
	all, err := open(t, t.TempDir(), os.Environ()).Interpreters(t.Context())
	if err != nil || len(all) == 0 {
		t.Fatalf("%v, %v", all, err)
	}
	for _, p := range all {
		if real, err := filepath.EvalSymlinks(p.Path); err != nil || real != p.Path || strings.Contains(p.Path, "shims") {
			t.Errorf("%s is not the real executable (%s, %v)", p.Path, real, err)
		}
		if !strings.HasPrefix(p.Version, p.Minor+".") {
			t.Errorf("%+v", p)
		}
	}

	home, cache := t.TempDir(), t.TempDir()
	write(t, home, map[string]string{
		"shims/python3":                          "#!/bin/sh\ntouch " + home + "/shim-was-run\n",
		"bin/python3-config":                     "#!/bin/sh\ntouch " + home + "/config-was-run\n",
		"bin/python3.9":                          "#!/bin/sh\necho this is no Python\n",
		".pyenv/versions/x/bin/unrelated":        "",
		".local/share/uv/python/y/bin/unrelated": "",
	})
	for _, script := range []string{"shims/python3", "bin/python3-config", "bin/python3.9"} {
		if err := os.Chmod(filepath.Join(home, script), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, link := range []string{"bin/python3", ".pyenv/versions/x/bin/python3", ".local/share/uv/python/y/bin/python3.11"} {
		if err := os.Symlink(all[0].Path, filepath.Join(home, link)); err != nil {
			t.Fatal(err)
		}
	}
	env := []string{"HOME=" + home, "PATH=" + home + "/shims:" + home + "/bin:relative:" + home + "/missing"}
	for range 2 { // the second time from the cache
		got, err := open(t, cache, env).Interpreters(t.Context())
		if diff := cmp.Diff(all[:1], got); err != nil || diff != "" {
			t.Errorf("%v %s", err, diff)
		}
	}
	if marks, err := filepath.Glob(filepath.Join(home, "*-was-run")); err != nil || len(marks) != 0 {
		t.Errorf("was run: %v, %v", marks, err)
	}
	none, err := open(t, t.TempDir(), []string{"HOME=" + home + "/nowhere"}).Interpreters(t.Context())
	if err != nil || len(none) != 0 {
		t.Errorf("on a host without Python: %v, %v", none, err)
	}
}
