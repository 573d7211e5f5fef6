// Package cli tests the command line as users meet it: the real binary, a real server, a home of its
// own for every script. One script per command; run with -update to write expected output again.
package cli

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"tarn.dev/tarn/internal/cli"
	"tarn.dev/tarn/internal/system/home"
)

var update = flag.Bool("update", false, "write the expected output of scripts again")

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"tarn": func() { os.Exit(cli.Main()) }})
}

func TestScripts(t *testing.T) {
	t.Parallel()
	testscript.Run(t, scripts(testscript.Params{Dir: "testdata"}, func() []string { return nil }))
}

// scripts completes p: each script has a home of its own, and the variables that more returns for it.
func scripts(p testscript.Params, more func() []string) testscript.Params {
	return testscript.Params{
		Dir:                 p.Dir,
		Files:               p.Files,
		UpdateScripts:       *update,
		RequireExplicitExec: false,
		RequireUniqueNames:  true,
		Deadline:            time.Now().Add(5 * patience), // of all scripts together: one that hangs names the command that does
		Condition: func(cond string) (bool, error) {
			if cond != "fuse" {
				return false, fmt.Errorf("unknown condition %q", cond)
			}
			f, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0)
			if err == nil {
				err = f.Close()
			}
			_, unknown := user.Current() // fusermount refuses who has no name
			return err == nil && (os.Geteuid() == 0 || unknown == nil), nil
		},
		Setup: func(env *testscript.Env) error {
			// Sockets have short paths: the work folder of a script is too deep for one.
			run, err := os.MkdirTemp("", "tarn")
			if err != nil {
				return err
			}
			home := filepath.Join(env.WorkDir, "home")
			env.Vars = append(env.Vars, "TARN_HOME="+home, "TARN_CACHE="+filepath.Join(env.WorkDir, "cache"),
				"XDG_RUNTIME_DIR="+run, "TARN_AUTHOR=tester", "TARN_IDLE=10m", "TMPDIR="+os.TempDir())
			env.Vars = append(env.Vars, more()...)
			tarn, path := "", env.Getenv("PATH")
			for _, dir := range filepath.SplitList(path) {
				if p := filepath.Join(dir, "tarn"); tarn == "" && exists(p) {
					tarn = p
				}
			}
			vars := env.Vars
			env.Defer(func() {
				ctx, cancel := context.WithTimeout(context.Background(), patience)
				defer cancel()
				stop := exec.CommandContext(ctx, tarn, "server", "stop")
				stop.WaitDelay = 10 * time.Second
				stop.Env = append(vars, "TARN_URL=")
				if out, err := stop.CombinedOutput(); err != nil {
					env.T().Log("stop the server: ", string(out))
				}
				os.RemoveAll(run)
			})
			return nil
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"exits":      exits,
			"plain":      plain,
			"killed":     killed,
			"eventually": eventually,
			"holds":      holds,
		},
	}
}

func exists(name string) bool {
	_, err := os.Stat(name)
	return err == nil
}

// exits N COMMAND...: the command ends with exactly this code.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE COMMAND...")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	err = ts.Exec(args[1], args[2:]...)
	got := 0
	if err != nil {
		exit, ok := err.(*exec.ExitError)
		if !ok {
			ts.Fatalf("%v", err)
		}
		got = exit.ExitCode()
	}
	if got != want {
		ts.Fatalf("%s: exit code %d, want %d", strings.Join(args[1:], " "), got, want)
	}
}

var (
	ids    = regexp.MustCompile(`\b[0-9a-f]{64}\b`)
	shorts = regexp.MustCompile(`\b[0-9a-f]{7}\b`)
	times  = regexp.MustCompile(`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z`)
	pids   = regexp.MustCompile(`pid \d+`)
)

// plain stdout|stderr: writes the output to the file plain, where ids, times and pids have become names,
// so that it can be compared. An id is ID1, ID2, ... in the order in which ids appear.
func plain(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: plain stdout|stderr")
	}
	text := ts.ReadFile(args[0])
	names := map[string]string{}
	name := func(id string) string {
		key := id[:7]
		if names[key] == "" {
			names[key] = fmt.Sprintf("ID%d", len(names)+1)
		}
		return names[key]
	}
	text = times.ReplaceAllString(text, "TIME")
	text = pids.ReplaceAllString(text, "pid PID")
	text = ids.ReplaceAllStringFunc(text, name)
	text = shorts.ReplaceAllStringFunc(text, name)
	text = strings.ReplaceAll(text, ts.Getenv("WORK"), "$WORK")
	ts.Check(os.WriteFile(ts.MkAbs("plain"), []byte(text), 0o666))
}

// eventually COMMAND...: the command succeeds at some time.
func eventually(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) == 0 {
		ts.Fatalf("usage: eventually COMMAND...")
	}
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(patience); ts.Exec(args[0], args[1:]...) != nil; <-tick.C {
		if time.Now().After(end) {
			ts.Fatalf("%s does not succeed", strings.Join(args, " "))
		}
	}
}

// killed: the server of this script's home is killed, as by the kernel, and gone.
func killed(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 0 {
		ts.Fatalf("usage: killed")
	}
	h, err := home.At(ts.Getenv("TARN_HOME"))
	ts.Check(err)
	holder, ok := h.Holder()
	if !ok {
		ts.Fatalf("no server has held %s", h.Dir)
	}
	ts.Check(syscall.Kill(holder.PID, syscall.SIGKILL))
	ctx, cancel := context.WithTimeoutCause(context.Background(), patience, errors.New("the killed server holds its home"))
	defer cancel()
	ts.Check(h.AwaitFree(ctx))
}
