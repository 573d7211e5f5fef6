//go:build linux

package process

import (
	"crypto/sha256"
	"embed"
	"fmt"
	"io/fs"
	"sync"
	"time"

	"tarn.dev/tarn/internal/runtime"
)

// Role is the first argument with which this binary becomes a supervisor.
const Role = "sandbox-init"

// maxMounts is how many descriptors the kernel hands over at once.
const maxMounts = 253

// source is this package's own: what makes two programs speak the same protocol.
//
//go:embed *.go
var source embed.FS

// Identity tells two builds of supervisors apart. Called with it as its only argument, a program that is one prints its own.
var Identity = sync.OnceValue(func() string {
	hash := sha256.New()
	// What was embedded can be read.
	_ = fs.WalkDir(source, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := source.ReadFile(name)
		fmt.Fprintf(hash, "%s %d\n%s", name, len(text), text)
		return err
	})
	return fmt.Sprintf("%x", hash.Sum(nil)[:16])
})

// IdentityArgument asks tarn-init for its Identity.
const IdentityArgument = "identity"

// Parts that a supervisor may have, its third argument.
const (
	partCommand  = "command"  // it starts the command
	partTemplate = "template" // it starts a template, and supervisors of its forks
	partFork     = "fork"     // its command is a fork of a template
)

// Descriptors of a supervisor. 1 and 2 are the command's own.
const (
	jobFD      = 3 // socket from the server: a byte with mounts, the job; then the same with more to show; its end means kill
	reportFD   = 4 // to the server: started, answers, then ended
	messagesFD = 5 // the command's message descriptor
	forksFD    = 6 // of a fork's supervisor: socket to the template; its control groups follow
	commandFDs = 4 // the command has 0, 1, 2 and messages as 3
)

// ForksVariable names the descriptor of a template's socket: docs/formats/template.md.
const ForksVariable = "TARN_FORKS_FD"

// The template's socket is its fourth descriptor above the usual ones of a command.
const templateForksFD = commandFDs

// forkOrder asks a template's supervisor for a supervisor of a fork. Its descriptors come beside it.
type forkOrder struct {
	User    int  // within the users of the template's sandbox
	Network bool // the template's
}

// forkRequest asks a template for a fork. Its descriptors come beside it: stdout, stderr, messages, start, exit, then
// control groups, then namespaces in the order of their names.
type forkRequest struct {
	Groups     int      `json:"groups"`
	Namespaces []string `json:"namespaces"`
	Scopes     uint64   `json:"scopes"` // of Landlock, for the fork once it is inside; 0 is none
	Filter     []byte   `json:"filter"` // of system calls, likewise
}

// forkJob is what a fork is to become, and forkEnd how it ended.
type forkJob struct {
	Argv  [][]byte `json:"argv"`
	Env   [][]byte `json:"env"`
	Dir   []byte   `json:"dir"`
	Stdin bool     `json:"stdin"` // follows, beside one byte
}

type forkEnd struct {
	Status int     `json:"status"` // as wait4 gives it
	CPU    float64 `json:"cpu"`    // seconds
	Peak   int64   `json:"peak"`   // bytes
}

// job tells a supervisor what to run. Bytes, not strings: JSON would mangle what is not UTF-8.
type job struct {
	Argv, Env [][]byte
	Dir       []byte
	Own       [][]byte // folders that count for the disk limit
	Messages  bool
	Stdin     bool // comes as the last descriptor beside the mounts
	Limits    runtime.Limits
	Root      *root `json:",omitempty"` // nil at level process
}

// report is what a supervisor answers: first with PID or Failure, then to each order to show, then with the end.
type report struct {
	PID     int    `json:",omitempty"`
	Failure string `json:",omitempty"` // why the command could not be started
	// Unforked is why no fork of a template is there. The command itself may be sound.
	Unforked string `json:",omitempty"`
	Shown    *shown `json:",omitempty"`
	Wrote    *int64 `json:",omitempty"` // bytes in the job's own folders, when they have become many more or less
	Ended    *ended `json:",omitempty"`
}

// shown answers an order to show more.
type shown struct{ Failure string }

type ended struct {
	Reason    runtime.Reason // Canceled when the server asked for it
	Code      int
	Signal    int
	Wall, CPU time.Duration
	Peak      int64
	Wrote     int64
}
