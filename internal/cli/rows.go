package cli

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/ipc"
	"github.com/dustin/go-humanize"
	"github.com/mattn/go-runewidth"

	tarnv1 "tarn.dev/tarn/api/gen/tarn/v1"
	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/cli/ui"
	"tarn.dev/tarn/internal/client"
	"tarn.dev/tarn/internal/query"
)

// terminalRows is how many rows a person gets to see.
const terminalRows = 40

// rowFormats are the ways to print rows, in the order of the help.
var rowFormats = []string{"table", "csv", "json", "jsonl", "markdown", "arrow"}

// rowsJSON is rows in every document: an object for each.
type rowsJSON struct {
	Columns []columnJSON    `json:"columns"`
	Rows    json.RawMessage `json:"rows"`
}

type columnJSON struct {
	Name string `json:"name"`
	Type string `json:"type"` // as SQL says it
}

// rowPrinter prints an Arrow IPC stream. Without a format a person gets an aligned table, a pipe CSV; with
// --json it collects what the document will hold.
type rowPrinter struct {
	a      *app
	format string
	total  int64 // rows that came
	doc    rowsJSON
}

// rowWriter is one format.
type rowWriter interface {
	head(schema *arrow.Schema)
	row(columns []arrow.Array, i int)
	end()
}

// print reads the stream to its end.
func (p *rowPrinter) print(in io.Reader) error {
	if p.format == "arrow" && !p.a.json {
		_, err := io.Copy(p.a.out, in)
		return err
	}
	rd, err := ipc.NewReader(in)
	if err != nil {
		return err
	}
	defer rd.Release()
	buffer := bufio.NewWriterSize(p.a.out, 64<<10)
	var collected strings.Builder
	if p.a.json {
		buffer = bufio.NewWriter(&collected)
	}
	names := uniqueNames(rd.Schema())
	p.doc.Columns = []columnJSON{}
	for i, f := range rd.Schema().Fields() {
		p.doc.Columns = append(p.doc.Columns, columnJSON{names[i], query.DuckType(f.Type)})
	}
	w := p.writer(buffer)
	w.head(rd.Schema())
	for rd.Next() {
		batch := rd.RecordBatch()
		for i := range int(batch.NumRows()) {
			w.row(batch.Columns(), i)
		}
		p.total += batch.NumRows()
		if err := buffer.Flush(); err != nil { // a reader sees the first rows at once
			return err
		}
	}
	if err := rd.Err(); err != nil {
		return err
	}
	w.end()
	err = buffer.Flush()
	p.doc.Rows = json.RawMessage(collected.String())
	return err
}

func (p *rowPrinter) writer(to *bufio.Writer) rowWriter {
	format := p.format
	switch {
	case p.a.json:
		format = "json"
	case format == "" && p.a.out.Terminal:
		format = "table"
	case format == "":
		format = "csv"
	}
	switch format {
	case "table":
		return &gridRows{to: to, out: p.a.out}
	case "markdown":
		return &markdownRows{to}
	case "json", "jsonl":
		return &jsonRows{to: to, lines: format == "jsonl"}
	}
	return &csvRows{to}
}

// uniqueNames are the columns' names, a second a being a_1: an object has one of each.
func uniqueNames(schema *arrow.Schema) []string {
	seen := map[string]bool{}
	names := make([]string, schema.NumFields())
	for i, f := range schema.Fields() {
		name := f.Name
		for n := 1; seen[name]; n++ {
			name = fmt.Sprintf("%s_%d", f.Name, n)
		}
		names[i], seen[name] = name, true
	}
	return names
}

// Writes to a bufio.Writer keep the first error until Flush, which is where it is looked at.

// csvRows is RFC 4180 with a head. Null is nothing, the empty string is "".
type csvRows struct{ to *bufio.Writer }

func (w *csvRows) head(schema *arrow.Schema) {
	for i, f := range schema.Fields() {
		w.cell(i, f.Name)
	}
	_ = w.to.WriteByte('\n')
}

func (w *csvRows) row(columns []arrow.Array, row int) {
	for i, c := range columns {
		if c.IsNull(row) {
			if i > 0 {
				_ = w.to.WriteByte(',')
			}
			continue
		}
		w.cell(i, cellText(c, row))
	}
	_ = w.to.WriteByte('\n')
}

