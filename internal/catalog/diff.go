package catalog

import (
	"context"
	"iter"
	"path"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/memory"
	"github.com/google/uuid"

	"tarn.dev/tarn/internal/catalog/datafile"
	"tarn.dev/tarn/internal/catalog/dataver"
	"tarn.dev/tarn/internal/lake"
)

// ChangeColumn is the first column of a row diff: added, removed, or, with a row key, before and after
// for a row whose key is on both sides.
const ChangeColumn = "change"

// RowDiff is the difference between the rows of two versions of a table. Only data files that the
// other version lacks were read.
type RowDiff struct {
	Added, Removed, Changed int64
	Schema                  *arrow.Schema // ChangeColumn, then the columns of both versions united by name

	emit func(ctx context.Context, yield func(arrow.RecordBatch) (bool, error)) error
}

// Batches yields the rows that differ. Each call reads them again.
func (d *RowDiff) Batches(ctx context.Context) iter.Seq2[arrow.RecordBatch, error] {
	return func(yield func(arrow.RecordBatch, error) bool) {
		err := d.emit(ctx, func(rec arrow.RecordBatch) (bool, error) { return yield(rec, nil), nil })
		if err != nil {
			yield(nil, err)
		}
	}
}

// diffSide is one version and the files that only it has.
type diffSide struct {
	reader
	files []string
}

// DiffRows compares the rows of before and after, either of which may be nil for a table that does not
// exist. Rows are matched by the row key that after declares; without one they are a bag.
func (c *Catalog) DiffRows(ctx context.Context, name string, before, after *lake.Entry) (*RowDiff, error) {
	sides, schema, err := c.diffSides(ctx, name, before, after)
	if err != nil {
		return nil, err
	}
	fields := append([]arrow.Field{{Name: ChangeColumn, Type: arrow.BinaryTypes.String}}, schema.Fields()...)
	d := &RowDiff{Schema: arrow.NewSchema(fields, nil)}
	if len(sides[0].key) > 0 {
		return d, c.diffByKey(ctx, name, d, sides)
	}
	return d, c.diffBags(ctx, d, sides)
}

func (c *Catalog) diffSides(ctx context.Context, name string, before, after *lake.Entry) (sides [2]diffSide, schema *arrow.Schema, err error) {
	var names [2]map[string]bool
	var ids [2]uuid.UUID
	for i, e := range []*lake.Entry{before, after} {
		names[i] = map[string]bool{}
		if e == nil {
			continue
		}
		if err := ours(name, *e); err != nil {
			return sides, nil, err
		}
		s, err := c.load(ctx, *e)
		if err != nil {
			return sides, nil, err
		}
		scan, err := c.Scan(ctx, *e)
		if err != nil {
			return sides, nil, err
		}
		for _, f := range scan.Files {
			names[i][path.Base(f.Name)] = true
			sides[i].files = append(sides[i].files, path.Base(f.Name))
		}
		key, err := Key(*e)
		if err != nil {
			return sides, nil, err
		}
		sides[i].reader, ids[i] = reader{c: c, uuid: s.uuid, ids: s.ids, key: key}, s.uuid
		switch {
		case schema == nil:
			schema = datafile.Plain(s.schema)
		default:
			if schema, err = datafile.Merge(name, schema, datafile.Plain(s.schema)); err != nil {
				return sides, nil, err
			}
			schema = datafile.Plain(schema)
		}
	}
	if schema == nil {
		return sides, nil, ErrNotTable.Errorf("%s exists on neither side", name)
	}
	key := sides[1].key
	if after == nil {
		key = sides[0].key
	}
	if len(key) > 0 {
		if err := checkKey(name, schema, key); err != nil {
			return sides, nil, err
		}
	}
	for i := range sides {
		sides[i].schema, sides[i].key = schema, key
		if ids[0] == ids[1] {
			other := names[1-i]
			var own []string
			for _, f := range sides[i].files {
				if !other[f] {
					own = append(own, f)
				}
			}
			sides[i].files = own
		}
	}
	return sides, schema, nil
}

