package engine_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"tarn.dev/tarn/internal/query"
	tarnruntime "tarn.dev/tarn/internal/runtime"
)

const intruderRole = "tarn-engine-intruder"

// intrude plays an engine that somebody has taken over: it tries what a job's text says, one thing a line, and
// answers with what came of it, in the place of the schema.
func intrude() {
	answers := json.NewEncoder(os.NewFile(3, "results"))
	jobs := bufio.NewReader(os.Stdin)
	for served := 1; ; served++ {
		line, err := jobs.ReadBytes('\n')
		if err != nil {
			return
		}
		var job query.Job
		if err := errors.Join(json.Unmarshal(line, &job), answers.Encode(query.Started)); err != nil {
			return
		}
		var result query.Result
		var report []string
		for what := range strings.Lines(job.SQL) {
			verb, object, _ := strings.Cut(strings.TrimSpace(what), " ")
			switch verb {
			case "served":
				report = append(report, strconv.Itoa(served))
			case "allocate": // until it is stopped
				for kept := [][]byte{}; ; kept = append(kept, bytes.Repeat([]byte{1}, 1<<20)) {
					runtime.KeepAlive(kept)
				}
			case "fail":
				result.Error = query.NewFailure(query.ErrStatement)
			default:
				report = append(report, word(attempt(verb, object)))
			}
		}
		result.Schema = []byte(strings.Join(report, "\n"))
		if answers.Encode(result) != nil || !job.Again {
			return
		}
	}
}

// errEmpty is a place where something was shown.
var errEmpty = errors.New("empty")

func attempt(verb, object string) error {
	switch verb {
	case "read":
		text, err := os.ReadFile(object)
		if err == nil && len(text) == 0 {
			return errEmpty
		}
		return err
	case "write":
		return os.WriteFile(object, []byte("forged"), 0o600)
	case "list":
		_, err := os.ReadDir(object)
		return err
	case "variable":
		if _, ok := os.LookupEnv(object); !ok {
			return fs.ErrNotExist
		}
		return nil
	}
	c, err := net.Dial(verb, object)
	if err == nil {
		c.Close()
	}
	return err
}

// word says in one word how an attempt ended.
func word(err error) string {
	switch {
	case err == nil:
		return "done"
	case errors.Is(err, fs.ErrNotExist):
		return "absent"
	case errors.Is(err, fs.ErrPermission):
		return "refused"
	case errors.Is(err, syscall.EROFS):
		return "read-only"
	case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, syscall.ENETUNREACH):
		return "unreachable"
	}
	return err.Error()
}

