package pgmeta

import (
	"context"
	"iter"
	"time"

	"github.com/jackc/pgx/v5"

	"tarn.dev/tarn/internal/meta"
)

const (
	// lookEvery is how late a watcher is when notifications do not arrive.
	lookEvery = time.Second
	// manyKeys are more changes at once than are compared with what watchers wait for.
	manyKeys = 1000
)

// selectChanges finds the newest state of every key that changed after a number, with the newest number
// of the same snapshot. A deletion that was followed by a write is left to the write.
const selectChanges = `
SELECT (SELECT value FROM tarn.state WHERE name = 'txn'), (SELECT value FROM tarn.state WHERE name = 'horizon'),
	c.key, c.value, c.version, c.sum, c.deleted
FROM (SELECT) AS always LEFT JOIN (
	SELECT key, value, version, sum, false AS deleted FROM tarn.rows
		WHERE version > $1 AND key >= $2 AND ($3::bytea IS NULL OR key < $3)
	UNION ALL
	SELECT key, NULL, version, NULL, true FROM tarn.gone
		WHERE version > $1 AND key >= $2 AND ($3::bytea IS NULL OR key < $3)
		AND NOT EXISTS (SELECT FROM tarn.rows WHERE rows.key = gone.key)
) AS c ON true ORDER BY c.version, c.key`

// selectKeys finds which keys changed after a number, but not all of very many.
const selectKeys = `
SELECT (SELECT value FROM tarn.state WHERE name = 'txn'), c.key
FROM (SELECT) AS always LEFT JOIN (
	SELECT key FROM tarn.rows WHERE version > $1 UNION ALL SELECT key FROM tarn.gone WHERE version > $1 LIMIT $2
) AS c ON true`

// Watch implements meta.Store. "Now" is the call of Watch, not the first step of the iteration.
func (s *Store) Watch(ctx context.Context, prefix string, cursor int64) iter.Seq2[meta.Event, error] {
	var unknown error
	if cursor < 0 {
		cursor, unknown = s.newest(ctx)
	}
	return func(yield func(meta.Event, error) bool) {
		if unknown != nil {
			yield(meta.Event{}, unknown)
			return
		}
		w := s.watchers.Add(prefix) // before the first look, so that nothing falls between
		defer s.watchers.Remove(w)
		cursor := cursor // the sequence may be ranged over again
		for {
			events, newest, err := s.changes(ctx, prefix, cursor)
			if err != nil {
				yield(meta.Event{}, err)
				return
			}
			for _, e := range events {
				if err := s.usable(ctx); err != nil {
					yield(meta.Event{}, err)
					return
				}
				if !yield(e, nil) {
					return
				}
			}
			cursor = newest
			select {
			case <-w.Signal:
			case <-ctx.Done():
			case <-s.ending.Done():
			}
		}
	}
}

func (s *Store) newest(ctx context.Context) (n int64, err error) {
	err = s.patiently(ctx, "watch", func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, s.answer)
		defer cancel()
		return s.pool.QueryRow(ctx, `SELECT value FROM tarn.state WHERE name = 'txn'`).Scan(&n)
	})
	return n, err
}

func (s *Store) changes(ctx context.Context, prefix string, after int64) (events []meta.Event, newest int64, err error) {
	r := meta.Prefix(prefix)
	var end []byte
	if r.End != "" {
		end = []byte(r.End)
	}
	err = s.patiently(ctx, "watch", func(ctx context.Context) error {
		events = nil
		ctx, cancel := context.WithTimeout(ctx, s.answer)
		defer cancel()
		rows, err := s.pool.Query(ctx, selectChanges, after, []byte(r.Start), end)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var horizon int64
			var key, value []byte
			var version, sum *int64
			var deleted *bool
			if err := rows.Scan(&newest, &horizon, &key, &value, &version, &sum, &deleted); err != nil {
				return err
			}
			// Deletions matter to who has read rows before; who starts at 0 has not.
			if 0 < after && after < horizon {
				return meta.ErrCursorExpired.Errorf("changes after transaction %d are no longer known", after)
			}
			if version == nil {
				continue
			}
			e := meta.Event{Row: meta.Row{Key: string(key), Value: value, Version: *version}, Deleted: *deleted}
			if sum != nil {
				if err := meta.Verify(e.Row, *sum); err != nil {
					return err
				}
			}
			events = append(events, e)
		}
		return rows.Err()
	})
	return events, newest, err
}

// look asks the follower to look; it never blocks.
func (s *Store) look() {
	select {
	case s.changed <- struct{}{}:
	default:
	}
}

// follow wakes the watchers of what changed, until the store ends. What fails is tried again a second
// later.
func (s *Store) follow() {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		select {
		case <-s.changed:
		case <-tick.C:
		case <-s.ending.Done():
			return
		}
		ctx, cancel := context.WithTimeout(s.ending, s.answer)
		newest, keys, err := s.changedKeys(ctx)
		cancel()
		switch {
		case err != nil:
			continue
		case len(keys) > manyKeys || newest < s.last.Load():
			s.watchers.WakeAll()
		default:
			s.watchers.Wake(keys)
		}
		s.last.Store(newest)
	}
}

func (s *Store) changedKeys(ctx context.Context) (newest int64, keys []string, err error) {
	rows, err := s.pool.Query(ctx, selectKeys, s.last.Load(), manyKeys+1)
	if err != nil {
		return 0, nil, err
	}
	var key []byte
	_, err = pgx.ForEachRow(rows, []any{&newest, &key}, func() error {
		if key != nil {
			keys = append(keys, string(key))
		}
		return nil
	})
	return newest, keys, err
}

// listen tells the follower of every notification, until the store ends.
func (s *Store) listen(config *pgx.ConnConfig) {
	for s.ending.Err() == nil {
		conn, err := pgx.ConnectConfig(s.ending, config)
		if err == nil {
			_, err = conn.Exec(s.ending, `LISTEN tarn_meta`)
			for err == nil {
				s.look() // also after LISTEN: for what was committed before it
				_, err = conn.WaitForNotification(s.ending)
			}
			conn.Close(s.ending) //nolint:errcheck // nothing is open
		}
		select {
		case <-time.After(lookEvery):
		case <-s.ending.Done():
		}
	}
}
