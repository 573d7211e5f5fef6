package image

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"tarn.dev/tarn/internal/base/fault"
	"tarn.dev/tarn/internal/runtime"
)

// Ensure makes lock importable on this host and returns where. What is there already costs one stat;
// otherwise what is missing of its packages is fetched, checked against its hash, unpacked and byte-compiled,
// and the view is linked together and put in place as a whole. progress, which may be nil, gets lines for people.
func (s *Store) Ensure(ctx context.Context, lock Lock, progress func(string)) (View, error) {
	if progress == nil {
		progress = nothing
	}
	if lock.Platform != s.platform {
		return View{}, ErrPlatform.Errorf("lock %.12s is for %s, this host is %s", lock.ID, lock.Platform, s.platform)
	}
	want, err := parsePythonRange(lock.Python)
	if err != nil {
		return View{}, err
	}
	python, err := s.choose(ctx, "lock "+fmt.Sprintf("%.12s", lock.ID), want)
	if err != nil {
		return View{}, err
	}
	id := lock.viewID()
	view := View{Lock: lock, Python: python, SitePackages: filepath.Join(s.dir, "views", id)}
	if there, err := s.use(view.SitePackages); err != nil || there {
		return view, err
	}
	release, err := s.lock(ctx, "view-"+id)
	if err != nil {
		return View{}, err
	}
	defer release()
	if there, err := s.use(view.SitePackages); err != nil || there {
		return view, err // another process was faster
	}
	return view, s.build(ctx, view, progress)
}

// build links into a folder on the side and renames it, so that a view exists whole or not at all.
// The caller holds the view's lock, so what lies there is a leftover of a process that died.
func (s *Store) build(ctx context.Context, view View, progress func(string)) (err error) {
	staging := filepath.Join(s.dir, "views", ".staging-"+filepath.Base(view.SitePackages))
	if err := removeTree(staging); err != nil {
		return err
	}
	u, err := s.unpack(ctx, view, progress)
	if err != nil {
		return classify(err)
	}
	defer func() { err = errors.Join(err, u.end()) }()
	if err := os.Mkdir(staging, 0o755); err != nil {
		return classify(err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(classify(err), removeTree(staging))
		}
	}()
	if err := os.WriteFile(filepath.Join(staging, membersFile), []byte(view.Lock.dirNames(view.Python.Minor)), 0o444); err != nil {
		return err
	}
	if err := merge(staging, view.Lock.Packages, u.dirs, progress); err != nil {
		return err
	}
	if err := fault.Point("image.view.after_install"); err != nil {
		return err
	}
	if err := syncTree(staging); err != nil {
		return err
	}
	if err := u.publish(); err != nil {
		return err
	}
	if err := os.Rename(staging, view.SitePackages); err != nil {
		return err
	}
	s.trimSoon()
	return nil
}

// install unpacks one package of view's lock into staging, a folder of uv's cache, byte-compiled for its interpreter.
func (s *Store) install(ctx context.Context, view View, staging string, p Package, progress func(string)) (err error) {
	built, err := s.buildAll(ctx, view, []Package{p}, progress)
	if err != nil {
		return err
	}
	b, err := s.uvBox(ctx, boxSpec{what: "install " + p.Name, indexes: view.Lock.Indexes, mounts: built.mounts()}, view.Python, progress)
	if err != nil {
		return err
	}
	defer b.discard(&err)
	list, err := b.write("requirements.txt", built.pinned(b, []Package{p}))
	if err != nil {
		return err
	}
	target := filepath.Join(b.Path(cacheMount), filepath.Base(staging))
	args := append([]string{
		"pip", "install", "--requirements", list, "--target", target, "--python", view.Python.Path,
		"--no-deps", "--require-hashes", "--only-binary", ":all:",
	}, indexOptions(view.Lock.Indexes)...)
	if err := b.uv(ctx, progress, args...); err != nil {
		return err
	}
	return b.byteCompile(ctx, view.Python, target)
}

// SyncVenv makes dir a virtual environment with exactly lock's packages, for editors and notebooks. An environment that is
// there loses its packages before: as its Python starts, it runs code that they brought, beside the cache.
func (s *Store) SyncVenv(ctx context.Context, lock Lock, dir string, progress func(string)) (err error) {
	if progress == nil {
		progress = nothing
	}
	dir, err = filepath.Abs(dir)
	if err != nil {
		return err
	}
	view, err := s.Ensure(ctx, lock, progress) // whatever has to be downloaded, before anything is taken away
	if err != nil {
		return err
	}
	built, err := s.buildAll(ctx, view, lock.Packages, progress)
	if err != nil {
		return err
	}
	if exists(filepath.Join(dir, "pyvenv.cfg")) {
		err = os.RemoveAll(filepath.Join(dir, "lib"))
	} else {
		err = os.MkdirAll(dir, 0o755)
	}
	if err != nil {
		return classify(err)
	}
	b, err := s.uvBox(ctx, boxSpec{
		what: "fill " + dir, indexes: lock.Indexes, mounts: append(built.mounts(), runtime.Mount{Name: "venv", Source: dir, Writable: true, InPlace: true}),
	}, view.Python, progress)
	if err != nil {
		return err
	}
	defer b.discard(&err)
	if err := b.uv(ctx, progress, "venv", "--quiet", "--allow-existing", "--python", view.Python.Path, dir); err != nil {
		return err
	}
	list, err := b.write("requirements.txt", built.pinned(b, lock.Packages))
	if err != nil {
		return err
	}
	args := slices.Concat([]string{
		"pip", "sync", list, "--quiet", "--allow-empty-requirements", "--require-hashes", "--only-binary", ":all:", "--python", filepath.Join(dir, "bin", "python"),
	}, indexOptions(lock.Indexes))
	return b.uv(ctx, progress, args...)
}

// makeReadOnly takes away every write permission. Files are hardlinks into uv's cache, whose copies
// become read-only too, as they should be: they are shared by every view.
func makeReadOnly(root string) error {
	var dirs []string
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		switch {
		case d.IsDir():
			dirs = append(dirs, path)
		case d.Type().IsRegular():
			info, err := d.Info()
			if err != nil {
				return err
			}
			if info.Mode().Perm()&0o222 != 0 {
				return os.Chmod(path, info.Mode().Perm()&^0o222)
			}
		}
		return nil
	})
	for _, dir := range slices.Backward(dirs) {
		err = errors.Join(err, os.Chmod(dir, 0o555))
	}
	return err
}

// removeTree removes what makeReadOnly may have gone over.
func removeTree(root string) error {
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			return os.Chmod(path, 0o755)
		}
		return err
	})
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return errors.Join(err, os.RemoveAll(root))
}

// syncTree makes the file system below durable: after a power loss a view in place must not hold empty
// files. One call; a sync per file costs seconds for an environment of some thousand.
func syncTree(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(unix.Syncfs(int(f.Fd())), f.Close())
}
