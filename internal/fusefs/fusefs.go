// Package fusefs shows a tree of files that never changes as a folder of this host: read-only, lazily and cached, by
// FUSE, in the process that asks for it.
//
// It knows neither commits nor the API, only a Tree; what it shows may as well be an environment or an image. That the
// tree never changes is what makes it fast: the kernel keeps names, attributes and bytes, and asks once for each.
package fusefs

import (
	"context"
	"io/fs"
	"iter"
	"time"

	"tarn.dev/tarn/internal/base/errdef"
)

// Errors of mounts.
var (
	// ErrFolder means that a folder cannot be mounted on.
	ErrFolder = errdef.New(errdef.FailedPrecondition, "fusefs.folder", "the folder cannot be mounted on")
	// ErrUnavailable means that this host, or this user on it, has no FUSE.
	ErrUnavailable = errdef.New(errdef.FailedPrecondition, "fusefs.unavailable", "FUSE cannot be used here")
	// ErrBusy means that a mount was taken away from programs that still use it.
	ErrBusy = errdef.New(errdef.FailedPrecondition, "fusefs.busy", "the mount is in use")
	// ErrSlow means that a tree gave no answer in time.
	ErrSlow = errdef.New(errdef.DeadlineExceeded, "fusefs.slow", "no answer in time")
	// ErrWrong means that a tree gave other bytes than it had announced.
	ErrWrong = errdef.New(errdef.DataLoss, "fusefs.wrong", "not the bytes that the file has")
)

// Tree is what a mount shows. It never changes. Paths are joined by slashes, with none in front; "" is the root. It is
// asked by many goroutines at once.
type Tree interface {
	// Look returns what has a name in a folder; nothing is fs.ErrNotExist.
	Look(ctx context.Context, folder, name string) (Entry, error)
	// List returns entries of a folder in the order of the tree: the next ones behind after, or without it the first.
	// more says whether others come behind them.
	List(ctx context.Context, folder string, after *Entry) (entries []Entry, more bool, err error)
	// Read yields what is asked for, in order: the part of the file in pieces of any size, then whole files in one
	// piece each. At the end comes a piece without Data if it is known which small file would be the next one.
	Read(ctx context.Context, part Part) iter.Seq2[Piece, error]
}

// Entry is a file, a folder or a symbolic link.
type Entry struct {
	Name   string
	Mode   fs.FileMode // its type, and whether it can be executed
	Size   int64
	Target string // of a symbolic link
}

// Part is a part of a file, and files that come after it.
type Part struct {
	Path           string
	Offset, Length int64 // it may end behind the file
	More           int64 // bytes of files behind it that are wanted too; none but whole small ones need to come
}

// Piece is bytes of a file.
type Piece struct {
	Path   string
	Offset int64
	Data   []byte
}

// Options are those of a mount.
type Options struct {
	Source string    // what df and mount show as its origin
	Time   time.Time // of every file
	// Report is told of what went wrong: a program that reads sees no more than an error number.
	Report func(path string, err error)
}

// patience is how long a tree has for an answer. Until then whoever reads waits, and then gets an error.
const patience = 2 * time.Minute

// grace is how long a program that got a signal goes on waiting. The kernel does not tell which signal: most, such as
// that of a timer, must not make a read fail that ends soon.
const grace = time.Second
