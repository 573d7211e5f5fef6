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
	"tarn.dev/tarn/internal/blob/s3blob/s3test"
	"tarn.dev/tarn/internal/meta/pgmeta/pgtest"
)

// operation is one thing that users do, as it is before and after.
type operation struct {
	name    string
	prepare func(h *house)
	args    []string
	last    bool // only the last visit of a point: another operation's first ones are the same
	bucket  bool // with a bucket and a database, too: the others come by the same points
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
		args:   []string{"file", "put", "data/", "data/"},
		bucket: true,
	},
	{
		name: "merge",
		prepare: func(h *house) {
			h.run("file", "put", "tarn.toml", "before")
			h.run("branch", "create", "dev")
			h.run("file", "put", "tarn.toml", "onto-main")
			h.run("file", "put", "tarn.toml", "onto-dev", "--into", "dev")
		},
		args:   []string{"merge", "dev", "--into", "main"},
		bucket: true,
		last:   true,
	},
	{
		name: "branch",
		prepare: func(h *house) {
			h.run("file", "put", "tarn.toml", "before")
		},
		args: []string{"branch", "create", "dev"},
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
		args:   []string{"table", "import", "b.csv", "--as", "numbers", "--mode", "append"},
		bucket: true,
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
		bucket:  true,
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
		args:   []string{"gc", "--keep", "0s"},
		bucket: true,
		last:   true,
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
	"lake.forget.after_bury":      "internal/lake TestDieAtEveryPoint",
	"lake.forget.after_replace":   "internal/lake TestDieAtEveryPoint",
	"lake.forget.before_done":     "internal/lake TestDieAtEveryPoint",
	"lake.index.before_row":       "internal/lake TestDieAtEveryPoint", // only after many packs
	"lake.index.before_put":       "internal/lake TestDieAtEveryPoint",
	"lake.index.after_put":        "internal/lake TestDieAtEveryPoint",
	"lake.index.before_delete":    "internal/lake TestDieAtEveryPoint",
	"home.restored.before_format": "test/crash TestKilledRestore",
	"home.restored.after_format":  "test/crash TestKilledRestore",
	"restore.rows.done":           "test/crash TestKilledRestore",
	"project.remove.begun":        "test/crash TestKilledRemoval",
	"project.remove.blob_gone":    "test/crash TestKilledRemoval",
	"project.remove.blobs_gone":   "test/crash TestKilledRemoval",
	"project.remove.rows_gone":    "test/crash TestKilledRemoval",
	"lease.after_renew":           "test/crash TestKilledAtRenewal",           // only after seconds
	"image.view.after_install":    "internal/image TestKilledWhileInstalling", // the cache is shared
	"image.package.before_rename": "internal/image TestKilledWhileInstalling",
	"image.built.before_rename":   "internal/image TestKilledWhileBuilding",
	"image.trim.moved":            "internal/image TestKilledWhileTrimming",
}

// late are points that a server may come by when it has given its answer.
var late = map[string]bool{
	"meta.commit.before": true, "meta.commit.after": true, "meta.pg.before_commit": true, "meta.pg.after_commit": true,
	"run.finish.before_save": true,
}

// place makes somewhere to keep what is not in a home, and returns the variables that name it.
type place func(t *testing.T) []string

// places are the kinds of store.
func places(t *testing.T) map[string]place {
	server := s3test.Start(t)
	return map[string]place{
		"home": func(*testing.T) []string { return nil },
		"bucket": func(t *testing.T) []string {
			return append(s3test.Env(), "TARN_META="+pgtest.Database(t), "TARN_BLOB=s3://"+server.Bucket(t)+"?endpoint="+server.URL)
		},
	}
}

func houseAt(t *testing.T, env []string) *house {
	t.Helper()
	h := newHouse(t)
	h.env = append(h.env, env...)
	return h
}

// TestKilledServer kills the server at each fault point, the first and the last time that an operation
// comes by it. Another server, where there can be one, sees all of the operation or nothing, before the
// first one comes back.
func TestKilledServer(t *testing.T) {
	t.Parallel()
	points, err := faulttest.Names("../../internal")
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	seen := map[string]bool{}
	at := places(t)
	t.Run("during", func(t *testing.T) {
		for name, at := range at {
			for _, op := range operations {
				if name != "home" && !op.bucket {
					continue
				}
				t.Run(name+" "+op.name, func(t *testing.T) {
					t.Parallel()
					want := rehearse(t, at, op, points)
					for _, point := range points {
						hits := want.hits[point]
						if hits == 0 || elsewhere[point] != "" {
							continue
						}
						mu.Lock()
						seen[point] = true
						mu.Unlock()
						visits := slices.Compact([]int{0, hits - 1})
						if op.last || name != "home" {
							visits = visits[len(visits)-1:]
						}
						for _, skip := range visits {
							t.Run(fmt.Sprintf("%s %d of %d", point, skip+1, hits), func(t *testing.T) { killServer(t, at, op, point, skip, want) })
						}
					}
				})
			}
		}
	})
	for _, point := range points {
		if !seen[point] && elsewhere[point] == "" {
			t.Errorf("no operation comes by the fault point %s", point)
		}
	}
	for point, test := range elsewhere {
		if !slices.Contains(points, point) {
			t.Errorf("there is no fault point %s", point)
		}
		if !hasTest(t, test) {
			t.Errorf("%s: there is no %s", point, test)
		}
	}
	const least = 20
	if len(seen) < least {
		t.Errorf("%d fault points were visited, at least %d should be", len(seen), least)
	}
}

// hasTest says whether there is a test, given its folder and name.
func hasTest(t *testing.T, test string) bool {
	folder, name, _ := strings.Cut(test, " ")
	files, err := filepath.Glob("../../" + folder + "/*_test.go")
	if err != nil {
		t.Fatal(err)
	}
	return slices.ContainsFunc(files, func(file string) bool {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		return strings.Contains(string(text), "func "+name+"(t *testing.T)")
	})
}

// rehearsal is what an operation does when nothing goes wrong.
type rehearsal struct {
	before, after map[string]string // what main shows
	hits          map[string]int    // of fault points, in a server that the operation starts
}

func rehearse(t *testing.T, at place, op operation, points []string) rehearsal {
	t.Helper()
	h := houseAt(t, at(t))
	op.prepare(h)
	r := rehearsal{before: h.everything(), hits: map[string]int{}}
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
	r.after = h.everything()
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
func killServer(t *testing.T, at place, op operation, point string, skip int, want rehearsal) {
	env := at(t)
	h := houseAt(t, env)
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
	after := h
	if env != nil {
		after = houseAt(t, env)
	}
	after.clean()
	seen := after.everything()
	all, none := cmp.Diff(want.after, seen), cmp.Diff(want.before, seen)
	if all != "" && (none != "" || r.code == 0) {
		t.Errorf("main does not show all (-want +got):\n%s\nnor nothing:\n%s", all, none)
	}
	if none != "" && op.args[0] != "run" && op.done == nil {
		return // it happened: once more would be another operation
	}
	h.repeat(op, r)
	if diff := cmp.Diff(want.after, after.everything()); diff != "" {
		t.Errorf("after the operation was repeated (-want +got):\n%s", diff)
	}
	if op.done != nil {
		op.done(h)
	}
	after.clean()
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
