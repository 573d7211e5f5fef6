package project

import (
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

// ErrConfig is a tarn.toml that cannot be used.
var ErrConfig = errdef.New(errdef.InvalidArgument, "project.config", "tarn.toml is wrong")

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
	Python   string   `toml:"python"`
	Packages []string `toml:"packages"`
	// Constraints bound what packages bring along, without asking for it.
	Constraints []string          `toml:"constraints"`
	Vars        map[string]string `toml:"vars"`
	Build       bool              `toml:"build"`
}

// TableRules is [table.NAME]: what holds for a table, whoever writes it.
type TableRules struct {
	Checks []string `toml:"checks"`
	Warn   []string `toml:"warn"`
	Key    []string `toml:"key"`
}

// IndexConfig is one [[index]].
type IndexConfig struct {
	Name string `toml:"name"` // credentials come in variables, or secrets, with this name
	URL  string `toml:"url"`
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
		return c, ErrConfig.Errorf("tarn.toml: %s", strings.TrimPrefix(err.Error(), "toml: "))
	}
	if extra := md.Undecoded(); len(extra) > 0 {
		return c, ErrConfig.Errorf("tarn.toml: unknown key %s. Known: project.name, protected, env.NAME.{python,packages,constraints,vars,build}, table.NAME.{checks,warn,key}, index.{name,url}", extra[0])
	}
	return c, nil
}

// EnvSpec resolves a function's declared environment: an inline spec is itself, a name is
// [env.NAME], nothing is [env.default], else the folder's requirements or pyproject, else no packages.
// The project's indexes serve all of them, after their own.
func (c Config) EnvSpec(dir string, declared *image.Spec) (image.Spec, error) {
	spec, err := c.envSpec(dir, declared)
	for _, index := range c.indexes() {
		if !slices.Contains(spec.Indexes, index) {
			spec.Indexes = append(slices.Clip(spec.Indexes), index)
		}
	}
	return spec, err
}

func (c Config) envSpec(dir string, declared *image.Spec) (image.Spec, error) {
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
		return e.spec(declared.Name), nil
	}
	if e, ok := c.Env["default"]; ok {
		return e.spec("default"), nil
	}
	return folderSpec(dir)
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

func (e EnvConfig) spec(name string) image.Spec {
	return image.Spec{Name: name, Python: e.Python, Packages: e.Packages, Constraints: e.Constraints, Vars: e.Vars, Build: e.Build}
}

func (c Config) indexes() []string {
	var out []string
	for _, i := range c.Index {
		if i.Name != "" {
			i.URL = i.Name + "=" + i.URL
		}
		out = append(out, i.URL)
	}
	return out
}
