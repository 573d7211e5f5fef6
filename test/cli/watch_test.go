package cli

import (
	"bufio"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// A run that is watched goes on with every change, whatever the change does, and Ctrl-C ends it.
func TestWatch(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	write := func(sql string) {
		t.Helper()
		// By rename, as editors do, so that no half of a file is run.
		next := filepath.Join(t.TempDir(), "numbers.sql")
		if err := os.WriteFile(next, []byte(sql), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(next, filepath.Join(p.dir, "numbers.sql")); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"pipeline.py", "busiest.sql"} { // need packages
		if err := os.Remove(filepath.Join(p.dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	write("SELECT 1 AS n")
	c := p.command("run", "--watch")
	stderr, err := c.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(stderr)
	var said []string
	until := func(texts ...string) {
		t.Helper()
		for _, text := range texts {
			for found := false; !found; {
				if !lines.Scan() {
					t.Fatalf("it ended before it said %q:\n%s", text, strings.Join(said, "\n"))
				}
				said = append(said, lines.Text())
				found = strings.Contains(lines.Text(), text)
			}
		}
	}
	until("1 row", "watching")
	write("SELECT 2 AS n FROM (")
	until("error: ", "watching")
	write("SELECT 2 AS n UNION ALL SELECT 3")
	until("2 rows", "watching")
	if err := c.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	for lines.Scan() {
		said = append(said, lines.Text())
	}
	if code := exitCode(t, c.Wait()); code != 0 {
		t.Errorf("exit code %d:\n%s", code, strings.Join(said, "\n"))
	}
	if got := p.must("query", "SELECT count(*) FROM numbers", "--format", "csv"); !strings.HasSuffix(got, "\n2\n") {
		t.Errorf("main holds %q", got)
	}
}

// Ctrl-C on a run cancels it: nothing is published, and what had ended is kept.
func TestInterruptedRun(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	for _, name := range []string{"pipeline.py", "busiest.sql"} {
		if err := os.Remove(filepath.Join(p.dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	script := "# tarn: outputs = { waits = \"csv\" }\necho begun\nsleep 1000\n"
	if err := os.WriteFile(filepath.Join(p.dir, "waits.sh"), []byte(script), 0o600); err != nil {
		t.Fatal(err)
	}
	c := p.command("run")
	stderr, err := c.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(stderr)
	var said []string
	for lines.Scan() {
		said = append(said, lines.Text())
		if strings.HasSuffix(lines.Text(), "| begun") {
			if err := c.Process.Signal(syscall.SIGINT); err != nil {
				t.Fatal(err)
			}
		}
	}
	if code := exitCode(t, c.Wait()); code != 130 {
		t.Errorf("exit code %d:\n%s", code, strings.Join(said, "\n"))
	}
	if list := p.must("runs"); !strings.Contains(list, "canceled") {
		t.Errorf("runs: %s", list)
	}
	p.unchanged()
}
