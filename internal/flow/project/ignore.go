package project

import (
	"path"
	"strings"
)

// rules are the lines of the .gitignore files that hold in a folder, outermost file first: the last one
// that matches decides, as in git.
type rules []rule

type rule struct {
	base   string   // folder of the .gitignore, relative to the root
	glob   []string // components; one alone is matched against the name, at any depth below base
	folder bool     // matches folders only
	keep   bool     // "!": what an earlier line ignores is not ignored
}

func readRules(base string, gitignore []byte) rules {
	var out rules
	for line := range strings.Lines(string(gitignore)) {
		if r, ok := readRule(base, strings.TrimRight(line, "\r\n")); ok {
			out = append(out, r)
		}
	}
	return out
}

func readRule(base, line string) (rule, bool) {
	text := strings.TrimRight(line, " ")
	if text != line && strings.HasSuffix(text, `\`) {
		text += " " // a blank that is meant
	}
	if strings.HasPrefix(text, "#") {
		return rule{}, false
	}
	r := rule{base: base}
	text, r.keep = strings.CutPrefix(text, "!")
	text, r.folder = strings.CutSuffix(text, "/")
	text, anchored := strings.CutPrefix(text, "/")
	if text == "" {
		return rule{}, false
	}
	r.glob = strings.Split(strings.ReplaceAll(text, "[!", "[^"), "/")
	if anchored && len(r.glob) == 1 {
		r.glob = append([]string{"."}, r.glob...)
	}
	return r, true
}

func (rs rules) ignored(rel string, folder bool) bool {
	for i := len(rs) - 1; i >= 0; i-- {
		if rs[i].matches(rel, folder) {
			return !rs[i].keep
		}
	}
	return false
}

func (r rule) matches(rel string, folder bool) bool {
	if r.folder && !folder {
		return false
	}
	if len(r.glob) == 1 {
		ok, err := path.Match(r.glob[0], path.Base(rel))
		return ok && err == nil
	}
	rel = strings.TrimPrefix(strings.TrimPrefix(rel, r.base), "/")
	glob := r.glob
	if glob[0] == "." {
		glob = glob[1:]
	}
	return matchParts(glob, strings.Split(rel, "/"))
}
