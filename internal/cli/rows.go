package cli

import (
	"context"
	"encoding/csv"
	"encoding/json"
	"errors"
	"io"
	"strconv"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/ipc"

	tarnv1 "tarn.dev/tarn/api/gen/tarn/v1"
	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/cli/ui"
	"tarn.dev/tarn/internal/client"
)

// terminalRows is how many rows a person gets to see.
const terminalRows = 40

// maxCell bounds the width of a cell on a terminal.
const maxCell = 60

// rowsJSON is rows in every document. Values are as Arrow writes them in JSON.
type rowsJSON struct {
	Columns []columnJSON        `json:"columns"`
	Rows    [][]json.RawMessage `json:"rows"`
}

type columnJSON struct {
	Name string `json:"name"`
	Type string `json:"type"`
}

// rowPrinter prints an Arrow IPC stream: to a person the first rows, aligned; into a pipe everything as
// CSV; with --json it collects what the document will hold.
type rowPrinter struct {
	a      *app
	total  int64
	doc    rowsJSON
	shown  [][]string
	heads  []ui.Column
	writer *csv.Writer
}

// print reads the stream to its end. A reader that nobody reads from any more ends it early.
func (p *rowPrinter) print(in io.Reader) error {
	rd, err := ipc.NewReader(in)
	if err != nil {
		return err
	}
	defer rd.Release()
	p.doc = rowsJSON{Columns: []columnJSON{}, Rows: [][]json.RawMessage{}}
	names := []string{}
	for _, f := range rd.Schema().Fields() {
		p.doc.Columns = append(p.doc.Columns, columnJSON{f.Name, f.Type.String()})
		p.heads = append(p.heads, ui.Column{Name: ui.Clean(f.Name), Right: rightAligned(f.Type)})
		names = append(names, f.Name)
	}
	p.writer = csv.NewWriter(p.a.out)
	if p.streams() {
		if err := p.writer.Write(names); err != nil {
			return err
		}
	}
	for rd.Next() {
		if err := p.batch(rd.RecordBatch()); err != nil {
			return err
		}
	}
	if err := rd.Err(); err != nil {
		return err
	}
	p.writer.Flush()
	if err := p.writer.Error(); err != nil {
		return err
	}
	if !p.a.json && p.a.out.Terminal {
		p.a.out.Table(p.heads, p.shown)
	}
	return nil
}

func (p *rowPrinter) streams() bool { return !p.a.json && !p.a.out.Terminal }

func rightAligned(t arrow.DataType) bool {
	return arrow.IsInteger(t.ID()) || arrow.IsFloating(t.ID()) || arrow.IsDecimal(t.ID())
}

func (p *rowPrinter) batch(b arrow.RecordBatch) error {
	columns := b.Columns()
	for row := range int(b.NumRows()) {
		p.total++
		switch {
		case p.a.json:
			cells := make([]json.RawMessage, len(columns))
			for i, c := range columns {
				v, err := json.Marshal(c.GetOneForMarshal(row))
				if err != nil { // NaN and the infinities have no JSON
					v = []byte(strconv.Quote(c.ValueStr(row)))
				}
				cells[i] = v
			}
			p.doc.Rows = append(p.doc.Rows, cells)
		case p.streams():
			cells := make([]string, len(columns))
			for i, c := range columns {
				if !c.IsNull(row) {
					cells[i] = c.ValueStr(row)
				}
			}
			if err := p.writer.Write(cells); err != nil {
				return err
			}
		case len(p.shown) < terminalRows:
			cells := make([]string, len(columns))
			for i, c := range columns {
				if c.IsNull(row) {
					cells[i] = p.a.out.Dim("null")
					continue
				}
				text := []rune(ui.Clean(c.ValueStr(row)))
				if len(text) > maxCell {
					text = append(text[:maxCell-3], []rune("...")...)
				}
				cells[i] = string(text)
			}
			p.shown = append(p.shown, cells)
		}
	}
	return nil
}

// printStream prints rows that arrive in pieces: next gives the next one, and io.EOF after the last.
func (a *app) printStream(next func() ([]byte, error)) (*rowPrinter, error) {
	p := &rowPrinter{a: a}
	in := &pieces{next: next}
	err := p.print(in)
	if in.err != nil && !errors.Is(in.err, io.EOF) {
		return p, in.err // what the server said tells more than what Arrow makes of it
	}
	if !in.began && in.err != nil {
		return p, nil // a statement without rows
	}
	return p, err
}

// pieces reads a stream of messages.
type pieces struct {
	next func() ([]byte, error)
	data []byte
	err  error

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

// queryRows runs a SELECT and prints its rows.
func (a *app) queryRows(ctx context.Context, t target, req *tarnv1.QueryRequest) (*rowPrinter, *tarnv1.QuerySummary, error) {
	stream, err := t.Queries.Query(ctx, req)
	if err != nil {
		return nil, nil, err
	}
	defer stream.Close() //nolint:errcheck // read to its end, or given up
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
	p, err := a.printStream(next)
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