// diffBags matches rows as a bag: equal rows cancel one by one.
func (c *Catalog) diffBags(ctx context.Context, d *RowDiff, sides [2]diffSide) error {
	more := map[dataver.Row]int64{} // how many more of a row before has than after
	for i, s := range sides {
		for _, f := range s.files {
			err := s.each(ctx, f, func(h hashed) error {
				for _, r := range h.rows {
					if i == 0 {
						more[r]++
					} else {
						more[r]--
					}
				}
				return nil
			})
			if err != nil {
				return err
			}
		}
	}
	for r, n := range more {
		switch {
		case n > 0:
			d.Removed += n
		case n < 0:
			d.Added -= n
		default:
			delete(more, r)
		}
	}
	d.emit = func(ctx context.Context, yield func(arrow.RecordBatch) (bool, error)) error {
		for i, s := range sides {
			left := map[dataver.Row]int64{}
			for r, n := range more {
				left[r] = n * int64(1-2*i)
			}
			label := []string{"removed", "added"}[i]
			ok, err := d.rows(ctx, s, yield, func(h hashed, j int) string {
				if left[h.rows[j]] <= 0 {
					return ""
				}
				left[h.rows[j]]--
				return label
			})
			if err != nil || !ok {
				return err
			}
		}
		return nil
	}
	return nil
}

// diffByKey matches rows by key.
func (c *Catalog) diffByKey(ctx context.Context, name string, d *RowDiff, sides [2]diffSide) error {
	var rows [2]rowsByKey
	for i, s := range sides {
		rows[i] = rowsByKey{}
		for _, f := range s.files {
			err := s.each(ctx, f, func(h hashed) error {
				for j, k := range h.keys {
					if _, twice := rows[i][k]; twice {
						return ErrKey.Errorf("%s: %s occurs twice; a row key must be unique", name, keyText(s.key, h.rec, j))
					}
					rows[i][k] = h.rows[j]
				}
				return nil
			})
			if err != nil {
				return err
			}
		}
	}
	for k, r := range rows[0] {
		if now, ok := rows[1][k]; !ok {
			d.Removed++
		} else if now != r {
			d.Changed++
		}
	}
	for k := range rows[1] {
		if _, ok := rows[0][k]; !ok {
			d.Added++
		}
	}
	d.emit = func(ctx context.Context, yield func(arrow.RecordBatch) (bool, error)) error {
		for i, s := range sides {
			alone, changed := []string{"removed", "added"}[i], []string{"before", "after"}[i]
			ok, err := d.rows(ctx, s, yield, func(h hashed, j int) string {
				switch other, both := rows[1-i][h.keys[j]]; {
				case !both:
					return alone
				case other != h.rows[j]:
					return changed
				}
				return ""
			})
			if err != nil || !ok {
				return err
			}
		}
		return nil
	}
	return nil
}

// rows yields the rows of a side that label names.
func (d *RowDiff) rows(ctx context.Context, s diffSide, yield func(arrow.RecordBatch) (bool, error), label func(h hashed, i int) string) (bool, error) {
	going := true
	for _, f := range s.files {
		err := s.each(ctx, f, func(h hashed) error {
			keep := make([]bool, h.rec.NumRows())
			labels := array.NewStringBuilder(memory.DefaultAllocator)
			for i := range keep {
				if text := label(h, i); text != "" {
					keep[i] = true
					labels.Append(text)
				}
			}
			if labels.Len() == 0 {
				return nil
			}
			rec, err := filtered(ctx, h.rec, keep)
			if err != nil {
				return err
			}
			cols := append([]arrow.Array{labels.NewArray()}, rec.Columns()...)
			if going, err = yield(array.NewRecordBatch(d.Schema, cols, rec.NumRows())); err == nil && !going {
				return errFound
			}
			return err
		})
		if !going {
			return false, nil
		}
		if err != nil {
			return false, err
		}
	}
	return true, nil
}
