package server

import (
	"context"

	"google.golang.org/protobuf/types/known/timestamppb"

	tarnv1 "tarn.dev/tarn/api/gen/tarn/v1"
	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/base/ids"
	"tarn.dev/tarn/internal/flow"
	"tarn.dev/tarn/internal/lake"
)

// showItem describes RUN/STEP/ITEM; nil when word names no item of a run that is there.
func showItem(ctx context.Context, f *flow.Flow, word string) (*tarnv1.ShowResponse, error) {
	run, step, id, ok := flow.ItemOf(word)
	if !ok {
		return nil, nil
	}
	if _, err := f.Get(ctx, run); err != nil {
		if errdef.CodeOf(err) == errdef.NotFound && !ids.IsRun(run) {
			return nil, nil
		}
		return nil, err
	}
	it, err := f.Item(ctx, run, step, id)
	if err != nil {
		return nil, err
	}
	out := &tarnv1.Item{Run: it.Run, Step: it.Step, Id: it.ID, State: string(it.State), Key: string(it.Key), Made: it.Made, Rows: it.Rows, Files: it.Files}
	if it.Error != nil {
		out.Error = detail(it.Error)
	}
	return &tarnv1.ShowResponse{Kind: "item", Name: word, Item: out}, nil
}

// showOther describes what is neither in the history nor of a run: a hash, or an environment of the folder.
func showOther(ctx context.Context, f *flow.Flow, dir, word string) (*tarnv1.ShowResponse, error) {
	held, err := f.Holders(ctx, word)
	if err != nil {
		return nil, err
	}
	if len(held) > 0 {
		resp := &tarnv1.ShowResponse{Kind: "hash", Name: word}
		for _, h := range held {
			resp.Holders = append(resp.Holders, &tarnv1.Holder{What: h.What, Name: h.Name, Ref: h.Ref, Hash: h.Hash})
		}
		return resp, nil
	}
	if dir == "" {
		return nil, nil
	}
	e, err := f.EnvironmentNamed(ctx, dir, word)
	if e == nil || err != nil {
		return nil, err
	}
	return &tarnv1.ShowResponse{Kind: "environment", Name: e.Spec.Name, Environment: toEnvs(*e)[0]}, nil
}

// toHeld tells what keeps something stored; nil for nothing.
func toHeld(t *lake.Trace) *tarnv1.Held {
	if t == nil {
		return nil
	}
	hex := func(h lake.Hash) string {
		if h.IsZero() {
			return ""
		}
		return h.String()
	}
	out := &tarnv1.Held{
		Hash: t.Hash, What: t.What, Bytes: t.Size, Pack: hex(t.Pack), Condemned: t.Condemned, PackBytes: t.PackSize, NeededBytes: t.Needed,
		Keys: t.Keys, Commits: int32(t.Commits), Newest: hex(t.Newest), Oldest: hex(t.Oldest), More: int32(t.More),
	}
	for _, r := range t.Roots {
		k := &tarnv1.Keeper{Kind: r.Kind, Name: r.Name, Commit: hex(r.Commit), Head: r.Head}
		if !r.Until.IsZero() {
			k.Until = timestamppb.New(r.Until)
		}
		out.Keepers = append(out.Keepers, k)
	}
	return out
}
