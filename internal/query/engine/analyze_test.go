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
