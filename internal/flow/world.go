package flow

import (
	"context"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"
	"sync"

	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/flow/manifest"
	"tarn.dev/tarn/internal/flow/memo"
	"tarn.dev/tarn/internal/flow/project"
	"tarn.dev/tarn/internal/lake"
)

// tableKey is the tree key of a table as users write it: orders, or ns.orders.
func tableKey(name string) string {
	ns, table, ok := strings.Cut(name, ".")
	if !ok {
		ns, table = lake.DefaultNamespace, name
	}
	return lake.TableKey(ns, table)
}

// value is a table as a function gets it.
type value struct {
	name, key       string
	version, schema string
	rows            int64
	arrow           []string    // blobs, Arrow IPC files, that hold it, if any do
	entry           *lake.Entry // where it is in the history; nil while it is being written
	commit          string      // it was read at; empty when this run made it
	provenance      lake.Hash
}

func (v *value) identity() string { return memo.TableIdentity(v.version, v.schema) }

func (v *value) source(param string) memo.Source {
	return memo.Source{Param: param, Kind: string(manifest.InTable), Key: v.key, Commit: v.commit, Identity: v.identity(), Rows: v.rows, Provenance: v.provenance}
}

// fileValue is one file as a function gets it.
type fileValue struct {
	path string
	ref  lake.FileRef
	hash string
	prov lake.Hash
	link *lake.Entry // of a file that is elsewhere; it has no ref
}

func (v fileValue) identity() string { return memo.FileIdentity(v.path, v.hash) }

// world is what the functions of a run see: one commit, and on top of it what the run made.
type world struct {
	f      *Flow
	commit lake.Commit
	tree   lake.Tree // of the commit

	mu    sync.Mutex
	made  map[string]*value    // tables by tree key
	files map[string]fileValue // files by path, made by this run
	gone  map[string]bool      // folders whose earlier files this run replaces
}

func (f *Flow) worldAt(commit lake.Commit) *world {
	return &world{f: f, commit: commit, tree: f.lake.Tree(commit.Tree), made: map[string]*value{}, files: map[string]fileValue{}, gone: map[string]bool{}}
}

// entry is what the commit has under key, or nil.
func (w *world) entry(ctx context.Context, key string) (*lake.Entry, error) {
	return entryAt(ctx, w.tree, key)
}

func entryAt(ctx context.Context, t lake.Tree, key string) (*lake.Entry, error) {
	e, ok, err := t.Get(ctx, key)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", lake.DisplayKey(key), err)
	}
	if !ok {
		return nil, nil
	}
	return &e, nil
}

// table resolves an input.
func (w *world) table(ctx context.Context, name, ref string) (*value, error) {
	key := tableKey(name)
	tree, commit := w.tree, w.commit
	if ref != "" {
		var err error
		if commit, err = w.f.lake.Resolve(ctx, ref); err != nil {
			return nil, err
		}
		tree = w.f.lake.Tree(commit.Tree)
	} else {
		w.mu.Lock()
		v := w.made[key]
		w.mu.Unlock()
		if v != nil {
			return v, nil
		}
	}
	e, err := entryAt(ctx, tree, key)
	if err != nil || e == nil {
		return nil, err
	}
	return &value{
		name: name, key: key, version: e.Version, schema: e.Schema, rows: e.Location.Rows, entry: e,
		commit: commit.ID.String(), provenance: e.Location.Provenance,
	}, nil
}

// changed are the keys of those tables that are not as they are in the commit.
func (w *world) changed(ctx context.Context, names []string) (map[string]bool, error) {
	out := map[string]bool{}
	for _, name := range names {
		v, err := w.table(ctx, name, "")
		if err != nil {
			return nil, err
		}
		was, err := w.entry(ctx, tableKey(name))
		if err != nil {
			return nil, err
		}
		out[tableKey(name)] = v != nil && !v.entry.SameIdentity(was)
	}
	return out, nil
}

// put sets a table that the run made, and returns what it was set to before.
func (w *world) put(v *value) (before *value) {
	w.mu.Lock()
	defer w.mu.Unlock()
	before, w.made[v.key] = w.made[v.key], v
	return before
}

// putFiles replaces the files of an asset's folder.
func (w *world) putFiles(folder string, files []fileValue) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.gone[folder+"/"] = true
	for p := range w.files {
		if strings.HasPrefix(p, folder+"/") {
			delete(w.files, p)
		}
	}
	for _, v := range files {
		w.files[v.path] = v
	}
}

