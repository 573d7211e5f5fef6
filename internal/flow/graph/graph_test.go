package graph_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/flow/graph"
	"tarn.dev/tarn/internal/flow/manifest"
)

// ref is what is there already.
type ref struct{ tables, files []string }

func (r ref) HasTable(name, at string) bool {
	if at != "" {
		name += "@" + at
	}
	return slices.Contains(r.tables, name)
}
func (r ref) Tables() ([]string, string) { return r.tables, "main" }
func (r ref) HasFiles(glob string) bool  { return slices.Contains(r.files, glob) }

// asset reads tables; an input "x@r" is of another ref, "f:glob" are files.
func asset(name string, inputs ...string) manifest.Function {
	f := manifest.Function{Name: name, Kind: manifest.Asset, File: name + ".sql", Line: 3, Outputs: []string{name}}
	for i, in := range inputs {
		if glob, ok := strings.CutPrefix(in, "f:"); ok {
			f.Inputs = append(f.Inputs, manifest.Input{Param: in, Kind: manifest.InFiles, Glob: glob})
			continue
		}
		table, at, _ := strings.Cut(in, "@")
		f.Inputs = append(f.Inputs, manifest.Input{Param: in, Kind: manifest.InTable, Table: table, Ref: at, Line: 10 + i})
	}
	return f
}

func checkOf(name, of string, inputs ...string) manifest.Function {
	f := asset(name, inputs...)
	f.Kind, f.CheckOf, f.Outputs = manifest.Check, of, nil
	return f
}

func folderAsset(name string, inputs ...string) manifest.Function {
	f := asset(name, inputs...)
	f.Outputs = nil
	f.Inputs = append(f.Inputs, manifest.Input{Param: "out", Kind: manifest.InOutputDir})
	return f
}

func plain(name string) manifest.Function {
	f := asset(name, "nowhere")
	f.Kind = manifest.Plain
	return f
}

func build(r ref, fs ...manifest.Function) (*graph.Graph, error) {
	return graph.Build(&manifest.Manifest{Functions: fs}, r)
}

func mustBuild(t testing.TB, r ref, fs ...manifest.Function) *graph.Graph {
	t.Helper()
	g, err := build(r, fs...)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func names(ns []*graph.Node) string {
	var out []string
	for _, n := range ns {
		out = append(out, n.Name)
	}
	return strings.Join(out, " ")
}

func TestBuildRefuses(t *testing.T) {
	t.Parallel()
	two := asset("b")
	two.Outputs = []string{"x", "a"}
	for _, c := range []struct {
		name string
		fs   []manifest.Function
		is   error
		want string
	}{
		{"itself", []manifest.Function{asset("a", "a")}, graph.ErrCycle, "the assets form a cycle: a (a.sql:3) reads a"},
		{
			"cycle without its way in",
			[]manifest.Function{asset("a", "b"), asset("b", "c"), asset("c", "d"), asset("d", "b")},
			graph.ErrCycle, "the assets form a cycle: b (b.sql:3) reads c (c.sql:3) reads d (d.sql:3) reads b",
		},
		{"own folder", []manifest.Function{asset("a", "img"), checkOf("img", "a")}, graph.ErrUnknownInput, "a reads 'img'"},
		{"one name", []manifest.Function{asset("a"), checkOf("a", "a")}, graph.ErrDuplicate, "two functions are called a: a.sql:3 and a.sql:3. Rename one"},
		{"one table", []manifest.Function{asset("a"), two}, graph.ErrDuplicate, "two assets make a: a (a.sql:3) and b (b.sql:3)"},
		{
			"unknown table",
			[]manifest.Function{asset("a", "fligths")},
			graph.ErrUnknownInput,
			"a reads 'fligths' (a.sql:10). Did you mean flights? Tables on main: airports, flights.",
		},
		{"nearest may be an asset", []manifest.Function{asset("delays", "dellays")}, graph.ErrUnknownInput, "Did you mean delays?"},
		{"only of a plain function", []manifest.Function{plain("p"), asset("a", "p")}, graph.ErrUnknownInput, "a reads 'p' (a.sql:10). Tables on"},
		{"other ref", []manifest.Function{asset("a"), asset("b", "a@v1")}, graph.ErrUnknownInput, "b reads 'a@v1' (b.sql:10), which is not there."},
		{"no file", []manifest.Function{asset("a", "f:raw/*.csv")}, graph.ErrUnknownInput, `a reads files "raw/*.csv" (a.sql:3), and no file on main matches`},
		{"files of an asset without a folder", []manifest.Function{asset("a"), asset("b", "f:a/*")}, graph.ErrUnknownInput, `files "a/*"`},
		{"check of nothing", []manifest.Function{checkOf("c", "fligts")}, graph.ErrUnknownInput, "c reads 'fligts' (c.sql:3). Did you mean flights?"},
		{"check of a check", []manifest.Function{asset("a"), checkOf("c", "a"), checkOf("d", "c")}, graph.ErrUnknownInput, "d reads 'c'"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r := ref{tables: []string{"flights", "airports"}}
			_, err := build(r, c.fs...)
			if !errors.Is(err, c.is) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v\nwant %v: %s", err, c.is, c.want)
			}
			if r.tables[0] != "flights" {
				t.Error("building sorted somebody else's names")
			}
		})
	}
}

