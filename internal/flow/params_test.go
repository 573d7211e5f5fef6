package flow

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"tarn.dev/tarn/internal/flow/graph"
	"tarn.dev/tarn/internal/flow/manifest"
)

func TestParseParam(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ kind, text, want string }{
		{"int", "5", `5`},
		{"int", " -7 ", `-7`},
		{"int", "123456789012345678901234567890", `123456789012345678901234567890`},
		{"int", "5.0", ""},
		{"int", "1e3", ""},
		{"int", "007", ""},
		{"int", "+5", ""},
		{"int", "null", ""},
		{"int", `"5"`, ""},
		{"int", "", ""},
		{"int", "5 6", ""},
		{"int", "0x10", ""},
		{"int", "true", ""},
		{"float", "1.5", `1.5`},
		{"float", "5", `5`},
		{"float", "-1E-3", `-1E-3`},
		{"float", "null", ""},
		{"float", `"1.5"`, ""},
		{"float", "nan", ""},
		{"float", "inf", ""},
		{"float", ".5", ""},
		{"float", "", ""},
		{"bool", "TRUE", `true`},
		{"bool", "0", `false`},
		{"bool", "no", `false`},
		{"bool", "", ""},
		{"bool", "2", ""},
		{"bool", "null", ""},
		{"str", "", `""`},
		{"str", `a "b" <é>` + "\n", `"a \"b\" \u003cé\u003e\n"`},
		{"str", "null", `"null"`},
		{"date", "2024-01-31", `"2024-01-31"`},
		{"json", ` {"b": [1.50, null], "a" : "x"} `, `{"a":"x","b":[1.50,null]}`},
		{"json", "12345678901234567890", `12345678901234567890`},
		{"json", "{} {}", ""},
		{"json", "", ""},
		{"json", "{'a': 1}", ""},
		{"", "[1]", `[1]`},
	} {
		fn := &manifest.Function{Name: "f", Params: []manifest.Param{{Name: "p", Type: c.kind, Default: json.RawMessage(`0`)}}}
		got, err := paramsOf(fn, map[string]string{"p": c.text, "of another": "x"})
		if c.want == "" {
			if !errors.Is(err, ErrParam) || !strings.Contains(err.Error(), `of f: want `) || !strings.Contains(err.Error(), "parameter p=") {
				t.Errorf("%s %q: %s %v", c.kind, c.text, got["p"], err)
			}
			continue
		}
		if err != nil || string(got["p"]) != c.want || len(got) != 1 {
			t.Errorf("%s %q: %s %v, want %s", c.kind, c.text, got["p"], err, c.want)
		}
		if !json.Valid(got["p"]) {
			t.Errorf("%s %q: %s is no JSON", c.kind, c.text, got["p"])
		}
	}
}

func TestParamsKeepDefaults(t *testing.T) {
	t.Parallel()
	fn := &manifest.Function{Name: "f", Params: []manifest.Param{{Name: "a", Type: "int", Default: json.RawMessage(`1`)}, {Name: "b", Type: "int", Default: json.RawMessage(`2`)}}}
	got, err := paramsOf(fn, map[string]string{"b": "3"})
	if err != nil || string(got["a"]) != "1" || string(got["b"]) != "3" {
		t.Errorf("%s %v", got, err)
	}
}

func TestCheckParams(t *testing.T) {
	t.Parallel()
	nodes := []*graph.Node{
		{Function: &manifest.Function{Name: "f", Params: []manifest.Param{{Name: "top", Type: "int"}}}},
		{Function: &manifest.Function{Name: "g", Params: []manifest.Param{{Name: "top", Type: "str"}, {Name: "day", Type: "date"}}}},
	}
	if err := checkParams(map[string]string{"top": "5", "day": "x"}, nodes); err != nil {
		t.Error(err)
	}
	for want, given := range map[string]map[string]string{
		"no selected function has a parameter 'topp'. Did you mean top? Parameters: day, top.": {"topp": "1"},
		"no selected function has a parameter ''. Parameters: day, top.":                       {"": "1"},
		`parameter top="five" of f: want a whole number`:                                       {"top": "five"},
	} {
		if err := checkParams(given, nodes); !errors.Is(err, ErrParam) || err.Error() != want {
			t.Errorf("%v: %v\nwant %s", given, err, want)
		}
	}
	if err := checkParams(map[string]string{"a": "1"}, nil); !errors.Is(err, ErrParam) || !strings.Contains(err.Error(), "Parameters: none.") {
		t.Error(err)
	}
}

func TestGlobsOf(t *testing.T) {
	t.Parallel()
	m := &manifest.Manifest{Functions: []manifest.Function{
		{Code: manifest.Code{Files: []string{"b.csv", "a.csv"}}},
		{Code: manifest.Code{Files: []string{"a.csv"}}, Inputs: []manifest.Input{{Kind: manifest.InLocal, Glob: "cfg/*.json"}, {Kind: manifest.InFiles, Glob: "raw/*"}}},
	}}
	if got := strings.Join(globsOf(&code{manifest: m}), " "); got != "a.csv b.csv cfg/*.json tarn.lock" {
		t.Error(got)
	}
}
