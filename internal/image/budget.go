package image

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"tarn.dev/tarn/internal/base/fault"
)

const (
	// membersFile says, inside a view, which package folders it links to, one per line.
	membersFile = ".tarn-packages"
	// recent is how long a view stays after it was asked for, for whoever is about to show it to a sandbox.
	recent = 10 * time.Minute
	// touched is how exactly it is known when a view was asked for last.
	touched = time.Minute
)

// Usage is what the packages on this host take.
type Usage struct {
	Bytes    int64 // of files, each counted once however many names it has
	Budget   int64 // 0: none
	Packages int
	Views    int
	Failed   error // why packages could not be brought within the budget the last time
}

// KeepWithin sets how many bytes packages may take: what was not used for the longest time goes when there
// is more. 0 is no limit. It is called before the store is used.
func (s *Store) KeepWithin(bytes int64) { s.budget = bytes }

// Usage measures what the packages take, uv's cache included.
func (s *Store) Usage() (Usage, error) {
	u := Usage{Budget: s.budget}
	if failed := s.trimErr.Load(); failed != nil {
		u.Failed = *failed
	}
	seen := map[uint64]bool{}
	for _, part := range []string{"uv", "packages", "views", "built"} {
		err := filepath.WalkDir(filepath.Join(s.dir, part), func(path string, d fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) {
				return nil // removed meanwhile
			} else if err != nil {
				return err
			}
			if d.IsDir() && filepath.Dir(path) == filepath.Join(s.dir, "views") {
				u.Views++
				return fs.SkipDir // links to packages
			}
			if d.IsDir() && filepath.Dir(path) == filepath.Join(s.dir, "packages") {
				u.Packages++
			}
			info, err := d.Info()
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			} else if err != nil {
				return err
			}
			if st, ok := info.Sys().(*syscall.Stat_t); ok && !seen[st.Ino] {
				seen[st.Ino] = st.Nlink > 1 && !d.IsDir()
				u.Bytes += st.Blocks * 512
			}
			return nil
		})
		if err != nil {
			return u, err
		}
	}
	return u, nil
}

// hold opens a folder of the cache so that nobody removes it until the file is closed. It is not there, if
// somebody was about to.
func hold(dir string) (*os.File, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB); errors.Is(err, unix.EWOULDBLOCK) {
		return nil, errors.Join(fs.ErrNotExist, f.Close())
	} else if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	// It may have been moved away between the two.
	opened, err1 := f.Stat()
	named, err2 := os.Stat(dir)
	if err := errors.Join(err1, err2); err != nil || !os.SameFile(opened, named) {
		return nil, errors.Join(fs.ErrNotExist, f.Close())
	}
	return f, nil
}

// use reports whether a view is there, and marks it as asked for now.
func (s *Store) use(view string) (bool, error) {
	f, err := hold(view)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	} else if err != nil {
		return false, err
	}
	info, err := f.Stat()
	if err == nil && time.Since(info.ModTime()) > touched {
		now := time.Now()
		err = os.Chtimes(view, now, now)
	}
	return err == nil, errors.Join(err, f.Close())
}

// trimmer removes what was not used for the longest time. One works at a time, in all processes.
type trimmer struct {
	store *Store
	over  int64           // bytes still to be freed
	names map[string]bool // of packages that uv may forget
}

// Trim brings the packages within their budget, if that is possible: what a sandbox shows, or somebody asked for in
// the last minutes, stays. It may be killed at any time: what is removed is moved out of the way before.
func (s *Store) Trim(ctx context.Context) error {
	if s.budget == 0 {
		return nil
	}
	release, err := s.lock(ctx, "trim")
	if err != nil {
		return err
	}
	defer release()
	for _, part := range []string{"views", "packages", "built"} {
		gone, err := filepath.Glob(filepath.Join(s.dir, part, ".gone-*"))
		if err != nil {
			return err
		}
		for _, dir := range gone { // of a process that was killed
			if err := removeTree(dir); err != nil {
				return err
			}
		}
	}
	usage, err := s.Usage()
	if err != nil || usage.Bytes <= s.budget {
		return err
	}
	if usage, err = s.dropBuilt(usage); err != nil || usage.Bytes <= s.budget {
		return err
	}
	if usage, err = s.forgetStrangers(ctx, usage); err != nil || usage.Bytes <= s.budget {
		return err
	}
	t := &trimmer{store: s, over: usage.Bytes - s.budget, names: map[string]bool{}}
	err = t.run(ctx)
	return errors.Join(err, s.forget(ctx, t.names))
}

// dropBuilt removes the wheels that were built here, but for those of the last minutes: their packages are unpacked, and only one
// that goes, too, is built again.
func (s *Store) dropBuilt(before Usage) (Usage, error) {
	dirs, err := filepath.Glob(filepath.Join(s.dir, "built", "[0-9a-f]*"))
	if err != nil || len(dirs) == 0 {
		return before, err
	}
	for _, dir := range dirs {
		info, err := os.Stat(dir)
		if err == nil && time.Since(info.ModTime()) > recent {
			_, err = discard(dir)
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return before, err
		}
	}
	return s.Usage()
}

