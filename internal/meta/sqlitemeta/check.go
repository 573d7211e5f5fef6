package sqlitemeta

import (
	"context"
	"errors"
	"iter"

	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/meta"
)

// rules are queries that count rows against docs/formats/meta.md.
var rules = []struct{ says, query string }{
	{"rows have a number that was never given", `SELECT count(*) FROM row, (SELECT value AS txn FROM state WHERE name = 'txn')
		WHERE version < 1 OR version > txn`},
	{"deletions have a number that was never given", `SELECT count(*) FROM gone, (SELECT value AS txn FROM state WHERE name = 'txn')
		WHERE version < 1 OR version > txn`},
	{
		"keys were deleted after they were last written, and yet are there",
		`SELECT count(*) FROM gone JOIN row USING (key) WHERE gone.version >= row.version`,
	},
	{
		"keys or values are not bytes, or keys are empty",
		`SELECT count(*) FROM row WHERE typeof(key) != 'blob' OR typeof(value) != 'blob' OR length(key) = 0`,
	},
}

// Check implements meta.Store. What the rows mean is checked by those who write them.
func (s *Store) Check(ctx context.Context) iter.Seq2[meta.Damage, error] {
	return func(yield func(meta.Damage, error) bool) {
		if err := s.usable(ctx); err != nil {
			yield(meta.Damage{}, err)
			return
		}
		sound, err := s.checkFile(ctx, yield)
		if err == nil && sound { // what queries find in a damaged file means nothing
			err = s.checkRules(ctx, yield)
		}
		if err == nil && sound {
			err = s.checkSums(ctx, yield)
		}
		switch err = s.classify(s.orClosed(err), "check metadata"); {
		case err == nil || errors.Is(err, errEnough):
		case errors.Is(err, ErrCorrupt): // so damaged that SQLite gives up
			yield(meta.Damage{Err: err}, nil)
		default:
			yield(meta.Damage{}, err)
		}
	}
}

// errEnough is of a consumer that wants no more.
var errEnough = errdef.New(errdef.Canceled, "meta.enough", "no more is wanted")

// checkFile asks SQLite whether its file is sound.
func (s *Store) checkFile(ctx context.Context, yield func(meta.Damage, error) bool) (sound bool, err error) {
	rows, err := s.readers.QueryContext(ctx, `PRAGMA integrity_check(100)`)
	if err != nil {
		return false, err
	}
	defer rows.Close() // read-only
	sound = true
	for rows.Next() {
		var says string
		if err := rows.Scan(&says); err != nil {
			return false, err
		}
		if says == "ok" {
			continue
		}
		sound = false
		if !yield(meta.Damage{Err: ErrCorrupt.Errorf("%s is damaged: %s", s.path, says)}, nil) {
			return false, errEnough
		}
	}
	return sound, rows.Err()
}

func (s *Store) checkRules(ctx context.Context, yield func(meta.Damage, error) bool) error {
	for _, r := range rules {
		var n int64
		if err := s.readers.QueryRowContext(ctx, r.query).Scan(&n); err != nil {
			return err
		}
		if n > 0 && !yield(meta.Damage{Err: ErrCorrupt.Errorf("%s: %s: %d", s.path, r.says, n)}, nil) {
			return errEnough
		}
	}
	return nil
}

func (s *Store) checkSums(ctx context.Context, yield func(meta.Damage, error) bool) error {
	rows, err := s.readers.QueryContext(ctx, `SELECT key, value, version, sum FROM row ORDER BY key`)
	if err != nil {
		return err
	}
	defer rows.Close() // read-only
	for rows.Next() {
		var d meta.Damage
		var key []byte
		if err := rows.Scan(&key, &d.Value, &d.Version, &d.Sum); err != nil {
			return err
		}
		d.Key = string(key)
		if d.Err = meta.Verify(d.Row, d.Sum); d.Err != nil && !yield(d, nil) {
			return errEnough
		}
	}
	return rows.Err()
}
