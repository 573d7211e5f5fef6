// Package graph is the asset graph of a manifest: which asset makes which table or folder, which it
// reads, in which order they run, and which a selection names.
package graph

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/flow/manifest"
)

// Errors of building a graph or selecting from it.
var (
	// ErrCycle names the assets of a cycle in order.
	ErrCycle = errdef.New(errdef.InvalidArgument, "graph.cycle", "the assets form a cycle")
	// ErrDuplicate names both places of one name.
	ErrDuplicate = errdef.New(errdef.InvalidArgument, "graph.duplicate", "two assets of one name")
	// ErrUnknownInput is an input that neither an asset nor the ref has.
	ErrUnknownInput = errdef.New(errdef.NotFound, "graph.unknown_input", "no such table")
	// ErrUnknownSelection is a selection that names nothing.
	ErrUnknownSelection = errdef.New(errdef.NotFound, "graph.unknown_selection", "nothing of that name")
)

// Node is one asset or check with its neighbours.
type Node struct {
	*manifest.Function
	Parents  []*Node // assets whose output it reads
	Children []*Node
}

// Graph is immutable.
type Graph struct {
	nodes  []*Node // topological order, ties by name
	byName map[string]*Node
	makes  map[string]*Node // table name -> asset
}

// Existing answers for what a ref holds already: imported tables and files.
type Existing interface {
	// HasTable reports a table of that name; ref is "" for the run's own.
	HasTable(name, ref string) bool
	// Tables lists the names, for messages, and what the ref is called.
	Tables() (names []string, ref string)
	// HasFiles reports whether a file matches glob.
	HasFiles(glob string) bool
}

// Build makes the graph and checks every name in it, before anything runs.
func Build(m *manifest.Manifest, ex Existing) (*Graph, error) {
	g := &Graph{byName: map[string]*Node{}, makes: map[string]*Node{}}
	for i := range m.Functions {
		f := &m.Functions[i]
		if f.Kind == manifest.Plain || f.Kind == manifest.Entry {
			continue
		}
		if err := g.add(&Node{Function: f}); err != nil {
			return nil, err
		}
	}
	for _, n := range g.nodes {
		if err := g.connect(n, ex); err != nil {
			return nil, err
		}
	}
	return g, g.sort()
}

func place(f *manifest.Function) string { return fmt.Sprintf("%s:%d", f.File, f.Line) }

func (g *Graph) add(n *Node) error {
	if other := g.byName[n.Name]; other != nil {
		return ErrDuplicate.Errorf("two functions are called %s: %s and %s. Rename one", n.Name, place(other.Function), place(n.Function))
	}
	g.byName[n.Name] = n
	g.nodes = append(g.nodes, n)
	if n.Kind != manifest.Asset {
		return nil
	}
	for _, out := range n.Outputs {
		if other := g.makes[out]; other != nil {
			return ErrDuplicate.Errorf("two assets make %s: %s (%s) and %s (%s)", out, other.Name, place(other.Function), n.Name, place(n.Function))
		}
		g.makes[out] = n
	}
	return nil
}

func (g *Graph) connect(n *Node, ex Existing) error {
	for _, in := range n.Inputs {
		switch in.Kind {
		case manifest.InTable:
			if parent := g.makes[in.Table]; parent != nil && in.Ref == "" {
				n.link(parent)
			} else if !ex.HasTable(in.Table, in.Ref) {
				return g.unknownTable(n, in, ex)
			}
		case manifest.InFiles:
			if parent := g.folderOf(in.Glob); parent != nil && parent != n {
				n.link(parent)
			} else if !ex.HasFiles(in.Glob) {
				_, ref := ex.Tables()
				return ErrUnknownInput.Errorf("%s reads files %q (%s:%d), and no file on %s matches", n.Name, in.Glob, n.File, line(n, in), ref).
					WithNext("tarn file put SRC... DST/")
			}
		}
	}
	if n.CheckOf != "" {
		if parent := g.makes[n.CheckOf]; parent != nil {
			n.link(parent)
		} else if parent := g.byName[n.CheckOf]; parent != nil && parent.Kind == manifest.Asset {
			n.link(parent)
		} else if !ex.HasTable(n.CheckOf, "") {
			return g.unknownTable(n, manifest.Input{Table: n.CheckOf, Line: n.Line}, ex)
		}
	}
	return nil
}

func line(n *Node, in manifest.Input) int {
	if in.Line > 0 {
		return in.Line
	}
	return n.Line
}

func (g *Graph) unknownTable(n *Node, in manifest.Input, ex Existing) error {
	there, ref := ex.Tables()
	if in.Ref != "" {
		return ErrUnknownInput.Errorf("%s reads '%s@%s' (%s:%d), which is not there.", n.Name, in.Table, in.Ref, n.File, line(n, in))
	}
	there = slices.Sorted(slices.Values(there))
	candidates := slices.Clone(there)
	for out := range g.makes {
		if !slices.Contains(candidates, out) {
			candidates = append(candidates, out)
		}
	}
	return ErrUnknownInput.Errorf("%s reads '%s' (%s:%d). %sTables on %s: %s.", n.Name, in.Table, n.File, line(n, in),
		manifest.DidYouMean(in.Table, candidates), ref, manifest.List(there)).WithDetail("table", in.Table)
}

