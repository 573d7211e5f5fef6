package sqlitemeta

import (
	"context"
	"iter"

	"tarn.dev/tarn/internal/meta"
)

// selectChanges finds the newest state of every key that changed after one number and up to another.
// A deletion that was followed by a write is left to the write, which has a higher number.
const selectChanges = `
SELECT key, value, version, 0, sum FROM row
	WHERE version > ?1 AND version <= ?2 AND key >= ?3 AND (?4 IS NULL OR key < ?4)
UNION ALL
SELECT key, x'', version, 1, 0 FROM gone
	WHERE version > ?1 AND version <= ?2 AND key >= ?3 AND (?4 IS NULL OR key < ?4)
	AND NOT EXISTS (SELECT 1 FROM row WHERE row.key = gone.key)
ORDER BY 3, 1`

// Watch implements meta.Store. "Now" is the call of Watch, not the first step of the iteration.
func (s *Store) Watch(ctx context.Context, prefix string, cursor int64) iter.Seq2[meta.Event, error] {
	if cursor < 0 {
		cursor = s.last.Load()
	}
	return func(yield func(meta.Event, error) bool) {
		w := s.watchers.Add(prefix)
		defer s.watchers.Remove(w)
		cursor := cursor // the sequence may be ranged over again
		for {
			if err := s.usable(ctx); err != nil {
				yield(meta.Event{}, err)
				return
			}
			upTo := s.last.Load()
			events, err := s.changed(ctx, prefix, cursor, upTo)
			// Deletions matter to who has read rows before; who starts at 0 has not.
			if err == nil && 0 < cursor && cursor < s.horizon.Load() {
				err = meta.ErrCursorExpired.Errorf("changes after transaction %d are no longer known", cursor)
			}
			if err != nil {
				yield(meta.Event{}, err)
				return
			}
			for _, e := range events {
				if ctx.Err() != nil {
					yield(meta.Event{}, context.Cause(ctx))
					return
				}
				if !yield(e, nil) {
					return
				}
			}
			cursor = upTo
			select {
			case <-w.Signal:
			case <-ctx.Done():
			case <-s.ending.Done():
			}
		}
	}
}

func (s *Store) changed(ctx context.Context, prefix string, after, upTo int64) ([]meta.Event, error) {
	if upTo <= after {
		return nil, nil
	}
	r := meta.Prefix(prefix)
	var end any
	if r.End != "" {
		end = []byte(r.End)
	}
	rows, err := s.changes.QueryContext(context.WithoutCancel(ctx), after, upTo, []byte(r.Start), end)
	if err != nil {
		return nil, s.classify(s.orClosed(err), "watch")
	}
	defer rows.Close() // read-only
	var events []meta.Event
	for rows.Next() {
		var e meta.Event
		var key []byte
		var sum int64
		if err := rows.Scan(&key, &e.Value, &e.Version, &e.Deleted, &sum); err != nil {
			return nil, s.classify(err, "watch")
		}
		e.Key = string(key)
		if e.Deleted {
			e.Value = nil
		} else if err := meta.Verify(e.Row, sum); err != nil {
			return nil, err
		}
		events = append(events, e)
	}
	return events, s.classify(rows.Err(), "watch")
}
