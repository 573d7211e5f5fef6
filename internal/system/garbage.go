package system

import (
	"context"
	"time"

	"tarn.dev/tarn/internal/base/service"
	"tarn.dev/tarn/internal/flow"
	"tarn.dev/tarn/internal/lake"
	"tarn.dev/tarn/internal/server"
)

// When the server looks for garbage by itself.
const (
	// collectAfter the server's start, and again at such intervals, it looks at the projects in use.
	collectAfter = 10 * time.Minute
	// collectEvery project is collected at most so often.
	collectEvery = 24 * time.Hour
	// collectWait bounds one collection, above all its wait for those who read for long. The next one goes on.
	collectWait = 10 * time.Minute
)

// collector frees what nobody needs in the projects that are open, now and then, one after the other.
func (s *System) collector() service.Service {
	return service.New("garbage", func(ctx context.Context, ready func()) error {
		ready()
		ticker := time.NewTicker(collectAfter)
		defer ticker.Stop()
		for {
			select {
			case <-ctx.Done():
				return context.Cause(ctx)
			case <-ticker.C:
				s.collectDue(ctx, time.Now())
			}
		}
	})
}

// collectDue collects the open projects for which it is time. What goes wrong is for the log: the next turn
// tries again.
func (s *System) collectDue(ctx context.Context, now time.Time) {
	for _, p := range s.projects.opened() {
		if err := s.collectIfDue(ctx, p, now); err != nil && ctx.Err() == nil {
			s.config.Log.Warn("garbage collection", "project", p.Name, "error", err)
		}
	}
}

func (s *System) collectIfDue(ctx context.Context, p *server.Project, now time.Time) error {
	last, err := p.Lake.Collected(ctx)
	if err != nil || now.Sub(last) < collectEvery {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, collectWait)
	defer cancel()
	got, err := p.Flow.Collect(ctx, lake.CollectOptions{Keep: flow.KeepDeleted})
	if err == nil {
		s.config.Log.Info("garbage collected", "project", p.Name, "freed", got)
	}
	return err
}
