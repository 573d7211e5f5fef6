package flow

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/flow/discover"
	"tarn.dev/tarn/internal/flow/graph"
	"tarn.dev/tarn/internal/flow/manifest"
	"tarn.dev/tarn/internal/flow/project"
	"tarn.dev/tarn/internal/image"
	"tarn.dev/tarn/internal/lake"
	"tarn.dev/tarn/internal/meta"
)

// ErrParam is a run parameter that no function has, or whose text does not fit.
var ErrParam = errdef.New(errdef.InvalidArgument, "run.param", "wrong parameter")

// code is a project's code, ready to run.
type code struct {
	dir      string // of the project, or of the layout of a recorded snapshot
	snap     *project.Snapshot
	config   project.Config
	manifest *manifest.Manifest
	broken   error                                        // what of it cannot be used, if there is something
	globs    map[string][]string                          // literal file names and tarn.local globs -> files
	layout   func() (string, error)                       // folder with the snapshot's files
	named    func() ([]string, error)                     // modules that its Python files import
	record   func(ctx context.Context) (lake.Hash, error) // stores the snapshot in the lake
}

// load reads the project folder dir as it is now. All of its declarations must be sound.
func (f *Flow) load(ctx context.Context, dir string) (*code, error) {
	return sound(f.loadWith(ctx, dir, "", ""))
}

func sound(c *code, err error) (*code, error) {
	if err == nil && c.broken != nil {
		return nil, c.broken
	}
	return c, err
}

// loadWith reads it with one file more, if source is not empty: a notebook's. A file that cannot be imported is no error yet: whoever
// calls one function does not care about the neighbours.
func (f *Flow) loadWith(ctx context.Context, dir, file, source string) (*code, error) {
	folder := f.folder(dir)
	snap, err := folder.Snapshot(ctx)
	if err != nil {
		return nil, err
	}
	if source != "" {
		if snap, err = snap.Given(file, source); err != nil {
			return nil, err
		}
	}
	return f.loadSnapshot(ctx, dir, folder, snap, func(s *project.Snapshot) (string, error) {
		return folder.Materialize(s, f.scratch("code"))
	})
}

// loadRecorded lays out the code that a run recorded.
func (f *Flow) loadRecorded(ctx context.Context, id lake.Hash) (*code, error) {
	dir, err := project.LoadSnapshot(ctx, f.lake, id, f.scratch("code"))
	if err != nil {
		return nil, err
	}
	folder := f.folder(dir)
	snap, err := folder.Snapshot(ctx)
	if err != nil {
		return nil, err
	}
	return sound(f.loadSnapshot(ctx, dir, folder, snap, func(s *project.Snapshot) (string, error) { return dir, nil }))
}

func (f *Flow) loadSnapshot(ctx context.Context, dir string, folder *project.Folder, snap *project.Snapshot, layout func(*project.Snapshot) (string, error)) (*code, error) {
	c := &code{dir: dir, snap: snap}
	var err error
	if c.config, err = project.LoadConfig(dir); err != nil {
		return nil, err
	}
	if c.manifest, err = f.manifestOf(ctx, snap, layout); errors.Is(err, discover.ErrProject) && c.manifest != nil {
		c.broken = err
	} else if err != nil {
		return nil, err
	}
	if c.snap, c.globs, err = folder.With(snap, globsOf(c)); err != nil {
		return nil, err
	}
	c.layout = sync.OnceValues(func() (string, error) { return layout(c.snap) })
	c.named = sync.OnceValues(c.imports)
	c.record = func(ctx context.Context) (lake.Hash, error) { return f.recordCode(ctx, c) }
	return c, nil
}

