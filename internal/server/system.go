package server

import (
	"context"
	"errors"
	"maps"
	"sync"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/timestamppb"

	tarnv1 "tarn.dev/tarn/api/gen/tarn/v1"
	"tarn.dev/tarn/internal/base/build"
	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/flow"
	"tarn.dev/tarn/internal/lake"
)

// API is the version of the contract that this server speaks.
const API = 1

// Status is what a server says about itself.
type Status struct {
	Build        build.Info
	PID          int
	Started      time.Time
	Home, Socket string
	Log          string
	Idle         time.Duration
	Active       int
}

// Level is how bad a finding is.
type Level = tarnv1.Finding_Level

// The levels.
const (
	OK   = tarnv1.Finding_LEVEL_OK
	Warn = tarnv1.Finding_LEVEL_WARN
	Fail = tarnv1.Finding_LEVEL_FAIL
)

// Finding is the result of one check of the host or the home.
type Finding struct {
	Name  string
	Level Level
	Text  string
	Next  string
}

// Control is the running system as its own service sees it.
type Control interface {
	Status() Status
	// Shutdown asks the system to stop after this call and reports whether it will.
	Shutdown(ctx context.Context, ifIdle bool) bool
	Doctor(ctx context.Context) []Finding
	// Backup copies everything to a folder of the host.
	Backup(ctx context.Context, to string, progress func(*tarnv1.BackupProgress)) (*tarnv1.Backup, error)
	// RepairRows sets right or puts aside the rows that are not what was written.
	RepairRows(ctx context.Context, report func(lake.Problem)) error
}

type systemService struct {
	control  Control
	projects Projects
}

func (s *systemService) Status(ctx context.Context, _ *tarnv1.StatusRequest) (*tarnv1.StatusResponse, error) {
	names, err := s.projects.Names(ctx)
	if err != nil {
		return nil, err
	}
	st := s.control.Status()
	return &tarnv1.StatusResponse{
		Version: st.Build.Version, Built: timestamppb.New(st.Build.Time), Api: API,
		Pid: int32(st.PID), Started: timestamppb.New(st.Started),
		Home: st.Home, Socket: st.Socket, Log: st.Log,
		IdleSeconds: int64(st.Idle.Seconds()), Active: int32(st.Active), Projects: names,
	}, nil
}

func (s *systemService) Shutdown(ctx context.Context, req *tarnv1.ShutdownRequest) (*tarnv1.ShutdownResponse, error) {
	return &tarnv1.ShutdownResponse{Stopping: s.control.Shutdown(ctx, req.GetIfIdle())}, nil
}

func (s *systemService) Doctor(ctx context.Context, _ *tarnv1.DoctorRequest) (*tarnv1.DoctorResponse, error) {
	resp := &tarnv1.DoctorResponse{}
	for _, f := range s.control.Doctor(ctx) {
		resp.Findings = append(resp.Findings, &tarnv1.Finding{Name: f.Name, Level: f.Level, Text: f.Text, Next: f.Next})
	}
	return resp, nil
}

func (s *systemService) Fsck(ctx context.Context, req *tarnv1.FsckRequest, out *connect.ServerStream[tarnv1.FsckResponse]) (err error) {
	found := int64(0)
	var sendErr error
	send := func(m *tarnv1.FsckResponse) {
		if sendErr == nil {
			sendErr = out.Send(m)
		}
	}
	report := func(f lake.Problem) {
		found++
		send(&tarnv1.FsckResponse{Event: &tarnv1.FsckResponse_Problem{Problem: problemOf(f)}})
	}
	repaired := func(f lake.Problem) {
		send(&tarnv1.FsckResponse{Event: &tarnv1.FsckResponse_Repaired{Repaired: problemOf(f)}})
	}
	if req.GetRepair() { // before the project is opened, which damaged rows may be in the way of
		if err := s.control.RepairRows(ctx, repaired); err != nil {
			return err
		}
	}
	p, err := s.projects.Open(ctx, req.GetProject())
	if err != nil {
		return err
	}
	release, err := p.Lake.Undisturbed(ctx, func(what string) {
		send(&tarnv1.FsckResponse{Event: &tarnv1.FsckResponse_Waiting{Waiting: what}})
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, release(ctx)) }()
	deep := req.GetDeep() || req.GetRepair()
	if req.GetRepair() {
		if err := p.Lake.Repair(ctx, repaired); err != nil {
			return err
		}
		if err := p.Flow.Repair(ctx, repaired); err != nil {
			return err
		}
	}
	stats, err := p.Lake.Fsck(ctx, lake.FsckOptions{Deep: deep}, report)
	var upper flow.FsckStats
	if err == nil {
		upper, err = p.Flow.Fsck(ctx, deep, report)
	}
	asked := map[string]int64{}
	if err == nil && req.GetExternal() {
		asked["originals"], err = p.Flow.FsckExternal(ctx, report)
	}
	if err = errors.Join(err, sendErr); err != nil {
		return err
	}
	checked := map[string]int64{
		"packs": int64(stats.Packs), "objects": stats.Objects, "bytes": stats.Bytes,
		"garbage_blobs": int64(stats.Garbage), "garbage_bytes": stats.GarbageBytes,
		"branches": int64(stats.Branches), "tags": int64(stats.Tags), "commits": int64(stats.Commits),
		"nodes": int64(stats.Nodes), "entries": stats.Entries,
		"tables": upper.Tables, "definitions": upper.Definitions, "slots": upper.Slots,
		"fragments": upper.Fragments, "provenance": upper.Provenance, "runs": upper.Runs,
		"secrets": upper.Secrets,
	}
	maps.Copy(checked, asked)
	return out.Send(&tarnv1.FsckResponse{Event: &tarnv1.FsckResponse_Stats{Stats: &tarnv1.FsckStats{Problems: found, Checked: checked}}})
}

