package check

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func TestParse(t *testing.T) {
	t.Parallel()
	const window = `SELECT * FROM "t" QUALIFY count(*) OVER (PARTITION BY `
	for _, c := range []struct{ text, offender string }{
		{"unique(a)", window + `"a") > 1`},
		{" UNIQUE ( a ,\n\tb ) ", window + `"a", "b") > 1`},
		{`unique("a, b")`, window + `"a, b") > 1`},
		{`unique("a ""b""")`, window + `"a ""b""") > 1`},
		{`unique(ünïcode)`, window + `"ünïcode") > 1`},
		{"not_null(a)", `SELECT * FROM "t" WHERE "a" IS NULL`},
		{"not_null(a, b)", `SELECT * FROM "t" WHERE "a" IS NULL OR "b" IS NULL`},
		{"references(a, u.b)", `SELECT * FROM "t" WHERE "a" IS NOT NULL AND "a" NOT IN (SELECT "b" FROM "u" WHERE "b" IS NOT NULL)`},
		{`references("a", "my u"."my b")`, `SELECT * FROM "t" WHERE "a" IS NOT NULL AND "a" NOT IN (SELECT "my b" FROM "my u" WHERE "my b" IS NOT NULL)`},
		{"rows(1)", `SELECT count(*) AS rows FROM "t" HAVING count(*) < 1`},
		{"rows(1, 1_000)", `SELECT count(*) AS rows FROM "t" HAVING count(*) < 1 OR count(*) > 1000`},
		{"rows(, 5)", `SELECT count(*) AS rows FROM "t" HAVING count(*) > 5`},
		{"rows(5,)", `SELECT count(*) AS rows FROM "t" HAVING count(*) < 5`},
		{"fresh(a, '1 day')", `SELECT max("a") AS newest FROM "t" HAVING max("a") IS NULL OR max("a")::TIMESTAMPTZ < now() - INTERVAL '1 day'`},
		{"a > 0", `SELECT * FROM "t" WHERE (a > 0) IS NOT TRUE`},
		{"unique(a) AND not_null(b)", `SELECT * FROM "t" WHERE (unique(a) AND not_null(b)) IS NOT TRUE`},
		{"unknown(a)", `SELECT * FROM "t" WHERE (unknown(a)) IS NOT TRUE`},
		{"a IN ('x, y', ')')", `SELECT * FROM "t" WHERE (a IN ('x, y', ')')) IS NOT TRUE`},
		{"a = 'it''s'", `SELECT * FROM "t" WHERE (a = 'it''s') IS NOT TRUE`},
	} {
		got, err := Parse("t", c.text)
		if err != nil {
			t.Errorf("%s: %v", c.text, err)
			continue
		}
		if diff := cmp.Diff(c.offender, got.Offender); diff != "" {
			t.Errorf("%s: %s", c.text, diff)
		}
		if got.Text != c.text || got.Table != "t" || got.Count == "" {
			t.Errorf("%s: %+v", c.text, got)
		}
	}
	if c, err := Parse(`a"b`, "x"); err != nil || !strings.Contains(c.Offender, `FROM "a""b" WHERE`) {
		t.Errorf("%+v %v", c, err)
	}
	if c, err := Parse("t", "references(a, ns.u.b)"); err != nil || cmp.Diff([]string{"ns.u"}, c.Reads) != "" {
		t.Errorf("%+v %v", c, err)
	}
}

func TestParseRefuses(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"":                          "empty check",
		" \n":                       "empty check",
		"unique()":                  "name at least one column",
		"unique(a,)":                "column's name is empty",
		"unique(,a)":                "column's name is empty",
		`unique("")`:                "column's name is empty",
		"not_null( )":               "name at least one column",
		"not_null(a,,b)":            "column's name is empty",
		"references(a)":             "write references(column, table.column)",
		"references(a, b)":          "write references(column, table.column)",
		"references(a, b.)":         "write references(column, table.column)",
		"references(a, .b)":         "write references(column, table.column)",
		`references(a, b."")`:       "write references(column, table.column)",
		"references(, t.b)":         "write references(column, table.column)",
		"references(a, t.b, c)":     "write references(column, table.column)",
		"rows()":                    "write rows(min, max)",
		"rows(,)":                   "write rows(min, max)",
		"rows(1, 2, 3)":             "write rows(min, max)",
		"rows(many)":                `"many" is no number`,
		"rows(1e6)":                 `"1e6" is no number`,
		"rows(10 percent)":          `"10 percent" is no number`,
		"rows(-1)":                  `"-1" is no number`,
		"rows(1.5)":                 `"1.5" is no number`,
		"rows(9999999999999999999)": "is no number",
		"rows(5, 2)":                "at least 5 and at most 2",
		"fresh(a)":                  "write fresh(column, '1 day')",
		"fresh(a,)":                 "write fresh(column, '1 day')",
		"fresh(, '1 day')":          "write fresh(column, '1 day')",
		"a > 0) OR (b > 0":          "not closed",
		"(a > 0":                    "not closed",
		"a = 'x":                    "not closed",
		`unique("a)`:                "not closed",
	} {
		_, err := Parse("t", text)
		if !errors.Is(err, ErrSyntax) || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "t") {
			t.Errorf("%q: %v, want %s", text, err, want)
		}
	}
}

func TestVolatile(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]bool{
		"a < now()":                       true,
		"a < CURRENT_DATE":                true,
		"a < today()":                     true,
		"a < get_current_timestamp()":     true,
		"a < localtimestamp":              true,
		"a < current_localtimestamp()":    true,
		"a < current_time":                true,
		"age(a) < INTERVAL '1 day'":       true,
		"random() < 0.5":                  true,
		"a <> gen_random_uuid()::VARCHAR": true,
		"a <> uuidv7()::VARCHAR":          true,
		"fresh(a, '1 day')":               true,
		"known > 0":                       false,
		"a_random > 0":                    false,
		"average(b) > 0":                  false,
		"pages > 0":                       false,
		"unique(day)":                     false,
	} {
		if c, err := Parse("t", text); err != nil || c.Volatile != want {
			t.Errorf("%s: volatile %v, %v", text, c.Volatile, err)
		}
	}
}

func TestNameOf(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"unique(a, b)":            "unique_a_b",
		"not_null(A)":             "not_null_a",
		"  a  >  0  ":             "a_0",
		"0 < a":                   "check_0_a",
		"数 > 数":                   "check",
		"größe > 0":               "gr_e_0",
		"":                        "check",
		`"; DROP TABLE x; --`:     "drop_table_x",
		strings.Repeat("ab ", 40): strings.TrimRight(strings.Repeat("ab_", 20), "_"),
	} {
		if got := NameOf(text); got != want {
			t.Errorf("NameOf(%q) = %q, want %q", text, got, want)
		}
	}
}

// Whatever is typed: no panic, and a name that can be a table's.
func TestParseAnything(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.OneOf(rapid.String(), rapid.StringMatching(`(unique|not_null|rows|references|fresh)\([a-z0-9"',.() _-]*\)`)).Draw(t, "text")
		c, err := Parse("t", text)
		if err != nil && !errors.Is(err, ErrSyntax) {
			t.Fatalf("%v", err)
		}
		if err == nil && (c.Offender == "" || c.Count == "") {
			t.Fatalf("%+v", c)
		}
		if n := NameOf(text); n == "" || len(n) > 70 || strings.Trim(n, "abcdefghijklmnopqrstuvwxyz0123456789_") != "" {
			t.Fatalf("name %q", n)
		}
	})
}
