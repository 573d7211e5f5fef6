package pgmeta

import (
	"context"
	"math/rand/v2"
	"time"
)

const (
	// defaultAnswer is for how long one exchange may take before its connection is given up.
	defaultAnswer = 15 * time.Second
	firstPause    = 20 * time.Millisecond
	longestPause  = time.Second
)

// pauses are the times between attempts: they double, and half of each is left to chance, so that
// servers that lost one database do not come back at the same moments.
type pauses struct {
	next  time.Duration
	until time.Time
}

func newPauses(patience time.Duration) *pauses {
	return &pauses{firstPause, time.Now().Add(patience)}
}

// wait returns false when the patience is used up or ctx has ended.
func (p *pauses) wait(ctx context.Context) bool {
	d := p.next/2 + rand.N(p.next/2)
	if time.Now().Add(d).After(p.until) {
		return false
	}
	p.next = min(2*p.next, longestPause)
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// patiently calls read, which changes nothing, until it succeeds, or fails for a reason that time does
// not heal, or patience or ctx ends.
func (s *Store) patiently(ctx context.Context, doing string, read func(context.Context) error) error {
	if err := s.usable(ctx); err != nil {
		return err
	}
	ctx, cancel := s.bound(ctx)
	defer cancel()
	pause := newPauses(s.patience)
	for {
		err := read(ctx)
		if err == nil {
			return nil
		}
		if ctx.Err() != nil || !passing(err) || !pause.wait(ctx) {
			return s.failed(ctx, err, doing)
		}
	}
}

// failed is the error of an operation: that of its context, if that has ended.
func (s *Store) failed(ctx context.Context, err error, doing string) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return s.classify(err, doing)
}
