package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// files stores folders and large files through the command line, against cp and sync, and restic.
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
	if err := b.largeFile(ctx, dir, int64(b.size(4<<30, 512<<20))); err != nil {
		return err
	}
	if err := b.dedup(ctx, int64(b.size(1<<30, 128<<20))); err != nil || b.short {
		return err
	}
	return b.filesAtScale(ctx)
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
	get, err := best(1, func() error {
		_, err := b.tarn(ctx, filepath.Join(b.dir, "small-0"), "file", "get", "small/", filepath.Join(b.dir, "small-got"))
		return err
	})
	if err != nil {
		return err
	}
	rate := func(d time.Duration) float64 { return float64(n) / d.Seconds() }
	peer := fmt.Sprintf("cp -r, sync (%s files/s)", number(rate(cp)))
	row{fmt.Sprintf("put of %d files of 4 KiB", n), rate(put), "files/s", atLeast(5000), peer, rate(put) / rate(cp)}.print()
	row{"the same files again", rate(again), "files/s", nil, "the first put", rate(again) / rate(put)}.print()
	row{"get of them", rate(get), "files/s", nil, peer, rate(get) / rate(cp)}.print()
	saved, restored, err := b.restic(ctx, src)
	if errors.Is(err, exec.ErrNotFound) {
		fmt.Println("restic is not there (Debian package restic): not compared with it")
		return nil
	}
	if err != nil {
		return err
	}
	row{"  beside restic", rate(put), "files/s", nil, fmt.Sprintf("restic backup (%s files/s)", number(rate(saved))), rate(put) / rate(saved)}.print()
	row{"  get beside restic", rate(get), "files/s", nil, fmt.Sprintf("restic restore (%s files/s)", number(rate(restored))), rate(get) / rate(restored)}.print()
	return nil
}

// restic is how long it takes restic to back a folder up into a new repository on the same disk, and to restore it.
func (b *bench) restic(ctx context.Context, src string) (saved, restored time.Duration, err error) {
	if _, err := exec.LookPath("restic"); err != nil {
		return 0, 0, err
	}
	run := func(args ...string) error {
		cmd := exec.CommandContext(ctx, "restic", append([]string{"--quiet", "--no-cache", "--repo", filepath.Join(b.dir, "restic")}, args...)...)
		cmd.Env = append(os.Environ(), "RESTIC_PASSWORD=bench")
		out, err := cmd.CombinedOutput()
		if err != nil {
			return fmt.Errorf("restic %s: %w: %s", args[0], err, out)
		}
		return nil
	}
	if err := run("init"); err != nil {
		return 0, 0, err
	}
	if saved, err = best(1, func() error { return run("backup", src) }); err != nil {
		return 0, 0, err
	}
	restored, err = best(1, func() error { return run("restore", "latest", "--target", filepath.Join(b.dir, "restic-got")) })
	return saved, restored, err
}

// dedup stores a file, and then the same with some of it changed: at places all over it, and in one go.
func (b *bench) dedup(ctx context.Context, size int64) error {
	dir, err := b.project("dedup", map[string]string{})
	if err != nil {
		return err
	}
	src := filepath.Join(b.dir, "dedup.bin")
	if err := writeRandom(src, size, 4000); err != nil {
		return err
	}
	put := func() (time.Duration, int64, error) {
		before, err := b.stored(dir)
		if err != nil {
			return 0, 0, err
		}
		d, err := best(1, func() error { _, err := b.tarn(ctx, dir, "file", "put", src, "dedup.bin"); return err })
		if err != nil {
			return 0, 0, err
		}
		after, err := b.stored(dir)
		return d, after - before, err
	}
	first, whole, err := put()
	if err != nil {
		return err
	}
	for _, change := range []struct {
		what   string
		pieces int64
	}{{"1 % changed in one place", 1}, {"1 % changed in ten places", 10}} {
		if err := overwrite(src, size/100/change.pieces, change.pieces); err != nil {
			return err
		}
		d, grown, err := put()
		if err != nil {
			return err
		}
		what := fmt.Sprintf("put of %s GiB, %s", number(float64(size)/(1<<30)), change.what)
		row{what, d.Seconds(), "s", nil, fmt.Sprintf("its first put (%s s)", number(first.Seconds())), d.Seconds() / first.Seconds()}.print()
		row{"  stored for it", float64(grown) / (1 << 20), "MiB", nil, fmt.Sprintf("what changed (%s MiB)", number(float64(size)/100/(1<<20))), float64(grown) / (float64(size) / 100)}.print()
	}
	if whole < size {
		return fmt.Errorf("%d bytes were stored for %d", whole, size)
	}
	return os.Remove(src)
}

// overwrite writes other bytes over pieces of a file, all over it.
func overwrite(file string, length, pieces int64) (err error) {
	f, err := os.OpenFile(file, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	for i := range pieces {
		from := rand.NewChaCha8([32]byte{byte(pieces), byte(i), 1})
		if _, err := io.CopyN(io.NewOffsetWriter(f, (2*i+1)*st.Size()/(2*pieces)), from, length); err != nil {
			return err
		}
	}
	return nil
}

// stored is how much a project's bulk storage takes.
func (b *bench) stored(dir string) (total int64, err error) {
	err = filepath.WalkDir(filepath.Join(b.dir, "home", "projects", filepath.Base(dir)), func(_ string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) { // nothing is stored yet
			return nil
		}
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err == nil {
			total += info.Size()
		}
		return err
	})
	return total, err
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
