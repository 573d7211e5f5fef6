package image

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"tarn.dev/tarn/internal/base/pattern"
)

// oldestPython is the oldest minor version that the runner in the sandbox supports.
var oldestPython = pyVersion{3, 9}

// pyVersion is a Python version as far as it was written: [3 11] or [3 11 7].
type pyVersion []int

func parsePyVersion(s string) (pyVersion, bool) {
	var v pyVersion
	for part := range strings.SplitSeq(s, ".") {
		n, err := strconv.Atoi(part)
		if err != nil || n < 0 {
			return nil, false
		}
		v = append(v, n)
	}
	return v, len(v) <= 3
}

func (v pyVersion) compare(o pyVersion) int {
	for i := range max(len(v), len(o)) {
		if c := cmp.Compare(v.at(i), o.at(i)); c != 0 {
			return c
		}
	}
	return 0
}

func (v pyVersion) at(i int) int {
	if i < len(v) {
		return v[i]
	}
	return 0
}

func (v pyVersion) hasPrefix(p pyVersion) bool {
	return len(v) >= len(p) && slices.Equal(v[:len(p)], p)
}

func (v pyVersion) minor() string { return fmt.Sprintf("%d.%d", v.at(0), v.at(1)) }

// pyRange is the "python" of a spec: "3.11", or specifiers as in requires-python.
type pyRange struct {
	text    string
	clauses []pyClause
}

type pyClause struct {
	op      string
	version pyVersion
}

var clauseForm = pattern.Of(`^\s*(~=|==|!=|<=|>=|<|>)?\s*([0-9]+(?:\.[0-9]+){0,2})(\.\*)?\s*$`)

func parsePythonRange(text string) (pyRange, error) {
	r := pyRange{text: text}
	if strings.TrimSpace(text) == "" {
		return r, nil
	}
	for clause := range strings.SplitSeq(text, ",") {
		m := clauseForm().FindStringSubmatch(clause)
		if m == nil || m[3] != "" && m[1] != "==" && m[1] != "!=" {
			return r, ErrRequirement.Errorf("python = %q cannot be read", text).WithNext(`write it like "3.11" or ">=3.10,<3.13"`)
		}
		v, _ := parsePyVersion(m[2]) // clauseForm has seen it
		op := m[1]
		if op == "" {
			op = "=="
		}
		if op == "~=" && len(v) < 2 {
			return r, ErrRequirement.Errorf("python = %q: ~= needs two numbers", text)
		}
		r.clauses = append(r.clauses, pyClause{op, v})
	}
	return r, nil
}

// allows reports whether v fits. "== 3.11" means any 3.11: a lock pins the minor version, as wheels do.
func (r pyRange) allows(v pyVersion) bool {
	for _, c := range r.clauses {
		order := v.compare(c.version)
		ok := false
		switch c.op {
		case "==":
			ok = v.hasPrefix(c.version)
		case "!=":
			ok = !v.hasPrefix(c.version)
		case "<=":
			ok = order <= 0
		case ">=":
			ok = order >= 0
		case "<":
			ok = order < 0
		case ">":
			ok = order > 0 && !v.hasPrefix(c.version)
		case "~=":
			ok = order >= 0 && v.hasPrefix(c.version[:len(c.version)-1])
		}
		if !ok {
			return false
		}
	}
	return true
}
