package flow

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/apache/arrow-go/v18/arrow"

	"github.com/dustin/go-humanize"

	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/catalog"
	"tarn.dev/tarn/internal/catalog/dataver"
	"tarn.dev/tarn/internal/flow/manifest"
	"tarn.dev/tarn/internal/lake"
	"tarn.dev/tarn/internal/lake/prolly"
)

// reasonSlot is a slot that both sides of a merge filled differently.
const reasonSlot = "flow.both_ran"

// Resolvers merge what both sides of a merge changed: assets slot by slot, client tables by the catalog.
func (f *Flow) Resolvers() map[lake.Kind]lake.Resolver {
	return map[lake.Kind]lake.Resolver{
		lake.KindTable:  catalog.Resolver{Catalog: f.tables, Slots: f.resolveSlots},
		lake.KindFolder: resolverFunc(f.resolveSlots),
	}
}

type resolverFunc func(ctx context.Context, b *lake.Batch, key string, base, source, target *lake.Entry) (*lake.Entry, *lake.Conflict, error)

// Resolve implements lake.Resolver.
func (r resolverFunc) Resolve(ctx context.Context, b *lake.Batch, key string, base, source, target *lake.Entry) (*lake.Entry, *lake.Conflict, error) {
	return r(ctx, b, key, base, source, target)
}

// resolveSlots merges assets: a slot that one side left alone is taken from the other.
func (f *Flow) resolveSlots(ctx context.Context, b *lake.Batch, key string, base, source, target *lake.Entry) (*lake.Entry, *lake.Conflict, error) {
	if source.Location.Slots.IsZero() != target.Location.Slots.IsZero() {
		return nil, &lake.Conflict{Key: key, Reason: lake.ReasonKindChanged, Message: lake.DisplayKey(key) + ": one side is an asset, the other a client's table"}, nil
	}
	was := lake.Hash{}
	if base != nil {
		was = base.Location.Slots
	}
	merged, added, clashes, err := f.mergeSlots(ctx, b, was, source.Location.Slots, target.Location.Slots)
	if err != nil {
		return nil, nil, err
	}
	name := lake.DisplayKey(key)
	if len(clashes) > 0 {
		return nil, clash(key, name, clashes), nil
	}
	out := *target
	out.Location.Slots = lake.Hash(merged.Root())
	if target.Kind == lake.KindFolder {
		err = f.sumFolder(ctx, merged, &out)
	} else {
		err = f.sumTable(ctx, merged, name, &out, added)
	}
	return &out, nil, err
}

// clash describes slots that both sides filled.
func clash(key, name string, slots []string) *lake.Conflict {
	c := &lake.Conflict{Key: key, Reason: reasonSlot, Details: map[string]any{"slots": slots}}
	if len(slots) == 1 && slots[0] == slotAll {
		c.Message = fmt.Sprintf("%s: both sides made it anew, from different code or inputs. Merge with --prefer %s=source or =target, then tarn run %s", name, name, name)
		return c
	}
	c.Message = fmt.Sprintf("%s: both sides made %s anew, from different code or inputs", name, manifest.List(slots))
	return c
}

// mergeSlots merges two states of an asset; added are the fragments that target did not have.
func (f *Flow) mergeSlots(ctx context.Context, b *lake.Batch, base, source, target lake.Hash) (merged prolly.Map, added []slot, clashes []string, err error) {
	nodes := f.lake.Nodes(b)
	open := func(h lake.Hash) prolly.Map { return prolly.Open(nodes, prolly.Hash(h)) }
	var edits []prolly.Edit
	for w, err := range prolly.Merge3(ctx, open(base), open(source), open(target), prolly.Range{}) {
		if err != nil {
			return merged, nil, nil, fmt.Errorf("merge slots: %w", err)
		}
		if w.Changed == prolly.Target || string(w.Source) == string(w.Target) {
			continue
		}
		if w.Changed == prolly.Both {
			clashes = append(clashes, string(w.Key))
			continue
		}
		edits = append(edits, prolly.Edit{Key: w.Key, Value: w.Source, Remove: w.Source == nil})
		if w.Source != nil {
			var s slot
			if err := json.Unmarshal(w.Source, &s); err != nil {
				return merged, nil, nil, errdef.Newf(errdef.DataLoss, "run.slots", "slot %q: %w", w.Key, err)
			}
			added = append(added, s)
		}
	}
	merged, err = open(target).Edit(ctx, edits)
	return merged, added, clashes, err
}

// sumFolder recounts a folder's state after its slots were merged.
func (f *Flow) sumFolder(ctx context.Context, merged prolly.Map, e *lake.Entry) error {
	e.Version = e.Location.Slots.String()
	e.Location.Rows, e.Location.Size = 0, 0
	slots, err := slotsIn(ctx, merged)
	for _, s := range slots {
		for _, file := range s.Files {
			e.Location.Rows++
			e.Location.Size += file.Ref.Size
		}
	}
	return err
}

// sumTable rewrites a table after its slots were merged. A table in merge mode folds the other side's
// deltas onto the target; any other is the union of its fragments.
func (f *Flow) sumTable(ctx context.Context, merged prolly.Map, name string, e *lake.Entry, added []slot) error {
	table := name[strings.LastIndexByte(name, '.')+1:]
	fold := e.Location.Data[modeData] == string(manifest.Merge)
	parts := added
	if !fold {
		all, err := slotsIn(ctx, merged)
		if err != nil {
			return err
		}
		parts = sortedSlots(all)
	}
	blobs, sum, err := slotBlobs(table, parts)
	if err != nil || len(blobs) == 0 {
		return err
	}
	paths, err := f.paths(ctx, blobs)
	if err != nil {
		return err
	}
	slots, prov, data := e.Location.Slots, e.Location.Provenance, e.Location.Data
	next, err := f.withTableDir(ctx, name, e, fold, paths, func(w catalog.Written) (lake.Entry, error) {
		if !fold {
			return f.tables.Replace(ctx, name, e, w)
		}
		key, err := catalog.Key(*e)
		if err != nil {
			return lake.Entry{}, err
		}
		return f.tables.MergeByKey(ctx, name, *e, w, key)
	})
	if err != nil {
		return err
	}
	if !fold && next.Version != sum.String() {
		return errdef.Newf(errdef.DataLoss, "run.sum", "merging %s gave %s rows with another sum than its fragments have", name, humanize.Comma(next.Location.Rows))
	}
	*e = next
	e.Location.Slots, e.Location.Provenance, e.Location.Data = slots, prov, data
	return nil
}

// noColumns is the schema of a result that had no rows to take columns from.
var noColumns = catalog.Fingerprint(arrow.NewSchema(nil, nil))

// slotBlobs are the Arrow files of a table's fragments, and the sum of their rows.
func slotBlobs(table string, parts []slot) (blobs []string, sum dataver.Sum, err error) {
	for _, s := range parts {
		t := s.table(table)
		if t == nil {
			return nil, sum, errdef.Newf(errdef.Internal, "run.slots", "a fragment has no table %s", table)
		}
		if s.empty(table) {
			continue
		}
		blobs, sum = append(blobs, t.Blob), sum.Add(t.Sum)
	}
	return blobs, sum, nil
}
