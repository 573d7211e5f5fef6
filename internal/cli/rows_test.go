package cli

import (
	"bytes"
	"io"
	"regexp"
	"strings"
	"testing"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/ipc"
	"github.com/apache/arrow-go/v18/arrow/memory"
	"github.com/google/go-cmp/cmp"
	"github.com/mattn/go-runewidth"

	"tarn.dev/tarn/internal/cli/ui"
)

// rowsStream is an Arrow IPC stream of rows written as JSON.
func rowsStream(t *testing.T, schema *arrow.Schema, rows string) []byte {
	t.Helper()
	batch, _, err := array.RecordFromJSON(memory.DefaultAllocator, schema, strings.NewReader(rows))
	if err != nil {
		t.Fatal(err)
	}
	defer batch.Release()
	var out bytes.Buffer
	w := ipc.NewWriter(&out, ipc.WithSchema(schema))
	if err := w.Write(batch); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

var escapes = regexp.MustCompile("\x1b\\[[0-9;]*m")

func printed(t *testing.T, terminal bool, format string, schema *arrow.Schema, rows string) string {
	t.Helper()
	var out bytes.Buffer
	a := &app{out: ui.Out{Writer: &out, Terminal: terminal}}
	left := rowsStream(t, schema, rows)
	_, err := a.printStream(format, func() ([]byte, error) {
		if len(left) == 0 {
			return nil, io.EOF
		}
		piece := left[:min(7, len(left))]
		left = left[len(piece):]
		return piece, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return escapes.ReplaceAllString(out.String(), "")
}

func column(name string, kind arrow.DataType) arrow.Field {
	return arrow.Field{Name: name, Type: kind, Nullable: true}
}

func TestTerminalClips(t *testing.T) {
	t.Parallel()
	schema := arrow.NewSchema([]arrow.Field{column("id", arrow.PrimitiveTypes.Int64), column("text", arrow.BinaryTypes.String)}, nil)
	got := printed(t, true, "", schema, `[{"id": 7, "text": "`+strings.Repeat("長", 100)+`"}, {"text": "\u001b[31mred"}]`)
	want := strings.Join([]string{
		"    id  text",
		"bigint  varchar",
		"     7  " + strings.Repeat("長", 29) + "…",
		`  NULL  "\x1b[31mred"`, "",
	}, "\n")
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if got := printed(t, false, "csv", schema, `[{"text": "`+strings.Repeat("x", 1000)+`"}]`); len(got) < 1000 {
		t.Errorf("a pipe got a clipped cell: %s", got)
	}
}

func TestTerminalLeavesColumnsOut(t *testing.T) {
	t.Parallel()
	var fields []arrow.Field
	var cells []string
	for i := range 40 {
		name := "column" + string(rune('a'+i%26)) + string(rune('a'+i/26))
		fields = append(fields, column(name, arrow.BinaryTypes.String))
		cells = append(cells, `"`+name+`": "value of it"`)
	}
	got := printed(t, true, "", arrow.NewSchema(fields, nil), "[{"+strings.Join(cells, ",")+"}]")
	for line := range strings.Lines(got) {
		if width := runewidth.StringWidth(strings.TrimSpace(line)); width > 80 || !strings.Contains(line, " … ") {
			t.Errorf("%d wide: %s", width, line)
		}
	}
}

func TestNamesOfColumns(t *testing.T) {
	t.Parallel()
	schema := arrow.NewSchema([]arrow.Field{column("a", arrow.PrimitiveTypes.Int8), column("a", arrow.PrimitiveTypes.Int8), column("a_1", arrow.PrimitiveTypes.Int8)}, nil)
	if diff := cmp.Diff([]string{"a", "a_1", "a_1_1"}, uniqueNames(schema)); diff != "" {
		t.Error(diff)
	}
}

func TestSpans(t *testing.T) {
	t.Parallel()
	for want, got := range map[string]string{
		"00:00:00":                    spanText(0, 0, 0),
		"1 year 1 month":              spanText(13, 0, 0),
		"-1 day -00:00:01.5":          spanText(0, -1, -1500000000),
		"2 days 49:00:00.000000001":   spanText(0, 2, 49*3600e9+1),
		"-2562047:47:16.854775808":    spanText(0, 0, -1<<63),
		"-1 year -2 months 3 days":    spanText(-14, 3, 0),
		"1 year 2 months 00:00:00.25": spanText(14, 0, 250000000),
	} {
		if got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}
