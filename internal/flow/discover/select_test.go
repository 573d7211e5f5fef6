package discover

import "testing"

func TestStartsSelect(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]bool{
		"SELECT 1":                            true,
		"  \n-- note\n/* more\n */ with x as": true,
		"FROM t":                              true,
		"(select 1)":                          true,
		"CREATE TABLE x (a int)":              false,
		"-- only a comment":                   false,
		"/* never closed":                     false,
		"":                                    false,
		"insert into t select 1":              false,
	} {
		if got := startsSelect([]byte(text)); got != want {
			t.Errorf("%q: %v, want %v", text, got, want)
		}
	}
}