// forgetStrangers has uv forget packages that have no folder here: they were only resolved, or installed elsewhere.
func (s *Store) forgetStrangers(ctx context.Context, before Usage) (Usage, error) {
	known, err := filepath.Glob(filepath.Join(s.dir, "uv", "wheels-v*", "*", "*"))
	if err != nil {
		return before, err
	}
	names := map[string]bool{}
	for _, dir := range known {
		name := filepath.Base(dir)
		if filepath.Base(filepath.Dir(dir)) == "pypi" && name == Normalize(name) && requirementForm().MatchString(name) {
			names[name] = true
		}
	}
	here, err := filepath.Glob(filepath.Join(s.dir, "packages", "[a-z0-9]*"))
	if err != nil {
		return before, err
	}
	for _, dir := range here {
		delete(names, packageOf(dir))
	}
	if len(names) == 0 {
		return before, nil
	}
	if err := s.forget(ctx, names); err != nil {
		return before, err
	}
	return s.Usage()
}

// forget takes packages out of uv's cache, whose files are links to those of package folders.
func (s *Store) forget(ctx context.Context, packages map[string]bool) (err error) {
	if len(packages) == 0 {
		return nil
	}
	names := slices.Sorted(maps.Keys(packages))
	b, err := s.uvBox(ctx, boxSpec{what: "forget " + strings.Join(names, ", ")}, Interpreter{}, nothing)
	if err != nil {
		return err
	}
	defer b.discard(&err)
	return b.uv(ctx, nil, append([]string{"cache", "clean", "--quiet"}, names...)...)
}

// trimSoon begins Trim, unless that is under way, and does not wait for it.
func (s *Store) trimSoon() {
	if s.budget == 0 || !s.trimming.TryLock() {
		return
	}
	s.background.Go(func() {
		defer s.trimming.Unlock()
		err := s.Trim(context.Background())
		s.trimErr.Store(&err)
	})
}

// run removes views, the one first that was asked for the longest time ago, and with each what only it had.
func (t *trimmer) run(ctx context.Context) error {
	views, err := t.store.agedViews()
	if err != nil {
		return err
	}
	members := map[string][]string{}
	for _, view := range views {
		if members[view.path], err = view.members(); err != nil {
			return err
		}
	}
	for i := -1; i < len(views) && t.over > 0; i++ {
		if cause := context.Cause(ctx); cause != nil {
			return cause
		}
		if i >= 0 { // before any view, what no view has
			if time.Since(views[i].asked) < recent {
				return nil
			}
			gone, err := discard(views[i].path)
			if err != nil {
				return err
			}
			if !gone {
				continue
			}
			delete(members, views[i].path)
		}
		if err := t.dropUnused(members); err != nil {
			return err
		}
	}
	return nil
}

// dropUnused removes the packages that no view links to, until there is room.
func (t *trimmer) dropUnused(members map[string][]string) error {
	used := map[string]bool{}
	for _, names := range members {
		for _, name := range names {
			used[name] = true
		}
	}
	dirs, err := filepath.Glob(filepath.Join(t.store.dir, "packages", "[a-z0-9]*"))
	if err != nil {
		return err
	}
	for _, dir := range dirs {
		if t.over <= 0 {
			return nil
		}
		if used[filepath.Base(dir)] {
			continue
		}
		size, err := treeSize(dir)
		if err != nil {
			return err
		}
		gone, err := discard(dir)
		if err != nil {
			return err
		}
		if gone {
			t.over -= size
			t.names[packageOf(dir)] = true
		}
	}
	return nil
}

// packageOf is the name in NAME-VERSION-pyX.Y-SHA256; a version has no dash, a name may have.
func packageOf(dir string) string {
	parts := strings.Split(filepath.Base(dir), "-")
	return strings.Join(parts[:max(1, len(parts)-3)], "-")
}

// discard removes a folder that nobody holds, and reports whether it did.
func discard(dir string) (gone bool, err error) {
	f, err := os.Open(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return true, nil
	} else if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); errors.Is(err, unix.EWOULDBLOCK) {
		return false, nil
	} else if err != nil {
		return false, err
	}
	aside := filepath.Join(filepath.Dir(dir), ".gone-"+filepath.Base(dir))
	if err := os.Rename(dir, aside); err != nil {
		return false, err
	}
	if err := fault.Point("image.trim.moved"); err != nil {
		return false, err
	}
	return true, removeTree(aside)
}

type agedView struct {
	path  string
	asked time.Time
}

// agedViews lists the views, the least recently asked for first.
func (s *Store) agedViews() ([]agedView, error) {
	paths, err := filepath.Glob(filepath.Join(s.dir, "views", "[a-z0-9]*"))
	if err != nil {
		return nil, err
	}
	var views []agedView
	for _, path := range paths {
		info, err := os.Lstat(path)
		if err != nil || !info.IsDir() {
			continue // gone meanwhile, or somebody's own
		}
		views = append(views, agedView{path, info.ModTime()})
	}
	slices.SortFunc(views, func(a, b agedView) int { return a.asked.Compare(b.asked) })
	return views, nil
}

// members are the package folders that the view links to. Views of older releases had none.
func (v agedView) members() ([]string, error) {
	b, err := os.ReadFile(filepath.Join(v.path, membersFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return strings.Fields(string(bytes.TrimSpace(b))), err
}

// treeSize is what the files below dir take.
func treeSize(dir string) (size int64, err error) {
	err = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if st, ok := info.Sys().(*syscall.Stat_t); ok {
			size += st.Blocks * 512
		}
		return nil
	})
	return size, err
}
