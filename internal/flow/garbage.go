package flow

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/flow/memo"
	"tarn.dev/tarn/internal/lake"
	"tarn.dev/tarn/internal/meta"
)

// What results that nothing else holds may cost: they only save work.
const (
	memoAge   = 30 * 24 * time.Hour
	memoBytes = 20 << 30
)

// KeepDeleted is for how long what a deleted branch held can be named again.
const KeepDeleted = 7 * 24 * time.Hour

// Collect frees what neither the history, nor runs, nor results that may be needed again lead to.
func (f *Flow) Collect(ctx context.Context, opt lake.CollectOptions) (lake.Collected, error) {
	opt.Holder, opt.HeadOnly = &holdings{f, now()}, f.isRunBranch
	return f.lake.Collect(ctx, opt)
}

// holdings tell the collector what tables, definitions, states, results and runs lead to.
type holdings struct {
	*Flow
	now time.Time
}

// Blobs implements lake.Holder.
func (h *holdings) Blobs() []string { return []string{"tables/", "fragments/"} }

// Entry implements lake.Holder.
func (h *holdings) Entry(ctx context.Context, m *lake.Mark, e lake.Entry) error {
	if e.Kind != lake.KindTable {
		return nil
	}
	return h.tables.Reach(ctx, e, m.Blob)
}

// Object implements lake.Holder. Of a definition, the record of a result and that of a project's code, each
// names other things in fields of its own.
func (h *holdings) Object(ctx context.Context, m *lake.Mark, t lake.Type, data []byte) error {
	var o struct {
		Snapshot lake.Hash `json:"snapshot"`
		Inputs   []struct {
			Provenance lake.Hash `json:"provenance"`
		} `json:"inputs"`
		Files []struct {
			Ref lake.FileRef `json:"ref"`
		} `json:"files"`
	}
	if err := json.Unmarshal(data, &o); err != nil {
		return errdef.Newf(errdef.DataLoss, "run.record", "a %s is no JSON: %w", t, err)
	}
	err := m.Object(ctx, lake.TypeRecord, o.Snapshot)
	for _, in := range o.Inputs {
		if err == nil {
			err = m.Object(ctx, lake.TypeRecord, in.Provenance)
		}
	}
	for _, file := range o.Files {
		if err == nil {
			err = m.File(ctx, file.Ref)
		}
	}
	return err
}

// Slot implements lake.Holder.
func (h *holdings) Slot(ctx context.Context, m *lake.Mark, value []byte) error {
	var s slot
	if err := json.Unmarshal(value, &s); err != nil {
		return errdef.Newf(errdef.DataLoss, "run.slots", "a slot is no JSON: %w", err)
	}
	return markResult(ctx, m, s.Tables, s.Files, s.Provenance)
}

func markResult(ctx context.Context, m *lake.Mark, tables []memo.Table, files []memo.File, provenance lake.Hash) error {
	for _, t := range tables {
		m.Blob(t.Blob)
	}
	for _, file := range files {
		if err := m.File(ctx, file.Ref); err != nil {
			return err
		}
	}
	return m.Object(ctx, lake.TypeRecord, provenance)
}

// Rows implements lake.Holder.
func (h *holdings) Rows(ctx context.Context, m *lake.Mark, remove lake.Remover) error {
	if err := h.dropForgotten(ctx, m, remove); err != nil {
		return err
	}
	return errors.Join(h.markRuns(ctx, m), h.markMemo(ctx, m, remove), h.markReplaced(ctx, m, remove))
}

