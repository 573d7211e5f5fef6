package flow

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"time"

	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/flow/manifest"
	"tarn.dev/tarn/internal/meta"
)

// Errors of looking runs up.
var (
	ErrRunNotFound  = errdef.New(errdef.NotFound, "run.not_found", "no such run")
	ErrStepNotFound = errdef.New(errdef.NotFound, "run.step_not_found", "no such step")
)

// Event is one thing that happened in a run, at most 2 KiB as JSON.
type Event struct {
	Seq     int64     `json:"seq"`
	Time    time.Time `json:"time"`
	Type    string    `json:"type"` // run, step, log, check, progress
	Run     string    `json:"run"`
	Step    string    `json:"step,omitempty"`
	Item    string    `json:"item,omitempty"`
	State   string    `json:"state,omitempty"`
	Stream  string    `json:"stream,omitempty"` // stdout or stderr, of a log line
	Message string    `json:"message,omitempty"`
	Done    int       `json:"done,omitempty"`
	Total   int       `json:"total,omitempty"`
}

const maxEventText = 1500

// runStore keeps the rows of runs, steps and events of one project.
type runStore struct {
	rows   meta.Store
	prefix string
}

func (s runStore) runKey(id string) string         { return s.prefix + "run/" + id }
func (s runStore) stepKey(run, name string) string { return s.prefix + "step/" + run + "/" + name }
func (s runStore) eventPrefix(run string) string   { return s.prefix + "event/" + run + "/" }

// byTime is an index: newest first when scanned in reverse.
func (s runStore) timeKey(r *Run) string {
	return fmt.Sprintf("%srun-time/%020d/%s", s.prefix, r.Created.UnixNano(), r.ID)
}

func (s runStore) requestKey(id string) string { return s.prefix + "run-request/" + id }

// create writes a new run. A repeated request id returns the run it made the first time.
func (s runStore) create(ctx context.Context, r *Run) (*Run, error) {
	b, err := json.Marshal(r)
	if err != nil {
		return nil, fmt.Errorf("encode run: %w", err)
	}
	conds := []meta.Condition{meta.Absent(s.runKey(r.ID))}
	writes := []meta.Write{meta.Set(s.runKey(r.ID), b), meta.Set(s.timeKey(r), nil)}
	if r.RequestID != "" {
		conds = append(conds, meta.Absent(s.requestKey(r.RequestID)))
		writes = append(writes, meta.Set(s.requestKey(r.RequestID), []byte(r.ID)))
	}
	_, err = s.rows.Txn(ctx, conds, writes)
	if errors.Is(err, meta.ErrConditionFailed) {
		if r.RequestID != "" {
			if row, err := s.rows.Get(ctx, s.requestKey(r.RequestID)); err == nil {
				return s.run(ctx, string(row.Value))
			}
		}
		return s.run(ctx, r.ID)
	}
	if err != nil {
		return nil, fmt.Errorf("create run: %w", err)
	}
	return r, nil
}

// run reads a run by its id or a unique prefix of it.
func (s runStore) run(ctx context.Context, id string) (*Run, error) {
	row, err := s.rows.Get(ctx, s.runKey(id))
	if errors.Is(err, meta.ErrNotFound) {
		return s.byPrefix(ctx, id)
	}
	if err != nil {
		return nil, fmt.Errorf("read run %s: %w", id, err)
	}
	return decodeRun(row)
}

func (s runStore) byPrefix(ctx context.Context, id string) (*Run, error) {
	const shortest = 3
	var found []meta.Row
	if len(id) >= shortest {
		r := meta.Prefix(s.runKey(id))
		r.Limit = 2
		for row, err := range s.rows.Scan(ctx, r) {
			if err != nil {
				return nil, fmt.Errorf("find run %s: %w", id, err)
			}
			found = append(found, row)
		}
	}
	switch len(found) {
	case 1:
		return decodeRun(found[0])
	case 2:
		return nil, ErrRunNotFound.Errorf("several runs begin with %s", id).WithNext("tarn runs")
	}
	return nil, ErrRunNotFound.Errorf("no run %s in this project", id).WithNext("tarn runs")
}

func decodeRun(row meta.Row) (*Run, error) {
	var r Run
	if err := json.Unmarshal(row.Value, &r); err != nil {
		return nil, errdef.Newf(errdef.DataLoss, "run.corrupt", "run row %s: %w", row.Key, err)
	}
	return &r, nil
}

// list yields runs, newest first.
func (s runStore) list(ctx context.Context, limit int) iter.Seq2[*Run, error] {
	return func(yield func(*Run, error) bool) {
		r := meta.Prefix(s.prefix + "run-time/")
		r.Reverse, r.Limit = true, limit
		for row, err := range s.rows.Scan(ctx, r) {
			if err != nil {
				yield(nil, fmt.Errorf("list runs: %w", err))
				return
			}
			run, err := s.run(ctx, row.Key[strings.LastIndex(row.Key, "/")+1:])
			if !yield(run, err) || err != nil {
				return
			}
		}
	}
}

func (s runStore) step(ctx context.Context, run, name string) (*Step, error) {
	row, err := s.rows.Get(ctx, s.stepKey(run, name))
	if errors.Is(err, meta.ErrNotFound) {
		steps, err := s.steps(ctx, run)
		if err != nil {
			return nil, err
		}
		var names []string
		for _, st := range steps {
			names = append(names, st.Name)
		}
		return nil, ErrStepNotFound.Errorf("run %s has no step '%s'. %sSteps: %s.", run, name, manifest.DidYouMean(name, names), manifest.List(names))
	}
	if err != nil {
		return nil, fmt.Errorf("read step %s/%s: %w", run, name, err)
	}
	return decodeStep(row)
}

func decodeStep(row meta.Row) (*Step, error) {
	var st Step
	if err := json.Unmarshal(row.Value, &st); err != nil {
		return nil, errdef.Newf(errdef.DataLoss, "run.corrupt", "step row %s: %w", row.Key, err)
	}
	return &st, nil
}

func (s runStore) steps(ctx context.Context, run string) ([]*Step, error) {
	var out []*Step
	for row, err := range s.rows.Scan(ctx, meta.Prefix(s.stepKey(run, ""))) {
		if err != nil {
			return nil, fmt.Errorf("list steps of %s: %w", run, err)
		}
		st, err := decodeStep(row)
		if err != nil {
			return nil, err
		}
		out = append(out, st)
	}
	slices.SortStableFunc(out, func(a, b *Step) int { return a.Started.Compare(b.Started) })
	return out, nil
}

func (s runStore) events(ctx context.Context, run string, after int64) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		p := s.eventPrefix(run)
		r := meta.Prefix(p)
		r.Start = fmt.Sprintf("%s%012d", p, after+1)
		for row, err := range s.rows.Scan(ctx, r) {
			if err != nil {
				yield(Event{}, fmt.Errorf("read events of %s: %w", run, err))
				return
			}
			var e Event
			if err := json.Unmarshal(row.Value, &e); err != nil {
				yield(Event{}, errdef.Newf(errdef.DataLoss, "run.corrupt", "event row %s: %w", row.Key, err))
				return
			}
			if !yield(e, nil) {
				return
			}
		}
	}
}
