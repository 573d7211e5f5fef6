package catalog_test

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"tarn.dev/tarn/internal/catalog"
	"tarn.dev/tarn/internal/lake"
)

var orders = schemaOf("id", arrow.PrimitiveTypes.Int64, "name", arrow.BinaryTypes.String)

// contents are the rows of e as JSON lines, sorted; on the way the data version is checked, which
// every operation computed from sums alone.
func (b *bench) contents(t testing.TB, e lake.Entry) []string {
	t.Helper()
	var lines []string
	var recs []arrow.RecordBatch
	for r, err := range b.Rows(context.Background(), e) {
		if err != nil {
			t.Fatal(err)
		}
		recs = append(recs, r)
		text, err := r.MarshalJSON()
		if err != nil {
			t.Fatal(err)
		}
		var rows []map[string]any
		if err := json.Unmarshal(text, &rows); err != nil {
			t.Fatal(err)
		}
		for _, row := range rows {
			maps.DeleteFunc(row, func(_ string, v any) bool { return v == nil })
			line, err := json.Marshal(row)
			if err != nil {
				t.Fatal(err)
			}
			lines = append(lines, string(line))
		}
	}
	if got := sumOf(t, recs...).String(); got != e.Version {
		t.Errorf("rows have version %s, the entry says %s", got, e.Version)
	}
	if int(e.Location.Rows) != len(lines) {
		t.Errorf("the entry says %d rows, there are %d", e.Location.Rows, len(lines))
	}
	slices.Sort(lines)
	return lines
}

