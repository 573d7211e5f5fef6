package cli

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The tour of README.md does what it says, line by line.
func TestReadmeTour(t *testing.T) {
	t.Parallel()
	follow(t, "../../README.md", "\n## Five minutes\n",
		"\nresolving packages of flights\n",
		"nothing changed: everything was up to date on main",
		"4 rows added, 4 rows removed from main to dev",
		"unique(origin) failed on busiest: 8 of 8 rows. dev is unchanged.",
	)
}

// So do the guides.
func TestGuideToFunctions(t *testing.T) {
	t.Parallel()
	follow(t, "../../docs/guide/functions.md", "# Functions\n", "one: 2.999", "many: 30\n", "generator: [10, 5, 2, 1, 0]\n", "steps: 8\n", "later: 2.996", "numpy        slope")
}

func TestGuideToPackages(t *testing.T) {
	t.Parallel()
	follow(t, "../../docs/guide/packages.md", "# Packages of your own\n", "area: 12\n", "area: 24\n", "package  geo==1.0 (./libs/geo)")
}

// follow runs the blocks of a part of a document in a home of its own, which must then have said what is wanted.
func follow(t *testing.T, document, heading string, wanted ...string) {
	if testing.Short() {
		t.Skip("fetches packages")
	}
	text, err := os.ReadFile(document)
	if err != nil {
		t.Fatal(err)
	}
	_, tour, ok := strings.Cut(string(text), heading)
	if !ok {
		t.Fatalf("%s has no part %q", document, heading)
	}
	tour, _, _ = strings.Cut(tour, "\n## ")
	script := "set -ex\n"
	for i, part := range strings.Split(tour, "```\n") {
		if i%2 == 1 {
			script += part
		}
	}
	// Sockets have short paths: a test's own folder is too deep for one.
	runtime, err := os.MkdirTemp("", "tarn")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(runtime) })
	dir := t.TempDir()
	t.Cleanup(func() { makeWritable(t, dir) }) // packages are read-only, and only root removes what is
	env := append(os.Environ(), "TARN_HOME="+filepath.Join(dir, "home"), "TARN_CACHE="+filepath.Join(dir, "cache"), "XDG_RUNTIME_DIR="+runtime, "TARN_URL=", "TARN_BRANCH=")
	t.Cleanup(func() {
		stop := bounded(t, "tarn", "server", "stop")
		stop.Env, stop.Dir = env, dir
		if out, err := stop.CombinedOutput(); err != nil {
			t.Errorf("stop the server: %s", out)
		}
	})
	c := bounded(t, "bash", "-c", script)
	c.Env, c.Dir = env, dir
	out, err := c.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, want := range wanted {
		if !strings.Contains(string(out), want) {
			t.Errorf("the tour does not say %q:\n%s", want, out)
		}
	}
}

func makeWritable(t *testing.T, dir string) {
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			return os.Chmod(path, 0o700)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}
