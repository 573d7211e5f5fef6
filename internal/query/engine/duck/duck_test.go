package duck

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/ipc"
	"github.com/apache/arrow-go/v18/arrow/memory"
	"pgregory.net/rapid"
)

func open(t testing.TB) *DB {
	t.Helper()
	db, err := Open(map[string]string{"autoload_known_extensions": "false"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(db.Close)
	if err := db.Exec("SET TimeZone = 'UTC'"); err != nil {
		t.Fatal(err)
	}
	return db
}

// typeCase is an Arrow type on its way through DuckDB. What comes back is the same unless out says
// otherwise.
type typeCase struct {
	name    string
	in      arrow.DataType
	samples string // JSON
	out     arrow.DataType
	back    string // JSON; "" is samples
}

func typeCases() []typeCase {
	utf8 := arrow.BinaryTypes.String
	texts := `["", "short", null, "longer than twelve bytes", "ünï", "a\u0000b"]`
	blobs := `["", "AQID", null, "AAECAwQFBgcICQoLDA0ODw=="]`
	i := func(name string, t arrow.DataType, samples string) typeCase {
		return typeCase{name, t, samples, nil, ""}
	}
	ts := func(unit arrow.TimeUnit, zone string) arrow.DataType {
		return &arrow.TimestampType{Unit: unit, TimeZone: zone}
	}
	decimal := func(p, s int32) arrow.DataType { return &arrow.Decimal128Type{Precision: p, Scale: s} }
	seconds := `["2024-02-29T12:34:56", null, "1969-12-31T23:59:59", "1970-01-01T00:00:00"]`
	micros := `["2024-02-29T12:34:56.123456", null, "1969-12-31T23:59:59.999999", "0001-01-01T00:00:00"]`
	zoned := func(s string) string { return regexp.MustCompile(`T[0-9:.]+`).ReplaceAllString(s, "${0}Z") }
	return []typeCase{
		i("bool", arrow.FixedWidthTypes.Boolean, `[true, null, false, true, true]`),
		i("int8", arrow.PrimitiveTypes.Int8, `[-128, null, 127]`),
		i("int16", arrow.PrimitiveTypes.Int16, `[-32768, null, 32767]`),
		i("int32", arrow.PrimitiveTypes.Int32, `[-2147483648, null, 2147483647]`),
		i("int64", arrow.PrimitiveTypes.Int64, `[-9223372036854775807, null, 9223372036854775807]`),
		i("uint8", arrow.PrimitiveTypes.Uint8, `[0, null, 255]`),
		i("uint16", arrow.PrimitiveTypes.Uint16, `[0, null, 65535]`),
		i("uint32", arrow.PrimitiveTypes.Uint32, `[0, null, 4294967295]`),
		i("uint64", arrow.PrimitiveTypes.Uint64, `[0, null, 18446744073709551615]`),
		{"float16", arrow.FixedWidthTypes.Float16, `[1.5, null, -2]`, arrow.PrimitiveTypes.Float32, ""},
		i("float32", arrow.PrimitiveTypes.Float32, `[1.5, null, -3.25]`),
		i("float64", arrow.PrimitiveTypes.Float64, `[1e300, null, -0.1]`),
		i("decimal4", decimal(4, 2), `["-99.99", null, "0.01"]`),
		i("decimal9", decimal(9, 3), `["-999999.999", null, "0.001"]`),
		i("decimal18", decimal(18, 4), `["-99999999999999.9999", null, "1"]`),
		i("decimal38", decimal(38, 10), `["-1234567890123456789012345678.0123456789", null, "1"]`),
		{"decimal32", &arrow.Decimal32Type{Precision: 5, Scale: 2}, `["-123.45", null]`, decimal(5, 2), ""},
		{"decimal64", &arrow.Decimal64Type{Precision: 15, Scale: 2}, `["-1234567890123.45", null]`, decimal(15, 2), ""},
		i("string", utf8, texts),
		{"large_string", arrow.BinaryTypes.LargeString, texts, utf8, ""},
		{"string_view", arrow.BinaryTypes.StringView, texts, utf8, ""},
		i("binary", arrow.BinaryTypes.Binary, blobs),
		{"large_binary", arrow.BinaryTypes.LargeBinary, blobs, arrow.BinaryTypes.Binary, ""},
		{"fixed_binary", &arrow.FixedSizeBinaryType{ByteWidth: 3}, `["AQID", null, "AAAA"]`, arrow.BinaryTypes.Binary, ""},
		i("date32", arrow.FixedWidthTypes.Date32, `["2024-02-29", null, "1969-12-31"]`),
		{"date64", arrow.FixedWidthTypes.Date64, `["2024-02-29", null, "1969-12-31"]`, arrow.FixedWidthTypes.Date32, ""},
		{"time32s", arrow.FixedWidthTypes.Time32s, `["12:34:56", null]`, arrow.FixedWidthTypes.Time64us, ""},
		{"time32ms", arrow.FixedWidthTypes.Time32ms, `["12:34:56.789", null]`, arrow.FixedWidthTypes.Time64us, ""},
		i("time64us", arrow.FixedWidthTypes.Time64us, `["12:34:56.789012", null]`),
		i("timestamp_s", ts(arrow.Second, ""), seconds),
		i("timestamp_ms", ts(arrow.Millisecond, ""), `["2024-02-29T12:34:56.123", null]`),
		i("timestamp_us", ts(arrow.Microsecond, ""), micros),
		i("timestamp_ns", ts(arrow.Nanosecond, ""), `["2024-02-29T12:34:56.123456789", null]`),
		{"timestamp_s_utc", ts(arrow.Second, "UTC"), zoned(seconds), ts(arrow.Microsecond, "UTC"), ""},
		{"timestamp_ms_utc", ts(arrow.Millisecond, "UTC"), zoned(seconds), ts(arrow.Microsecond, "UTC"), ""},
		i("timestamp_us_utc", ts(arrow.Microsecond, "UTC"), zoned(micros)),
		{"timestamp_ns_utc", ts(arrow.Nanosecond, "UTC"), zoned(seconds), ts(arrow.Microsecond, "UTC"), ""},
		{
			"duration_s", arrow.FixedWidthTypes.Duration_s, `[90, null, -1]`, arrow.FixedWidthTypes.MonthDayNanoInterval,
			`[{"months":0,"days":0,"nanoseconds":90000000000}, null, {"months":0,"days":0,"nanoseconds":-1000000000}]`,
		},
		i("interval", arrow.FixedWidthTypes.MonthDayNanoInterval, `[{"months":-1,"days":2,"nanoseconds":3000}, null]`),
		{
			"interval_months", arrow.FixedWidthTypes.MonthInterval, `[{"months":14}, null]`, arrow.FixedWidthTypes.MonthDayNanoInterval,
			`[{"months":14,"days":0,"nanoseconds":0}, null]`,
		},
		i("list", arrow.ListOf(arrow.PrimitiveTypes.Int32), `[[1, null, 3], null, [], [4]]`),
		{"large_list", arrow.LargeListOf(utf8), `[["a", "longer than twelve bytes"], null, []]`, arrow.ListOf(utf8), ""},
		i("fixed_list", arrow.FixedSizeListOf(2, arrow.PrimitiveTypes.Int16), `[[1, 2], null, [3, null]]`),
		i("struct", arrow.StructOf(arrow.Field{Name: "a", Type: arrow.PrimitiveTypes.Int64, Nullable: true}, arrow.Field{Name: "b", Type: utf8, Nullable: true}),
			`[{"a": 1, "b": "x"}, null, {"a": null, "b": "longer than twelve bytes"}]`),
		i("nested", arrow.ListOf(arrow.StructOf(arrow.Field{Name: "l", Type: arrow.ListOf(utf8), Nullable: true})),
			`[[{"l": ["a"]}, null, {"l": null}], null, []]`),
		i("map", arrow.MapOf(utf8, arrow.PrimitiveTypes.Int32), `[[{"key": "a", "value": 1}, {"key": "b", "value": null}], null, []]`),
		{"dictionary8", &arrow.DictionaryType{IndexType: arrow.PrimitiveTypes.Int8, ValueType: utf8}, texts, utf8, ""},
		{"dictionary32", &arrow.DictionaryType{IndexType: arrow.PrimitiveTypes.Uint32, ValueType: arrow.PrimitiveTypes.Int64}, `[7, null, 8, 7]`, arrow.PrimitiveTypes.Int64, ""},
		{"null", arrow.Null, `[null, null]`, arrow.PrimitiveTypes.Int32, ""},
	}
}

// tile repeats JSON samples into an array of n rows that starts at an odd offset of its buffers.
func tile(t testing.TB, dt arrow.DataType, samples string, n int) arrow.Array {
	t.Helper()
	base, _, err := array.FromJSON(memory.DefaultAllocator, dt, strings.NewReader(samples))
	if err != nil {
		t.Fatalf("%s: %v", dt, err)
	}
	const skip = 3
	var parts []arrow.Array
	for rows := 0; rows < n+skip; rows += base.Len() {
		parts = append(parts, base)
	}
	all, err := array.Concatenate(parts, memory.DefaultAllocator)
	if err != nil {
		t.Fatalf("%s: %v", dt, err)
	}
	return array.NewSlice(all, skip, int64(n+skip))
}

func batchOf(t testing.TB, cases []typeCase, n int) arrow.RecordBatch {
	t.Helper()
	var fields []arrow.Field
	var columns []arrow.Array
	for _, c := range cases {
		fields = append(fields, arrow.Field{Name: c.name, Type: c.in, Nullable: true})
		columns = append(columns, tile(t, c.in, c.samples, n))
	}
	return array.NewRecordBatch(arrow.NewSchema(fields, nil), columns, int64(n))
}

// fataler is what *testing.T and *rapid.T share.
type fataler interface {
	Helper()
	Fatalf(format string, args ...any)
}

// read runs a query and returns its columns in one piece.
func read(t fataler, db *DB, sql string) (*arrow.Schema, []arrow.Array) {
	t.Helper()
	stmt, err := db.Prepare(sql)
	if err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	defer stmt.Close()
	rows, err := stmt.Stream(0)
	if err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	defer rows.Close()
	pieces := make([][]arrow.Array, rows.Schema().NumFields())
	for {
		batch, err := rows.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
		for i, column := range batch.Columns() {
			column.Retain()
			pieces[i] = append(pieces[i], column)
		}
		batch.Release()
	}
	columns := make([]arrow.Array, len(pieces))
	for i := range pieces {
		if columns[i], err = array.Concatenate(pieces[i], memory.DefaultAllocator); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
	return rows.Schema(), columns
}

func TestTypes(t *testing.T) {
	t.Parallel()
	const n = 5000 // several vectors and not a multiple of one
	cases := typeCases()
	db := open(t)
	batch := batchOf(t, cases, n)
	db.Register("t", NewBatches(batch.Schema(), batch.NewSlice(0, 100), batch.NewSlice(100, 100), batch.NewSlice(100, n)))
	for _, c := range cases { // each by itself: simple types take the fast way out
		t.Run(c.name, func(t *testing.T) {
			schema, columns := read(t, db, `SELECT "`+c.name+`" FROM arrow_batches('t')`)
			want := c.in
			if c.out != nil {
				want = c.out
			}
			got := columns[0]
			if back := c.back; back == "" {
				c.back = c.samples
			}
			expected := tile(t, want, c.back, n)
			if !arrow.TypeEqual(withoutNames(got.DataType()), withoutNames(want)) {
				t.Fatalf("type %s, want %s (schema %s)", got.DataType(), want, schema)
			}
			for i := range n {
				if g, w := got.ValueStr(i), expected.ValueStr(i); g != w || got.IsNull(i) != expected.IsNull(i) {
					t.Fatalf("row %d: %s, want %s", i, g, w)
				}
			}
		})
	}
}

// withoutNames forgets what lists and maps call their items.
func withoutNames(t arrow.DataType) arrow.DataType {
	switch t := t.(type) {
	case *arrow.ListType:
		return arrow.ListOf(withoutNames(t.Elem()))
	case *arrow.FixedSizeListType:
		return arrow.FixedSizeListOf(t.Len(), withoutNames(t.Elem()))
	case *arrow.MapType:
		return arrow.MapOf(withoutNames(t.KeyType()), withoutNames(t.ItemType()))
	case *arrow.StructType:
		fields := t.Fields()
		for i := range fields {
			fields[i] = arrow.Field{Name: fields[i].Name, Type: withoutNames(fields[i].Type), Nullable: true}
		}
		return arrow.StructOf(fields...)
	}
	return t
}

// TestSubsets reads random columns in random order: the driver's own view crashes on those.
func TestSubsets(t *testing.T) {
	t.Parallel()
	const n = 3000
	cases := typeCases()
	db := open(t)
	batch := batchOf(t, cases, n)
	path := filepath.Join(t.TempDir(), "t.arrow")
	writeFile(t, path, batch)
	source, err := OpenFiles([]string{path, path})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { source.Close() })
	db.Register("t", source)
	full := map[string]arrow.Array{}
	for _, c := range cases {
		_, columns := read(t, db, `SELECT "`+c.name+`" FROM arrow_batches('t')`)
		full[c.name] = columns[0]
	}
	rapid.Check(t, func(t *rapid.T) {
		some := rapid.SliceOfN(rapid.SampledFrom(cases), 1, 8).Draw(t, "columns")
		var names []string
		for i, c := range some {
			names = append(names, fmt.Sprintf(`"%s" AS c%d`, c.name, i))
		}
		_, columns := read(t, db, "SELECT "+strings.Join(names, ", ")+" FROM arrow_batches('t')")
		for i, c := range some {
			if !array.Equal(columns[i], full[c.name]) {
				t.Fatalf("column %s differs when read with %v", c.name, names)
			}
		}
	})
}

func writeFile(t testing.TB, path string, batches ...arrow.RecordBatch) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	w, err := ipc.NewFileWriter(f, ipc.WithSchema(batches[0].Schema()))
	if err != nil {
		t.Fatal(err)
	}
	for _, batch := range batches {
		if err := w.Write(batch); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(w.Close(), f.Close()); err != nil && !errors.Is(err, os.ErrClosed) {
		t.Fatal(err)
	}
}

// bad is a source that fails in every way.
type bad struct {
	*Batches
	open error
	next func() (arrow.RecordBatch, error)
}

func (b bad) Open([]int) (Reader, error)       { return b, b.open }
func (b bad) Next() (arrow.RecordBatch, error) { return b.next() }

func TestSourceFails(t *testing.T) {
	t.Parallel()
	db := open(t)
	schema := arrow.NewSchema([]arrow.Field{{Name: "a", Type: arrow.PrimitiveTypes.Int64}}, nil)
	for name, source := range map[string]bad{
		"open fails":  {NewBatches(schema), errors.New("open fails"), nil},
		"next fails":  {NewBatches(schema), nil, func() (arrow.RecordBatch, error) { return nil, errors.New("next fails") }},
		"next panics": {NewBatches(schema), nil, func() (arrow.RecordBatch, error) { panic("next panics") }},
	} {
		db.Register("bad", source)
		if err := db.Exec("SELECT sum(a) FROM arrow_batches('bad')"); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	if err := db.Exec("FROM arrow_batches('unknown')"); err == nil || !strings.Contains(err.Error(), `no table "unknown"`) {
		t.Errorf("got %v", err)
	}
	if got, err := db.Strings("SELECT 'still here'"); err != nil || got[0] != "still here" {
		t.Errorf("got %v, %v", got, err)
	}
}

func TestDamagedFiles(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "t.arrow")
	writeFile(t, path, batchOf(t, typeCases(), 100))
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, data := range [][]byte{nil, []byte("ARROW1"), whole[:len(whole)/2], whole[:len(whole)-1], whole[8:]} {
		if err := os.WriteFile(path, data, 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := OpenFiles([]string{path}); err == nil {
			t.Errorf("%d bytes were opened", len(data))
		}
	}
	if _, err := OpenFiles(nil); !errors.Is(err, ErrNoFiles) {
		t.Errorf("got %v", err)
	}
}

// TestResults covers result types that no Arrow source has.
func TestResults(t *testing.T) {
	t.Parallel()
	db := open(t)
	for sql, want := range map[string]string{
		"SELECT 170141183460469231731687303715884105::HUGEINT": "170141183460469231731687303715884105",
		"SELECT '12345678-1234-5678-1234-567812345678'::UUID":  "12345678-1234-5678-1234-567812345678",
		"SELECT 'b'::ENUM ('a', 'b')":                          "b",
		"SELECT '{\"a\": 1}'::JSON":                            `{"a": 1}`,
		"SELECT INTERVAL '1 month 2 days'":                     `{"months":1,"days":2,"nanoseconds":0}`,
		"SELECT NULL":                                          "(null)",
		"SELECT {'a': [1, 2], 'b': MAP {'k': 'v'}}":            `{"a":[1,2],"b":[{"key":"k","value":"v"}]}`,
		"SELECT repeat('x', 100000) FROM range(3)":             strings.Repeat("x", 100000),
		"SELECT TIMESTAMP 'infinity'::VARCHAR":                 "infinity",
	} {
		_, columns := read(t, db, sql)
		if got := columns[0].ValueStr(0); got != want {
			t.Errorf("%s: got %.200s", sql, got)
		}
	}
	if err := db.Exec("SELECT 1, '101'::BIT AS b"); err == nil || !strings.Contains(err.Error(), "b is BIT") {
		t.Errorf("got %v", err)
	}
	_, columns := read(t, db, "SELECT count(*), sum(length(s)) FROM (SELECT repeat('x', 1000) AS s FROM range(100000))")
	if got := columns[1].ValueStr(0); got != "100000000" {
		t.Errorf("got %s", got)
	}
}

// TestOddTypes has types that DuckDB or our scan may refuse: with the column's name, never by crashing.
func TestOddTypes(t *testing.T) {
	t.Parallel()
	db := open(t)
	dictionary := &arrow.DictionaryType{IndexType: arrow.PrimitiveTypes.Int8, ValueType: arrow.BinaryTypes.String}
	for _, c := range []struct {
		in      arrow.DataType
		samples string
		want    string // the error's text, "" if it can be read
	}{
		{arrow.ListOf(arrow.FixedWidthTypes.Float16), `[[1.5], null]`, "column odd: "},
		{arrow.ListOf(dictionary), `[["a"], null]`, "column odd: dictionaries inside"},
		{&arrow.Decimal256Type{Precision: 50, Scale: 2}, `["1.25", null]`, "column odd: "},
		{arrow.RunEndEncodedOf(arrow.PrimitiveTypes.Int32, arrow.BinaryTypes.String), `["a", "a", null]`, ""},
		{arrow.ListViewOf(arrow.PrimitiveTypes.Int64), `[[1, 2], null, []]`, ""},
		{arrow.BinaryTypes.BinaryView, `["AQID", null]`, ""},
		{arrow.StructOf(), `[{}, null]`, "column odd: "},
	} {
		column, _, err := array.FromJSON(memory.DefaultAllocator, c.in, strings.NewReader(c.samples))
		if err != nil {
			t.Fatalf("%s: %v", c.in, err)
		}
		schema := arrow.NewSchema([]arrow.Field{{Name: "odd", Type: c.in, Nullable: true}}, nil)
		db.Register("odd", NewBatches(schema, array.NewRecordBatch(schema, []arrow.Array{column}, int64(column.Len()))))
		err = db.Exec("FROM arrow_batches('odd')")
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: got %v, want %q", c.in, err, c.want)
		}
	}
}

// TestExtensions reads columns that an extension type of another library marks.
func TestExtensions(t *testing.T) {
	t.Parallel()
	db := open(t)
	mark := arrow.NewMetadata([]string{"ARROW:extension:name", "ARROW:extension:metadata"}, []string{"pandas.period", `{"freq": "D"}`})
	for _, c := range typeCases() {
		schema := arrow.NewSchema([]arrow.Field{{Name: "x", Type: c.in, Nullable: true, Metadata: mark}}, nil)
		column := tile(t, c.in, c.samples, 10)
		db.Register("x", NewBatches(schema, array.NewRecordBatch(schema, []arrow.Array{column}, 10)))
		_, columns := read(t, db, "FROM arrow_batches('x')")
		if columns[0].NullN() != column.NullN() {
			t.Errorf("%s: %d nulls, want %d", c.name, columns[0].NullN(), column.NullN())
		}
	}
}

func TestWide(t *testing.T) {
	t.Parallel()
	db := open(t)
	var columns []string
	for i := range 5000 {
		columns = append(columns, fmt.Sprintf("i + %d AS c%d", i, i))
	}
	_, got := read(t, db, "SELECT "+strings.Join(columns, ", ")+" FROM range(5000) r(i)")
	if last := got[4999].ValueStr(4999); len(got) != 5000 || last != "9998" {
		t.Errorf("%d columns, last %s", len(got), last)
	}
}

func TestEnumBatches(t *testing.T) {
	t.Parallel()
	db := open(t)
	_, columns := read(t, db, "SELECT CASE i % 2 WHEN 0 THEN 'a' ELSE 'b' END::ENUM ('a', 'b') AS e FROM range(10000) r(i)")
	if got := columns[0].Len(); got != 10000 || columns[0].ValueStr(9999) != "b" {
		t.Errorf("%d rows, last %s", got, columns[0].ValueStr(9999))
	}
}

func TestStatements(t *testing.T) {
	t.Parallel()
	db := open(t)
	for sql, want := range map[string]string{
		"":                   "not exactly one",
		"SELECT 1; SELECT 2": "not exactly one",
		"SELECT 1\x002":      "NUL",
		"SELEC":              "Parser Error",
		"SELECT x":           "Binder Error",
	} {
		if _, err := db.Prepare(sql); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v", sql, err)
		}
	}
	err := db.Exec("SELECT 1 / 0, error('boom')")
	var e *Error
	if !errors.As(err, &e) || e.Class != "Invalid Input Error" || e.Message != "boom" {
		t.Errorf("got %#v", err)
	}
}
