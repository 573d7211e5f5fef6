package image

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/textproto"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"tarn.dev/tarn/internal/base/pattern"
)

// Folder is a project's folder at one moment: what "./libs/geo" among the packages of a spec means.
type Folder interface {
	// Digest is a hash, of 64 hex digits, of the file at a path, or of all files below it; "" if there are none.
	Digest(path string) string
	// Lay returns a folder on this host that has the project's files, and that nobody changes.
	Lay() (string, error)
}

// ownForm is a path of the project, and the extras that are wanted of the package there.
var ownForm = pattern.Of(`^([^\[\]*?;@#\\\x00-\x1f]+?)(\[[A-Za-z0-9._, -]*\])?$`)

// isOwn says that a requirement is meant as a path.
func isOwn(requirement string) bool {
	return strings.HasPrefix(requirement, ".") || strings.HasPrefix(requirement, "/") || strings.HasPrefix(requirement, "~")
}

// canonicalOwn checks a path as it was written, and returns it as it is filed: "./libs/geo[fast]".
func canonicalOwn(label, written string) (string, error) {
	m := ownForm().FindStringSubmatch(written)
	if m == nil {
		return "", ErrRequirement.Errorf("%s: %q is no path of a package", label, written).WithNext(`write it like "./libs/geo", or "./libs/geo[extra]"`)
	}
	clean := path.Clean(m[1])
	switch {
	case path.IsAbs(clean) || strings.HasPrefix(clean, "~"):
		return "", ErrRequirement.Errorf("%s: %q is not a path in the project, which others have elsewhere", label, written).
			WithNext(`write it as seen from the project's folder, like "./libs/geo"`)
	case clean == "." || !filepath.IsLocal(clean):
		return "", ErrRequirement.Errorf("%s: %q is not below the project's folder", label, written).
			WithNext(`put the package into a folder of the project, and write that like "./libs/geo"`)
	}
	return "./" + clean + m[2], nil
}

// OwnPaths are the paths of the project that s asks for packages at, as far as they can be paths.
func (s Spec) OwnPaths() []string {
	var paths []string
	for _, r := range s.Packages {
		if r = strings.TrimSpace(r); !isOwn(r) {
			continue
		}
		if filed, err := canonicalOwn(s.label(), r); err == nil {
			paths = append(paths, splitOwn(filed).path)
		}
	}
	return paths
}

// splitOwn takes a path and extras apart that canonicalOwn returned.
func splitOwn(filed string) ownPackage {
	m := ownForm().FindStringSubmatch(strings.TrimPrefix(filed, "./"))
	return ownPackage{path: m[1], extras: m[2]}
}

// ownPackage is a package of the project's folder as it is now.
type ownPackage struct {
	path    string // slash-separated, below the project's folder
	extras  string
	content string // hash of what it is made of
	wheel   *wheelInfo
	file    string // the wheel; with wheel nil until it is built
}

// filed is how tarn.lock has it. A folder is there with what it declares: who edits its code finds tarn.lock as it was.
func (o ownPackage) filed() Package {
	sum := o.content
	if !o.isWheel() {
		sum = o.wheel.declared()
	}
	return Package{Name: o.wheel.name, Version: o.wheel.version, Path: "./" + o.path, SHA256: sum}
}

func (o ownPackage) isWheel() bool { return strings.HasSuffix(o.path, ".whl") }

// own looks at the packages of the project's folder that s asks for, for a Python. One whose wheel is not built yet has none.
func (s *Store) own(spec Spec, minor string) ([]ownPackage, error) {
	var out []ownPackage
	for _, r := range spec.Packages {
		if !isOwn(r) {
			continue
		}
		o := splitOwn(r)
		if err := s.lookAt(spec, &o, minor); err != nil {
			return nil, err
		}
		out = append(out, o)
	}
	return out, nil
}

