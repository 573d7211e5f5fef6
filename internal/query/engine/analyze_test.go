package engine_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"

	"tarn.dev/tarn/internal/query"
)

// TestAnalyze runs testdata/analyze: a statement in, what it reads and writes out.
func TestAnalyze(t *testing.T) {
	t.Parallel()
	e := start(t, query.Options{})
	datadriven.RunTest(t, "testdata/analyze", func(t *testing.T, d *datadriven.TestData) string {
		name := ""
		d.MaybeScanArgs(t, "file", &name)
		a, err := e.Analyze(t.Context(), name, d.Input)
		if err != nil {
			return fmt.Sprintf("error: %v\n", err)
		}
		var b strings.Builder
		fmt.Fprintf(&b, "%s\n", a.Kind)
		for _, table := range a.Tables {
			fmt.Fprintf(&b, "reads %s, line %d\n", table.Name, table.Line)
		}
		if a.Write != nil {
			fmt.Fprintf(&b, "writes %s, %s", a.Write.Target, a.Write.Mode)
			if a.Write.OrReplace {
				b.WriteString(", or replace")
			}
			if a.Write.IfMissing {
				b.WriteString(", if missing")
			}
			b.WriteString("\n")
		}
		if len(a.Params) > 0 {
			fmt.Fprintf(&b, "params %s\n", strings.Join(a.Params, " "))
		}
		if a.SQL != d.Input {
			fmt.Fprintf(&b, "runs %s\n", strings.Join(strings.Fields(a.SQL), " "))
		}
		return b.String()
	})
}

// TestAnalyzeHuge has texts that are deep or long: an answer or an error, and the next one works.
func TestAnalyzeHuge(t *testing.T) {
	t.Parallel()
	e := start(t, query.Options{})
	for name, sql := range map[string]string{
		"deep":       "SELECT " + strings.Repeat("(", 100_000) + "1" + strings.Repeat(")", 100_000),
		"subqueries": strings.Repeat("SELECT * FROM (", 2_000) + "SELECT 1" + strings.Repeat(")", 2_000),
		"sum":        "SELECT 1" + strings.Repeat(" + 1", 50_000),
		"long":       "SELECT '" + strings.Repeat("x", 8<<20) + "'",
		"unions":     "FROM t" + strings.Repeat(" UNION ALL FROM t", 3_000),
		"columns":    "SELECT a" + strings.Repeat(", a", 50_000) + " FROM t",
	} {
		if a, err := e.Analyze(t.Context(), "", sql); err != nil {
			t.Logf("%s: %.200v", name, err)
		} else {
			t.Logf("%s: %d tables", name, len(a.Tables))
		}
		if a, err := e.Analyze(t.Context(), "", "FROM t -- "+name); err != nil || len(a.Tables) != 1 {
			t.Errorf("after %s: %v, %v", name, a, err)
		}
	}
}
