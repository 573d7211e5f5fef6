package dataver_test

import (
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/memory"
	"pgregory.net/rapid"

	"tarn.dev/tarn/internal/catalog/dataver"
)

// row is one row of the model; each part may be absent.
type row struct {
	i    *int64
	f    *float64
	s    *string
	list []*string // nil is null
	null bool      // of the struct
}

var (
	strs   = rapid.SampledFrom([]string{"", "a", "b", "aa", "longer than twelve bytes", "\x00"})
	someI  = rapid.Ptr(rapid.OneOf(rapid.Int64(), rapid.Int64Range(-2, 2)), true)
	someF  = rapid.Ptr(rapid.OneOf(rapid.Float64(), rapid.SampledFrom([]float64{0, math.Copysign(0, -1), math.NaN(), 1})), true)
	someS  = rapid.Ptr(strs, true)
	genRow = rapid.Custom(func(t *rapid.T) row {
		r := row{i: someI.Draw(t, "i"), f: someF.Draw(t, "f"), s: someS.Draw(t, "s"), null: rapid.Bool().Draw(t, "null")}
		if rapid.Bool().Draw(t, "list") {
			r.list = append([]*string{}, rapid.SliceOfN(someS, 0, 3).Draw(t, "elements")...)
		}
		return r
	})
)

// encoding chooses how columns are laid out; none of it may show.
type encoding struct{ dictionary, large, columnsTurned bool }

var genEncoding = rapid.Custom(func(t *rapid.T) encoding {
	b := rapid.Bool()
	return encoding{dictionary: b.Draw(t, "dictionary"), large: b.Draw(t, "large"), columnsTurned: b.Draw(t, "turned")}
})

func build(rows []row, e encoding) arrow.RecordBatch {
	mem := memory.DefaultAllocator
	strType := arrow.DataType(arrow.BinaryTypes.String)
	if e.large {
		strType = arrow.BinaryTypes.LargeString
	}
	sType := strType
	if e.dictionary {
		sType = &arrow.DictionaryType{IndexType: arrow.PrimitiveTypes.Int16, ValueType: arrow.BinaryTypes.String}
	}
	fields := []arrow.Field{
		{Name: "i", Type: arrow.PrimitiveTypes.Int64, Nullable: true},
		{Name: "f", Type: arrow.PrimitiveTypes.Float64, Nullable: true},
		{Name: "s", Type: sType, Nullable: true},
		{Name: "l", Type: arrow.ListOf(strType), Nullable: true},
		{Name: "t", Type: arrow.StructOf(arrow.Field{Name: "i", Type: arrow.PrimitiveTypes.Int64, Nullable: true}), Nullable: true},
	}
	if e.columnsTurned {
		slices.Reverse(fields)
	}
	schema := arrow.NewSchema(fields, nil)
	b := array.NewRecordBuilder(mem, schema)
	col := func(name string) array.Builder { return b.Field(schema.FieldIndices(name)[0]) }
	str := func(to array.Builder, s *string) {
		switch {
		case s == nil:
			to.AppendNull()
		default:
			if err := to.AppendValueFromString(*s); err != nil {
				panic(err)
			}
		}
	}
	for _, r := range rows {
		if r.i == nil {
			col("i").AppendNull()
		} else {
			col("i").(*array.Int64Builder).Append(*r.i)
		}
		if r.f == nil {
			col("f").AppendNull()
		} else {
			col("f").(*array.Float64Builder).Append(*r.f)
		}
		str(col("s"), r.s)
		l := col("l").(*array.ListBuilder)
		if r.list == nil {
			l.AppendNull()
		} else {
			l.Append(true)
			for _, s := range r.list {
				str(l.ValueBuilder(), s)
			}
		}
		t := col("t").(*array.StructBuilder)
		if r.null {
			t.AppendNull()
			continue
		}
		t.Append(true)
		if r.i == nil {
			t.FieldBuilder(0).AppendNull()
		} else {
			t.FieldBuilder(0).(*array.Int64Builder).Append(*r.i)
		}
	}
	return b.NewRecordBatch()
}

// TestOnlyValuesCount cuts, shuffles and encodes the same rows in two ways.
func TestOnlyValuesCount(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		rows := rapid.SliceOfN(genRow, 0, 600).Draw(rt, "rows")
		turned := rapid.Permutation(rows).Draw(rt, "order")
		a := sumOf(t, build(rows, encoding{}))
		whole := build(turned, genEncoding.Draw(rt, "encoding"))
		var parts []arrow.RecordBatch
		for from := int64(0); from < whole.NumRows(); {
			to := from + rapid.Int64Range(1, whole.NumRows()-from).Draw(rt, "cut")
			parts = append(parts, whole.NewSlice(from, to))
			from = to
		}
		if b := sumOf(t, parts...); a != b {
			rt.Fatalf("%s is not %s", b, a)
		}
		half := len(rows) / 2
		if got := a.Sub(sumOf(t, build(rows[:half], encoding{}))); got != sumOf(t, build(rows[half:], encoding{})) {
			rt.Fatal("taking rows out does not leave the others")
		}
	})
}