// match lists the files that match a glob, by path.
func (w *world) match(ctx context.Context, glob string) ([]fileValue, error) {
	glob = path.Clean(glob)
	var out []fileValue
	w.mu.Lock()
	gone := make([]string, 0, len(w.gone))
	for g := range w.gone {
		gone = append(gone, g)
	}
	for p, v := range w.files {
		if project.Match(glob, p) {
			out = append(out, v)
		}
	}
	w.mu.Unlock()
	static := glob
	if i := strings.IndexAny(glob, "*?["); i >= 0 {
		static = glob[:strings.LastIndex(glob[:i], "/")+1]
	}
	prefix := lake.FilePrefix
	if s := strings.TrimSuffix(static, "/"); s != "" {
		prefix = lake.FileKey(s)
	}
	for ke, err := range w.tree.Scan(ctx, prefix, "") {
		if err != nil {
			return nil, fmt.Errorf("list files %q: %w", glob, err)
		}
		if ke.Entry.Kind != lake.KindFile && ke.Entry.Kind != lake.KindExternal {
			continue
		}
		p := lake.DisplayKey(ke.Key)
		if slices.ContainsFunc(gone, func(g string) bool { return strings.HasPrefix(p, g) }) || !project.Match(glob, p) {
			continue
		}
		v := fileValue{path: p, ref: ke.Entry.Location.Ref, hash: ke.Entry.Version, prov: ke.Entry.Location.Provenance}
		if ke.Entry.Kind == lake.KindExternal {
			v.link = &ke.Entry
		}
		out = append(out, v)
	}
	slices.SortFunc(out, func(a, b fileValue) int { return strings.Compare(a.path, b.path) })
	return out, nil
}

// existing answers the graph's questions about the commit. The graph asks without errors, so the first
// one is kept.
type existing struct {
	ctx context.Context
	w   *world
	ref string
	err error
}

func (e *existing) keep(err error) {
	if err != nil && e.err == nil && errdef.CodeOf(err) != errdef.NotFound {
		e.err = err
	}
}

// HasTable implements graph.Existing.
func (e *existing) HasTable(name, ref string) bool {
	v, err := e.w.table(e.ctx, name, ref)
	e.keep(err)
	return err == nil && v != nil
}

// HasFiles implements graph.Existing.
func (e *existing) HasFiles(glob string) bool {
	files, err := e.w.match(e.ctx, glob)
	e.keep(err)
	return len(files) > 0
}

// Tables implements graph.Existing.
func (e *existing) Tables() ([]string, string) {
	names, err := tableNames(e.ctx, e.w.tree)
	e.keep(err)
	return names, e.ref
}

// tableNames lists the tables of a tree as users write them, without those that keep offenders.
func tableNames(ctx context.Context, t lake.Tree) ([]string, error) {
	var names []string
	for ke, err := range t.Scan(ctx, lake.TablePrefix, "") {
		if err != nil {
			return nil, fmt.Errorf("list tables: %w", err)
		}
		if name := lake.DisplayKey(ke.Key); !strings.HasPrefix(name, offenderNamespace+".") {
			names = append(names, name)
		}
	}
	return names, nil
}

// item is the slice of input that one invocation gets.
type item struct {
	id    string // "" when the function has no items
	files []fileValue
}

// itemsOf cuts an input's files into items.
func itemsOf(fn *manifest.Function, in manifest.Input, files []fileValue) ([]item, error) {
	if in.GroupBy == "" {
		items := make([]item, len(files))
		for i, v := range files {
			items[i] = item{id: v.path, files: files[i : i+1]}
		}
		return items, nil
	}
	re, err := regexp.Compile(in.GroupBy)
	if err != nil {
		return nil, errdef.Newf(errdef.InvalidArgument, "run.group_by", "%s:%d: group_by=%q: %w", fn.File, fn.Line, in.GroupBy, err)
	}
	if re.NumSubexp() == 0 {
		return nil, errdef.Newf(errdef.InvalidArgument, "run.group_by", "%s:%d: group_by=%q has no group. Put brackets around what names the group", fn.File, fn.Line, in.GroupBy)
	}
	at := map[string]int{}
	var items []item
	for _, v := range files {
		m := re.FindStringSubmatch(v.path)
		if m == nil {
			return nil, errdef.Newf(errdef.InvalidArgument, "run.group_by", "group_by=%q of %s does not match the file %s. Narrow the glob %q", in.GroupBy, fn.Name, v.path, in.Glob)
		}
		i, ok := at[m[1]]
		if !ok {
			i = len(items)
			at[m[1]] = i
			items = append(items, item{id: m[1]})
		}
		items[i].files = append(items[i].files, v)
	}
	slices.SortFunc(items, func(a, b item) int { return strings.Compare(a.id, b.id) })
	return items, nil
}
