package flow

import (
	"hash/fnv"
	"math"
	"math/rand/v2"
	"slices"
	"time"

	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/flow/manifest"
)

// longestDelay bounds what a policy may ask for: its numbers come from user code.
const longestDelay = 24 * time.Hour

// retryable reports whether a failed item may be tried again. A process that was killed raised nothing;
// a policy for every exception covers it.
func retryable(r manifest.Retry, o outcome) bool {
	switch errdef.CodeOf(o.err) {
	case errdef.Canceled, errdef.DataLoss, errdef.InvalidArgument:
		return false
	}
	if len(r.On) == 0 || slices.Contains(r.On, "Exception") && len(o.classes) == 0 {
		return true
	}
	return slices.ContainsFunc(o.classes, func(c string) bool { return slices.Contains(r.On, c) })
}

// backoff is how long to wait after the attempt of that number, from 1. Jitter takes a share of it off, so that what failed together
// does not come back together. Its chance is drawn from who waits: the same one waits the same time again.
func backoff(r manifest.Retry, who string, try int) time.Duration {
	d := r.Delay * min(math.Pow(max(r.Backoff, 1), float64(try-1)), math.MaxFloat64) // no delay stays none
	if r.MaxDelay > 0 {
		d = min(d, r.MaxDelay)
	}
	h := fnv.New64a()
	h.Write([]byte(who)) //nolint:errcheck // a hash takes everything
	d *= 1 - r.Jitter*rand.New(rand.NewPCG(h.Sum64(), uint64(try))).Float64()
	return time.Duration(min(d, longestDelay.Seconds()) * float64(time.Second))
}
