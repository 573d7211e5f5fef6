package pgmeta_test

import (
	"testing"

	"tarn.dev/tarn/internal/meta"
	"tarn.dev/tarn/internal/meta/metatest"
	"tarn.dev/tarn/internal/meta/pgmeta/pgtest"
)

// TestDamagedRow changes each byte of a row, one at a time, as the same test of sqlitemeta does.
func TestDamagedRow(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	s := open(t, url)
	defer func() { must(t, s.Close()) }()
	metatest.DamagedRow(t, s, func(set string) { pgtest.Exec(t, url, "UPDATE tarn.rows SET "+set) }, `'\x%x'::bytea`)
}

// Check also knows the rules that no row shows.
func TestCheckRules(t *testing.T) {
	t.Parallel()
	for name, damage := range map[string]string{
		"forgotten number": `UPDATE tarn.state SET value = 1 WHERE name = 'txn'`,
		"deletion":         `UPDATE tarn.gone SET version = 0`,
		"deleted later":    `INSERT INTO tarn.gone SELECT key, version FROM tarn.rows`,
	} {
		url := pgtest.Database(t)
		s := open(t, url)
		must2(s.Txn(t.Context(), nil, []meta.Write{meta.Set("a", nil), meta.Set("b", nil)}))
		must2(s.Txn(t.Context(), nil, []meta.Write{meta.Set("a", nil), meta.Delete("b")}))
		pgtest.Exec(t, url, damage)
		found := 0
		for d, err := range s.Check(t.Context()) {
			if err != nil || d.Key != "" {
				t.Errorf("%s: %v %v", name, d, err)
			}
			found++
		}
		if found == 0 {
			t.Errorf("%s: nothing is found", name)
		}
		must(t, s.Close())
	}
}

// TestVersion1: the rows of an older Tarn are taken over, and an older server that is still up cannot write.
func TestVersion1(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	s := open(t, url)
	must2(s.Txn(t.Context(), nil, []meta.Write{meta.Set("a", []byte("one")), meta.Set("b", nil)}))
	must(t, s.Close())
	pgtest.Exec(t, url, `ALTER TABLE tarn.rows DROP COLUMN sum`, `UPDATE tarn.state SET value = 1 WHERE name = 'format'`)
	s = open(t, url)
	if r, err := s.Get(t.Context(), "a"); err != nil || string(r.Value) != "one" || r.Version != 1 {
		t.Error(r, err)
	}
	for d, err := range s.Check(t.Context()) {
		t.Error(d, err)
	}
	for _, insert := range []string{
		`INSERT INTO tarn.rows SELECT * FROM unnest(ARRAY['\x61'::bytea, '\x63'::bytea], ARRAY['\x'::bytea, '\x'::bytea], ARRAY[9::bigint, 9::bigint])
			ON CONFLICT (key) DO UPDATE SET value = excluded.value, version = excluded.version`,
	} {
		pgtest.Exec(t, url, `DO $$ BEGIN `+insert+`; RAISE 'it was written'; EXCEPTION WHEN not_null_violation THEN END $$`)
	}
	must(t, s.Close())
}
