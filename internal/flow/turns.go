package flow

import (
	"cmp"
	"context"

	"tarn.dev/tarn/internal/flow/manifest"
	"tarn.dev/tarn/internal/flow/turn"
)

// stepTurn waits for one of the cores that steps share, and for what the function is limited to.
func (f *Flow) stepTurn(ctx context.Context, fn *manifest.Function) (done func(), err error) {
	return f.turns.Take(ctx, turn.Rank{Priority: fn.Options.Priority}, append(limitClaims(fn), turn.Claim{Of: "steps", Share: 1, Limit: max(f.Cores, 1)})...)
}

// limitClaims are what a function's limit asks for: it holds for all runs and calls, and with a key for all functions that name it.
func limitClaims(fn *manifest.Function) []turn.Claim {
	o := fn.Options
	if o.Concurrency == 0 {
		return nil
	}
	of := "function " + fn.File + "::" + cmp.Or(fn.Qualname, fn.Name)
	if o.ConcurrencyKey != "" {
		of = "key " + o.ConcurrencyKey
	}
	return []turn.Claim{{Of: of, Share: 1, Limit: o.Concurrency}}
}
