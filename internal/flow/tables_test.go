package flow_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/decimal128"
	"github.com/apache/arrow-go/v18/arrow/ipc"
	"github.com/apache/arrow-go/v18/arrow/memory"
	"github.com/google/go-cmp/cmp"

	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/flow"
	"tarn.dev/tarn/internal/flow/memo"
	"tarn.dev/tarn/internal/lake"
)

// stream is a record batch as a client sends it.
func stream(t *testing.T, b arrow.RecordBatch) *bytes.Reader {
	t.Helper()
	var out bytes.Buffer
	w := ipc.NewWriter(&out, ipc.WithSchema(b.Schema()))
	if err := w.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return bytes.NewReader(out.Bytes())
}

// rows are the rows of a table as JSON, in the order of its files.
func (p *place) tableRows(name string) string {
	p.t.Helper()
	e, ok := p.entry("main", name)
	if !ok {
		p.t.Fatalf("no table %s", name)
	}
	var out strings.Builder
	for b, err := range p.Tables().Rows(p.t.Context(), e) {
		if err != nil {
			p.t.Fatal(err)
		}
		text, err := b.MarshalJSON()
		if err != nil {
			p.t.Fatal(err)
		}
		out.Write(text)
	}
	return out.String()
}

func (p *place) tableWrite(name string) flow.TableWrite {
	return flow.TableWrite{Branch: "main", Info: lake.CommitInfo{Author: "tester"}, Table: name}
}

// Hostile columns come back as they were written, or are refused by name; nothing in between.
func TestWriteRowsRoundTrip(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	long := strings.Repeat("long ", 200)
	for i, c := range []struct {
		name    string
		t       arrow.DataType
		values  string
		refused string // the column that the error names
	}{
		{"nothing", arrow.PrimitiveTypes.Int64, `[]`, ""},
		{"all null", arrow.Null, `[null, null]`, ""},
		{"null strings", arrow.BinaryTypes.String, `[null, null]`, ""},
		{"größe", arrow.PrimitiveTypes.Int8, `[-128, 127, null]`, ""},
		{"a.b", arrow.PrimitiveTypes.Uint8, `[0, 255]`, ""},
		{`quote "x"`, arrow.PrimitiveTypes.Uint32, `[4294967295]`, ""},
		{long, arrow.BinaryTypes.LargeString, `["", "\u0000", "😀", "a\nb"]`, ""},
		{"u64", arrow.PrimitiveTypes.Uint64, `[9223372036854775807]`, ""},
		{"u64 big", arrow.PrimitiveTypes.Uint64, `[18446744073709551615]`, "u64 big"},
		{"float", arrow.PrimitiveTypes.Float64, `[0.1, -0.0, 1e308]`, ""},
		{"decimal", &arrow.Decimal128Type{Precision: 38, Scale: 10}, `["1234567890123456789012345678.0123456789"]`, ""},
		{"micros", arrow.FixedWidthTypes.Timestamp_us, `["2024-02-29 23:59:59.999999Z"]`, ""},
		{"nanos", &arrow.TimestampType{Unit: arrow.Nanosecond}, `["2024-02-29 23:59:59.000000001"]`, "nanos"},
		{"zone", &arrow.TimestampType{Unit: arrow.Microsecond, TimeZone: "Europe/Berlin"}, `["2024-07-01 12:00:00+02:00"]`, ""},
		{"binary", arrow.BinaryTypes.Binary, `["AAEC"]`, ""},
		{"list", arrow.ListOf(arrow.ListOf(arrow.PrimitiveTypes.Int32)), `[[[1], [], null], [], null]`, ""},
		{"struct", arrow.StructOf(arrow.Field{Name: "x y", Type: arrow.BinaryTypes.String, Nullable: true}, arrow.Field{Name: "ü", Type: arrow.ListOf(arrow.PrimitiveTypes.Float32), Nullable: true}), `[{"x y": "a", "ü": [1.5]}, null]`, ""},
		{"dictionary", &arrow.DictionaryType{IndexType: arrow.PrimitiveTypes.Int8, ValueType: arrow.BinaryTypes.String}, `["a", "b", "a", null]`, ""},
		{"date", arrow.FixedWidthTypes.Date32, `["0001-01-01", "9999-12-31"]`, ""},
	} {
		t.Run(fmt.Sprintf("%d", i), func(t *testing.T) {
			arr, _, err := array.FromJSON(memory.DefaultAllocator, c.t, strings.NewReader(c.values))
			if err != nil {
				t.Fatalf("%s: %v", c.name, err)
			}
			schema := arrow.NewSchema([]arrow.Field{{Name: c.name, Type: c.t, Nullable: true}}, nil)
			batch := array.NewRecordBatch(schema, []arrow.Array{arr}, int64(arr.Len()))
			table := fmt.Sprintf("t%d", i)
			before := p.head()
			done, err := p.WriteRows(t.Context(), p.tableWrite(table), stream(t, batch))
			if c.refused != "" {
				if errdef.CodeOf(err) != errdef.InvalidArgument || !strings.Contains(err.Error(), c.refused) || p.head() != before {
					t.Errorf("want an error that names %s and no commit, got %v", c.refused, err)
				}
				return
			}
			if err != nil {
				t.Fatalf("%s: %v", c.name, err)
			}
			want, err := batch.MarshalJSON()
			if err != nil {
				t.Fatal(err)
			}
			got := p.tableRows(table)
			if arr.Len() == 0 {
				want, got = nil, strings.Trim(got, "[]")
			}
			if d := cmp.Diff(string(want), got); d != "" {
				t.Errorf("%s (-wrote +read):\n%s", c.name, d)
			}
			if done.Entry.Location.Rows != int64(arr.Len()) || !done.Changed {
				t.Errorf("%s: %+v", c.name, done)
			}
			s, err := p.Tables().Schema(t.Context(), done.Entry)
			if err != nil || !arrow.TypeEqual(s.Field(0).Type, c.t) || s.Field(0).Name != c.name {
				t.Errorf("%s came back as %v, %v", c.name, s, err)
			}
		})
	}
}

