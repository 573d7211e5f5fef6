package runtimetest

import (
	"fmt"
	"os"
	"os/exec"
	"runtime/debug"
	"strconv"
	"strings"
	"syscall"
	"time"

	"tarn.dev/tarn/internal/runtime"
)

const helperRole = "runtimetest-helper"

// Helper does the work of the suite's own commands, when this process was started as one; then it does
// not return. A shell cannot allocate memory or write a line of an exact length.
func Helper() {
	if len(os.Args) < 2 || os.Args[1] != helperRole {
		return
	}
	if err := help(os.Args[2], os.Args[3:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

func help(what string, args []string) error {
	n, _ := strconv.Atoi(args[0])
	switch what {
	case "alloc": // n MiB, a little at a time, and then keep it for a moment
		debug.SetGCPercent(-1)
		var keep [][]byte
		for range n {
			b := make([]byte, 1<<20)
			for i := 0; i < len(b); i += 4096 {
				b[i] = 1
			}
			keep = append(keep, b)
			time.Sleep(time.Millisecond)
		}
		time.Sleep(300 * time.Millisecond)
		fmt.Println(len(keep))
	case "burn": // n ms of processor time
		var ru syscall.Rusage
		for ru.Utime.Nano()+ru.Stime.Nano() < int64(n)*1e6 {
			for range 1_000_000 { //nolint:revive // burning is the point
			}
			if err := syscall.Getrusage(syscall.RUSAGE_SELF, &ru); err != nil {
				return err
			}
		}
	case "map": // read a mapped file, and keep the mapping for a moment
		f, err := os.Open(args[0])
		if err != nil {
			return err
		}
		info, err := f.Stat()
		if err != nil {
			return err
		}
		data, err := syscall.Mmap(int(f.Fd()), 0, int(info.Size()), syscall.PROT_READ, syscall.MAP_SHARED)
		if err != nil {
			return err
		}
		sum := 0
		for i := 0; i < len(data); i += 4096 {
			sum += int(data[i])
		}
		time.Sleep(300 * time.Millisecond)
		fmt.Println(sum)
	case "spawn": // n copies of the helper with the other arguments
		self, err := os.Executable()
		if err != nil {
			return err
		}
		var kids []*exec.Cmd
		for range n {
			c := exec.Command(self, append([]string{helperRole}, args[1:]...)...)
			c.Stderr = os.Stderr
			if err := c.Start(); err != nil {
				return err
			}
			kids = append(kids, c)
		}
		for _, c := range kids {
			if err := c.Wait(); err != nil {
				return err
			}
		}
	case "lines": // message lines of the given lengths
		fd, err := strconv.Atoi(os.Getenv(runtime.MessagesVariable))
		if err != nil {
			return err
		}
		f := os.NewFile(uintptr(fd), "messages")
		for _, a := range args {
			n, err := strconv.Atoi(a)
			if err != nil {
				return err
			}
			if _, err := f.WriteString(strings.Repeat("x", n) + "\n"); err != nil {
				return err
			}
		}
	default:
		return fmt.Errorf("unknown helper %q", what)
	}
	return nil
}
