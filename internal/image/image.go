// Package image turns an environment's spec into a lock, a lock into packages on this host, and those
// into one folder that a Python interpreter can import from.
//
// Terms: a Spec is what the user wrote; a Lock is what it resolved to, kept in tarn.lock, and part of
// every key; a View is the merged, read-only, byte-compiled package folder of a lock on this host.
package image

import (
	"encoding/json"
	"strings"
)

// Spec is an environment as written: tarn.Env(...), [env.NAME], a PEP 723 block or requirements.
type Spec struct {
	Name        string            `json:"name,omitempty"`        // how messages call it; not part of its identity
	Python      string            `json:"python,omitempty"`      // "3.11"; "" means the project's default
	Packages    []string          `json:"packages,omitempty"`    // PEP 508 requirements, and paths of the project: "./libs/geo"
	Constraints []string          `json:"constraints,omitempty"` // requirements that bound what packages bring along
	Vars        map[string]string `json:"vars,omitempty"`        // environment variables
	Indexes     []string          `json:"indexes,omitempty"`     // extra package indexes, URL or NAME=URL
	Build       bool              `json:"build,omitempty"`       // source distributions may be built
	Tables      bool              `json:"tables,omitempty"`      // set by WithArrow
	Folder      Folder            `json:"-"`                     // what paths are looked up in
}

// Package is one locked distribution.
type Package struct {
	Name    string `json:"name"`
	Version string `json:"version"`
	File    string `json:"file"`   // file name of the wheel or source distribution; "" for the project's own
	SHA256  string `json:"sha256"` // of that file, or of what a folder of the project holds
	// Path is where the project has it, "./libs/geo", if it is its own. It is no part of the lock's ID.
	Path string `json:"path,omitempty"`
}

// Lock is a resolved Spec. Two equal locks give the same packages everywhere.
type Lock struct {
	ID       string            `json:"id"`       // content hash of the fields below, hex
	Python   string            `json:"python"`   // minor version, "3.11"
	Platform string            `json:"platform"` // "linux-x86_64-glibc"
	Packages []Package         `json:"packages"` // sorted by name
	Vars     map[string]string `json:"vars,omitempty"`
	Indexes  []string          `json:"indexes,omitempty"` // where packages may be fetched; no part of ID
	Folder   Folder            `json:"-"`                 // the project's, which its own packages are built from
}

// Has reports whether the lock contains a distribution (normalised name).
func (l Lock) Has(name string) bool {
	for _, p := range l.Packages {
		if p.Name == name {
			return true
		}
	}
	return false
}

// View is a lock made importable on this host.
type View struct {
	Lock         Lock
	Python       Interpreter
	SitePackages string // absolute path; read-only
}

// SpecKey is the canonical text under which a spec's lock is filed in tarn.lock. The name is no part.
func (s Spec) SpecKey() string {
	s.Name = ""
	var b strings.Builder
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false) // people read it: "pandas>=2"
	_ = e.Encode(s)        // strings and maps of strings always encode
	return strings.TrimSuffix(b.String(), "\n")
}
