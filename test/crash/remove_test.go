//go:build fault

package crash

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// projects lists the projects of a home.
func (h *house) projects() []string {
	h.t.Helper()
	var doc struct{ Projects []string }
	h.document(&doc, "project", "ls")
	return doc.Projects
}

// What a removal that was killed has left is removed when it is asked for again or a server starts, and until
// then nobody sees a part of it.
func TestKilledRemoval(t *testing.T) {
	t.Parallel()
	for _, at := range []string{
		"project.remove.begun=1*kill", "project.remove.blob_gone=1*kill", "project.remove.blob_gone=3*off->1*kill",
		"project.remove.blobs_gone=1*kill", "project.remove.rows_gone=1*kill", "meta.commit.after=1*off->1*kill",
	} {
		t.Run(at, func(t *testing.T) {
			t.Parallel()
			h := newHouse(t)
			for i := range 6 {
				h.write(fmt.Sprint("f", i), noise(byte(i), 2000))
				h.run("file", "put", fmt.Sprint("f", i), fmt.Sprint("f", i))
			}
			h.run("file", "put", "f0", "kept", "--project", "other")
			all := h.projects()
			name := all[slices.IndexFunc(all, func(p string) bool { return p != "other" })]
			h.stop()
			if r := h.try(at, "project", "rm", name, "--yes"); r.code == 0 {
				t.Fatalf("it lived: %v", r)
			}
			h.gone()
			if r := h.try("", "file", "ls"); r.code == 0 && strings.Contains(r.stdout, "f0") && !strings.HasPrefix(at, "meta") {
				t.Errorf("a part of it is seen: %v", r)
			}
			const notFound = 6 // the server that started has done it meanwhile
			if r := h.try("", "project", "rm", name, "--yes"); r.code != 0 && r.code != notFound {
				t.Error(r)
			}
			if left := h.projects(); !slices.Equal(left, []string{"other"}) {
				t.Errorf("projects %v", left)
			}
			if _, err := os.Stat(filepath.Join(h.home, "projects", name)); !os.IsNotExist(err) {
				t.Errorf("its folder: %v", err)
			}
			h.run("file", "cat", "kept", "--project", "other")
			h.run("fsck", "--project", "other")
		})
	}
}

// A server closes what another one removes, and what is then made under the name has nothing of it.
func TestRemovalBesideAnotherServer(t *testing.T) {
	t.Parallel()
	houses := pairInBucket(t)
	a, b := houses[0], houses[1]
	a.run("file", "put", "tarn.toml", "one")
	if b.state()["file/one"] == "" {
		t.Fatal("they do not share a project")
	}
	name := a.projects()[0]
	a.run("project", "rm", name, "--yes")
	for _, h := range houses {
		if left := h.projects(); len(left) != 0 {
			t.Errorf("projects %v", left)
		}
	}
	b.run("file", "put", "tarn.toml", "two")
	for _, h := range houses {
		if state := h.state(); state["file/one"] != "" || state["file/two"] == "" {
			t.Errorf("it has %v", state)
		}
		h.clean()
	}
}