func TestWriteRowsRefuses(t *testing.T) {
	t.Parallel()
	p := newPlace(t, "numbers.sql", numbers)
	p.succeeds("numbers:succeeded")
	before := p.head()
	one := func() arrow.RecordBatch {
		b := array.NewRecordBuilder(memory.DefaultAllocator, arrow.NewSchema([]arrow.Field{
			{Name: "id", Type: arrow.PrimitiveTypes.Int64, Nullable: true}, {Name: "price", Type: &arrow.Decimal128Type{Precision: 9, Scale: 2}, Nullable: true},
		}, nil))
		b.Field(0).(*array.Int64Builder).AppendValues([]int64{1, 1}, nil)
		b.Field(1).(*array.Decimal128Builder).AppendValues([]decimal128.Num{decimal128.FromI64(5), decimal128.FromI64(6)}, nil)
		return b.NewRecordBatch()
	}
	whole := stream(t, one())
	cut := whole.Len() / 2
	half := make([]byte, cut)
	if _, err := whole.Read(half); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		w    func(*flow.TableWrite)
		in   *bytes.Reader
		want string
	}{
		"asset":      {func(w *flow.TableWrite) { w.Table = "numbers" }, nil, "asset.owned"},
		"no branch":  {func(w *flow.TableWrite) { w.Branch = "nope" }, nil, "lake.branch_not_found"},
		"name":       {func(w *flow.TableWrite) { w.Table = "a@b" }, nil, "table.name"},
		"long name":  {func(w *flow.TableWrite) { w.Table = strings.Repeat("x", 300) }, nil, "lake.invalid_name"},
		"empty name": {func(w *flow.TableWrite) { w.Table = "" }, nil, "lake.invalid_name"},
		"mode":       {func(w *flow.TableWrite) { w.Mode = "upsert" }, nil, "table.mode"},
		"no key":     {func(w *flow.TableWrite) { w.Mode = flow.MergeRows }, nil, "table.mode"},
		"bad key":    {func(w *flow.TableWrite) { w.Key = []string{"idd"} }, nil, "table.key"},
		"doubles":    {func(w *flow.TableWrite) { w.Key = []string{"id"} }, nil, "catalog.bad_key"},
		"garbage":    {nil, bytes.NewReader([]byte("not arrow at all")), "table.rows"},
		"empty":      {nil, bytes.NewReader(nil), "table.rows"},
		"half":       {nil, bytes.NewReader(half), "table.rows"},
	} {
		t.Run(name, func(t *testing.T) {
			w := p.tableWrite("t")
			if c.w != nil {
				c.w(&w)
			}
			in := c.in
			if in == nil {
				in = stream(t, one())
			}
			_, err := p.WriteRows(t.Context(), w, in)
			if errdef.As(err).Reason != c.want || p.head() != before {
				t.Errorf("got %v (%s), want %s and no commit", err, errdef.As(err).Reason, c.want)
			}
		})
	}
	left, err := os.ReadDir(filepath.Join(p.home, "scratch", "projects", "p", "tables"))
	if err != nil || len(left) > 0 {
		t.Errorf("left on scratch: %v, %v", left, err)
	}
}

