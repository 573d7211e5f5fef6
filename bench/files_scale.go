package main

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// filesAtScale stores and fetches more than memory holds, and prints the most that each process had of it.
func (b *bench) filesAtScale(ctx context.Context) error {
	if err := b.millionFiles(ctx, 1_000_000); err != nil {
		return err
	}
	return b.hugeFile(ctx, 20<<30)
}

func (b *bench) millionFiles(ctx context.Context, n int) error {
	dir, err := b.project("million", map[string]string{})
	if err != nil {
		return err
	}
	src, got := filepath.Join(b.dir, "million-src"), filepath.Join(b.dir, "million-got")
	for i := range n {
		if err := writeRandom(filepath.Join(src, fmt.Sprintf("%03d/%07d.bin", i%1000, i)), 4096, uint64(i)); err != nil {
			return err
		}
	}
	what := fmt.Sprintf("%d files of 4 KiB", n)
	put, err := b.peak(ctx, dir, "put of "+what, "file", "put", src+"/", "many/")
	if err == nil {
		err = os.RemoveAll(src) // there may not be room for a third copy
	}
	if err != nil {
		return err
	}
	get, err := b.peak(ctx, dir, "get of "+what, "file", "get", "many/", got)
	if err != nil {
		return err
	}
	row{"put of " + what, float64(n) / put.Seconds(), "files/s", atLeast(5000), "", 0}.print()
	row{"get of " + what, float64(n) / get.Seconds(), "files/s", nil, "", 0}.print()
	return os.RemoveAll(got)
}

// hugeFile has a page of its own in each MiB and holes between them, so that it takes little of the disk and is cut, hashed
// and looked up as any other.
func (b *bench) hugeFile(ctx context.Context, size int64) (err error) {
	dir, err := b.project("huge", map[string]string{})
	if err != nil {
		return err
	}
	src := filepath.Join(b.dir, "huge.bin")
	f, err := os.Create(src)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close(), os.Remove(src)) }()
	page := make([]byte, 4096)
	for at := int64(0); at < size; at += 1 << 20 {
		for i := 0; i < len(page); i += 8 {
			binary.BigEndian.PutUint64(page[i:], uint64(at+int64(i)))
		}
		if _, err := f.WriteAt(page, at); err != nil {
			return err
		}
	}
	if err := f.Truncate(size); err != nil {
		return err
	}
	what := fmt.Sprintf("a file of %s GiB", number(float64(size)/(1<<30)))
	put, err := b.peak(ctx, dir, "put of "+what, "file", "put", src, "huge.bin")
	if err != nil {
		return err
	}
	get, err := b.peak(ctx, dir, "get of "+what, "file", "get", "huge.bin", "-")
	if err != nil {
		return err
	}
	speed := func(d time.Duration) float64 { return float64(size) / (1 << 20) / d.Seconds() }
	row{"put of " + what + ", mostly holes", speed(put), "MiB/s", nil, "", 0}.print()
	row{"get of it, to a pipe", speed(get), "MiB/s", nil, "", 0}.print()
	return nil
}

// peak runs a command beside a server of its own and prints the most memory that both had.
func (b *bench) peak(ctx context.Context, dir, what string, args ...string) (time.Duration, error) {
	if _, err := b.tarn(ctx, dir, "server", "stop"); err != nil {
		return 0, err
	}
	if _, err := b.tarn(ctx, dir, "file", "ls"); err != nil { // starts one
		return 0, err
	}
	out, err := b.tarn(ctx, dir, "server", "status", "--json")
	if err != nil {
		return 0, err
	}
	var server struct {
		PID int `json:"pid"`
	}
	if err := json.Unmarshal(out, &server); err != nil || server.PID == 0 {
		return 0, fmt.Errorf("server status --json is %s: %w", out, err)
	}
	c := exec.CommandContext(ctx, b.bin, args...)
	c.Dir, c.Env, c.Stderr = dir, b.env(), os.Stderr // and stdout is nowhere
	start := time.Now()
	if err := c.Run(); err != nil {
		return 0, fmt.Errorf("tarn %s: %w", args[:2], err)
	}
	took := time.Since(start)
	client := float64(c.ProcessState.SysUsage().(*syscall.Rusage).Maxrss) / 1000
	row{"  " + what + ": most memory of the client", client, "MB", atMost(memoryBudget), "", 0}.print()
	return took, printPeakOf(server.PID, "  "+what+": most memory of the server")
}
