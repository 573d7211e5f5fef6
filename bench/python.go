package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// interpreter makes a virtual environment of the project's packages and returns its Python: what one
// would use without Tarn.
func (b *bench) interpreter(ctx context.Context, dir string, env ...string) (string, error) {
	venv := filepath.Join(b.dir, "venv-"+filepath.Base(dir))
	if _, err := b.tarn(ctx, dir, append([]string{"env", "sync", venv}, env...)...); err != nil {
		return "", err
	}
	python := filepath.Join(venv, "bin", "python")
	_, err := b.command(ctx, dir, python, "-m", "compileall", "-q", venv)
	return python, err
}

// bareImport is how long python needs to start and to import a package, nothing else.
func (b *bench) bareImport(ctx context.Context, python, module string, tries int) (time.Duration, error) {
	return best(tries, func() error { _, err := b.command(ctx, b.dir, python, "-c", "import "+module); return err })
}

const firstCallSource = `import pandas as pd
import tarn

pandas = tarn.Env(packages=["pandas==2.2.3"])


@tarn.asset(env=pandas)
def frame() -> pd.DataFrame:
    return pd.DataFrame({"n": [%d]})
`

// firstCall is a run of one pandas asset whose packages are there, against the import that it contains.
func firstCall(ctx context.Context, b *bench) error {
	dir, err := b.project("first", map[string]string{"pipeline.py": fmt.Sprintf(firstCallSource, 0)})
	if err != nil {
		return err
	}
	if _, err := b.tarn(ctx, dir, "run"); err != nil {
		return err
	}
	python, err := b.interpreter(ctx, dir)
	if err != nil {
		return err
	}
	var call, bare time.Duration
	for i := range b.size(8, 4) {
		if err := os.WriteFile(filepath.Join(dir, "pipeline.py"), fmt.Appendf(nil, firstCallSource, i+1), 0o644); err != nil {
			return err
		}
		d, err := best(1, func() error { _, err := b.tarn(ctx, dir, "run"); return err })
		if err != nil {
			return err
		}
		call = least(call, d)
		if d, err = b.bareImport(ctx, python, "pandas, pyarrow", 1); err != nil {
			return err
		}
		bare = least(bare, d)
	}
	peer := fmt.Sprintf("python -c 'import pandas, pyarrow' (%s ms)", number(milliseconds(bare)))
	row{"run of one changed pandas asset", milliseconds(call), "ms", nil, peer, float64(call) / float64(bare)}.print()
	row{"  times the bare import", float64(call) / float64(bare), "x", atMost(1.2), "", 0}.print()
	return nil
}

// The children measure themselves: from the last line of their module to the first of their function, and
// what of their memory is theirs alone before they have the table and after they have read all of it.
const handoverSource = `import random
import time

import pyarrow as pa
import pyarrow.compute as pc
import tarn

COLUMNS, ROWS = 8, %d


def memory():
    private, tables, table = 0, set(), False
    for line in open("/proc/self/smaps"):
        words = line.split()
        if not words[0].endswith(":"):
            table = words[-1].endswith(".arrow")
            if table:
                tables.add(words[3] + "/" + words[4])
        elif words[0] in ("Private_Clean:", "Private_Dirty:") and not table:
            private += int(words[1]) * 1024
    return private, ",".join(tables)


@tarn.asset
def parent() -> pa.Table:
    arrays = []
    for i in range(COLUMNS):
        noise = pa.py_buffer(random.Random(i).randbytes(8 * ROWS))
        arrays.append(pa.Array.from_buffers(pa.int64(), ROWS, [None, noise]))
    return pa.Table.from_arrays(arrays, names=[f"c{i}" for i in range(COLUMNS)])


def measured(table, had):
    before, _ = memory()
    total = sum(pc.sum(column).as_py() for column in table.columns)
    after, tables = memory()
    return [{"ms": had * 1000, "before": before, "after": after, "tables": tables, "bytes": table.nbytes, "total": str(total)}]
`

