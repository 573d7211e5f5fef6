package engine_test

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"tarn.dev/tarn/internal/query"
	"tarn.dev/tarn/internal/runtime/process"
)

const parentRole = "tarn-engine-parent"

// parent plays a server: it runs a query that does not end, and prints a line once rows flow.
func parent(dir, mark string) {
	rt, err := process.New(process.Place{Dir: dir}, level())
	if err != nil {
		panic(err)
	}
	e := query.New(query.Options{Runtime: rt, Command: self(role, mark)})
	var once sync.Once
	_, err = e.Run(context.Background(), query.Job{SQL: rowsForever, Sinks: stream}, signalWriter(func() {
		once.Do(func() { fmt.Println() })
	}))
	panic(err)
}

// TestOrphans kills a server in the middle of a query: its children end by themselves.
func TestOrphans(t *testing.T) {
	t.Parallel()
	mark := t.Name() + "/" + strconv.Itoa(os.Getpid())
	command := self(parentRole, t.TempDir(), mark)
	cmd := exec.CommandContext(t.Context(), command[0], command[1:]...)
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var children []int // pidfds: they cannot come to mean another process
	bufio.NewScanner(stdout).Scan()
	for _, pid := range withArgument(t, mark) {
		if pid == cmd.Process.Pid {
			continue
		}
		fd, err := unix.PidfdOpen(pid, 0)
		if err != nil {
			t.Fatalf("child %d: %v", pid, err)
		}
		defer unix.Close(fd)
		children = append(children, fd)
	}
	if len(children) == 0 {
		t.Fatal("no children")
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	cmd.Wait()
	for _, fd := range children {
		poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, err := unix.Poll(poll, 10_000)
		for err == unix.EINTR {
			n, err = unix.Poll(poll, 10_000)
		}
		if n != 1 || err != nil {
			t.Errorf("a child outlives its parent: %d, %v", n, err)
		}
	}
}
