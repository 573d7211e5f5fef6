package flow

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sync/errgroup"

	"tarn.dev/tarn/internal/flow/graph"
	"tarn.dev/tarn/internal/flow/manifest"
)

// precheck binds the queries that are about to run on tables which are there already: a misspelt column is
// an error before anything runs, not after the minutes of the steps beside it. What depends on a step that
// runs cannot be bound yet.
func (f *Flow) precheck(ctx context.Context, p *plan) error {
	runs := map[*graph.Node]bool{}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(max(f.Cores, 1))
	for _, n := range p.nodes {
		runs[n] = n.ItemInput() != nil || slices.ContainsFunc(n.Parents, func(parent *graph.Node) bool { return runs[parent] })
		if runs[n] {
			continue
		}
		wk, err := f.prepare(ctx, p.world, p.code, n, p.envs[n.Name], p.demand)
		if errors.Is(err, graph.ErrUnknownInput) { // a parent's result is kept, but not on this ref yet
			runs[n] = true
			continue
		}
		if err != nil {
			return errors.Join(err, g.Wait())
		}
		if runs[n] = len(wk.missing()) > 0; runs[n] && n.Language == manifest.SQL {
			g.Go(func() error { return f.bind(ctx, wk) })
		}
	}
	return g.Wait()
}

func (f *Flow) bind(ctx context.Context, wk *work) error {
	fn := wk.node.Function
	job, err := f.selectJob(ctx, fn.File, fn.SQL, wk)
	if err != nil {
		return err
	}
	// Not Describe: the types of parameters are known only when values are bound.
	job.SQL = "SELECT * FROM (\n" + job.SQL + "\n) LIMIT 0"
	if _, err := f.Engine.Run(ctx, job, nil); err != nil {
		return fmt.Errorf("%s: %w", fn.File, err)
	}
	return nil
}
