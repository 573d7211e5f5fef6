package pgmeta

import (
	"github.com/jackc/pgx/v5"

	"tarn.dev/tarn/internal/meta"
	"tarn.dev/tarn/internal/meta/serial"
)

// view is what a batch needs to know of the database.
type view struct {
	last  int64   // the newest number
	mark  int64   // the last batch of this writer that was committed
	found []found // for each lookup
}

// found is the row of one lookup.
type found struct {
	there   bool
	version int64
	equal   bool // its value is the one that was looked for
}

func (v *view) read(rows pgx.Rows) error {
	var i int64
	f := found{there: true}
	_, err := pgx.ForEachRow(rows, []any{&i, &f.version, &f.equal}, func() error {
		v.found[i] = f
		return nil
	})
	return err
}

// lookups are the keys that a batch asks about, in the order in which evaluate asks: per request its
// conditions, then its deletions. Values are compared there, so that none comes back.
func lookups(batch []*serial.Request) (keys, values [][]byte) {
	for _, r := range batch {
		for _, c := range r.Conditions {
			var value []byte
			if c.Kind == meta.HasValue {
				value = nonNil(c.Value)
			}
			keys, values = append(keys, []byte(c.Key)), append(values, value)
		}
		for _, w := range r.Writes {
			if w.Delete {
				keys, values = append(keys, []byte(w.Key)), append(values, nil)
			}
		}
	}
	return keys, values
}

// plan is the outcome of a batch, and what is to be written for it.
type plan struct {
	last    int64
	numbers []int64
	errs    []error
	changes map[string]change
}

// change is the newest state of a key that the batch changed.
type change struct {
	meta.Row
	deleted bool
}

// evaluate runs the transactions of a batch one after the other, each on what those before it left.
func evaluate(batch []*serial.Request, v *view) *plan {
	p := &plan{last: v.last, changes: map[string]change{}}
	found := v.found
	for _, r := range batch {
		conditions := found[:len(r.Conditions)]
		found = found[len(r.Conditions):]
		err := p.check(r.Conditions, conditions)
		if err == nil && len(r.Writes) > 0 {
			p.last++
		}
		for _, w := range r.Writes {
			there := false
			if w.Delete {
				there, found = found[0].there, found[1:]
			}
			if err == nil {
				p.write(w, there)
			}
		}
		number := p.last
		if err != nil {
			number = 0
		}
		p.numbers, p.errs = append(p.numbers, number), append(p.errs, err)
	}
	return p
}

func (p *plan) check(conditions []meta.Condition, found []found) error {
	for i, c := range conditions {
		holds := found[i].meets(c)
		if ch, changed := p.changes[c.Key]; changed {
			row := &ch.Row
			if ch.deleted {
				row = nil
			}
			holds = c.Holds(row)
		}
		if !holds {
			return c.Failed()
		}
	}
	return nil
}

func (f found) meets(c meta.Condition) bool {
	switch c.Kind {
	case meta.IsAbsent:
		return !f.there
	case meta.IsPresent:
		return f.there
	case meta.AtVersion:
		return f.there && f.version == c.Version
	case meta.HasValue:
		return f.there && f.equal
	}
	return false
}

// write records one write; there says whether the database has a row of a key that is deleted.
func (p *plan) write(w meta.Write, there bool) {
	ch := change{Row: meta.Row{Key: w.Key, Value: nonNil(w.Value), Version: p.last}, deleted: w.Delete}
	if w.Delete {
		if before, changed := p.changes[w.Key]; changed {
			there = !before.deleted
		}
		if !there {
			return // nothing changed that a watcher could want
		}
	}
	p.changes[w.Key] = ch
}

// queue writes the changes.
func (p *plan) queue(b *pgx.Batch) {
	var keys, values, gone [][]byte
	var versions, sums, goneVersions []int64
	size := 0
	flush := func() {
		if len(keys) > 0 {
			b.Queue(`INSERT INTO tarn.rows SELECT * FROM unnest($1::bytea[], $2::bytea[], $3::bigint[], $4::bigint[])
				ON CONFLICT (key) DO UPDATE SET value = excluded.value, version = excluded.version, sum = excluded.sum`, keys, values, versions, sums)
		}
		keys, values, versions, sums, size = nil, nil, nil, nil, 0
	}
	for key, ch := range p.changes {
		if ch.deleted {
			gone, goneVersions = append(gone, []byte(key)), append(goneVersions, ch.Version)
			continue
		}
		if size > 0 && size+len(ch.Value) > maxStatement {
			flush()
		}
		keys, values, versions = append(keys, []byte(key)), append(values, ch.Value), append(versions, ch.Version)
		sums = append(sums, meta.Sum(ch.Row))
		size += len(ch.Value)
	}
	flush()
	if len(gone) > 0 {
		b.Queue(`DELETE FROM tarn.rows WHERE key = ANY($1::bytea[])`, gone)
		b.Queue(`INSERT INTO tarn.gone SELECT * FROM unnest($1::bytea[], $2::bigint[])
			ON CONFLICT (key) DO UPDATE SET version = excluded.version`, gone, goneVersions)
	}
}

func (p *plan) answer(batch []*serial.Request) {
	for i, r := range batch {
		r.Number, r.Err = p.numbers[i], p.errs[i]
	}
}

func nonNil(b []byte) []byte {
	if b == nil {
		return []byte{}
	}
	return b
}
