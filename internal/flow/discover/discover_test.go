package discover

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/flow/manifest"
	"tarn.dev/tarn/internal/flow/project"
	"tarn.dev/tarn/internal/query"
)

// analyzer answers by the text after the comments, as the engine would.
type analyzer map[string]SQLInfo

func (a analyzer) AnalyzeSelect(_ context.Context, file, sql string) (SQLInfo, error) {
	for text, info := range a {
		if strings.Contains(sql, text) {
			return info, nil
		}
	}
	if strings.Contains(sql, "{{") {
		return SQLInfo{}, query.ErrTemplate.Errorf("%s:1: a template", file)
	}
	return SQLInfo{}, query.ErrStatement.Errorf("%s:1: no query", file)
}

func discover(t *testing.T, a Analyzer, files ...string) (*manifest.Manifest, error) {
	t.Helper()
	dir := t.TempDir()
	for i := 0; i < len(files); i += 2 {
		p := filepath.Join(dir, files[i])
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(files[i+1]), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	s, err := project.Open(dir).Snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return (&Discoverer{SQL: a}).Discover(t.Context(), s, dir)
}

const aScript = "# tarn: outputs = { o = \"csv\" }\n"

func TestHeader(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, src, description string
		line                   int
		want                   header
	}{
		{"none", "SELECT 1", "", 0, header{}},
		{"empty", "", "", 0, header{}},
		{"a description alone", "-- What it is.\n-- More.\nSELECT 1", "What it is.", 0, header{}},
		{"one line", "-- tarn: mode = \"append\"\nSELECT 1", "", 1, header{Mode: "append"}},
		{"no blank", "--tarn:mode='append'", "", 1, header{Mode: "append"}},
		{"after a #! line, blanks and prose", "#!/bin/sh\n\n# Makes it.\n#\n# tarn: cpu = 2.0\n", "Makes it.", 5, header{CPU: 2}},
		{"several lines add up", "-- tarn: mode = \"merge\", key = [\"a\"]\n-- tarn: checks = [\"unique(a)\"]\n", "", 1, header{Mode: "merge", Key: []string{"a"}, Checks: []string{"unique(a)"}}},
		{"a later line wins", "-- tarn: mode = \"append\"\n-- tarn: mode = \"replace\"\n", "", 1, header{Mode: "replace"}},
		{"after the code it is a comment", "SELECT 1\n-- tarn: mode = \"append\"\n", "", 0, header{}},
		{"Windows", "\ufeff-- tarn: mode = \"append\"\r\nSELECT 1\r\n", "", 1, header{Mode: "append"}},
		{"slashes, and one # of TOML in text", "// tarn: tags = [\"a#b\", 'c, d']", "", 1, header{Tags: []string{"a#b", "c, d"}}},
		{"a decorated comment", "---- tarn: network = true ", "", 1, header{Network: true}},
		{"PHP", "<?php\n// tarn: network = true\n", "", 2, header{Network: true}},
		{"a long line before it", "-- " + strings.Repeat("x", 2<<20) + "\n-- tarn: network = true\n", strings.Repeat("x", 2<<20), 2, header{Network: true}},
		{"nothing said", "-- tarn:\nSELECT 1", "", 1, header{}},
	} {
		got, description, line, found, err := readHeader("f", []byte(c.src))
		if err != nil || description != c.description || line != c.line || found != (c.line > 0) {
			t.Errorf("%s: %.40q line %d found %v %v", c.name, description, line, found, err)
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s: %s", c.name, diff)
		}
	}
}

func TestHeaderRefuses(t *testing.T) {
	t.Parallel()
	for opts, want := range map[string]string{
		`mode = append`:                   "is not TOML",
		`mode = "append"} y = {`:          "is not TOML",
		`mode = "append", mode = "x"`:     "is not TOML",
		`mode`:                            "is not TOML",
		`mode = 1`:                        "is not TOML",
		`checks = "unique(a)"`:            "is not TOML",
		"mode = \"\xff\"":                 "is not TOML",
		`sekrets = ["A"]`:                 `unknown option "sekrets". Did you mean secrets? Options: mode, key,`,
		`retry = { times = 2 }`:           "is not TOML",
		`mode = "upsert"`:                 `mode = "upsert". Modes: replace, append, merge`,
		`mode = "merge"`:                  "needs key",
		`timeout = "1 day"`:               `timeout = "1 day". Write a time`,
		`timeout = "-5s"`:                 `timeout = "-5s". Write a time`,
		`fresh = "0s"`:                    `fresh = "0s". Write a time`,
		`check = "t", severity = "error"`: `severity = "error". Severities: fail, warn`,
		`inputs = { a = "xls" }`:          `input a has format "xls". Formats: csv, parquet`,
		`outputs = { a = "file" }`:        `output a has format "file"`,
		`outputs = { a = "CSV" }`:         `output a has format "CSV"`,
		`outputs = {}`:                    "name the outputs: # tarn: outputs = { s = \"csv\" }",
		`network = true`:                  "name the outputs",
	} {
		_, err := discover(t, nil, "a/s.sh", "#!/bin/sh\n# tarn: "+opts+"\n")
		if errdef.As(err) == nil || errdef.As(err).Reason != "discover.project" || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "a/s.sh:2: ") {
			t.Errorf("%s: %v\nwant %s", opts, err, want)
		}
	}
}

