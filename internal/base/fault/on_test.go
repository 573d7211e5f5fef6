//go:build fault

package fault_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"tarn.dev/tarn/internal/base/fault"
)

const childVariable = "TARN_FAULT_TEST_CHILD"

// TestMain lets the test binary be the child that a fault ends.
func TestMain(m *testing.M) {
	if os.Getenv(childVariable) != "" {
		if err := fault.Point("test.child"); err != nil {
			os.Stdout.WriteString("error: " + err.Error())
			os.Exit(0)
		}
		os.Stdout.WriteString("survived")
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func child(t *testing.T, program string) *exec.Cmd {
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), childVariable+"=1", "TARN_FAULT="+program, "TARN_FAULT_DIR="+t.TempDir())
	return cmd
}

func TestTermsEndTheProcess(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		program string
		code    int
		signal  syscall.Signal
		out     string
	}{
		{"", 0, 0, "survived"},
		{"test.other=kill", 0, 0, "survived"},
		{"test.child=1*off->kill", 0, 0, "survived"},
		{"test.child=0*off->kill", 0, syscall.SIGKILL, ""},
		{"test.other=off;test.child=kill", 0, syscall.SIGKILL, ""},
		{"test.child=exit", 1, 0, ""},
		{"test.child=exit(7)", 7, 0, ""},
		{"test.child=panic(x)", 2, 0, "panic: fault test.child: x"},
		{"test.child=delay(1)", 0, 0, "survived"},
		{"test.child=error(disk on fire)", 0, 0, "error: disk on fire"},
		{"test.child=explode", 125, 0, "unknown action"},
		{"test.child=x*off", 125, 0, "count"},
		{"test.child=error(x", 125, 0, "parenthesis"},
		{"test.child=delay(soon)", 125, 0, "number"},
		{"test.child", 125, 0, "cannot read"},
	} {
		out, err := child(t, c.program).CombinedOutput()
		code, signal := 0, syscall.Signal(0)
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			if status := exit.Sys().(syscall.WaitStatus); status.Signaled() {
				signal = status.Signal()
			} else {
				code = exit.ExitCode()
			}
		} else if err != nil {
			t.Fatal(err)
		}
		if code != c.code || signal != c.signal || !strings.Contains(string(out), c.out) {
			t.Errorf("%q: code %d, signal %d, output %q", c.program, code, signal, out)
		}
	}
}

func TestPause(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	cmd := child(t, "test.child=pause")
	cmd.Env = append(cmd.Env, "TARN_FAULT_DIR="+dir)
	var out strings.Builder
	cmd.Stdout = &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	mark := filepath.Join(dir, "test.child")
	for {
		if _, err := os.Stat(mark); err == nil {
			break
		}
		if t.Context().Err() != nil {
			t.Fatal("the point was never reached")
		}
		runtime.Gosched()
	}
	if err := os.Remove(mark); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil || out.String() != "survived" {
		t.Errorf("%v, %q", err, out.String())
	}
}

func TestCount(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for range 2 {
		cmd := child(t, "test.child=count")
		cmd.Env = append(cmd.Env, "TARN_FAULT_DIR="+dir)
		if out, err := cmd.Output(); err != nil || string(out) != "survived" {
			t.Fatalf("%v, %q", err, out)
		}
	}
	if b, err := os.ReadFile(filepath.Join(dir, "test.child")); err != nil || string(b) != ".." {
		t.Errorf("%q, %v", b, err)
	}
}

func TestChain(t *testing.T) {
	t.Parallel()
	if err := fault.Set("test.chain", "2*off->1*error(x)->1*off->1*error(y)"); err != nil {
		t.Fatal(err)
	}
	var got []string
	for range 7 {
		err := fault.Point("test.chain")
		switch {
		case err == nil:
			got = append(got, "-")
		case errors.Is(err, fault.ErrInjected):
			got = append(got, err.Error())
		default:
			t.Fatal(err)
		}
	}
	if s := strings.Join(got, ""); s != "--x-y--" {
		t.Errorf("got %s", s)
	}
	if err := fault.Set("test.chain", "nonsense"); err == nil {
		t.Error("nonsense was accepted")
	}
}
