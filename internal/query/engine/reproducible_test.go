package engine

import "testing"

func TestShowsOrder(t *testing.T) {
	t.Parallel()
	db, err := open()
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	types := map[string][]string{"i": {"BIGINT"}, "d": {"DECIMAL(10,2)"}, "x": {"DOUBLE"}, "mixed": {"BIGINT", "DOUBLE"}}
	for sql, want := range map[string]bool{
		"SELECT i FROM t": false,
		"SELECT count(*), min(x), max(x) FROM t GROUP BY i":               false,
		"SELECT sum(i), avg(i), sum(i + 1), sum(-d * 2) FROM t":           false,
		"SELECT sum(i) FILTER (WHERE i > 3) FROM t":                       false,
		"SELECT rank() OVER (ORDER BY x) FROM t":                          false,
		"SELECT sum(x) FROM t":                                            true,
		"SELECT AVG(x) FROM t":                                            true,
		"SELECT sum(i / 2) FROM t":                                        true,
		"SELECT sum(sqrt(i)) FROM t":                                      true,
		"SELECT sum(i * 1e3) FROM t":                                      true,
		"SELECT sum(i::DOUBLE) FROM t":                                    true,
		"SELECT sum(CASE WHEN i > 1 THEN x END) FROM t":                   true,
		"SELECT sum(mixed) FROM t":                                        true,
		"WITH c AS (SELECT x AS hidden FROM t) SELECT sum(hidden) FROM c": true,
		"SELECT * FROM (SELECT i, sum(x) AS s FROM t GROUP BY i)":         true,
		"SELECT i FROM t LIMIT 3":                                         true,
		"SELECT i, count(*) FROM t GROUP BY i ORDER BY 2 LIMIT 3":         true,
		"SELECT list(i) FROM t":                                           true,
		"SELECT string_agg(i::VARCHAR, ',') FROM t":                       true,
		"SELECT any_value(i) FROM t":                                      true,
		"SELECT stddev(i) FROM t":                                         true,
		"SELECT random() FROM t":                                          true,
		"SELECT sum(x) OVER (ORDER BY i) FROM t":                          true,
		"SELECT i FROM t QUALIFY row_number() OVER (PARTITION BY i) = 1":  true,
		"SELECT DISTINCT ON (i) i, x FROM t":                              true,
		"SELECT DISTINCT i FROM t":                                        false,
		"SELECT i FROM t USING SAMPLE 10%":                                true,
	} {
		s := &statement{sql: sql, tokens: lex(sql), reading: []byte(sql)}
		tree, err := s.parse(db)
		if err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
		if got := showsOrder(tree, types); got != want {
			t.Errorf("%s: shows order %v, want %v", sql, got, want)
		}
	}
}
