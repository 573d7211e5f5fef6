package flow_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"tarn.dev/tarn/internal/flow"
)

const (
	judgedSQL = `SELECT * FROM (VALUES
  (1, 'a', 1, 'x, y', TIMESTAMP '2000-01-01'), (2, 'a', 2, 'it''s', TIMESTAMP '2000-01-02'),
  (2, 'b', 3, NULL, TIMESTAMP '2000-01-03'), (NULL, 'b', 9, 'z', NULL)
) AS v(id, kind, ref, "the note", seen)
`
	knownSQL = "SELECT * FROM (VALUES (1), (2), (NULL)) AS v(id)\n"
)

// withChecks is a query with a header; how is "checks" or "warn".
func withChecks(how, sql string, checks ...string) string {
	b, err := json.Marshal(checks)
	if err != nil {
		panic(err) // strings
	}
	text := strings.NewReplacer(`\u003c`, "<", `\u003e`, ">", `\u0026`, "&").Replace(string(b))
	return fmt.Sprintf("-- tarn: %s = %s\n%s", how, text, sql)
}

func TestEveryFormOfCheck(t *testing.T) {
	t.Parallel()
	offenders := map[string]int64{ // of four rows; 0 passes
		"unique(id)":                                2,
		"UNIQUE(kind)":                              4,
		"unique(kind, id)":                          0,
		"not_null(id)":                              1,
		"not_null(kind)":                            0,
		`not_null(id, "the note")`:                  2,
		"references(ref, known.id)":                 2,
		`references("ref", "known"."id")`:           2,
		"references(id, known.id)":                  0, // null refers to nothing
		"rows(4)":                                   0,
		"rows(5)":                                   1,
		"rows(, 3)":                                 1,
		"rows(1, 1_000)":                            0,
		"rows(0, 4)":                                0,
		"fresh(seen, '1 day')":                      1,
		"fresh(seen, '1000 years')":                 0,
		`"the note" <> 'z'`:                         2, // null does not hold
		`"the note" IS NULL OR "the note" <> 'z'`:   1,
		`"the note" IN ('x, y', 'it''s', ')', 'z')`: 1,
		"id IS NULL OR id BETWEEN 1 AND 2":          0,
		"id IN (SELECT id FROM known)":              1,
		"kind = 'c'":                                4,
		"kind = 'C'":                                4, // the same name as the one before
		"length(kind) = 1 AND\n ref > 0":            0,
	}
	var texts []string
	for text := range offenders {
		texts = append(texts, text)
	}
	p := newPlace(t, "judged.sql", withChecks("warn", judgedSQL, texts...), "known.sql", knownSQL,
		"by_file.sql", "-- tarn: check = \"judged\", severity = \"warn\"\nSELECT * FROM judged WHERE ref > 2\n",
		"by_file_ok.sql", "-- tarn: check = \"judged\"\nSELECT * FROM judged WHERE ref > 20\n")
	offenders["by_file"], offenders["by_file_ok"] = 2, 0
	o := p.run(p.request())
	if o.State != flow.RunSucceeded {
		t.Fatalf("run %s: %v %s", o.State, o.Error, o.states())
	}
	if len(o.Checks) != len(offenders) {
		t.Errorf("%d checks, want %d", len(o.Checks), len(offenders))
	}
	kept := map[string]bool{}
	for _, c := range o.Checks {
		want, ok := offenders[c.Check]
		if !ok || c.Table != "judged" || c.Passed != (want == 0) || c.Offenders != want || c.Rows != 4 {
			t.Errorf("%+v, want %d offenders", c, want)
		}
		if c.Passed {
			if c.Kept != "" {
				t.Errorf("%s passed and keeps %s", c.Check, c.Kept)
			}
			continue
		}
		if kept[c.Kept] || !strings.HasPrefix(c.Kept, "checks.") {
			t.Errorf("%s keeps its offenders in %q", c.Check, c.Kept)
		}
		kept[c.Kept] = true
		if e, ok := p.entry("run/"+o.ID, c.Kept); !ok || e.Location.Rows != want {
			t.Errorf("%s: %s on run/%s: %v, %d rows, want %d", c.Check, c.Kept, o.ID, ok, e.Location.Rows, want)
		}
		if _, ok := p.entry("main", c.Kept); ok {
			t.Errorf("%s is on main", c.Kept)
		}
	}
}

func TestCheckThatCannotRunPublishesNothing(t *testing.T) {
	t.Parallel()
	p := newPlace(t, "judged.sql", judgedSQL, "known.sql", knownSQL)
	o := p.run(p.request())
	if o.State != flow.RunSucceeded {
		t.Fatal(o.Error)
	}
	before := p.head()
	for _, c := range []struct{ check, reason, want string }{
		{"unique(nope)", "check.syntax", `"nope"`},
		{"not_null(id, nope)", "check.syntax", `"nope"`},
		{"references(nope, known.id)", "check.syntax", `"nope"`},
		{"references(ref, known.nope)", "check.syntax", `"nope"`},
		{"references(ref, nowhere.id)", "graph.unknown_input", "nowhere, which is not there"},
		{"fresh(nope, '1 day')", "check.syntax", `"nope"`},
		{"fresh(seen, 'soon')", "check.syntax", "soon"},
		{"fresh(kind, '1 day')", "check.syntax", "a"},
		{"nope > 0", "check.syntax", `"nope"`},
		{"id >", "check.syntax", "syntax error"},
		{"id > 0; SELECT 1", "check.syntax", "exactly one statement"},
		{"kind > 0 AND id IN (SELECT id FROM nowhere)", "graph.unknown_input", "nowhere, which is not there"},
		{"rows(1e6)", "check.syntax", "1e6"},
	} {
		for _, how := range []string{"checks", "warn"} {
			// Other rows, so that there is something to publish.
			p.write("judged.sql", withChecks(how, judgedSQL+" WHERE kind <> '"+how+c.check[:1]+"' OR TRUE LIMIT 3\n", c.check))
			run, _, err := p.Start(t.Context(), p.request())
			if err == nil {
				o := p.wait(run.ID)
				if o.Error == nil {
					t.Errorf("%s %s: %s %+v", how, c.check, o.State, o.Checks)
					continue
				}
				err = o.Error
				if o.Error.Reason != c.reason {
					t.Errorf("%s %s: reason %s, want %s", how, c.check, o.Error.Reason, c.reason)
				}
			}
			if !strings.Contains(err.Error(), "check "+c.check+" of judged") || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%s %s: %v", how, c.check, err)
			}
			if p.head() != before {
				t.Fatalf("%s %s: main moved", how, c.check)
			}
		}
	}
}

// A condition judges by every table it reads: a change of another one is a new question.
func TestConditionReadsAnotherTable(t *testing.T) {
	t.Parallel()
	p := newPlace(t, "judged.sql", withChecks("checks", "SELECT 1 AS id\n", "id IN (SELECT id FROM known)"), "known.sql", knownSQL)
	p.succeeds("judged:succeeded known:succeeded")
	before := p.head()
	p.write("known.sql", "SELECT 7 AS id\n")
	p.fails("check.failed")
	if p.head() != before {
		t.Error("main moved")
	}
}

func TestQueryBehindAByteOrderMark(t *testing.T) {
	t.Parallel()
	p := newPlace(t, "marked.sql", "\ufeff-- tarn: checks = [\"rows(1, 1)\"]\r\nSELECT 1 AS id\r\n")
	o := p.succeeds("marked:succeeded")
	if len(o.Checks) != 1 || !o.Checks[0].Passed {
		t.Errorf("checks %+v", o.Checks)
	}
}