func problemOf(p lake.Problem) *tarnv1.FsckProblem {
	return &tarnv1.FsckProblem{Reason: p.Reason, Object: p.Where, Message: p.Message}
}

// backupProgress is how often a client is told how far a backup is.
const backupProgress = 100 * time.Millisecond

func (s *systemService) Backup(ctx context.Context, req *tarnv1.BackupRequest, out *connect.ServerStream[tarnv1.BackupResponse]) error {
	var sendErr error
	var said time.Time
	done, err := s.control.Backup(ctx, req.GetTo(), func(p *tarnv1.BackupProgress) {
		if sendErr == nil && time.Since(said) >= backupProgress {
			said = time.Now()
			sendErr = out.Send(&tarnv1.BackupResponse{Event: &tarnv1.BackupResponse_Progress{Progress: p}})
		}
	})
	if err = errors.Join(err, sendErr); err != nil {
		return err
	}
	return out.Send(&tarnv1.BackupResponse{Event: &tarnv1.BackupResponse_Done{Done: done}})
}

func (s *systemService) Collect(ctx context.Context, req *tarnv1.CollectRequest, out *connect.ServerStream[tarnv1.CollectResponse]) error {
	opt := lake.CollectOptions{DryRun: req.GetDryRun(), Keep: flow.KeepDeleted}
	if req.KeepSeconds != nil {
		opt.Keep = time.Duration(req.GetKeepSeconds()) * time.Second
	}
	if opt.Keep < 0 {
		return errdef.Newf(errdef.InvalidArgument, "gc.keep", "what was deleted cannot be kept for %s", opt.Keep)
	}
	p, err := s.projects.Open(ctx, req.GetProject())
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	opt.Progress = func(what string) {
		if err := out.Send(&tarnv1.CollectResponse{Event: &tarnv1.CollectResponse_Progress{Progress: what}}); err != nil {
			stop(err)
		}
	}
	got, err := p.Flow.Collect(ctx, opt)
	if err != nil {
		return err
	}
	return out.Send(&tarnv1.CollectResponse{Event: &tarnv1.CollectResponse_Result{Result: toCollected(got)}})
}

func toCollected(got lake.Collected) *tarnv1.Collected {
	return &tarnv1.Collected{
		Bytes: got.Bytes, Commits: int64(got.Commits), Rows: int64(got.Rows),
		Packs: int64(got.Packs), PacksRewritten: int64(got.Rewritten), Blobs: int64(got.Blobs),
	}
}

func (s *systemService) Forget(ctx context.Context, req *tarnv1.ForgetRequest, out *connect.ServerStream[tarnv1.ForgetResponse]) error {
	if len(req.GetNames()) == 0 {
		return errPath.Errorf("nothing to forget was named")
	}
	p, err := s.projects.Open(ctx, req.GetProject())
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	got, err := p.Flow.Forget(ctx, flow.ForgetRequest{
		Names: req.GetNames(), Info: lake.CommitInfo{Author: req.GetAuthor()}, DryRun: req.GetDryRun(),
		Progress: func(what string) {
			if err := out.Send(&tarnv1.ForgetResponse{Event: &tarnv1.ForgetResponse_Progress{Progress: what}}); err != nil {
				stop(err)
			}
		},
	})
	if err != nil {
		return err
	}
	result := &tarnv1.Forgotten{Branches: got.Branches, Derived: got.Derived, Elsewhere: got.Elsewhere}
	for _, c := range got.Contents {
		result.Contents = append(result.Contents, &tarnv1.ForgottenContent{
			Name: lake.DisplayKey(c.Key), Version: c.Version, Kind: string(c.Kind), Size: c.Size, Rows: c.Rows, Commits: int32(c.Commits),
		})
	}
	for _, key := range got.Spared {
		result.Spared = append(result.Spared, lake.DisplayKey(key))
	}
	for _, key := range got.Shared {
		result.Shared = append(result.Shared, lake.DisplayKey(key))
	}
	if !req.GetDryRun() {
		result.Freed = toCollected(got.Collected)
	}
	return out.Send(&tarnv1.ForgetResponse{Event: &tarnv1.ForgetResponse_Result{Result: result}})
}

func (s *systemService) RemoveProject(ctx context.Context, req *tarnv1.RemoveProjectRequest, out *connect.ServerStream[tarnv1.RemoveProjectResponse]) error {
	var mu sync.Mutex // several deletions report at once
	got, err := s.projects.Remove(ctx, req.GetProject(), func(what string) {
		mu.Lock()
		defer mu.Unlock()
		_ = out.Send(&tarnv1.RemoveProjectResponse{Event: &tarnv1.RemoveProjectResponse_Progress{Progress: what}}) // who went away needs no progress
	})
	if err != nil {
		return err
	}
	return out.Send(&tarnv1.RemoveProjectResponse{Event: &tarnv1.RemoveProjectResponse_Removed{Removed: &tarnv1.RemovedProject{
		Blobs: got.Blobs, Bytes: got.Bytes, Rows: got.Rows,
	}}})
}
