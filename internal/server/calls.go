package server

import (
	"cmp"
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/timestamppb"

	tarnv1 "tarn.dev/tarn/api/gen/tarn/v1"
	"tarn.dev/tarn/api/gen/tarn/v1/tarnv1connect"
	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/flow"
	"tarn.dev/tarn/internal/flow/call"
)

// valueBuffer is how much of a value travels in one message.
const valueBuffer = 1 << 20

// maxFromSandbox bounds one message of a function. The largest that the SDK sends is 4 MiB of inputs, as base64.
const maxFromSandbox = 8 << 20

var errValueProtocol = errdef.New(errdef.InvalidArgument, "server.value_protocol", "a value is its call, then its data, then its hash")

var (
	errElsewhere = errdef.New(errdef.NotFound, "call.elsewhere", "a function reaches calls of its own only")
	errNotHere   = errdef.New(errdef.NotFound, "server.not_here", "calls are not listed in a sandbox")
)

// callService serves calls of projects, or to an input of a call those that it may see.
type callService struct {
	projects Projects
	by       *flow.Caller
}

// CallsOf serves calls to an input of a call, whose program nobody trusts: nothing else can be reached by it, and it
// cannot fill the log.
func CallsOf(log *slog.Logger) func(*flow.Caller) http.Handler {
	options := connect.WithHandlerOptions(
		connect.WithInterceptors(edge{slog.New(errorsOnly{log.Handler()})}),
		connect.WithReadMaxBytes(maxFromSandbox), connect.WithCompression("gzip", nil, nil),
	)
	return func(by *flow.Caller) http.Handler {
		mux := http.NewServeMux()
		mux.Handle(tarnv1connect.NewCallServiceHandler(&callService{by: by}, options))
		return mux
	}
}

type errorsOnly struct{ slog.Handler }

// Enabled implements slog.Handler.
func (errorsOnly) Enabled(_ context.Context, level slog.Level) bool { return level >= slog.LevelError }

// reach is the calls of a project, as far as they may be seen.
func (s *callService) reach(ctx context.Context, project string) (interface {
	StartCall(context.Context, flow.CallRequest) (*flow.Call, error)
	Call(id string) (*flow.Call, error)
}, error,
) {
	switch {
	case s.by == nil:
		p, err := s.projects.Open(ctx, project)
		if err != nil {
			return nil, err
		}
		return p.Flow, nil
	case s.by.Project() == project:
		return s.by, nil
	}
	return nil, errElsewhere.Errorf("no project %q in a sandbox of project %s: a function reaches calls of its own only", project, s.by.Project())
}

func (s *callService) find(ctx context.Context, project, id string) (*flow.Call, error) {
	calls, err := s.reach(ctx, project)
	if err != nil {
		return nil, err
	}
	return calls.Call(id)
}

// waiter is told when the caller waits for a call.
func (s *callService) waiter() call.Waiter {
	if s.by == nil {
		return nil
	}
	return s.by.Wait
}

func (s *callService) Start(ctx context.Context, in *tarnv1.StartCallRequest) (*tarnv1.StartCallResponse, error) {
	if err := checkRequestID(in.GetRequestId()); err != nil {
		return nil, err
	}
	if err := checkDir(in.GetDir()); err != nil {
		return nil, err
	}
	if in.GetConcurrency() < 0 {
		return nil, errdef.Newf(errdef.InvalidArgument, "server.concurrency", "concurrency is %d. Give the number of inputs at a time", in.GetConcurrency())
	}
	calls, err := s.reach(ctx, in.GetProject())
	if err != nil {
		return nil, err
	}
	c, err := calls.StartCall(ctx, flow.CallRequest{
		ID: in.GetRequestId(), Dir: in.GetDir(), File: in.GetFile(), Qualname: in.GetQualname(), Ordered: in.GetOrdered(),
		Concurrency: int(in.GetConcurrency()), Author: in.GetAuthor(), Waits: in.GetWaits(), Source: in.GetSource(),
	})
	if err != nil {
		return nil, err
	}
	return &tarnv1.StartCallResponse{Call: toCall(c.Info())}, nil
}

func (s *callService) Put(ctx context.Context, in *tarnv1.PutInputsRequest) (*tarnv1.PutInputsResponse, error) {
	c, err := s.find(ctx, in.GetProject(), in.GetCall())
	if err != nil {
		return nil, err
	}
	defer c.Attend()()
	inputs, err := c.Inputs(in.GetInputs(), in.GetValues())
	if err != nil {
		return nil, err
	}
	next, err := c.Put(ctx, in.GetFirst(), inputs, in.GetLast())
	if err != nil {
		return nil, err
	}
	return &tarnv1.PutInputsResponse{Next: next}, nil
}

func (s *callService) PutValue(ctx context.Context, in *connect.ClientStream[tarnv1.PutValueRequest]) (_ *tarnv1.PutValueResponse, err error) {
	if !in.Receive() {
		return nil, errors.Join(in.Err(), errValueProtocol)
	}
	c, err := s.find(ctx, in.Msg().GetProject(), in.Msg().GetCall())
	if err != nil {
		return nil, err
	}
	defer c.Attend()()
	w, err := c.NewValue()
	if err != nil {
		return nil, err
	}
	for in.Receive() {
		if sum := in.Msg().GetSha256(); sum != "" {
			name, err := w.Close(sum)
			return &tarnv1.PutValueResponse{Value: name}, err
		}
		if _, err := w.Write(in.Msg().GetData()); err != nil {
			return nil, errors.Join(err, w.Discard())
		}
	}
	return nil, errors.Join(cmp.Or(in.Err(), error(errValueProtocol)), w.Discard())
}

