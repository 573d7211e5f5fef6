package catalog

import (
	"context"
	"errors"
	"strconv"

	"github.com/apache/iceberg-go"
	"github.com/google/uuid"

	"tarn.dev/tarn/internal/catalog/datafile"
	"tarn.dev/tarn/internal/meta"
)

// Field ids come from one pool per table uuid, whatever the branch: two branches that gave one id to
// different columns would have these swapped by a merge, silently. A write takes a block before it
// knows its columns and hands back what it did not use, if nobody took the next block meanwhile.
const idBlock = 1000

// reserve takes a block of ids, none below atLeast.
func (c *Catalog) reserve(ctx context.Context, id uuid.UUID, atLeast int) (first, limit int, err error) {
	key := c.ids + id.String()
	for {
		next, cond, err := c.pool(ctx, key)
		if err != nil {
			return 0, 0, err
		}
		first = max(next, atLeast)
		_, err = c.rows.Txn(ctx, []meta.Condition{cond}, []meta.Write{meta.Set(key, []byte(strconv.Itoa(first+idBlock)))})
		if err == nil {
			return first, first + idBlock, nil
		}
		if !errors.Is(err, meta.ErrConditionFailed) {
			return 0, 0, err
		}
	}
}

// release hands back the end of the block that w was laid out with. It saves ids and nothing depends on
// it, so its errors are dropped.
func (c *Catalog) release(ctx context.Context, id uuid.UUID, w Written) {
	key := c.ids + id.String()
	next, cond, err := c.pool(ctx, key)
	if err == nil && w.Limit > 0 && next == w.Limit && w.Next <= w.Limit {
		_, _ = c.rows.Txn(ctx, []meta.Condition{cond}, []meta.Write{meta.Set(key, []byte(strconv.Itoa(w.Next)))})
	}
}

func (c *Catalog) pool(ctx context.Context, key string) (next int, unchanged meta.Condition, err error) {
	row, err := c.rows.Get(ctx, key)
	if errors.Is(err, meta.ErrNotFound) {
		return 1, meta.Absent(key), nil
	}
	if err != nil {
		return 0, meta.Condition{}, err
	}
	if next, err = strconv.Atoi(string(row.Value)); err != nil {
		return 0, meta.Condition{}, ErrCorrupt.Errorf("field-id pool %s holds %q", key, row.Value)
	}
	return next, meta.At(key, row.Version), nil
}

// idsOf turns an Iceberg schema into the tree of ids that data files are laid out by.
func idsOf(fields []iceberg.NestedField) []datafile.ID {
	out := make([]datafile.ID, len(fields))
	for i, f := range fields {
		out[i] = datafile.ID{Name: f.Name, ID: f.ID}
		switch t := f.Type.(type) {
		case *iceberg.StructType:
			out[i].Kids = idsOf(t.Fields())
		case *iceberg.ListType:
			out[i].Kids = idsOf([]iceberg.NestedField{t.ElementField()})
		case *iceberg.MapType:
			out[i].Kids = idsOf([]iceberg.NestedField{t.KeyField(), t.ValueField()})
		}
	}
	return out
}
