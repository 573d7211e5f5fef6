package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"tarn.dev/tarn/internal/runtime"
)

const preloadSource = `import tarn

env = tarn.Env(packages=["numpy", "pandas", "polars", "pyarrow", "scikit-learn"])


@tarn.function(env=env)
def nothing():
    pass
`

// preloaded are modules that projects import, each with work whose threads, pools and locks a fork must be able to use.
var preloaded = []struct{ module, use string }{
	{"numpy", `
a = numpy.random.rand(500, 500)
(a @ a).sum(), numpy.linalg.svd(a[:100])`},
	{"pandas", `
import io
text = "k,v\n" + "".join(f"{i % 7},{i}\n" for i in range(50000))
assert pandas.read_csv(io.StringIO(text)).groupby("k").v.sum().size == 7`},
	{"pyarrow", `
import pyarrow.compute, pyarrow.dataset, pyarrow.parquet
t = pyarrow.table({f"c{i}": list(range(100000)) for i in range(4)})
pyarrow.parquet.write_table(t, "t.parquet", row_group_size=10000)
assert pyarrow.parquet.read_table("t.parquet", use_threads=True) == t
assert pyarrow.dataset.dataset("t.parquet").to_table(filter=pyarrow.compute.field("c0") < 10).num_rows == 10`},
	{"polars", `
d = polars.DataFrame({"k": [i % 7 for i in range(100000)], "v": list(range(100000))})
assert d.lazy().group_by("k").agg(polars.col("v").sum()).collect().height == 7
d.write_parquet("p.parquet"), polars.scan_parquet("p.parquet").sort("v").collect()`},
	{"sklearn.ensemble", `
import numpy
x = numpy.random.rand(500, 5)
y = x[:, 0] > 0.5
sklearn.ensemble.RandomForestClassifier(n_estimators=10, n_jobs=2).fit(x, y).predict(x)
sklearn.ensemble.HistGradientBoostingClassifier(max_iter=5).fit(x, y)
import joblib
assert joblib.Parallel(n_jobs=2)(joblib.delayed(abs)(i) for i in range(-4, 0)) == [4, 3, 2, 1]`},
}

// tellMemory is the text of a script that prints what the process has of memory, and whether it was forked with the module.
const tellMemory = `import json, os, sys
there = %q in sys.modules
import %s
print(json.dumps([there] + [int(l.split()[1]) for l in open("/proc/self/smaps_rollup") if l.startswith(("Pss:", "Private_Dirty:"))]), flush=True)
`

// preloading measures each module: alone, in a template, in its forks.
func preloading(ctx context.Context, b *bench) error {
	dir, err := b.project("preload", map[string]string{"pipeline.py": preloadSource})
	if err != nil {
		return err
	}
	for _, m := range preloaded {
		if err := b.preload(ctx, dir, m.module, m.use); err != nil {
			return fmt.Errorf("%s: %w", m.module, err)
		}
	}
	return nil
}

