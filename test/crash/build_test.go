//go:build fault

package crash

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// builds is a project with a package of its own, whose name is returned. Its build starts a process in a session of its own, and
// waits until the test lets it go on.
func builds(h *house) string {
	name := "tarn_test_" + strings.ToLower(filepath.Base(h.sockets)) // the cache is shared, and outlives this test
	h.write("libs/slow/pyproject.toml", "[build-system]\nrequires = []\nbuild-backend = \"backend\"\nbackend-path = [\".\"]\n")
	h.write("libs/slow/backend.py", strings.ReplaceAll(`import os, subprocess, time, zipfile

def build_wheel(to):
    subprocess.Popen(["sleep", "86400"], start_new_session=True)
    open("waits", "w").close()
    while not os.path.exists("go"):
        time.sleep(0.01)
    file, info = "NAME-1.0-py3-none-any.whl", "NAME-1.0.dist-info/"
    with zipfile.ZipFile(os.path.join(to, file), "w") as z:
        z.writestr("NAME.py", "x = 7\n")
        z.writestr(info + "METADATA", "Metadata-Version: 2.1\nName: NAME\nVersion: 1.0\n")
        z.writestr(info + "WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        z.writestr(info + "RECORD", "")
    return file
`, "NAME", name))
	h.write("pipeline.py", fmt.Sprintf("import tarn\n\n\n@tarn.asset(env=tarn.Env(packages=[\"./libs/slow\"]))\n"+
		"def seven(out: tarn.OutputDir):\n    import %[1]s\n\n    (out / \"x\").write_text(str(%[1]s.x))\n", name))
	return name
}

// building are the folders of builds that wait, as this host sees them.
func (h *house) building() []string {
	return h.matches(filepath.Join(h.home, "scratch", "boxes", "sandbox-*", "home", "source", "waits"))
}

func (h *house) matches(pattern string) []string {
	h.t.Helper()
	found, err := filepath.Glob(pattern)
	if err != nil {
		h.t.Fatal(err)
	}
	return found
}

// A server that dies while code of a package is built takes all of the build along: processes, also those that left its session,
// control groups, mounts and half wheels. The next run builds again.
func TestKilledServerTakesItsBuildAlong(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	name := builds(h)
	wheels := filepath.Join(cache(), "built", "*", name+"*")

	r := h.start("", "run", "--json")
	h.await("the build", func() bool { return len(h.building()) == 1 })
	first := h.building()[0]
	children := below(h.server())
	daemons := h.named("86400")
	if len(daemons) != 1 {
		t.Fatalf("%d processes of the build left its session", len(daemons))
	}
	own := groups(t, daemons[0])
	maps.DeleteFunc(own, func(path string, _ bool) bool { return groups(t, h.server())[path] }) // not all levels have some
	h.kill(h.server())
	if f := r.end().failure(t); f.Code != "unavailable" {
		t.Errorf("%+v", f)
	}
	h.await("the end of the build", func() bool { return len(alive(children)) == 0 })
	if left := h.matches(wheels); len(left) > 0 {
		t.Errorf("half wheels: %v", left)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil || strings.Contains(string(mounts), h.home) {
		t.Errorf("mounts are left: %v\n%s", err, mounts)
	}

	again := h.start("", "run", "--json")
	var second string
	h.await("the build of the next run", func() bool {
		found := slices.DeleteFunc(h.building(), func(path string) bool { return path == first })
		if len(found) == 1 {
			second = found[0]
		}
		return second != ""
	})
	if err := os.WriteFile(filepath.Join(filepath.Dir(second), "go"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if r := again.end(); r.code != 0 {
		t.Fatal(r)
	}
	if got := h.run("file", "cat", "seven/x"); got != "7" {
		t.Errorf("the function has x = %q", got)
	}
	if built := h.matches(wheels); len(built) != 1 || len(h.matches(filepath.Join(cache(), "built", ".staging-"+filepath.Base(filepath.Dir(built[0]))))) > 0 {
		t.Errorf("built are %v, and something beside", built)
	}
	for path := range own {
		if _, err := os.Stat(path); err == nil {
			t.Errorf("the control group %s is left", path)
		}
	}
	h.clean()
	h.empty()
}

// groups are the folders of a process' control groups, one for each hierarchy.
func groups(t *testing.T, pid int) map[string]bool {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]bool{}
	for line := range strings.Lines(string(b)) {
		if parts := strings.SplitN(strings.TrimSpace(line), ":", 3); len(parts) == 3 {
			found[filepath.Join("/sys/fs/cgroup", parts[1], parts[2])] = true
		}
	}
	return found
}
