package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// server is the background process that commands start: how soon it is there, and how much it takes.
func server(ctx context.Context, b *bench) error {
	dir, err := b.project("server", map[string]string{})
	if err != nil {
		return err
	}
	var start, bare time.Duration
	for range b.size(8, 4) {
		d, err := best(1, func() error { _, err := b.tarn(ctx, dir, "branch", "ls"); return err })
		if err != nil {
			return err
		}
		start = least(start, d)
		if _, err := b.tarn(ctx, dir, "server", "stop"); err != nil {
			return err
		}
		if d, err = best(1, func() error { _, err := b.tarn(ctx, dir, "version"); return err }); err != nil {
			return err
		}
		bare = least(bare, d)
	}
	peer := fmt.Sprintf("tarn version (%s ms)", number(milliseconds(bare)))
	row{"start of the server, until it has answered", milliseconds(start), "ms", atMost(500), peer, float64(start) / float64(bare)}.print()
	warm, err := best(b.size(20, 8), func() error { _, err := b.tarn(ctx, dir, "branch", "ls"); return err })
	if err != nil {
		return err
	}
	row{"a command, the server is there", milliseconds(warm), "ms", nil, peer, float64(warm) / float64(bare)}.print()

	out, err := b.tarn(ctx, dir, "server", "status", "--json")
	if err != nil {
		return err
	}
	var status struct{ PID int }
	if err := json.Unmarshal(out, &status); err != nil || status.PID == 0 {
		return fmt.Errorf("no pid in %s: %w", out, err)
	}
	used, err := cpuTime(status.PID)
	if err != nil {
		return err
	}
	rest := time.Duration(b.size(10, 3)) * time.Second
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(rest):
	}
	after, err := cpuTime(status.PID)
	if err != nil {
		return err
	}
	resident, err := memoryOf(status.PID, "status", "VmRSS")
	if err != nil {
		return err
	}
	anonymous, err := memoryOf(status.PID, "status", "RssAnon")
	if err != nil {
		return err
	}
	row{"server at rest, resident", resident, "MB", atMost(150), "its memory that is not the binary", resident / anonymous}.print()
	row{"server at rest, share of a core", 100 * float64(after-used) / float64(rest), "%", atMost(1), "", 0}.print()
	return nil
}

// memoryOf is a field of a file in /proc about a process, in MB.
func memoryOf(pid int, file, field string) (float64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, file))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, field+":"); ok {
			kb, err := strconv.ParseFloat(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 64)
			return kb * 1024 / 1e6, err
		}
	}
	return 0, fmt.Errorf("no %s of process %d", field, pid)
}

// cpuTime is what a process has used of the cores, in steps of 10 ms.
func cpuTime(pid int) (time.Duration, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(text), ") ")
	fields := strings.Fields(rest)
	if len(fields) < 13 {
		return 0, fmt.Errorf("cannot read /proc/%d/stat", pid)
	}
	var ticks int64
	for _, f := range fields[11:13] { // user and system
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			return 0, err
		}
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond, nil
}