func (b *bench) create(t testing.TB, js string, key ...string) lake.Entry {
	t.Helper()
	var props map[string]string
	if len(key) > 0 {
		props = map[string]string{catalog.KeyProperty: catalog.EncodeKey(key...)}
	}
	e, err := b.Create(context.Background(), "orders", b.write(t, nil, false, rec(t, orders, js)), props)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func (b *bench) append(t testing.TB, e lake.Entry, sc *arrow.Schema, js string) lake.Entry {
	t.Helper()
	out, err := b.Append(context.Background(), "orders", e, b.write(t, &e, true, rec(t, sc, js)))
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func (b *bench) upsert(t testing.TB, e lake.Entry, sc *arrow.Schema, js string) lake.Entry {
	t.Helper()
	out, err := b.MergeByKey(context.Background(), "orders", e, b.write(t, &e, true, rec(t, sc, js)), []string{"id"})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func (b *bench) merge(t testing.TB, base, source, target lake.Entry) (lake.Entry, *lake.Conflict) {
	t.Helper()
	e, c, err := catalog.Resolver{Catalog: b.Catalog}.Resolve(context.Background(), nil, lake.TableKey("default", "orders"), &base, &source, &target)
	if err != nil {
		t.Fatal(err)
	}
	if c != nil {
		return lake.Entry{}, c
	}
	return *e, nil
}

func TestMergeByKeyReplacesRows(t *testing.T) {
	t.Parallel()
	b := setup(t)
	e := b.create(t, `[{"id":1,"name":"a"},{"id":2,"name":"b"}]`)
	e = b.append(t, e, orders, `[{"id":3,"name":"c"}]`)
	e = b.upsert(t, e, orders, `[{"id":2,"name":"B"},{"id":4,"name":"d"}]`)
	want := []string{`{"id":1,"name":"a"}`, `{"id":2,"name":"B"}`, `{"id":3,"name":"c"}`, `{"id":4,"name":"d"}`}
	if diff := cmp.Diff(want, b.contents(t, e)); diff != "" {
		t.Error(diff)
	}
	if e.Properties[catalog.KeyProperty] != `["id"]` {
		t.Errorf("key is %q", e.Properties[catalog.KeyProperty])
	}
	_, err := b.MergeByKey(context.Background(), "orders", e, b.write(t, &e, true, rec(t, orders, `[{"id":9},{"id":9}]`)), []string{"id"})
	if err == nil || err.Error() != "orders: id = 9 occurs twice in the new rows" {
		t.Errorf("two new rows of one key: %v", err)
	}
}

func TestMergeTables(t *testing.T) {
	t.Parallel()
	const start = `[{"id":1,"name":"a"},{"id":2,"name":"b"},{"id":3,"name":"c"}]`
	wide := schemaOf("id", arrow.PrimitiveTypes.Int64, "x", arrow.PrimitiveTypes.Float64)
	other := schemaOf("id", arrow.PrimitiveTypes.Int64, "y", arrow.BinaryTypes.String)
	type change = func(*testing.T, *bench, lake.Entry) lake.Entry
	add := func(sc *arrow.Schema, js string) change {
		return func(t *testing.T, b *bench, e lake.Entry) lake.Entry { return b.append(t, e, sc, js) }
	}
	put := func(sc *arrow.Schema, js string) change {
		return func(t *testing.T, b *bench, e lake.Entry) lake.Entry { return b.upsert(t, e, sc, js) }
	}
	replace := func(js string) change {
		return func(t *testing.T, b *bench, e lake.Entry) lake.Entry {
			out, err := b.Replace(context.Background(), "orders", &e, b.write(t, &e, false, rec(t, orders, js)))
			if err != nil {
				t.Fatal(err)
			}
			return out
		}
	}
	// remove deletes rows by writing the file again without them.
	remove := func(left string) change {
		return func(t *testing.T, b *bench, e lake.Entry) lake.Entry {
			scan, err := b.Scan(context.Background(), e)
			if err != nil {
				t.Fatal(err)
			}
			out, err := b.Rewrite(context.Background(), "orders", e, []string{scan.Files[0].Name}, b.write(t, &e, true, rec(t, orders, left)))
			if err != nil {
				t.Fatal(err)
			}
			return out
		}
	}
	for _, c := range []struct {
		name           string
		key            []string
		source, target change
		want           string // rows, or the conflict
	}{
		{
			"append and append", nil, add(orders, `[{"id":4}]`), add(orders, `[{"id":5}]`),
			`{"id":1,"name":"a"} {"id":2,"name":"b"} {"id":3,"name":"c"} {"id":4} {"id":5}`,
		},
		{"delete and append", nil, remove(`[{"id":1,"name":"a"}]`), add(orders, `[{"id":5}]`), `{"id":1,"name":"a"} {"id":5}`},
		{"append and delete", nil, add(orders, `[{"id":5}]`), remove(`[{"id":1,"name":"a"}]`), `{"id":1,"name":"a"} {"id":5}`},
		{
			"delete and delete", nil, remove(`[{"id":1}]`), remove(`[{"id":2}]`),
			`catalog.both_rewrote orders: both rewrote the same rows, and no key tells rows apart`,
		},
		{
			"replace and append", nil, replace(`[{"id":9}]`), add(orders, `[{"id":5}]`),
			`catalog.replaced orders: one side replaced its rows while the other changed them`,
		},
		{
			"append and replace, then append", nil, add(orders, `[{"id":5}]`),
			func(t *testing.T, b *bench, e lake.Entry) lake.Entry {
				return add(orders, `[{"id":6}]`)(t, b, replace(`[{"id":9}]`)(t, b, e))
			},
			`catalog.replaced orders: one side replaced its rows while the other changed them`,
		},
		{
			"new columns", nil, add(wide, `[{"id":4,"x":1.5}]`), add(other, `[{"id":5,"y":"q"}]`),
			`{"id":1,"name":"a"} {"id":2,"name":"b"} {"id":3,"name":"c"} {"id":4,"x":1.5} {"id":5,"y":"q"}`,
		},
		{
			"the same new column", nil, add(wide, `[{"id":4,"x":1.5}]`), add(wide, `[{"id":5,"x":2.5}]`),
			`{"id":1,"name":"a"} {"id":2,"name":"b"} {"id":3,"name":"c"} {"id":4,"x":1.5} {"id":5,"x":2.5}`,
		},
		{
			"the same new column with two types", nil, add(wide, `[{"id":4,"x":1.5}]`), add(schemaOf("x", arrow.BinaryTypes.String), `[{"x":"s"}]`),
			`catalog.columns orders: the sides changed a column in ways that do not fit: orders.x is utf8, the new rows have float64`,
		},
		{
			"keys apart",
			[]string{"id"},
			put(orders, `[{"id":1,"name":"A"}]`), put(orders, `[{"id":2,"name":"B"},{"id":4,"name":"d"}]`),
			`{"id":1,"name":"A"} {"id":2,"name":"B"} {"id":3,"name":"c"} {"id":4,"name":"d"}`,
		},
		{
			"one key",
			[]string{"id"},
			put(orders, `[{"id":1,"name":"A"},{"id":2,"name":"x"}]`), put(orders, `[{"id":2,"name":"B"},{"id":1,"name":"AA"}]`),
			`catalog.both_changed orders: both changed id = 1, 2 (2 of 3)`,
		},
		{
			"one key, the same row",
			[]string{"id"},
			put(orders, `[{"id":2,"name":"B"},{"id":7}]`), put(orders, `[{"id":2,"name":"B"},{"id":8}]`),
			`{"id":1,"name":"a"} {"id":2,"name":"B"} {"id":3,"name":"c"} {"id":7} {"id":8}`,
		},
		{
			"key added twice",
			[]string{"id"},
			add(orders, `[{"id":5,"name":"s"}]`), add(orders, `[{"id":5,"name":"t"}]`),
			`catalog.both_changed orders: both changed id = 5 (1 of 4)`,
		},
		{
			"changed and deleted",
			[]string{"id"},
			remove(`[{"id":1,"name":"a"}]`), put(orders, `[{"id":3,"name":"C"}]`),
			`catalog.both_changed orders: both changed id = 3 (1 of 3)`,
		},
		{
			"key, deleted and changed apart",
			[]string{"id"},
			remove(`[{"id":1,"name":"a"},{"id":3,"name":"c"}]`), put(orders, `[{"id":3,"name":"C"}]`),
			`{"id":1,"name":"a"} {"id":3,"name":"C"}`,
		},
		{
			"key, replaced and changed",
			[]string{"id"},
			replace(`[{"id":1,"name":"a"},{"id":3,"name":"c"},{"id":9}]`), put(orders, `[{"id":3,"name":"C"}]`),
			`{"id":1,"name":"a"} {"id":3,"name":"C"} {"id":9}`,
		},
		{
			"key, new column and change",
			[]string{"id"},
			put(wide, `[{"id":1,"x":1.5}]`), put(orders, `[{"id":3,"name":"C"}]`),
			`{"id":1,"x":1.5} {"id":2,"name":"b"} {"id":3,"name":"C"}`,
		},
		{
			"key not unique",
			[]string{"id"},
			add(orders, `[{"id":5},{"id":5}]`), put(orders, `[{"id":3,"name":"C"}]`),
			`catalog.key_not_unique orders: id = 5 occurs twice in the source; a row key must be unique`,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			b := inMemory(t)
			base := b.create(t, start, c.key...)
			source, target := c.source(t, b, base), c.target(t, b, base)
			e, conflict := b.merge(t, base, source, target)
			got := ""
			if conflict != nil {
				got = conflict.Reason + " " + conflict.Message
			} else {
				got = strings.Join(b.contents(t, e), " ")
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestMergeModel compares merges by key with the merge of plain maps.
func TestMergeModel(t *testing.T) {
	t.Parallel()
	b := inMemory(t)
	rapid.Check(t, func(rt *rapid.T) {
		type table = map[int]string
		js := func(m table) string {
			var rows []string
			for _, id := range slices.Sorted(maps.Keys(m)) {
				rows = append(rows, fmt.Sprintf(`{"id":%d,"name":%q}`, id, m[id]))
			}
			return "[" + strings.Join(rows, ",") + "]"
		}
		rows := rapid.MapOfN(rapid.IntRange(0, 12), rapid.SampledFrom([]string{"a", "b", "c"}), 1, 6)
		model := rows.Draw(rt, "start")
		e := b.create(t, js(model), "id")
		step := func(e lake.Entry, m table, label string) (lake.Entry, table) {
			m = maps.Clone(m)
			if rapid.Bool().Draw(rt, label+" replaces") {
				m = rows.Draw(rt, label+" all")
				out, err := b.Replace(context.Background(), "orders", &e, b.write(t, &e, false, rec(t, orders, js(m))))
				if err != nil {
					rt.Fatal(err)
				}
				return out, m
			}
			up := rows.Draw(rt, label+" rows")
			maps.Copy(m, up)
			return b.upsert(t, e, orders, js(up)), m
		}
		e, model = step(e, model, "base")
		source, ms := step(e, model, "source")
		target, mt := step(e, model, "target")
		if rapid.Bool().Draw(rt, "twice") {
			source, ms = step(source, ms, "source again")
		}
		want, clash := maps.Clone(mt), 0
		for id := range 13 {
			bv, inB := model[id]
			sv, inS := ms[id]
			tv, inT := mt[id]
			bySource, byTarget := bv != sv || inB != inS, bv != tv || inB != inT
			switch {
			case bySource && byTarget && (sv != tv || inS != inT):
				clash++
			case bySource && inS:
				want[id] = sv
			case bySource:
				delete(want, id)
			}
		}
		merged, conflict := b.merge(t, e, source, target)
		if conflict != nil || clash > 0 {
			if conflict == nil || conflict.Details.(map[string]any)["count"] != clash {
				rt.Fatalf("conflict %+v, expected %d keys", conflict, clash)
			}
			return
		}
		var lines []string
		for id, name := range want {
			lines = append(lines, fmt.Sprintf(`{"id":%d,"name":%q}`, id, name))
		}
		slices.Sort(lines)
		if diff := cmp.Diff(lines, b.contents(t, merged)); diff != "" {
			rt.Fatal(diff)
		}
	})
}

// TestConflictText pins the whole text that a person sees.
func TestConflictText(t *testing.T) {
	t.Parallel()
	b := inMemory(t)
	base := b.create(t, `[{"id":1},{"id":17},{"id":42},{"id":100}]`, "id")
	source := b.upsert(t, base, orders, `[{"id":42,"name":"s"},{"id":17,"name":"s"},{"id":100,"name":"s"}]`)
	target := b.upsert(t, base, orders, `[{"id":17,"name":"t"},{"id":42,"name":"t"}]`)
	_, c := b.merge(t, base, source, target)
	if c == nil {
		t.Fatal("no conflict")
	}
	got := c.Message + ". " + strings.Join(catalog.Hint(ordersKey, "dev", "main"), "; ")
	want := "orders: both changed id = 17, 42 (2 of 4). tarn diff main..dev orders --rows; tarn merge dev --prefer orders=source"
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}
