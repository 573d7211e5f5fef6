//go:build !linux

package process

import (
	"context"
	"time"

	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/runtime"
)

// Place is where sandboxes are made.
type Place struct{ Dir, Init string }

// New is not available here: it needs a kernel that keeps a process tree together.
func New(Place, runtime.Level) (runtime.Runtime, error) {
	return nil, errdef.New(errdef.NotImplemented, "runtime.no_level", "commands can be run on Linux only").
		WithNext("set TARN_URL to a Tarn server on Linux")
}

// MoveTime is that of nothing.
func MoveTime() (time.Duration, error) { return 0, nil }

// Lacking is a level that this host does not have.
type Lacking struct {
	Level runtime.Level
	Why   error
}

// Choose finds no level here.
func Choose(context.Context, Place, string, ...string) (runtime.Level, []Lacking, error) {
	_, err := New(Place{}, runtime.Process)
	return "", nil, err
}

// Role is the first argument with which this binary becomes a supervisor.
const Role = "sandbox-init"

// InitMain does nothing: New gives nobody a reason to call it.
func InitMain() int { return 1 }

// Landlock is of Linux.
func Landlock() bool { return false }
