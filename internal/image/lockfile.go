package image

import (
	"bytes"
	"cmp"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/BurntSushi/toml"
	"github.com/zeebo/blake3"

	"tarn.dev/tarn/internal/base/pattern"
)

// LockFile is the name of the file in a project's folder that holds its locks.
const LockFile = "tarn.lock"

// lockFileVersion is raised when an older Tarn would misread the file. docs/formats/tarn-lock.md.
const lockFileVersion = 1

// lockFile is the content of tarn.lock.
type lockFile struct {
	Version      int     `toml:"version"`
	Environments []entry `toml:"environment"`
}

// entry is what one spec resolved to on one platform.
type entry struct {
	Spec     string    `toml:"spec"` // Spec.SpecKey
	Platform string    `toml:"platform"`
	Python   string    `toml:"python"`
	Resolved time.Time `toml:"resolved"` // packages uploaded later were not considered
	Indexes  []string  `toml:"indexes"`  // beside the user's own, "URL" or "NAME=URL"
	Packages []Package `toml:"packages"`
}

func (l *lockFile) find(spec, platform string) (entry, bool) {
	i := slices.IndexFunc(l.Environments, func(e entry) bool { return e.Spec == spec && e.Platform == platform })
	if i < 0 {
		return entry{}, false
	}
	return l.Environments[i], true
}

func (l *lockFile) put(e entry) {
	l.Environments = slices.DeleteFunc(l.Environments, func(o entry) bool { return o.Spec == e.Spec && o.Platform == e.Platform })
	l.Environments = append(l.Environments, e)
}

func readLockFile(dir string) (*lockFile, error) {
	path := filepath.Join(dir, LockFile)
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return &lockFile{}, nil
	} else if err != nil {
		return nil, err
	}
	var l lockFile
	if err := toml.Unmarshal(b, &l); err != nil {
		return nil, ErrLockFile.Errorf("%s: %w", path, err).
			WithNext("restore it from git, or delete it: tarn env lock resolves anew")
	}
	if l.Version != lockFileVersion {
		return nil, ErrLockFile.Errorf("%s has version %d, this Tarn reads %d", path, l.Version, lockFileVersion).
			WithNext("use the Tarn that wrote it, or a newer one")
	}
	for _, e := range l.Environments {
		if err := e.validate(); err != nil {
			return nil, ErrLockFile.Errorf("%s: %w", path, err).WithNext("restore it from git, or delete it: tarn env lock resolves anew")
		}
	}
	return &l, nil
}

var versionForm = pattern.Of(`^[A-Za-z0-9.!+_-]+$`)

// validate keeps what was edited by hand or merged wrongly from reaching uv's command line.
func (e entry) validate() error {
	if _, ok := parsePyVersion(e.Python); !ok || e.Spec == "" || e.Platform == "" {
		return fmt.Errorf("environment %q: spec, platform or python is missing", e.Spec)
	}
	if err := checkIndexes(e.Indexes); err != nil {
		return err
	}
	for _, p := range e.Packages {
		sum, err := hex.DecodeString(p.SHA256)
		if p.Name != Normalize(p.Name) || !requirementForm().MatchString(p.Name) || !versionForm().MatchString(p.Version) || err != nil || len(sum) != 32 || !p.placed() {
			return fmt.Errorf("package %q %q cannot be right", p.Name, p.Version)
		}
		if p.Path == "" && !p.isWheel() && !e.builds() {
			return fmt.Errorf("package %s %s is locked as sources (%s), in an environment that may not build any", p.Name, p.Version, p.File)
		}
	}
	return nil
}

// placed says that p is either a file of an index, or at a path of the project.
func (p Package) placed() bool {
	if p.Path == "" {
		return p.File != "" && filepath.Base(p.File) == p.File
	}
	at, err := canonicalOwn("", p.Path)
	return err == nil && at == p.Path && p.File == ""
}

// builds says that whoever wrote the spec allowed to build sources.
func (e entry) builds() bool {
	var spec Spec
	return json.Unmarshal([]byte(e.Spec), &spec) == nil && spec.Build
}

// encode writes the file so that equal content is equal text, and two branches that add different
// environments, or change different packages, merge in git by lines.
func (l *lockFile) encode() []byte {
	var b bytes.Buffer
	b.WriteString("# Written by Tarn: what each environment resolved to. Keep it in git.\nversion = 1\n")
	slices.SortFunc(l.Environments, func(x, y entry) int {
		return cmp.Or(cmp.Compare(x.Spec, y.Spec), cmp.Compare(x.Platform, y.Platform))
	})
	for _, e := range l.Environments {
		fmt.Fprintf(&b, "\n[[environment]]\nspec = %s\nplatform = %s\npython = %s\nresolved = %s\n",
			quote(e.Spec), quote(e.Platform), quote(e.Python), e.Resolved.UTC().Format(time.RFC3339))
		if len(e.Indexes) > 0 {
			quoted := make([]string, len(e.Indexes))
			for i, index := range e.Indexes {
				quoted[i] = quote(index)
			}
			fmt.Fprintf(&b, "indexes = [%s]\n", strings.Join(quoted, ", "))
		}
		b.WriteString("packages = [\n")
		for _, p := range e.Packages {
			where, value := "file", p.File
			if p.Path != "" {
				where, value = "path", p.Path
			}
			fmt.Fprintf(&b, "    { name = %s, version = %s, %s = %s, sha256 = %s },\n", quote(p.Name), quote(p.Version), where, quote(value), quote(p.SHA256))
		}
		b.WriteString("]\n")
	}
	return b.Bytes()
}

// quote writes s as a TOML string: literal where that is possible, because a spec is JSON.
func quote(s string) string {
	literal := true
	for _, r := range s {
		if r == '\'' || r < ' ' || r == 0x7f || r > '~' {
			literal = false
		}
	}
	if literal && bytes.ContainsAny([]byte(s), `"\`) {
		return "'" + s + "'"
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b) // a JSON string is a basic string of TOML
	e.SetEscapeHTML(false)
	if e.Encode(s) != nil { // strings always encode
		return `""`
	}
	return string(bytes.ReplaceAll(bytes.TrimSpace(b.Bytes()), []byte{0x7f}, []byte(`\u007f`)))
}

// lock makes the Lock of an entry for a spec.
func (e entry) lock(spec Spec) Lock {
	l := Lock{Python: e.Python, Platform: e.Platform, Packages: append([]Package{}, e.Packages...), Vars: spec.Vars, Indexes: e.Indexes, Folder: spec.Folder}
	l.ID = l.hash()
	return l
}

func (l Lock) hash() string {
	l.ID, l.Indexes = "", nil
	l.Packages = append([]Package{}, l.Packages...)
	for i := range l.Packages {
		l.Packages[i].Path = ""
	}
	if len(l.Vars) == 0 {
		l.Vars = nil
	}
	b, _ := json.Marshal(l) // strings, slices and maps of them always marshal; map keys are sorted
	h := blake3.NewDeriveKey("tarn 2026 environment lock v1")
	h.Write(b) //nolint:errcheck // a hash never fails
	return hex.EncodeToString(h.Sum(nil))
}

// viewID names the packages of l on this host. Variables are no part: they change no file.
func (l Lock) viewID() string {
	l.Vars = nil
	return l.hash()
}
