//go:build fault

package crash

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"tarn.dev/tarn/internal/base/fault/faulttest"
)

// operation is one thing that users do, as it is before and after.
type operation struct {
	name    string
	prepare func(h *house)
	args    []string
	last    bool // only the last visit of a point: another operation's first ones are the same
	// done, if any, holds what an operation did that main does not show. The operation may be done again.
	done func(h *house)
}

var operations = []operation{
	{
		name: "put",
		prepare: func(h *house) {
			h.run("file", "put", "tarn.toml", "before")
			h.write("data/a.txt", "small")
			h.write("data/b.bin", strings.Repeat("0123456789abcdef", 1<<17))
		},
		args: []string{"file", "put", "data/", "data/"},
	},
	{
		name: "merge",
		prepare: func(h *house) {
			h.run("file", "put", "tarn.toml", "before")
			h.run("branch", "create", "dev")
			h.run("file", "put", "tarn.toml", "onto-main")
			h.run("file", "put", "tarn.toml", "onto-dev", "--into", "dev")
		},
		args: []string{"merge", "dev", "--into", "main"},
		last: true,
	},
	{
		name: "revert",
		prepare: func(h *house) {
			h.run("file", "put", "tarn.toml", "before")
			h.run("file", "put", "tarn.toml", "undone")
		},
		args: []string{"revert", "main"},
		last: true,
	},
	{
		name: "import",
		prepare: func(h *house) {
			h.write("a.csv", "id,name\n1,one\n2,two\n")
			h.write("b.csv", "id,name\n3,three\n")
			h.run("table", "import", "a.csv", "--as", "numbers")
		},
		args: []string{"table", "import", "b.csv", "--as", "numbers", "--mode", "append"},
	},
	{
		name: "query",
		prepare: func(h *house) {
			h.write("a.csv", "id,name\n1,one\n2,two\n")
			h.run("table", "import", "a.csv", "--as", "numbers")
		},
		args: []string{"query", "CREATE TABLE doubled AS SELECT id * 2 AS id FROM numbers"},
		last: true,
	},
	{
		name:    "run",
		prepare: func(h *house) { pipeline(h, 2) },
		args:    []string{"run"},
	},
	{
		name: "run again",
		prepare: func(h *house) {
			pipeline(h, 2)
			h.run("run")
			pipeline(h, 3)
		},
		args: []string{"run"},
		last: true,
	},
	{
		name: "collect",
		prepare: func(h *house) {
			h.write("data/small.bin", noise(1, 2000))
			h.write("data/big.bin", noise(2, 100_000))
			h.write("a.csv", "id,name\n1,one\n2,two\n")
			h.run("switch", "-c", "dev")
			h.run("file", "put", "data/", "data/")
			h.run("table", "import", "a.csv", "--as", "numbers")
			h.run("switch", "main")
			h.run("file", "put", "data/small.bin", "kept") // shares a pack with what goes
			h.run("table", "import", "a.csv", "--as", "kept")
			h.run("branch", "rm", "dev")
		},
		args: []string{"gc", "--keep", "0s"},
		last: true,
		done: func(h *house) {
			var left struct{ Bytes, Packs, Blobs, Commits int64 }
			h.document(&left, "gc", "--keep", "0s", "--dry-run")
			if left.Bytes+left.Packs+left.Blobs+left.Commits != 0 {
				h.t.Errorf("not freed: %+v", left)
			}
		},
	},
}

// noise is n bytes that do not compress.
func noise(seed byte, n int) string {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{seed}).Read(b) // never fails
	return string(b)
}

// pipeline writes four assets: a chain of three with checks, and one beside it.
func pipeline(h *house, factor int) {
	h.write("orders.sql", fmt.Sprintf("-- check: unique(id)\nSELECT i AS id, i * %d AS amount FROM range(1000) t(i)", factor))
	h.write("big.sql", "-- check: not_null(id)\nSELECT * FROM orders WHERE amount > 10")
	h.write("total.sql", "SELECT count(*) AS n, sum(amount) AS amount FROM big")
	h.write("other.sql", fmt.Sprintf("SELECT %d AS one", factor))
}

// elsewhere are fault points that the operations here do not come by, with the tests that visit them.
var elsewhere = map[string]string{
	"lake.index.before_row":         "lake.TestDieAtEveryPoint: only after many packs",
	"lake.index.before_put":         "lake.TestDieAtEveryPoint",
	"lake.index.after_put":          "lake.TestDieAtEveryPoint",
	"lake.index.before_delete":      "lake.TestDieAtEveryPoint",
	"lake.branch.create.before_txn": "lake.TestDieAtEveryPoint",
	"lake.branch.create.after_txn":  "lake.TestDieAtEveryPoint",
	"home.restored.before_format":   "TestKilledRestore",
	"restore.rows.done":             "TestKilledRestore",
	"home.restored.after_format":    "TestKilledRestore",
	"project.remove.begun":          "TestKilledRemoval",
	"project.remove.blob_gone":      "TestKilledRemoval",
	"project.remove.blobs_gone":     "TestKilledRemoval",
	"project.remove.rows_gone":      "TestKilledRemoval",
	"lease.after_renew":             "lease tests: only after seconds",
	"image.view.after_install":      "image.TestCrash: the cache is shared",
	"image.package.before_rename":   "image's own tests: the cache is shared",
	"image.built.before_rename":     "image's own tests: the cache is shared",
	"image.trim.moved":              "image's own tests: the cache is shared",
}

