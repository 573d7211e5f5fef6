package image

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"tarn.dev/tarn/internal/base/fault"
)

// Ensure makes lock importable on this host and returns where. What is there already costs one stat;
// otherwise what is missing of its packages is fetched, checked against its hash, unpacked and byte-compiled,
// and the view is linked together and put in place as a whole. progress, which may be nil, gets lines for people.
func (s *Store) Ensure(ctx context.Context, lock Lock, progress func(string)) (View, error) {
	if progress == nil {
		progress = func(string) {}
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

// install unpacks one package of view's lock into dir.
func (s *Store) install(ctx context.Context, view View, dir string, p Package, progress func(string)) error {
	args := slices.Concat([]string{
		"pip", "install", "--requirements", "-", "--target", dir, "--python", view.Python.Path,
		"--no-deps", "--require-hashes",
	}, buildPolicy([]Package{p}), indexOptions(view.Lock.Indexes))
	return s.uvCommand(ctx, "install "+p.Name, dir, pinned([]Package{p}), progress, args...)
}

// SyncVenv makes dir a virtual environment with exactly lock's packages, for editors and notebooks.
func (s *Store) SyncVenv(ctx context.Context, lock Lock, dir string, progress func(string)) error {
	if progress == nil {
		progress = func(string) {}
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	want, err := parsePythonRange(lock.Python)
	if err != nil {
		return err
	}
	python, err := s.choose(ctx, "lock "+fmt.Sprintf("%.12s", lock.ID), want)
	if err != nil {
		return err
	}
	parent := filepath.Dir(dir)
	if err := s.uvCommand(ctx, "make "+dir, parent, "", progress, "venv", "--quiet", "--allow-existing", "--python", python.Path, dir); err != nil {
		return err
	}
	args := slices.Concat([]string{
		"pip", "sync", "-", "--quiet", "--allow-empty-requirements", "--require-hashes", "--python", filepath.Join(dir, "bin", "python"),
	}, buildPolicy(lock.Packages), indexOptions(lock.Indexes))
	return s.uvCommand(ctx, "fill "+dir, parent, pinned(lock.Packages), progress, args...)
}

// buildPolicy keeps uv from building anything but what was locked as a source distribution.
func buildPolicy(packages []Package) []string {
	var wheels []string
	for _, p := range packages {
		if strings.HasSuffix(p.File, ".whl") {
			wheels = append(wheels, "--only-binary", p.Name)
		}
	}
	if len(wheels) == 2*len(packages) {
		return []string{"--only-binary", ":all:"} // also what a wheel would need to be built
	}
	return wheels
}

// pinned is a requirements file that admits one file per package: uv takes no other than that of the hash.
func pinned(packages []Package) string {
	var b strings.Builder
	for _, p := range packages {
		fmt.Fprintf(&b, "%s==%s --hash=sha256:%s\n", p.Name, p.Version, p.SHA256)
	}
	return b.String()
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
