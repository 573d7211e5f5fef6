package engine

import (
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// TestClassifyAnything feeds the part of the analysis that is ours with pieces of SQL in any order: it
// must not panic, tokens must lie in the text in order, and the reading keeps every offset and line.
func TestClassifyAnything(t *testing.T) {
	t.Parallel()
	pieces := []string{
		"SELECT", "INSERT", "INTO", "UPDATE", "SET", "DELETE", "FROM", "MERGE", "USING", "ON", "CONFLICT", "CREATE", "OR", "REPLACE",
		"TABLE", "IF", "NOT", "EXISTS", "AS", "WITH", "NO", "DATA", "BY", "NAME", "RETURNING", "AT", "VALUES", "WHEN", "PIVOT",
		"t", "s.t", `"q""x"`, `"t@dev"`, "a", ".", ",", "(", ")", "[", "]", "=", "1", "1e5", "'x'", "E'\\''", "$$ ; $$", "$p", "$1", "?",
		";", "--c\n", "/* /* */ */", "'open", `"open`, "/* open", "$tag$ open", "\n", "\t", "ü", "\xff", "$", "@",
	}
	rapid.Check(t, func(t *rapid.T) {
		sql := strings.Join(rapid.SliceOfN(rapid.SampledFrom(pieces), 1, 14).Draw(t, "pieces"), rapid.SampledFrom([]string{" ", ""}).Draw(t, "between"))
		tokens := lex(sql)
		end := 0
		for _, token := range tokens {
			if token.start < end || token.end <= token.start || token.end > len(sql) {
				t.Fatalf("%q: token %+v behind offset %d", sql, token, end)
			}
			end = token.end
		}
		if len(tokens) == 0 {
			return
		}
		s := &statement{sql: sql, tokens: tokens, reading: []byte(sql)}
		if s.classify() != nil {
			return
		}
		if len(s.reading) != len(sql) || strings.Count(string(s.reading), "\n") != strings.Count(sql, "\n") {
			t.Fatalf("%q became %q", sql, s.reading)
		}
		if s.write != nil && s.kind != "create_table_as" && !strings.Contains(applyEdits(sql, s.edits), quote("__tarn_staged")) {
			t.Fatalf("%q writes its own target: %q", sql, applyEdits(sql, s.edits))
		}
	})
}
