package image

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sync/errgroup"

	"tarn.dev/tarn/internal/base/fault"
)

// unpacking is how many packages are fetched and unpacked at the same time. One waits for the network while
// another one is unpacked.
const unpacking = 4

// dirName names the folder of a package that was unpacked and byte-compiled for a Python.
func (p Package) dirName(python string) string {
	return fmt.Sprintf("%s-%s-py%s-%s", p.Name, p.Version, python, p.SHA256)
}

// dirNames lists the folders of l's packages, one per line.
func (l Lock) dirNames(python string) string {
	var b strings.Builder
	for _, p := range l.Packages {
		b.WriteString(p.dirName(python) + "\n")
	}
	return b.String()
}

// unpacked are the folders of a view's packages, in their order. Those that were not there yet lie in
// staging folders until publish is called; end gives back what was held meanwhile.
type unpacked struct {
	store   *Store
	dirs    []string
	staged  map[string]string // staging folder -> where it belongs
	release []func()
	held    []*os.File // the folders, so that nobody removes one before the view links to it
}

// unpack makes every package of view's lock ready. What is there costs one stat.
func (s *Store) unpack(ctx context.Context, view View, progress func(string)) (u *unpacked, err error) {
	u = &unpacked{store: s, staged: map[string]string{}}
	defer func() {
		if err != nil {
			err = errors.Join(err, u.end())
		}
	}()
	var missing []Package
	for _, p := range view.Lock.Packages {
		name := p.dirName(view.Python.Minor)
		dir := filepath.Join(s.dir, "packages", name)
		f, err := hold(dir)
		if errors.Is(err, fs.ErrNotExist) {
			// In the order of a lock's packages, by name, so that no two processes wait for each other.
			release, err := s.lock(ctx, "package-"+name)
			if err != nil {
				return u, err
			}
			u.release = append(u.release, release)
			f, err = hold(dir)
			if errors.Is(err, fs.ErrNotExist) { // nobody was faster
				missing = append(missing, p)
				staging := s.staging(p, view)
				u.staged[staging], dir = dir, staging
			} else if err != nil {
				return u, err
			}
		} else if err != nil {
			return u, err
		}
		u.dirs, u.held = append(u.dirs, dir), append(u.held, f)
	}
	if len(missing) == 0 {
		return u, nil
	}
	progress(installing(len(missing), len(view.Lock.Packages), view.Lock.Python))
	work, wctx := errgroup.WithContext(ctx)
	work.SetLimit(unpacking)
	for _, p := range missing {
		work.Go(func() error { return s.unpackOne(wctx, view, p, progress) })
	}
	return u, work.Wait()
}

func installing(missing, all int, python string) string {
	noun := "packages"
	if missing == 1 {
		noun = "package"
	}
	text := fmt.Sprintf("installing %d %s for Python %s", missing, noun, python)
	if all > missing {
		text += fmt.Sprintf("; %d are there", all-missing)
	}
	return text
}

// staging is where a package is unpacked: in uv's cache, because files are links to what is there, and links cannot leave
// the mount that uv sees.
func (s *Store) staging(p Package, view View) string {
	return filepath.Join(s.uvCache(), ".package-"+p.dirName(view.Python.Minor))
}

// unpackOne fills a package's staging folder. The caller holds its lock, so what lies there is a leftover
// of a process that died.
func (s *Store) unpackOne(ctx context.Context, view View, p Package, progress func(string)) error {
	staging := s.staging(p, view)
	if err := removeTree(staging); err != nil {
		return err
	}
	if err := os.MkdirAll(staging, 0o755); err != nil {
		return classify(err)
	}
	if err := s.install(ctx, view, staging, p, progress); err != nil {
		return err
	}
	if err := os.RemoveAll(filepath.Join(staging, ".lock")); err != nil { // uv's own
		return err
	}
	if err := checkTree(staging); err != nil {
		return err
	}
	if err := relocate(filepath.Join(staging, "bin"), view.Python.Minor); err != nil {
		return err
	}
	return classify(makeReadOnly(staging))
}

// publish puts what was unpacked in place, for every view. It must be durable by then.
func (u *unpacked) publish() error {
	for staging, dir := range u.staged {
		if err := fault.Point("image.package.before_rename"); err != nil {
			return err
		}
		f, err := hold(staging)
		if err != nil {
			return err
		}
		u.held = append(u.held, f)
		if err := os.Rename(staging, dir); err != nil {
			return err
		}
		delete(u.staged, staging)
	}
	return nil
}

// end removes what was not published and lets others go on.
func (u *unpacked) end() error {
	var errs []error
	for staging := range u.staged {
		errs = append(errs, removeTree(staging))
	}
	for _, f := range u.held {
		f.Close() //nolint:errcheck // nothing was written; of a package that was missing it is nil
	}
	for _, release := range u.release {
		release()
	}
	u.release, u.held = nil, nil
	return errors.Join(errs...)
}
