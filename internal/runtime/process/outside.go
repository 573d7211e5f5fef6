//go:build linux

package process

import (
	goruntime "runtime"

	"golang.org/x/sys/unix"
)

// outside is a thread of a confined supervisor that keeps seeing the host's files, as the sandbox's user may,
// after the supervisor has changed its root. What it starts begins there.
type outside struct{ tasks chan func() }

func stayOutside() (*outside, error) {
	o := &outside{tasks: make(chan func())}
	left := make(chan error)
	go func() {
		goruntime.LockOSThread() // for good: no other goroutine may run on it
		left <- unix.Unshare(unix.CLONE_NEWNS)
		for task := range o.tasks {
			task()
		}
	}()
	return o, <-left
}

func (o *outside) do(task func() error) error {
	done := make(chan error)
	o.tasks <- func() { done <- task() }
	return <-done
}
