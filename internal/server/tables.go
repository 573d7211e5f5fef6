package server

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"strings"

	"connectrpc.com/connect"
	"github.com/apache/arrow-go/v18/arrow/ipc"

	tarnv1 "tarn.dev/tarn/api/gen/tarn/v1"
	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/flow"
)

// Errors of table calls.
var (
	errTableProtocol = errdef.New(errdef.InvalidArgument, "server.write_protocol", "a write is `head`, then an Arrow IPC stream as `data`")
	errOptions       = errdef.New(errdef.InvalidArgument, "server.options", "the options are not a JSON object")
)

type tableService struct{ projects Projects }

func (s *tableService) open(ctx context.Context, project string) (*flow.Flow, error) {
	p, err := s.projects.Open(ctx, project)
	if err != nil {
		return nil, err
	}
	return p.Flow, nil
}

// tableWrite is what a request says of its write.
func tableWrite(w *tarnv1.Write, table, mode string, key []string) (flow.TableWrite, error) {
	if err := checkWrite(w); err != nil {
		return flow.TableWrite{}, err
	}
	return flow.TableWrite{Branch: w.GetInto(), Info: info(w, ""), Dir: w.GetDir(), Table: table, Mode: flow.TableMode(mode), Key: key}, nil
}

func imported(branch string, t *flow.TableWritten) *tarnv1.Imported {
	return &tarnv1.Imported{Written: written(branch, t.Published), Table: toEntry(t.Key, t.Entry), RowsBefore: t.Before, Checks: toChecks(t.Checks)}
}

func (s *tableService) Import(ctx context.Context, in *tarnv1.ImportRequest, out *connect.ServerStream[tarnv1.ImportResponse]) error {
	w, err := tableWrite(in.GetWrite(), in.GetTable(), in.GetMode(), in.GetKey())
	if err != nil {
		return err
	}
	r := flow.ImportRequest{TableWrite: w, Sources: in.GetSources(), Format: in.GetFormat()}
	if text := in.GetOptionsJson(); text != "" {
		d := json.NewDecoder(strings.NewReader(text))
		d.UseNumber()
		if err := d.Decode(&r.Options); err != nil {
			return errOptions.Errorf("options_json is not a JSON object: %w", err)
		}
	}
	f, err := s.open(ctx, in.GetWrite().GetProject())
	if err != nil {
		return err
	}
	// Files are read on several goroutines, and one stream takes one message at a time. Progress that
	// nobody takes in time is dropped.
	steps := make(chan flow.ImportProgress, 1)
	type result struct {
		written *flow.TableWritten
		err     error
	}
	done := make(chan result, 1)
	go func() {
		written, err := f.Import(ctx, r, func(p flow.ImportProgress) {
			select {
			case steps <- p:
			default:
			}
		})
		done <- result{written, err}
	}()
	var broken error
	for {
		select {
		case p := <-steps:
			if broken == nil {
				broken = out.Send(&tarnv1.ImportResponse{Event: &tarnv1.ImportResponse_Progress{Progress: &tarnv1.Progress{
					Phase: p.Phase, Bytes: p.Bytes, TotalBytes: p.Total,
				}}})
			}
		case r := <-done:
			if err := errors.Join(r.err, broken); err != nil {
				return err
			}
			return out.Send(&tarnv1.ImportResponse{Event: &tarnv1.ImportResponse_Done{Done: imported(w.Branch, r.written)}})
		}
	}
}

func (s *tableService) Write(ctx context.Context, in *connect.ClientStream[tarnv1.WriteTableRequest]) (*tarnv1.WriteTableResponse, error) {
	if !in.Receive() {
		return nil, errors.Join(in.Err(), errTableProtocol)
	}
	head := in.Msg().GetHead()
	if head == nil {
		return nil, errTableProtocol
	}
	w, err := tableWrite(head.GetWrite(), head.GetTable(), head.GetMode(), head.GetKey())
	if err != nil {
		return nil, err
	}
	f, err := s.open(ctx, head.GetWrite().GetProject())
	if err != nil {
		return nil, err
	}
	written, err := f.WriteRows(ctx, w, &tableReader{in: in})
	if err != nil {
		return nil, err
	}
	return &tarnv1.WriteTableResponse{Done: imported(w.Branch, written)}, nil
}

// tableReader is the bytes of a write.
type tableReader struct {
	in   *connect.ClientStream[tarnv1.WriteTableRequest]
	data []byte
}

func (r *tableReader) Read(b []byte) (int, error) {
	for len(r.data) == 0 {
		if !r.in.Receive() {
			if err := r.in.Err(); err != nil {
				return 0, err
			}
			return 0, io.EOF
		}
		d, ok := r.in.Msg().GetEvent().(*tarnv1.WriteTableRequest_Data)
		if !ok {
			return 0, errTableProtocol
		}
		r.data = d.Data
	}
	n := copy(b, r.data)
	r.data = r.data[n:]
	return n, nil
}

func (s *tableService) Link(ctx context.Context, in *tarnv1.LinkTableRequest) (*tarnv1.LinkTableResponse, error) {
	w, err := tableWrite(in.GetWrite(), in.GetTable(), "", nil)
	if err != nil {
		return nil, err
	}
	f, err := s.open(ctx, in.GetWrite().GetProject())
	if err != nil {
		return nil, err
	}
	written, err := f.LinkTable(ctx, w, in.GetUrls())
	if err != nil {
		return nil, err
	}
	return &tarnv1.LinkTableResponse{Done: imported(w.Branch, written)}, nil
}

