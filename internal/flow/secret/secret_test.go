package secret_test

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
	"tarn.dev/tarn/internal/flow/secret"
	"tarn.dev/tarn/internal/meta"
	"tarn.dev/tarn/internal/meta/sqlitemeta"
)

// place is a vault on disk.
type place struct {
	*secret.Vault
	rows meta.Store
	dir  string
}

func open(t testing.TB) *place {
	t.Helper()
	dir := t.TempDir()
	rows, err := sqlitemeta.Open(filepath.Join(dir, "meta.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := rows.Close(); err != nil {
			t.Error(err)
		}
	})
	return &place{Vault: secret.Open(rows, filepath.Join(dir, "secrets.key")), rows: rows, dir: dir}
}

func (p *place) set(t testing.TB, project, name, value string) {
	t.Helper()
	if _, err := p.Project(project).Set(t.Context(), "", map[string]string{name: value}); err != nil {
		t.Fatal(err)
	}
}

func names(infos []secret.Info) (out []string) {
	for _, x := range infos {
		out = append(out, x.Name)
	}
	return out
}

func TestSetValuesRemove(t *testing.T) {
	t.Parallel()
	p, ctx := open(t), t.Context()
	a, b := p.Project("a"), p.Project("b")
	if have, err := a.List(ctx); err != nil || len(have) != 0 {
		t.Fatal(have, err)
	}
	set, err := a.Set(ctx, "r1", map[string]string{"TOKEN": "first", "KEY": "multi\nline ü"})
	if err != nil || !cmp.Equal(names(set), []string{"KEY", "TOKEN"}) {
		t.Fatal(set, err)
	}
	p.set(t, "b", "TOKEN", "other")
	p.set(t, "a", "TOKEN", "second")
	// The same request again changes nothing, though something came between.
	if again, err := a.Set(ctx, "r1", map[string]string{"TOKEN": "first", "KEY": "x"}); err != nil || !cmp.Equal(again, set) {
		t.Error(again, err)
	}
	got, err := a.Values(ctx, []string{"TOKEN", "KEY"})
	if want := map[string]string{"TOKEN": "second", "KEY": "multi\nline ü"}; err != nil || !cmp.Equal(got, want) {
		t.Error(got, err)
	}
	if got, err := b.Values(ctx, []string{"TOKEN"}); err != nil || got["TOKEN"] != "other" {
		t.Error(got, err)
	}
	if n, err := p.Check(ctx); n != 3 || err != nil {
		t.Error(n, err)
	}
	if _, err := a.Remove(ctx, "", []string{"KEY", "TOKN"}); !errors.Is(err, secret.ErrNotFound) || !strings.Contains(err.Error(), "TOKN is not set. Did you mean TOKEN? Secrets: KEY, TOKEN.") {
		t.Error(err)
	}
	for range 2 { // sent twice
		if gone, err := a.Remove(ctx, "r2", []string{"KEY", "KEY"}); err != nil || !cmp.Equal(names(gone), []string{"KEY"}) {
			t.Error(gone, err)
		}
	}
	_, err = a.Values(ctx, []string{"KEY"})
	if e := errdef.As(err); !errors.Is(err, secret.ErrNotFound) || !cmp.Equal(e.Next, []string{"tarn secret set KEY"}) {
		t.Error(err)
	}
}