func TestOrderAndNeighbours(t *testing.T) {
	t.Parallel()
	double := asset("twice", "flights", "flights", "late")
	many := asset("many")
	many.Outputs = []string{"one", "two"}
	g := mustBuild(
		t, ref{tables: []string{"flights", "a@v1"}, files: []string{"raw/*.csv"}},
		asset("z"), asset("a", "z", "a@v1"), asset("late", "a", "f:./images/*.png", "f:raw/*.csv"), double, plain("helper"),
		folderAsset("images", "flights", "f:raw/*.csv"), checkOf("judge", "a", "z"), checkOf("other", "flights"), many, checkOf("of_many", "many"), checkOf("of_two", "two"),
	)
	if got, want := names(g.Nodes()), "z a images judge late many of_many of_two other twice"; got != want {
		t.Errorf("order %s, want %s", got, want)
	}
	for name, want := range map[string]string{"a": "z", "late": "a images", "twice": "late", "judge": "z a", "other": "", "images": ""} {
		if got := names(g.Node(name).Parents); got != want {
			t.Errorf("parents of %s: %s, want %s", name, got, want)
		}
	}
	if g.Node("helper") != nil || g.Node("") != nil || g.Maker("flights") != nil || g.Maker("judge") != nil || g.Maker("two") != g.Node("many") {
		t.Error("Node or Maker")
	}
	if got := names(g.ChecksOf(g.Node("many"))); got != "of_many of_two" {
		t.Errorf("checks of many: %s", got)
	}
	// z is read by judge, which is no check of it.
	if got := names(g.ChecksOf(g.Node("z"))); got != "" {
		t.Errorf("checks of z: %s", got)
	}
}

