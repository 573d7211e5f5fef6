//go:build fault

package crash

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// plain holds the answer of any command to a damaged or missing store: a code from the table, words, no
// panic of anybody.
func (h *house) plain(r result, codes ...string) {
	h.t.Helper()
	if r.code == 0 {
		h.t.Errorf("it went well: %v", r)
		return
	}
	f := r.failure(h.t)
	for _, code := range codes {
		if f.Code == code && f.Message != "" {
			return
		}
	}
	h.t.Errorf("the error is %+v, want one of %v", f, codes)
}

// sane fails the test if a process of this house has panicked.
func (h *house) sane() {
	h.t.Helper()
	for _, name := range []string{"server.crash", "server.log"} {
		b, err := os.ReadFile(filepath.Join(h.home, "logs", name))
		if err != nil {
			continue
		}
		if at := strings.Index(string(b), "panic"); at >= 0 {
			h.t.Errorf("%s: %.2000s", name, b[at:])
		}
	}
}

// stored makes a house with files, tables and a run, and stops its server.
func stored(t *testing.T) *house {
	h := newHouse(t)
	h.write("data.bin", strings.Repeat("0123456789abcdef", 1<<14))
	h.run("file", "put", "data.bin", "data.bin")
	pipeline(h, 2)
	h.run("run")
	h.stop()
	return h
}

// glob are the files of the home that match.
func (h *house) glob(pattern string) []string {
	h.t.Helper()
	names, err := filepath.Glob(filepath.Join(h.home, pattern))
	if err != nil || len(names) == 0 {
		h.t.Fatalf("no files at %s (%v)", pattern, err)
	}
	return names
}

// TestDamagedFiles flips bytes of, cuts and removes what the home holds: fsck names it, nobody panics,
// and every command ends with an answer.
func TestDamagedFiles(t *testing.T) {
	t.Parallel()
	seed := uint64(time.Now().UnixNano())
	random := rand.New(rand.NewPCG(seed, 0))
	t.Logf("seed %d", seed)
	damages := map[string]func(b []byte) []byte{
		"flipped": func(b []byte) []byte { b[random.IntN(len(b))] ^= byte(1 + random.IntN(255)); return b },
		"cut":     func(b []byte) []byte { return b[:random.IntN(len(b))] },
		"zeros":   func(b []byte) []byte { clear(b[len(b)/3 : 2*len(b)/3+1]); return b },
		"gone":    nil,
	}
	for _, pattern := range []string{"projects/house/packs/*", "projects/house/tables/*/data/*", "projects/house/tables/*/metadata/*", "projects/house/fragments/*/*"} {
		for damage, change := range damages {
			t.Run(strings.ReplaceAll(pattern, "/", " ")+" "+damage, func(t *testing.T) {
				h := stored(t)
				names := h.glob(pattern)
				name := names[random.IntN(len(names))]
				if info, err := os.Stat(name); err == nil && info.IsDir() {
					names = h.glob(pattern + "/*")
					name = names[random.IntN(len(names))]
				}
				b, err := os.ReadFile(name)
				if err != nil {
					t.Fatal(err)
				}
				if change == nil {
					err = os.Remove(name)
				} else if err = os.Chmod(name, 0o600); err == nil {
					err = os.WriteFile(name, change(b), 0o600)
				}
				if err != nil {
					t.Fatal(err)
				}
				// A byte that no row, name or pointer is made of may be any: only packs are hashed as a whole.
				if r := h.try("", "fsck", "--deep", "--json"); r.code != 0 || damage != "flipped" || strings.Contains(pattern, "packs") {
					h.plain(r, "data_loss")
				}
				// Whatever they answer, they answer.
				for _, args := range [][]string{
					{"file", "ls"}, {"table", "ls"}, {"query", "from orders"}, {"log"}, {"diff", "main~1..main"}, {"run"}, {"show", "big"},
				} {
					if r := h.try("", append(args, "--json")...); r.code != 0 {
						if f := r.failure(t); f.Code == "internal" || f.Code == "unavailable" || f.Code == "unknown" {
							t.Errorf("%s damaged: %v", name, r)
						}
					}
				}
				h.sane()
			})
		}
	}
}

