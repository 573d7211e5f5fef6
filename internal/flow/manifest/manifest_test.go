package manifest_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"tarn.dev/tarn/internal/flow/manifest"
)

func TestEachJSON(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		text string
		want manifest.Each
		back string
	}{
		{`false`, "", `false`},
		{`null`, "", `false`},
		{`true`, manifest.EachFile, `true`},
		{`"carrier"`, "carrier", `"carrier"`},
		{`"true"`, "true", `"true"`}, // a column of that name
		{`"false"`, "false", `"false"`},
		{`"a \"b\" é\n"`, "a \"b\" é\n", `"a \"b\" é\n"`},
		{` true `, manifest.EachFile, `true`},
	} {
		var e manifest.Each
		if err := json.Unmarshal([]byte(c.text), &e); err != nil || e != c.want {
			t.Errorf("%s: %q %v", c.text, e, err)
		}
		if b, err := json.Marshal(e); err != nil || string(b) != c.back {
			t.Errorf("%q: %s %v", e, b, err)
		}
	}
	for _, text := range []string{`1`, `[]`, `{}`, `["a"]`, `tru`, ``} {
		e := manifest.Each("before")
		if err := json.Unmarshal([]byte(text), &e); err == nil || e != "before" {
			t.Errorf("%s: %q %v", text, e, err)
		}
	}
	in := manifest.Input{Param: "a", Kind: manifest.InTable, Each: "carrier"}
	b, err := json.Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	var back manifest.Input
	if err := json.Unmarshal(b, &back); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(in, back); diff != "" {
		t.Error(diff)
	}
	if b, err := json.Marshal(manifest.Input{Param: "a"}); err != nil || strings.Contains(string(b), "each") {
		t.Errorf("an input without items: %s %v", b, err)
	}
}

func TestList(t *testing.T) {
	t.Parallel()
	var many []string
	for i := range 11 {
		many = append(many, fmt.Sprint(i))
	}
	for want, names := range map[string][]string{
		"none": nil, "a": {"a"}, "b, a": {"b", "a"},
		"0, 1, 2, 3, 4, 5, 6, 7, 8, 9": many[:10], "0, 1, 2, 3, 4, 5, 6, 7, 8, 9, ...": many,
	} {
		if got := manifest.List(names); got != want {
			t.Errorf("%v: %q, want %q", names, got, want)
		}
	}
}

func TestDidYouMean(t *testing.T) {
	t.Parallel()
	there := []string{"flights", "airports"}
	if manifest.DidYouMean("fligths", there) != "Did you mean flights? " || manifest.DidYouMean("zzz", there) != "" {
		t.Error("DidYouMean")
	}
}

func TestFunction(t *testing.T) {
	t.Parallel()
	m := manifest.Manifest{Functions: []manifest.Function{{Name: "a"}, {
		Name: "b", Inputs: []manifest.Input{
			{Param: "x", Kind: manifest.InTable, Table: "t"},
			{Param: "f", Kind: manifest.InFiles, Glob: "*"},
			{Param: "y", Kind: manifest.InTable, Table: "u", GroupBy: "k"},
			{Param: "o", Kind: manifest.InOutputDir},
		},
	}}}
	b := m.Function("b")
	if b != &m.Functions[1] || m.Function("c") != nil || m.Function("") != nil {
		t.Fatal("Function")
	}
	if ts := b.Tables(); len(ts) != 2 || ts[0].Param != "x" || ts[1].Param != "y" {
		t.Errorf("tables %+v", ts)
	}
	if !b.WritesFiles() || b.ItemInput() != &b.Inputs[2] || m.Function("a").WritesFiles() || m.Function("a").ItemInput() != nil {
		t.Error("WritesFiles or ItemInput")
	}
}
