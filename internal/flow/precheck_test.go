package flow_test

import (
	"strings"
	"testing"
)

// A misspelt column of a table that is there fails the run before any step begins.
func TestMisspeltColumnRunsNothing(t *testing.T) {
	t.Parallel()
	p := newPlace(t, "numbers.sql", "SELECT range AS id FROM range(3)\n")
	p.succeeds("numbers:succeeded")
	p.write("other.sql", "SELECT 1 AS one\n", "wrong.sql", "SELECT idd FROM numbers\n")
	o := p.fails("query.statement")
	if !strings.Contains(o.Error.Message, "wrong.sql") || !strings.Contains(o.Error.Message, `"id"`) {
		t.Errorf("the message names neither the file nor the nearest column: %s", o.Error.Message)
	}
	if len(o.steps) != 0 {
		t.Errorf("steps ran: %s", o.states())
	}
	p.write("wrong.sql", "-- tarn: params = { day = 1 }\nSELECT i % 4 AS k, $day::INT AS day FROM range($day, $day + 2) t(i) -- end\n;\n")
	p.succeeds("numbers:cached other:succeeded wrong:succeeded")
}
