package flow

import (
	"context"
	"slices"

	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/flow/manifest"
	"tarn.dev/tarn/internal/image"
)

// Environment is what one or more functions of a project folder import.
type Environment struct {
	Spec      image.Spec
	Lock      *image.Lock // nil: not locked yet
	Functions []string
	Ready     bool // installed on this host
}

// errNoEnvironment is a name that no environment of the project has.
var errNoEnvironment = errdef.New(errdef.NotFound, "env.not_found", "no such environment")

// Environments lists the environments of a project folder as it is now. It resolves nothing.
func (f *Flow) Environments(ctx context.Context, dir string) ([]Environment, error) {
	c, err := f.load(ctx, dir)
	if err != nil {
		return nil, err
	}
	var out []Environment
	at := map[string]int{}
	for i := range c.manifest.Functions {
		fn := &c.manifest.Functions[i]
		if fn.Language != manifest.Python {
			continue
		}
		spec, err := specOf(c, fn)
		if err != nil {
			return nil, err
		}
		key := spec.SpecKey()
		j, ok := at[key]
		if !ok {
			j = len(out)
			at[key] = j
			out = append(out, Environment{Spec: spec})
		}
		out[j].Functions = append(out[j].Functions, fn.Name)
	}
	for i := range out {
		e := &out[i]
		slices.Sort(e.Functions)
		lock, ok, err := f.Images.Locked(dir, e.Spec)
		if err != nil {
			return nil, err
		}
		if ok {
			e.Lock, e.Ready = &lock, f.Images.Installed(lock)
		}
	}
	slices.SortStableFunc(out, func(a, b Environment) int { return slices.Compare([]string{a.Spec.Name}, []string{b.Spec.Name}) })
	return out, nil
}

// specOf is the environment that a Python function runs in. A check without one runs in that of its asset.
func specOf(c *code, fn *manifest.Function) (image.Spec, error) {
	env := fn.Env
	if a := c.manifest.Judged(fn); env == nil && a != nil {
		env = a.Env
	}
	spec, err := c.config.EnvSpec(c.dir, env)
	if err != nil {
		return image.Spec{}, err
	}
	if spec.Name == "" {
		spec.Name = fn.Name
	}
	spec.Folder = c
	if len(fn.Outputs) > 0 || len(fn.Tables()) > 0 || fn.CheckOf != "" {
		spec = image.WithArrow(spec)
	}
	return spec, nil
}

// LockEnvironments writes tarn.lock: what has no lock is resolved; with upgrade, everything is.
func (f *Flow) LockEnvironments(ctx context.Context, dir string, upgrade bool, progress func(string)) ([]Environment, error) {
	envs, err := f.Environments(ctx, dir)
	if err != nil {
		return nil, err
	}
	var specs []image.Spec
	for _, e := range envs {
		if e.Lock == nil || upgrade {
			progress("resolving " + e.Spec.Name + ": " + requirements(e.Spec))
		}
		specs = append(specs, e.Spec)
	}
	if len(specs) == 0 {
		return envs, nil
	}
	resolve := f.Images.Resolve
	if upgrade {
		resolve = f.Images.Upgrade
	}
	if _, err := resolve(f.login(ctx), dir, specs); err != nil {
		return nil, err
	}
	return f.Environments(ctx, dir)
}

func requirements(s image.Spec) string {
	if len(s.Packages) == 0 {
		return "no packages"
	}
	return manifest.List(s.Packages)
}

// SyncEnvironment makes target a virtual environment with the packages of one environment of a project
// folder. name is the environment's or that of a function that uses it; "" is for the only one.
func (f *Flow) SyncEnvironment(ctx context.Context, dir, name, target string, progress func(string)) (Environment, error) {
	envs, err := f.Environments(ctx, dir)
	if err != nil {
		return Environment{}, err
	}
	e, err := ChooseEnvironment(envs, name)
	if err != nil {
		return Environment{}, err
	}
	if e.Lock == nil {
		progress("resolving " + e.Spec.Name + ": " + requirements(e.Spec))
		locks, err := f.Images.Resolve(f.login(ctx), dir, []image.Spec{e.Spec})
		if err != nil {
			return Environment{}, err
		}
		e.Lock = &locks[0]
	}
	progress("filling " + target)
	return e, f.Images.SyncVenv(f.login(ctx), *e.Lock, target, progress)
}

// ChooseEnvironment finds the environment of that name, or that of a function; "" is the only one.
func ChooseEnvironment(envs []Environment, name string) (Environment, error) {
	var names, near []string
	for _, e := range envs {
		if name != "" && (e.Spec.Name == name || slices.Contains(e.Functions, name)) {
			return e, nil
		}
		names, near = append(names, e.Spec.Name), append(append(near, e.Spec.Name), e.Functions...)
	}
	switch {
	case len(envs) == 0:
		return Environment{}, errNoEnvironment.Errorf("no function of this project needs Python")
	case name != "":
		return Environment{}, errNoEnvironment.Errorf("no environment or function '%s'. %sEnvironments: %s.", name, manifest.DidYouMean(name, near), manifest.List(names))
	case len(envs) > 1:
		return Environment{}, errNoEnvironment.Errorf("this project has several environments: %s. Say which", manifest.List(names)).WithNext("tarn env sync --env " + names[0])
	}
	return envs[0], nil
}