// recordCode makes a project's code durable, so that what ran can run again.
func (f *Flow) recordCode(ctx context.Context, c *code) (lake.Hash, error) {
	known := storedCode{f.lake.Epoch(), c.snap.ID} // before anything is stored
	if h, ok := f.stored.Get(known); ok {
		return h, nil
	}
	dir, err := c.layout()
	if err != nil {
		return lake.Hash{}, err
	}
	b := f.lake.Begin(ctx)
	defer b.Discard()
	h, err := c.snap.Store(ctx, b, dir)
	if err == nil {
		err = b.Flush(ctx)
	}
	if err != nil {
		return lake.Hash{}, fmt.Errorf("store the project's code: %w", err)
	}
	f.stored.Add(known, h)
	return h, nil
}

// Digest and Lay show the project's folder, as it was read, to environments that have packages of it (image.Folder).
func (c *code) Digest(path string) string { return c.snap.Digest(path) }

// Lay is described with Digest.
func (c *code) Lay() (string, error) { return c.layout() }

// globsOf are the project files that code names: literals, tarn.local, the lock file, and packages of environments.
func globsOf(c *code) []string {
	globs := []string{image.LockFile}
	for i := range c.manifest.Functions {
		fn := &c.manifest.Functions[i]
		if fn.Language == manifest.Python {
			spec, _ := specOf(c, fn) //nolint:errcheck // whoever uses the function meets the error again
			for _, path := range spec.OwnPaths() {
				globs = append(globs, path, path+"/**")
			}
		}
		globs = append(globs, fn.Code.Files...)
		for _, in := range fn.Inputs {
			if in.Kind == manifest.InLocal {
				globs = append(globs, in.Glob)
			}
		}
	}
	slices.Sort(globs)
	return slices.Compact(globs)
}

// manifestOf discovers, or remembers what was discovered in the same code.
func (f *Flow) manifestOf(ctx context.Context, snap *project.Snapshot, layout func(*project.Snapshot) (string, error)) (*manifest.Manifest, error) {
	id := f.SDKID + "-" + discover.ID(snap)
	f.mu.Lock()
	m := f.manifests[id]
	f.mu.Unlock()
	if m != nil {
		return m, nil
	}
	key := f.prefix + "manifest/" + id
	row, err := f.rows.Get(ctx, key)
	switch {
	case err == nil:
		m = &manifest.Manifest{}
		if err := json.Unmarshal(row.Value, m); err != nil {
			return nil, errdef.Newf(errdef.DataLoss, "run.corrupt", "manifest row %s: %w", key, err)
		}
	case errors.Is(err, meta.ErrNotFound):
		dir, err := layout(snap)
		if err != nil {
			return nil, err
		}
		if m, err = f.discoverer().Discover(ctx, snap, dir); err != nil {
			return m, err // not remembered
		}
		b, err := json.Marshal(m)
		if err != nil {
			return nil, fmt.Errorf("encode manifest: %w", err)
		}
		if _, err := f.rows.Txn(ctx, nil, []meta.Write{meta.Set(key, b)}); err != nil {
			return nil, fmt.Errorf("remember manifest: %w", err)
		}
	default:
		return nil, fmt.Errorf("read manifest: %w", err)
	}
	const most = 16
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.manifests) >= most {
		clear(f.manifests)
	}
	f.manifests[id] = m
	return m, nil
}

// environment is where a Python function runs: what was asked for, and what that came to.
type environment struct {
	asked []string // requirements as written
	lock  image.Lock
}