func TestScript(t *testing.T) {
	t.Parallel()
	m, err := discover(t, nil,
		"make.sh", "#!/bin/sh\n# Makes two tables.\n# tarn: outputs = { b = \"csv\", a = \"parquet\" }, inputs = { z = \"csv\", \"ns.y\" = \"arrow\" }\n"+
			"# tarn: timeout = \"1m30s\", fresh = \"24h\", retry = 2, memory = \"1GiB\", cpu = 0.5, env = \"ml\", secrets = [\"S\"], concurrency = 3\n",
		"judge.awk", "# tarn: check = \"a\", inputs = { a = \"csv\" }, severity = \"warn\"\n",
		"plain.sh", "echo no header\n",
		"tests/t.sh", "# tarn: nonsense\n",
		"nottests/tests/u.pl", "# tarn: outputs = { u = \"json\" }\n",
	)
	if err != nil {
		t.Fatal(err)
	}
	if len(m.Functions) != 3 {
		t.Fatalf("%d functions: %+v", len(m.Functions), m.Functions)
	}
	judge, makes, u := m.Functions[0], m.Functions[1], m.Functions[2]
	if judge.Kind != manifest.Check || judge.CheckOf != "a" || judge.Severity != manifest.Warn || judge.Outputs != nil || cmp.Diff([]string{"awk", "-f", "judge.awk"}, judge.Command) != "" {
		t.Errorf("%+v", judge)
	}
	o := makes.Options
	if makes.Name != "make" || makes.Line != 3 || makes.Description != "Makes two tables." || makes.Language != manifest.Command || makes.Mode != manifest.Replace ||
		cmp.Diff([]string{"a", "b"}, makes.Outputs) != "" || makes.OutFormats["a"] != "parquet" || makes.Env.Name != "ml" ||
		o.Timeout != 90 || o.Fresh != 86400 || o.Retry.Times != 2 || o.Resources.Memory != "1GiB" || o.Resources.CPU != 0.5 || o.Concurrency != 3 || o.Secrets[0] != "S" {
		t.Errorf("%+v", makes)
	}
	if len(makes.Inputs) != 2 || makes.Inputs[0].Table != "ns.y" || makes.Inputs[0].Format != "arrow" || makes.Inputs[1].Table != "z" {
		t.Errorf("inputs %+v", makes.Inputs)
	}
	if u.File != "nottests/tests/u.pl" || cmp.Diff([]string{"perl", "nottests/tests/u.pl"}, u.Command) != "" {
		t.Errorf("%+v", u)
	}
}

func TestInterpreter(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		file, src string
		want      []string
	}{
		{"a.sh", "", []string{"/bin/sh", "a.sh"}},
		{"a.sh", "#!/usr/bin/env -S bash -e\r\nx", []string{"/usr/bin/env", "-S", "bash", "-e", "a.sh"}},
		{"a.sh", "#!", []string{"/bin/sh", "a.sh"}},
		{"a.sh", "#!  \nx", []string{"/bin/sh", "a.sh"}},
		{"a.sh", "\n#!/bin/bash", []string{"/bin/sh", "a.sh"}},
		{"a b.mjs", "", []string{"node", "a b.mjs"}},
		{"s/x.awk", "", []string{"awk", "-f", "s/x.awk"}},
	} {
		if diff := cmp.Diff(c.want, interpreterOf(c.file, []byte(c.src))); diff != "" {
			t.Errorf("%s %q: %s", c.file, c.src, diff)
		}
	}
	for _, ext := range []string{".sh", ".bash", ".R", ".r", ".jl", ".js", ".mjs", ".rb", ".pl", ".awk", ".lua", ".php"} {
		if argv := interpreterOf("x"+ext, nil); len(argv) < 2 || !(project.File{Path: "x" + ext}).IsScript() {
			t.Errorf("%s: %v", ext, argv)
		}
	}
}

