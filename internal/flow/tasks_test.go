package flow_test

import (
	"strings"
	"testing"

	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/flow"
)

// said are the lines that a run's steps printed, in no order that counts.
func (o outcome) said(line string) (n int) {
	for _, e := range o.events {
		if e.Type == "log" && e.Message == line {
			n++
		}
	}
	return n
}

// reader is a script that says when it runs.
func reader(table, out string) string {
	return "# tarn: inputs = { " + table + " = \"csv\" }, outputs = { " + out + " = \"csv\" }\necho " + out + " runs\ncat \"$TARN_IN_" +
		strings.ToUpper(table) + "\" > \"$TARN_OUT_" + strings.ToUpper(out) + "\"\n"
}

// What reads a table whose blocking check fails does not run; what stands beside it does, and publishes
// nothing. A condition and a function of a check do the same, and a warning stops nothing.
func TestNothingRunsOnWhatFailed(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, judged, function, text, kept string }{
		{"condition", withChecks("checks", knownSQL, "not_null(id)"), "", "not_null(id)", "checks.not_null_id"},
		{"function", knownSQL, "-- tarn: check = \"known\"\nSELECT * FROM known WHERE id IS NULL\n", "nulls", "checks.nulls"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			p := newPlace(t, "known.sql", c.judged, "child.sh", reader("known", "child"), "grandchild.sql", "SELECT * FROM child\n",
				"other.sql", "SELECT 1 AS one\n", "sibling.sh", reader("other", "sibling"))
			if c.function != "" {
				p.write("nulls.sql", c.function)
			}
			before := p.head()
			o := p.fails("check.failed")
			want := c.text + " failed on known: 1 of 3 rows. main is unchanged."
			if o.Error.Message != want || p.head() != before {
				t.Errorf("%q, want %q; main moved: %v", o.Error.Message, want, p.head() != before)
			}
			if o.said("child runs") != 0 || o.said("sibling runs") != 1 {
				t.Errorf("the child ran %d times, the sibling %d times", o.said("child runs"), o.said("sibling runs"))
			}
			for step, want := range map[string]struct {
				state flow.StepState
				why   string
			}{
				"known": {flow.StepSucceeded, ""}, "sibling": {flow.StepSucceeded, ""},
				"child": {flow.StepSkipped, c.text + " failed on known"}, "grandchild": {flow.StepSkipped, "child gave no result"},
			} {
				if st := o.steps[step]; st.State != want.state || want.why != "" && st.Why != want.why {
					t.Errorf("%s is %s: %s, want %s: %s", step, st.State, st.Why, want.state, want.why)
				}
			}
			if e, ok := p.entry("run/"+o.ID, c.kept); !ok || e.Location.Rows != 1 || len(o.Checks) != 1 || o.Checks[0].Kept != c.kept {
				t.Errorf("%s: %v, checks %+v", c.kept, ok, o.Checks)
			}
			if e, ok := p.entry("run/"+o.ID, "sibling"); !ok || e.Location.Rows != 1 {
				t.Errorf("sibling on run/%s: %v", o.ID, ok)
			}

			// A run that publishes nothing runs everything and shows the checks.
			r := p.request()
			r.Into = ""
			if o := p.run(r); o.State != flow.RunSucceeded || o.said("child runs") != 1 || len(o.Checks) != 1 || o.Checks[0].Passed {
				t.Errorf("without publishing: %s, %s, checks %+v", o.State, o.states(), o.Checks)
			}

			// As a warning it stops nothing.
			p.write("known.sql", strings.Replace(c.judged, "checks =", "warn =", 1))
			if c.function != "" {
				p.write("nulls.sql", strings.Replace(c.function, `"known"`, `"known", severity = "warn"`, 1))
			}
			if o := p.run(p.request()); o.State != flow.RunSucceeded || len(o.Checks) != 1 || o.Checks[0].Passed {
				t.Errorf("with a warning: %v %s, checks %+v", o.Error, o.states(), o.Checks)
			}

			// Made a check again it stops the publish, though the rows are as they were.
			p.write("known.sql", c.judged)
			if c.function != "" {
				p.write("nulls.sql", c.function)
			}
			p.fails("check.failed")
		})
	}
}

// A check that judges several tables waits until all of them are there; so does what reads its table. What
// the check judges by does not wait for it.
func TestCheckOfSeveralTables(t *testing.T) {
	t.Parallel()
	p := newPlace(t, "judged.sql", withChecks("checks", "SELECT 7 AS id\n", "references(id, later.id)", "references(id, made.id)"),
		"known.sql", knownSQL, "later.sql", "SELECT * FROM known\n", "child.sh", reader("judged", "child"), "made.sql", "SELECT id FROM judged\n")
	o := p.fails("check.failed")
	if want := "references(id, later.id) failed on judged: 1 of 1 rows. main is unchanged."; o.Error.Message != want {
		t.Errorf("%q, want %q", o.Error.Message, want)
	}
	if o.said("child runs") != 0 || o.steps["child"].Why != "references(id, later.id) failed on judged" {
		t.Errorf("child is %s: %s", o.steps["child"].State, o.steps["child"].Why)
	}
	p.write("judged.sql", withChecks("checks", "SELECT 1 AS id\n", "references(id, later.id)", "references(id, made.id)"))
	o = p.run(p.request())
	if o.State != flow.RunSucceeded || o.said("child runs") != 1 || len(o.Checks) != 2 {
		t.Errorf("%v %s, checks %+v", o.Error, o.states(), o.Checks)
	}
}

// A check that cannot be asked stops what comes after, and says the same as at a publish.
func TestNothingRunsOnWhatCannotBeAsked(t *testing.T) {
	t.Parallel()
	p := newPlace(t, "known.sql", withChecks("checks", knownSQL, "nope > 0"), "child.sh", reader("known", "child"))
	o := p.fails("check.syntax")
	if o.said("child runs") != 0 || !strings.Contains(errdef.As(o.Error).Message, "check nope > 0 of known") {
		t.Errorf("%v; the child ran %d times", o.Error, o.said("child runs"))
	}
}
