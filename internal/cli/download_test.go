package cli

import (
	"os"
	"path/filepath"
	"testing"

	tarnv1 "tarn.dev/tarn/api/gen/tarn/v1"
)

// Whatever a server says that a file is called, it is written below the folder that was asked for, or not at all.
func TestHostileNames(t *testing.T) {
	t.Parallel()
	outside := t.TempDir()
	inside := filepath.Join(outside, "inside")
	if err := os.Mkdir(inside, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("..", filepath.Join(inside, "up")); err != nil {
		t.Fatal(err)
	}
	root, err := os.OpenRoot(inside)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close() //nolint:errcheck // a folder
	for _, name := range []string{"../x", "a/../../x", "/x", outside + "/x", "up/x", "..", "a/..", ".", "", "a\x00b"} {
		w := copier{download: &download{folder: inside, root: root}}
		p, err := w.open(&tarnv1.Selected{Relative: name})
		if err == nil {
			err = p.finish(false)
		}
		if err == nil {
			t.Errorf("%q was written", name)
		}
		if err := w.close(); err != nil {
			t.Error(err)
		}
	}
	found, err := os.ReadDir(outside)
	if err != nil || len(found) != 1 {
		t.Errorf("outside of the folder are %v now (%v)", found, err)
	}
	left, err := filepath.Glob(filepath.Join(inside, ".tarn-part*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left are %v (%v)", left, err)
	}
}
