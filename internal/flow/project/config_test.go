package project

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"tarn.dev/tarn/internal/image"
)

func TestLoadConfig(t *testing.T) {
	t.Parallel()
	f := folder(t, ConfigFile, `
protected = ["main", "prod"]
[project]
name = "flights"
[env.default]
python = "3.12"
packages = ["polars==1.0"]
vars = { A = "b" }
build = true
[table."ns.flights"]
checks = ["unique(id)"]
warn = ["id > 0"]
key = ["id"]
[[index]]
url = "one"
[[index]]
url = "two"
`)
	want := Config{
		Project: ProjectConfig{Name: "flights"}, Protected: []string{"main", "prod"},
		Env:   map[string]EnvConfig{"default": {Python: "3.12", Packages: []string{"polars==1.0"}, Vars: map[string]string{"A": "b"}, Build: true}},
		Table: map[string]TableRules{"ns.flights": {Checks: []string{"unique(id)"}, Warn: []string{"id > 0"}, Key: []string{"id"}}},
		Index: []IndexConfig{{URL: "one"}, {URL: "two"}},
	}
	got, err := LoadConfig(f.Dir())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if got, err := LoadConfig(t.TempDir()); err != nil || !cmp.Equal(got, Config{}) {
		t.Errorf("no file: %+v %v", got, err)
	}
}

func TestLoadConfigRefuses(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"[project]\nname = \"x\"\nnmae = 1\n":   "unknown key project.nmae",
		"[table.x]\ncheck = [\"unique(id)\"]\n": "unknown key table.x.check",
		"[tables.x]\nchecks = []\n":             "unknown key tables",
		"\n[project]\nname = 7\n":               "tarn.toml: line 3 ",
		"protected = \"main\"\n":                "tarn.toml: line 1 ",
		"[env]\ndefault = \"3.12\"\n":           "tarn.toml: line 2 ",
		"[project\n":                            "tarn.toml:2",
		"a = 1\na = 2\n":                        "tarn.toml:2",
		"\x00":                                  "tarn.toml:1",
		"name = \"\xff\"":                       "tarn.toml:1",
	} {
		f := folder(t, ConfigFile, text)
		_, err := LoadConfig(f.Dir())
		if !errors.Is(err, ErrConfig) || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %s", text, err, want)
		}
		if err != nil && strings.Contains(err.Error(), f.Dir()) {
			t.Errorf("%q: the message names the machine's folder: %v", text, err)
		}
	}
	f := folder(t)
	if err := os.Mkdir(filepath.Join(f.Dir(), ConfigFile), 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadConfig(f.Dir()); !errors.Is(err, ErrConfig) {
		t.Errorf("a folder: %v", err)
	}
}

// A function's own environment, then [env.NAME], [env.default], pyproject.toml, requirements.txt, none.
func TestEnvSpecOrder(t *testing.T) {
	t.Parallel()
	const (
		toml      = "[env.default]\npackages = [\"default\"]\n[env.ml]\npackages = [\"ml\"]\n[[index]]\nurl = \"own\"\n"
		pyproject = "[project]\nname = \"x\"\nversion = \"1\"\ndependencies = [\"py\"]\n"
	)
	for _, c := range []struct {
		name     string
		declared *image.Spec
		files    []string
		want     []string
		indexes  int
	}{
		{"inline", &image.Spec{Packages: []string{"inline"}}, []string{ConfigFile, toml, "pyproject.toml", pyproject}, []string{"inline"}, 1},
		{"inline with an index of its own", &image.Spec{Packages: []string{"inline"}, Indexes: []string{"first"}}, []string{ConfigFile, toml}, []string{"inline"}, 2},
		{"named", &image.Spec{Name: "ml"}, []string{ConfigFile, toml, "requirements.txt", "req\n"}, []string{"ml"}, 1},
		{"default", nil, []string{ConfigFile, toml, "pyproject.toml", pyproject, "requirements.txt", "req\n"}, []string{"default"}, 1},
		{"pyproject", nil, []string{"pyproject.toml", pyproject, "requirements.txt", "req\n"}, []string{"py"}, 0},
		{"pyproject without a project", nil, []string{"pyproject.toml", "[tool.x]\na = 1\n", "requirements.txt", "req\n"}, []string{"req"}, 0},
		{"requirements", nil, []string{ConfigFile, "[[index]]\nurl = \"own\"\n", "requirements.txt", "# note\nreq\n\n"}, []string{"req"}, 1},
		{"none", nil, nil, nil, 0},
	} {
		f := folder(t, c.files...)
		config, err := LoadConfig(f.Dir())
		if err != nil {
			t.Fatal(err)
		}
		got, err := config.EnvSpec(f.Dir(), c.declared)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if diff := cmp.Diff(c.want, got.Packages); diff != "" || len(got.Indexes) != c.indexes {
			t.Errorf("%s: %s, indexes %v", c.name, diff, got.Indexes)
		}
	}
	_, err := Config{Env: map[string]EnvConfig{"ml": {}, "a": {}}}.EnvSpec(t.TempDir(), &image.Spec{Name: "nl"})
	if !errors.Is(err, ErrConfig) || !strings.Contains(err.Error(), `"nl"`) || !strings.Contains(err.Error(), "a, ml") {
		t.Errorf("an environment that is not there: %v", err)
	}
	if _, err := (Config{}).EnvSpec(folder(t, "pyproject.toml", "[project\n").Dir(), nil); err == nil {
		t.Error("a broken pyproject.toml was passed over")
	}
}
