package flow

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/catalog"
	"tarn.dev/tarn/internal/flow/graph"
	"tarn.dev/tarn/internal/flow/manifest"
	"tarn.dev/tarn/internal/query"
)

// errUnknownColumn is a column that a function reads and its table does not have.
var errUnknownColumn = errdef.New(errdef.NotFound, "run.unknown_column", "no such column")

// precheck binds the queries and inputs of a run before anything of it runs: a misspelt column is an error
// now, not after the minutes of the steps before it. Schemas flow through the plan: what a query gives is
// known when it is bound. What a Python function gives is not, so what reads it is bound when it runs.
// One engine job binds everything; a run that finds everything there binds nothing.
func (f *Flow) precheck(ctx context.Context, p *plan) error {
	b := &binder{f: f, plan: p, open: map[*graph.Node]bool{}}
	for _, n := range p.nodes {
		if err := b.look(ctx, n); err != nil {
			return err
		}
	}
	if !b.runs {
		return nil
	}
	for _, n := range p.nodes {
		if err := b.add(ctx, n); err != nil {
			return err
		}
	}
	if len(b.bindings) == 0 {
		return nil
	}
	res, err := f.Engine.Run(ctx, query.Job{Bind: b.bindings}, nil)
	if err != nil {
		return err
	}
	for i, wrong := range res.Bound {
		if wrong != nil {
			return b.places[i].unbound(wrong)
		}
	}
	return nil
}

// binder collects what a plan has to bind.
type binder struct {
	f    *Flow
	plan *plan
	// open are the nodes whose output may become another one than the base has.
	open     map[*graph.Node]bool
	runs     bool // something surely runs
	bindings []query.Binding
	places   []place // of the bindings
}

// place is where a binding is written: a query, or an input of a Python function.
type place struct {
	node  *graph.Node
	input *manifest.Input
}

func (b *binder) look(ctx context.Context, n *graph.Node) error {
	if slices.ContainsFunc(n.Parents, func(parent *graph.Node) bool { return b.open[parent] }) {
		b.open[n] = true
		return nil
	}
	if n.ItemInput() != nil { // to look up 100,000 items twice is more than binding is worth
		b.open[n] = true
		state, err := b.plan.world.entry(ctx, stateKey(n.Function))
		b.runs = b.runs || state == nil && n.Kind == manifest.Asset
		return err
	}
	wk, err := b.f.prepare(ctx, b.plan.world, b.plan.code, n, b.plan.envs[n.Name], b.plan.demand)
	if err != nil {
		return err
	}
	for _, inv := range wk.items {
		b.runs = b.runs || !inv.reused
		b.open[n] = b.open[n] || !inv.reused || inv.fragment != nil // a result that is kept, but is not on this ref
	}
	return nil
}

func (b *binder) add(ctx context.Context, n *graph.Node) error {
	switch {
	case !b.open[n]:
	case n.Language == manifest.SQL:
		return b.addQuery(ctx, n)
	case n.Language == manifest.Python:
		for _, in := range n.Inputs {
			if in.Kind != manifest.InTable || len(in.Columns) == 0 && in.Where == "" {
				continue
			}
			table, known, err := b.table(ctx, selectedFrom, in.Table, in.Ref)
			if err != nil {
				return err
			}
			if known {
				b.bindings = append(b.bindings, query.Binding{SQL: selection(in), Tables: []query.BoundTable{table}})
				b.places = append(b.places, place{n, &in})
			}
		}
	}
	return nil
}

func (b *binder) addQuery(ctx context.Context, n *graph.Node) error {
	analysis, err := b.f.Engine.Analyze(ctx, n.File, n.SQL)
	if err != nil {
		return err
	}
	values, err := paramsOf(n.Function, b.plan.demand.params)
	if err != nil {
		return err
	}
	binding := query.Binding{Name: n.Name, SQL: analysis.SQL}
	if binding.Params, err = engineParams(values); err != nil {
		return err
	}
	for _, ref := range analysis.Tables {
		table, known, err := b.table(ctx, ref.Name, query.Name{Namespace: ref.Name.Namespace, Table: ref.Name.Table}.String(), ref.Name.Ref)
		if err != nil || !known {
			return err
		}
		binding.Tables = append(binding.Tables, table)
	}
	b.bindings = append(b.bindings, binding)
	b.places = append(b.places, place{node: n})
	return nil
}

// table says which columns a table will have when it is read; known is false if nobody can say.
func (b *binder) table(ctx context.Context, as query.Name, name, ref string) (t query.BoundTable, known bool, err error) {
	t.Name = as
	if maker := b.plan.graph.Maker(name); ref == "" && maker != nil && b.open[maker] {
		t.ResultOf = maker.Name
		return t, maker.Language == manifest.SQL && maker.Mode == manifest.Replace, nil // else columns of before stay
	}
	v, err := b.plan.world.table(ctx, name, ref)
	if err != nil || v == nil || v.entry == nil {
		return t, false, err
	}
	if catalog.IsLinked(*v.entry) {
		schema, err := b.f.tables.Schema(ctx, *v.entry)
		if err != nil {
			return t, false, err
		}
		for _, c := range schema.Fields() {
			t.Columns = append(t.Columns, query.ColumnOf(0, c.Name, c.Type, c.Type))
		}
		return t, true, nil
	}
	scan, err := b.f.tables.Scan(ctx, *v.entry)
	if err != nil {
		return t, false, err
	}
	for _, c := range scan.Columns {
		t.Columns = append(t.Columns, query.ColumnOf(c.FieldID, c.Name, c.Declared, c.Stored))
	}
	return t, true, nil
}

// unbound is the error for what is wrong with the binding of a place.
func (p place) unbound(u *query.Unbound) error {
	line := max(u.Line, p.node.Line)
	if p.input != nil {
		line = max(p.input.Line, p.node.Line)
		u.Tables[0].Name = query.Name{Table: p.input.Table, Ref: p.input.Ref}
	}
	at := fmt.Sprintf("%s:%d", p.node.File, line)
	if u.Column == "" {
		return query.ErrStatement.Errorf("%s: %s", at, u.Message)
	}
	if len(u.Tables) == 1 && !slices.ContainsFunc(u.Offered, func(c string) bool { return !slices.Contains(u.Tables[0].Columns, c) }) {
		return noColumn(p.node, u.Column, u.Tables[0].Name.String(), at, u.Tables[0].Columns)
	}
	candidates := u.Offered // also what the statement itself makes: a CTE's columns
	var have []string
	for _, t := range u.Tables {
		candidates = append(candidates, t.Columns...)
		have = append(have, fmt.Sprintf("Columns of %s: %s.", t.Name, manifest.List(t.Columns)))
	}
	text := fmt.Sprintf("%s reads the column '%s' (%s), which is not there. %s%s",
		p.node.Name, u.Column, at, manifest.DidYouMean(u.Column, candidates), strings.Join(have, " "))
	return errUnknownColumn.Errorf("%s", strings.TrimSpace(text))
}

func noColumn(n *graph.Node, column, table, at string, have []string) error {
	return errUnknownColumn.Errorf("%s reads the column '%s' of %s (%s). %sColumns: %s.",
		n.Name, column, table, at, manifest.DidYouMean(column, have), manifest.List(have))
}
