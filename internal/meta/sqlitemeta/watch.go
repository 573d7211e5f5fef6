package sqlitemeta

import (
	"context"
	"iter"
	"strings"

	"tarn.dev/tarn/internal/meta"
)

// selectChanges finds the newest state of every key that changed after one number and up to another.
// A deletion that was followed by a write is left to the write, which has a higher number.
const selectChanges = `
SELECT key, value, version, 0 FROM row
	WHERE version > ?1 AND version <= ?2 AND key >= ?3 AND (?4 IS NULL OR key < ?4)
UNION ALL
SELECT key, x'', version, 1 FROM gone
	WHERE version > ?1 AND version <= ?2 AND key >= ?3 AND (?4 IS NULL OR key < ?4)
	AND NOT EXISTS (SELECT 1 FROM row WHERE row.key = gone.key)
ORDER BY 3, 1`

// watcher is one Watch that waits for keys under prefix.
type watcher struct {
	prefix string
	signal chan struct{} // buffered: one pending wake-up is enough
}

// Watch implements meta.Store. "Now" is the call of Watch, not the first step of the iteration.
func (s *Store) Watch(ctx context.Context, prefix string, cursor int64) iter.Seq2[meta.Event, error] {
	if cursor < 0 {
		cursor = s.last.Load()
	}
	return func(yield func(meta.Event, error) bool) {
		w := &watcher{prefix, make(chan struct{}, 1)}
		s.mu.Lock()
		s.watchers[w] = struct{}{}
		s.mu.Unlock()
		defer func() {
			s.mu.Lock()
			delete(s.watchers, w)
			s.mu.Unlock()
		}()
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
			case <-w.signal:
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
		if err := rows.Scan(&key, &e.Value, &e.Version, &e.Deleted); err != nil {
			return nil, s.classify(err, "watch")
		}
		e.Key = string(key)
		if e.Deleted {
			e.Value = nil
		}
		events = append(events, e)
	}
	return events, s.classify(rows.Err(), "watch")
}

// wake tells every watcher that has a key of the batch under its prefix.
func (s *Store) wake(batch []*request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for w := range s.watchers {
		if concerns(batch, w.prefix) {
			select {
			case w.signal <- struct{}{}:
			default:
			}
		}
	}
}

func concerns(batch []*request, prefix string) bool {
	for _, r := range batch {
		if r.err != nil {
			continue
		}
		for _, wr := range r.writes {
			if strings.HasPrefix(wr.Key, prefix) {
				return true
			}
		}
	}
	return false
}
