//go:build linux

package process_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/runtime"
	"tarn.dev/tarn/internal/runtime/process"
)

const leaksRole = "test-leaks"

const (
	forkBomb = "fork bomb"
	bomb     = `bomb() { bomb | bomb & bomb; }; bomb`
)

// program is a hostile one, with how it may end: one of the reasons, or a reason of an error.
type program struct{ script, ends string }

var hostile = map[string]program{
	forkBomb:              {bomb, "exited too_many_processes timed_out out_of_memory"},
	"memory bomb":         {`tail /dev/zero`, "out_of_memory"},
	"full disk":           {`head -c 64000000 /dev/zero > f; sleep 1000`, "disk_full"},
	"endless output":      {`yes`, "timed_out"},
	"no newline":          {`yes | tr -d '\n'`, "timed_out"},
	"closed stdout":       {`exec >&- 2>&-; echo x; sleep 1000`, "timed_out"},
	"zombies":             {`i=0; while [ $i -lt 20 ]; do sh -c 'sleep 0 & exec sleep 1000' & i=$((i+1)); done; sleep 1000`, "timed_out"},
	"daemons":             {`setsid sh -c 'setsid sh -c "sleep 1000 & sleep 1000" & exit' & exit 0`, "exited"},
	"ignored signals":     {`trap '' TERM INT HUP QUIT USR1; sh -c "trap '' TERM; sleep 1000" & while :; do sleep 1000; done`, "timed_out"},
	"exit":                {`exit 7`, "exited"},
	"segmentation fault":  {`kill -SEGV $$`, "signaled"},
	"stopped":             {`kill -STOP $$`, "timed_out"},
	"kill of all":         {`trap '' TERM; kill -9 -1; sleep 1000`, "exited signaled timed_out"},
	"deleted folder":      {`mkdir d && cd d && rmdir ../d && ls && pwd; exit 3`, "exited"},
	"endless messages":    {`yes >&$TARN_MESSAGES_FD`, "timed_out"},
	"message, no newline": {`tr '\0' x < /dev/zero >&$TARN_MESSAGES_FD`, "timed_out runtime.message_too_long"},
}

// TestHostileProgramsLeaveNothing runs them in a process of its own, whose descriptors, mounts, control groups and
// descendants, orphans too, are counted before and after. Not parallel: they keep the processors from whoever watches limits.
func TestHostileProgramsLeaveNothing(t *testing.T) {
	for _, level := range confinedLevels {
		for _, how := range []string{"command", "fork"} {
			t.Run(string(level)+"/"+how, func(t *testing.T) {
				t.Parallel()
				need(t, level)
				self, err := os.Executable()
				if err != nil {
					t.Fatal(err)
				}
				out, err := exec.Command(self, leaksRole, t.TempDir(), string(level), how).CombinedOutput()
				if err != nil {
					t.Fatalf("%v:\n%s", err, out)
				}
			})
		}
	}
}

// A sandbox without limits is held by those that the host needs. At the other levels thousands of processes would keep all tests
// from their turns. Not parallel: others' supervisors would wait for the processors.
func TestForkBombWithoutALimit(t *testing.T) {
	need(t, runtime.Full)
	spec := runtime.Spec{ID: t.Name(), Limits: runtime.Limits{Time: time.Minute}}
	if err := hostileProgram(open(t, runtime.Full), spec, bomb, "exited too_many_processes"); err != nil {
		t.Error(err)
	}
}

func leaks(argv []string) int {
	err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
	if err == nil {
		// The first round also makes what a process keeps: pollers, and what is read once.
		err = hostileRound(argv, map[string]program{"nothing": {"true", "exited"}})
	}
	var before, after []string
	if err == nil {
		before, err = holdings(argv[0])
	}
	if err == nil {
		err = hostileRound(argv, hostile)
	}
	if err == nil {
		after, err = holdings(argv[0])
	}
	if err == nil && !slices.Equal(before, after) {
		err = fmt.Errorf("before:\n%s\nafter:\n%s", strings.Join(before, "\n"), strings.Join(after, "\n"))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func hostileRound(argv []string, programs map[string]program) (err error) {
	rt, err := process.New(process.Place{Dir: filepath.Join(argv[0], "boxes"), Init: os.Getenv("TARN_INIT")}, runtime.Level(argv[1]))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, rt.Close()) }()
	spec := runtime.Spec{ID: "x", Limits: runtime.Limits{PIDs: 60, MemoryBytes: 96 << 20, DiskBytes: 8 << 20, Time: 2 * time.Second}}
	if argv[2] == "fork" {
		if spec.Template, err = newTemplate(); err != nil {
			return err
		}
	}
	for name, p := range programs {
		if name == forkBomb && argv[1] == string(runtime.UserNS) && os.Getuid() == 0 {
			continue // nothing but its supervisor's looks bounds root's, and others need the host's numbers
		}
		if e := hostileProgram(rt, spec, p.script, p.ends); e != nil {
			err = errors.Join(err, fmt.Errorf("%s: %w", name, e))
		}
	}
	for _, who := range []string{"command", "supervisor"} {
		if e := killedWhileItRuns(rt, spec, who); e != nil {
			err = errors.Join(err, fmt.Errorf("kill -9 of the %s: %w", who, e))
		}
	}
	if s := rt.Templates(); s.Unforked > 1 { // the supervisor that was killed may count
		err = errors.Join(err, fmt.Errorf("templates: %+v", s))
	}
	return err
}

