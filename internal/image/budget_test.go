package image_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tarn.dev/tarn/internal/image"
	"tarn.dev/tarn/internal/image/imagetest"
)

// crowd is a cache with an environment for each of a, b and c: a package of half a megabyte of its own and
// one that all have.
type crowd struct {
	t     *testing.T
	cache string
	env   []string
	store *image.Store
	locks map[string]image.Lock
	views map[string]image.View
}

func newCrowd(t *testing.T) *crowd {
	index := imagetest.NewIndex(t)
	index.Add("tarn_test_all", "1.0", map[string]string{"tarn_test_all.py": "x = 1\n"})
	c := &crowd{t: t, cache: scratch(t), env: indexEnv(index), locks: map[string]image.Lock{}, views: map[string]image.View{}}
	c.store = open(t, c.cache, c.env)
	project := t.TempDir()
	for _, name := range []string{"a", "b", "c"} {
		noise := strings.Repeat(name+" does not matter\n", 30_000)
		index.Add("tarn_test_"+name, "1.0", map[string]string{"tarn_test_" + name + ".py": "import tarn_test_all\n", "tarn_test_" + name + ".txt": noise})
		locks, err := c.store.Resolve(t.Context(), project, []image.Spec{{Packages: []string{"tarn-test-all", "tarn-test-" + name}}})
		if err != nil {
			t.Fatal(err)
		}
		c.locks[name] = locks[0]
		c.ensure(name)
	}
	return c
}

func (c *crowd) ensure(name string) {
	c.t.Helper()
	v, err := c.store.Ensure(c.t.Context(), c.locks[name], nil)
	if err != nil {
		c.t.Fatal(err)
	}
	c.views[name] = v
	if err := c.works(name); err != nil {
		c.t.Fatal(err)
	}
}

func (c *crowd) works(name string) error {
	_, err := os.Stat(filepath.Join(c.views[name].SitePackages, "tarn_test_"+name+".txt"))
	if err == nil {
		run(c.t, c.views[name], "import tarn_test_"+name)
	}
	return err
}

// age makes a view one that was asked for so long ago.
func (c *crowd) age(name string, by time.Duration) {
	c.t.Helper()
	then := time.Now().Add(-by)
	if err := os.Chtimes(c.views[name].SitePackages, then, then); err != nil {
		c.t.Fatal(err)
	}
}

// tooMuch sets a budget that is one byte less than what is there.
func (c *crowd) tooMuch() {
	c.t.Helper()
	u, err := c.store.Usage()
	if err != nil {
		c.t.Fatal(err)
	}
	c.store.KeepWithin(u.Bytes - 1)
}

func (c *crowd) left() (views, packages []string) {
	c.t.Helper()
	for name, v := range c.views {
		if _, err := os.Stat(v.SitePackages); err == nil {
			views = append(views, name)
		}
	}
	found, err := filepath.Glob(filepath.Join(c.cache, "packages", "*"))
	if err != nil {
		c.t.Fatal(err)
	}
	for _, dir := range found {
		name, _, _ := strings.Cut(strings.TrimPrefix(filepath.Base(dir), "tarn-test-"), "-")
		packages = append(packages, name)
	}
	return views, packages
}

