package cli

import (
	"context"
	"errors"
	"io"
	"strings"

	tarnv1 "tarn.dev/tarn/api/gen/tarn/v1"
	"tarn.dev/tarn/internal/cli/ui"
	"tarn.dev/tarn/internal/client"
)

// diffRows prints the rows of a table that differ between two refs.
func (a *app) diffRows(ctx context.Context, t target, from, to, table string) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // a stream that is given up ends the comparison
	stream, err := t.Tables.DiffRows(ctx, &tarnv1.DiffRowsRequest{Project: t.project, From: from, To: to, Table: table})
	if err != nil {
		return err
	}
	var summary *tarnv1.DiffRowsSummary
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
	p, err := a.printStream("", next)
	for err == nil { // past the end of the rows
		_, err = next()
	}
	if !errors.Is(err, io.EOF) {
		return err
	}
	doc := map[string]any{
		"table": table, "from": from, "to": to, "columns": p.doc.Columns, "rows": p.doc.Rows,
		"added": summary.GetAdded(), "removed": summary.GetRemoved(), "changed": summary.GetChanged(),
	}
	a.print(doc, func() {
		var parts []string
		for _, n := range []struct {
			rows int64
			what string
		}{{summary.GetAdded(), "added"}, {summary.GetRemoved(), "removed"}, {summary.GetChanged(), "changed"}} {
			if n.rows > 0 {
				parts = append(parts, ui.Count(n.rows, "row")+" "+n.what)
			}
		}
		if len(parts) == 0 {
			a.note("no row of %s differs between %s and %s", table, from, to)
			return
		}
		a.note("%s from %s to %s", strings.Join(parts, ", "), from, to)
	})
	return nil
}
