package flow

import (
	"context"

	"tarn.dev/tarn/internal/lake"
)

// MergeRequest asks to bring a commit's changes into a branch.
type MergeRequest struct {
	Source lake.Hash
	Branch string
	Info   lake.CommitInfo
	Dir    string // the caller's project folder; "" for none
	Prefer map[string]lake.Side
	DryRun bool
}

// Merge merges as lake.Merge does, through the checks of the merged tree. Merging is how protected
// branches change. The result is there also with conflicts and failed checks.
func (f *Flow) Merge(ctx context.Context, r MergeRequest) (lake.MergeResult, Published, error) {
	var result lake.MergeResult
	pub, err := f.Publish(ctx, Publication{Branch: r.Branch, Info: r.Info, Merge: true, Assets: true, Dir: r.Dir, DryRun: r.DryRun, Change: func(ctx context.Context, tx *lake.Tx) error {
		opt, err := f.mergeOptions(ctx, tx, r.Dir)
		if err != nil {
			return err
		}
		for key, side := range r.Prefer {
			opt.Prefer[key] = side
		}
		if result, err = f.lake.MergeInto(ctx, tx, r.Source, r.Info.Message == "", opt); err != nil {
			return err
		}
		return lake.ConflictError(r.Branch, result.Conflicts)
	}})
	if err == nil && pub.Again {
		result.Changes, err = f.Changes(ctx, pub)
	}
	return result, pub, err
}

// mergeOptions lets the caller's tarn.toml win over what either side has recorded of it: it replaces both.
func (f *Flow) mergeOptions(ctx context.Context, tx *lake.Tx, dir string) (lake.MergeOptions, error) {
	opt := lake.MergeOptions{Resolvers: f.Resolvers(), Prefer: map[string]lake.Side{}}
	if dir != "" {
		key := lake.DefKey(rulesName)
		have, err := entryAt(ctx, f.lake.Tree(tx.Head.Tree), key)
		if err != nil {
			return opt, err
		}
		if have != nil { // a preference for what is nowhere is refused
			opt.Prefer[key] = lake.Target
		}
	}
	return opt, nil
}

// Revert makes a commit that undoes another one, through the checks.
func (f *Flow) Revert(ctx context.Context, commit lake.Hash, branch string, info lake.CommitInfo, dir string) (Published, error) {
	return f.Publish(ctx, Publication{Branch: branch, Info: info, Assets: true, Dir: dir, Change: func(ctx context.Context, tx *lake.Tx) error {
		opt, err := f.mergeOptions(ctx, tx, dir)
		if err != nil {
			return err
		}
		result, err := f.lake.RevertInto(ctx, tx, commit, opt)
		if err != nil {
			return err
		}
		return lake.ConflictError(branch, result.Conflicts)
	}})
}
