package catalog

import (
	"slices"
	"strconv"
	"strings"

	"github.com/apache/arrow-go/v18/arrow"
)

// keyText is the key of row i as people read it: id = 17, or (id, region) = (17, eu).
func keyText(key []string, rec arrow.RecordBatch, i int) string {
	return keyNames(key) + " = " + keyValues(key, rec, i)
}

func keyNames(key []string) string {
	if len(key) == 1 {
		return key[0]
	}
	return "(" + strings.Join(key, ", ") + ")"
}

func keyValues(key []string, rec arrow.RecordBatch, i int) string {
	parts := make([]string, len(key))
	for j, col := range columnsOf(rec, key) {
		parts[j] = "null"
		if col.IsValid(i) {
			parts[j] = clip(col.ValueStr(i))
		}
	}
	if len(parts) == 1 {
		return parts[0]
	}
	return "(" + strings.Join(parts, ", ") + ")"
}

// clip keeps long values from flooding a message.
func clip(s string) string {
	const most = 60
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "..."
}

// sortTexts orders keys as numbers where they are, else as text.
func sortTexts(texts []string) {
	slices.SortFunc(texts, func(a, b string) int {
		x, errX := strconv.ParseFloat(a, 64)
		y, errY := strconv.ParseFloat(b, 64)
		switch {
		case errX == nil && errY == nil && x < y:
			return -1
		case errX == nil && errY == nil && x > y:
			return 1
		}
		return strings.Compare(a, b)
	})
}

// thousands prints 90112 as 90,112.
func thousands(n int64) string {
	s := strconv.FormatInt(n, 10)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}
