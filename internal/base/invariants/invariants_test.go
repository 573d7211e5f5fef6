package invariants_test

import (
	"errors"
	"testing"

	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/base/invariants"
)

func TestFailf(t *testing.T) {
	t.Parallel()
	var err error
	panicked := func() (p bool) {
		defer func() {
			if v := recover(); v != nil {
				p = true
				err, _ = v.(error)
			}
		}()
		err = invariants.Failf("slot %d of %s is there twice", 3, "orders")
		return false
	}()
	if panicked != invariants.Enabled {
		t.Errorf("panicked is %t, Enabled is %t", panicked, invariants.Enabled)
	}
	if !errors.Is(err, invariants.ErrViolated) || errdef.CodeOf(err) != errdef.Internal || err.Error() != "slot 3 of orders is there twice" {
		t.Errorf("got %v", err)
	}
}
