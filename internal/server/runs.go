package server

import (
	"context"
	"path/filepath"
	"strings"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/timestamppb"

	tarnv1 "tarn.dev/tarn/api/gen/tarn/v1"
	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/flow"
)

type runService struct{ projects Projects }

func (s *runService) open(ctx context.Context, project string) (*flow.Flow, error) {
	p, err := s.projects.Open(ctx, project)
	if err != nil {
		return nil, err
	}
	return p.Flow, nil
}

// checkDir refuses a project folder that this server cannot mean.
func checkDir(dir string) error {
	if !filepath.IsAbs(dir) {
		return errdef.Newf(errdef.InvalidArgument, "server.dir", "the project folder %q is not an absolute path", dir)
	}
	return nil
}

func request(spec *tarnv1.RunSpec) (flow.Request, error) {
	r := flow.Request{
		Dir: spec.GetDir(), Select: spec.GetSelect(), Params: spec.GetParams(), Ref: spec.GetRef(), Into: spec.GetInto(),
		NoCache: spec.GetNoCache(), Author: spec.GetAuthor(),
	}
	if r.Ref == "" {
		r.Ref = r.Into
	}
	if r.Ref == "" {
		return r, errdef.New(errdef.InvalidArgument, "server.no_ref", "the request does not say which ref to read")
	}
	if spec.GetNoPublish() {
		r.Into = ""
	}
	return r, checkDir(r.Dir)
}

func (s *runService) Start(ctx context.Context, in *tarnv1.StartRunRequest) (*tarnv1.StartRunResponse, error) {
	if err := checkRequestID(in.GetRequestId()); err != nil {
		return nil, err
	}
	r, err := request(in.GetSpec())
	if err != nil {
		return nil, err
	}
	f, err := s.open(ctx, in.GetSpec().GetProject())
	if err != nil {
		return nil, err
	}
	r.ID, r.RequestID = in.GetRunId(), in.GetRequestId()
	return started(f.Start(ctx, r))
}

func started(run *flow.Run, attached bool, err error) (*tarnv1.StartRunResponse, error) {
	if err != nil {
		return nil, err
	}
	return &tarnv1.StartRunResponse{Run: toRun(run, nil), Attached: attached}, nil
}

func (s *runService) Events(ctx context.Context, in *tarnv1.RunEventsRequest, out *connect.ServerStream[tarnv1.RunEventsResponse]) error {
	f, err := s.open(ctx, in.GetProject())
	if err != nil {
		return err
	}
	for e, err := range f.Events(ctx, in.GetRun(), in.GetAfter()) {
		if err != nil {
			return err
		}
		if err := out.Send(&tarnv1.RunEventsResponse{Event: &tarnv1.RunEventsResponse_Happened{Happened: toRunEvent(e)}}); err != nil {
			return err
		}
	}
	run, err := s.get(ctx, f, in.GetRun())
	if err != nil {
		return err
	}
	return out.Send(&tarnv1.RunEventsResponse{Event: &tarnv1.RunEventsResponse_Run{Run: run}})
}

func (s *runService) get(ctx context.Context, f *flow.Flow, id string) (*tarnv1.Run, error) {
	run, err := f.Get(ctx, id)
	if err != nil {
		return nil, err
	}
	steps, err := f.Steps(ctx, run.ID)
	if err != nil {
		return nil, err
	}
	return toRun(run, steps), nil
}

func (s *runService) Get(ctx context.Context, in *tarnv1.GetRunRequest) (*tarnv1.GetRunResponse, error) {
	f, err := s.open(ctx, in.GetProject())
	if err != nil {
		return nil, err
	}
	run, err := s.get(ctx, f, in.GetRun())
	if err != nil {
		return nil, err
	}
	return &tarnv1.GetRunResponse{Run: run}, nil
}

// listed is how many runs a list has when the caller does not say.
const listed = 50

func (s *runService) List(ctx context.Context, in *tarnv1.ListRunsRequest) (*tarnv1.ListRunsResponse, error) {
	f, err := s.open(ctx, in.GetProject())
	if err != nil {
		return nil, err
	}
	limit := int(in.GetLimit())
	if limit <= 0 {
		limit = listed
	}
	resp := &tarnv1.ListRunsResponse{}
	for run, err := range f.Runs(ctx, limit) {
		if err != nil {
			return nil, err
		}
		resp.Runs = append(resp.Runs, toRun(run, nil))
	}
	return resp, nil
}

func (s *runService) Cancel(ctx context.Context, in *tarnv1.CancelRunRequest) (*tarnv1.CancelRunResponse, error) {
	f, err := s.open(ctx, in.GetProject())
	if err != nil {
		return nil, err
	}
	if _, err := f.Cancel(ctx, in.GetRun()); err != nil {
		return nil, err
	}
	run, err := s.get(ctx, f, in.GetRun())
	if err != nil {
		return nil, err
	}
	return &tarnv1.CancelRunResponse{Run: run}, nil
}

func (s *runService) Rerun(ctx context.Context, in *tarnv1.RerunRequest) (*tarnv1.StartRunResponse, error) {
	if err := checkRequestID(in.GetRequestId()); err != nil {
		return nil, err
	}
	f, err := s.open(ctx, in.GetProject())
	if err != nil {
		return nil, err
	}
	if !in.GetFailed() {
		return started(f.Rerun(ctx, in.GetRun(), in.GetRequestId(), in.GetAuthor()))
	}
	if err := checkDir(in.GetDir()); err != nil {
		return nil, err
	}
	return started(f.Resume(ctx, in.GetRun(), in.GetDir(), in.GetRequestId(), in.GetAuthor()))
}

