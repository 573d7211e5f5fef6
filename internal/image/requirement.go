package image

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
)

// requirementForm is the part of PEP 508 that names a package of an index. It keeps out what uv would
// take for an option, a path or a URL; uv reads the rest.
var requirementForm = regexp.MustCompile(`^([A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)[ \t]*(?:\[[A-Za-z0-9._, -]*\])?[ \t]*(?:\(?[ \t]*[<>=!~][^;@\\\x00-\x1f]*)?(?:;[^\\\x00-\x1f]*)?$`)

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
	return strings.ToLower(separators.ReplaceAllString(name, "-"))
}

var separators = regexp.MustCompile(`[-_.]+`)

// canonical checks s and returns it in the form that is filed: equal sets of requirements are equal specs.
func (s Spec) canonical() (Spec, error) {
	packages := make([]string, 0, len(s.Packages))
	for _, p := range s.Packages {
		p = strings.TrimSpace(p)
		if !requirementForm.MatchString(p) {
			err := ErrRequirement.Errorf("%s: %q does not name a package of an index", s.label(), p)
			if strings.Contains(p, "@") || strings.Contains(p, "://") || strings.HasPrefix(p, ".") || strings.HasPrefix(p, "/") {
				return Spec{}, err.WithNext("files, folders, URLs and git have no content that a lock could pin: build a wheel and put it into an index")
			}
			return Spec{}, err.WithNext(`write it like "pandas==2.2.3", "pandas[parquet]>=2" or "pandas"`)
		}
		packages = append(packages, p)
	}
	slices.Sort(packages)
	s.Packages = slices.Compact(packages)
	if len(s.Packages) == 0 {
		s.Packages = nil
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

// checkIndexes keeps out what uv would take for an option.
func checkIndexes(indexes []string) error {
	for _, index := range indexes {
		if index == "" || strings.HasPrefix(index, "-") || strings.ContainsAny(index, " \t\n\r\x00") {
			return ErrRequirement.Errorf("index %q is no URL", index)
		}
	}
	return nil
}

// label is how messages call s.
func (s Spec) label() string {
	if s.Name != "" {
		return "environment " + s.Name
	}
	if len(s.Packages) == 0 {
		return "environment without packages"
	}
	return "environment (" + strings.Join(s.Packages, ", ") + ")"
}
