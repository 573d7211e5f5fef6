// Package runtime is the port to isolated execution: run this command with these mounts and limits.
//
// It knows nothing of tables, runs or history. A caller creates a Sandbox from a Spec, asks it under
// which path each mount appears inside, writes what the command needs, runs it, and closes the sandbox,
// which frees everything it held. Implementations are children (process, later linuxns, k8spod); every
// one passes runtimetest.
package runtime

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"time"
)

// Level says how strongly an implementation isolates.
type Level string

// The levels, weakest first.
const (
	// Process: own folder, environment, limits and process tree; no namespaces.
	Process Level = "process"
	// UserNS: namespaces without root.
	UserNS Level = "userns"
	// Full: namespaces, uid of its own, cgroup, seccomp.
	Full Level = "full"
)

// Mount makes a host folder or file visible inside a sandbox. At level process nothing is mounted and
// Sandbox.Path returns Source itself.
type Mount struct {
	Name     string // unique within the Spec, [a-z0-9-]+
	Source   string // absolute path on the host
	Writable bool
	// Uncounted has Limits.DiskBytes not count what is in it: a cache is full of what others wrote.
	Uncounted bool
	// InPlace shows it under Source itself, for programs that know where they were installed. Otherwise the
	// level decides where.
	InPlace bool
	// Held keeps a shared lock (flock) on Source, a folder, while the sandbox is open: whoever would remove it
	// takes an exclusive one first.
	Held bool
}

// Installed are the mounts of what is installed under a prefix: its programs and libraries, and nothing else
// that lies there. A prefix may be somebody's home.
func Installed(name, prefix string) []Mount {
	var mounts []Mount
	for _, sub := range []string{"bin", "lib", "lib64", "libexec"} {
		dir := filepath.Join(prefix, sub)
		if info, err := os.Stat(dir); err == nil && info.IsDir() {
			mounts = append(mounts, Mount{Name: name + "-" + sub, Source: dir, InPlace: true})
		}
	}
	return mounts
}

// DefaultPIDs are more processes and threads than a program needs that does not fork without end.
const DefaultPIDs = 4096

// Limits bound a sandbox. Zero means that there is no limit of its own, but for what the host needs to live: nine tenths of its memory
// and of the disk's free space, and DefaultPIDs.
type Limits struct {
	MemoryBytes int64         // resident memory of the whole process tree
	CPUs        float64       // cores
	PIDs        int           // processes and threads
	DiskBytes   int64         // what is in the sandbox's own folder, and in mounts that it may write
	Time        time.Duration // wall clock of one Run
}

// Spec describes a sandbox.
type Spec struct {
	ID      string // label for logs and process listings, e.g. "r-7k2m9x/delays"
	Mounts  []Mount
	Limits  Limits
	Network bool // false: no network where the level can enforce it
	// Template, if any, is what commands are forked from instead of being started. The effect is the same, but earlier.
	// Where a level cannot fork, or the template fails, commands are started.
	Template *Template
}

// Template is a program that does ahead what many commands begin with, such as to import packages, and then forks for
// each. It is started once, in a sandbox of its own with the isolation of the level, and shared by all Specs that name
// the same one; it ends when it is not used. It speaks docs/formats/template.md.
type Template struct {
	// Owner is whose it is: templates of different owners are different, whatever else is equal.
	Owner  string
	Argv   []string
	Env    map[string]string // "{mount:NAME}" in a value is that mount's path inside
	Mounts []Mount           // the sandboxes have them too
}

// TemplateStats is what became of templates since the runtime was made.
type TemplateStats struct {
	Started, Evicted int    // templates
	Hits, Misses     int    // commands that found their template, or had to wait for its start
	Unforked         int    // commands that were started, because their template failed
	Failure          string // why the last of those
	Live             int    // templates now
	MemoryBytes      int64  // of those, their forks' own not counted
}

// MessagesVariable is the one variable that a command gets beside its own, if it has a Message function.
const MessagesVariable = "TARN_MESSAGES_FD"

// Command is one program to run in a sandbox.
type Command struct {
	Argv []string          // Argv[0] is the absolute path of a program of the host's system, or inside a mount
	Env  map[string]string // the child has exactly these variables
	Dir  string            // as seen inside; "" is the sandbox's own empty folder
	// Stdin is a pipe or file of the caller that the command reads as it is; nil is an empty one.
	Stdin *os.File
	// Stdout and Stderr get the output as it is written. They may be the same writer; writes are
	// serialized then. Nil discards.
	Stdout, Stderr io.Writer
	// Message gets each line written to the message descriptor (number in the variable
	// TARN_MESSAGES_FD), without its newline, in order, from one goroutine. It must not keep line.
	Message func(line []byte)
}

// Reason says why a command ended.
type Reason string

// The reasons.
const (
	Exited      Reason = "exited"        // by itself; Code holds the exit status
	Signaled    Reason = "signaled"      // by a signal that we did not send; Signal holds it
	TimedOut    Reason = "timed_out"     // Limits.Time
	OutOfMemory Reason = "out_of_memory" // Limits.MemoryBytes
	DiskFull    Reason = "disk_full"     // Limits.DiskBytes
	// NoRoom is a disk on which all sandboxes together left too little for others. The one that had written most is ended.
	NoRoom Reason = "no_room"
	// TooManyProcesses is Limits.PIDs where a level cannot make fork fail instead.
	TooManyProcesses Reason = "too_many_processes"
	Canceled         Reason = "canceled" // the context of Run ended
)

// Usage is what a command consumed.
type Usage struct {
	Wall, CPU       time.Duration
	PeakMemoryBytes int64
	DiskBytes       int64 // what Limits.DiskBytes counts, as last seen; 0 of a short command
}

// Exit is how a command ended. A command that failed is an Exit, not an error.
type Exit struct {
	Reason Reason
	Code   int
	Signal int
	Usage  Usage
}

// OK reports a clean end.
func (e Exit) OK() bool { return e.Reason == Exited && e.Code == 0 }

// Sandbox is one isolated place. Run may be called several times, one at a time.
type Sandbox interface {
	// Path is where the mount of that name appears inside. Unknown names are a programming error.
	Path(mount string) string
	// Home is the sandbox's own writable folder as seen inside; HostHome is the same on the host.
	Home() string
	HostHome() string
	// Assign replaces the limits of the Spec, and adds mounts to it, in place of those that the Assign before added. For a
	// command that runs all of this is in force when Assign returns, so a command can be started before it is known what it will
	// work on. Limits.Time is that of the next Run.
	Assign(ctx context.Context, limits Limits, mounts ...Mount) error
	// Run runs cmd to its end and until every process it started is gone. All output and messages
	// have been delivered when it returns. An error means the command could not be started.
	// Ending ctx kills the whole tree; everything is freed within a second.
	Run(ctx context.Context, cmd Command) (Exit, error)
	// Close kills what still runs and removes the sandbox's own folder. Closing twice is no error.
	Close() error
}

// Runtime makes sandboxes. Safe for concurrent use.
type Runtime interface {
	// Level is the isolation every sandbox of this runtime has; it is shown in every run.
	Level() Level
	// Create prepares a sandbox. The caller closes it.
	Create(ctx context.Context, spec Spec) (Sandbox, error)
	// Templates tells how templates serve.
	Templates() TemplateStats
	// Close closes every sandbox that is still open.
	Close() error
}
