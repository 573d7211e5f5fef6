package manifest

import (
	"slices"
	"strings"

	"github.com/agext/levenshtein"
)

// List writes names for people: "a, b, c", shortened after ten, "none" when empty.
func List(names []string) string {
	if len(names) == 0 {
		return "none"
	}
	const most = 10
	if len(names) > most {
		return strings.Join(names[:most], ", ") + ", ..."
	}
	return strings.Join(names, ", ")
}

// Nearest is the candidate that name was most likely meant to be, "" when none is near.
func Nearest(name string, candidates []string) string {
	best, bestScore := "", 0.6
	for _, c := range slices.Sorted(slices.Values(candidates)) {
		score := levenshtein.Match(strings.ToLower(name), strings.ToLower(c), nil)
		if score > bestScore {
			best, bestScore = c, score
		}
	}
	return best
}

// DidYouMean is "Did you mean X? " or "".
func DidYouMean(name string, candidates []string) string {
	if n := Nearest(name, candidates); n != "" {
		return "Did you mean " + n + "? "
	}
	return ""
}