const handoverChild = `

@tarn.asset
def child_%d(parent: pa.Table) -> list[dict]:
    return measured(parent, time.perf_counter() - STARTED)
`

// handover passes a large table from a Python parent to ten children.
func handover(ctx context.Context, b *bench) error {
	const children = 10
	size := b.size(1<<30, 128<<20)
	source := fmt.Sprintf(handoverSource, size/64)
	for i := range children {
		source += fmt.Sprintf(handoverChild, i)
	}
	dir, err := b.project("handover", map[string]string{"pipeline.py": source + "\n\nSTARTED = time.perf_counter()\n"})
	if err != nil {
		return err
	}
	run, err := best(1, func() error { _, err := b.tarn(ctx, dir, "run"); return err })
	if err != nil {
		return err
	}
	var waits []float64
	files := map[string]bool{}
	private, table := 0.0, 0.0
	for i := range children {
		c, err := b.child(ctx, dir, i)
		if err != nil {
			return err
		}
		waits = append(waits, c.MS)
		private += max(0, c.After-c.Before)
		table = c.Bytes
		for f := range strings.SplitSeq(c.Tables, ",") {
			if f != "" {
				files[f] = true
			}
		}
	}
	slices.Sort(waits)
	copied, err := b.copyTable(ctx, dir, size)
	if err != nil {
		return err
	}
	peer := fmt.Sprintf("reading a copy of the bytes (%s ms)", number(copied))
	what := fmt.Sprintf("table of %d MiB from parent to child, median", size>>20)
	row{what, waits[children/2], "ms", atMost(5), peer, waits[children/2] / copied}.print()
	row{"  slowest of ten", waits[children-1], "ms", nil, peer, waits[children-1] / copied}.print()
	// What is mapped from one file is in memory once, whoever maps it.
	shared := atMost(1.1)
	if b.short { // what each child takes beside it, some 3 MB of libraries and threads, weighs too much
		shared = nil
	}
	row{"memory of ten children, in tables", float64(len(files)) + private/table, "x", shared, "", 0}.print()
	row{"run of parent and ten children", milliseconds(run), "ms", nil, peer, milliseconds(run) / copied}.print()
	return nil
}

// childRow is what a child says about itself.
type childRow struct {
	MS, Before, After, Bytes float64
	Tables                   string
}

func (b *bench) child(ctx context.Context, dir string, i int) (r childRow, err error) {
	out, err := b.tarn(ctx, dir, "table", "head", fmt.Sprintf("child_%d", i), "--json")
	if err != nil {
		return r, err
	}
	var head struct{ Rows []childRow }
	if err := json.Unmarshal(out, &head); err != nil {
		return r, err
	}
	if len(head.Rows) != 1 {
		return r, fmt.Errorf("child %d has no row: %s", i, out)
	}
	r = head.Rows[0]
	if r.Bytes == 0 || r.Tables == "" {
		return r, fmt.Errorf("child %d did not map its table: %s", i, out)
	}
	return r, nil
}

// copyTable is how long a process needs to read as many bytes from another one's file in memory: the way
// without sharing, in milliseconds.
func (b *bench) copyTable(ctx context.Context, dir string, size int) (float64, error) {
	python, err := b.interpreter(ctx, dir)
	if err != nil {
		return 0, err
	}
	file := filepath.Join(b.dir, "bytes")
	if err := writeRandom(file, int64(size), 7); err != nil {
		return 0, err
	}
	const read = "import sys, time, pyarrow as pa\nt = time.perf_counter()\npa.OSFile(sys.argv[1]).read()\nprint((time.perf_counter() - t) * 1000)"
	least := 0.0
	for range 3 {
		out, err := b.command(ctx, b.dir, python, "-c", read, file)
		if err != nil {
			return 0, err
		}
		var ms float64
		if _, err := fmt.Sscan(string(out), &ms); err != nil {
			return 0, err
		}
		if least == 0 || ms < least {
			least = ms
		}
	}
	return least, nil
}
