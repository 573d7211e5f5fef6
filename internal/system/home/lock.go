package home

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"tarn.dev/tarn/internal/base/errdef"
)

// Holder says who holds a home. It is advice for people and clients: the lock itself is the kernel's.
type Holder struct {
	PID     int       `json:"pid"`
	Start   time.Time `json:"start"`
	Version string    `json:"version"`
	Socket  string    `json:"socket"`
}

// Lock makes the caller the one server of the home until release, or the end of the process, and checks
// or creates the home's format. If somebody else holds it, Lock waits until ctx ends: a server that is
// going away frees it within moments.
func (h Home) Lock(ctx context.Context, version string) (release func() error, err error) {
	return h.lock(ctx, version, h.prepare)
}

// LockForRestore is Lock for who fills the home from a backup: it has nothing yet, or what an earlier try left. Until Restored it
// cannot be used otherwise.
func (h Home) LockForRestore(ctx context.Context, version string) (release func() error, err error) {
	return h.lock(ctx, version, h.beginRestore)
}

func (h Home) lock(ctx context.Context, version string, prepare func() error) (release func() error, err error) {
	f, err := flock(ctx, h.LockFile())
	if err != nil {
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return nil, errdef.Newf(errdef.FailedPrecondition, "home.lock", "lock the home: %w", err)
		}
		holder, _ := h.Holder()
		return nil, ErrLocked.Errorf("home %s is in use by the server with pid %d (tarn %s, since %s)",
			h.Dir, holder.PID, holder.Version, holder.Start.Format(time.RFC3339)).
			WithNext("tarn server stop", fmt.Sprintf("kill %d", holder.PID)).
			WithDetail("pid", holder.PID)
	}
	if err := prepare(); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	b, err := json.Marshal(Holder{PID: os.Getpid(), Start: time.Now().UTC().Truncate(time.Second), Version: version, Socket: h.Socket})
	if err == nil {
		if err = f.Truncate(0); err == nil {
			_, err = f.WriteAt(append(b, '\n'), 0)
		}
	}
	if err != nil {
		return nil, errdef.Newf(errdef.FailedPrecondition, "home.lock", "write the home's lock: %w", errors.Join(err, f.Close()))
	}
	return f.Close, nil
}

// Holder reads who holds, or last held, the home.
func (h Home) Holder() (Holder, bool) {
	b, err := os.ReadFile(h.LockFile())
	if err != nil {
		return Holder{}, false
	}
	var holder Holder
	return holder, json.Unmarshal(b, &holder) == nil
}

// Launching serialises clients that are about to start a server.
func (h Home) Launching(ctx context.Context) (release func() error, err error) {
	f, err := flock(ctx, h.launchFile())
	if cause := context.Cause(ctx); err != nil && cause != nil {
		return nil, cause
	}
	if err != nil {
		return nil, errdef.Newf(errdef.FailedPrecondition, "home.lock", "wait for another command that starts the server: %w", err)
	}
	return f.Close, nil
}

// flock opens and locks a file, waiting until ctx ends. The kernel frees the lock with the last copy of
// the descriptor, which no child inherits, so it dies with this process.
func flock(ctx context.Context, name string) (*os.File, error) {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if !errors.Is(err, unix.EWOULDBLOCK) {
		if err != nil {
			return nil, errors.Join(err, f.Close())
		}
		return f, nil
	}
	// There is no flock with a time limit: a thread waits, and whoever loses the race frees the file.
	got := make(chan error)
	go func() {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX)
		for errors.Is(err, unix.EINTR) {
			err = unix.Flock(int(f.Fd()), unix.LOCK_EX)
		}
		select {
		case got <- err:
		case <-ctx.Done():
			f.Close() //nolint:errcheck // nothing was written
		}
	}()
	select {
	case err := <-got:
		if err != nil {
			return nil, errors.Join(err, f.Close())
		}
		return f, nil
	case <-ctx.Done():
		return nil, unix.EWOULDBLOCK
	}
}

// AwaitFree returns when no server holds the home.
func (h Home) AwaitFree(ctx context.Context) error {
	f, err := flock(ctx, h.LockFile())
	if cause := context.Cause(ctx); err != nil && cause != nil {
		return cause
	}
	if err != nil {
		return errdef.Newf(errdef.FailedPrecondition, "home.lock", "wait for the server to end: %w", err)
	}
	return f.Close()
}