// Appends at once: every row arrives, whoever comes first; each import says what it read.
func TestImportsAtOnce(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	var wg sync.WaitGroup
	const writers = 6
	for i := range writers {
		file := filepath.Join(p.dir, fmt.Sprintf("part%d.csv", i))
		// Every file brings a column of its own: their field ids must not meet.
		if err := os.WriteFile(file, fmt.Appendf(nil, "id,c%d\n%d,%d\n", i, i, i), 0o644); err != nil {
			t.Fatal(err)
		}
		w := p.tableWrite("events")
		w.Mode, w.Info.RequestID = flow.AppendRows, fmt.Sprintf("r%d", i)
		wg.Go(func() {
			for range 2 { // the same request again has no second effect
				_, err := p.Import(context.Background(), flow.ImportRequest{TableWrite: w, Sources: []string{file}}, func(flow.ImportProgress) {})
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	e, ok := p.entry("main", "events")
	s, err := p.Tables().Schema(t.Context(), e)
	if !ok || err != nil || e.Location.Rows != writers || s.NumFields() != writers+1 {
		t.Fatalf("events: %+v, %v, %v", e, s, err)
	}
	versions, err := p.TableHistory(t.Context(), "main", "events", 0)
	if err != nil || len(versions) != writers {
		t.Errorf("history: %v, %v", versions, err)
	}
	prov, err := memo.GetProvenance(t.Context(), p.lake, e.Location.Provenance)
	if err != nil || prov.Kind != memo.ByImport || len(prov.Source) != 1 || len(prov.Source[0].Hash) != 64 || prov.Source[0].Size == 0 || prov.Author != "tester" {
		t.Errorf("provenance: %+v, %v", prov, err)
	}
}

// A file that somebody writes to during its import is an error, not a table.
func TestImportNoticesChange(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	file := filepath.Join(p.dir, "t.csv")
	if err := os.WriteFile(file, []byte("a\n1\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	before := p.head()
	var once sync.Once
	_, err := p.Import(t.Context(), flow.ImportRequest{TableWrite: p.tableWrite(""), Sources: []string{file}}, func(flow.ImportProgress) {
		once.Do(func() {
			if err := os.WriteFile(file, []byte("a\n1\n2\n"), 0o644); err != nil {
				t.Error(err)
			}
		})
	})
	if errdef.As(err).Reason != "import.source_changed" || p.head() != before {
		t.Errorf("got %v", err)
	}
}

// An append that declares a row key looks at the rows that are there, those of a write under way too.
func TestAppendWithKey(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	ids := func(w flow.TableWrite, values string) error {
		t.Helper()
		arr, _, err := array.FromJSON(memory.DefaultAllocator, arrow.PrimitiveTypes.Int64, strings.NewReader(values))
		if err != nil {
			t.Fatal(err)
		}
		schema := arrow.NewSchema([]arrow.Field{{Name: "id", Type: arrow.PrimitiveTypes.Int64, Nullable: true}}, nil)
		_, err = p.WriteRows(t.Context(), w, stream(t, array.NewRecordBatch(schema, []arrow.Array{arr}, int64(arr.Len()))))
		return err
	}
	plain := p.tableWrite("t")
	plain.Mode = flow.AppendRows
	keyed := plain
	keyed.Key = []string{"id"}
	for _, values := range []string{`[1, 2]`, `[3]`} {
		if err := ids(keyed, values); err != nil {
			t.Fatal(err)
		}
	}
	before := p.head()
	wantError(t, ids(keyed, `[4, 2]`), "catalog.bad_key", "t: id = 2 occurs 2 times in the rows that are there and the new ones, so it cannot be the row key")
	if p.head() != before {
		t.Error("main moved")
	}
	errs := make([]error, 3)
	var wg sync.WaitGroup
	for i := range errs {
		wg.Go(func() { errs[i] = ids(keyed, `[9]`) })
	}
	wg.Wait()
	if e, _ := p.entry("main", "t"); e.Location.Rows != 4 {
		t.Errorf("%d rows, want one 9 among them: %v", e.Location.Rows, errs)
	}
	if err := ids(plain, `[9]`); err != nil {
		t.Error(err)
	}
	wantError(t, ids(keyed, `[]`), "catalog.bad_key", "t: id = 9 occurs 2 times in the rows that are there and the new ones, so it cannot be the row key")
}
