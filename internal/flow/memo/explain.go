package memo

import (
	"fmt"
	"slices"
	"strings"
)

// Explain says in one phrase what differs between the components of an earlier result and those of
// now: "code changed: pipeline.delays", "input flights changed". It is "" when nothing does.
// inputName turns a parameter into what the user calls it. Of which item they are is no difference.
func Explain(before, now Components, inputName func(param string) string) string {
	var why []string
	if d := diffCode(before.Code, now.Code); d != "" || before.Entry != now.Entry {
		why = append(why, strings.TrimSuffix("code changed: "+d, ": "))
	}
	for _, d := range diffNamed(before.Files, now.Files) {
		why = append(why, "project file "+d)
	}
	switch {
	case before.Python != now.Python:
		why = append(why, fmt.Sprintf("Python changed: %s to %s", orNone(before.Python), orNone(now.Python)))
	case before.Lock != now.Lock:
		why = append(why, "environment changed")
	}
	if before.Platform != now.Platform {
		why = append(why, fmt.Sprintf("platform changed: %s to %s", orNone(before.Platform), orNone(now.Platform)))
	}
	for _, d := range diffNamed(before.Params, now.Params) {
		why = append(why, "parameter "+d)
	}
	if !slices.Equal(slices.Sorted(slices.Values(before.Secrets)), slices.Sorted(slices.Values(now.Secrets))) {
		why = append(why, "secrets changed")
	}
	why = append(why, diffInputs(before.Inputs, now.Inputs, inputName)...)
	if before.Semantics != now.Semantics || before.Language != now.Language {
		why = append(why, "this Tarn runs it in another way")
	}
	return strings.Join(why, "; ")
}

func orNone(s string) string {
	if s == "" {
		return "none"
	}
	return s
}

func diffCode(before, now []CodePart) string {
	old := map[string]string{}
	for _, p := range before {
		old[p.String()] = p.Hash
	}
	var out []string
	for _, p := range now {
		if h, ok := old[p.String()]; !ok || h != p.Hash {
			out = append(out, p.String())
		}
		delete(old, p.String())
	}
	for _, p := range before {
		if _, gone := old[p.String()]; gone {
			out = append(out, p.String()+" (removed)")
		}
	}
	return strings.Join(out, ", ")
}

// String is how people call a part of the code.
func (p CodePart) String() string {
	switch {
	case p.Module == "" && p.Name == "sql":
		return "the query"
	case p.Module == "" && p.Name == "command":
		return "the script"
	case p.Module == "":
		return p.Name
	case p.Name == "*":
		return p.Module
	}
	return p.Module + "." + p.Name
}

func diffNamed(before, now []NameValue) []string {
	old := map[string]string{}
	for _, nv := range before {
		old[nv.Name] = nv.Value
	}
	var out []string
	for _, nv := range now {
		v, ok := old[nv.Name]
		switch {
		case !ok:
			out = append(out, nv.Name+" is new")
		case v != nv.Value && len(v)+len(nv.Value) < 60:
			out = append(out, fmt.Sprintf("%s changed: %s to %s", nv.Name, v, nv.Value))
		case v != nv.Value:
			out = append(out, nv.Name+" changed")
		}
		delete(old, nv.Name)
	}
	for _, nv := range before {
		if _, gone := old[nv.Name]; gone {
			out = append(out, nv.Name+" is gone")
		}
	}
	return out
}

func diffInputs(before, now []InputID, inputName func(string) string) []string {
	old := map[string]InputID{}
	for _, in := range before {
		old[in.Param] = in
	}
	var out []string
	for _, in := range now {
		switch was, ok := old[in.Param]; {
		case !ok:
			out = append(out, "input "+inputName(in.Param)+" is new")
		case was != in:
			out = append(out, "input "+inputName(in.Param)+" changed")
		}
		delete(old, in.Param)
	}
	for _, in := range before {
		if _, gone := old[in.Param]; gone {
			out = append(out, "input "+inputName(in.Param)+" is gone")
		}
	}
	if len(out) == 0 && !slices.Equal(before, now) {
		out = append(out, "the order of inputs changed")
	}
	return out
}
