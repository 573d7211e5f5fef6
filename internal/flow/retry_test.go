package flow

import (
	"errors"
	"math"
	"testing"
	"time"

	"pgregory.net/rapid"

	"tarn.dev/tarn/internal/flow/call"
	"tarn.dev/tarn/internal/flow/manifest"
)

// TestBackoff holds that a wait lies between the delay without its jitter and the delay, is never longer than allowed, and is the same
// for the same waiter.
func TestBackoff(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		r := manifest.Retry{
			Delay: rapid.Float64Range(0, 1e6).Draw(t, "delay"), Backoff: rapid.Float64Range(0, 10).Draw(t, "backoff"),
			MaxDelay: rapid.Float64Range(0, 1e5).Draw(t, "max"), Jitter: rapid.Float64Range(0, 1).Draw(t, "jitter"),
		}
		try := rapid.IntRange(1, 5000).Draw(t, "try")
		full := min(r.Delay*math.Pow(max(r.Backoff, 1), float64(try-1)), longestDelay.Seconds())
		if r.Delay == 0 {
			full = 0
		}
		if r.MaxDelay > 0 {
			full = min(full, r.MaxDelay)
		}
		got := backoff(r, "c-1/7", try)
		if s := got.Seconds(); s > full+1e-6 || s < full*(1-r.Jitter)-1e-6 {
			t.Fatalf("%v of %v after attempt %d: %v", s, full, try, r)
		}
		if again := backoff(r, "c-1/7", try); again != got {
			t.Fatalf("%v, then %v", got, again)
		}
	})
	r := manifest.Retry{Delay: 1, Jitter: 0.5}
	if a, b := backoff(r, "c-1/1", 1), backoff(r, "c-1/2", 1); a == b || a < 500*time.Millisecond || b > time.Second {
		t.Errorf("two that wait: %s and %s", a, b)
	}
}

// TestRetryable tells the exceptions of a policy from others, by their own class and its bases.
func TestRetryable(t *testing.T) {
	t.Parallel()
	raised := func(classes ...string) outcome { return outcome{err: errors.New("x"), classes: classes} }
	for _, c := range []struct {
		name string
		on   []string
		o    outcome
		want bool
	}{
		{"any exception", []string{"Exception"}, raised("ValueError", "Exception"), true},
		{"its base", []string{"OSError"}, raised("FileNotFoundError", "OSError", "Exception"), true},
		{"another", []string{"OSError"}, raised("ValueError", "Exception"), false},
		{"a killed process", []string{"Exception"}, raised(), true},
		{"a killed process, for one class", []string{"OSError"}, raised(), false},
		{"a cancel", nil, outcome{err: call.ErrCanceled}, false},
	} {
		if got := retryable(manifest.Retry{Times: 1, On: c.on}, c.o); got != c.want {
			t.Errorf("%s: %v", c.name, got)
		}
	}
}
