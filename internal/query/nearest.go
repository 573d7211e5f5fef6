package query

import (
	"strings"

	"github.com/agext/levenshtein"
)

// Nearest is the candidate that somebody who typed name most likely meant; "" if none is near. Case
// does not count; the first of several equally near ones wins.
func Nearest(name string, candidates []string) string {
	best, distance := "", max(2, len(name)/3)+1
	for _, candidate := range candidates {
		d := levenshtein.Distance(strings.ToLower(name), strings.ToLower(candidate), nil)
		if d < distance && d < len(candidate) {
			best, distance = candidate, d
		}
	}
	return best
}
