package flow_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"tarn.dev/tarn/internal/flow"
	"tarn.dev/tarn/internal/image/imagetest"
	rt "tarn.dev/tarn/internal/runtime"
)

const packagesPipeline = `import os
import subprocess
import sys

import tarn

env = tarn.Env(packages=["tarn-test-pth", "tarn-test-tool"], constraints=["tarn-test-tool<2"])


@tarn.asset(env=env)
def told(out: tarn.OutputDir):
    import tarn_test_added
    import tarn_test_found

    print("added", tarn_test_added.where, "found", tarn_test_found.x, "lines", sorted(sys.tarn_test))
    print("program", subprocess.run(["tarn-test-tool", "now"], stdout=subprocess.PIPE, check=True, text=True).stdout.strip())
    print("ran in", os.environ["HOME"])
`

// What a package says in .pth files counts where its modules are imported, and only there: a line of them is
// code, which must not run beside the sandbox while packages are installed or a project is looked at.
func TestPathFilesOfPackages(t *testing.T) {
	t.Parallel()
	for name, leave := range map[string]string{
		"forked": "",
		// A template cannot be forked with a thread: then each fork reads the files itself.
		"thread": "import threading; threading.Thread(target=threading.Event().wait, daemon=True).start()\n",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			witness := filepath.Join(t.TempDir(), "ran-on-the-host")
			index := imagetest.NewIndex(t)
			index.Protect("open-sesame")
			index.Add("tarn_test_pth", "1.0", map[string]string{
				"tarn_test_pth.pth": "# a comment\n\ntarn_test_more\n/nowhere/at/all\n" +
					"import sys; sys.tarn_test = getattr(sys, 'tarn_test', []) + ['one']; open(" + pyQuote(witness) + ", 'w') if sys.path and False else None\n",
				// As editable installs do: a finder that the line installs.
				"__editable__.tarn_test_found.pth": "import __editable___tarn_test_finder; __editable___tarn_test_finder.install()\n" + leave,
				"__editable___tarn_test_finder.py": "import importlib.util, os, sys\n\nclass Finder:\n    @classmethod\n    def find_spec(cls, name, path=None, target=None):\n" +
					"        if name == 'tarn_test_found':\n            return importlib.util.spec_from_file_location(name, os.path.join(os.path.dirname(__file__), 'tarn_test_elsewhere', 'it.py'))\n\n" +
					"def install():\n    sys.meta_path.append(Finder)\n    sys.tarn_test = getattr(sys, 'tarn_test', []) + ['two']\n    try:\n        open(" + pyQuote(witness) + ", 'w').close()\n    except OSError:\n        pass\n",
				"tarn_test_elsewhere/it.py":         "x = 7\n",
				"tarn_test_more/tarn_test_added.py": "where = 'more'\n",
				"zz_broken.pth":                     "import no_such_module_of_tarn\n",
			})
			index.Add("tarn_test_tool", "1.0", map[string]string{
				"tarn_test_tool.py":     "import sys\n\ndef main():\n    print('tool', *sys.argv[1:])\n",
				"info/entry_points.txt": "[console_scripts]\ntarn-test-tool = tarn_test_tool:main\n",
			})
			index.Add("tarn_test_tool", "2.0", map[string]string{"tarn_test_tool.py": "too new\n"})
			p := newPlace(t, "tarn.toml", "[project]\nname = \"p\"\n\n[[index]]\nname = \"own\"\nurl = \""+index.URL()+"\"\n", "pipeline.py", packagesPipeline)
			t.Cleanup(func() { writable(t, filepath.Join(p.home, "cache")) })
			p.setSecrets("UV_INDEX_OWN_USERNAME", "u", "UV_INDEX_OWN_PASSWORD", "open-sesame")
			o := p.run(p.request())
			text := p.told(o)
			if o.State != flow.RunSucceeded {
				t.Fatalf("the run %s: %s", o.State, text)
			}
			if strings.Contains(text, "sesame") {
				t.Errorf("the password of the index is in %s", text)
			}
			for _, want := range []string{"added more found 7 lines ['one', 'two']", "program tool now", "ran in "} {
				if !strings.Contains(text, want) {
					t.Errorf("%q is not in %s", want, text)
				}
			}
			if _, err := os.Stat(witness); err == nil && level() != rt.Process { // which shows the host's folders
				t.Error("a line of a .pth file ran outside of the sandbox")
			}
		})
	}
}

func pyQuote(s string) string { return "'" + strings.ReplaceAll(s, "'", "\\'") + "'" }

// writable lets the folders below dir be removed.
func writable(t *testing.T, dir string) {
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			return os.Chmod(path, 0o755)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}
