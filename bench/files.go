package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"
)

// files stores folders and large files through the command line, against cp and sync.
func files(ctx context.Context, b *bench) error {
	dir, err := b.project("files", map[string]string{})
	if err != nil {
		return err
	}
	if _, err := b.tarn(ctx, dir, "server", "status"); err != nil {
		return err
	}
	if err := b.smallFiles(ctx, dir, b.size(100_000, 20_000)); err != nil {
		return err
	}
	return b.largeFile(ctx, dir, int64(b.size(4<<30, 512<<20)))
}

func (b *bench) smallFiles(ctx context.Context, dir string, n int) error {
	const size = 4096
	src := filepath.Join(b.dir, "small")
	for i := range n {
		if err := writeRandom(filepath.Join(src, fmt.Sprintf("%03d/%06d.bin", i%1000, i)), size, uint64(i)); err != nil {
			return err
		}
	}
	var put, cp time.Duration
	for try := range 2 {
		d, err := b.copySynced(ctx, "-r", src, filepath.Join(b.dir, fmt.Sprintf("small-copy-%d", try)))
		if err != nil {
			return err
		}
		cp = least(cp, d)
		// Files that were stored before would be found to be there: another project has none.
		into, err := b.project(fmt.Sprintf("small-%d", try), map[string]string{})
		if err != nil {
			return err
		}
		if d, err = best(1, func() error { _, err := b.tarn(ctx, into, "file", "put", src+"/", "small/"); return err }); err != nil {
			return err
		}
		put = least(put, d)
	}
	again, err := best(2, func() error {
		_, err := b.tarn(ctx, filepath.Join(b.dir, "small-0"), "file", "put", src+"/", "small/")
		return err
	})
	if err != nil {
		return err
	}
	rate := func(d time.Duration) float64 { return float64(n) / d.Seconds() }
	peer := fmt.Sprintf("cp -r, sync (%s files/s)", number(rate(cp)))
	row{fmt.Sprintf("put of %d files of 4 KiB", n), rate(put), "files/s", atLeast(5000), peer, rate(put) / rate(cp)}.print()
	row{"the same files again", rate(again), "files/s", nil, "the first put", rate(again) / rate(put)}.print()
	return nil
}

func (b *bench) largeFile(ctx context.Context, dir string, size int64) error {
	var put, cp, get time.Duration
	for try := range 2 {
		src := filepath.Join(b.dir, "large.bin")
		if err := writeRandom(src, size, uint64(1000+try)); err != nil {
			return err
		}
		dst := filepath.Join(b.dir, "large-copy.bin")
		d, err := b.copySynced(ctx, "--reflink=never", src, dst)
		if err != nil {
			return err
		}
		cp = least(cp, d)
		if err := os.Remove(dst); err != nil {
			return err
		}
		if d, err = best(1, func() error {
			_, err := b.tarn(ctx, dir, "file", "put", src, fmt.Sprintf("large-%d.bin", try))
			return err
		}); err != nil {
			return err
		}
		put = least(put, d)
		if d, err = best(1, func() error {
			_, err := b.tarn(ctx, dir, "file", "get", fmt.Sprintf("large-%d.bin", try), dst)
			return err
		}); err != nil {
			return err
		}
		get = least(get, d)
		if err := errors.Join(os.Remove(src), os.Remove(dst)); err != nil {
			return err
		}
	}
	speed := func(d time.Duration) float64 { return float64(size) / (1 << 20) / d.Seconds() }
	peer := fmt.Sprintf("cp, sync (%s MiB/s)", number(speed(cp)))
	what := fmt.Sprintf("put of a file of %s GiB", number(float64(size)/(1<<30)))
	row{what, speed(put), "MiB/s", nil, peer, speed(put) / speed(cp)}.print()
	row{"  share of cp", 100 * speed(put) / speed(cp), "%", atLeast(60), "", 0}.print()
	row{"get of it", speed(get), "MiB/s", nil, peer, speed(get) / speed(cp)}.print()
	return nil
}

// copySynced is how long cp takes until the copy is on the disk.
func (b *bench) copySynced(ctx context.Context, option, src, dst string) (time.Duration, error) {
	if _, err := b.command(ctx, b.dir, "sync", "-f", b.dir); err != nil { // what others wrote
		return 0, err
	}
	return best(1, func() error {
		if _, err := b.command(ctx, b.dir, "cp", option, src, dst); err != nil {
			return err
		}
		_, err := b.command(ctx, b.dir, "sync", "-f", dst)
		return err
	})
}

func least(a, b time.Duration) time.Duration {
	if a == 0 {
		return b
	}
	return min(a, b)
}

// writeRandom writes bytes that nothing can compress.
func writeRandom(file string, size int64, seed uint64) error {
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	var key [32]byte
	key[0], key[1], key[2], key[3] = byte(seed), byte(seed>>8), byte(seed>>16), byte(seed>>24)
	w := bufio.NewWriterSize(f, int(min(size, 1<<20)))
	_, err = io.CopyN(w, rand.NewChaCha8(key), size)
	return errors.Join(err, w.Flush(), f.Close())
}
