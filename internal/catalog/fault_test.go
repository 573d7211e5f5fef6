//go:build fault

package catalog_test

import (
	"context"
	"strings"
	"testing"

	"tarn.dev/tarn/internal/base/fault"
	"tarn.dev/tarn/internal/base/fault/faulttest"
	"tarn.dev/tarn/internal/lake"
	"tarn.dev/tarn/internal/lake/laketest"
)

// TestFaultsLeaveNoTrace fails an append once at each point of this package: the branch stays as it
// was, and the same write then lands once.
func TestFaultsLeaveNoTrace(t *testing.T) {
	points, err := faulttest.Names(".")
	if err != nil {
		t.Fatal(err)
	}
	if len(points) < 5 {
		t.Fatalf("points: %v", points)
	}
	b := setup(t)
	l := laketest.OpenOn(t, b.blobs, b.meta, lake.Options{})
	ctx, info := context.Background(), lake.CommitInfo{Author: "test", Message: "append"}
	if err := b.update(ctx, l, info, b.write(t, nil, false, rec(t, orders, `[{"id":0}]`))); err != nil {
		t.Fatal(err)
	}
	for i, p := range points {
		before := head(t, l)
		w := b.write(t, &before, true, rec(t, orders, `[{"id":7}]`))
		if err := fault.Set(p, "1*error(broken)"); err != nil {
			t.Fatal(err)
		}
		if err := b.update(ctx, l, info, w); err == nil || !strings.Contains(err.Error(), "broken") {
			t.Errorf("%s: the append ended with %v", p, err)
		}
		if now := head(t, l); now.Location.Table != before.Location.Table {
			t.Errorf("%s: the table moved", p)
		}
		b.contents(t, before)
		if err := b.update(ctx, l, info, w); err != nil {
			t.Errorf("%s: again: %v", p, err)
		}
		if got := len(b.contents(t, head(t, l))); got != i+2 {
			t.Errorf("%s: %d rows, expected %d", p, got, i+2)
		}
	}
}
