package catalog_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/ipc"

	"tarn.dev/tarn/internal/catalog/dataver"
	"tarn.dev/tarn/internal/lake"
)

// readersPython is a Python that has the readers of testdata/readers.txt: TARN_TEST_READERS, or a
// virtual environment that the first test run makes in the user's cache.
var readersPython = sync.OnceValues(func() (string, error) {
	if p := os.Getenv("TARN_TEST_READERS"); p != "" {
		return p, nil
	}
	pins, err := os.ReadFile("testdata/readers.txt")
	if err != nil {
		return "", err
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(pins)
	dir := filepath.Join(cache, "tarn-test", "readers-"+hex.EncodeToString(sum[:6]))
	python := filepath.Join(dir, "bin", "python")
	if _, err := os.Stat(filepath.Join(dir, "complete")); err == nil {
		return python, nil
	}
	for _, args := range [][]string{
		{"python3", "-m", "venv", "--clear", dir},
		{python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", "testdata/readers.txt"},
	} {
		cmd := exec.Command(args[0], args[1:]...)
		cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
		if err := cmd.Run(); err != nil {
			return "", err
		}
	}
	return python, os.WriteFile(filepath.Join(dir, "complete"), nil, 0o600)
})

// readBy reads the table of e with another program; more goes to read.py.
func (b *bench) readBy(t *testing.T, kind string, e lake.Entry, more ...string) []arrow.RecordBatch {
	t.Helper()
	if testing.Short() {
		t.Skip("starts Python readers")
	}
	python, err := readersPython()
	if err != nil {
		t.Fatalf("the readers of testdata/readers.txt cannot be installed: %v", err)
	}
	out := filepath.Join(t.TempDir(), "out.arrow")
	args := []string{"testdata/read.py", kind}
	if kind == "iceberg" {
		args = append(args, b.blobs.URI(e.Location.Table), out)
	} else {
		args = append(args, out)
		scan, err := b.Scan(context.Background(), e)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range scan.Files {
			args = append(args, strings.TrimPrefix(f.URI, "file://"))
		}
	}
	cmd := exec.Command(python, append(args, more...)...)
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", kind, err, text)
	}
	f, err := os.Open(out)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	r, err := ipc.NewFileReader(f)
	if err != nil {
		t.Fatal(err)
	}
	var recs []arrow.RecordBatch
	for i := range r.NumRecords() {
		rec, err := r.RecordBatchAt(i)
		if err != nil {
			t.Fatal(err)
		}
		recs = append(recs, rec)
	}
	return recs
}

func sumOf(t testing.TB, recs ...arrow.RecordBatch) (s dataver.Sum) {
	t.Helper()
	for _, r := range recs {
		h, err := dataver.NewHasher(r.Schema())
		if err != nil {
			t.Fatal(err)
		}
		if err := h.Write(r); err != nil {
			t.Fatal(err)
		}
		s = s.Add(h.Sum())
	}
	return s
}

// TestOthersReadTheSame lets pyiceberg and DuckDB read a table of all types that exist outside of
// Arrow, with nulls, and compares data versions: one bit of one value would show.
func TestOthersReadTheSame(t *testing.T) {
	t.Parallel()
	b, ctx := setup(t), context.Background()
	sc := schemaOf(
		"b", arrow.FixedWidthTypes.Boolean, "i8", arrow.PrimitiveTypes.Int8, "i32", arrow.PrimitiveTypes.Int32,
		"i64", arrow.PrimitiveTypes.Int64, "u32", arrow.PrimitiveTypes.Uint32, "u64", arrow.PrimitiveTypes.Uint64,
		"f16", arrow.FixedWidthTypes.Float16, "f32", arrow.PrimitiveTypes.Float32, "f64", arrow.PrimitiveTypes.Float64,
		"d9", &arrow.Decimal128Type{Precision: 9, Scale: 2}, "d18", &arrow.Decimal128Type{Precision: 18, Scale: 5},
		"d38", &arrow.Decimal128Type{Precision: 38, Scale: 10}, "d256", &arrow.Decimal256Type{Precision: 50, Scale: 2},
		"s", arrow.BinaryTypes.String, "größe ä.b", arrow.BinaryTypes.LargeString, "bin", arrow.BinaryTypes.Binary,
		"fix", &arrow.FixedSizeBinaryType{ByteWidth: 2},
		"date", arrow.FixedWidthTypes.Date32, "date64", arrow.FixedWidthTypes.Date64, "time", arrow.FixedWidthTypes.Time32ms,
		"ts_s", &arrow.TimestampType{Unit: arrow.Second}, "ts_ms", &arrow.TimestampType{Unit: arrow.Millisecond},
		"ts_ns", &arrow.TimestampType{Unit: arrow.Nanosecond}, "ts_tz", &arrow.TimestampType{Unit: arrow.Millisecond, TimeZone: "Europe/Berlin"},
		"list", arrow.ListOf(arrow.PrimitiveTypes.Int16), "fsl", arrow.FixedSizeListOf(2, arrow.PrimitiveTypes.Float64),
		"st", arrow.StructOf(arrow.Field{Name: "x", Type: arrow.PrimitiveTypes.Int64, Nullable: true}, arrow.Field{Name: "y", Type: arrow.ListOf(arrow.BinaryTypes.String), Nullable: true}),
		"map", arrow.MapOf(arrow.BinaryTypes.String, arrow.PrimitiveTypes.Int32),
		"dict", &arrow.DictionaryType{IndexType: arrow.PrimitiveTypes.Int32, ValueType: arrow.BinaryTypes.String},
	)
	first := rec(t, sc, `[
	 {"b":true,"i8":-128,"i32":-5,"i64":9223372036854775807,"u32":4294967295,"u64":17,"f16":1.5,"f32":1.1,"f64":-0.0,"d9":"1.50","d18":"-12.34500","d38":"1234567890123456789012345678.0123456789","d256":"12.50","s":"","größe ä.b":"x","bin":"AAE=","fix":"AAE=","date":"1969-12-31","date64":"2024-02-29","time":"12:00:00.001","ts_s":"1900-01-01 00:00:01","ts_ms":"2024-01-01 00:00:00.001","ts_ns":"2024-01-01 00:00:00.000001000","ts_tz":"2024-03-31 01:30:00Z","list":[1,null,3],"fsl":[1.5,null],"st":{"x":1,"y":["a",null]},"map":[{"key":"k","value":1},{"key":"l","value":null}],"dict":"p"},
	 {"b":null},
	 {"b":false,"list":[],"fsl":[0,-1],"st":{"x":null,"y":[]},"map":[],"dict":"q","s":"größe","f64":1e308,"ts_tz":"1969-12-31 23:59:59Z"}]`)
	e, err := b.Create(ctx, "orders", b.write(t, nil, false, first), nil)
	if err != nil {
		t.Fatal(err)
	}
	second := rec(t, schemaOf("b", arrow.FixedWidthTypes.Boolean, "i8", arrow.PrimitiveTypes.Int64, "added", arrow.BinaryTypes.String),
		`[{"b":true,"i8":3000000000,"added":"new"}]`)
	e2, err := b.Append(ctx, "orders", e, b.write(t, &e, true, second))
	if err != nil {
		t.Fatal(err)
	}
	for _, kind := range []string{"iceberg", "duckdb"} {
		for _, e := range []lake.Entry{e, e2} {
			if got := sumOf(t, b.readBy(t, kind, e)...).String(); got != e.Version {
				t.Errorf("%s read %s, the table is %s", kind, got, e.Version)
			}
		}
	}
}
