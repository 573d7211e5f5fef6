package flow

import (
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// Whatever is asked of a run, it goes only where docs/design/runs.md has an arrow, a refusal changes
// nothing, and an end is an end.
func TestRunTransitions(t *testing.T) {
	t.Parallel()
	all := []RunState{RunCreated, RunPlanning, RunRunning, RunPublishing, RunSucceeded, RunFailed, RunCanceled, "other"}
	rapid.Check(t, func(t *rapid.T) {
		r := &Run{ID: "r-1", State: RunCreated}
		for i, to := range rapid.SliceOfN(rapid.SampledFrom(all), 1, 12).Draw(t, "states") {
			before, now := *r, time.Unix(int64(i+1), 0)
			err := r.transition(to, now)
			switch allowed := slices.Contains(runMoves[before.State], to); {
			case allowed != (err == nil):
				t.Fatalf("%s to %s: %v", before.State, to, err)
			case err != nil && (r.State != before.State || r.Ended != before.Ended):
				t.Fatalf("a refused move changed the run: %+v", r)
			case before.State.Final() && err == nil:
				t.Fatalf("%s was no end", before.State)
			case err == nil && r.State.Final() != (r.Ended == now):
				t.Fatalf("%s ended at %v", r.State, r.Ended)
			}
		}
	})
}

// A step runs at most once between two plans, and begins before it succeeds.
func TestStepTransitions(t *testing.T) {
	t.Parallel()
	all := []StepState{StepWaiting, StepQueued, StepRunning, StepSucceeded, StepCached, StepFailed, StepSkipped, StepCanceled}
	rapid.Check(t, func(t *rapid.T) {
		s := &Step{Run: "r-1", Name: "a", State: StepWaiting}
		ran := 0
		for _, to := range rapid.SliceOfN(rapid.SampledFrom(all), 1, 20).Draw(t, "states") {
			if s.transition(to, time.Unix(1, 0)) != nil {
				continue
			}
			switch to {
			case StepWaiting:
				ran = 0
			case StepRunning:
				ran++
			case StepSucceeded:
				if ran == 0 {
					t.Fatal("succeeded without running")
				}
			case StepCached:
				if ran > 0 {
					t.Fatal("cached after running")
				}
			}
			if ran > 1 {
				t.Fatal("ran twice")
			}
		}
	})
}
