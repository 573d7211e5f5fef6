//go:build linux

package process

import (
	"time"

	"tarn.dev/tarn/internal/runtime"
)

// Role is the first argument with which this binary becomes a supervisor.
const Role = "sandbox-init"

// maxMounts is how many descriptors the kernel hands over at once.
const maxMounts = 253

// Descriptors of a supervisor. 1 and 2 are the command's own.
const (
	jobFD      = 3 // socket from the server: one byte with mounts, one job, then nothing; its end means kill
	reportFD   = 4 // to the server: started, then ended
	messagesFD = 5 // the command's message descriptor
	commandFDs = 4 // the command has 0, 1, 2 and messages as 3
)

// job tells a supervisor what to run. Bytes, not strings: JSON would mangle what is not UTF-8.
type job struct {
	Argv, Env [][]byte
	Dir       []byte
	Own       [][]byte // folders that count for the disk limit
	Messages  bool
	Limits    runtime.Limits
	Root      *root `json:",omitempty"` // nil at level process
}

// report is what a supervisor answers: first with PID or Failure, then with the end.
type report struct {
	PID     int    `json:",omitempty"`
	Failure string `json:",omitempty"` // why the command could not be started
	Ended   *ended `json:",omitempty"`
}

type ended struct {
	Reason    runtime.Reason // Canceled when the server asked for it
	Code      int
	Signal    int
	Wall, CPU time.Duration
	Peak      int64
}
