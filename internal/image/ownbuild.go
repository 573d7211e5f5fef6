package image

import (
	"cmp"
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/BurntSushi/toml"

	"tarn.dev/tarn/internal/runtime"
)

//go:embed build.py
var buildProgram string

// buildSystem is [build-system] of a pyproject.toml (PEP 518).
type buildSystem struct {
	Requires []string `toml:"requires"`
	Backend  string   `toml:"build-backend"`
	Path     []string `toml:"backend-path"`
}

// readBuildSystem says how the sources in dir are built; without a word on it, as setuptools did before there were others.
func readBuildSystem(dir string) (buildSystem, error) {
	var file struct {
		Build *buildSystem `toml:"build-system"`
	}
	_, err := toml.DecodeFile(filepath.Join(dir, "pyproject.toml"), &file)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return buildSystem{}, err
	}
	system := buildSystem{Requires: []string{"setuptools>=40.8.0"}}
	if file.Build != nil {
		system = *file.Build
	}
	system.Backend = cmp.Or(system.Backend, "setuptools.build_meta:__legacy__")
	return system, nil
}

// readyOwn builds the project's own packages of specs that tarn.lock has, as far as they changed since they were built.
func (s *Store) readyOwn(ctx context.Context, file *lockFile, specs []Spec) error {
	for _, spec := range specs {
		e, ok := file.find(spec.fileKey(), s.platform)
		if !ok {
			continue
		}
		own, err := s.own(spec, e.Python)
		if err != nil {
			return err
		}
		if !slices.ContainsFunc(own, func(o ownPackage) bool { return o.wheel == nil }) {
			continue
		}
		want, err := parsePythonRange(e.Python)
		if err != nil {
			return err
		}
		python, err := s.choose(ctx, spec.label(), want)
		if err != nil {
			return err
		}
		if _, err := s.buildOwn(ctx, spec, python, e.Indexes); err != nil {
			return err
		}
	}
	return nil
}

// buildOwn has the wheels of all packages of the project's folder that spec asks for.
func (s *Store) buildOwn(ctx context.Context, spec Spec, python Interpreter, indexes []string) ([]ownPackage, error) {
	own, err := s.own(spec, python.Minor)
	if err != nil {
		return nil, err
	}
	for i := range own {
		if own[i].wheel != nil {
			continue
		}
		if _, err := s.ownWheel(ctx, spec.Folder, own[i].path, own[i].content, python, indexes, nothing); err != nil {
			return nil, err
		}
		if err := s.lookAt(spec, &own[i], python.Minor); err != nil {
			return nil, err
		}
	}
	return own, nil
}

// ownWheel returns the wheel of a folder of the project with that content, which it builds unless it is there.
func (s *Store) ownWheel(ctx context.Context, folder Folder, at, content string, python Interpreter, indexes []string, progress func(string)) (string, error) {
	return s.once(ctx, s.builtDir(content, python.Minor), func(staging string) error {
		progress("building ./" + at)
		if folder == nil || folder.Digest(at) != content {
			return ErrBuild.Errorf("./%s is not what it was when this environment was made ready", at).WithNext("run again")
		}
		laid, err := folder.Lay()
		if err != nil {
			return err
		}
		p := &ownBuild{store: s, path: at, source: filepath.Join(laid, filepath.FromSlash(at)), python: python, indexes: indexes}
		return p.run(ctx, staging)
	})
}

// ownBuild is the build of one folder of the project. What it needs is fetched by uv, which runs none of it, into a virtual
// environment; the build itself has neither network nor credentials, and writes into a copy.
type ownBuild struct {
	store   *Store
	path    string
	source  string // on the host
	python  Interpreter
	indexes []string
}

func (p *ownBuild) what() string { return "build ./" + p.path }

