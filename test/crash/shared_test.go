//go:build fault

package crash

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"tarn.dev/tarn/internal/blob/s3blob/s3test"
	"tarn.dev/tarn/internal/meta/pgmeta/pgtest"
)

// pair are two homes whose servers work at once: their rows are in one Postgres database.
func pair(t *testing.T) [2]*house {
	t.Helper()
	rows := "TARN_META=" + pgtest.Start(t).Database(t)
	houses := [2]*house{newHouse(t), newHouse(t)}
	for _, h := range houses {
		h.env = append(h.env, rows)
	}
	return houses
}

// pairInBucket has its bulk data in one bucket.
func pairInBucket(t *testing.T) [2]*house {
	t.Helper()
	server := s3test.Start(t)
	bucket := "TARN_BLOB=s3://" + server.Bucket(t) + "?endpoint=" + server.URL
	houses := pair(t)
	for _, h := range houses {
		h.env = append(append(h.env, s3test.Env()...), bucket)
	}
	return houses
}

// pairInFolder has its bulk data in one folder.
func pairInFolder(t *testing.T) [2]*house {
	t.Helper()
	houses := pair(t)
	a, b := houses[0], houses[1]
	a.run("log")
	b.run("doctor") // makes the home, but no project in it
	b.stop()
	if err := os.RemoveAll(filepath.Join(b.home, "projects")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join(a.home, "projects"), filepath.Join(b.home, "projects")); err != nil {
		t.Fatal(err)
	}
	return houses
}

// Two servers commit to one branch; each is killed in turn, and starts again with the next command. What
// either has acknowledged is there in the end.
func TestTwoServersOneBranch(t *testing.T) {
	t.Parallel()
	for name, pair := range map[string]func(*testing.T) [2]*house{"folder": pairInFolder, "bucket": pairInBucket} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			twoServersOneBranch(t, pair(t))
		})
	}
}

func twoServersOneBranch(t *testing.T, houses [2]*house) {
	const writers, rounds = 2, 3
	for round := range rounds {
		var wg sync.WaitGroup
		var mu sync.Mutex
		var acknowledged []string
		done, enough := make(chan struct{}), make(chan struct{}, 2*writers*10)
		for i, h := range houses {
			for w := range writers {
				wg.Go(func() {
					for n := 0; ; n++ {
						select {
						case <-done:
							return
						default:
						}
						name := fmt.Sprintf("round%d/%d/%d/%d", round, i, w, n)
						if r := h.try("", "file", "put", "tarn.toml", name); r.code == 0 {
							mu.Lock()
							acknowledged = append(acknowledged, name)
							mu.Unlock()
							select {
							case enough <- struct{}{}:
							default:
							}
						}
					}
				})
			}
		}
		for range 6 {
			<-enough
		}
		houses[round%2].kill(houses[round%2].server())
		for range 6 {
			<-enough
		}
		close(done)
		wg.Wait()
		for _, h := range houses {
			state := h.state()
			for _, name := range acknowledged {
				if state["file/"+name] == "" {
					t.Errorf("%s was acknowledged and is not there", name)
				}
			}
			h.clean()
		}
	}
}

// A server that starts leaves the runs of another one alone while that lives.
func TestServerBesideARun(t *testing.T) {
	t.Parallel()
	houses := pairInBucket(t)
	a, b := houses[0], houses[1]
	items(a)
	a.close()
	r := a.start("", "run", "--json")
	a.await("the step", func() bool { return ran(r.stdout.String()) > 0 })
	b.clean() // which opens the project, and says nothing against a run that executes
	id, state := b.newest()
	if state == "failed" { // the rows are written at its larger steps, so it may be any of those before the end
		t.Errorf("the run is %s", state)
	}
	if got := b.try("", "cancel", id, "--json"); got.failure(t).Reason != "run.elsewhere" {
		t.Errorf("%v", got)
	}
	a.open()
	if got := r.end(); got.code != 0 {
		t.Fatal(got)
	}
	if _, state := b.newest(); state != "succeeded" {
		t.Errorf("the run is %s", state)
	}
	if got, want := b.run("file", "cat", "upper/1"), "TEXT 1"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	b.clean()
}