// markRuns marks the logs and the code of runs.
func (h *holdings) markRuns(ctx context.Context, m *lake.Mark) error {
	for row, err := range h.rows.Scan(ctx, meta.Prefix(h.runs.runKey(""))) {
		if err != nil {
			return fmt.Errorf("scan runs: %w", err)
		}
		run, err := decodeRun(row)
		if err != nil {
			return err
		}
		m.At(lake.Root{Kind: "run", Name: run.ID})
		// A run that was killed early may name code that was not stored yet.
		there, err := h.lake.Has(ctx, lake.TypeRecord, run.Snapshot)
		if err == nil && there {
			err = m.Object(ctx, lake.TypeRecord, run.Snapshot)
		}
		if err != nil {
			return err
		}
	}
	for row, err := range h.rows.Scan(ctx, meta.Prefix(h.prefix+"step/")) {
		if err != nil {
			return fmt.Errorf("scan steps: %w", err)
		}
		step, err := decodeStep(row)
		if err == nil && step.Log != nil {
			m.At(lake.Root{Kind: "step", Name: step.Label()})
			err = m.File(ctx, *step.Log)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// weakResult is a result that only its memo row holds.
type weakResult struct {
	row     meta.Row // without the value
	key     memo.Key
	created time.Time
	bytes   int64
}

// markMemo marks results. Those that the history does not hold as well go when they are old, or when they
// take too much, the oldest first.
func (h *holdings) markMemo(ctx context.Context, m *lake.Mark, remove lake.Remover) error {
	var weak []weakResult
	err := h.memo.Rows(ctx, func(row meta.Row, frag *memo.Fragment) error {
		held := remove == nil
		if !held {
			var err error
			if held, err = heldElsewhere(ctx, m, frag); err != nil {
				return err
			}
		}
		if held {
			m.At(lake.Root{Kind: "result", Name: string(frag.Key), Until: frag.Created.Add(memoAge)})
			return markResult(ctx, m, frag.Tables, frag.Files, frag.Provenance)
		}
		row.Value = nil
		weak = append(weak, weakResult{row, frag.Key, frag.Created, sizeOf(frag)})
		return nil
	})
	if err != nil {
		return err
	}
	slices.SortFunc(weak, func(a, b weakResult) int { return b.created.Compare(a.created) })
	left := int64(memoBytes)
	for i, w := range weak {
		if left -= w.bytes; left < 0 || h.now.Sub(w.created) >= memoAge {
			return h.forget(ctx, weak[i:], remove)
		}
		frag, err := h.memo.Lookup(ctx, w.key)
		if err == nil && frag != nil { // else it was replaced, and the next mark sees by what
			err = markResult(ctx, m, frag.Tables, frag.Files, frag.Provenance)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// heldElsewhere reports whether a result takes nothing that the history does not hold. The answer of a check
// takes next to nothing, but nothing else holds it.
func heldElsewhere(ctx context.Context, m *lake.Mark, frag *memo.Fragment) (bool, error) {
	if frag.Check != nil {
		return false, nil
	}
	for _, t := range frag.Tables {
		if !m.HasBlob(t.Blob) {
			return false, nil
		}
	}
	for _, file := range frag.Files {
		if ok, err := m.HasFile(ctx, file.Ref); !ok || err != nil {
			return false, err
		}
	}
	return true, nil
}

func sizeOf(frag *memo.Fragment) (n int64) {
	for _, t := range frag.Tables {
		n += t.Bytes
	}
	for _, file := range frag.Files {
		n += file.Ref.Size
	}
	return n
}

// forget takes memo rows away, unless they were replaced meanwhile.
func (h *holdings) forget(ctx context.Context, weak []weakResult, remove lake.Remover) error {
	for _, w := range weak {
		err := remove(ctx, []meta.Condition{meta.At(w.row.Key, w.row.Version)}, []meta.Write{meta.Delete(w.row.Key)})
		if err != nil && !errors.Is(err, meta.ErrConditionFailed) {
			return err
		}
	}
	return nil
}

// markReplaced takes away what newer results of their keys have replaced. What was replaced since the epoch
// began stays until the next collection.
func (h *holdings) markReplaced(ctx context.Context, m *lake.Mark, remove lake.Remover) error {
	return h.memo.Replaced(ctx, func(row meta.Row, frag *memo.Fragment) error {
		if remove == nil {
			m.At(lake.Root{Kind: "replaced result", Name: string(frag.Key)})
			return markResult(ctx, m, frag.Tables, frag.Files, frag.Provenance)
		}
		return remove(ctx, nil, []meta.Write{meta.Delete(row.Key)})
	})
}