func (s *runService) Logs(ctx context.Context, in *tarnv1.LogsRequest, out *connect.ServerStream[tarnv1.LogsResponse]) error {
	f, err := s.open(ctx, in.GetProject())
	if err != nil {
		return err
	}
	for l, err := range f.Logs(ctx, in.GetRun(), in.GetStep(), in.GetFollow()) {
		if err != nil {
			return err
		}
		err := out.Send(&tarnv1.LogsResponse{Step: l.Step, Item: l.Item, Stream: l.Stream, Line: l.Message, Time: timestamppb.New(l.Time)})
		if err != nil {
			return err
		}
	}
	return nil
}

func (s *runService) Plan(ctx context.Context, in *tarnv1.PlanRequest) (*tarnv1.PlanResponse, error) {
	r, err := request(in.GetSpec())
	if err != nil {
		return nil, err
	}
	f, err := s.open(ctx, in.GetSpec().GetProject())
	if err != nil {
		return nil, err
	}
	plan, err := f.Plan(ctx, r)
	if err != nil {
		return nil, err
	}
	resp := &tarnv1.PlanResponse{Base: plan.Base.String()}
	for _, st := range plan.Steps {
		resp.Steps = append(resp.Steps, &tarnv1.PlannedStep{
			Name: st.Name, Action: st.Action, Why: st.Why, Items: int32(st.Items), Reused: int32(st.Reused), Outputs: st.Outputs, NotPlain: st.NotPlain,
			EstimatedSeconds: st.Seconds,
		})
	}
	return resp, nil
}

func (s *runService) Check(ctx context.Context, in *tarnv1.CheckRequest) (*tarnv1.CheckResponse, error) {
	f, err := s.open(ctx, in.GetSpec().GetProject())
	if err != nil {
		return nil, err
	}
	checks, err := f.Check(ctx, in.GetSpec().GetRef(), in.GetTables())
	if err != nil {
		return nil, err
	}
	return &tarnv1.CheckResponse{Checks: toChecks(checks)}, nil
}

func (s *runService) Why(ctx context.Context, in *tarnv1.WhyRequest) (*tarnv1.WhyResponse, error) {
	f, err := s.open(ctx, in.GetProject())
	if err != nil {
		return nil, err
	}
	a, err := f.Why(ctx, in.GetDir(), in.GetRef(), in.GetTarget())
	if err != nil {
		return nil, err
	}
	return &tarnv1.WhyResponse{Sentence: a.Sentence, Command: a.Command, Held: toHeld(a.Held)}, nil
}

func (s *runService) Provenance(ctx context.Context, in *tarnv1.ProvenanceRequest) (*tarnv1.ProvenanceResponse, error) {
	f, err := s.open(ctx, in.GetProject())
	if err != nil {
		return nil, err
	}
	nodes, err := f.Provenance(ctx, in.GetRef(), in.GetTarget(), in.GetForward())
	if err != nil {
		return nil, err
	}
	resp := &tarnv1.ProvenanceResponse{}
	for _, n := range nodes {
		resp.Nodes = append(resp.Nodes, toProvenance(n))
	}
	return resp, nil
}

func (s *runService) Debug(ctx context.Context, in *tarnv1.DebugRequest) (*tarnv1.DebugResponse, error) {
	if err := checkDir(in.GetDir()); err != nil {
		return nil, err
	}
	f, err := s.open(ctx, in.GetProject())
	if err != nil {
		return nil, err
	}
	d, err := f.Debug(ctx, flow.DebugRequest{Dir: in.GetDir(), Run: in.GetRun(), Step: in.GetStep(), Item: in.GetItem(), Save: in.GetSave()})
	if err != nil {
		return nil, err
	}
	return &tarnv1.DebugResponse{Dir: d.Dir, Argv: d.Argv, Env: d.Env, Secrets: d.Secrets, Item: d.Item}, nil
}

func (s *runService) Entry(ctx context.Context, in *tarnv1.EntryRequest) (*tarnv1.EntryResponse, error) {
	if err := checkDir(in.GetDir()); err != nil {
		return nil, err
	}
	f, err := s.open(ctx, in.GetProject())
	if err != nil {
		return nil, err
	}
	e, err := f.Entry(ctx, in.GetDir(), in.GetFile(), in.GetName())
	if err != nil {
		return nil, err
	}
	return &tarnv1.EntryResponse{Argv: e.Argv, Env: e.Env}, nil
}

func (s *runService) Assets(ctx context.Context, in *tarnv1.AssetsRequest) (*tarnv1.AssetsResponse, error) {
	f, err := s.open(ctx, in.GetProject())
	if err != nil {
		return nil, err
	}
	assets, err := f.Assets(ctx, in.GetRef(), in.GetName())
	if err != nil {
		return nil, err
	}
	resp := &tarnv1.AssetsResponse{}
	for _, a := range assets {
		resp.Assets = append(resp.Assets, &tarnv1.Asset{
			Name: a.Function.Name, File: a.Function.File, Language: string(a.Function.Language), Description: a.Function.Description,
			Makes: a.Makes, Reads: a.Reads, Rows: a.Rows, Files: a.Files, Run: a.Run,
		})
	}
	return resp, nil
}

func (s *runService) RemoveAssets(ctx context.Context, in *tarnv1.RemoveAssetsRequest) (*tarnv1.RemoveAssetsResponse, error) {
	write := in.GetWrite()
	if err := checkWrite(write); err != nil {
		return nil, err
	}
	f, err := s.open(ctx, write.GetProject())
	if err != nil {
		return nil, err
	}
	pub, removed, err := f.RemoveAssets(ctx, write.GetInto(), info(write, "Remove "+strings.Join(in.GetNames(), ", ")), in.GetNames())
	if err != nil {
		return nil, err
	}
	return &tarnv1.RemoveAssetsResponse{
		Written: written(write.GetInto(), pub), Removed: removed,
	}, nil
}
