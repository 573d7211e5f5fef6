//go:build linux

package process_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"tarn.dev/tarn/internal/base/room/roomtest"
	"tarn.dev/tarn/internal/runtime"
	"tarn.dev/tarn/internal/runtime/process"
)

// TestNearlyFullDisk has three sandboxes fill a disk together, each far below its own limit: the one that wrote most is ended, and
// the others go on.
func TestNearlyFullDisk(t *testing.T) {
	t.Parallel()
	for _, level := range levels {
		t.Run(string(level), func(t *testing.T) {
			t.Parallel()
			need(t, level)
			nearlyFullDisk(t, level)
		})
	}
}

func nearlyFullDisk(t *testing.T, level runtime.Level) {
	disk := roomtest.Disk(t, "128m")
	rt, err := process.New(process.Place{Dir: filepath.Join(disk, "boxes"), Init: os.Getenv("TARN_INIT")}, level)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := rt.Close(); err != nil {
			t.Error(err)
		}
	})
	const limit = 1 << 30
	type end struct {
		exit runtime.Exit
		err  error
	}
	run := func(script string, mounts ...runtime.Mount) (runtime.Sandbox, chan end) {
		sb, err := rt.Create(t.Context(), runtime.Spec{ID: "x", Limits: runtime.Limits{DiskBytes: limit, Time: time.Minute}, Mounts: mounts})
		if err != nil {
			t.Fatal(err)
		}
		ended := make(chan end, 1)
		go func() {
			exit, err := sb.Run(t.Context(), shell(script))
			ended <- end{exit, err}
		}()
		return sb, ended
	}
	small, smallEnd := run("head -c 20m /dev/zero > f; until [ -e go ]; do sleep 0.005; done")
	still, stillEnd := run("until [ -e go ]; do sleep 0.005; done")
	out := filepath.Join(disk, "out")
	if err := os.Mkdir(out, 0o777); err != nil { //nolint:gosec // level full has users of its own
		t.Fatal(err)
	}
	_, largeEnd := run(`cd `+out+`; while head -c 1m /dev/zero; do sleep 0.02; done > f; echo full; sleep 1000`,
		runtime.Mount{Name: "out", Source: out, Writable: true, InPlace: true})
	if e := <-largeEnd; e.err != nil || e.exit.Reason != runtime.NoRoom || e.exit.Usage.DiskBytes >= limit {
		t.Errorf("the one that wrote most: %+v %v", e.exit, e.err)
	}
	for name, other := range map[string]struct {
		sb  runtime.Sandbox
		end chan end
	}{"small": {small, smallEnd}, "still": {still, stillEnd}} {
		if err := os.Remove(filepath.Join(out, "f")); err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Error(err)
		}
		if err := os.WriteFile(filepath.Join(other.sb.HostHome(), "go"), nil, 0o600); err != nil {
			t.Error(err)
		}
		if e := <-other.end; e.err != nil || !e.exit.OK() {
			t.Errorf("%s: %+v %v", name, e.exit, e.err)
		}
	}
}
