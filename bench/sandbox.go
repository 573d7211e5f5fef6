package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"tarn.dev/tarn/internal/runtime"
	"tarn.dev/tarn/internal/runtime/process"
	"tarn.dev/tarn/internal/runtime/process/initprogram"
)

const firstLine = "import pandas\nprint('x', flush=True)\n"

// boxes starts sandboxes whose first line needs pandas, through the runtime's port and without a server.
type boxes struct {
	runtime  runtime.Runtime
	template *runtime.Template
	script   string
	python   string // the real interpreter
	packages string
	prefix   string
}

// newBoxes makes a project's environment, which imports the modules in a template.
func newBoxes(ctx context.Context, b *bench, dir string, modules ...string) (_ *boxes, err error) {
	python, err := b.interpreter(ctx, dir)
	if err != nil {
		return nil, err
	}
	out, err := b.command(ctx, dir, python, "-c", "import os, sys, numpy; print(os.path.realpath(sys.executable), sys.base_prefix, os.path.dirname(os.path.dirname(numpy.__file__)))")
	if err != nil {
		return nil, err
	}
	found := strings.Fields(string(out))
	x := &boxes{python: found[0], prefix: found[1], packages: found[2], script: filepath.Join(b.dir, "first.py")}
	if err := os.WriteFile(x.script, []byte(firstLine), 0o644); err != nil {
		return nil, err
	}
	sdk, err := filepath.Abs("sdk/python/src")
	if err != nil {
		return nil, err
	}
	x.template = &runtime.Template{
		Argv: append([]string{x.python, "-S", "-B", "-m", "tarn._template"}, modules...),
		Env: map[string]string{
			"PYTHONPATH": "{mount:sdk}:{mount:packages}", "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1",
			"JE_ARROW_MALLOC_CONF": "background_thread:false", "_RJEM_MALLOC_CONF": "background_thread:false",
		},
		Mounts: append(runtime.Installed("python", x.prefix), runtime.Mount{Name: "sdk", Source: sdk}, runtime.Mount{Name: "packages", Source: x.packages}),
	}
	place := process.Place{Dir: filepath.Join(b.dir, "boxes")}
	if place.Init, err = initprogram.Path(); err != nil {
		return nil, err
	}
	level, _, err := process.Choose(ctx, place, os.Getenv("TARN_LEVEL"), b.dir)
	if err != nil {
		return nil, err
	}
	x.runtime, err = process.New(place, level)
	return x, err
}

// first is the time from asking for a sandbox to the first line of the user's code in it.
func (x *boxes) first(ctx context.Context) (time.Duration, error) {
	began := time.Now()
	sb, err := x.runtime.Create(ctx, runtime.Spec{ID: "bench", Template: x.template, Mounts: []runtime.Mount{{Name: "script", Source: x.script}}})
	if err != nil {
		return 0, err
	}
	line := &firstWrite{}
	exit, err := sb.Run(ctx, runtime.Command{
		Argv: []string{x.python, "-S", "-B", "-m", "tarn._runner", sb.Path("script")}, Env: map[string]string{"PYTHONPATH": sb.Path("sdk") + ":" + sb.Path("packages")},
		Stdout: line,
	})
	if err = errors.Join(err, sb.Close()); err == nil && (!exit.OK() || line.at.IsZero()) {
		err = fmt.Errorf("it ended with %+v", exit)
	}
	return line.at.Sub(began), err
}

type firstWrite struct{ at time.Time }

// Write implements io.Writer.
func (w *firstWrite) Write(p []byte) (int, error) {
	if w.at.IsZero() {
		w.at = time.Now()
	}
	return len(p), nil
}

// sandboxes measures starts: one at a time, and many at once.
func sandboxes(ctx context.Context, b *bench) (err error) {
	dir, err := b.project("sandbox", map[string]string{"pipeline.py": fmt.Sprintf(firstCallSource, 0)})
	if err != nil {
		return err
	}
	x, err := newBoxes(ctx, b, dir, "pandas")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, x.runtime.Close()) }()
	if _, err := x.first(ctx); err != nil { // the template imports
		return err
	}
	var took []time.Duration
	for range b.size(200, 60) {
		time.Sleep(20 * time.Millisecond) // a person, or a plan; the next fork is made meanwhile
		d, err := x.first(ctx)
		if err != nil {
			return err
		}
		took = append(took, d)
	}
	slices.Sort(took)
	median, p99 := took[len(took)/2], took[len(took)*99/100]
	bare, err := x.peer(ctx, b, x.python, "-c", firstLine)
	if err != nil {
		return err
	}
	peer := fmt.Sprintf("python -c 'import pandas' (%s ms)", number(milliseconds(bare)))
	fmt.Printf("  level %s\n", x.runtime.Level())
	row{"first line, pandas imported, median", milliseconds(median), "ms", atMost(10), peer, float64(median) / float64(bare)}.print()
	row{"first line, p99", milliseconds(p99), "ms", atMost(50), "", 0}.print()
	row{"  times faster than the bare import", float64(bare) / float64(median), "x", atLeast(20), "", 0}.print()
	for _, other := range []func(context.Context, *bench) (string, time.Duration, error){x.bwrap, x.runc} {
		name, d, err := other(ctx, b)
		if errors.Is(err, exec.ErrNotFound) {
			fmt.Printf("  %s is not installed: not compared\n", name)
			continue
		}
		if err != nil {
			return err
		}
		row{name + ", the same import", milliseconds(d), "ms", nil, "a fork", float64(d) / float64(median)}.print()
	}
	defer func() { fmt.Printf("  templates at the end: %+v\n", x.runtime.Templates()) }()
	for _, n := range []int{100, b.size(1000, 0)} {
		if n == 0 {
			continue
		}
		all, err := x.atOnce(ctx, n)
		if err != nil {
			return err
		}
		var limit *budget
		if n == 100 {
			limit = atMost(600)
		}
		row{fmt.Sprintf("%d at once, all at their first line", n), milliseconds(all), "ms", limit, "bare imports one after the other", float64(all) / float64(bare) / float64(n)}.print()
	}
	return nil
}

