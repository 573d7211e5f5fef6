package catalog_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/google/go-cmp/cmp"

	"tarn.dev/tarn/internal/lake"
)

func (b *bench) diff(t *testing.T, before, after *lake.Entry) string {
	t.Helper()
	ctx := context.Background()
	d, err := b.DiffRows(ctx, "orders", before, after)
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for rec, err := range d.Batches(ctx) {
		if err != nil {
			t.Fatal(err)
		}
		for i := range int(rec.NumRows()) {
			var cells []string
			for _, c := range rec.Columns() {
				cells = append(cells, c.ValueStr(i))
			}
			lines = append(lines, strings.Join(cells, " "))
		}
	}
	slices.Sort(lines)
	return fmt.Sprintf("+%d -%d ~%d: %s", d.Added, d.Removed, d.Changed, strings.Join(lines, ", "))
}

func TestDiffRows(t *testing.T) {
	t.Parallel()
	b := setup(t)
	const start = `[{"id":1,"name":"a"},{"id":2,"name":"b"},{"id":2,"name":"b"}]`
	bag := b.create(t, start)
	more := b.append(t, bag, orders, `[{"id":3,"name":"c"}]`)
	replaced, err := b.Replace(context.Background(), "orders", &more, b.write(t, &more, false, rec(t, orders, `[{"id":3,"name":"c"},{"id":2,"name":"b"}]`)))
	if err != nil {
		t.Fatal(err)
	}
	keyed := b.create(t, `[{"id":1,"name":"a"},{"id":2,"name":"b"}]`, "id")
	changed := b.upsert(t, keyed, schemaOf("id", arrow.PrimitiveTypes.Int64, "name", arrow.BinaryTypes.String, "x", arrow.PrimitiveTypes.Int64),
		`[{"id":2,"name":"B","x":7},{"id":4}]`)
	for _, c := range []struct {
		name          string
		before, after *lake.Entry
		want          string
	}{
		{"the same", &bag, &bag, "+0 -0 ~0: "},
		{"appended", &bag, &more, "+1 -0 ~0: added 3 c"},
		{"back", &more, &bag, "+0 -1 ~0: removed 3 c"},
		{"replaced", &bag, &replaced, "+1 -2 ~0: added 3 c, removed 1 a, removed 2 b"},
		{"created", nil, &bag, "+3 -0 ~0: added 1 a, added 2 b, added 2 b"},
		{"deleted", &bag, nil, "+0 -3 ~0: removed 1 a, removed 2 b, removed 2 b"},
		{"by key", &keyed, &changed, "+1 -0 ~1: added 4 (null) (null), after 2 B 7, before 2 b (null)"},
		{"of two tables", &keyed, &bag, "+1 -0 ~0: added 2 b"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			if diff := cmp.Diff(c.want, b.diff(t, c.before, c.after)); diff != "" {
				t.Error(diff)
			}
		})
	}
}
