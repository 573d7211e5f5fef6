package image

import (
	"archive/zip"
	"context"
	"errors"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"

	"golang.org/x/mod/semver"

	"tarn.dev/tarn/internal/runtime"
)

const (
	// uvVersion is the release that is fetched when the host has none.
	uvVersion = "0.13.8"
	// oldestUV writes pylock.toml with one entry per wheel.
	oldestUV = "v0.8.0"
)

// uvPath finds uv: on PATH, where its installer puts it, among what was fetched before; else fetches it.
// What does not run in a sandbox, because it needs more of the host, is none.
func (s *Store) uvPath(ctx context.Context, progress func(string)) (string, error) {
	s.uv.Lock()
	defer s.uv.Unlock()
	if s.uvFound != "" {
		if _, err := os.Stat(s.uvFound); err == nil { // a server outlives many a virtual environment
			return s.uvFound, nil
		}
	}
	fetched := filepath.Join(s.dir, "uv-"+uvVersion)
	dirs := append(filepath.SplitList(s.env.get("PATH")), filepath.Join(s.env.get("HOME"), ".local/bin"))
	for _, dir := range dirs {
		file := filepath.Join(dir, "uv")
		if st, err := os.Stat(file); err != nil || !filepath.IsAbs(dir) || st.IsDir() || st.Mode()&0o111 == 0 {
			continue
		}
		usable, err := s.isUV(ctx, file)
		if err != nil {
			return "", err
		}
		if usable {
			s.uvFound = file
			return file, nil
		}
	}
	if _, err := os.Stat(fetched); err != nil {
		if err := s.fetchUV(ctx, fetched, progress); err != nil {
			return "", err
		}
	}
	s.uvFound = fetched
	return fetched, nil
}

// isUV reports whether file is a uv that is new enough.
func (s *Store) isUV(ctx context.Context, file string) (usable bool, err error) {
	b, err := s.box(ctx, boxSpec{what: "look at uv", mounts: []runtime.Mount{uvMount(file)}})
	if err != nil {
		return false, err
	}
	defer b.discard(&err)
	out, _, err := b.run(ctx, nil, b.Path("uv"), "--version")
	if cause := context.Cause(ctx); cause != nil {
		return false, cause
	}
	fields := strings.Fields(out) // "uv 0.13.8 (x86_64-unknown-linux-gnu)"
	return err == nil && len(fields) >= 2 && semver.Compare("v"+fields[1], oldestUV) >= 0, nil
}

// fetchUV takes uv's wheel from the user's package index by way of pip, which knows the user's settings,
// and puts the program in it at dst.
func (s *Store) fetchUV(ctx context.Context, dst string, progress func(string)) error {
	release, err := s.lock(ctx, "uv")
	if err != nil {
		return err
	}
	defer release()
	if _, err := os.Stat(dst); err == nil {
		return nil // another process was faster
	}
	all, err := s.Interpreters(ctx)
	if err != nil {
		return err
	}
	tried := errors.New("no Python with pip was found")
	for _, p := range all {
		err := s.fetchUVBy(ctx, p, dst, progress)
		if err == nil {
			return nil
		}
		if !errors.Is(err, errNoPip) {
			tried = err
		}
	}
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return ErrNoResolver.Errorf("uv was not found and could not be fetched: %w", tried).
		WithNext("install uv (pip install uv), or give this machine access to a package index")
}

var errNoPip = errors.New("this Python has no pip")

// fetchUVBy is fetchUV with one interpreter.
func (s *Store) fetchUVBy(ctx context.Context, p Interpreter, dst string, progress func(string)) (err error) {
	b, err := s.box(ctx, boxSpec{what: "fetch uv by pip", mounts: pythonMounts(p)})
	if err != nil {
		return err
	}
	defer b.discard(&err)
	if _, _, err := b.run(ctx, nil, p.Path, "-m", "pip", "--version"); err != nil {
		return errNoPip
	}
	progress("fetching uv " + uvVersion)
	_, said, err := b.run(ctx, nil, p.Path, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-cache-dir", "--no-deps",
		"--only-binary", ":all:", "--dest", b.Home(), "uv=="+uvVersion)
	if errors.As(err, new(failedError)) {
		return uvError(b.what, said)
	} else if err != nil {
		return err
	}
	wheels, err := filepath.Glob(filepath.Join(b.HostHome(), "uv-*.whl"))
	if err != nil || len(wheels) != 1 {
		return ErrNoResolver.Errorf("pip fetched no uv %s: %v", uvVersion, wheels)
	}
	wheel, err := b.open(filepath.Base(wheels[0]))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, wheel.Close()) }()
	return unpackUV(wheel, dst)
}

// unpackUV puts the program in uv's wheel at dst.
func unpackUV(wheel *os.File, dst string) error {
	info, err := wheel.Stat()
	if err != nil {
		return err
	}
	z, err := zip.NewReader(wheel, info.Size())
	if err != nil {
		return ErrNoResolver.Errorf("open uv's wheel: %w", err)
	}
	for _, f := range z.File {
		if path.Base(f.Name) != "uv" || !strings.Contains(f.Name, ".data/scripts/") {
			continue
		}
		r, err := f.Open()
		if err != nil {
			return err
		}
		b, err := io.ReadAll(r)
		if err = errors.Join(err, r.Close()); err != nil {
			return err
		}
		return writeFile(dst, b, 0o755)
	}
	return ErrNoResolver.Errorf("uv's wheel %s holds no uv", filepath.Base(wheel.Name()))
}
