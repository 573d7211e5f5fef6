package server

import (
	"context"

	tarnv1 "tarn.dev/tarn/api/gen/tarn/v1"
	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/base/ids"
	"tarn.dev/tarn/internal/flow"
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
