package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// mount reads files through a mount, fresh and again, against the same files in a folder.
func mount(ctx context.Context, b *bench) error {
	dir, err := b.project("mount", map[string]string{})
	if err != nil {
		return err
	}
	n, size := b.size(10_000, 2_000), int64(b.size(1<<30, 128<<20))
	src := filepath.Join(b.dir, "src")
	for i := range n {
		if err := writeRandom(filepath.Join(src, fmt.Sprintf("small/%03d/%06d.bin", i%100, i)), 4096, uint64(i)); err != nil {
			return err
		}
	}
	if err := writeRandom(filepath.Join(src, "large.bin"), size, 5000); err != nil {
		return err
	}
	if _, err := b.tarn(ctx, dir, "file", "put", src+"/", "/"); err != nil {
		return err
	}
	at := filepath.Join(b.dir, "mounted")
	end, err := b.mounted(ctx, dir, at)
	if err != nil {
		return err
	}
	defer func() { end(true) }() // after an error
	copies := 0
	small := func(from string) (time.Duration, error) {
		copies++
		to := filepath.Join(b.dir, fmt.Sprintf("copy-%d", copies))
		d, err := best(1, func() error {
			_, err := b.command(ctx, b.dir, "cp", "-r", filepath.Join(from, "small"), to)
			return err
		})
		return d, errors.Join(err, os.RemoveAll(to))
	}
	large := func(from string) (time.Duration, error) {
		return best(1, func() error {
			_, err := b.command(ctx, b.dir, "cp", "--reflink=never", filepath.Join(from, "large.bin"), "/dev/null")
			return err
		})
	}
	files := func(d time.Duration) float64 { return float64(n) / d.Seconds() }
	speed := func(d time.Duration) float64 { return float64(size) / (1 << 20) / d.Seconds() }
	for _, m := range []struct {
		what, unit string
		read       func(string) (time.Duration, error)
		rate       func(time.Duration) float64
	}{
		{fmt.Sprintf("cp -r of %d files of 4 KiB", n), "files/s", small, files},
		{fmt.Sprintf("cp of %s GiB to nowhere", number(float64(size)/(1<<30))), "MiB/s", large, speed},
	} {
		var took [3]time.Duration
		for i, from := range []string{src, at, at} {
			if took[i], err = m.read(from); err != nil {
				return err
			}
		}
		peer := fmt.Sprintf("the same from a folder (%s %s)", number(m.rate(took[0])), m.unit)
		row{m.what + " from a fresh mount", m.rate(took[1]), m.unit, nil, peer, m.rate(took[1]) / m.rate(took[0])}.print()
		row{"  again", m.rate(took[2]), m.unit, nil, peer, m.rate(took[2]) / m.rate(took[0])}.print()
	}
	peak, err := end(false)
	if err != nil {
		return err
	}
	row{"memory of the mount", float64(peak) / (1 << 20), "MiB", atMost(512), "", 0}.print()
	return nil
}

// mounted mounts main on a folder. end unmounts it and returns how much memory the mount took at most.
func (b *bench) mounted(ctx context.Context, dir, at string) (end func(quietly bool) (peak int64, err error), err error) {
	c := exec.CommandContext(ctx, b.bin, "mount", "main", at)
	c.Dir, c.Env = dir, b.env()
	said, err := c.StderrPipe()
	if err != nil {
		return nil, err
	}
	if err := c.Start(); err != nil {
		return nil, err
	}
	lines := bufio.NewReader(said)
	first, _ := lines.ReadString('\n') // nothing, when it ends at once
	ended := false
	end = func(quietly bool) (int64, error) {
		if ended {
			return 0, nil
		}
		ended = true
		if err := c.Process.Signal(syscall.SIGTERM); err != nil && !quietly {
			return 0, err
		}
		if err := c.Wait(); err != nil {
			return 0, err
		}
		return c.ProcessState.SysUsage().(*syscall.Rusage).Maxrss << 10, nil
	}
	if !strings.Contains(first, "is mounted on") {
		_, err := end(true)
		return nil, errors.Join(fmt.Errorf("tarn mount: %s", first), err)
	}
	return end, nil
}