// late are points that a server may come by when it has given its answer.
var late = map[string]bool{"meta.commit.before": true, "meta.commit.after": true, "run.finish.before_save": true}

// TestKilledServer kills the server at each fault point, the first and the last time that an operation
// comes by it.
func TestKilledServer(t *testing.T) {
	t.Parallel()
	points, err := faulttest.Names("../../internal")
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	seen := map[string]bool{}
	t.Run("during", func(t *testing.T) {
		for _, op := range operations {
			t.Run(op.name, func(t *testing.T) {
				t.Parallel()
				want := rehearse(t, op, points)
				for _, point := range points {
					hits := want.hits[point]
					if hits == 0 {
						continue
					}
					mu.Lock()
					seen[point] = true
					mu.Unlock()
					visits := slices.Compact([]int{0, hits - 1})
					if op.last {
						visits = visits[len(visits)-1:]
					}
					for _, skip := range visits {
						t.Run(fmt.Sprintf("%s %d of %d", point, skip+1, hits), func(t *testing.T) { killServer(t, op, point, skip, want) })
					}
				}
			})
		}
	})
	for _, point := range points {
		if !seen[point] && elsewhere[point] == "" {
			t.Errorf("no operation comes by the fault point %s", point)
		}
	}
	const least = 20
	if len(seen) < least {
		t.Errorf("%d fault points were visited, at least %d should be", len(seen), least)
	}
}

// rehearsal is what an operation does when nothing goes wrong.
type rehearsal struct {
	before, after map[string]string // what main shows
	hits          map[string]int    // of fault points, in a server that the operation starts
}

func rehearse(t *testing.T, op operation, points []string) rehearsal {
	t.Helper()
	h := newHouse(t)
	op.prepare(h)
	r := rehearsal{before: h.state(), hits: map[string]int{}}
	h.stop()
	dir := t.TempDir()
	h.env = append(h.env, "TARN_FAULT_DIR="+dir)
	if got := h.try(strings.Join(points, "=count;")+"=count", op.args...); got.code != 0 {
		t.Fatal(got)
	}
	for _, point := range points {
		if st, err := os.Stat(filepath.Join(dir, point)); err == nil {
			r.hits[point] = int(st.Size())
		}
	}
	r.after = h.state()
	if op.done != nil {
		op.done(h)
	} else if cmp.Equal(r.before, r.after) {
		t.Fatalf("%s changes nothing", op.name)
	}
	h.clean()
	h.stop()
	return r
}

// killServer kills the server when op has come skip times by a point.
func killServer(t *testing.T, op operation, point string, skip int, want rehearsal) {
	h := newHouse(t)
	op.prepare(h)
	if h.server() != 0 {
		h.stop()
	}
	r := h.try(fmt.Sprintf("%s=%d*off->1*kill", point, skip), append(slices.Clone(op.args), "--json")...)
	if r.code == 0 {
		if !late[point] {
			t.Fatalf("the server lived: %v", r)
		}
		h.try("", "server", "stop") // or it has died already
	} else if got := r.failure(t); got.Code != "unavailable" || got.Message == "" {
		t.Errorf("the error is %+v", got)
	}
	h.gone()
	h.clean()
	seen := h.state()
	all, none := cmp.Diff(want.after, seen), cmp.Diff(want.before, seen)
	if all != "" && (none != "" || r.code == 0) {
		t.Errorf("main does not show all (-want +got):\n%s\nnor nothing:\n%s", all, none)
	}
	if none != "" && op.args[0] != "run" && op.done == nil {
		return // it happened: once more would be another operation
	}
	h.repeat(op, r)
	if diff := cmp.Diff(want.after, h.state()); diff != "" {
		t.Errorf("after the operation was repeated (-want +got):\n%s", diff)
	}
	if op.done != nil {
		op.done(h)
	}
	h.clean()
	h.stop()
}

// repeat runs an operation again. Steps whose end was announced before are not run again.
func (h *house) repeat(op operation, before result) {
	h.t.Helper()
	again := h.try("", append(slices.Clone(op.args), "--json")...)
	if again.code != 0 {
		h.t.Fatal(again)
	}
	done := ended(h.t, before.stdout)
	for step, state := range ended(h.t, again.stdout) {
		if state != "cached" && done[step] != "" {
			h.t.Errorf("step %s was done (%s), and then %s again", step, done[step], state)
		}
	}
}
