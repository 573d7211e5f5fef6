package memo_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"tarn.dev/tarn/internal/flow/memo"
)

func TestExplainEachPart(t *testing.T) {
	t.Parallel()
	type comps = memo.Components
	hash := strings.Repeat("f", 64)
	for _, c := range []struct {
		name        string
		before, now comps
		want        string
	}{
		{"nothing", comps{}, comps{}, ""},
		{"a definition", comps{Code: []memo.CodePart{{"p", "f", "1"}, {"p", "g", "1"}}}, comps{Code: []memo.CodePart{{"p", "f", "2"}, {"p", "g", "1"}}}, "code changed: p.f"},
		{"a module", comps{Code: []memo.CodePart{{"p", "*", "1"}}}, comps{Code: []memo.CodePart{{"p", "*", "2"}, {"q.r", "*", "1"}}}, "code changed: p, q.r"},
		{"code gone", comps{Code: []memo.CodePart{{"p", "f", "1"}}}, comps{}, "code changed: p.f (removed)"},
		{"the query", comps{Code: []memo.CodePart{{"", "sql", "1"}}}, comps{Code: []memo.CodePart{{"", "sql", "2"}}}, "code changed: the query"},
		{"the script", comps{Code: []memo.CodePart{{"", "command", "1"}}}, comps{Code: []memo.CodePart{{"", "command", "2"}}}, "code changed: the script"},
		{"the order of code", comps{Code: []memo.CodePart{{"p", "f", "1"}, {"p", "g", "2"}}}, comps{Code: []memo.CodePart{{"p", "g", "2"}, {"p", "f", "1"}}}, ""},
		{"another function", comps{Entry: "p.f"}, comps{Entry: "p.g"}, "code changed"},
		{"a file", comps{Files: []memo.NameValue{{"a.csv", hash}}}, comps{Files: []memo.NameValue{{"a.csv", "0" + hash[1:]}}}, "project file a.csv changed"},
		{"a new file", comps{}, comps{Files: []memo.NameValue{{"a.csv", hash}}}, "project file a.csv is new"},
		{"a parameter", comps{Params: []memo.NameValue{{"n", "1"}, {"m", "1"}}}, comps{Params: []memo.NameValue{{"n", "2"}}}, "parameter n changed: 1 to 2; parameter m is gone"},
		{"a first Python", comps{}, comps{Python: "3.12"}, "Python changed: none to 3.12"},
		{"Python counts before its environment", comps{Python: "3.12", Lock: "a"}, comps{Python: "3.13", Lock: "b"}, "Python changed: 3.12 to 3.13"},
		{"environment", comps{Lock: "a"}, comps{Lock: "b"}, "environment changed"},
		{"platform", comps{Platform: "linux/amd64"}, comps{}, "platform changed: linux/amd64 to none"},
		{"a secret", comps{Secrets: []string{"A"}}, comps{Secrets: []string{"A", "B"}}, "secrets changed"},
		{"the order of secrets", comps{Secrets: []string{"B", "A"}}, comps{Secrets: []string{"A", "B"}}, ""},
		{"inputs", comps{Inputs: []memo.InputID{{"a", "table", "1"}}}, comps{Inputs: []memo.InputID{{"a", "table", "2"}, {"b", "table", "1"}}}, "input A changed; input B is new"},
		{"an input gone", comps{Inputs: []memo.InputID{{"a", "table", "1"}}}, comps{}, "input A is gone"},
		{"an input of another kind", comps{Inputs: []memo.InputID{{"a", "table", "1"}}}, comps{Inputs: []memo.InputID{{"a", "files", "1"}}}, "input A changed"},
		{"the order of inputs", comps{Inputs: []memo.InputID{{"a", "table", "1"}, {"b", "table", "1"}}}, comps{Inputs: []memo.InputID{{"b", "table", "1"}, {"a", "table", "1"}}}, "the order of inputs changed"},
		{"this program", comps{Semantics: 1}, comps{Semantics: 2}, "this Tarn runs it in another way"},
		{"another item", comps{Item: "a"}, comps{Item: "b"}, ""},
	} {
		if got := memo.Explain(c.before, c.now, strings.ToUpper); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

// An explanation is there exactly when the keys differ: a run that works again says why.
func TestExplainAgreesWithKeys(t *testing.T) {
	t.Parallel()
	word := rapid.SampledFrom([]string{"", "a", "b"})
	distinct := rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"a", "b", "c"}), 0, 3, rapid.ID[string])
	components := rapid.Custom(func(t *rapid.T) memo.Components {
		c := memo.Components{
			Language: word.Draw(t, "language"), Semantics: rapid.IntRange(1, 2).Draw(t, "semantics"), Entry: word.Draw(t, "entry"),
			Lock: word.Draw(t, "lock"), Python: word.Draw(t, "python"), Platform: word.Draw(t, "platform"),
			Secrets: distinct.Draw(t, "secrets"),
		}
		for _, n := range distinct.Draw(t, "code") {
			c.Code = append(c.Code, memo.CodePart{Module: "m", Name: n, Hash: word.Draw(t, "hash")})
		}
		for _, n := range distinct.Draw(t, "files") {
			c.Files = append(c.Files, memo.NameValue{Name: n, Value: word.Draw(t, "file")})
		}
		for _, n := range distinct.Draw(t, "params") {
			c.Params = append(c.Params, memo.NameValue{Name: n, Value: word.Draw(t, "param")})
		}
		for _, n := range distinct.Draw(t, "inputs") {
			c.Inputs = append(c.Inputs, memo.InputID{Param: n, Kind: word.Draw(t, "kind"), Identity: word.Draw(t, "identity")})
		}
		return c
	})
	rapid.Check(t, func(t *rapid.T) {
		before := components.Draw(t, "before")
		now := before
		other := components.Draw(t, "other")
		for _, part := range distinct.Draw(t, "parts of the other") { // often none, seldom all
			switch part {
			case "a":
				now.Code, now.Entry, now.Files = other.Code, other.Entry, other.Files
			case "b":
				now.Lock, now.Python, now.Platform, now.Params, now.Secrets = other.Lock, other.Python, other.Platform, other.Params, other.Secrets
			default:
				now.Inputs, now.Semantics, now.Language = other.Inputs, other.Semantics, other.Language
			}
		}
		if rapid.Bool().Draw(t, "reverse") {
			now.Code, now.Params = slices.Clone(now.Code), slices.Clone(now.Params)
			slices.Reverse(now.Code)
			slices.Reverse(now.Params)
		}
		why := memo.Explain(before, now, func(p string) string { return p })
		if (why == "") != (before.Key() == now.Key()) {
			t.Fatalf("explained as %q, keys equal: %v\n%s\n%s", why, before.Key() == now.Key(), fmt.Sprintf("%+v", before), fmt.Sprintf("%+v", now))
		}
	})
}
