package image_test

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tarn.dev/tarn/internal/base/fault"
	"tarn.dev/tarn/internal/image"
	"tarn.dev/tarn/internal/runtime/process"
)

// The test binary is the process that dies: it makes the view of a lock given in this variable.
const victimVariable = "TARN_IMAGE_TEST_VICTIM"

type victim struct {
	Cache string
	Boxes string // folder of its sandboxes
	Index string // folder that packages come from, if not from the user's index
	Lock  image.Lock
	Trim  int64 // to this budget, instead
}

// dieEnsuring is the victim's whole life.
func dieEnsuring(text string) error {
	var v victim
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		return err
	}
	boxes, err := process.New(process.Place{Dir: v.Boxes}, level())
	if err != nil {
		return err
	}
	env := os.Environ()
	if v.Index != "" {
		env = only(v.Index)
	}
	s, err := image.Open(v.Cache, env, boxes)
	if err != nil {
		return err
	}
	if v.Trim > 0 {
		s.KeepWithin(v.Trim)
		return s.Trim(context.Background())
	}
	_, err = s.Ensure(context.Background(), v.Lock, nil)
	return err
}

// victimise starts a process that does v and is killed at a fault point.
func victimise(t *testing.T, v victim, point string) {
	t.Helper()
	v.Boxes = t.TempDir()
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(userEnv(), victimVariable+"="+string(text), "TARN_FAULT="+point+"=kill")
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Fatalf("the victim lived: %v, %s", err, out)
	}
}

// A process killed while it makes room leaves nothing half removed that somebody could import from.
func TestKilledWhileTrimming(t *testing.T) {
	t.Parallel()
	if !fault.Enabled {
		t.Skip("needs -tags fault; make test has it")
	}
	c := newCrowd(t)
	c.age("a", time.Hour)
	victimise(t, victim{Cache: c.cache, Trim: 1}, "image.trim.moved")
	if views, _ := c.left(); len(views) != 2 {
		t.Errorf("left are %v", views)
	}
	c.ensure("a")
	c.store.KeepWithin(1)
	if err := c.store.Trim(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, part := range []string{"views", "packages"} {
		if left, err := filepath.Glob(filepath.Join(c.cache, part, ".gone-*")); err != nil || len(left) != 0 {
			t.Errorf("left behind: %v, %v", left, err)
		}
	}
	for name := range c.views {
		if err := c.works(name); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A process killed between unpacking and the rename leaves no view, and the next one makes it.
func TestKilledWhileInstalling(t *testing.T) {
	t.Parallel()
	if !fault.Enabled {
		t.Skip("needs -tags fault; make test has it")
	}
	for _, point := range []string{"image.view.after_install", "image.package.before_rename"} {
		t.Run(point, func(t *testing.T) {
			t.Parallel()
			killedAt(t, point)
		})
	}
}

func killedAt(t *testing.T, point string) {
	cache := scratch(t)
	s := open(t, cache, userEnv())
	locks, err := s.Resolve(t.Context(), t.TempDir(), []image.Spec{{Packages: []string{"six"}}})
	if err != nil {
		t.Fatal(err)
	}
	victimise(t, victim{Cache: cache, Lock: locks[0]}, point)
	if left := halves(t, cache); len(left) != 2 {
		t.Fatalf("after the kill: %v", left)
	}
	v, err := s.Ensure(t.Context(), locks[0], nil)
	if err != nil {
		t.Fatal(err)
	}
	run(t, v, "import six")
	checkView(t, v)
}

// A process killed as it takes over what was built leaves half a wheel that nobody uses, and the next one builds it.
func TestKilledWhileBuilding(t *testing.T) {
	t.Parallel()
	if !fault.Enabled {
		t.Skip("needs -tags fault; make test has it")
	}
	cache, index := scratch(t), t.TempDir()
	s := open(t, cache, only(index))
	p := sdist(t, index, "tarn_test_killed", "")
	lock := image.Lock{Python: minor(t, s), Platform: platform(t, s), Packages: []image.Package{p}}
	victimise(t, victim{Cache: cache, Index: index, Lock: lock}, "image.built.before_rename")
	if left := halves(t, cache); len(left) == 0 {
		t.Fatal("the kill left nothing")
	}
	v, err := s.Ensure(t.Context(), lock, nil)
	if err != nil {
		t.Fatal(err)
	}
	run(t, v, "import tarn_test_killed")
	checkView(t, v)
}

func TestDiskFull(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("needs root to mount a small disk")
	}
	cache := t.TempDir()
	if err := unix.Mount("tmpfs", cache, "tmpfs", 0, "size=256k"); err != nil {
		t.Skipf("cannot mount a small disk here: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(cache, 0); err != nil {
			t.Error(err)
		}
	})
	locks, err := open(t, t.TempDir(), userEnv()).Resolve(t.Context(), t.TempDir(), []image.Spec{{Packages: []string{"idna==3.7"}}})
	if err != nil {
		t.Fatal(err)
	}
	s := open(t, cache, userEnv())
	if _, err := s.Ensure(t.Context(), locks[0], nil); !errors.Is(err, image.ErrDiskFull) {
		t.Errorf("on a full disk: %v", err)
	}
	if entries, err := os.ReadDir(filepath.Join(cache, "views")); err != nil || len(entries)+len(halves(t, cache)) != 0 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
}
