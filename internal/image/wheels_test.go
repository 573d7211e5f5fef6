package image_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"tarn.dev/tarn/internal/image"
	"tarn.dev/tarn/internal/image/imagetest"
)

// What a wheel may bring beside modules: data files, headers, scripts of its own, programs that are only
// named, and parts of a namespace that other wheels share.
func TestWhatWheelsBring(t *testing.T) {
	t.Parallel()
	index := imagetest.NewIndex(t)
	index.Add("tarn_test_kit", "1.0", map[string]string{
		"tarn_test_ns/kit.py":                    "import os\nTEXT = open(os.path.join(os.path.dirname(__file__), 'kit.txt')).read()\ndef main():\n    print('kit', TEXT)\n",
		"tarn_test_ns/kit.txt":                   "data",
		"info/entry_points.txt":                  "[console_scripts]\ntarn-test-kit = tarn_test_ns.kit:main\n\n[tarn.test]\none = tarn_test_ns.kit:main\n",
		"data/data/share/tarn-test/settings.ini": "here",
		"data/scripts/tarn-test-script":          "#!python\nimport tarn_test_ns.kit, sys\nprint('script', sys.version_info[:2] >= (3, 9))\n",
		"data/scripts/tarn-test-sh":              "#!/bin/sh\necho shell\n",
		"data/purelib/tarn_test_pure.py":         "x = 1\n",
	})
	index.Add("tarn_test_other", "1.0", map[string]string{"tarn_test_ns/other.py": "x = 2\n"})
	s := open(t, scratch(t), indexEnv(index))
	locks, err := s.Resolve(t.Context(), t.TempDir(), []image.Spec{{Packages: []string{"tarn-test-kit", "tarn-test-other"}}})
	if err != nil {
		t.Fatal(err)
	}
	v, err := s.Ensure(t.Context(), locks[0], nil)
	if err != nil {
		t.Fatal(err)
	}
	const namespace = "import tarn_test_ns.kit, tarn_test_ns.other, tarn_test_pure; print(tarn_test_ns.kit.TEXT, tarn_test_ns.other.x)"
	if got := run(t, v, namespace); got != "data 2" {
		t.Errorf("the namespace has %q", got)
	}
	const metadata = "from importlib.metadata import distribution; d = distribution('tarn-test-kit'); print(d.version, *sorted(e.name for e in d.entry_points))"
	if got := run(t, v, metadata); got != "1.0 one tarn-test-kit" {
		t.Errorf("the metadata say %q", got)
	}
	if got := read(t, filepath.Join(v.SitePackages, "share", "tarn-test", "settings.ini")); got != "here" {
		t.Errorf("the data file says %q", got)
	}
	bin := filepath.Join(v.SitePackages, "bin")
	for program, want := range map[string]string{"tarn-test-kit": "kit data", "tarn-test-script": "script True", "tarn-test-sh": "shell"} {
		cmd := exec.CommandContext(t.Context(), filepath.Join(bin, program))
		cmd.Env = []string{"PYTHONPATH=" + v.SitePackages, "PATH=" + filepath.Dir(v.Python.Path) + string(os.PathListSeparator) + "/usr/bin:/bin"}
		out, err := cmd.CombinedOutput()
		if err != nil || strings.TrimSpace(string(out)) != want {
			t.Errorf("%s: %q, %v", program, out, err)
		}
		if text := read(t, filepath.Join(bin, program)); strings.Contains(text, v.Python.Path) {
			t.Errorf("%s names one interpreter of this host: %s", program, text)
		}
	}
	checkView(t, v)
}

// The folder of a package serves every interpreter of its version, however uv wrote the first lines.
func TestInterpreterLine(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"#!/a/b/python3.11\nx\n": "#!/usr/bin/env python3.11\nx\n",
		"#!/bin/sh\n'''exec' '/a b/python3' \"$0\" \"$@\"\n' '''\nx\n": "#!/usr/bin/env python3.11\nx\n",
		"#!/bin/sh\necho python\n":                                     "#!/bin/sh\necho python\n",
		"\x7fELF\x02 python\n":                                         "\x7fELF\x02 python\n",
		"":                                                             "",
	} {
		dir := t.TempDir()
		write(t, dir, map[string]string{"program": text})
		if err := image.Relocate(dir, "3.11"); err != nil {
			t.Fatal(err)
		}
		if got := read(t, filepath.Join(dir, "program")); got != want {
			t.Errorf("%q became %q", text, got)
		}
	}
	if err := image.Relocate(filepath.Join(t.TempDir(), "none"), "3.11"); err != nil {
		t.Error(err)
	}
}
