package pgmeta

import (
	"context"
	"iter"

	"tarn.dev/tarn/internal/meta"
)

// rules are queries that count rows against docs/formats/meta-postgres.md.
var rules = []struct{ says, query string }{
	{"rows have a number that was never given", `SELECT count(*) FROM tarn.rows, tarn.state WHERE name = 'txn' AND (version < 1 OR version > state.value)`},
	{"deletions have a number that was never given", `SELECT count(*) FROM tarn.gone, tarn.state WHERE name = 'txn' AND (version < 1 OR version > state.value)`},
	{"keys were deleted after they were last written, and yet are there", `SELECT count(*) FROM tarn.gone JOIN tarn.rows USING (key) WHERE gone.version >= rows.version`},
}

// Check implements meta.Store. The pages of the database are for Postgres to check (pg_amcheck, data
// checksums).
func (s *Store) Check(ctx context.Context) iter.Seq2[meta.Damage, error] {
	return func(yield func(meta.Damage, error) bool) {
		for _, r := range rules {
			var n int64
			err := s.patiently(ctx, "check metadata", func(ctx context.Context) error { return s.pool.QueryRow(ctx, r.query).Scan(&n) })
			if err != nil {
				yield(meta.Damage{}, err)
				return
			}
			if n > 0 && !yield(meta.Damage{Err: ErrCorrupt.Errorf("%s: %s: %d", s.where, r.says, n)}, nil) {
				return
			}
		}
		for row, err := range s.read(ctx, meta.Range{}) {
			if err != nil {
				yield(meta.Damage{}, err)
				return
			}
			if err := meta.Verify(row.Row, row.sum); err != nil && !yield(meta.Damage{Row: row.Row, Sum: row.sum, Err: err}, nil) {
				return
			}
		}
	}
}