func (w *csvRows) cell(i int, text string) {
	if i > 0 {
		_ = w.to.WriteByte(',')
	}
	if text == "" || strings.ContainsAny(text, ",\"\r\n") || text[0] == ' ' || text[len(text)-1] == ' ' {
		text = `"` + strings.ReplaceAll(text, `"`, `""`) + `"`
	}
	_, _ = w.to.WriteString(text)
}

func (w *csvRows) end() {}

// jsonRows is one array of objects, or an object in each line.
type jsonRows struct {
	to    *bufio.Writer
	lines bool
	names [][]byte
	rows  int64
	line  []byte
}

func (w *jsonRows) head(schema *arrow.Schema) {
	for _, name := range uniqueNames(schema) {
		w.names = append(w.names, append(appendString(nil, name), ':', ' '))
	}
	if !w.lines {
		_ = w.to.WriteByte('[')
	}
}

func (w *jsonRows) row(columns []arrow.Array, row int) {
	b := w.line[:0]
	if !w.lines && w.rows > 0 {
		b = append(b, ',')
	}
	if !w.lines {
		b = append(b, '\n')
	}
	b = append(b, '{')
	for i, c := range columns {
		if i > 0 {
			b = append(b, ',', ' ')
		}
		b = appendCell(append(b, w.names[i]...), c, row)
	}
	b = append(b, '}')
	if w.lines {
		b = append(b, '\n')
	}
	_, _ = w.to.Write(b)
	w.line, w.rows = b, w.rows+1
}

func (w *jsonRows) end() {
	if !w.lines {
		_, _ = w.to.WriteString("\n]\n")
	}
}

// markdownRows is a table for a page or a chat.
type markdownRows struct{ to *bufio.Writer }

var markdownEscapes = strings.NewReplacer("|", `\|`, "\r\n", "<br>", "\n", "<br>", "\r", "<br>")

func (w *markdownRows) head(schema *arrow.Schema) {
	var names, rule strings.Builder
	for _, f := range schema.Fields() {
		names.WriteString(" " + markdownEscapes.Replace(f.Name) + " |")
		if numeric(f.Type) {
			rule.WriteString(" --: |")
		} else {
			rule.WriteString(" --- |")
		}
	}
	_, _ = w.to.WriteString("|" + names.String() + "\n|" + rule.String() + "\n")
}

func (w *markdownRows) row(columns []arrow.Array, row int) {
	_ = w.to.WriteByte('|')
	for _, c := range columns {
		text := ""
		if !c.IsNull(row) {
			text = markdownEscapes.Replace(cellText(c, row))
		}
		_, _ = w.to.WriteString(" " + text + " |")
	}
	_ = w.to.WriteByte('\n')
}

func (w *markdownRows) end() {}

func numeric(t arrow.DataType) bool {
	return arrow.IsInteger(t.ID()) || arrow.IsFloating(t.ID()) || arrow.IsDecimal(t.ID())
}

// gridRows is an aligned table. Only a terminal gets clipped cells and columns.
type gridRows struct {
	to     *bufio.Writer
	out    ui.Out
	right  []bool
	heads  [][]string // name and type
	rows   [][]string
	widths []int // set when the first rows have been measured
	shown  []int // columns
}

const (
	// measuredRows are looked at before the first is printed; wider cells of later ones stick out.
	measuredRows = 1000
	// maxCell and minCell bound the width of a clipped cell.
	maxCell = 60
	minCell = 8
)

func (w *gridRows) head(schema *arrow.Schema) {
	names, types := []string{}, []string{}
	for _, f := range schema.Fields() {
		names, types = append(names, ui.Clean(f.Name)), append(types, strings.ToLower(query.DuckType(f.Type)))
		w.right = append(w.right, numeric(f.Type))
	}
	w.heads = [][]string{names, types}
}

func (w *gridRows) row(columns []arrow.Array, row int) {
	cells := make([]string, len(columns))
	for i, c := range columns {
		if c.IsNull(row) {
			cells[i] = nullCell
		} else {
			cells[i] = ui.Clean(cellText(c, row))
		}
	}
	w.rows = append(w.rows, cells)
	if len(w.rows) == measuredRows {
		w.flush()
	}
}

const nullCell = "NULL"

func (w *gridRows) end() { w.flush() }

func (w *gridRows) flush() {
	if w.widths == nil {
		w.measure()
		w.line(w.heads[0], w.out.Bold)
		w.line(w.heads[1], w.out.Dim)
	}
	for _, cells := range w.rows {
		w.line(cells, nil)
	}
	w.rows = w.rows[:0]
}

