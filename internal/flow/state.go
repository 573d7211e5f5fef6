package flow

import (
	"fmt"
	"slices"
	"time"

	"github.com/dustin/go-humanize"

	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/flow/memo"
	"tarn.dev/tarn/internal/lake"
)

// RunState and StepState are the states of docs/design/runs.md.
type (
	RunState  string
	StepState string
)

// The states of a run.
const (
	RunCreated    RunState = "created"
	RunPlanning   RunState = "planning"
	RunRunning    RunState = "running"
	RunPublishing RunState = "publishing"
	RunSucceeded  RunState = "succeeded"
	RunFailed     RunState = "failed"
	RunCanceled   RunState = "canceled"
)

// The states of a step.
const (
	StepWaiting   StepState = "waiting"
	StepQueued    StepState = "queued"
	StepRunning   StepState = "running"
	StepSucceeded StepState = "succeeded"
	StepCached    StepState = "cached"
	StepFailed    StepState = "failed"
	StepSkipped   StepState = "skipped"
	StepCanceled  StepState = "canceled"
)

var runMoves = map[RunState][]RunState{
	RunCreated:    {RunPlanning, RunFailed, RunCanceled},
	RunPlanning:   {RunRunning, RunFailed, RunCanceled},
	RunRunning:    {RunPublishing, RunSucceeded, RunFailed, RunCanceled},
	RunPublishing: {RunRunning, RunSucceeded, RunFailed, RunCanceled},
}

var stepMoves = map[StepState][]StepState{
	StepWaiting:   {StepQueued, StepSkipped, StepCanceled},
	StepQueued:    {StepRunning, StepCached, StepFailed, StepCanceled},
	StepRunning:   {StepSucceeded, StepFailed, StepCanceled},
	StepSucceeded: {StepWaiting}, // re-plan
	StepCached:    {StepWaiting}, // re-plan
}

// Final reports whether nothing follows s.
func (s RunState) Final() bool { return len(runMoves[s]) == 0 }

// Final reports whether s ends a step (until a re-plan).
func (s StepState) Final() bool { return s != StepWaiting && s != StepQueued && s != StepRunning }

// Run is one execution of a selection at a ref.
type Run struct {
	ID        string            `json:"id"`
	Project   string            `json:"project"`
	State     RunState          `json:"state"`
	Dir       string            `json:"dir,omitempty"` // the project folder it was started from
	Select    []string          `json:"select,omitempty"`
	Params    map[string]string `json:"params,omitempty"`
	Ref       string            `json:"ref"`            // read at
	Into      string            `json:"into,omitempty"` // published to; "" publishes nothing
	NoCache   bool              `json:"no_cache,omitempty"`
	RerunOf   string            `json:"rerun_of,omitempty"`
	Author    string            `json:"author,omitempty"`
	Base      lake.Hash         `json:"base"`     // input commit
	Snapshot  lake.Hash         `json:"snapshot"` // record of the code
	Level     string            `json:"level,omitempty"`
	Session   string            `json:"session,omitempty"` // of the server that runs it
	Created   time.Time         `json:"created"`
	Ended     time.Time         `json:"ended,omitzero"`
	Commit    lake.Hash         `json:"commit"` // published; zero when nothing was
	Steps     []string          `json:"steps,omitempty"`
	Outputs   []Output          `json:"outputs,omitempty"`
	Checks    []CheckResult     `json:"checks,omitempty"`
	Verdicts  []Verdict         `json:"verdicts,omitempty"` // of a rerun
	Error     *errdef.Error     `json:"error,omitempty"`
	Replans   int               `json:"replans,omitempty"`
	RequestID string            `json:"request_id,omitempty"`
}

// Output is what a run did to one table or folder.
type Output struct {
	Asset   string `json:"asset"`
	Name    string `json:"name"`
	Kind    string `json:"kind"` // table or folder
	Rows    int64  `json:"rows"` // or files
	Before  int64  `json:"before"`
	Changed bool   `json:"changed"`
}

// CheckResult is what one check said of the merged result.
type CheckResult struct {
	Table     string `json:"table"`
	Check     string `json:"check"`
	Severity  string `json:"severity"`
	Passed    bool   `json:"passed"`
	Message   string `json:"message,omitempty"`
	Offenders int64  `json:"offenders,omitempty"`
	Rows      int64  `json:"rows,omitempty"`
	Kept      string `json:"kept,omitempty"` // table that keeps the offending rows, on run/<id>
}

// Verdict compares one output of a rerun with the original.
type Verdict struct {
	Name    string `json:"name"`
	Verdict string `json:"verdict"` // identical, float noise, different, missing
	Detail  string `json:"detail,omitempty"`
}

// Step is one function's part in a run.
type Step struct {
	Run      string         `json:"run"`
	Name     string         `json:"name"`
	State    StepState      `json:"state"`
	Why      string         `json:"why,omitempty"` // why it ran, or did not
	Items    int            `json:"items"`         // all
	Reused   int            `json:"reused"`        // of them, without running
	Failed   int            `json:"failed,omitempty"`
	Attempt  int            `json:"attempt"`
	Started  time.Time      `json:"started,omitzero"`
	Ended    time.Time      `json:"ended,omitzero"`
	Rows     int64          `json:"rows"`
	Keys     []memo.Key     `json:"keys,omitempty"` // of its items, the first few
	Usage    memo.Usage     `json:"usage"`
	Log      *lake.FileRef  `json:"log,omitempty"`
	Error    *errdef.Error  `json:"error,omitempty"`
	RowsIn   int64          `json:"rows_in,omitempty"`
	FailedAt string         `json:"failed_at,omitempty"` // item
	Reported []StepReported `json:"reported,omitempty"`  // what functions told of their results, the first 100
}

// transition moves a run, or says that it cannot.
func (r *Run) transition(to RunState, now time.Time) error {
	if !slices.Contains(runMoves[r.State], to) {
		return errdef.Newf(errdef.Internal, "run.transition", "run %s cannot go from %s to %s", r.ID, r.State, to)
	}
	r.State = to
	if to.Final() {
		r.Ended = now
	}
	return nil
}

// transition moves a step, or says that it cannot.
func (s *Step) transition(to StepState, now time.Time) error {
	if !slices.Contains(stepMoves[s.State], to) {
		return errdef.Newf(errdef.Internal, "run.transition", "step %s/%s cannot go from %s to %s", s.Run, s.Name, s.State, to)
	}
	s.State = to
	switch {
	case to == StepRunning:
		s.Started = now
	case to.Final():
		s.Ended = now
	}
	return nil
}

// done says what a step that succeeded did.
func (s *Step) done() string {
	took := s.Ended.Sub(s.Started).Seconds()
	switch {
	case s.Items > 1:
		return fmt.Sprintf("%d of %d items, %.1f s", s.Items-s.Reused, s.Items, took)
	case s.Rows == 1:
		return fmt.Sprintf("1 row, %.1f s", took)
	case s.Rows > 0:
		return fmt.Sprintf("%s rows, %.1f s", humanize.Comma(s.Rows), took)
	}
	return fmt.Sprintf("%.1f s", took)
}

// Label is how messages name a step.
func (s *Step) Label() string { return fmt.Sprintf("%s/%s", s.Run, s.Name) }
