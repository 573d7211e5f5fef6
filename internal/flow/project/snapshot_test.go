package project

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/lake"
	"tarn.dev/tarn/internal/lake/laketest"
)

func TestMatch(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		glob, path string
		want       bool
	}{
		{"a.csv", "a.csv", true},
		{"./a.csv", "a.csv", true},
		{"x/../a.csv", "a.csv", true},
		{"a.csv", "b/a.csv", false},
		{"*.csv", "b/a.csv", false},
		{"*", "a", true},
		{"?", "é", true},
		{"b/*.csv", "b/a.csv", true},
		{"**", "a/b/c", true},
		{"**/*.csv", "a.csv", true},
		{"**/*.csv", "a/b/c.csv", true},
		{"b/**", "b/a/c", true},
		{"b/**", "b", false},
		{"b/**/c", "b/c", true},
		{"b/**/c", "b/x/y/c", true},
		{"b/**/c", "b/x/y/d", false},
		{"**/**/c", "c", true},
		{"**.csv", "a/b.csv", false},
		{"[ab].csv", "b.csv", true},
		{"[^ab].csv", "c.csv", true},
		{"data[1].csv", "data[1].csv", true},
		{"data[1].csv", "data1.csv", true},
		{"what?*", "what?*", true},
		{`a\*b`, "a*b", true},
		{`a\*b`, "axb", false},
		{"[", "[", true},
		{"[", "a", false},
		{"", "a", false},
		{"", "", false},
		{"../a.csv", "a.csv", false},
		{"/a.csv", "a.csv", false},
		{strings.Repeat("**/", 60) + "x", strings.Repeat("a/", 200) + "y", false},
	} {
		if got := Match(c.glob, c.path); got != c.want {
			t.Errorf("Match(%q, %q) = %v", c.glob, c.path, got)
		}
	}
}

func TestSnapshotWith(t *testing.T) {
	t.Parallel()
	f := folder(
		t, "a.py", "import tarn", "tarn.toml", "", "sub/tarn.toml", "", "requirements.txt", "", "in/a.csv", "1", "in/b.csv", "2",
		"in/odd[1].csv", "3", "in/.hidden.csv", "4", "notes.md", "5",
	)
	s := snapshot(t, f)
	var base []string
	for _, x := range s.Files {
		base = append(base, x.Path)
	}
	if diff := cmp.Diff([]string{"a.py", "requirements.txt", "tarn.toml"}, base); diff != "" {
		t.Error(diff)
	}
	id := s.ID
	with, matched, err := f.With(s, []string{"in/*.csv", "in/a.csv", "in/odd[1].csv", "a.py", "absent.csv", "../x", "["})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string][]string{
		"in/*.csv": {"in/a.csv", "in/b.csv", "in/odd[1].csv"}, "in/a.csv": {"in/a.csv"},
		"in/odd[1].csv": {"in/odd[1].csv"}, "a.py": {"a.py"},
	}
	if diff := cmp.Diff(want, matched); diff != "" {
		t.Error(diff)
	}
	if len(with.Files) != 6 || with.ID == id || s.ID != id || len(s.Files) != 3 {
		t.Errorf("with %d files, the snapshot it came from now %d", len(with.Files), len(s.Files))
	}
	if with.Hash("in/b.csv") == "" || with.Hash("in/b.csv") == with.Hash("in/a.csv") || with.Hash("notes.md") != "" || s.Hash("in/a.csv") != "" {
		t.Error("hashes of files are not those asked for")
	}
	if same, _, err := f.With(s, nil); err != nil || same.ID != id {
		t.Errorf("with nothing more: %v %v", same.ID, err)
	}
	// The content of a folder is that of its files with their names, whatever else the snapshot has.
	in := with.Digest("in")
	if in == "" || in == s.Digest("in") || with.Digest("in/a.csv") != with.Hash("in/a.csv") || with.Digest("i") != "" || with.Digest("notes.md") != "" {
		t.Error("content of folders is not what the snapshot has")
	}
	if fewer, _, err := f.With(s, []string{"in/odd[1].csv", "notes.md"}); err != nil || fewer.Digest("in") == in {
		t.Errorf("a folder with fewer files has the content of the whole: %v", err)
	}
	// What no glob matched changes nothing.
	write(t, f, "notes.md", "6")
	if again := snapshot(t, f); again.ID != id {
		t.Error("a file that no code names changed the snapshot")
	}
}

