// Package invariants is for states that cannot be. In a release build a violated invariant is an error
// of code internal, so the server lives on; under the race detector or the build tag "invariants" it is
// a panic, so no test overlooks it.
package invariants

import "tarn.dev/tarn/internal/base/errdef"

// ErrViolated is what Failf returns.
var ErrViolated = errdef.New(errdef.Internal, "invariant_violated", "invariant violated")

// Failf reports a state that cannot be. What it says is for the developer who reads the log.
func Failf(format string, args ...any) error {
	err := ErrViolated.Errorf(format, args...)
	if Enabled {
		panic(err)
	}
	return err
}