func (p *ownBuild) run(ctx context.Context, into string) (err error) {
	system, err := readBuildSystem(p.source)
	if err != nil {
		return ErrRequirement.Errorf("./%s/pyproject.toml: %w", p.path, err)
	}
	tools, err := p.store.uvBox(ctx, boxSpec{what: p.what(), indexes: p.indexes}, p.python, nothing)
	if err != nil {
		return err
	}
	defer tools.discard(&err)
	env := filepath.Join(tools.Home(), toolsMount)
	if err := tools.uv(ctx, nil, "venv", "--quiet", "--relocatable", "--python", p.python.Path, env); err != nil {
		return err
	}
	installed := []string{}
	for missing := system.Requires; ; {
		if err := p.install(ctx, tools, env, missing); err != nil {
			return err
		}
		if missing, err = p.attempt(ctx, tools, system, installed, into); err != nil || len(missing) == 0 {
			return err
		}
		if len(installed) > 0 {
			return ErrBuild.Errorf("%s: it asks for other packages (%s) whenever it gets those that it asked for", p.what(), strings.Join(missing, ", "))
		}
		installed = missing
	}
}

// toolsMount is the virtual environment with what a build needs.
const toolsMount = "tools"

// install adds wheels to the virtual environment of the build.
func (p *ownBuild) install(ctx context.Context, tools *box, env string, requirements []string) error {
	checked, err := Spec{Name: p.what()}.requirements(requirements, false)
	if err != nil || len(checked) == 0 {
		return err
	}
	list, err := tools.write("requires.txt", strings.Join(checked, "\n")+"\n")
	if err != nil {
		return err
	}
	args := slices.Concat([]string{
		"pip", "install", "--quiet", "--requirements", list, "--python", filepath.Join(env, "bin", "python"), "--only-binary", ":all:",
	}, indexOptions(p.indexes))
	return tools.uv(ctx, nil, args...)
}

// attempt builds, and puts the wheel into a folder; missing is what it needs to do so.
func (p *ownBuild) attempt(ctx context.Context, tools *box, system buildSystem, installed []string, into string) (missing []string, err error) {
	b, err := p.store.quietBox(ctx, p.what(), slices.Concat(pythonMounts(p.python), []runtime.Mount{
		{Name: toolsMount, Source: filepath.Join(tools.HostHome(), toolsMount)}, {Name: "source", Source: p.source},
	}))
	if err != nil {
		return nil, err
	}
	defer b.discard(&err)
	job, err := json.Marshal(map[string]any{"source": b.Path("source"), "backend": system.Backend, "path": append([]string{}, system.Path...), "installed": installed})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", p.what(), err)
	}
	if _, err := b.write("job.json", string(job)); err != nil {
		return nil, err
	}
	program, err := b.write("build.py", buildProgram)
	if err != nil {
		return nil, err
	}
	bin := filepath.Join(b.Path(toolsMount), "bin")
	b.env["PATH"] = bin + ":" + b.env["PATH"]
	said, complaint, err := b.run(ctx, nil, filepath.Join(bin, "python"), "-I", program)
	if errors.As(err, new(failedError)) {
		return nil, ErrBuild.Errorf("%s: %s", p.what(), tail(strings.TrimSpace(said+"\n"+complaint))).WithNext("compilers and libraries are those of this host; what it builds with stands in [build-system] of its pyproject.toml")
	} else if err != nil {
		return nil, err
	}
	content, err := b.read("result.json")
	if err != nil {
		return nil, err
	}
	var result struct {
		Requires []string
		Wheel    string
	}
	if err := json.Unmarshal(content, &result); err != nil {
		return nil, ErrUnsafe.Errorf("%s: result.json: %w", p.what(), err)
	}
	if len(result.Requires) > 0 {
		return result.Requires, nil
	}
	if path.Base(result.Wheel) != result.Wheel || !strings.HasSuffix(result.Wheel, ".whl") {
		return nil, ErrUnsafe.Errorf("%s: %q is no name of a wheel", p.what(), result.Wheel)
	}
	return nil, b.takeWheel("out/"+result.Wheel, into, func(w *wheelInfo) error { return nil })
}

// tail is the end of what a build said.
func tail(text string) string {
	const most = 4 << 10
	if len(text) > most {
		return "... " + text[len(text)-most:]
	}
	return text
}
