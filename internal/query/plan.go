package query

import (
	"context"
	"io"
)

// Resolver finds tables. Resolve returns where the rows of a table are; the source's name is set by
// the caller. Its error for an unknown table is what the user sees: it names the table, the nearest
// match, and where the statement said it.
type Resolver interface {
	Resolve(ctx context.Context, table Reference) (Source, error)
}

// ResolverFunc is a function as a Resolver.
type ResolverFunc func(ctx context.Context, table Reference) (Source, error)

// Resolve calls f.
func (f ResolverFunc) Resolve(ctx context.Context, table Reference) (Source, error) {
	return f(ctx, table)
}

// Request is a statement to plan.
type Request struct {
	Name   string // what messages call the text, e.g. "orders.sql"; "" for a query that was typed
	SQL    string
	Params map[string]any
}

// Plan is a statement with its tables found, ready to run once Job has sinks.
type Plan struct {
	Analysis Analysis
	Job      Job
}

// Plan analyzes a statement and resolves its tables.
func (e *Engine) Plan(ctx context.Context, request Request, resolver Resolver) (Plan, error) {
	analysis, err := e.Analyze(ctx, request.Name, request.SQL)
	if err != nil {
		return Plan{}, err
	}
	plan := Plan{Analysis: analysis, Job: Job{SQL: analysis.SQL, Params: request.Params, Write: analysis.Write}}
	tables := analysis.Tables
	if w := analysis.Write; w != nil && w.Mode == Append && !reads(tables, w.Target) {
		tables = append(tables[:len(tables):len(tables)], Reference{Name: w.Target, Line: 1}) // for its columns
	}
	for _, table := range tables {
		source, err := resolver.Resolve(ctx, table)
		if err != nil {
			return Plan{}, err
		}
		source.Name = table.Name
		plan.Job.Sources = append(plan.Job.Sources, source)
	}
	return plan, nil
}

func reads(tables []Reference, name Name) bool {
	for _, table := range tables {
		if table.Name.same(name) {
			return true
		}
	}
	return false
}

// Describe returns the Arrow schema (see ParseSchema) that a plan's rows will have.
func (e *Engine) Describe(ctx context.Context, plan Plan) ([]byte, error) {
	job := plan.Job
	job.Sinks, job.Describe = nil, true
	result, err := e.Run(ctx, job, nil)
	return result.Schema, err
}

// Stream runs a plan and writes its first show rows, 0 for all, to w as an Arrow IPC stream. The result
// counts them all.
func (e *Engine) Stream(ctx context.Context, plan Plan, show int64, w io.Writer) (Result, error) {
	plan.Job.Sinks = []Sink{{Kind: SinkStream, Rows: show}}
	return e.Run(ctx, plan.Job, w)
}