func TestSQL(t *testing.T) {
	t.Parallel()
	a := analyzer{
		"FROM flights":  {Tables: []SQLTable{{Name: "flights", Line: 2}, {Name: "flights", Ref: "v1", Line: 3}}, Params: []string{"top"}},
		"SELECT simple": {},
	}
	m, err := discover(t, a,
		"sub/delays.sql", "-- Late ones.\n-- tarn: params = { top = 5, day = 2024-01-31, at = 2024-01-31T10:00:00Z, local = 2024-01-31T10:00:00, x = 1.5, s = \"a\", b = true, l = [1] }\nSELECT * FROM flights LIMIT $top",
		"simple.sql", "SELECT simple", "schema.sql", "CREATE TABLE t (a INT);", "tests/broken.sql", "-- tarn: nonsense", "empty.sql", "", "note.sql", "-- only a note\n",
	)
	if err != nil {
		t.Fatal(err)
	}
	if len(m.Functions) != 2 {
		t.Fatalf("%+v", m.Functions)
	}
	f := m.Functions[0]
	wantParams := []manifest.Param{
		{Name: "at", Type: "datetime", Default: json.RawMessage(`"2024-01-31T10:00:00Z"`)},
		{Name: "b", Type: "bool", Default: json.RawMessage(`true`)},
		{Name: "day", Type: "date", Default: json.RawMessage(`"2024-01-31"`)},
		{Name: "l", Type: "json", Default: json.RawMessage(`[1]`)},
		{Name: "local", Type: "datetime", Default: json.RawMessage(`"2024-01-31T10:00:00"`)},
		{Name: "s", Type: "str", Default: json.RawMessage(`"a"`)},
		{Name: "top", Type: "int", Default: json.RawMessage(`5`)},
		{Name: "x", Type: "float", Default: json.RawMessage(`1.5`)},
	}
	if diff := cmp.Diff(wantParams, f.Params); diff != "" {
		t.Error(diff)
	}
	wantInputs := []manifest.Input{
		{Param: "flights", Kind: manifest.InTable, Table: "flights", Line: 2},
		{Param: "flights@v1", Kind: manifest.InTable, Table: "flights", Ref: "v1", Line: 3},
	}
	if diff := cmp.Diff(wantInputs, f.Inputs); diff != "" {
		t.Error(diff)
	}
	if f.Name != "delays" || f.Language != manifest.SQL || f.Description != "Late ones." || f.Line != 2 || !f.Code.Plain || cmp.Diff([]string{"delays"}, f.Outputs) != "" {
		t.Errorf("%+v", f)
	}
}

func TestSQLRefuses(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, src, want string }{
		{"a misspelt query", "SELEC simple\n-- none\n", ""},
		{"a broken query", "\ufeff-- note\nSELECT * FORM t", "m.sql:1: no query"},
		{"a header on what is no query", "-- tarn: tags = [\"a\"]\nCREATE TABLE x (a int)", "m.sql:1: no query"},
		{"a template", "{{ config() }} SELECT 1", "a template"},
		{"a parameter without a default", "SELECT * FROM flights WHERE a = $top", "$top has no default. Add: -- tarn: params = { top = ... }"},
		{"the options of a script", "-- tarn: outputs = { a = \"csv\" }\nSELECT simple", "inputs and outputs are for scripts"},
	} {
		m, err := discover(t, analyzer{"FROM flights": {Params: []string{"top"}}, "SELECT simple": {}}, "m.sql", c.src, "ok.sql", "SELECT simple")
		if c.want == "" {
			if err != nil || len(m.Functions) != 1 {
				t.Errorf("%s: %v", c.name, err)
			}
			continue
		}
		if errdef.CodeOf(err) != errdef.InvalidArgument || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %s", c.name, err, c.want)
		}
	}
	// All problems come at once, and an engine that fails is none of them.
	_, err := discover(t, analyzer{}, "a.sql", "SELECT x", "b.sh", "# tarn: x", "c.sh", aScript)
	if err == nil || strings.Count(err.Error(), "\n") != 1 || len(errdef.As(err).Details["problems"].([]manifest.Problem)) != 2 {
		t.Errorf("%v", err)
	}
	_, err = discover(t, failing{}, "a.sql", "SELECT x")
	if errdef.As(err).Reason != "query.engine_crashed" {
		t.Errorf("%v", err)
	}
}

type failing struct{}

func (failing) AnalyzeSelect(context.Context, string, string) (SQLInfo, error) {
	return SQLInfo{}, query.ErrCrashed
}

// Options change how a query is published, not what it makes.
func TestSQLHash(t *testing.T) {
	t.Parallel()
	base := sqlHash([]byte("-- tarn: tags = [\"a\"]\nSELECT 1\n"))
	if sqlHash([]byte("-- tarn: tags = [\"b\"]\n  --tarn: key = [\"a\"]\r\nSELECT 1\n")) != base {
		t.Error("an option changed the code")
	}
	if sqlHash([]byte("-- tarn: tags = [\"a\"]\nSELECT 2\n")) == base || sqlHash([]byte("SELECT 1\n-- tarns: x\n")) == base {
		t.Error("other code is the same code")
	}
}

func TestIDFollowsCode(t *testing.T) {
	t.Parallel()
	one := &project.Snapshot{Files: []project.SnapshotFile{{Path: "a", Hash: "1"}, {Path: "b", Hash: "2"}}}
	for _, other := range []*project.Snapshot{
		{},
		{Files: one.Files[:1]},
		{Files: []project.SnapshotFile{{Path: "a", Hash: "2"}, {Path: "b", Hash: "1"}}},
		{Files: []project.SnapshotFile{{Path: "a", Hash: "1"}, {Path: "c", Hash: "2"}}},
	} {
		if ID(one) == ID(other) {
			t.Errorf("%+v has the ID of %+v", other.Files, one.Files)
		}
	}
}
