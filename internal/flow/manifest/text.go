package manifest

import (
	"strings"

	"tarn.dev/tarn/internal/base/near"
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

// DidYouMean is "Did you mean X? " or "".
func DidYouMean(name string, candidates []string) string {
	if n := near.Nearest(name, candidates); n != "" {
		return "Did you mean " + n + "? "
	}
	return ""
}
