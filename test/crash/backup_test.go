//go:build fault

package crash

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// filled is a house with files and a table.
func filled(t *testing.T) *house {
	h := newHouse(t)
	h.write("numbers.sql", "SELECT i, i * 7 AS h FROM range(1000) t(i)\n")
	for i := range 5 {
		h.write(fmt.Sprintf("raw/%d", i), fmt.Sprintf("%d: a text that is longer than what an entry holds itself, %0300d", i, i))
	}
	h.run("file", "put", "raw/", "raw/")
	h.run("run")
	return h
}

// visits are the first, a middle and the last time that a command comes by a point, of the process that has it.
func (h *house) visits(point string, args ...string) []int {
	h.t.Helper()
	dir := h.t.TempDir()
	env := h.env
	h.env = append(slices.Clone(env), "TARN_FAULT_DIR="+dir)
	r := h.try(point+"=count", args...)
	h.env = env
	if r.code != 0 {
		h.t.Fatal(r)
	}
	st, err := os.Stat(filepath.Join(dir, point))
	if err != nil {
		h.t.Fatalf("tarn %v does not come by %s: %v", args, point, err)
	}
	n := int(st.Size())
	return slices.Compact([]int{0, n / 2, n - 1})
}

// A server that dies in the middle of a backup leaves none, and nothing that the next one stumbles over.
func TestKilledBackup(t *testing.T) {
	t.Parallel()
	h := filled(t)
	want := h.state()
	place := func() string { return filepath.Join(t.TempDir(), "backups") }
	for _, point := range []string{"blob.put.before_link", "blob.put.after_link"} {
		h.stop()
		for _, skip := range h.visits(point, "backup", place()) {
			to := place()
			h.stop()
			r := h.try(fmt.Sprintf("%s=%d*off->1*kill", point, skip), "backup", to, "--json")
			h.gone()
			if got := r.failure(t); got.Code != "unavailable" {
				t.Errorf("%s, %d: %+v", point, skip, got)
			}
			h.clean()
			h.run("backup", to)
			h.restored(to, want)
		}
	}
}

// restored restores the newest backup into a home of its own, and compares.
func (h *house) restored(from string, want map[string]string) {
	h.t.Helper()
	other := newHouse(h.t)
	other.run("restore", from)
	other.clean()
	if diff := cmp.Diff(want, other.state()); diff != "" {
		h.t.Errorf("what was restored (-want +got):\n%s", diff)
	}
	other.stop()
}

// A restore that dies leaves a home that nobody can use until it has been done again.
func TestKilledRestore(t *testing.T) {
	t.Parallel()
	h := filled(t)
	want, from := h.state(), filepath.Join(t.TempDir(), "backups")
	h.run("backup", from)
	h.stop()
	for _, point := range []string{
		"blob.put.before_link", "blob.put.after_link", "meta.commit.before", "meta.commit.after",
		"restore.rows.done", "home.restored.before_format", "home.restored.after_format",
	} {
		for _, skip := range newHouse(t).visits(point, "restore", from) {
			other := newHouse(t)
			if r := other.try(fmt.Sprintf("%s=%d*off->1*kill", point, skip), "restore", from); r.code == 0 {
				t.Fatalf("%s, %d: it lived: %v", point, skip, r)
			}
			r := other.try("", "log", "--json")
			if got := r.failure(t); got.Reason != "home.restoring" {
				t.Errorf("%s, %d: %v", point, skip, r)
			}
			var doc struct{ ID string }
			if out := other.run("restore", from, "--json"); json.Unmarshal([]byte(out), &doc) != nil || doc.ID == "" {
				t.Errorf("%s, %d: %s", point, skip, out)
			}
			other.clean()
			if diff := cmp.Diff(want, other.state()); diff != "" {
				t.Errorf("%s, %d (-want +got):\n%s", point, skip, diff)
			}
			other.stop()
		}
	}
}