func TestMaterializeOnceForAll(t *testing.T) {
	t.Parallel()
	f := folder(t, "a.py", "one", "sub/deep/b.sql", "two")
	s := snapshot(t, f)
	root := filepath.Join(t.TempDir(), "made", "on", "the", "way")
	dirs := make([]string, 8)
	var wg sync.WaitGroup
	for i := range dirs {
		wg.Go(func() {
			dir, err := f.Materialize(s, root)
			if err != nil {
				t.Error(err)
			}
			dirs[i] = dir
		})
	}
	wg.Wait()
	for _, d := range dirs {
		if d != dirs[0] {
			t.Errorf("laid out in %s and %s", d, dirs[0])
		}
	}
	there, err := os.ReadDir(root)
	if err != nil || len(there) != 1 {
		t.Errorf("%d folders, want 1: %v", len(there), err)
	}
	// Laid out already: what the project folder has become does not matter.
	write(t, f, "a.py", "changed")
	if dir, err := f.Materialize(s, root); err != nil || dir != dirs[0] {
		t.Errorf("%s %v", dir, err)
	}
	if b, err := os.ReadFile(filepath.Join(dirs[0], "sub/deep/b.sql")); err != nil || string(b) != "two" {
		t.Errorf("%q %v", b, err)
	}
	if info, err := os.Stat(filepath.Join(dirs[0], "a.py")); err != nil || info.Mode().Perm() != 0o444 {
		t.Errorf("%v %v", info.Mode(), err)
	}
}

func TestMaterializeAfterAChange(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(p string) error{
		"other bytes": func(p string) error { return os.WriteFile(p, []byte("two"), 0o644) },
		"removed":     os.Remove,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := folder(t, "0.py", "first", "a.py", "one")
			s := snapshot(t, f)
			if err := change(filepath.Join(f.Dir(), "a.py")); err != nil {
				t.Fatal(err)
			}
			root := t.TempDir()
			if _, err := f.Materialize(s, root); !errors.Is(err, ErrChanged) || !strings.Contains(err.Error(), "a.py") {
				t.Errorf("%v, want %v", err, ErrChanged)
			}
			if there, err := os.ReadDir(root); err != nil || len(there) != 0 {
				t.Errorf("half a snapshot is left: %v %v", there, err)
			}
		})
	}
}

func TestSnapshotThroughALake(t *testing.T) {
	t.Parallel()
	ctx, l := t.Context(), laketest.New(t)
	big := strings.Repeat("0123456789abcdef", 1<<14)
	f := folder(t, "a.py", "import tarn", "empty.sql", "", "größe/b c.sql", big, "tarn.toml", "[project]\n")
	s := snapshot(t, f)
	dir, err := f.Materialize(s, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	b := l.Begin(ctx)
	defer b.Discard()
	id, err := s.Store(ctx, b, dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Flush(ctx); err != nil {
		t.Fatal(err)
	}
	back, err := LoadSnapshot(ctx, l, id, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if filepath.Base(back) != s.ID {
		t.Errorf("laid out as %s, want %s", filepath.Base(back), s.ID)
	}
	again := snapshot(t, Open(back))
	if again.ID != s.ID {
		t.Errorf("snapshot %s came back as %s", s.ID, again.ID)
	}
	if diff := cmp.Diff(s.Files, again.Files); diff != "" {
		t.Error(diff)
	}
	if _, err := LoadSnapshot(ctx, l, lake.Hash{1}, t.TempDir()); errdef.CodeOf(err) != errdef.NotFound && errdef.CodeOf(err) != errdef.DataLoss {
		t.Errorf("a snapshot that is not there: %v", err)
	}
}

// A record may come from another person's store: it must not write outside of its folder.
func TestHostileSnapshot(t *testing.T) {
	t.Parallel()
	ctx, l := t.Context(), laketest.New(t)
	b := l.Begin(ctx)
	defer b.Discard()
	ref, err := b.PutFile(ctx, strings.NewReader("owned"))
	if err != nil {
		t.Fatal(err)
	}
	for _, body := range []any{
		stored{Files: []storedFile{{Path: "../../escaped.py", Hash: "x", Ref: ref}}},
		stored{Files: []storedFile{{Path: "/escaped.py", Hash: "x", Ref: ref}}},
		stored{Files: []storedFile{{Path: "", Hash: "x", Ref: ref}}},
		stored{Files: []storedFile{{Path: "a/../../escaped.py", Hash: "x", Ref: ref}}},
		"no snapshot",
	} {
		raw, err := json.Marshal(body)
		if err != nil {
			t.Fatal(err)
		}
		id, err := b.Put(ctx, lake.TypeRecord, raw)
		if err != nil {
			t.Fatal(err)
		}
		if err := b.Flush(ctx); err != nil {
			t.Fatal(err)
		}
		if _, err := LoadSnapshot(ctx, l, id, t.TempDir()); !errdef.IsCorrupt(err) {
			t.Errorf("%s: %v", raw, err)
		}
	}
}
