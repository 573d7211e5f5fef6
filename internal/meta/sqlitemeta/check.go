package sqlitemeta

import (
	"context"
	"iter"
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

// Check reads the whole database and yields every violation of its own format, as a DataLoss error. It
// is the part of fsck that knows SQLite; what the rows mean is checked by those who write them.
func (s *Store) Check(ctx context.Context) iter.Seq[error] {
	return func(yield func(error) bool) {
		if err := s.usable(ctx); err != nil {
			yield(err)
			return
		}
		rows, err := s.readers.QueryContext(ctx, `PRAGMA integrity_check(100)`)
		if err != nil {
			yield(s.classify(err, "check metadata"))
			return
		}
		defer rows.Close() // read-only
		sound := true
		for rows.Next() {
			var says string
			if err := rows.Scan(&says); err != nil {
				yield(s.classify(err, "check metadata"))
				return
			}
			if says == "ok" {
				continue
			}
			sound = false
			if !yield(ErrCorrupt.Errorf("%s is damaged: %s", s.path, says)) {
				return
			}
		}
		if err := rows.Err(); err != nil {
			yield(s.classify(err, "check metadata"))
			return
		}
		if !sound {
			return // what queries find in a damaged file means nothing
		}
		for _, r := range rules {
			var n int64
			if err := s.readers.QueryRowContext(ctx, r.query).Scan(&n); err != nil {
				yield(s.classify(err, "check metadata"))
				return
			}
			if n > 0 && !yield(ErrCorrupt.Errorf("%s: %s: %d", s.path, r.says, n)) {
				return
			}
		}
	}
}
