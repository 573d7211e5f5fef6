package flow

import (
	"os"
	"path/filepath"
	"slices"
	"strings"

	"tarn.dev/tarn/internal/base/pattern"
	"tarn.dev/tarn/internal/image"
	"tarn.dev/tarn/internal/runtime"
)

// imported finds import statements, wherever they stand. One in a text is found too: it costs time, and changes nothing.
var imported = pattern.Of(`(?m)^[ \t]*(?:import[ \t]+([\w.]+(?:[ \t]+as[ \t]+\w+)?(?:[ \t]*,[ \t]*[\w.]+(?:[ \t]+as[ \t]+\w+)?)*)|from[ \t]+(\w[\w.]*)[ \t]+import\b)`)

// calling finds calls of other functions.
var calling = pattern.Of(`\.(?:remote|map|starmap|for_each|spawn)\b`)

// callingModule is what they need of the SDK. It takes 90 ms to import, in each worker that makes one.
const callingModule = "tarn._remote"

// imports are the modules that the project's Python files name in import statements, and what their calls of others need.
func (c *code) imports() ([]string, error) {
	dir, err := c.layout()
	if err != nil {
		return nil, err
	}
	found := map[string]bool{}
	for _, f := range c.snap.Files {
		if !strings.HasSuffix(f.Path, ".py") {
			continue
		}
		text, err := os.ReadFile(filepath.Join(dir, filepath.FromSlash(f.Path)))
		if err != nil {
			return nil, err
		}
		for _, m := range imported().FindAllSubmatch(text, -1) {
			for name := range strings.SplitSeq(string(m[1]), ",") {
				name, _, _ = strings.Cut(strings.TrimSpace(name), " ")
				found[name] = name != ""
			}
			found[string(m[2])] = len(m[2]) > 0
		}
		if calling().Match(text) {
			found[callingModule] = true
		}
	}
	var names []string
	for name, ok := range found {
		if ok {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names, nil
}

// template is what a Python function's sandboxes are forked from: its interpreter, with the packages that the project's
// files import and its environment has. pyarrow reads and writes tables.
func (a *attempt) template(view image.View) (*runtime.Template, error) {
	names, err := a.code.named()
	if err != nil {
		return nil, err
	}
	var modules []string
	if found, _ := filepath.Glob(filepath.Join(view.SitePackages, "*.pth")); len(found) > 0 { // a malformed pattern is its only error
		modules = append(modules, ".pth")
	}
	for _, name := range append([]string{"pyarrow"}, names...) {
		top, _, _ := strings.Cut(name, ".")
		if name == callingModule {
			modules = append(modules, name)
			continue
		}
		if installed, _ := filepath.Glob(filepath.Join(view.SitePackages, top+"[./]*")); len(installed) > 0 || isFolder(filepath.Join(view.SitePackages, top)) {
			modules = append(modules, name)
		}
	}
	return &runtime.Template{
		Owner: a.f.prefix, Env: pythonEnv("/", view, func(mount string) string { return "{mount:" + mount + "}" }),
		Argv: slices.Concat([]string{view.Python.Path}, interpreterFlags, []string{"tarn._template"}, modules),
		Mounts: append(runtime.Installed("python", view.Python.Prefix),
			runtime.Mount{Name: "sdk", Source: a.f.SDK}, runtime.Mount{Name: "packages", Source: view.SitePackages, Held: true}),
	}, nil
}

func isFolder(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}