func TestSelect(t *testing.T) {
	t.Parallel()
	b := asset("b", "a")
	b.Options = manifest.Options{Tags: []string{"daily", "x"}, Owners: []string{"ops"}}
	c := asset("c", "b")
	c.File, c.Outputs = "sub/all.py", []string{"c", "c_extra"}
	g := mustBuild(t, ref{}, asset("a"), b, c, asset("d", "c"), asset("lone"), checkOf("judge", "b"))
	changed := func(n *graph.Node) (bool, error) { return n.Name == "b", nil }
	for _, x := range []struct {
		sel  []string
		want string
	}{
		{nil, "a b c d lone"},
		{[]string{"b"}, "b"},
		{[]string{"+b"}, "a b"},
		{[]string{"b+"}, "b c d"},
		{[]string{"+b+"}, "a b c d"},
		{[]string{"d", "a", "d"}, "a d"},
		{[]string{"?"}, "a b c d"},
		{[]string{"[ab]+"}, "a b c d"},
		{[]string{"l*"}, "lone"},
		{[]string{"tag:daily"}, "b"},
		{[]string{"+tag:x"}, "a b"},
		{[]string{"owner:ops+"}, "b c d"},
		{[]string{"changed"}, "b"},
		{[]string{"changed+"}, "b c d"},
		{[]string{"c_extra"}, "c"},
		{[]string{"sub/all.py"}, "c"},
		{[]string{"./sub/../sub/all.py"}, "c"},
		{[]string{"*"}, "a b c d lone"},
		{[]string{"+judge"}, "a b"},
	} {
		got, err := g.Select(x.sel, changed)
		if err != nil || names(got) != x.want {
			t.Errorf("%v: %s %v, want %s", x.sel, names(got), err, x.want)
		}
	}
	none := func(*graph.Node) (bool, error) { return false, nil }
	if got, err := g.Select([]string{"+changed+"}, none); err != nil || len(got) != 0 {
		t.Errorf("nothing changed: %s %v", names(got), err)
	}
	broken := errors.New("no answer")
	if _, err := g.Select([]string{"changed"}, func(*graph.Node) (bool, error) { return true, broken }); !errors.Is(err, broken) {
		t.Errorf("an error of changed: %v", err)
	}
	for _, s := range []string{"", "+", "++", "x", "tag:", "tag:none", "owner:daily", "[", "[a", "sub", "../sub/all.py", "b++", " b", "B", "lone2", "a,b", "judge", "judge.sql", "judge+"} {
		got, err := g.Select([]string{"a", s}, changed)
		if !errors.Is(err, graph.ErrUnknownSelection) || got != nil || !strings.Contains(err.Error(), "'"+s+"'") {
			t.Errorf("%q: %s %v", s, names(got), err)
		}
	}
	if _, err := g.Select([]string{"lonne+"}, nil); !strings.Contains(err.Error(), "Did you mean lone? Assets: a, b, c, d, lone.") || errdef.CodeOf(err) != errdef.NotFound {
		t.Errorf("%v", err)
	}
}

// Whatever the graph: parents come first, ties go by name, and x+ and +x are each other's inverse.
func TestGraphModel(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 12).Draw(t, "n")
		var fs []manifest.Function
		for i := range n {
			var in []string
			for j := range i {
				if rapid.Bool().Draw(t, fmt.Sprintf("%d reads %d", i, j)) {
					in = append(in, fmt.Sprintf("t%02d", j))
				}
			}
			fs = append(fs, asset(fmt.Sprintf("t%02d", i), in...))
		}
		shuffled := rapid.Permutation(fs).Draw(t, "files")
		g, err := build(ref{}, shuffled...)
		if err != nil {
			t.Fatal(err)
		}
		same, err := build(ref{}, fs...)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(names(same.Nodes()), names(g.Nodes())); diff != "" {
			t.Fatalf("the order depends on where functions are written: %s", diff)
		}
		seen := map[*graph.Node]bool{}
		for _, n := range g.Nodes() {
			for _, p := range n.Parents {
				if !seen[p] {
					t.Fatalf("%s before its parent %s", n.Name, p.Name)
				}
			}
			seen[n] = true
		}
		for _, x := range g.Nodes() {
			up, err := g.Select([]string{"+" + x.Name}, nil)
			if err != nil {
				t.Fatal(err)
			}
			for _, y := range g.Nodes() {
				down, err := g.Select([]string{y.Name + "+"}, nil)
				if err != nil {
					t.Fatal(err)
				}
				if slices.Contains(up, y) != slices.Contains(down, x) {
					t.Fatalf("%s is in +%s or %s in %s+, not both", y.Name, x.Name, x.Name, y.Name)
				}
			}
		}
	})
}

func TestLongChain(t *testing.T) {
	t.Parallel()
	const n = 20_000
	fs := []manifest.Function{asset("t0")}
	for i := 1; i < n; i++ {
		fs = append(fs, asset(fmt.Sprintf("t%d", i), fmt.Sprintf("t%d", i-1)))
	}
	g := mustBuild(t, ref{}, fs...)
	all, err := g.Select([]string{"t0+"}, nil)
	if err != nil || len(all) != n || all[n-1].Name != fmt.Sprintf("t%d", n-1) {
		t.Errorf("%d nodes, %v", len(all), err)
	}
}
