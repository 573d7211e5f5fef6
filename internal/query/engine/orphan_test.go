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
)

const parentRole = "tarn-engine-parent"

// parent plays a server: it runs a query that does not end and prints its children's pids, one a line,
// then an empty line once rows flow.
func parent() {
	self, err := os.Executable()
	if err != nil {
		panic(err)
	}
	launch := query.Exec(self, role)
	e := query.New(query.Options{Launch: func(pipes query.Pipes) (query.Child, error) {
		c, err := launch(pipes)
		if err == nil {
			fmt.Println(c.PID())
		}
		return c, err
	}})
	var once sync.Once
	_, err = e.Run(context.Background(), query.Job{SQL: rowsForever, Sinks: stream}, signalWriter(func() {
		once.Do(func() { fmt.Println() })
	}))
	panic(err)
}

// TestOrphans kills a server in the middle of a query: its children end by themselves.
func TestOrphans(t *testing.T) {
	t.Parallel()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self, parentRole)
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var children []int // pidfds: they cannot come to mean another process
	for lines := bufio.NewScanner(stdout); lines.Scan() && lines.Text() != ""; {
		pid, err := strconv.Atoi(lines.Text())
		if err != nil {
			t.Fatal(err)
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