// environmentsOf resolves the environments of the Python functions among nodes, by function name. say is
// told what takes long.
func (f *Flow) environmentsOf(ctx context.Context, c *code, nodes []*graph.Node, say func(string)) (map[string]environment, error) {
	var names, unknown, unbuilt []string
	var specs []image.Spec
	out := map[string]environment{}
	for _, n := range nodes {
		if n.Language != manifest.Python {
			continue
		}
		spec, err := specOf(c, n.Function)
		if err != nil {
			return nil, err
		}
		out[n.Name] = environment{asked: spec.Packages}
		names, specs = append(names, n.Name), append(specs, spec)
		lock, ok, err := f.Images.Locked(c.dir, spec)
		if err == nil && !ok && (spec.Tables || len(spec.Packages) > 0) { // Resolve meets the error again
			unknown = append(unknown, n.Name)
		}
		unbuilt = append(unbuilt, f.Images.Unbuilt(lock)...)
	}
	if len(specs) == 0 {
		return out, nil
	}
	if len(unknown) > 0 {
		say("resolving packages of " + manifest.List(unknown))
	}
	if len(unbuilt) > 0 {
		slices.Sort(unbuilt)
		say("building " + strings.Join(slices.Compact(unbuilt), ", "))
	}
	locks, err := f.Images.Resolve(f.login(ctx), c.dir, specs)
	if err != nil {
		return nil, err
	}
	for i, name := range names {
		out[name] = environment{asked: out[name].asked, lock: locks[i]}
	}
	return out, nil
}

// checkParams refuses parameters that no selected function has.
func checkParams(params map[string]string, nodes []*graph.Node) error {
	known := map[string]bool{}
	for _, n := range nodes {
		for _, p := range n.Params {
			known[p.Name] = true
		}
	}
	var names []string
	for n := range known {
		names = append(names, n)
	}
	slices.Sort(names)
	for name := range params {
		if !known[name] {
			return ErrParam.Errorf("no selected function has a parameter '%s'. %sParameters: %s.", name, manifest.DidYouMean(name, names), manifest.List(names))
		}
	}
	for _, n := range nodes {
		if _, err := paramsOf(n.Function, params); err != nil {
			return err
		}
	}
	return nil
}

// paramsOf are a function's parameters as JSON: the given text where there is one, else the default.
func paramsOf(fn *manifest.Function, given map[string]string) (map[string]json.RawMessage, error) {
	out := map[string]json.RawMessage{}
	for _, p := range fn.Params {
		out[p.Name] = p.Default
		text, ok := given[p.Name]
		if !ok {
			continue
		}
		v, err := parseParam(p, text)
		if err != nil {
			return nil, ErrParam.Errorf("parameter %s=%q of %s: %w", p.Name, text, fn.Name, err)
		}
		out[p.Name] = v
	}
	return out, nil
}

func parseParam(p manifest.Param, text string) (json.RawMessage, error) {
	switch p.Type {
	case "str", "date", "datetime":
		return json.Marshal(text)
	case "bool":
		switch strings.ToLower(text) {
		case "true", "yes", "1":
			return json.RawMessage("true"), nil
		case "false", "no", "0":
			return json.RawMessage("false"), nil
		}
		return nil, fmt.Errorf("want true or false")
	case "int":
		if n, ok := numberOf(text); ok && !strings.ContainsAny(text, ".eE") {
			return n, nil
		}
		return nil, fmt.Errorf("want a whole number")
	case "float":
		if n, ok := numberOf(text); ok {
			return n, nil
		}
		return nil, fmt.Errorf("want a number")
	}
	if !json.Valid([]byte(text)) {
		return nil, fmt.Errorf("want JSON")
	}
	return canonicalJSON(json.RawMessage(text))
}

// numberOf is a number of JSON: a json.Number would also be made of null and of a number in quotes.
func numberOf(text string) (json.RawMessage, bool) {
	text = strings.TrimSpace(text)
	starts := strings.IndexAny(text, "-0123456789") == 0
	return json.RawMessage(text), starts && json.Valid([]byte(text))
}

// canonicalJSON writes a value so that equal values have equal text: keys sorted, no spaces.
func canonicalJSON(raw json.RawMessage) (json.RawMessage, error) {
	dec := json.NewDecoder(strings.NewReader(string(raw)))
	dec.UseNumber()
	var v any
	if err := dec.Decode(&v); err != nil {
		return nil, fmt.Errorf("read JSON: %w", err)
	}
	return json.Marshal(v)
}
