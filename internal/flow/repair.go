package flow

import (
	"context"
	"errors"

	"tarn.dev/tarn/internal/flow/memo"
	"tarn.dev/tarn/internal/lake"
	"tarn.dev/tarn/internal/meta"
)

// Repair makes every remembered result unknown that is not whole, so that the next run computes it again. It comes
// after lake.Repair.
func (f *Flow) Repair(ctx context.Context, report func(lake.Problem)) error {
	broken := map[memo.Key]lake.Problem{}
	err := f.memo.All(ctx, func(key memo.Key, frag *memo.Fragment, err error) error {
		k := &fsck{Flow: f, deep: true, seen: map[string]bool{}, report: func(p lake.Problem) { broken[key] = p }}
		where := "memo " + string(key)
		if err != nil {
			return k.found("fsck.memo", where, err)
		}
		return errors.Join(k.contents(ctx, where, frag.Tables, frag.Files), k.provenance(ctx, where, frag.Provenance))
	})
	if err != nil {
		return err
	}
	for key, p := range broken {
		err := f.memo.PutAside(ctx, key)
		if errors.Is(err, meta.ErrConditionFailed) {
			continue // another result took its place
		}
		if err != nil {
			return err
		}
		report(lake.Problem{Reason: "repair.result_aside", Where: p.Where, Message: "the next run computes it again: " + p.Message})
	}
	return nil
}
