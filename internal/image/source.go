package image

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/BurntSushi/toml"

	"tarn.dev/tarn/internal/base/pattern"
)

// scriptBlock is a PEP 723 block of type script, as the PEP's own expression has it.
var scriptBlock = pattern.Of(`(?m)^# /// script[ \t]*\r?\n((?:#(?: .*)?\r?\n)+?)# ///[ \t]*\r?$`)

// uvIndexes is what [tool.uv], or uv.toml, says of where packages come from.
type uvIndexes struct {
	Index []struct {
		Name string `toml:"name"`
		URL  string `toml:"url"`
	} `toml:"index"`
}

func (u uvIndexes) list() []string {
	var out []string
	for _, i := range u.Index {
		switch {
		case i.URL != "" && i.Name != "":
			out = append(out, i.Name+"="+i.URL) // credentials come in variables with this name
		case i.URL != "":
			out = append(out, i.URL)
		}
	}
	return out
}

// projectIndexes are the package indexes that the uv settings of a project's folder name. They are
// recorded in the lock, because packages are installed where there is no project.
func projectIndexes(dir string) ([]string, error) {
	var project struct {
		Tool struct{ UV uvIndexes } `toml:"tool"`
	}
	var own uvIndexes
	for name, into := range map[string]any{"pyproject.toml": &project, "uv.toml": &own} {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		} else if err != nil {
			return nil, err
		}
		if err := toml.Unmarshal(b, into); err != nil {
			return nil, ErrRequirement.Errorf("%s: %w", filepath.Join(dir, name), err)
		}
	}
	return slices.Concat(own.list(), project.Tool.UV.list()), nil
}

// ParseInlineScript reads the PEP 723 block of a Python file; ok tells whether there is one. name is how
// messages call the file.
func ParseInlineScript(name string, source []byte) (spec Spec, ok bool, err error) {
	blocks := scriptBlock().FindAllSubmatch(source, -1)
	if len(blocks) == 0 {
		return Spec{}, false, nil
	}
	if len(blocks) > 1 {
		return Spec{}, false, ErrRequirement.Errorf("%s has %d script blocks, one is allowed", name, len(blocks))
	}
	var text strings.Builder
	for line := range bytes.Lines(blocks[0][1]) {
		line = bytes.TrimPrefix(line, []byte("#"))
		text.Write(bytes.TrimPrefix(line, []byte(" ")))
	}
	var block struct {
		Python       string                 `toml:"requires-python"`
		Dependencies []string               `toml:"dependencies"`
		Tool         struct{ UV uvIndexes } `toml:"tool"`
	}
	if err := toml.Unmarshal([]byte(text.String()), &block); err != nil {
		return Spec{}, false, ErrRequirement.Errorf("%s: script block: %w", name, err)
	}
	spec = Spec{Name: name, Python: block.Python, Packages: block.Dependencies, Indexes: block.Tool.UV.list()}
	_, err = spec.canonical()
	return spec, err == nil, err
}

// ReadPyproject reads [project] of a pyproject.toml; ok tells whether it declares an environment.
func ReadPyproject(path string) (spec Spec, ok bool, err error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return Spec{}, false, err
	}
	var file struct {
		Project *struct {
			Python       string   `toml:"requires-python"`
			Dependencies []string `toml:"dependencies"`
		} `toml:"project"`
		Tool struct{ UV uvIndexes } `toml:"tool"`
	}
	if err := toml.Unmarshal(b, &file); err != nil {
		return Spec{}, false, ErrRequirement.Errorf("%s: %w", path, err)
	}
	if file.Project == nil {
		return Spec{}, false, nil
	}
	spec = Spec{Name: filepath.Base(path), Python: file.Project.Python, Packages: file.Project.Dependencies, Indexes: file.Tool.UV.list()}
	_, err = spec.canonical()
	return spec, err == nil, err
}

// ReadRequirements reads a requirements file with the files it includes. Hashes in it are dropped: the
// lock has its own. Options that no lock can honour are errors that name their line.
func ReadRequirements(path string) (Spec, error) {
	spec := Spec{Name: filepath.Base(path)}
	if err := readRequirements(path, &spec, &spec.Packages, nil); err != nil {
		return Spec{}, err
	}
	_, err := spec.canonical()
	return spec, err
}

var (
	requirementComment = pattern.Of(`(^|\s)#.*$`)
	requirementHash    = pattern.Of(`\s--hash[= ]\S+`)
	requirementOption  = pattern.Of(`^(-r|--requirement|-c|--constraint|-i|--index-url|--extra-index-url)(?:\s+|=)(\S+)$`)
)

// readRequirements adds what a file lists to into, and its indexes to spec.
func readRequirements(path string, spec *Spec, into *[]string, through []string) error {
	for _, p := range through {
		if p == path {
			return ErrRequirement.Errorf("%s includes itself", path)
		}
	}
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) && len(through) > 0 {
		return ErrRequirement.Errorf("%s includes %s, which is not there", through[len(through)-1], path)
	} else if err != nil {
		return err
	}
	text := strings.ReplaceAll(strings.TrimPrefix(string(b), "\ufeff"), "\r\n", "\n")
	text = strings.ReplaceAll(text, "\\\n", " ")
	for line := range strings.Lines(text) {
		line = requirementHash().ReplaceAllString(requirementComment().ReplaceAllString(strings.TrimSpace(line), ""), "")
		line = strings.TrimSpace(line)
		if line == "" {
			continue
		}
		if !strings.HasPrefix(line, "-") {
			*into = append(*into, line)
			continue
		}
		m := requirementOption().FindStringSubmatch(line)
		switch {
		case m == nil:
			return ErrRequirement.Errorf("%s: %q is not supported", path, hideLogins(line)).WithNext("list the packages themselves, as in packages=[...]")
		case slices.Contains([]string{"-r", "--requirement", "-c", "--constraint"}, m[1]):
			next, list := m[2], into
			if strings.TrimLeft(m[1], "-")[0] == 'c' {
				list = &spec.Constraints
			}
			if !filepath.IsAbs(next) {
				next = filepath.Join(filepath.Dir(path), next)
			}
			if err := readRequirements(next, spec, list, append(through, path)); err != nil {
				return err
			}
		default:
			spec.Indexes = append(spec.Indexes, m[2])
		}
	}
	return nil
}
