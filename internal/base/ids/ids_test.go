package ids_test

import (
	"testing"

	"tarn.dev/tarn/internal/base/ids"
)

func TestCall(t *testing.T) {
	t.Parallel()
	if id := ids.Call(); !ids.IsCall(id) || ids.IsRun(id) {
		t.Errorf("%s is no call", id)
	}
	for _, s := range []string{"", "c-", "c-short", ids.Run(12), ids.Call() + "x", "c-iiiiiiiiiiii"} {
		if ids.IsCall(s) {
			t.Errorf("%q is a call", s)
		}
	}
}

func TestRun(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for range 1000 {
		id := ids.Run(12)
		if !ids.IsRun(id) || len(id) != 14 || seen[id] {
			t.Fatalf("bad id %q", id)
		}
		seen[id] = true
	}
	if id := ids.Run(0); len(id) != 8 {
		t.Errorf("shortest id is %q", id)
	}
}

func TestIsRun(t *testing.T) {
	t.Parallel()
	for s, want := range map[string]bool{
		"r-7k2m9x": true, "r-7k2m9xz": true, "": false, "r-": false, "r-7k2m9": false, "r-7k2m9l": false,
		"R-7K2M9X": false, "7k2m9x": false, "r-7k2m9x/delays": false, "r-7k 2m9x": false,
	} {
		if ids.IsRun(s) != want {
			t.Errorf("IsRun(%q) is not %t", s, want)
		}
	}
}

func TestRequest(t *testing.T) {
	t.Parallel()
	if a, b := ids.Request(), ids.Request(); a == b || len(a) != 28 || ids.IsRun(a) {
		t.Errorf("%q, %q", a, b)
	}
}
