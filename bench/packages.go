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
	"time"
)

const (
	oldPandas = "pandas==1.5.3"
	newPandas = "pandas==2.2.3"
	// Both pandas run with it, so that changing pandas changes nothing else.
	numpyForBoth = "numpy==1.26.4"
)

const packagesSource = `import pandas as pd
import tarn


@tarn.asset(env=tarn.Env(python="3.11", packages=[%s]))
def frame() -> pd.DataFrame:
    return pd.DataFrame({"version": [pd.__version__]})
`

const packagesPeer = `import pandas as pd
import pyarrow as pa

print(pa.Table.from_pandas(pd.DataFrame({"version": [pd.__version__]})).to_pydict())
`

// packages is the time from another version of pandas in a project to the end of the next run, against a new
// virtual environment by uv and a run in it. Both sides have all other packages in a cache of their own;
// whether they also have the wheel of the new pandas is told apart. Without it uv compiles to byte code, as Tarn
// does: of all packages, because it keeps none between environments.
func packages(ctx context.Context, b *bench) error {
	uv, err := exec.LookPath("uv")
	if err != nil {
		return fmt.Errorf("the peer is uv: %w", err)
	}
	for _, wheel := range []string{"present", "absent"} {
		x := &packageBench{bench: b, uv: uv, base: filepath.Join(b.dir, wheel), compile: wheel == "absent"}
		var ours, theirs []time.Duration
		if err := x.prepare(ctx, wheel == "present"); err != nil {
			return err
		}
		for round := range b.size(5, 3) {
			mine, other, err := x.round(ctx, fmt.Sprintf("%s-%d", wheel, round))
			if err != nil {
				return err
			}
			ours, theirs = append(ours, mine), append(theirs, other)
		}
		slices.Sort(ours)
		slices.Sort(theirs)
		mine, other := ours[len(ours)/2], theirs[len(theirs)/2]
		peer := fmt.Sprintf("uv venv + uv pip install%s + python (%s ms)", x.compiling(), number(milliseconds(other)))
		row{"pandas 1.5.3 -> 2.2.3 and run, wheel " + wheel, milliseconds(mine), "ms", nil, peer, float64(mine) / float64(other)}.print()
		if x.compile {
			row{"  times uv", float64(mine) / float64(other), "x", atMost(1.1), "", 0}.print()
		}
		row{"  slowest", milliseconds(ours[len(ours)-1]), "ms", nil, "its slowest", float64(ours[len(ours)-1]) / float64(theirs[len(theirs)-1])}.print()
	}
	return nil
}

// packageBench has a cache of Tarn and one of uv, of which every round takes a copy.
type packageBench struct {
	*bench
	uv, base string
	compile  bool   // uv makes byte code too
	pyarrow  string // the requirement that Tarn adds for a function of tables
}

func (x *packageBench) prepare(ctx context.Context, withNew bool) error {
	x.use(x.base)
	sets := [][]string{{oldPandas, numpyForBoth}}
	if withNew {
		sets = append(sets, []string{newPandas, numpyForBoth, "idna==3.7"}) // the wheel is known, the set of packages is not
	}
	for i, set := range sets {
		dir, err := x.project(fmt.Sprintf("%s-base-%d", filepath.Base(x.base), i), map[string]string{"pipeline.py": packagesText(set...)})
		if err != nil {
			return err
		}
		if _, err := x.tarn(ctx, dir, "run"); err != nil {
			return err
		}
		if x.pyarrow, err = x.arrow(ctx, dir); err != nil {
			return err
		}
		if err := x.venv(ctx, filepath.Join(dir, "venv"), set...); err != nil {
			return err
		}
	}
	_, err := x.tarn(ctx, x.dir, "server", "stop")
	return err
}

// use sets the folder whose caches both sides work with.
func (x *packageBench) use(dir string) {
	x.vars = []string{"TARN_CACHE=" + filepath.Join(dir, "tarn"), "UV_CACHE_DIR=" + filepath.Join(dir, "uv")}
}

func packagesText(set ...string) string {
	quoted := make([]string, len(set))
	for i, p := range set {
		quoted[i] = fmt.Sprintf("%q", p)
	}
	return fmt.Sprintf(packagesSource, strings.Join(quoted, ", "))
}

func (x *packageBench) arrow(ctx context.Context, dir string) (string, error) {
	out, err := x.tarn(ctx, dir, "env", "ls", "--json")
	if err != nil {
		return "", err
	}
	var list struct {
		Environments []struct{ Packages []string }
	}
	if err := json.Unmarshal(out, &list); err != nil {
		return "", err
	}
	for _, e := range list.Environments {
		for _, p := range e.Packages {
			if strings.HasPrefix(p, "pyarrow==") {
				return p, nil
			}
		}
	}
	return "", fmt.Errorf("no pyarrow in %s", out)
}

// venv makes a virtual environment and runs pandas in it.
func (x *packageBench) venv(ctx context.Context, dir string, set ...string) error {
	if _, err := x.command(ctx, x.dir, x.uv, "venv", "--quiet", "--python", "3.11", dir); err != nil {
		return err
	}
	python := filepath.Join(dir, "bin", "python")
	install := append(strings.Fields("pip install --quiet"+x.compiling()), "--python", python, x.pyarrow)
	if _, err := x.command(ctx, x.dir, x.uv, append(install, set...)...); err != nil {
		return err
	}
	_, err := x.command(ctx, x.dir, python, "-c", packagesPeer)
	return err
}

// compiling is the option that has uv make byte code, where it does.
func (x *packageBench) compiling() string {
	if x.compile {
		return " --compile-bytecode"
	}
	return ""
}

// round runs a project with the old pandas, then measures the next run with the new one, and the same by uv.
func (x *packageBench) round(ctx context.Context, name string) (mine, other time.Duration, err error) {
	here := filepath.Join(x.dir, name)
	if _, err := x.command(ctx, x.dir, "cp", "-al", x.base, here); err != nil {
		return 0, 0, err
	}
	x.use(here)
	dir, err := x.project("project-"+name, map[string]string{"pipeline.py": packagesText(oldPandas, numpyForBoth)})
	if err != nil {
		return 0, 0, err
	}
	if _, err := x.tarn(ctx, dir, "run"); err != nil {
		return 0, 0, err
	}
	if err := os.WriteFile(filepath.Join(dir, "pipeline.py"), []byte(packagesText(newPandas, numpyForBoth)), 0o644); err != nil {
		return 0, 0, err
	}
	if mine, err = best(1, func() error { _, err := x.tarn(ctx, dir, "run"); return err }); err != nil {
		return 0, 0, err
	}
	if other, err = best(1, func() error { return x.venv(ctx, filepath.Join(here, "venv"), newPandas, numpyForBoth) }); err != nil {
		return 0, 0, err
	}
	_, err = x.tarn(ctx, x.dir, "server", "stop")
	return mine, other, errors.Join(err, removeAll(here))
}