func (s *tableService) List(ctx context.Context, in *tarnv1.ListTablesRequest) (*tarnv1.ListTablesResponse, error) {
	f, err := s.open(ctx, in.GetProject())
	if err != nil {
		return nil, err
	}
	tables, err := f.ListTables(ctx, in.GetRef())
	if err != nil {
		return nil, err
	}
	resp := &tarnv1.ListTablesResponse{}
	for _, ke := range tables {
		resp.Tables = append(resp.Tables, toEntry(ke.Key, ke.Entry))
	}
	return resp, nil
}

func (s *tableService) Describe(ctx context.Context, in *tarnv1.DescribeTableRequest) (*tarnv1.DescribeTableResponse, error) {
	f, err := s.open(ctx, in.GetProject())
	if err != nil {
		return nil, err
	}
	t, err := f.DescribeTable(ctx, in.GetRef(), in.GetTable())
	if err != nil {
		return nil, err
	}
	resp := &tarnv1.DescribeTableResponse{
		Table: toEntry(t.Key, t.Entry), Key: t.RowKey, Checks: t.Checks, Warn: t.Warn, Description: t.Description, Asset: t.Asset, MetadataUri: t.Metadata,
	}
	for _, c := range t.Schema.Fields() {
		resp.Columns = append(resp.Columns, &tarnv1.Column{Name: c.Name, Type: c.Type.String(), Nullable: c.Nullable})
	}
	return resp, nil
}

func (s *tableService) History(ctx context.Context, in *tarnv1.TableHistoryRequest) (*tarnv1.TableHistoryResponse, error) {
	f, err := s.open(ctx, in.GetProject())
	if err != nil {
		return nil, err
	}
	versions, err := f.TableHistory(ctx, in.GetRef(), in.GetTable(), int(in.GetLimit()))
	if err != nil {
		return nil, err
	}
	resp := &tarnv1.TableHistoryResponse{}
	for _, v := range versions {
		out := &tarnv1.TableVersion{Commit: toCommit(v.Commit)}
		if v.Entry != nil {
			out.Present, out.Version, out.Rows, out.Bytes = true, v.Entry.Version, v.Entry.Location.Rows, v.Entry.Location.Size
		}
		resp.Versions = append(resp.Versions, out)
	}
	return resp, nil
}

func (s *tableService) Remove(ctx context.Context, in *tarnv1.RemoveTablesRequest) (*tarnv1.RemoveTablesResponse, error) {
	w := in.GetWrite()
	if err := checkWrite(w); err != nil {
		return nil, err
	}
	f, err := s.open(ctx, w.GetProject())
	if err != nil {
		return nil, err
	}
	pub, err := f.RemoveTables(ctx, w.GetInto(), info(w, ""), w.GetDir(), in.GetTables())
	if err != nil {
		return nil, err
	}
	return &tarnv1.RemoveTablesResponse{
		Written: written(w.GetInto(), pub), Removed: in.GetTables(),
	}, nil
}

func (s *tableService) Relocate(ctx context.Context, in *tarnv1.RelocateTablesRequest) (*tarnv1.RelocateTablesResponse, error) {
	w := in.GetWrite()
	if err := checkWrite(w); err != nil {
		return nil, err
	}
	f, err := s.open(ctx, w.GetProject())
	if err != nil {
		return nil, err
	}
	pub, moved, err := f.RelocateTables(ctx, w.GetInto(), info(w, ""), w.GetDir(), in.GetTables())
	if err != nil {
		return nil, err
	}
	return &tarnv1.RelocateTablesResponse{Written: written(w.GetInto(), pub), Relocated: moved}, nil
}

// sender passes an Arrow IPC stream on in messages.
type sender func(data []byte) error

func (s sender) Write(b []byte) (int, error) {
	if err := s(b); err != nil {
		return 0, err
	}
	return len(b), nil
}

func (s *tableService) DiffRows(ctx context.Context, in *tarnv1.DiffRowsRequest, out *connect.ServerStream[tarnv1.DiffRowsResponse]) error {
	f, err := s.open(ctx, in.GetProject())
	if err != nil {
		return err
	}
	d, err := f.DiffTable(ctx, in.GetFrom(), in.GetTo(), in.GetTable())
	if err != nil {
		return err
	}
	w := ipc.NewWriter(sender(func(b []byte) error {
		return out.Send(&tarnv1.DiffRowsResponse{Event: &tarnv1.DiffRowsResponse_Data{Data: b}})
	}), ipc.WithSchema(d.Schema))
	left := in.GetLimit()
	for batch, err := range d.Batches(ctx) {
		if err != nil {
			return err
		}
		if in.GetLimit() > 0 {
			batch = batch.NewSlice(0, min(left, batch.NumRows()))
			left -= batch.NumRows()
		}
		if err := w.Write(batch); err != nil {
			return err
		}
		if in.GetLimit() > 0 && left == 0 {
			break
		}
	}
	if err := w.Close(); err != nil {
		return err
	}
	return out.Send(&tarnv1.DiffRowsResponse{Event: &tarnv1.DiffRowsResponse_Summary{Summary: &tarnv1.DiffRowsSummary{
		Added: d.Added, Removed: d.Removed, Changed: d.Changed,
	}}})
}