func (s *Store) lookAt(spec Spec, o *ownPackage, minor string) (err error) {
	if spec.Folder == nil || spec.Folder.Digest(o.path) == "" {
		return ErrRequirement.Errorf("%s: the project has no files at \"./%s\"", spec.label(), o.path).
			WithNext("paths are as seen from the project's folder; what is hidden, or ignored by a .gitignore, is not part of the project")
	}
	if o.isWheel() {
		laid, err := spec.Folder.Lay()
		if err != nil {
			return err
		}
		o.file = filepath.Join(laid, filepath.FromSlash(o.path))
		if o.content, err = s.hashOnce(o.file, spec.Folder.Digest(o.path)); err != nil {
			return err
		}
	} else {
		if spec.Folder.Digest(path.Join(o.path, "pyproject.toml")) == "" && spec.Folder.Digest(path.Join(o.path, "setup.py")) == "" {
			return ErrRequirement.Errorf("%s: \"./%s\" is no package: neither a wheel, nor a folder with a pyproject.toml or setup.py", spec.label(), o.path).
				WithNext("modules of the project are imported without being packages: leave it out of packages")
		}
		o.content = spec.Folder.Digest(o.path)
		if o.file, err = onlyWheel(s.builtDir(o.content, minor)); err != nil {
			return nil // not built yet
		}
	}
	if o.wheel, err = openWheel(o.file); err != nil {
		return ErrUnsafe.Errorf("%s: \"./%s\": the wheel is refused: %w", spec.label(), o.path, err)
	}
	if _, fits := scoreWheel(filepath.Base(o.file), minor, s.platform); !fits {
		return ErrRequirement.Errorf("%s: \"./%s\" is not a wheel for Python %s on %s", spec.label(), o.path, minor, s.platform)
	}
	return nil
}

// hashOnce is hashFile for a file whose content has that digest: each call of a function asks, and a wheel may have a gigabyte.
func (s *Store) hashOnce(file, digest string) (string, error) {
	if sum, ok := s.sums.Get(digest); ok {
		return sum, nil
	}
	sum, err := hashFile(file)
	if err == nil {
		s.sums.Add(digest, sum)
	}
	return sum, err
}

// current is an entry as the project's folder is now: its packages of that folder have the content that they have. ok is false
// when one of them declares something else than what was resolved.
func (s *Store) current(e entry, spec Spec) (_ entry, ok bool, err error) {
	own, err := s.own(spec, e.Python)
	if err != nil || len(own) == 0 {
		return e, err == nil, err
	}
	e.Packages = slices.Clone(e.Packages)
	for _, o := range own {
		i := slices.IndexFunc(e.Packages, func(p Package) bool { return p.Path == "./"+o.path })
		if i < 0 || o.wheel != nil && e.Packages[i] != o.filed() {
			return e, false, nil
		}
		e.Packages[i].SHA256 = o.content
	}
	return e, true, nil
}

// wheelInfo is what a wheel says of itself.
type wheelInfo struct {
	name, version string
	header        textproto.MIMEHeader
}

// declared is a hash of what matters to a resolution.
func (w *wheelInfo) declared() string {
	fields := map[string][]string{}
	for _, name := range []string{"Name", "Version", "Requires-Python", "Requires-Dist", "Provides-Extra"} {
		values := slices.Clone(w.header.Values(name))
		slices.Sort(values)
		fields[name] = values
	}
	b, _ := json.Marshal(fields) // strings always marshal; map keys are sorted
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// openWheel reads a wheel whose file is to be named as its content is.
func openWheel(file string) (_ *wheelInfo, err error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, err
	}
	w, err := readWheel(f, size)
	if err != nil {
		return nil, err
	}
	parts := strings.Split(filepath.Base(file), "-")
	if !requirementForm().MatchString(w.name) || !versionForm().MatchString(w.version) || Normalize(parts[0]) != w.name {
		return nil, fmt.Errorf("%s says that it is %s %s", filepath.Base(file), w.name, cmp.Or(w.version, "without a version"))
	}
	return w, nil
}
