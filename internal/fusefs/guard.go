package fusefs

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"

	"tarn.dev/tarn/internal/base/errdef"
)

// Role is the hidden first argument that makes the binary the guard of a mount: a process that does nothing until the
// one that mounted is gone, however it ended, and then takes away what it left.
const Role = "mount-guard"

// guard starts the guard of what is mounted on a folder. release lets it go, when the mount is gone.
func guard(dir string) (release func() error, err error) {
	id, _, err := mountedOn(dir)
	if err != nil {
		return nil, err
	}
	exe, err := os.Executable()
	if err != nil {
		return nil, errdef.Newf(errdef.Internal, "fusefs.guard", "find this binary: %w", err)
	}
	// In a session of its own: Ctrl-C in the terminal is not for it.
	c := &exec.Cmd{Path: exe, Args: []string{"tarn", Role, dir, id}, Dir: "/", Stderr: os.Stderr, SysProcAttr: &syscall.SysProcAttr{Setsid: true}}
	alive, err := c.StdinPipe()
	if err == nil {
		err = c.Start()
	}
	if err != nil {
		return nil, errdef.Newf(errdef.ResourceExhausted, "fusefs.guard", "start the guard of the mount: %w", err)
	}
	return func() error { return errors.Join(alive.Close(), c.Wait()) }, nil
}

// GuardMain waits for the end of stdin, and unmounts the folder that is its second argument if its third still is the
// id of what is mounted there.
func GuardMain() int {
	if len(os.Args) != 4 {
		return 1
	}
	dir, id := os.Args[2], os.Args[3]
	_, err := io.Copy(io.Discard, os.Stdin)
	on, _, listErr := mountedOn(dir)
	err = errors.Join(err, listErr)
	if err == nil && on == id {
		err = detach(dir, true)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "unmount %s, whose process is gone: %v\n", dir, err)
		return 1
	}
	return 0
}