// measure fits the columns to the terminal: first the widest are clipped, then those in the middle are left out.
func (w *gridRows) measure() {
	w.widths = make([]int, len(w.right))
	for i := range w.right {
		w.shown = append(w.shown, i)
		for _, cells := range append(w.heads[:2:2], w.rows...) {
			w.widths[i] = max(w.widths[i], runewidth.StringWidth(cells[i]))
		}
	}
	if !w.out.Terminal {
		return
	}
	for i := range w.widths {
		w.widths[i] = min(w.widths[i], maxCell)
	}
	room := w.out.Width()
	for w.total() > room {
		widest := slices.MaxFunc(w.shown, func(a, b int) int { return w.widths[a] - w.widths[b] })
		if w.widths[widest] <= minCell {
			break
		}
		w.widths[widest]--
	}
	for w.total() > room && len(w.shown) > 1 {
		w.shown = slices.Delete(w.shown, len(w.shown)/2, len(w.shown)/2+1)
	}
}

func (w *gridRows) total() int {
	n := 2 * (len(w.shown) - 1)
	for _, i := range w.shown {
		n += w.widths[i]
	}
	if len(w.shown) < len(w.widths) {
		n += len(gap) + 1 // the mark of what was left out is two wide with its space
	}
	return n
}

// gap marks columns that were left out.
const gap = "…"

func (w *gridRows) line(cells []string, paint func(string) string) {
	var line strings.Builder
	for n, i := range w.shown {
		if n > 0 {
			line.WriteString("  ")
			if i > w.shown[n-1]+1 {
				line.WriteString(gap + "  ")
			}
		}
		cell := cells[i]
		if w.out.Terminal {
			cell = runewidth.Truncate(cell, w.widths[i], "…")
		}
		pad := strings.Repeat(" ", max(0, w.widths[i]-runewidth.StringWidth(cell)))
		switch {
		case paint != nil:
			cell = paint(cell)
		case cell == nullCell:
			cell = w.out.Dim(cell)
		}
		if w.right[i] {
			line.WriteString(pad + cell)
		} else {
			line.WriteString(cell + pad)
		}
	}
	_, _ = w.to.WriteString(strings.TrimRight(line.String(), " ") + "\n")
}

// footer says how much of what there is was shown.
func (p *rowPrinter) footer(total int64) string {
	text := ui.Count(total, "row")
	if p.total < total {
		text = humanize.Comma(p.total) + " of " + text
	}
	return text
}

// printStream prints rows that arrive in pieces: next gives the next one, and io.EOF after the last. A
// stream without any piece has no rows, and no columns.
func (a *app) printStream(format string, next func() ([]byte, error)) (*rowPrinter, error) {
	p := &rowPrinter{a: a, format: format}
	in := &pieces{next: next}
	err := p.print(in)
	switch {
	case in.err != nil && !errors.Is(in.err, io.EOF):
		return p, in.err // what the server said tells more than what Arrow makes of it
	case in.err != nil && !in.began:
		return p, nil
	}
	return p, err
}

// pieces reads a stream of messages.
type pieces struct {
	next  func() ([]byte, error)
	data  []byte
	err   error
	began bool // something came
}

func (p *pieces) Read(b []byte) (int, error) {
	for len(p.data) == 0 {
		if p.err != nil {
			return 0, p.err
		}
		p.data, p.err = p.next()
		p.began = p.began || len(p.data) > 0
	}
	n := copy(b, p.data)
	p.data = p.data[n:]
	return n, nil
}

// queryRows runs a statement and prints its rows.
func (a *app) queryRows(ctx context.Context, t target, format string, req *tarnv1.QueryRequest) (*rowPrinter, *tarnv1.QuerySummary, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // a stream that is given up ends the query
	stream, err := t.Queries.Query(ctx, req)
	if err != nil {
		return nil, nil, err
	}
	var summary *tarnv1.QuerySummary
	next := func() ([]byte, error) {
		for stream.Receive() {
			if s := stream.Msg().GetSummary(); s != nil {
				summary = s
				continue
			}
			return stream.Msg().GetData(), nil
		}
		if err := client.Error(stream.Err()); err != nil {
			return nil, err
		}
		return nil, io.EOF
	}
	p, err := a.printStream(format, next)
	for err == nil { // past the end of the rows
		_, err = next()
	}
	if !errors.Is(err, io.EOF) {
		return nil, nil, err
	}
	if summary == nil {
		return nil, nil, errdef.New(errdef.Internal, "cli.query", "the server ended the query without a word")
	}
	return p, summary, nil
}
