package image

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"tarn.dev/tarn/internal/base/pattern"
)

// requirementForm is the part of PEP 508 that names a package of an index. It keeps out what uv would
// take for an option, a path or a URL; uv reads the rest.
var requirementForm = pattern.Of(`^([A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)[ \t]*(?:\[[A-Za-z0-9._, -]*\])?[ \t]*(?:\(?[ \t]*[<>=!~][^;@\\\x00-\x1f]*)?(?:;[^\\\x00-\x1f]*)?$`)

// pinnedArrow is the newest pyarrow with wheels for each Python that functions may run on. A function of
// tables needs one to receive and return them.
var pinnedArrow = []string{
	"pyarrow==21.0.0 ; python_version < '3.10'",
	"pyarrow==25.0.1 ; python_version == '3.10'",
	"pyarrow==26.0.1 ; python_version >= '3.11'",
}

// arrowForNumpy1 is the pin beside a numpy before 2: newer pyarrows refuse it as they are imported, which
// their metadata does not say. It has wheels for every Python that such a numpy has.
const arrowForNumpy1 = "pyarrow==21.0.0"

// WithArrow returns s for a function of tables: if it resolves to neither pyarrow nor polars, it gets the
// pyarrow that this release pins. What the user's packages ask for goes before.
func WithArrow(s Spec) Spec {
	s.Tables = true
	return s
}

// Normalize is the form of a distribution's name that names are compared in (PEP 503).
func Normalize(name string) string {
	return strings.ToLower(separators().ReplaceAllString(name, "-"))
}

var separators = pattern.Of(`[-_.]+`)

// canonical checks s and returns it in the form that is filed: equal sets of requirements are equal specs.
func (s Spec) canonical() (Spec, error) {
	var err error
	if s.Packages, err = s.requirements(s.Packages, true); err != nil {
		return Spec{}, err
	}
	if s.Constraints, err = s.requirements(s.Constraints, false); err != nil {
		return Spec{}, err
	}
	if len(s.Vars) == 0 {
		s.Vars = nil
	}
	s.Vars = maps.Clone(s.Vars)
	if err := checkIndexes(s.Indexes); err != nil {
		return Spec{}, fmt.Errorf("%s: %w", s.label(), err)
	}
	if _, err := parsePythonRange(s.Python); err != nil {
		return Spec{}, err
	}
	return s, nil
}

// requirements checks a list of them and puts it into the form that is filed. paths: of the project are allowed.
func (s Spec) requirements(list []string, paths bool) ([]string, error) {
	var out []string
	for _, p := range list {
		p = strings.TrimSpace(p)
		if paths && isOwn(p) {
			own, err := canonicalOwn(s.label(), p)
			if err != nil {
				return nil, err
			}
			out = append(out, own)
			continue
		}
		if !requirementForm().MatchString(p) {
			err := ErrRequirement.Errorf("%s: %q does not name a package of an index", s.label(), hideLogins(p))
			switch {
			case strings.Contains(p, "@") || strings.Contains(p, "://"):
				return nil, err.WithNext("URLs and git have no content that a lock could pin: put the wheel, or a folder with its sources, into the project, and write it like \"./libs/geo\"")
			case paths && strings.Contains(p, "/"):
				return nil, err.WithNext(`a folder or wheel of the project is written like "./libs/geo"`)
			}
			return nil, err.WithNext(`write it like "pandas==2.2.3", "pandas[parquet]>=2" or "pandas"`)
		}
		out = append(out, p)
	}
	slices.Sort(out)
	return slices.Compact(out), nil
}

// label is how messages call s.
func (s Spec) label() string {
	if s.Name != "" {
		return "environment " + s.Name
	}
	if len(s.Packages) == 0 {
		return "environment without packages"
	}
	return "environment (" + hideLogins(strings.Join(s.Packages, ", ")) + ")"
}