func (b *bench) preload(ctx context.Context, dir, module, use string) (err error) {
	x, err := newBoxes(ctx, b, dir, module)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, x.runtime.Close()) }()
	x.template.Env["TARN_BENCH"] = module
	printed, err := x.run(ctx, fmt.Sprintf(tellMemory, module, module), time.Minute)
	if err != nil {
		return err
	}
	var memory [3]any
	if err := json.Unmarshal(printed, &memory); err != nil {
		return fmt.Errorf("%w: %s", err, printed)
	}
	there := "is preloaded"
	if memory[0] != true {
		there = "is NOT preloaded"
	}
	fmt.Printf("  %s %s\n", module, there)
	if err := os.WriteFile(x.script, []byte("import "+module+"\nprint('x', flush=True)\n"), 0o644); err != nil {
		return err
	}
	var took []time.Duration
	for range b.size(40, 10) {
		time.Sleep(50 * time.Millisecond) // the next fork is made meanwhile
		d, err := x.first(ctx)
		if err != nil {
			return err
		}
		took = append(took, d)
	}
	slices.Sort(took)
	bare, err := x.peer(ctx, b, x.python, "-S", "-c", "import "+module)
	if err != nil {
		return err
	}
	median := took[len(took)/2]
	row{"  first line of a fork, median", milliseconds(median), "ms", nil, fmt.Sprintf("python -S -c 'import %s' (%s ms)", module, number(milliseconds(bare))), float64(median) / float64(bare)}.print()
	row{"  p90", milliseconds(took[len(took)*9/10]), "ms", nil, "", 0}.print()
	all, err := marked("TARN_BENCH=" + module)
	if err != nil {
		return err
	}
	row{"  the template, before its forks: memory (PSS)", float64(x.runtime.Templates().MemoryBytes) / (1 << 20), "MiB", nil, "", 0}.print()
	all.print("  with two forks that wait")
	kept{memory[1].(float64), memory[2].(float64)}.print("  a fork at its first line")
	began := time.Now()
	if _, err = x.run(ctx, "import "+module+use, time.Minute); err != nil {
		return fmt.Errorf("its use in a fork: %w", err)
	}
	row{"  its use in a fork", milliseconds(time.Since(began)), "ms", nil, "", 0}.print()
	return nil
}

// run runs a script in a fork and returns what it printed.
func (x *boxes) run(ctx context.Context, script string, patience time.Duration) (_ []byte, err error) {
	if err := os.WriteFile(x.script, []byte(script), 0o644); err != nil {
		return nil, err
	}
	sb, err := x.runtime.Create(ctx, runtime.Spec{
		ID: "bench", Template: x.template, Mounts: []runtime.Mount{{Name: "script", Source: x.script}}, Limits: runtime.Limits{Time: patience},
	})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, sb.Close()) }()
	env := map[string]string{"HOME": sb.Home(), "TMPDIR": sb.Home()}
	for name, value := range x.template.Env {
		env[name] = strings.NewReplacer("{mount:sdk}", sb.Path("sdk"), "{mount:packages}", sb.Path("packages")).Replace(value)
	}
	var out, errs bytes.Buffer
	exit, err := sb.Run(ctx, runtime.Command{
		Argv: []string{x.python, "-S", "-B", "-m", "tarn._runner", sb.Path("script")}, Env: env, Dir: sb.Home(), Stdout: &out, Stderr: &errs,
	})
	if err == nil && !exit.OK() {
		err = fmt.Errorf("it ended with %+v: %s", exit, errs.String())
	}
	return out.Bytes(), err
}

// marked is the memory of the processes that were started with a variable, and of their forks, in KiB.
func marked(variable string) (sum kept, err error) {
	all, err := filepath.Glob("/proc/[0-9]*/environ")
	if err != nil {
		return sum, err
	}
	for _, path := range all {
		env, err := os.ReadFile(path)
		if err != nil || !slices.Contains(strings.Split(string(env), "\x00"), variable) {
			continue // others end while one looks
		}
		text, err := os.ReadFile(filepath.Join(filepath.Dir(path), "smaps_rollup"))
		if err != nil {
			continue
		}
		var k kept
		for line := range strings.Lines(string(text)) {
			_, _ = fmt.Sscanf(line, "Pss: %g kB", &k.pss) // most lines are others
			_, _ = fmt.Sscanf(line, "Private_Dirty: %g kB", &k.dirty)
		}
		sum.pss, sum.dirty = sum.pss+k.pss, sum.dirty+k.dirty
	}
	return sum, nil
}

// kept is what processes keep of memory: their share, and what is only theirs.
type kept struct{ pss, dirty float64 }

func (k kept) print(what string) {
	fmt.Printf("  %-44s %10s MiB, private and dirty %s\n", what, number(k.pss/1024), number(k.dirty/1024))
}
