package faulttest_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"tarn.dev/tarn/internal/base/fault/faulttest"
)

func TestPointsOfThisProgramAreUnique(t *testing.T) {
	t.Parallel()
	if _, err := faulttest.Names("../../.."); err != nil {
		t.Error(err)
	}
}

func TestNames(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, source, wantErr string
		want                  []string
	}{
		{"sorted", `func f() { fault.Point("b.two"); if err := fault.Point("a.one"); err != nil {} ; geo.Point("x.y") }`, "", []string{"a.one", "b.two"}},
		{"twice", `func f() { fault.Point("a.one"); fault.Point("a.one") }`, `"a.one" is also at`, nil},
		{"variable", `func f(s string) { fault.Point(s) }`, "literal", nil},
		{"one word", `func f() { fault.Point("commit") }`, "literal", nil},
		{"broken", `func f( {`, "expected", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, "x.go"), []byte("package x\n"+c.source), 0o600); err != nil {
				t.Fatal(err)
			}
			got, err := faulttest.Names(dir)
			if (err != nil) != (c.wantErr != "") || err != nil && !strings.Contains(err.Error(), c.wantErr) {
				t.Fatalf("error %v, want %q", err, c.wantErr)
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}