func (s *callService) GetValue(ctx context.Context, in *tarnv1.GetValueRequest, out *connect.ServerStream[tarnv1.GetValueResponse]) error {
	c, err := s.find(ctx, in.GetProject(), in.GetCall())
	if err != nil {
		return err
	}
	defer c.Attend()()
	file, done, err := c.Value(in.GetValue())
	if err != nil {
		return err
	}
	defer file.Close()
	buf := make([]byte, valueBuffer)
	for {
		n, err := file.Read(buf)
		if errors.Is(err, io.EOF) {
			done()
			return nil
		}
		if err == nil {
			err = out.Send(&tarnv1.GetValueResponse{Data: buf[:n]})
		}
		if err != nil {
			return err
		}
	}
}

func (s *callService) Results(ctx context.Context, in *tarnv1.CallResultsRequest, out *connect.ServerStream[tarnv1.CallResultsResponse]) error {
	c, err := s.find(ctx, in.GetProject(), in.GetCall())
	if err != nil {
		return err
	}
	defer c.Attend()()
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	var mu sync.Mutex // of out
	send := func(m *tarnv1.CallResultsResponse) error {
		mu.Lock()
		defer mu.Unlock()
		return out.Send(m)
	}
	var printing sync.WaitGroup
	printing.Go(func() {
		for o := range c.Output(ctx, true) {
			if send(&tarnv1.CallResultsResponse{Event: &tarnv1.CallResultsResponse_Output{Output: toOutput(o)}}) != nil {
				return
			}
		}
	})
	for r, err := range c.Results(ctx, in.GetFrom(), s.waiter()) {
		if err == nil {
			err = send(&tarnv1.CallResultsResponse{Event: &tarnv1.CallResultsResponse_Result{Result: toCallResult(r)}})
		}
		if err == nil {
			err = c.Fetched(ctx, r.Value)
		}
		if err != nil {
			stop()
			printing.Wait()
			return err
		}
	}
	printing.Wait()
	return send(&tarnv1.CallResultsResponse{Event: &tarnv1.CallResultsResponse_Call{Call: toCall(c.Info())}})
}

func (s *callService) Get(ctx context.Context, in *tarnv1.GetCallRequest) (*tarnv1.GetCallResponse, error) {
	c, err := s.find(ctx, in.GetProject(), in.GetCall())
	if err != nil {
		return nil, err
	}
	out := &tarnv1.GetCallResponse{Call: toCall(c.Info())}
	for _, f := range c.Failures() {
		out.Failures = append(out.Failures, &tarnv1.CallFailure{Index: f.Index, Error: toCallError(&f.Failure)})
	}
	return out, nil
}

func (s *callService) List(ctx context.Context, in *tarnv1.ListCallsRequest) (*tarnv1.ListCallsResponse, error) {
	if s.by != nil {
		return nil, errNotHere
	}
	p, err := s.projects.Open(ctx, in.GetProject())
	if err != nil {
		return nil, err
	}
	out := &tarnv1.ListCallsResponse{}
	for _, info := range p.Flow.Calls() {
		out.Calls = append(out.Calls, toCall(info))
	}
	return out, nil
}

func (s *callService) Cancel(ctx context.Context, in *tarnv1.CancelCallRequest) (*tarnv1.CancelCallResponse, error) {
	c, err := s.find(ctx, in.GetProject(), in.GetCall())
	if err != nil {
		return nil, err
	}
	c.Cancel()
	return &tarnv1.CancelCallResponse{Call: toCall(c.Info())}, nil
}

func (s *callService) Logs(ctx context.Context, in *tarnv1.CallLogsRequest, out *connect.ServerStream[tarnv1.CallLogsResponse]) error {
	c, err := s.find(ctx, in.GetProject(), in.GetCall())
	if err != nil {
		return err
	}
	if in.GetFollow() && s.by != nil {
		defer s.by.Wait()()
	}
	for o := range c.Output(ctx, in.GetFollow()) {
		if err := out.Send(&tarnv1.CallLogsResponse{Output: toOutput(o)}); err != nil {
			return err
		}
	}
	return nil
}

func toOutput(o flow.CallOutput) *tarnv1.CallOutput {
	return &tarnv1.CallOutput{Index: o.Index, Stream: o.Stream, Text: o.Text}
}

func toCall(c flow.CallInfo) *tarnv1.Call {
	out := &tarnv1.Call{
		Id: c.ID, Project: c.Project, Function: c.Function, State: c.State, Inputs: c.Inputs, Done: c.Done, Failed: c.Failed,
		Created: timestamppb.New(c.Created), Author: c.Author, Level: c.Level, Python: c.Python, Parent: c.Parent,
	}
	if !c.Ended.IsZero() {
		out.Ended = timestamppb.New(c.Ended)
	}
	return out
}

func toCallResult(r call.Result) *tarnv1.CallResult {
	out := &tarnv1.CallResult{Index: r.Index, Sequence: r.Sequence, Value: r.Value.Data, More: r.More, End: r.End}
	if f := r.Value.File; f != nil {
		out.Big = &tarnv1.BigValue{Value: f.Name, Size: f.Size, Sha256: f.SHA256}
	}
	if r.Failure != nil {
		out.Error = toCallError(r.Failure)
	}
	return out
}

func toCallError(f *call.Failure) *tarnv1.CallError {
	text := func(s string) string { return strings.ToValidUTF8(s, "\uFFFD") }
	e := errdef.As(f.Err)
	return &tarnv1.CallError{
		Code: e.Code.String(), Reason: e.Reason, Message: text(e.Message), Class: text(f.Class), Module: text(f.Module),
		Traceback: text(f.Traceback), Pickle: f.Pickle,
	}
}
