package project

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/BurntSushi/toml"

	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/flow/manifest"
	"tarn.dev/tarn/internal/image"
)

// ConfigFile marks the root of a project.
const ConfigFile = "tarn.toml"

// Errors of reading a project folder.
var (
	// ErrConfig is a tarn.toml that cannot be used.
	ErrConfig = errdef.New(errdef.InvalidArgument, "project.config", "tarn.toml is wrong")
	// ErrNoProject is a folder that is in no project.
	ErrNoProject = errdef.New(errdef.FailedPrecondition, "project.none", "not in a project")
)

// Config is tarn.toml.
type Config struct {
	Project   ProjectConfig         `toml:"project"`
	Protected []string              `toml:"protected"`
	Env       map[string]EnvConfig  `toml:"env"`
	Table     map[string]TableRules `toml:"table"`
	Index     []IndexConfig         `toml:"index"`
}

// ProjectConfig is [project].
type ProjectConfig struct {
	Name string `toml:"name"`
}

// EnvConfig is [env.NAME].
type EnvConfig struct {
	Python   string            `toml:"python"`
	Packages []string          `toml:"packages"`
	Vars     map[string]string `toml:"vars"`
	Build    bool              `toml:"build"`
}

// TableRules is [table.NAME]: what holds for a table, whoever writes it.
type TableRules struct {
	Checks []string `toml:"checks"`
	Warn   []string `toml:"warn"`
	Key    []string `toml:"key"`
}

// IndexConfig is one [[index]].
type IndexConfig struct {
	URL string `toml:"url"`
}

// Find returns the nearest folder at or above dir that holds a tarn.toml.
func Find(dir string) (string, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return "", fmt.Errorf("find project of %s: %w", dir, err)
	}
	for d := abs; ; d = filepath.Dir(d) {
		if _, err := os.Stat(filepath.Join(d, ConfigFile)); err == nil {
			return d, nil
		}
		if d == filepath.Dir(d) {
			return "", ErrNoProject.Errorf("%s is in no project: neither it nor a folder above has a tarn.toml", abs).
				WithNext("tarn init")
		}
	}
}

// LoadConfig reads dir/tarn.toml. Unknown keys are errors: a misspelt check must not be ignored.
func LoadConfig(dir string) (Config, error) {
	var c Config
	path := filepath.Join(dir, ConfigFile)
	md, err := toml.DecodeFile(path, &c)
	if errors.Is(err, os.ErrNotExist) {
		return Config{}, nil
	}
	if err != nil {
		var pe toml.ParseError
		if errors.As(err, &pe) {
			return c, ErrConfig.Errorf("tarn.toml:%d: %s", pe.Position.Line, pe.Message)
		}
		return c, ErrConfig.Errorf("tarn.toml: %w", err)
	}
	if extra := md.Undecoded(); len(extra) > 0 {
		return c, ErrConfig.Errorf("tarn.toml: unknown key %s. Known: project.name, protected, env.NAME.{python,packages,vars,build}, table.NAME.{checks,warn,key}, index.url", extra[0])
	}
	return c, nil
}

// NameOf is the name of the project in dir: tarn.toml's, else the folder's name with a hash of its path,
// so that two folders of one name are two projects.
func NameOf(dir string, c Config) string {
	if c.Project.Name != "" {
		return c.Project.Name
	}
	sum := sha256.Sum256([]byte(dir))
	base := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '-' || r == '_' {
			return r
		}
		return '-'
	}, strings.ToLower(filepath.Base(dir)))
	return base + "-" + hex.EncodeToString(sum[:3])
}

// EnvSpec resolves a function's declared environment: an inline spec is itself, a name is
// [env.NAME], nothing is [env.default], else the folder's requirements or pyproject, else no packages.
func (c Config) EnvSpec(dir string, declared *image.Spec) (image.Spec, error) {
	named := declared != nil && declared.Name != "" && declared.Python == "" && len(declared.Packages) == 0
	switch {
	case declared != nil && !named:
		return *declared, nil
	case named:
		e, ok := c.Env[declared.Name]
		if !ok {
			names := make([]string, 0, len(c.Env))
			for n := range c.Env {
				names = append(names, n)
			}
			slices.Sort(names)
			return image.Spec{}, ErrConfig.Errorf("no environment %q in tarn.toml. There: %s", declared.Name, manifest.List(names)).
				WithNext(fmt.Sprintf("add [env.%s] to tarn.toml", declared.Name))
		}
		return c.spec(declared.Name, e), nil
	}
	if e, ok := c.Env["default"]; ok {
		return c.spec("default", e), nil
	}
	spec, err := folderSpec(dir)
	if err == nil && len(c.Index) > 0 {
		spec.Indexes = c.indexes()
	}
	return spec, err
}

// folderSpec is what the folder's pyproject.toml or requirements.txt asks for, else nothing.
func folderSpec(dir string) (image.Spec, error) {
	spec, ok, err := image.ReadPyproject(filepath.Join(dir, "pyproject.toml"))
	if ok || err != nil && !errors.Is(err, os.ErrNotExist) {
		return spec, err
	}
	spec, err = image.ReadRequirements(filepath.Join(dir, "requirements.txt"))
	if errors.Is(err, os.ErrNotExist) {
		return image.Spec{Name: "default"}, nil
	}
	return spec, err
}

func (c Config) spec(name string, e EnvConfig) image.Spec {
	return image.Spec{Name: name, Python: e.Python, Packages: e.Packages, Vars: e.Vars, Build: e.Build, Indexes: c.indexes()}
}

func (c Config) indexes() []string {
	var out []string
	for _, i := range c.Index {
		out = append(out, i.URL)
	}
	return out
}
