package server

import (
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	tarnv1 "tarn.dev/tarn/api/gen/tarn/v1"
	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/flow"
	"tarn.dev/tarn/internal/lake"
)

// stamp leaves the zero time unset.
func stamp(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}

// hashText is empty for the hash of nothing.
func hashText(h lake.Hash) string {
	if h.IsZero() {
		return ""
	}
	return h.String()
}

func toRun(r *flow.Run, steps []*flow.Step) *tarnv1.Run {
	out := &tarnv1.Run{
		Id: r.ID, Project: r.Project, State: string(r.State), Select: r.Select, Params: r.Params, Ref: r.Ref, Into: r.Into,
		Author: r.Author, Base: hashText(r.Base), Commit: hashText(r.Commit), Created: stamp(r.Created), Ended: stamp(r.Ended),
		Level: r.Level, Checks: toChecks(r.Checks), RerunOf: r.RerunOf, Replans: int32(r.Replans), Error: toError(r.Error),
	}
	for _, st := range steps {
		out.Steps = append(out.Steps, &tarnv1.RunStep{
			Name: st.Name, State: string(st.State), Why: st.Why, Items: int32(st.Items), Reused: int32(st.Reused), Failed: int32(st.Failed),
			Attempt: int32(st.Attempt), Started: stamp(st.Started), Ended: stamp(st.Ended), Rows: st.Rows, RowsIn: st.RowsIn,
			PeakBytes: st.Usage.PeakBytes, CpuSeconds: st.Usage.CPUSeconds, Error: toError(st.Error), Reported: toReported(st.Reported),
		})
	}
	for _, o := range r.Outputs {
		out.Outputs = append(out.Outputs, &tarnv1.RunOutput{Asset: o.Asset, Name: o.Name, Kind: o.Kind, Rows: o.Rows, Before: o.Before, Changed: o.Changed})
	}
	for _, v := range r.Verdicts {
		out.Verdicts = append(out.Verdicts, &tarnv1.Verdict{Name: v.Name, Verdict: v.Verdict, Detail: v.Detail})
	}
	return out
}

func toReported(told []flow.StepReported) []*tarnv1.Reported {
	var out []*tarnv1.Reported
	for _, r := range told {
		out = append(out, &tarnv1.Reported{Kind: r.Kind, Item: r.Item, Name: r.Name, Value: string(r.Value)})
	}
	return out
}

func toError(e *errdef.Error) *tarnv1.ErrorDetail {
	if e == nil {
		return nil
	}
	return detail(e)
}

func toChecks(cs []flow.CheckResult) []*tarnv1.CheckResult {
	var out []*tarnv1.CheckResult
	for _, c := range cs {
		out = append(out, &tarnv1.CheckResult{
			Table: c.Table, Check: c.Check, Severity: c.Severity, Passed: c.Passed, Message: c.Message, Offenders: c.Offenders, Rows: c.Rows, Kept: c.Kept,
		})
	}
	return out
}

func toRunEvent(e flow.Event) *tarnv1.RunEvent {
	return &tarnv1.RunEvent{
		Seq: e.Seq, Time: stamp(e.Time), Type: e.Type, Step: e.Step, Item: e.Item, State: e.State, Stream: e.Stream, Message: e.Message,
		Done: int32(e.Done), Total: int32(e.Total),
	}
}

func toProvenance(n flow.ProvenanceNode) *tarnv1.ProvenanceNode {
	var told []flow.StepReported
	for _, r := range n.Reported {
		told = append(told, flow.StepReported{Reported: r})
	}
	return &tarnv1.ProvenanceNode{
		Name: n.Name, Kind: n.Kind, Version: n.Version, Commit: n.Commit, Run: n.Run, Author: n.Author, Time: stamp(n.Time),
		Function: n.Function, File: n.File, Key: n.Key, Code: n.Code, Environment: n.Environment, Params: n.Params, Inputs: n.Inputs,
		Sources: n.Sources, Statement: n.Statement, Reported: toReported(told),
	}
}
