package image

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	goruntime "runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/sys/unix"

	"tarn.dev/tarn/internal/runtime"
)

// Store resolves environments and keeps their packages on this host, under one cache folder:
//
//	uv/            uv's own cache: what indexes said, and wheels as they were unpacked
//	packages/NAME  one package, unpacked and byte-compiled once for each Python, hardlinked to uv/, read-only
//	views/ID       one merged package folder per set of packages, hardlinked to packages/, read-only
//	built/         a wheel for each source distribution and version of Python
//	locks/         files that processes lock
//	interpreters.json  the interpreters that were found
//	uv-VERSION     uv, if the host had none
//
// All of it can be deleted while nothing runs. Safe for concurrent use, also by several processes.
type Store struct {
	dir      string
	env      environ
	platform string
	runtime  runtime.Runtime // of the sandboxes that uv and builds run in
	budget   int64           // bytes that packages may take; 0: no limit

	trimming   sync.Mutex // held while packages are brought within the budget
	background sync.WaitGroup
	trimErr    atomic.Pointer[error] // of the last time

	sums *lru.Cache[string, string] // SHA-256 of wheels of projects, by their digest there

	interpreters sync.Mutex // serializes looking for them, and guards seen
	seen         seen

	uv      sync.Mutex // guards uvFound
	uvFound string
}

// Open uses cacheDir, which is made if need be. env is the user's environment, as of os.Environ: PATH
// and the settings of uv and pip count (see UserVariable). What downloads, unpacks or builds runs in boxes.
func Open(cacheDir string, env []string, boxes runtime.Runtime) (*Store, error) {
	dir, err := filepath.Abs(cacheDir)
	if err != nil {
		return nil, err
	}
	for _, sub := range []string{"views", "packages", "locks", "uv", "built"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
			return nil, classify(err)
		}
	}
	platform, err := hostPlatform()
	if err != nil {
		return nil, err
	}
	sums, err := lru.New[string, string](256)
	if err != nil {
		return nil, err
	}
	return &Store{sums: sums, dir: dir, env: newEnviron(env), platform: platform, runtime: boxes}, nil
}

// hostPlatform names what wheels with compiled code must fit.
func hostPlatform() (string, error) {
	arch, ok := map[string]string{"amd64": "x86_64", "arm64": "aarch64"}[goruntime.GOARCH]
	if goruntime.GOOS != "linux" || !ok {
		return "", ErrPlatform.Errorf("environments on %s/%s are not supported", goruntime.GOOS, goruntime.GOARCH)
	}
	if musl, err := filepath.Glob("/lib/ld-musl-*.so.1"); err == nil && len(musl) > 0 {
		return "", ErrPlatform.Errorf("environments on a musl libc are not supported").WithNext("use a distribution with glibc")
	}
	return "linux-" + arch + "-glibc", nil
}

// lock takes the cache's lock of that name, shared with other processes, and returns its release.
func (s *Store) lock(ctx context.Context, name string) (release func(), err error) {
	f, err := os.OpenFile(filepath.Join(s.dir, "locks", name), os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, classify(err)
	}
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return func() { f.Close() }, nil //nolint:errcheck // nothing was written; closing releases the lock
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			return nil, errors.Join(err, f.Close())
		}
		// A blocking flock cannot be interrupted; what is waited for takes a second or more.
		select {
		case <-ctx.Done():
			return nil, errors.Join(context.Cause(ctx), f.Close())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// writeFile replaces the file at path, whole or not at all, durably.
func writeFile(path string, b []byte, mode os.FileMode) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return classify(err)
	}
	defer func() {
		if err != nil {
			err = classify(errors.Join(err, os.Remove(f.Name())))
		}
	}()
	_, err = f.Write(b)
	err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close())
	if err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

// classify gives a full disk its code.
func classify(err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return ErrDiskFull.Errorf("%w", err).WithNext("free space, or move the cache: TARN_CACHE=/other/disk")
	}
	return err
}