// The run of a server that was killed and does not come back is ended by another one, when the session of
// the dead one has expired. Until then its turn on the branch is its own, and then it is free.
func TestServerThatStaysAway(t *testing.T) {
	t.Parallel()
	houses := pairInFolder(t)
	a, b := houses[0], houses[1]
	b.run("log") // its server has the project open
	items(a)
	a.close()
	r := a.start("", "run", "--json")
	a.await("the step", func() bool { return ran(r.stdout.String()) > 0 })
	a.kill(a.server())
	r.end()
	b.await("the end of the run", func() bool { _, state := b.newest(); return state == "failed" })
	b.run("file", "put", "tarn.toml", "after")
	b.clean()
	a.open()
	a.finishes()
}

// A server with the rows of others but not with their bulk data does not start.
func TestServerWithoutTheBucket(t *testing.T) {
	t.Parallel()
	houses := pair(t)
	houses[0].run("log")
	if found := houses[0].run("doctor"); !strings.Contains(found, "of postgres at ") {
		t.Errorf("doctor does not name the database:\n%s", found)
	}
	server := s3test.Start(t)
	houses[1].env = append(append(houses[1].env, s3test.Env()...), "TARN_BLOB=s3://"+server.Bucket(t)+"?endpoint="+server.URL)
	if got := houses[1].try("", "log", "--json"); got.failure(t).Reason != "system.other_blobs" {
		t.Error(got)
	}
	houses[0].clean()
}

// A server whose database stays away loses its session, and ends; what it had acknowledged is there when the
// database is.
func TestDatabaseThatStaysAway(t *testing.T) {
	t.Parallel()
	database := pgtest.Start(t)
	h := newHouse(t)
	h.env = append(h.env, "TARN_META="+database.Database(t))
	h.run("file", "put", "tarn.toml", "before")
	database.Kill(t)
	h.gone()
	if err := database.Up(); err != nil {
		t.Fatal(err)
	}
	if h.state()["file/before"] == "" {
		t.Error("what was acknowledged is gone")
	}
	h.run("file", "put", "tarn.toml", "after")
	h.clean()
}

// newest is the newest run that the server of this house knows.
func (h *house) newest() (id, state string) {
	h.t.Helper()
	var list struct{ Runs []struct{ ID, State string } }
	h.document(&list, "runs")
	if len(list.Runs) == 0 {
		h.t.Fatal("there is no run")
	}
	return list.Runs[0].ID, list.Runs[0].State
}

// Two servers write, delete branches and collect at once, and one of them dies in the middle of a collection.
// What either has acknowledged is there, and what nothing leads to is not.
func TestTwoServersCollect(t *testing.T) {
	t.Parallel()
	houses := pairInBucket(t)
	a, b := houses[0], houses[1]
	a.write("big", noise(1, 300_000))
	for round, point := range []string{"lake.gc.after_condemn", "lake.gc.after_wait", "lake.gc.before_swap", "lake.gc.after_swap"} {
		doomed := fmt.Sprint("doomed", round)
		a.write("big", noise(byte(round), 300_000))
		a.run("branch", "create", doomed)
		a.run("file", "put", "big", "big", "--into", doomed)
		a.run("branch", "rm", doomed)
		a.stop()

		var acknowledged []string
		var mu sync.Mutex
		var wg sync.WaitGroup
		done := make(chan struct{})
		wg.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-done:
					return
				default:
				}
				name, branch := fmt.Sprintf("round%d/%d", round, n), fmt.Sprintf("side%d-%d", round, n)
				if r := b.try("", "file", "put", "tarn.toml", name); r.code == 0 {
					mu.Lock()
					acknowledged = append(acknowledged, name)
					mu.Unlock()
				} else {
					t.Errorf("beside collections: %v", r)
				}
				b.try("", "branch", "create", branch)
				b.try("", "file", "put", "tarn.toml", name+"-side", "--into", branch)
				b.try("", "branch", "rm", branch)
			}
		})
		if r := a.try(point+"=1*kill", "gc", "--keep", "0s"); r.code == 0 {
			t.Errorf("it lived: %v", r)
		}
		a.gone()
		a.run("gc", "--keep", "0s") // goes on with what the other one has left
		b.run("gc", "--keep", "0s")
		close(done)
		wg.Wait()
		for _, h := range houses {
			state := h.state()
			for _, name := range acknowledged {
				if state["file/"+name] == "" {
					t.Errorf("%s was acknowledged and is not there", name)
				}
			}
			h.clean()
		}
	}
	b.run("gc", "--keep", "0s")
	var left struct{ Bytes, Packs, Commits int64 }
	a.document(&left, "gc", "--keep", "0s", "--dry-run")
	if left.Bytes+left.Packs+left.Commits != 0 {
		t.Errorf("not freed: %+v", left)
	}
}