func TestWhatWasNotUsedGoesFirst(t *testing.T) {
	t.Parallel()
	c := newCrowd(t)
	c.age("a", 3*time.Hour)
	c.age("b", 2*time.Hour)
	// As a sandbox does that shows a.
	held, err := os.Open(c.views["a"].SitePackages)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Flock(int(held.Fd()), unix.LOCK_SH); err != nil {
		t.Fatal(err)
	}
	c.tooMuch()
	before, err := c.store.Usage()
	if err != nil || before.Packages != 4 || before.Views != 3 {
		t.Fatalf("%+v, %v", before, err)
	}
	if err := c.store.Trim(t.Context()); err != nil {
		t.Fatal(err)
	}
	views, packages := c.left()
	if len(views) != 2 || strings.Join(packages, " ") != "a all c" {
		t.Errorf("left are views of %v and packages %v", views, packages)
	}
	after, err := c.store.Usage()
	if err != nil || after.Bytes > before.Bytes-400_000 { // uv's copy too
		t.Errorf("%d bytes before, %d after, %v", before.Bytes, after.Bytes, err)
	}
	for _, name := range []string{"a", "c"} {
		if err := c.works(name); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	// Not by closing alone: a process that another test is just forking has the file, too.
	if err := errors.Join(unix.Flock(int(held.Fd()), unix.LOCK_UN), held.Close()); err != nil {
		t.Fatal(err)
	}
	// What was asked for just now stays, whatever the budget; what nobody shows any more goes.
	c.store.KeepWithin(1)
	if err := c.store.Trim(t.Context()); err != nil {
		t.Fatal(err)
	}
	if views, packages := c.left(); strings.Join(views, " ") != "c" || strings.Join(packages, " ") != "all c" {
		t.Errorf("left are views of %v and packages %v", views, packages)
	}
	c.store.KeepWithin(0)
	c.ensure("a")
	c.ensure("b")
}

// After packages were unpacked they are brought within the budget, without anybody asking for it.
func TestTrimAfterUnpacking(t *testing.T) {
	t.Parallel()
	c := newCrowd(t)
	c.age("a", time.Hour)
	if err := removeAll(c.views["b"].SitePackages); err != nil {
		t.Fatal(err)
	}
	c.tooMuch()
	c.ensure("b")
	c.store.Settle()
	if views, packages := c.left(); len(views) != 2 || strings.Join(packages, " ") != "all b c" {
		t.Errorf("left are views of %v and packages %v", views, packages)
	}
	if u, err := c.store.Usage(); err != nil || u.Failed != nil {
		t.Errorf("%+v, %v", u, err)
	}
}

// Processes that unpack and processes that make room do not get into each other's way.
func TestTrimAtOnce(t *testing.T) {
	t.Parallel()
	c := newCrowd(t)
	ctx, cancel := context.WithCancel(t.Context())
	var trims, all sync.WaitGroup
	for range 2 {
		s := open(t, c.cache, c.env)
		s.KeepWithin(1)
		trims.Go(func() {
			for ctx.Err() == nil {
				if err := s.Trim(ctx); err != nil && !errors.Is(err, context.Canceled) {
					t.Error(err)
				}
			}
		})
	}
	for _, name := range []string{"a", "b", "c"} {
		s := open(t, c.cache, c.env)
		all.Go(func() {
			for range 4 {
				v, err := s.Ensure(t.Context(), c.locks[name], nil)
				if err != nil {
					t.Errorf("%s: %v", name, err)
					return
				}
				run(t, v, "import tarn_test_"+name)
				then := time.Now().Add(-time.Hour)
				if err := os.Chtimes(v.SitePackages, then, then); err != nil && !os.IsNotExist(err) {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	cancel()
	trims.Wait()
	for _, name := range []string{"a", "b", "c"} {
		c.ensure(name)
		checkView(t, c.views[name])
	}
}

// Wheels that were built go before anything that is used, unless somebody may be about to unpack them.
func TestBuiltWheelsGoFirst(t *testing.T) {
	t.Parallel()
	c := newCrowd(t)
	wheel := func(name string, age time.Duration) string {
		dir := filepath.Join(c.cache, "built", name)
		then := time.Now().Add(-age)
		err := errors.Join(os.MkdirAll(dir, 0o755), os.WriteFile(filepath.Join(dir, "x-1-py3-none-any.whl"), make([]byte, 100_000), 0o644), os.Chtimes(dir, then, then))
		if err != nil {
			t.Fatal(err)
		}
		return dir
	}
	old, young := wheel("0a-cp3.11", time.Hour), wheel("0b-cp3.11", time.Second)
	c.age("a", time.Hour)
	c.tooMuch()
	if err := c.store.Trim(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(old); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the old one is there: %v", err)
	}
	if _, err := os.Stat(young); err != nil {
		t.Errorf("the young one: %v", err)
	}
	if err := c.works("a"); err != nil {
		t.Errorf("an environment went before the wheel: %v", err)
	}
}
