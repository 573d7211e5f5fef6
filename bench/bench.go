package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"time"
)

// bench is what a benchmark measures with: a scratch folder, the binary and a home for it.
type bench struct {
	short bool
	dir   string
	bin   string
	vars  []string // more variables of what is started
}

func newBench(short bool) (*bench, error) {
	bin := os.Getenv("TARN_BIN")
	if bin == "" {
		bin = "bin/tarn"
	}
	bin, err := filepath.Abs(bin)
	if err != nil {
		return nil, err
	}
	if _, err := os.Stat(bin); err != nil {
		return nil, fmt.Errorf("%w: make build first", err)
	}
	dir, err := os.MkdirTemp("", "tarn-bench-")
	return &bench{short: short, dir: dir, bin: bin}, err
}

// close stops the server, if there is one, and removes what the benchmark made.
func (b *bench) close(err error) error {
	if _, e := os.Stat(filepath.Join(b.dir, "home")); e == nil {
		_, e := b.tarn(context.Background(), b.dir, "server", "stop")
		err = errors.Join(err, e)
	}
	return errors.Join(err, removeAll(b.dir))
}

// size is full, or small in a short run.
func (b *bench) size(full, small int) int {
	if b.short {
		return small
	}
	return full
}

// env is the environment of the binary and of what it is compared with.
func (b *bench) env() []string {
	return slices.Concat(os.Environ(), []string{"TARN_HOME=" + filepath.Join(b.dir, "home"), "TARN_URL=", "TARN_BRANCH="}, b.vars)
}

// tarn runs the binary in dir and returns what it prints on stdout.
func (b *bench) tarn(ctx context.Context, dir string, args ...string) ([]byte, error) {
	return b.command(ctx, dir, b.bin, args...)
}

// command runs a program in dir and returns what it prints on stdout.
func (b *bench) command(ctx context.Context, dir, name string, args ...string) ([]byte, error) {
	c := exec.CommandContext(ctx, name, args...)
	c.Dir, c.Env = dir, b.env()
	var stderr bytes.Buffer
	c.Stderr = &stderr
	out, err := c.Output()
	if err != nil {
		return out, fmt.Errorf("%s %s: %w\n%s%s", filepath.Base(name), strings.Join(args, " "), err, out, stderr.Bytes())
	}
	return out, nil
}

// project makes a folder with the given files, by name, and a tarn.toml.
func (b *bench) project(name string, files map[string]string) (string, error) {
	dir := filepath.Join(b.dir, name)
	if _, given := files["tarn.toml"]; !given {
		files["tarn.toml"] = fmt.Sprintf("[project]\nname = %q\n", name)
	}
	for file, text := range files {
		file = filepath.Join(dir, file)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			return "", err
		}
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			return "", err
		}
	}
	return dir, nil
}

// best is the shortest of n tries.
func best(n int, try func() error) (time.Duration, error) {
	least := time.Duration(1<<63 - 1)
	for range n {
		start := time.Now()
		if err := try(); err != nil {
			return 0, err
		}
		least = min(least, time.Since(start))
	}
	return least, nil
}

// budget is what a figure may be at most, or must be at least.
type budget struct {
	limit float64
	least bool
}

func atMost(limit float64) *budget  { return &budget{limit: limit} }
func atLeast(limit float64) *budget { return &budget{limit: limit, least: true} }

// row is one printed figure. Nil budget: the figure has none; no peer: the row is one itself.
type row struct {
	what   string
	figure float64
	unit   string
	budget *budget
	peer   string  // what it is compared with
	ratio  float64 // how many times the peer's figure it is
}

func (r row) print() {
	line := fmt.Sprintf("  %-44s %10s %s", r.what, number(r.figure), r.unit)
	if r.budget != nil {
		sign, met := "<=", r.figure <= r.budget.limit
		if r.budget.least {
			sign, met = ">=", r.figure >= r.budget.limit
		}
		verdict := "ok"
		if !met {
			verdict = "MISSED"
		}
		line = fmt.Sprintf("%-72s %s %s %s", line, sign, number(r.budget.limit), verdict)
	}
	if r.peer != "" {
		line = fmt.Sprintf("%-92s %.2fx %s", line, r.ratio, r.peer)
	}
	fmt.Println(line)
}

// number shows three digits that matter.
func number(f float64) string {
	switch {
	case f >= 100:
		return fmt.Sprintf("%.0f", f)
	case f >= 10:
		return fmt.Sprintf("%.1f", f)
	}
	return fmt.Sprintf("%.3g", f)
}

// median sorts what it is given.
func median(took []time.Duration) time.Duration {
	slices.Sort(took)
	return took[len(took)/2]
}

// memoryBudget is what every benchmark of the store is to stay under, in MB.
const memoryBudget = 512

// forgetPeak lets the kernel begin anew with the most memory that this process had.
func forgetPeak() error {
	debug.FreeOSMemory()
	return os.WriteFile("/proc/self/clear_refs", []byte("5"), 0)
}

// printPeak prints the most memory that this process had since forgetPeak.
func printPeak(what string) error { return printPeakOf(os.Getpid(), what) }

// printPeakOf prints the most memory that a process had.
func printPeakOf(pid int, what string) error {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return err
	}
	_, peak, _ := strings.Cut(string(status), "VmHWM:")
	var kilobytes float64
	if _, err := fmt.Sscan(peak, &kilobytes); err != nil {
		return fmt.Errorf("the kernel tells no peak of memory: %w", err)
	}
	row{what: what, figure: kilobytes / 1000, unit: "MB", budget: atMost(memoryBudget)}.print()
	return nil
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// load is the machine's load over the last minute.
func load() string {
	text, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	first, _, _ := strings.Cut(string(text), " ")
	return first
}

// removeAll removes a folder that may hold read-only ones, as a cache of packages does.
func removeAll(dir string) error {
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			return os.Chmod(path, 0o755)
		}
		return err
	})
	return errors.Join(err, os.RemoveAll(dir))
}