func hostileProgram(rt runtime.Runtime, spec runtime.Spec, script, ends string) error {
	sb, err := rt.Create(context.Background(), spec)
	if err != nil {
		return err
	}
	cmd := shell(script)
	cmd.Message = func([]byte) {}
	start := time.Now()
	exit, err := sb.Run(context.Background(), cmd)
	how := string(exit.Reason)
	if e := errdef.As(err); e != nil {
		how = e.Reason
	}
	if slices.Contains(strings.Fields(ends), how) {
		err = nil
	} else {
		err = errors.Join(err, fmt.Errorf("it ended with %s %+v", how, exit))
	}
	if took := time.Since(start); took > time.Minute {
		err = errors.Join(err, fmt.Errorf("it took %s", took))
	}
	return errors.Join(err, sb.Close())
}

// killedWhileItRuns kills a command or its supervisor from outside.
func killedWhileItRuns(rt runtime.Runtime, spec runtime.Spec, who string) error {
	spec.Limits.Time = 0
	sb, err := rt.Create(context.Background(), spec)
	if err != nil {
		return err
	}
	cmd := shell(`setsid sleep 1000 & echo begun >&$TARN_MESSAGES_FD; sleep 1000`, "tarn-test-victim")
	var failed error
	cmd.Message = func([]byte) {
		pid, err := victim("tarn-test-victim")
		if who == "supervisor" && err == nil {
			pid, err = parentInside(pid)
		}
		failed = errors.Join(err, syscall.Kill(pid, syscall.SIGKILL))
	}
	exit, err := sb.Run(context.Background(), cmd)
	if exit.Reason != runtime.Signaled || exit.Signal != int(syscall.SIGKILL) {
		err = errors.Join(err, fmt.Errorf("it ended with %+v", exit))
	}
	return errors.Join(err, failed, sb.Close())
}

// victim is the descendant of this process that was started with an argument.
func victim(argument string) (int, error) {
	for _, pid := range descendants(os.Getpid()) {
		line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if slices.Contains(strings.Split(string(line), "\x00"), argument) {
			return pid, nil
		}
	}
	return 0, errors.New("nobody was started with " + argument)
}

// parentInside is the first process of the process namespace that a process is in.
func parentInside(pid int) (int, error) {
	own, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", pid))
	if err != nil {
		return 0, err
	}
	for _, other := range descendants(os.Getpid()) {
		if status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", other)); err == nil {
			space, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", other))
			if err == nil && space == own && strings.HasSuffix(field(string(status), "NSpid:"), "\t1") {
				return other, nil
			}
		}
	}
	return 0, fmt.Errorf("%d has no supervisor", pid)
}

func field(status, name string) string {
	_, rest, _ := strings.Cut(status, name)
	value, _, _ := strings.Cut(rest, "\n")
	return value
}

// descendants of a process, by what the kernel says of each one's parent.
func descendants(root int) []int {
	parents := map[int]int{}
	all, _ := filepath.Glob("/proc/[0-9]*/status")
	for _, path := range all {
		status, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		pid, _ := strconv.Atoi(strings.TrimSpace(field(string(status), "Pid:")))
		parents[pid], _ = strconv.Atoi(strings.TrimSpace(field(string(status), "PPid:")))
	}
	var found []int
	for pid := range parents {
		for p := pid; p > 1; p = parents[p] {
			if parents[p] == root {
				found = append(found, pid)
				break
			}
		}
	}
	slices.Sort(found)
	return found
}

// holdings is what this process has of the host.
func holdings(dir string) ([]string, error) {
	var list []string
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return nil, err
	}
	kinds := map[string]int{}
	for _, fd := range fds {
		if to, err := os.Readlink("/proc/self/fd/" + fd.Name()); err == nil { // the folder being read is gone
			kind, _, _ := strings.Cut(to, ":[") // sockets, pipes and namespaces have numbers
			kinds[kind]++
		}
	}
	for _, kind := range slices.Sorted(maps.Keys(kinds)) {
		list = append(list, fmt.Sprintf("descriptors of %s: %d", kind, kinds[kind]))
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, dir) || strings.Contains(line, " tarn ") {
			list = append(list, "mount "+line)
		}
	}
	for _, pid := range descendants(os.Getpid()) {
		line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		list = append(list, fmt.Sprintf("process %d %q", pid, line))
	}
	prefix := fmt.Sprintf("tarn-%d-", os.Getpid())
	for _, root := range []string{"/sys/fs/cgroup", filepath.Join(dir, "boxes")} {
		err := filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
			if root != "/sys/fs/cgroup" && path != root || strings.HasPrefix(filepath.Base(path), prefix) {
				list = append(list, path)
			}
			if errors.Is(err, fs.ErrNotExist) { // others' groups come and go
				return nil
			}
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	return list, nil
}
