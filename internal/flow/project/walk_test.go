package project

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"tarn.dev/tarn/internal/base/errdef"
)

// folder makes a project folder of files: name, content, name, content.
func folder(t testing.TB, files ...string) *Folder {
	t.Helper()
	f := Open(t.TempDir())
	write(t, f, files...)
	return f
}

func write(t testing.TB, f *Folder, files ...string) {
	t.Helper()
	for i := 0; i < len(files); i += 2 {
		p := filepath.Join(f.Dir(), files[i])
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(files[i+1]), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func paths(t testing.TB, f *Folder) []string {
	t.Helper()
	files, err := f.Files(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, file := range files {
		out = append(out, file.Path)
	}
	return out
}

func snapshot(t testing.TB, f *Folder) *Snapshot {
	t.Helper()
	s, err := f.Snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestFilesLeavesOut(t *testing.T) {
	t.Parallel()
	f := folder(
		t, "a.py", "", "sub/b.sql", "", "data/c.csv", "",
		".env", "", ".git/x.py", "", ".venv/y.py", "", "__pycache__/z.py", "", "node_modules/m/i.js", "",
		"env/pyvenv.cfg", "", "env/lib/v.py", "", "store/format", "tarn-home 1\n", "store/s.py", "",
		"other/format", "of another tool", "other/o.py", "",
	)
	want := []string{"a.py", "data/c.csv", "other/format", "other/o.py", "sub/b.sql"}
	if diff := cmp.Diff(want, paths(t, f)); diff != "" {
		t.Error(diff)
	}
}

func TestFilesOddNames(t *testing.T) {
	t.Parallel()
	names := []string{" leading.py", "a b.py", "a\nb.py", "größe.py", "-x.py", "数据/价.sql", `back\slash.py`, "[x].py", "a#b.py", strings.Repeat("n", 250) + ".py"}
	f := folder(t)
	for i, n := range names {
		write(t, f, n, string(rune('a'+i)))
	}
	s := snapshot(t, f)
	dir, err := f.Materialize(s, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for i, n := range names {
		if b, err := os.ReadFile(filepath.Join(dir, n)); err != nil || string(b) != string(rune('a'+i)) {
			t.Errorf("%q: %q %v", n, b, err)
		}
	}
	if len(s.Files) != len(names) {
		t.Errorf("%d files, want %d", len(s.Files), len(names))
	}
	write(t, f, "bad\xff.py", "")
	if _, err := f.Snapshot(t.Context()); errdef.As(err).Reason != "project.name" || !strings.Contains(err.Error(), `bad\xff.py`) {
		t.Errorf("a name that is not UTF-8: %v", err)
	}
}

// A link could lead out of the project, or round in circles: none is followed.
func TestFilesLinks(t *testing.T) {
	t.Parallel()
	outside := t.TempDir()
	f := folder(t, "a.py", "", "sub/b.py", "")
	for name, target := range map[string]string{
		"file.py": "a.py", "away": outside, "sub/up": "..", "self": "self", "gone.py": "nowhere", "pyvenv.cfg": "nowhere",
	} {
		if err := os.Symlink(target, filepath.Join(f.Dir(), name)); err != nil {
			t.Fatal(err)
		}
	}
	write(t, Open(outside), "o.py", "")
	if diff := cmp.Diff([]string{"a.py", "sub/b.py"}, paths(t, f)); diff != "" {
		t.Error(diff)
	}
	if _, err := Open(filepath.Join(f.Dir(), "nowhere")).Files(t.Context()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a project that is not there: %v", err)
	}
}

func TestGitignore(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		files []string
		want  []string
	}{
		{"pattern and exception", []string{".gitignore", "*.log\n!keep.log\n", "a.log", "", "keep.log", "", "s/b.log", ""}, []string{"keep.log"}},
		{"the last line decides", []string{".gitignore", "!keep.log\n*.log\n", "keep.log", ""}, nil},
		{"a folder only", []string{".gitignore", "build/\n", "build/x", "", "s/build/y", "", "t/build", ""}, []string{"t/build"}},
		{"at the root", []string{".gitignore", "/out\n", "out/x", "", "s/out/y", ""}, []string{"s/out/y"}},
		{"a slash anchors", []string{".gitignore", "a/b\n", "a/b/x", "", "s/a/b/y", ""}, []string{"s/a/b/y"}},
		{"stars over folders", []string{".gitignore", "**/tmp/*.csv\n", "tmp/a.csv", "", "x/y/tmp/b.csv", "", "tmp/z/c.csv", ""}, []string{"tmp/z/c.csv"}},
		{"all inside but one", []string{".gitignore", "data/**\n!data/keep.csv\n", "data/a.csv", "", "data/keep.csv", ""}, []string{"data/keep.csv"}},
		{"nested exception wins", []string{".gitignore", "*.csv\n", "s/.gitignore", "!*.csv\n", "a.csv", "", "s/b.csv", ""}, []string{"s/b.csv"}},
		{"nested holds below only", []string{"s/.gitignore", "/x\n", "x", "", "s/x", "", "s/t/x", ""}, []string{"s/t/x", "x"}},
		{"no way back into an ignored folder", []string{".gitignore", "s\n!s/keep\n", "s/keep", ""}, nil},
		{"one character, a class, none of a class", []string{".gitignore", "a?.x\n[bc].x\n[!d-z].y\n", "a1.x", "", "a.x", "", "b.x", "", "d.y", "", "a.y", ""}, []string{"a.x", "d.y"}},
		{"regular expression characters are plain", []string{".gitignore", "c++\na(1).x\n.$x\n", "c++/m", "", "a(1).x", "", "ccc", ""}, []string{"ccc"}},
		{"comments, blanks, CRLF", []string{".gitignore", "# a\r\n\r\n   \r\nb  \r\n\\#c\r\n!\r\n/\r\n", "a", "", "b", "", "#c", ""}, []string{"a"}},
		{"broken pattern", []string{".gitignore", "[\n\\\nb\n", "a", "", "b", ""}, []string{"a"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			if diff := cmp.Diff(c.want, paths(t, folder(t, c.files...))); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// remembered looks again until the hash of the file as it is now is kept: a file that changed just now is
// not trusted.
func remembered(t *testing.T, f *Folder, name string) {
	t.Helper()
	for t.Context().Err() == nil {
		info, err := os.Stat(filepath.Join(f.Dir(), name))
		if err != nil {
			t.Fatal(err)
		}
		snapshot(t, f)
		if f.known[name].stamp == stampOf(info) {
			return
		}
	}
	t.Fatal("never remembered")
}

func TestHashesAreRememberedByStamp(t *testing.T) {
	t.Parallel()
	f := folder(t, "a.py", "import tarn # 1")
	p := filepath.Join(f.Dir(), "a.py")
	first := snapshot(t, f)
	remembered(t, f, "a.py")
	info, err := os.Stat(p)
	if err != nil {
		t.Fatal(err)
	}

	// Touched: hashed again, and the same.
	if err := os.Chtimes(p, time.Time{}, info.ModTime().Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	if s := snapshot(t, f); s.ID != first.ID {
		t.Error("touching a file changed the snapshot")
	}
	remembered(t, f, "a.py")

	// Other bytes of the same size and time of change.
	write(t, f, "a.py", "import tarn # 2")
	if err := os.Chtimes(p, time.Time{}, info.ModTime()); err != nil {
		t.Fatal(err)
	}
	changed := snapshot(t, f)
	if changed.ID == first.ID {
		t.Error("other bytes behind the same size and time were not seen")
	}

	// Replaced by a file with the same name, size and time.
	write(t, f, "b.tmp", "import tarn # 3")
	if err := os.Chtimes(filepath.Join(f.Dir(), "b.tmp"), time.Time{}, info.ModTime()); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(f.Dir(), "b.tmp"), p); err != nil {
		t.Fatal(err)
	}
	if s := snapshot(t, f); s.ID == changed.ID || s.ID == first.ID {
		t.Error("a replaced file was not seen")
	}
}

func TestMention(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]bool{
		"": false, "tar": false, "import tarn": true, "ta\nrn": false, "tartarn": true,
	} {
		for cut := range len(text) + 1 {
			var m mention
			for _, part := range []string{text[:cut], "", text[cut:]} {
				if n, err := m.Write([]byte(part)); n != len(part) || err != nil {
					t.Fatalf("%d %v", n, err)
				}
			}
			if m.found != want {
				t.Errorf("%q cut at %d: %v", text, cut, m.found)
			}
		}
	}
	f := folder(t, "a.py", "import tarn", "b.py", "import os", "tarn.toml", "tarn")
	got := map[string]bool{}
	for _, x := range snapshot(t, f).Files {
		got[x.Path] = x.Mention
	}
	if diff := cmp.Diff(map[string]bool{"a.py": true, "b.py": false, "tarn.toml": false}, got); diff != "" {
		t.Error(diff)
	}
}