func TestDamagedRows(t *testing.T) {
	t.Parallel()
	for damage, change := range map[string]func(b []byte) []byte{
		"header": func(b []byte) []byte { copy(b, "this is no database"); return b },
		"cut":    func(b []byte) []byte { return b[:len(b)/2] },
		"zeros":  func(b []byte) []byte { clear(b[4096:]); return b },
	} {
		t.Run(damage, func(t *testing.T) {
			h := stored(t)
			name := h.glob("meta.db")[0]
			b, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(name, change(b), 0o600); err != nil {
				t.Fatal(err)
			}
			for _, args := range [][]string{{"fsck"}, {"file", "ls"}, {"run"}} {
				h.plain(h.try("", append(args, "--json")...), "data_loss")
			}
			h.sane()
		})
	}
}

func TestHomeOfANewerTarn(t *testing.T) {
	t.Parallel()
	h := stored(t)
	if err := os.WriteFile(filepath.Join(h.home, "format"), []byte("tarn-home 99\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	r := h.try("", "status", "--json")
	h.plain(r, "failed_precondition")
	if f := r.failure(t); !strings.Contains(f.Message, "99") {
		t.Errorf("%+v", f)
	}
}

func TestSecondServerOfAHome(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	h.run("status")
	pid := h.server()
	r := h.try("", "server", "start", "--json")
	if r.code == 0 || !strings.Contains(r.stdout+r.stderr, fmt.Sprint(pid)) {
		t.Errorf("%v", r)
	}
	if h.server() != pid {
		t.Error("the first server is gone")
	}
	h.run("status")
}

// What lies in the socket's place, or is gone from it, does not keep anybody out.
func TestSocketInTheWay(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	h.run("status")
	h.kill(h.server())
	sockets, err := filepath.Glob(filepath.Join(h.sockets, "tarn", "*.sock"))
	if err != nil || len(sockets) != 1 {
		t.Fatalf("%v %v", sockets, err)
	}
	if err := os.Remove(sockets[0]); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(sockets[0], []byte("no socket"), 0o600); err != nil {
		t.Fatal(err)
	}
	h.run("status")
	h.stop()
	if err := os.MkdirAll(filepath.Join(sockets[0], "full"), 0o700); err != nil {
		t.Fatal(err)
	}
	h.plain(h.try("", "status", "--json"), "failed_precondition")
}

// A full disk stops a write with a clear error and takes nothing away; with room again it goes on.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("a small file system needs root")
	}
	h := newHouse(t)
	if err := os.MkdirAll(h.home, 0o700); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", "size=24m,mode=700", "tmpfs", h.home).CombinedOutput(); err != nil {
		t.Skipf("mount tmpfs: %s", out)
	}
	t.Cleanup(func() {
		if pid := h.server(); pid > 0 {
			h.kill(pid)
		}
		if out, err := exec.Command("umount", "-l", h.home).CombinedOutput(); err != nil {
			t.Errorf("umount: %s", out)
		}
	})
	h.write("small", "small")
	h.run("file", "put", "small", "small")
	before := h.state()
	noise := make([]byte, 40<<20)
	source := rand.NewChaCha8([32]byte{1})
	if _, err := source.Read(noise); err != nil {
		t.Fatal(err)
	}
	h.write("large", string(noise))
	h.plain(h.try("", "file", "put", "large", "large", "--json"), "resource_exhausted")
	if after := h.state(); len(after) != len(before) {
		t.Errorf("main shows %v", after)
	}
	h.clean()
	h.write("wide.sql", "SELECT range AS id, hash(range) AS h, hash(range + 1) AS i, hash(range + 2) AS j FROM range(3000000)")
	h.plain(h.try("", "run", "--json"), "resource_exhausted")
	if after := h.state(); len(after) != len(before) {
		t.Errorf("main shows %v", after)
	}
	h.clean()
	h.run("file", "put", "small", "again")
	h.write("wide.sql", "SELECT range AS id FROM range(3)")
	h.run("run")
	h.clean()
	h.sane()
}

func TestReadOnlyHome(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("a read-only mount needs root")
	}
	h := stored(t)
	if out, err := exec.Command("mount", "--bind", h.home, h.home).CombinedOutput(); err != nil {
		t.Skipf("mount: %s", out)
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", "-l", h.home).CombinedOutput(); err != nil {
			t.Errorf("umount: %s", out)
		}
	})
	if out, err := exec.Command("mount", "-o", "remount,bind,ro", h.home).CombinedOutput(); err != nil {
		t.Skipf("mount: %s", out)
	}
	r := h.try("", "status", "--json")
	h.plain(r, "failed_precondition", "permission_denied")
	if f := r.failure(t); !strings.Contains(f.Message, "read-only") {
		t.Errorf("%+v", f)
	}
}
