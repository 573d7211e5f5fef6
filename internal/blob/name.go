package blob

import (
	"strings"

	"tarn.dev/tarn/internal/base/errdef"
)

// ErrInvalidName is returned by every method for a name that no blob can have. Prefixes given to List
// are not names; one that no name begins with yields nothing.
var ErrInvalidName = errdef.New(errdef.InvalidArgument, "blob.invalid_name", "invalid blob name")

// Limits on names: what both a local file system (255 bytes a component) and S3 (1024 in all) can hold.
const (
	maxComponent = 255
	maxName      = 1024
)

// CheckName returns ErrInvalidName with the cause in its message, or nil.
func CheckName(name string) error {
	if name == "" {
		return ErrInvalidName.Errorf("invalid blob name: it is empty")
	}
	if len(name) > maxName {
		return ErrInvalidName.Errorf("invalid blob name %.40q...: %d bytes, at most %d", name, len(name), maxName)
	}
	for part := range strings.SplitSeq(name, "/") {
		if why := badComponent(part); why != "" {
			return ErrInvalidName.Errorf("invalid blob name %q: %s", name, why)
		}
	}
	return nil
}

func badComponent(part string) string {
	switch {
	case part == "":
		return "a component is empty"
	case part == "." || part == "..":
		return "a component is " + part
	case len(part) > maxComponent:
		return "a component is longer than 255 bytes"
	}
	for _, c := range []byte(part) {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9',
			c == '.', c == '_', c == '=', c == '-':
		default:
			return "only letters, digits and ._=- may be in a component"
		}
	}
	return ""
}
