package lake

import (
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"

	"tarn.dev/tarn/internal/base/errdef"
)

// Limits of names. A component is what file systems allow at most; a path fits in PATH_MAX.
const (
	MaxComponent = 255
	MaxPath      = 4096
)

// ErrInvalidKey is returned for a name that no entry may have; its message says which part and why.
var ErrInvalidKey = errdef.New(errdef.InvalidArgument, "lake.invalid_name", "invalid name")

// The spaces of keys: the first component.
const (
	spaceTable = "table"
	spaceFile  = "file"
	spaceDef   = "def"
)

// Prefixes of all keys of a space, for Scan and Diff.
const (
	TablePrefix = spaceTable + "/"
	FilePrefix  = spaceFile + "/"
	DefPrefix   = spaceDef + "/"
)

// DefaultNamespace is the namespace of a table that is named without one.
const DefaultNamespace = "default"

var (
	componentEscaper   = strings.NewReplacer("%", "%25", "/", "%2F")
	componentUnescaper = strings.NewReplacer("%25", "%", "%2F", "/")
)

// TableKey is the key of a table. Names are taken in Unicode normal form C; whether they are allowed
// is checked where the key is used.
func TableKey(namespace, name string) string { return joinKey(spaceTable, namespace, name) }

// FileKey is the key of a file under its path, whose components are joined by "/".
func FileKey(path string) string { return joinKey(spaceFile, strings.Split(path, "/")...) }

// DefKey is the key of the definition of the asset or check called name.
func DefKey(name string) string { return joinKey(spaceDef, name) }

func joinKey(space string, parts ...string) string {
	var b strings.Builder
	b.WriteString(space)
	for _, p := range parts {
		b.WriteByte('/')
		b.WriteString(componentEscaper.Replace(norm.NFC.String(p)))
	}
	return b.String()
}

// Name is a key taken apart: the space ("table", "file" or "def") and the components in it.
type Name struct {
	Space string
	Parts []string
}

// ParseKey is the inverse of TableKey, FileKey and DefKey, and the judge of keys: what it refuses with
// ErrInvalidKey is in no tree.
func ParseKey(key string) (Name, error) {
	space, rest, _ := strings.Cut(key, "/")
	escaped := strings.Split(rest, "/")
	n := Name{Space: space, Parts: make([]string, len(escaped))}
	size := len(escaped) - 1
	for i, e := range escaped {
		n.Parts[i] = componentUnescaper.Replace(e)
		size += len(n.Parts[i])
		if componentEscaper.Replace(n.Parts[i]) != e {
			return Name{}, ErrInvalidKey.Errorf("invalid key %q: %q is not an escaped component", clip(key), clip(e))
		}
	}
	var want int
	switch space {
	case spaceTable:
		want = 2
	case spaceDef:
		want = 1
	case spaceFile:
		want = len(n.Parts)
	default:
		return Name{}, ErrInvalidKey.Errorf("invalid key %q: it begins with none of table/, file/, def/", clip(key))
	}
	if len(n.Parts) != want {
		return Name{}, ErrInvalidKey.Errorf("invalid key %q: %s keys have %d components, not %d", clip(key), space, want, len(n.Parts))
	}
	for _, p := range n.Parts {
		if why := badComponent(p); why != "" {
			return Name{}, ErrInvalidKey.Errorf("invalid %s name %q: %s", space, clip(n.String()), why)
		}
	}
	if size > MaxPath {
		return Name{}, ErrInvalidKey.Errorf("invalid %s name %q: it has %d bytes, at most %d are allowed", space, clip(n.String()), size, MaxPath)
	}
	return n, nil
}

// badComponent says what is wrong with a component, nothing if it may be used.
func badComponent(p string) string {
	switch {
	case p == "":
		return "a component is empty"
	case p == "." || p == "..":
		return "\"" + p + "\" is not allowed as a component"
	case len(p) > MaxComponent:
		return "the component " + clip(p) + " has more than 255 bytes"
	case !utf8.ValidString(p):
		return "it is not valid UTF-8"
	case !norm.NFC.IsNormalString(p):
		return "it is not in Unicode normal form C"
	case strings.ContainsFunc(p, unicode.IsControl):
		return "it contains a control character"
	}
	return ""
}

// String is the name as people write it: "orders" or "sales.orders", "images/a.png".
func (n Name) String() string {
	if n.Space == spaceTable && len(n.Parts) == 2 {
		if n.Parts[0] == DefaultNamespace {
			return n.Parts[1]
		}
		return n.Parts[0] + "." + n.Parts[1]
	}
	return strings.Join(n.Parts, "/")
}

// DisplayKey is what people call the entry at key; an invalid key is returned as it is.
func DisplayKey(key string) string {
	n, err := ParseKey(key)
	if err != nil {
		return key
	}
	return n.String()
}

// clip keeps hostile names from flooding a message.
func clip(s string) string {
	const most = 80
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "..."
}
