package flow

import (
	"cmp"
	"context"
	"maps"
	"os"
	"path"
	"slices"
	"strings"

	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/flow/manifest"
	"tarn.dev/tarn/internal/image"
)

// Entry is how a function is started in its caller's own terminal: its arguments are appended to Argv.
type Entry struct {
	Argv []string
	Env  map[string]string
}

var (
	errNoEntry  = errdef.New(errdef.NotFound, "run.no_function", "no such function")
	errNotEntry = errdef.New(errdef.InvalidArgument, "run.not_callable", "not a function to call")
)

// Entry makes the environment of an entrypoint or a plain function of the project folder dir ready.
func (f *Flow) Entry(ctx context.Context, dir, file, name string) (*Entry, error) {
	c, err := f.loadWith(ctx, dir, "", "")
	if err != nil {
		return nil, err
	}
	fn, err := entryFunction(c.manifest, file, name)
	if err != nil {
		return nil, cmp.Or(c.broken, err)
	}
	spec, err := specOf(c, fn)
	if err != nil {
		return nil, err
	}
	locks, err := f.Images.Resolve(f.login(ctx), dir, []image.Spec{spec})
	if err != nil {
		return nil, err
	}
	view, err := f.Images.Ensure(f.login(ctx), locks[0], func(string) {})
	if err != nil {
		return nil, err
	}
	env := maps.Clone(view.Lock.Vars)
	if env == nil {
		env = map[string]string{}
	}
	env["PYTHONPATH"] = f.SDK + string(os.PathListSeparator) + view.SitePackages
	return &Entry{Argv: []string{view.Python.Path, "-S", "-B", "-m", "tarn._entry", dir, file, name}, Env: env}, nil
}

// entryFunction finds the function that FILE::NAME means, or says why there is none.
func entryFunction(m *manifest.Manifest, file, name string) (*manifest.Function, error) {
	var names []string
	for i := range m.Functions {
		fn := &m.Functions[i]
		if fn.File != file {
			continue
		}
		if calls := fn.Kind == manifest.Plain || fn.Kind == manifest.Entry; fn.Name == name && calls {
			return fn, nil
		} else if fn.Name == name {
			return nil, errNotEntry.Errorf("%s::%s is declared with @tarn.%s: a run makes it", file, name, fn.Kind).WithNext("tarn run " + name)
		} else if calls {
			names = append(names, fn.Name)
		}
	}
	if len(names) == 0 {
		return nil, errNoEntry.Errorf("%s declares no entrypoint and no function. Decorate one: @tarn.entrypoint", file)
	}
	return nil, errNoEntry.Errorf("%s has no function '%s' to call. %sIt has: %s.", file, name, manifest.DidYouMean(name, names), manifest.List(names))
}

// meantCall is the command that calls a function, where a selection of assets names its file or itself, or nothing is selected;
// "" where it does not. An entrypoint is meant rather than a plain function.
func meantCall(m *manifest.Manifest, selection []string) string {
	meant := ""
	for i := range m.Functions {
		fn := &m.Functions[i]
		if fn.Kind != manifest.Entry && (fn.Kind != manifest.Plain || meant != "") {
			continue
		}
		names := func(s string) bool {
			file, _, _ := strings.Cut(s, ":") // FILE.py:NAME, FILE::NAME
			file = path.Clean(file)
			return s == fn.Name || file == fn.File || file+".py" == fn.File
		}
		if len(selection) > 0 && !slices.ContainsFunc(selection, names) {
			continue
		}
		meant = "tarn run " + fn.File + "::" + fn.Name
		if fn.Kind == manifest.Entry {
			break
		}
	}
	return meant
}
