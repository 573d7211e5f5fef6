//go:build !linux

package process

import (
	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/runtime"
)

// New is not available here: it needs a kernel that keeps a process tree together.
func New(string) (runtime.Runtime, error) {
	return nil, errdef.New(errdef.NotImplemented, "runtime.no_level", "commands can be run on Linux only").
		WithNext("set TARN_URL to a Tarn server on Linux")
}

// Role is the first argument with which this binary becomes a supervisor.
const Role = "sandbox-init"

// InitMain does nothing: New gives nobody a reason to call it.
func InitMain() int { return 1 }
