//go:build linux

// Package initprogram carries the built command tarn-init.
//
// `make build` builds it before tarn. A tarn that was built without it, by `go build ./cmd/tarn` alone, or with an old one, is
// the first process of its sandboxes itself: the same code, and 20 ms later.
package initprogram

import (
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"tarn.dev/tarn/internal/runtime/process"
)

//go:embed all:bin
var built embed.FS

// Path is what to execute, "" if there is nothing: a file in memory, so that no disk must allow it and nobody can replace
// it. It is good for this process and for what it forks, until they execute something.
var Path = sync.OnceValues(func() (string, error) {
	program, err := built.ReadFile("bin/tarn-init")
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	fd, err := unix.MemfdCreate("tarn-init", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return "", fmt.Errorf("make room for tarn-init: %w", err)
	}
	// A high number: a child gets its own descriptors, from 0 on, before it executes this one.
	high, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 64)
	if err = errors.Join(err, unix.Close(fd)); err != nil {
		return "", fmt.Errorf("make room for tarn-init: %w", err)
	}
	held = os.NewFile(uintptr(high), "tarn-init")
	if _, err := held.Write(program); err != nil {
		return "", fmt.Errorf("write tarn-init: %w", err)
	}
	if err := seal(held); err != nil {
		return "", fmt.Errorf("seal tarn-init: %w", err)
	}
	path := fmt.Sprintf("/proc/self/fd/%d", high)
	told, err := exec.Command(path, process.IdentityArgument).Output()
	if err != nil {
		return "", fmt.Errorf("start tarn-init: %w", err)
	}
	if strings.TrimSpace(string(told)) != process.Identity() {
		return "", nil // it was built from other sources, and left lying about
	}
	return path, nil
})

// seal has nobody change the file any more. The kernel refuses while it holds one of its pages for itself, to move it for example.
func seal(f *os.File) (err error) {
	for range 50 {
		_, err = unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, unix.F_SEAL_WRITE|unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_SEAL)
		if !errors.Is(err, unix.EBUSY) {
			return err
		}
		time.Sleep(10 * time.Millisecond)
	}
	return err
}

// held keeps the file open.
var held *os.File