func TestKeyIsMadeOnceAndIsPrivate(t *testing.T) {
	t.Parallel()
	p, ctx := open(t), t.Context()
	var wg sync.WaitGroup
	for _, name := range []string{"A", "B", "C", "D"} {
		wg.Go(func() {
			if _, err := p.Project("p").Set(ctx, name, map[string]string{name: name + name}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n, err := p.Check(ctx); n != 4 || err != nil {
		t.Error(n, err)
	}
	info, err := os.Stat(p.KeyPath())
	if err != nil || info.Mode() != 0o600 {
		t.Error(info.Mode(), err)
	}
	if found, err := filepath.Glob(p.KeyPath() + ".*"); len(found) > 0 || err != nil {
		t.Error(found, err)
	}
}

// A key that is missing, another one, damaged or open to all is an error that says so, for reading and for setting;
// nothing is ever encrypted to a new key beside what only the old one opens.
func TestKeyThatIsNotThere(t *testing.T) {
	t.Parallel()
	other := open(t)
	other.set(t, "p", "X", "xxxx")
	for _, c := range []struct {
		name    string
		spoil   func(path string) error
		text    string
		setting bool // it can be set again
	}{
		{"missing", os.Remove, "secrets.key is missing", false},
		{"another", func(path string) error {
			b, err := os.ReadFile(other.KeyPath())
			return errors.Join(err, os.WriteFile(path, b, 0o600))
		}, "TOKEN was encrypted with another key than the one in ", true},
		{"no key", func(path string) error { return os.WriteFile(path, []byte("AGE-SECRET-KEY-1XYZ\n"), 0o600) }, "does not hold a key", false},
		{"open to all", func(path string) error { return os.Chmod(path, 0o644) }, "can be read by other users (mode 0644)", false},
	} {
		p, ctx := open(t), t.Context()
		p.set(t, "p", "TOKEN", "hunter2")
		if err := c.spoil(p.KeyPath()); err != nil {
			t.Fatal(err)
		}
		wrong := func(err error) {
			t.Helper()
			if errdef.CodeOf(err) != errdef.FailedPrecondition || !strings.Contains(err.Error(), c.text) || strings.Contains(err.Error(), "AGE-SECRET-KEY-1XYZ") {
				t.Errorf("%s: %v", c.name, err)
			}
		}
		_, err := p.Project("p").Values(ctx, []string{"TOKEN"})
		wrong(err)
		_, err = p.Check(ctx)
		wrong(err)
		_, err = p.Project("q").Set(ctx, "", map[string]string{"TOKEN": "again"}) // also of another project
		if c.setting != (err == nil) {
			t.Errorf("%s: set again: %v", c.name, err)
		}
		if err != nil {
			wrong(err)
		}
		// Names are there without the key, and there is a way on.
		if gone, err := p.Project("p").Remove(ctx, "", []string{"TOKEN"}); err != nil || len(gone) != 1 {
			t.Error(gone, err)
		}
		if c.name == "missing" {
			p.set(t, "p", "TOKEN", "anew")
		}
	}
}

func TestWhatCannotBeSet(t *testing.T) {
	t.Parallel()
	p, ctx := open(t), t.Context()
	for _, c := range []struct{ name, value, reason, text string }{
		{"my key", "hunter2", "secret.name", `"my key" cannot name a secret`},
		{"1ST", "hunter2", "secret.name", `"1ST"`},
		{"", "hunter2", "secret.name", `""`},
		{"TARN_TOKEN", "hunter2", "secret.name", "Tarn sets that variable itself"},
		{"PATH", "hunter2", "secret.name", "PATH"},
		{"LD_PRELOAD", "hunter2", "secret.name", "LD_PRELOAD"},
		{"A", "", "secret.value", "the value of A is empty"},
		{"A", "hunter2\x00", "secret.value", "the value of A is no text"},
		{"A", "hunter2\xff", "secret.value", "the value of A is no text"},
		{"A", strings.Repeat("hunter2", 10_000), "secret.value", "the value of A has 70000 bytes; at most 65536"},
	} {
		_, err := p.Project("p").Set(ctx, "", map[string]string{c.name: c.value, "GOOD": "value"})
		if e := errdef.As(err); err == nil || e.Reason != c.reason || !strings.Contains(e.Message, c.text) || strings.Contains(e.Message, "hunter2") {
			t.Errorf("%q: %v", c.name, err)
		}
	}
	if have, err := p.Project("p").List(ctx); err != nil || len(have) != 0 {
		t.Errorf("all or none: %v, %v", have, err)
	}
	if _, err := os.Stat(p.KeyPath()); err == nil {
		t.Error("a key was made for nothing")
	}
}

func TestNothingIsInTheClear(t *testing.T) {
	t.Parallel()
	p := open(t)
	p.set(t, "p", "TOKEN", "correct horse battery")
	seen := 0
	err := filepath.WalkDir(p.dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		if strings.Contains(string(b), "TOKEN") {
			seen++
		}
		if strings.Contains(string(b), "horse") {
			t.Errorf("%s has the value", path)
		}
		return err
	})
	if err != nil || seen == 0 {
		t.Error(seen, err)
	}
}

// Rows of format 1 are read forever.
func TestGolden(t *testing.T) {
	t.Parallel()
	p, ctx := open(t), t.Context()
	row, err := os.ReadFile("testdata/row.json")
	if err != nil {
		t.Fatal(err)
	}
	key, err := os.ReadFile("testdata/secrets.key")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(p.KeyPath(), key, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := p.rows.Txn(ctx, nil, []meta.Write{meta.Set("secret/p/TOKEN", row)}); err != nil {
		t.Fatal(err)
	}
	got, err := p.Project("p").Values(ctx, []string{"TOKEN"})
	if err != nil || got["TOKEN"] != "a golden value\nof two lines" {
		t.Error(got, err)
	}
	have, err := p.Project("p").List(ctx)
	if err != nil || len(have) != 1 || have[0].Set.Format("2006-01-02 15:04:05") != "2026-01-02 03:04:05" {
		t.Error(have, err)
	}
}

// Whatever is in a row, reading it ends with a value or with an error that says what is damaged.
func FuzzRow(f *testing.F) {
	row, err := os.ReadFile("testdata/row.json")
	if err != nil {
		f.Fatal(err)
	}
	p := open(f)
	p.set(f, "q", "X", "xxxx")
	f.Add(row)
	f.Add(row[:len(row)/2])
	f.Add([]byte(`{"set":"2026-01-02T03:04:05Z","age":"YWdlLWVuY3J5cHRpb24ub3JnL3YxCg=="}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, err := p.rows.Txn(t.Context(), nil, []meta.Write{meta.Set("secret/p/TOKEN", b)}); err != nil {
			t.Skip(err)
		}
		_, err := p.Project("p").Values(t.Context(), []string{"TOKEN"})
		if code := errdef.CodeOf(err); code != errdef.DataLoss && code != errdef.FailedPrecondition {
			t.Errorf("%v", err)
		}
		if _, err := p.Project("p").List(t.Context()); err == nil && !json.Valid(b) {
			t.Errorf("%q was listed", b)
		}
	})
}
