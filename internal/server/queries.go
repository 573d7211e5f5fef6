package server

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"strings"

	"connectrpc.com/connect"

	tarnv1 "tarn.dev/tarn/api/gen/tarn/v1"
	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/flow"
)

// errParams is a request whose parameters are not an object.
var errParams = errdef.New(errdef.InvalidArgument, "server.params", "the parameters are not a JSON object")

// queryBuffer is the most of a stream that travels in one message.
const queryBuffer = 256 << 10

type queryService struct{ projects Projects }

func (s *queryService) Query(ctx context.Context, in *tarnv1.QueryRequest, out *connect.ServerStream[tarnv1.QueryResponse]) error {
	r := flow.QueryRequest{
		SQL: in.GetSql(), Ref: in.GetRef(), MemoryBytes: max(0, in.GetMemoryBytes()), Limit: max(0, in.GetLimit()), Show: max(0, in.GetShow()), Into: in.GetWrite().GetInto(), Info: info(in.GetWrite(), ""),
		AcceptDrift: in.GetAcceptDrift(),
		Dir:         in.GetWrite().GetDir(),
		Output:      flow.QueryOutput{Path: in.GetOutputPath(), Format: in.GetOutputFormat()},
	}
	if r.Into != "" {
		if err := checkWrite(in.GetWrite()); err != nil {
			return err
		}
	}
	if r.Ref == "" {
		r.Ref = r.Into
	}
	if r.Ref == "" {
		return errdef.New(errdef.InvalidArgument, "server.no_ref", "the request does not say which ref to read")
	}
	if text := in.GetParamsJson(); text != "" {
		d := json.NewDecoder(strings.NewReader(text))
		d.UseNumber()
		if err := d.Decode(&r.Params); err != nil {
			return errParams.Errorf("params_json is not a JSON object: %w", err)
		}
	}
	p, err := s.projects.Open(ctx, in.GetWrite().GetProject())
	if err != nil {
		return err
	}
	result, err := p.Flow.Query(ctx, r, queryWriter{out})
	if err != nil {
		return err
	}
	summary := &tarnv1.QuerySummary{Rows: result.Rows, Commit: toCommit(result.Commit), Table: result.Table}
	if w := result.Written; w != nil {
		summary.Written = written(r.Into, w.Published)
		summary.Rows, summary.Checks = w.Entry.Location.Rows, toChecks(w.Checks)
	}
	return out.Send(&tarnv1.QueryResponse{Event: &tarnv1.QueryResponse_Summary{Summary: summary}})
}

// queryWriter sends what is written to it.
type queryWriter struct {
	out *connect.ServerStream[tarnv1.QueryResponse]
}

func (w queryWriter) Write(b []byte) (int, error) {
	for n := 0; n < len(b); n += queryBuffer {
		if err := w.send(b[n:min(n+queryBuffer, len(b))]); err != nil {
			return n, err
		}
	}
	return len(b), nil
}

// ReadFrom spares io.Copy's small buffer: a message has a price of its own.
func (w queryWriter) ReadFrom(r io.Reader) (n int64, err error) {
	buf := make([]byte, queryBuffer)
	for {
		m, err := r.Read(buf)
		if m > 0 {
			if err := w.send(buf[:m]); err != nil {
				return n, err
			}
			n += int64(m)
		}
		if errors.Is(err, io.EOF) {
			return n, nil
		}
		if err != nil {
			return n, err
		}
	}
}

func (w queryWriter) send(b []byte) error {
	return w.out.Send(&tarnv1.QueryResponse{Event: &tarnv1.QueryResponse_Data{Data: b}})
}