// TestEveryValueCounts changes one value.
func TestEveryValueCounts(t *testing.T) {
	t.Parallel()
	same := func(a, b *float64) bool {
		return (a == nil) == (b == nil) && (a == nil || *a == *b || *a != *a && *b != *b)
	}
	text := func(s []*string) string {
		var b strings.Builder
		for _, p := range s {
			if p == nil {
				b.WriteString("-,")
			} else {
				b.WriteString("+" + *p + ",")
			}
		}
		return b.String()
	}
	rapid.Check(t, func(rt *rapid.T) {
		rows := rapid.SliceOfN(genRow, 1, 20).Draw(rt, "rows")
		at := rapid.IntRange(0, len(rows)-1).Draw(rt, "at")
		old, r := rows[at], rows[at]
		changed := slices.Clone(rows)
		n := genRow.Draw(rt, "new")
		var equal bool
		switch rapid.IntRange(0, 4).Draw(rt, "column") {
		case 0:
			r.i, equal = n.i, (n.i == nil) == (old.i == nil) && (n.i == nil || *n.i == *old.i)
		case 1:
			r.f, equal = n.f, same(n.f, old.f)
		case 2:
			r.s, equal = n.s, (n.s == nil) == (old.s == nil) && (n.s == nil || *n.s == *old.s)
		case 3:
			r.list, equal = n.list, (n.list == nil) == (old.list == nil) && text(n.list) == text(old.list)
		case 4:
			r.null, equal = n.null, n.null == old.null
		}
		changed[at] = r
		if got := sumOf(t, build(rows, encoding{})) == sumOf(t, build(changed, encoding{})); got != equal {
			rt.Fatalf("%+v and %+v: equal is %v, expected %v", old, r, got, equal)
		}
	})
}

// TestColumnsDoNotTrade swaps values between rows, columns and names.
func TestColumnsDoNotTrade(t *testing.T) {
	t.Parallel()
	num := func(js string) arrow.Array { return fromJSON(t, arrow.PrimitiveTypes.Int64, js) }
	seen := map[dataver.Sum]string{}
	for _, c := range []struct {
		name string
		rec  arrow.RecordBatch
	}{
		{"straight", batch(t, "a", num(`[1,2]`), "b", num(`[3,4]`))},
		{"crossed", batch(t, "a", num(`[1,2]`), "b", num(`[4,3]`))},
		{"turned", batch(t, "a", num(`[3,4]`), "b", num(`[1,2]`))},
		{"renamed", batch(t, "a", num(`[1,2]`), "c", num(`[3,4]`))},
		{"twice", batch(t, "a", num(`[1,2,2]`), "b", num(`[3,4,4]`))},
		{"once", batch(t, "a", num(`[1,2]`))},
		{"split", batch(t, "a", num(`[1,2,null,null]`), "b", num(`[null,null,3,4]`))},
		{"bool", batch(t, "a", fromJSON(t, arrow.FixedWidthTypes.Boolean, `[true,false]`))},
		{"zero and one", batch(t, "a", num(`[1,0]`))},
		{"zero and one, float", batch(t, "a", fromJSON(t, arrow.PrimitiveTypes.Float64, `[1,0]`))},
	} {
		s := sumOf(t, c.rec)
		if other, ok := seen[s]; ok {
			t.Errorf("%s has the version of %s", c.name, other)
		}
		seen[s] = c.name
	}
}

func TestRefusedSchemas(t *testing.T) {
	t.Parallel()
	num := arrow.PrimitiveTypes.Int64
	union := arrow.SparseUnionOf([]arrow.Field{{Name: "x", Type: num}}, []arrow.UnionTypeCode{0})
	for want, fields := range map[string][]arrow.Field{
		`two columns are named "a"`: {{Name: "a", Type: num}, {Name: "a", Type: num}},
		"column u.element has type sparse_union<x: type=int64, 0>, which has no data version": {{Name: "u", Type: arrow.ListOf(union)}},
		`two fields of s are named "x"`: {{Name: "s", Type: arrow.StructOf(arrow.Field{Name: "x", Type: num}, arrow.Field{Name: "x", Type: num})}},
	} {
		_, err := dataver.NewHasher(arrow.NewSchema(fields, nil))
		if err == nil || !strings.HasPrefix(err.Error(), want[:20]) {
			t.Errorf("got %v, expected %s", err, want)
		}
	}
}

// TestBigBatches crosses the borders at which batches are hashed piece by piece.
func TestBigBatches(t *testing.T) {
	t.Parallel()
	const n = 40_000
	rows := make([]row, n)
	words := []string{"", "x", "a longer one"}
	for i := range rows {
		v := int64(i * 7919)
		if i%3 > 0 {
			rows[i].i = &v
		}
		if i%5 > 0 {
			rows[i].s, rows[i].list = &words[i%3], []*string{nil, &words[(i+1)%3]}
		}
	}
	whole := build(rows, encoding{dictionary: true})
	var parts []arrow.RecordBatch
	for from := int64(0); from < n; from += 999 {
		parts = append(parts, whole.NewSlice(from, min(from+999, n)))
	}
	if a, b := sumOf(t, whole), sumOf(t, parts...); a != b || a.Rows != n {
		t.Errorf("whole %s, in parts %s", a, b)
	}
}