// folderOf is the asset whose output folder a glob looks into, or nil.
func (g *Graph) folderOf(glob string) *Node {
	first, _, _ := strings.Cut(path.Clean(glob), "/")
	if n := g.byName[first]; n != nil && n.Kind == manifest.Asset && n.WritesFiles() {
		return n
	}
	return nil
}

func (n *Node) link(parent *Node) {
	if slices.Contains(n.Parents, parent) {
		return
	}
	n.Parents = append(n.Parents, parent)
	parent.Children = append(parent.Children, n)
}

func (g *Graph) sort() error {
	slices.SortFunc(g.nodes, func(a, b *Node) int { return strings.Compare(a.Name, b.Name) })
	const visiting, done = 1, 2
	state := map[*Node]int{}
	var order, trail []*Node
	var visit func(n *Node) error
	visit = func(n *Node) error {
		switch state[n] {
		case done:
			return nil
		case visiting:
			return cycle(trail[slices.Index(trail, n):])
		}
		state[n] = visiting
		trail = append(trail, n)
		for _, p := range n.Parents {
			if err := visit(p); err != nil {
				return err
			}
		}
		trail = trail[:len(trail)-1]
		state[n] = done
		order = append(order, n)
		return nil
	}
	for _, n := range g.nodes {
		if err := visit(n); err != nil {
			return err
		}
	}
	g.nodes = order
	return nil
}

func cycle(ns []*Node) error {
	var b strings.Builder
	for _, n := range ns {
		fmt.Fprintf(&b, "%s (%s) reads ", n.Name, place(n.Function))
	}
	return ErrCycle.Errorf("the assets form a cycle: %s%s", b.String(), ns[0].Name)
}

// Nodes are all assets and checks, parents before children.
func (g *Graph) Nodes() []*Node { return g.nodes }

// Node returns the asset or check of that name, or nil.
func (g *Graph) Node(name string) *Node { return g.byName[name] }

// Maker returns the asset that makes a table, or nil.
func (g *Graph) Maker(table string) *Node { return g.makes[table] }

// ChecksOf are the check functions of a node's outputs.
func (g *Graph) ChecksOf(n *Node) []*Node {
	var out []*Node
	for _, c := range n.Children {
		if _, ok := c.Judges(n.Function); ok {
			out = append(out, c)
		}
	}
	return out
}

// Select returns the assets that the selections name, in topological order; no selection means all.
// A selection is a name, a glob, +x (with all it reads), x+ (with all that read it), tag:T, owner:O, a
// file of the project, or "changed", answered by the given function.
func (g *Graph) Select(selections []string, changed func(*Node) (bool, error)) ([]*Node, error) {
	picked := map[*Node]bool{}
	for _, s := range selections {
		ns, err := g.one(s, changed)
		if err != nil {
			return nil, err
		}
		for _, n := range ns {
			picked[n] = true
		}
	}
	var out []*Node
	for _, n := range g.nodes {
		if n.Kind == manifest.Asset && (len(selections) == 0 || picked[n]) {
			out = append(out, n)
		}
	}
	return out, nil
}

func (g *Graph) one(s string, changed func(*Node) (bool, error)) ([]*Node, error) {
	name, up := strings.CutPrefix(s, "+")
	name, down := strings.CutSuffix(name, "+")
	var out []*Node
	for _, n := range g.nodes {
		ok, err := n.matches(name, changed)
		if err != nil {
			return nil, err
		}
		if ok {
			out = append(out, n)
		}
	}
	base := slices.Clone(out)
	for _, n := range base {
		if up {
			out = append(out, reach(n, func(n *Node) []*Node { return n.Parents })...)
		}
		if down {
			out = append(out, reach(n, func(n *Node) []*Node { return n.Children })...)
		}
	}
	// A check alone is nothing to run: it runs when what it judges is published.
	if name != "changed" && !slices.ContainsFunc(out, func(n *Node) bool { return n.Kind == manifest.Asset }) {
		return nil, g.unknownSelection(s, name)
	}
	return out, nil
}

func (n *Node) matches(s string, changed func(*Node) (bool, error)) (bool, error) {
	if tag, ok := strings.CutPrefix(s, "tag:"); ok {
		return slices.Contains(n.Options.Tags, tag), nil
	}
	if owner, ok := strings.CutPrefix(s, "owner:"); ok {
		return slices.Contains(n.Options.Owners, owner), nil
	}
	if s == "changed" && n.Kind == manifest.Asset {
		return changed(n)
	}
	if n.Name == s || n.File == path.Clean(s) || slices.Contains(n.Outputs, s) {
		return true, nil
	}
	if strings.ContainsAny(s, "*?[") {
		ok, err := path.Match(s, n.Name)
		return ok && err == nil, nil
	}
	return false, nil
}

func (g *Graph) unknownSelection(s, name string) error {
	var names []string
	for _, n := range g.nodes {
		if n.Kind == manifest.Asset {
			names = append(names, n.Name)
		}
	}
	return ErrUnknownSelection.Errorf("no asset is selected by '%s'. %sAssets: %s.", s, manifest.DidYouMean(name, names), manifest.List(names)).
		WithDetail("selection", s)
}

func reach(n *Node, next func(*Node) []*Node) []*Node {
	seen := map[*Node]bool{}
	var out []*Node
	var walk func(*Node)
	walk = func(n *Node) {
		for _, m := range next(n) {
			if !seen[m] {
				seen[m] = true
				out = append(out, m)
				walk(m)
			}
		}
	}
	walk(n)
	return out
}