// atOnce starts n sandboxes together and returns when the last one's first line came.
func (x *boxes) atOnce(ctx context.Context, n int) (time.Duration, error) {
	began := time.Now()
	var mu sync.Mutex
	var last time.Duration
	var errs []error
	var wg sync.WaitGroup
	for range n {
		wg.Go(func() {
			offset := time.Since(began)
			d, err := x.first(ctx)
			mu.Lock()
			defer mu.Unlock()
			last = max(last, offset+d)
			if err != nil {
				errs = append(errs, err)
			}
		})
	}
	wg.Wait()
	return last, errors.Join(errs...)
}

// peer is how long a command takes that imports pandas.
func (x *boxes) peer(ctx context.Context, b *bench, name string, args ...string) (time.Duration, error) {
	return best(b.size(10, 4), func() error {
		cmd := exec.CommandContext(ctx, name, args...)
		cmd.Env = []string{"PYTHONPATH=" + x.packages, "PATH=/usr/bin:/bin:/usr/sbin:/sbin"}
		out, err := cmd.CombinedOutput()
		if err != nil {
			return fmt.Errorf("%s: %w: %s", name, err, out)
		}
		return nil
	})
}

func (x *boxes) bwrap(ctx context.Context, b *bench) (string, time.Duration, error) {
	if _, err := exec.LookPath("bwrap"); err != nil {
		return "bwrap", 0, err
	}
	d, err := x.peer(ctx, b, "bwrap", "--unshare-all", "--die-with-parent", "--ro-bind", "/", "/", "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp",
		"--ro-bind", x.packages, "/tmp/packages", "--setenv", "PYTHONPATH", "/tmp/packages", x.python, "-c", firstLine)
	return "bwrap", d, err
}

func (x *boxes) runc(ctx context.Context, b *bench) (string, time.Duration, error) {
	if _, err := exec.LookPath("runc"); err != nil {
		return "runc", 0, err
	}
	bundle := filepath.Join(b.dir, "bundle")
	if err := os.MkdirAll(filepath.Join(bundle, "rootfs"), 0o755); err != nil {
		return "runc", 0, err
	}
	if _, err := b.command(ctx, bundle, "runc", "spec"); err != nil {
		return "runc", 0, err
	}
	path := filepath.Join(bundle, "config.json")
	text, err := os.ReadFile(path)
	if err != nil {
		return "runc", 0, err
	}
	var config map[string]any
	if err := json.Unmarshal(text, &config); err != nil {
		return "runc", 0, err
	}
	start, ok := config["process"].(map[string]any)
	mounts, ok2 := config["mounts"].([]any)
	if !ok || !ok2 {
		return "runc", 0, errors.New("runc spec wrote no process or mounts")
	}
	start["terminal"], start["args"] = false, []string{x.python, "-c", firstLine}
	start["env"] = []string{"PYTHONPATH=/packages", "PATH=/usr/bin:/bin"}
	for _, m := range [][2]string{{"/usr", "/usr"}, {"/lib", "/lib"}, {"/lib64", "/lib64"}, {"/bin", "/bin"}, {x.prefix, x.prefix}, {x.packages, "/packages"}} {
		if _, err := os.Stat(m[0]); err == nil {
			mounts = append(mounts, map[string]any{"destination": m[1], "type": "bind", "source": m[0], "options": []string{"rbind", "ro"}})
		}
	}
	config["mounts"] = mounts
	if text, err = json.Marshal(config); err != nil {
		return "runc", 0, err
	}
	if err := os.WriteFile(path, text, 0o644); err != nil {
		return "runc", 0, err
	}
	n := 0
	d, err := best(b.size(10, 4), func() error {
		n++
		_, err := b.command(ctx, bundle, "runc", "--root", filepath.Join(b.dir, "runc"), "run", fmt.Sprintf("tarn-bench-%d-%d", os.Getpid(), n))
		return err
	})
	return "runc", d, err
}