// TestTakenOver shows what an engine can reach that no longer does what it should: the files of its job, and nothing else
// of the home.
func TestTakenOver(t *testing.T) {
	t.Parallel()
	if level() == tarnruntime.Process {
		t.Skip("level process holds nobody")
	}
	home := t.TempDir()
	for _, name := range []string{
		"meta.db", "keys/secret.age", "projects/p/tables/t/data/1.parquet", "projects/p/tables/t/data/2.parquet",
		"projects/p/tables/u/data/1.parquet", "projects/q/tables/t/data/1.parquet", "scratch/steps/1/in.arrow",
		"scratch/steps/1/other.arrow", "scratch/steps/2/in.arrow",
	} {
		path := filepath.Join(home, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte("x"), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	listen := func(network, address string) string {
		l, err := net.Listen(network, address)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		return l.Addr().String()
	}
	tcp, unix, abstract := listen("tcp", "127.0.0.1:0"), listen("unix", filepath.Join(home, "socket")), listen("unix", "@"+t.Name())
	// A second engine's child waits beside it.
	other := boxes(t, filepath.Join(home, "scratch", "boxes"))
	neighbour, err := other.Create(t.Context(), tarnruntime.Spec{ID: "neighbour"})
	if err != nil {
		t.Fatal(err)
	}
	defer neighbour.Close()
	secret := filepath.Join(neighbour.HostHome(), "secret")
	if err := os.WriteFile(secret, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}

	const h, hidden = "HOME/", "absent or refused"
	tries := []struct{ what, want string }{
		// What its job is.
		{"read " + h + "projects/p/tables/t/data/1.parquet", "done"},
		{"read " + h + "scratch/steps/1/in.arrow", "done"},
		{"write " + h + "scratch/steps/1/out.arrow", "done"},
		{"write spilled", "done"},
		// What it reads stays as it is.
		{"write " + h + "projects/p/tables/t/data/1.parquet", "read-only"},
		{"write " + h + "scratch/steps/1/in.arrow", "read-only"},
		// The rest of the home.
		{"read " + h + "meta.db", "absent"},
		{"read " + h + "keys/secret.age", "absent"},
		{"read " + h + "projects/p/tables/t/data/2.parquet", "absent"},
		{"read " + h + "projects/p/tables/u/data/1.parquet", "absent"},
		{"read " + h + "projects/q/tables/t/data/1.parquet", "absent"},
		{"read " + h + "scratch/steps/1/other.arrow", "absent"},
		{"read " + h + "scratch/steps/2/in.arrow", "absent"},
		{"read " + secret, "absent"},
		{"list " + h + "projects/q", "absent"},
		{"read " + h + "projects/p/tables/t/data/../../../../../meta.db", "absent"},
		{"read /proc/1/root" + h + "meta.db", hidden},
		{"read /proc/self/root" + h + "meta.db", "absent"},
		// The host.
		{"read /etc/shadow", "absent"},
		{"list /root", "absent"},
		{"list /home", "absent"},
		{"list /sys", "absent"},
		{"read /proc/1/environ", hidden},
		{"variable PATH", "absent"},
		{"variable HOME", "absent"},
		{"write /etc/passwd", "read-only"},
		{"tcp " + tcp, "unreachable"},
		{"unix " + unix, "absent"},
		{"unix " + abstract, "unreachable"},
	}
	job := query.Job{
		Sources: []query.Source{
			{Name: query.Name{Table: "t"}, Parquet: &query.ParquetScan{Files: []string{filepath.Join(home, "projects/p/tables/t/data/1.parquet")}}},
			{Name: query.Name{Table: "i"}, Arrow: []string{filepath.Join(home, "scratch/steps/1/in.arrow")}},
		},
		Sinks: []query.Sink{{Kind: query.SinkArrow, Path: filepath.Join(home, "scratch/steps/1/out.arrow")}},
	}
	for _, try := range tries {
		job.SQL += strings.ReplaceAll(try.what, h, home+"/") + "\n"
	}
	e := start(t, query.Options{Command: self(intruderRole)})
	result, err := e.Run(t.Context(), job, nil)
	if err != nil {
		t.Fatal(err)
	}
	got := strings.Split(string(result.Schema), "\n")
	if len(got) != len(tries) {
		t.Fatalf("%d answers to %d tries: %q", len(got), len(tries), got)
	}
	for i, try := range tries {
		if got[i] != try.want && (try.want != hidden || got[i] != "absent" && got[i] != "refused") {
			t.Errorf("%s: %s, want %s", try.what, got[i], try.want)
		}
	}
	for name, want := range map[string]string{"scratch/steps/1/out.arrow": "forged", "scratch/steps/1/in.arrow": "x"} {
		if text, err := os.ReadFile(filepath.Join(home, name)); err != nil || string(text) != want {
			t.Errorf("%s: %q, %v", name, text, err)
		}
	}
}

// TestMemoryOfTheSandbox stops an engine that does not keep to the limit of its job.
func TestMemoryOfTheSandbox(t *testing.T) {
	t.Parallel()
	e := start(t, query.Options{Command: self(intruderRole)})
	if _, err := e.Run(t.Context(), query.Job{SQL: "allocate", MemoryBytes: 16 << 20}, nil); !errors.Is(err, query.ErrOutOfMemory) {
		t.Errorf("got %v", err)
	}
}

// TestOwners has jobs of one owner run in one child, one after the other, and no others.
func TestOwners(t *testing.T) {
	t.Parallel()
	e := start(t, query.Options{Command: self(intruderRole)})
	dir := t.TempDir()
	in, out := filepath.Join(dir, "in.arrow"), filepath.Join(dir, "out.arrow")
	if err := os.WriteFile(in, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	reads := []query.Source{{Name: query.Name{Table: "t"}, Arrow: []string{in}}}
	writes := []query.Sink{{Kind: query.SinkArrow, Path: out}}
	before := "empty"
	if level() == tarnruntime.Process {
		before = "done"
	}
	for _, step := range []struct {
		what, owner, sql string
		sources          []query.Source
		sinks            []query.Sink
		want             string // "" is an error
	}{
		{"the first", "a", "served\nread " + in + "\nwrite " + out, reads, writes, "1\ndone\ndone"},
		{"the same owner, without the files of before", "a", "served\nread " + in, nil, nil, "2\n" + before},
		{"another owner", "b", "served", nil, nil, "1"},
		{"nobody's", "", "served", nil, nil, "1"},
		{"again nobody's", "", "served", nil, nil, "1"},
		{"the owner's child is still there", "a", "served", nil, nil, "3"},
		{"one that fails", "a", "fail", nil, nil, ""},
		{"after it", "a", "served\nwrite left", nil, nil, "1\ndone"},
		{"after one that left a file", "a", "served", nil, nil, "1"},
	} {
		result, err := e.Run(t.Context(), query.Job{Owner: step.owner, SQL: step.sql, Sources: step.sources, Sinks: step.sinks}, nil)
		if got := string(result.Schema); err == nil && got != step.want || (err != nil) != (step.want == "") {
			t.Errorf("%s: %q, %v, want %q", step.what, got, err, step.want)
		}
	}
}

// TestOwnersDatabase has nothing of one job reach the next one in the same child.
func TestOwnersDatabase(t *testing.T) {
	t.Parallel()
	e := start(t, query.Options{})
	run := func(job query.Job) (string, error) {
		var out strings.Builder
		job.Owner, job.Sinks = "run", stream
		if _, err := e.Run(t.Context(), job, &out); err != nil {
			return "", err
		}
		return text(readStream(t, []byte(out.String()))), nil
	}
	source := table(t, e, query.Name{Table: "t"}, "SELECT i FROM range(3) r(i)")
	got, err := run(query.Job{SQL: "SELECT sum(i), current_setting('threads') FROM t", Sources: []query.Source{source}, Threads: 1})
	if err != nil || got != "3,1\n" {
		t.Errorf("%q, %v", got, err)
	}
	const again = "SELECT current_setting('threads'), current_setting('memory_limit'), (SELECT count(*) FROM duckdb_views() WHERE NOT internal)"
	got, err = run(query.Job{SQL: again, Threads: 3, MemoryBytes: 1 << 30})
	if err != nil || got != "3,1.0 GiB,0\n" {
		t.Errorf("%q, %v", got, err)
	}
	if got, err := run(query.Job{SQL: "FROM t"}); err == nil {
		t.Errorf("the table of another job: %q", got)
	}
}

// TestFilesOfAJob shows many files by their folder, and links one by one.
func TestFilesOfAJob(t *testing.T) {
	t.Parallel()
	e := start(t, query.Options{})
	dir, away := t.TempDir(), t.TempDir()
	var paths []string
	for i := range 40 {
		path := filepath.Join(dir, fmt.Sprintf("%02d.csv", i))
		to := path
		if i%10 == 0 {
			to = filepath.Join(away, fmt.Sprintf("%02d.csv", i))
			if err := os.Symlink(to, path); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.WriteFile(to, fmt.Appendf(nil, "n\n%d\n", i), 0o600); err != nil {
			t.Fatal(err)
		}
		paths = append(paths, path)
	}
	job := query.Job{SQL: "SELECT count(*), sum(n) FROM t", Sources: []query.Source{{
		Name: query.Name{Table: "t"}, Import: &query.ImportScan{Format: "csv", Paths: paths},
	}}}
	if batch, _ := rows(t, e, job); text(batch) != "40,780\n" {
		t.Errorf("got %q", text(batch))
	}
}
