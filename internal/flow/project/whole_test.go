package project

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

// A whole folder has what git does not ignore, in any state of being written, and costs no copy of what is there already.
func TestWhole(t *testing.T) {
	t.Parallel()
	f := folder(t, "a.py", "import tarn", "data/x.csv", "1", "data/y.csv", "2", ".gitignore", "*.log\n", "big.log", "no", ".env", "secret")
	huge := filepath.Join(f.Dir(), "huge.bin")
	if err := os.WriteFile(huge, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(huge, MostBeside); err != nil {
		t.Fatal(err)
	}
	old := time.Now().Add(-time.Hour)
	if err := os.Chtimes(huge, old, old); err != nil {
		t.Fatal(err)
	}
	root, pool := t.TempDir(), t.TempDir()
	lay := func() (string, string) {
		t.Helper()
		all, left, err := f.Whole(snapshot(t, f), pool)
		if err != nil {
			t.Fatal(err)
		}
		if len(left) != 1 || left[0] != "huge.bin" {
			t.Errorf("left out: %v", left)
		}
		dir, err := f.MaterializeWhole(all, root, pool)
		if err != nil {
			t.Fatal(err)
		}
		return dir, all.ID
	}
	dir, id := lay()
	for name, want := range map[string]string{"a.py": "import tarn", "data/x.csv": "1", "data/y.csv": "2"} {
		if b, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(b) != want {
			t.Errorf("%s: %q %v", name, b, err)
		}
	}
	for _, name := range []string{"big.log", ".env", ".gitignore", "huge.bin"} {
		if _, err := os.Lstat(filepath.Join(dir, name)); err == nil {
			t.Errorf("%s came along", name)
		}
	}
	if _, again := lay(); again != id {
		t.Error("nothing changed, and the snapshot did")
	}
	// A change of a file between its listing and its copy is no error.
	s := snapshot(t, f)
	write(t, f, "data/x.csv", "longer than before")
	if _, _, err := f.Whole(s, pool); err != nil {
		t.Error(err)
	}
	if err := os.Remove(filepath.Join(f.Dir(), "data/x.csv")); err != nil {
		t.Fatal(err)
	}
	if _, _, err := f.Whole(s, pool); err != nil {
		t.Error(err)
	}
	other, changed := lay()
	if changed == id {
		t.Error("a file was removed, and the snapshot is the same")
	}
	one, err := os.Stat(filepath.Join(dir, "data/y.csv"))
	if err != nil {
		t.Fatal(err)
	}
	two, err := os.Stat(filepath.Join(other, "data/y.csv"))
	if err != nil || !os.SameFile(one, two) {
		t.Error("a file that did not change was copied again:", err)
	}
}

// What a notebook defines is a file that the folder does not have, in every layout of the snapshot.
func TestGiven(t *testing.T) {
	t.Parallel()
	f := folder(t, "a.py", "import tarn", "x.csv", "1")
	s := snapshot(t, f)
	with, err := s.Given("tarn_cell.py", "one")
	if err != nil {
		t.Fatal(err)
	}
	other, err := s.Given("tarn_cell.py", "two")
	if err != nil || other.ID == with.ID || with.ID == s.ID {
		t.Error("another text is another snapshot:", err)
	}
	pool := t.TempDir()
	all, _, err := f.Whole(with, pool)
	if err != nil {
		t.Fatal(err)
	}
	dir, err := f.MaterializeWhole(all, t.TempDir(), pool)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"a.py": "import tarn", "x.csv": "1", "tarn_cell.py": "one"} {
		if b, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(b) != want {
			t.Errorf("%s: %q %v", name, b, err)
		}
	}
	write(t, f, "tarn_cell.py", "the project's own")
	for path, s := range map[string]*Snapshot{"../a.py": s, "a.py": s, "tarn_cell.py": snapshot(t, f)} {
		if _, err := s.Given(path, "x"); err == nil {
			t.Errorf("%s was taken", path)
		}
	}
	if _, err := s.Given("tarn_cell.py", "\xff"); err == nil {
		t.Error("a text that is no UTF-8 was taken")
	}
}
