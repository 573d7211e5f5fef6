package flow

import (
	"context"
	"fmt"
	"time"

	"tarn.dev/tarn/internal/meta"
)

// How long what nobody published is kept, and the story of a run.
const (
	keepRunBranch = 7 * 24 * time.Hour
	keepEvents    = 30 * 24 * time.Hour
)

// prune removes run branches and events that are past their time, as of at.
func (f *Flow) prune(ctx context.Context, at time.Time) error {
	var old []string
	for ref, err := range f.lake.Branches(ctx) {
		if err != nil {
			return fmt.Errorf("prune run branches: %w", err)
		}
		if f.isRunBranch(ref.Name) && at.Sub(ref.Time) >= keepRunBranch {
			old = append(old, ref.Name)
		}
	}
	for _, name := range old {
		if _, err := f.lake.DeleteBranch(ctx, name, ""); err != nil {
			return fmt.Errorf("prune run branch %s: %w", name, err)
		}
	}
	return f.pruneEvents(ctx, at)
}

func (f *Flow) pruneEvents(ctx context.Context, at time.Time) error {
	for run, err := range f.runs.list(ctx, 0) {
		if err != nil {
			return err
		}
		if !run.State.Final() || at.Sub(run.Created) < keepEvents {
			continue
		}
		var writes []meta.Write
		for row, err := range f.rows.Scan(ctx, meta.Prefix(f.runs.eventPrefix(run.ID))) {
			if err != nil {
				return fmt.Errorf("prune events of %s: %w", run.ID, err)
			}
			writes = append(writes, meta.Delete(row.Key))
		}
		if len(writes) == 0 {
			return nil // runs come newest first: the older ones were pruned before
		}
		if _, err := f.rows.Txn(ctx, f.fence(), writes); err != nil {
			return fmt.Errorf("prune events of %s: %w", run.ID, err)
		}
	}
	return nil
}
