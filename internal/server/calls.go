package server

import (
	"context"
	"strings"
	"sync"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/timestamppb"

	tarnv1 "tarn.dev/tarn/api/gen/tarn/v1"
	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/flow"
	"tarn.dev/tarn/internal/flow/call"
)

type callService struct{ projects Projects }

func (s *callService) find(ctx context.Context, project, id string) (*flow.Call, error) {
	p, err := s.projects.Open(ctx, project)
	if err != nil {
		return nil, err
	}
	return p.Flow.Call(id)
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
	p, err := s.projects.Open(ctx, in.GetProject())
	if err != nil {
		return nil, err
	}
	c, err := p.Flow.StartCall(ctx, flow.CallRequest{
		ID: in.GetRequestId(), Dir: in.GetDir(), File: in.GetFile(), Qualname: in.GetQualname(), Ordered: in.GetOrdered(),
		Concurrency: int(in.GetConcurrency()), Author: in.GetAuthor(),
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
	next, err := c.Put(ctx, in.GetFirst(), in.GetInputs(), in.GetLast())
	if err != nil {
		return nil, err
	}
	return &tarnv1.PutInputsResponse{Next: next}, nil
}

func (s *callService) Results(ctx context.Context, in *tarnv1.CallResultsRequest, out *connect.ServerStream[tarnv1.CallResultsResponse]) error {
	c, err := s.find(ctx, in.GetProject(), in.GetCall())
	if err != nil {
		return err
	}
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
		for o := range c.Output(ctx) {
			if send(&tarnv1.CallResultsResponse{Event: &tarnv1.CallResultsResponse_Output{Output: &tarnv1.CallOutput{Index: o.Index, Stream: o.Stream, Text: o.Text}}}) != nil {
				return
			}
		}
	})
	for r, err := range c.Results(ctx, in.GetFrom()) {
		if err == nil {
			err = send(&tarnv1.CallResultsResponse{Event: &tarnv1.CallResultsResponse_Result{Result: toCallResult(r)}})
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
	return &tarnv1.GetCallResponse{Call: toCall(c.Info())}, nil
}

func (s *callService) List(ctx context.Context, in *tarnv1.ListCallsRequest) (*tarnv1.ListCallsResponse, error) {
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

func toCall(c flow.CallInfo) *tarnv1.Call {
	out := &tarnv1.Call{
		Id: c.ID, Project: c.Project, Function: c.Function, State: c.State, Inputs: c.Inputs, Done: c.Done, Failed: c.Failed,
		Created: timestamppb.New(c.Created), Author: c.Author, Level: c.Level, Python: c.Python,
	}
	if !c.Ended.IsZero() {
		out.Ended = timestamppb.New(c.Ended)
	}
	return out
}

func toCallResult(r call.Result) *tarnv1.CallResult {
	out := &tarnv1.CallResult{Index: r.Index, Sequence: r.Sequence, Value: r.Value, More: r.More, End: r.End}
	if r.Failure != nil {
		text := func(s string) string { return strings.ToValidUTF8(s, "\uFFFD") }
		e := errdef.As(r.Failure.Err)
		out.Error = &tarnv1.CallError{
			Code: e.Code.String(), Reason: e.Reason, Message: text(e.Message), Class: text(r.Failure.Class), Module: text(r.Failure.Module),
			Traceback: text(r.Failure.Traceback), Pickle: r.Failure.Pickle,
		}
	}
	return out
}
