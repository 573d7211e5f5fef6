// Package near finds what a misspelt name was meant to be.
package near

import (
	"slices"
	"strings"
)

// Nearest is the candidate that name was most likely meant to be, "" when none is near. Case does not
// count; of several equally near ones the first by name is taken.
func Nearest(name string, candidates []string) string {
	typed := []rune(strings.ToLower(name))
	best, share := "", 0.4 // of the letters may be wrong
	for _, c := range slices.Sorted(slices.Values(candidates)) {
		there := []rune(strings.ToLower(c))
		longest := max(len(typed), len(there))
		if longest == 0 || float64(longest-min(len(typed), len(there))) >= share*float64(longest) {
			continue
		}
		wrong := distance(typed, there)
		if len(typed) == 2 && len(there) == 2 && wrong == 1 && best == "" {
			best = c // v2 for v1
		}
		if part := float64(wrong) / float64(longest); part < share {
			best, share = c, part
		}
	}
	return best
}

// distance counts the letters to insert, drop, replace or swap with the next one. A swap is one mistake
// of whoever types, and counts as one.
func distance(a, b []rune) int {
	before, last := make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i, x := range a {
		row := make([]int, len(b)+1)
		row[0] = i + 1
		for j, y := range b {
			same := 1
			if x == y {
				same = 0
			}
			row[j+1] = min(last[j]+same, last[j+1]+1, row[j]+1)
			if i > 0 && j > 0 && x == b[j-1] && y == a[i-1] {
				row[j+1] = min(row[j+1], before[j-1]+1)
			}
		}
		before, last = last, row
	}
	return last[len(b)]
}
