package flow_test

import (
	"strings"
	"testing"
)

// A misspelt column fails the run before any step begins, also of a table that no step has made yet.
func TestMisspeltColumnRunsNothing(t *testing.T) {
	t.Parallel()
	const python = "import tarn\nfrom typing import Annotated\nimport pyarrow as pa\n\n\n@tarn.asset\ndef late(\n    second: Annotated[pa.Table, tarn.table(%)],\n) -> list[dict]:\n    return []\n"
	for _, c := range []struct {
		name, file, text, reason, want string
	}{
		{"query", "third.sql", "SELECT\n  idd FROM second", "run.unknown_column", "third reads the column 'idd' of second (third.sql:2). Did you mean id? Columns: id, s, twice."},
		{"alias", "third.sql", "SELECT x.twic FROM second AS x", "run.unknown_column", "third reads the column 'twic' of second (third.sql:1). Did you mean twice? Columns: id, s, twice."},
		{
			"two tables", "third.sql", "SELECT nam FROM first JOIN second USING (id)", "run.unknown_column",
			"third reads the column 'nam' (third.sql:1), which is not there. Did you mean name? Columns of first: id, name. Columns of second: id, s, twice.",
		},
		{
			"what the query makes", "third.sql", "WITH c AS (SELECT id AS number FROM second) SELECT numbr FROM c", "run.unknown_column",
			"third reads the column 'numbr' (third.sql:1), which is not there. Did you mean number? Columns of second: id, s, twice.",
		},
		{"no table", "third.sql", "SELECT nothing", "run.unknown_column", "third reads the column 'nothing' (third.sql:1), which is not there."},
		{"field", "third.sql", "SELECT s.aa FROM second", "query.statement", "third.sql:1: Binder Error"},
		{"function", "third.sql", "-- one\n-- two\nSELECT coutn(*) FROM second", "query.statement", `third.sql:3: Catalog Error: Scalar Function with name coutn does not exist!` + "\n" + `Did you mean "count"?`},
		{"columns of Python", "late.py", strings.ReplaceAll(python, "%", `columns=["idd"]`), "run.unknown_column", "late reads the column 'idd' of second (late.py:8). Did you mean id? Columns: id, s, twice."},
		{"rows of Python", "late.py", strings.ReplaceAll(python, "%", `where="twic > 1"`), "run.unknown_column", "late reads the column 'twic' of second (late.py:8). Did you mean twice? Columns: id, s, twice."},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			p := newPlace(
				t, "first.sql", "SELECT range AS id, 'n' AS name FROM range(3)\n",
				"second.sql", "SELECT id, {'a': id} AS s, 2 * id AS twice FROM first\n", c.file, c.text,
			)
			o := p.fails(c.reason)
			if !strings.HasPrefix(o.Error.Message, c.want) {
				t.Errorf("it says %s\nwant %s", o.Error.Message, c.want)
			}
			if len(o.steps) != 0 {
				t.Errorf("steps ran: %s", o.states())
			}
		})
	}
}

// What is not surely wrong runs.
func TestWhatBindsRuns(t *testing.T) {
	t.Parallel()
	p := newPlace(
		t, "a.sql", "-- tarn: params = { from = 1 }\nSELECT range + $from AS id, {'x': range, 'y': 'n'} AS s, [range] AS l, 'txt' AS t, uuid() AS u, interval 1 day AS i, "+
			"12345678901234567890::HUGEINT AS h, NULL AS n, '{\"k\": 1}'::JSON AS j, 'b'::ENUM('a', 'b') AS e, DATE '2024-01-01' AS d, 1.5::DECIMAL(9, 2) AS m FROM range(3)\n",
		"b.sql", "SELECT * EXCLUDE (l), x.s.x AS sx, l[1] AS first FROM a AS x -- end\n;\n",
		"c.sql", "WITH c AS (SELECT id, sx FROM b) SELECT one.id, two.sx, m + 1 AS m FROM c AS one JOIN c AS two USING (id) JOIN a AS base ON base.id = two.id\n",
		"d.sql", "SELECT upper(t) AS t, j->>'k' AS k, d + i AS later, h + 1 AS h, year(d) AS y, e = 'a' AS is_a, coalesce(n, 4) AS n, s.y AS sy FROM b\n",
		"e.sql", "-- tarn: params = { most = 2 }\nSELECT i FROM range(1, $most + 1) r(i) WHERE i <= $most LIMIT $most\n",
		"f.sql", "-- tarn: mode = \"append\"\nSELECT max(id) AS id FROM c\n",
		"g.sql", "SELECT CASE WHEN i > 99 THEN error('never') ELSE 1 END AS one, 'x' || i AS t FROM e\n",
		"h.sql", "SELECT * FROM f LIMIT 1\n",
	)
	p.succeeds("a:succeeded b:succeeded c:succeeded d:succeeded e:succeeded f:succeeded g:succeeded h:succeeded")
	p.succeeds("a:cached b:cached c:cached d:cached e:cached f:cached g:cached h:cached")
}

// A result that is kept from elsewhere counts, not the older table that this branch has.
func TestBindsToWhatIsKept(t *testing.T) {
	t.Parallel()
	const before, after = "SELECT 1 AS id\n", "SELECT 1 AS number\n"
	p := newPlace(t, "a.sql", before)
	p.succeeds("a:succeeded")
	p.write("a.sql", after)
	p.succeeds("a:succeeded")
	p.write("a.sql", before)
	p.succeeds("a:cached")
	p.write("a.sql", after, "b.sql", "SELECT number FROM a\n", "c.sql", "SELECT 1 AS one\n")
	p.succeeds("a:cached b:succeeded c:succeeded")
	p.write("b.sql", "SELECT id FROM a\n", "c.sql", "SELECT 2 AS one\n")
	if o := p.fails("run.unknown_column"); len(o.steps) != 0 {
		t.Errorf("steps ran: %s", o.states())
	}
}
