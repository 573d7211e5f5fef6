//go:build linux

package process

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/runtime"
)

var errCgroup = errdef.New(errdef.FailedPrecondition, "runtime.cgroup", "limits cannot be set")

// hierarchy is where the kernel lets this process make control groups. With version 2 all controllers are
// in one folder; with version 1 each has its own.
type hierarchy struct {
	version int
	dirs    map[string]string // by controller: memory, cpu, pids
}

var controllers = []string{"memory", "cpu", "pids"}

// hierarchies finds where groups are made, once.
var hierarchies = sync.OnceValues(func() (hierarchy, error) {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return hierarchy{}, err
	}
	own, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return hierarchy{}, err
	}
	return findHierarchy(string(mounts), string(own))
})

// findHierarchy reads the kernel's lists of mounts and of this process's own groups.
func findHierarchy(mounts, own string) (hierarchy, error) {
	groups := map[string]string{} // by controller; "" is version 2
	for line := range strings.Lines(own) {
		if f := strings.SplitN(strings.TrimSpace(line), ":", 3); len(f) == 3 {
			for c := range strings.SplitSeq(f[1], ",") {
				groups[c] = f[2]
			}
		}
	}
	h := hierarchy{version: 1, dirs: map[string]string{}}
	for line := range strings.Lines(mounts) {
		before, after, _ := strings.Cut(line, " - ")
		f, kind := strings.Fields(before), strings.Fields(after)
		if len(f) < 5 || len(kind) < 3 {
			continue
		}
		switch kind[0] {
		case "cgroup":
			for option := range strings.SplitSeq(kind[2], ",") {
				if group, ok := groups[option]; ok && slices.Contains(controllers, option) {
					h.dirs[option] = filepath.Join(f[4], group)
				}
			}
		case "cgroup2":
			dir := filepath.Join(f[4], groups[""])
			enabled, err := os.ReadFile(filepath.Join(dir, "cgroup.subtree_control"))
			if err == nil && !slices.ContainsFunc(controllers, func(c string) bool { return !slices.Contains(strings.Fields(string(enabled)), c) }) {
				return hierarchy{version: 2, dirs: map[string]string{"": dir}}, nil
			}
		}
	}
	for _, c := range controllers {
		if h.dirs[c] == "" {
			return hierarchy{}, errCgroup.Errorf("no control group for %s can be made here", c).
				WithNext("mount the controllers memory, cpu and pids, or delegate them to this service")
		}
	}
	return h, nil
}

// cgroup bounds one supervisor and all below it. It is made, and the supervisor moved into it, before the
// job is known: with version 1 a move waits for every processor, 13 ms where the groups have been quiet.
type cgroup struct {
	version int
	dirs    map[string]string
	most    atomic.Int64 // processes, as the kernel holds it
}

const groupPrefix = "tarn-"

var groupsMade atomic.Int64

// newCgroup makes a group. Its name begins with the server's number, so that a later server knows what was left.
func newCgroup() (_ *cgroup, err error) {
	h, err := hierarchies()
	if err != nil {
		return nil, err
	}
	g := &cgroup{version: h.version, dirs: map[string]string{}}
	defer func() {
		if err != nil {
			g.remove()
		}
	}()
	name := fmt.Sprintf("%s%d-%d", groupPrefix, os.Getpid(), groupsMade.Add(1))
	for c, dir := range h.dirs {
		path := filepath.Join(dir, name)
		if err := unix.Rmdir(path); err != nil && !errors.Is(err, unix.ENOENT) { // one that was left has limits of its own
			return nil, errCgroup.Errorf("remove a control group that was left: %w", err)
		}
		if err := os.Mkdir(path, 0o755); err != nil {
			return nil, errCgroup.Errorf("make a control group: %w", err)
		}
		g.dirs[c] = path
	}
	return g, nil
}

// enter moves a process into the group.
func (g *cgroup) enter(pid int) error {
	for _, dir := range g.dirs {
		if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0); err != nil {
			return errCgroup.Errorf("enter a control group: %w", err)
		}
	}
	return nil
}

// MoveTime is how long it takes to move a process into control groups as those of a sandbox at level full. It ends what it moves.
func MoveTime() (_ time.Duration, err error) {
	g, err := newCgroup()
	if err != nil {
		return 0, err
	}
	defer g.remove()
	cmd := exec.Command("/bin/sleep", "60")
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // killed
	}()
	began := time.Now()
	err = g.enter(cmd.Process.Pid)
	return time.Since(began), err
}

// doors are descriptors to which a process writes 0 to enter the group, with the rights of this one.
func (g *cgroup) doors() ([]*os.File, error) {
	var doors []*os.File
	for _, dir := range g.dirs {
		f, err := os.OpenFile(filepath.Join(dir, "cgroup.procs"), os.O_WRONLY, 0)
		if err != nil {
			return doors, errCgroup.Errorf("open a control group: %w", err)
		}
		doors = append(doors, f)
	}
	return doors, nil
}

// file is the path of a controller's setting.
func (g *cgroup) file(controller, v1, v2 string) string {
	if g.version == 2 {
		return filepath.Join(g.dirs[""], v2)
	}
	return filepath.Join(g.dirs[controller], v1)
}

const (
	period = 100 * time.Millisecond
	// supervisorsRoom is what a supervisor may need beside what it has when the job comes.
	supervisorsRoom = 16 << 20
	// stormPIDs are as many processes above the limit as there may be until the supervisor has counted them.
	stormPIDs = 256
)

// limit sets what the job may use. Processes above their limit are counted and ended with a clear reason
// by the supervisor; the kernel's limit only holds a storm until then.
func (g *cgroup) limit(l runtime.Limits) error {
	used, err := readNumber(g.file("memory", "memory.usage_in_bytes", "memory.current"))
	if err != nil {
		return err
	}
	set := map[string]string{
		g.file("pids", "pids.max", "pids.max"):                  strconv.Itoa(l.PIDs + stormPIDs),
		g.file("memory", "memory.limit_in_bytes", "memory.max"): strconv.FormatInt(l.MemoryBytes+used+supervisorsRoom, 10),
	}
	if l.CPUs > 0 {
		quota := strconv.FormatInt(max(int64(l.CPUs*float64(period.Microseconds())), 1000), 10)
		if g.version == 2 {
			quota += " " + strconv.FormatInt(period.Microseconds(), 10)
		}
		set[g.file("cpu", "cpu.cfs_quota_us", "cpu.max")] = quota
	}
	g.most.Store(int64(l.PIDs + stormPIDs))
	for path, value := range set {
		if err := os.WriteFile(path, []byte(value), 0); err != nil {
			return errCgroup.Errorf("limit a sandbox to %s: %w", value, err)
		}
	}
	return nil
}

// killed reports whether the kernel ended a process of the group for its memory.
func (g *cgroup) killed() bool {
	text, err := os.ReadFile(g.file("memory", "memory.oom_control", "memory.events"))
	return err == nil && field(append([]byte("\n"), text...), "\noom_kill ") > 0
}

// full reports whether there are nearly as many processes and threads as the kernel allows.
func (g *cgroup) full() bool {
	n, err := readNumber(g.file("pids", "pids.current", "pids.current"))
	return err == nil && n > g.most.Load()-stormPIDs/2
}

// remove removes the group. Processes that are about to end hold it for a moment, and version 1 has no event
// for the last one's end. What stays nevertheless is removed by the next server.
func (g *cgroup) remove() {
	for _, dir := range g.dirs {
		for wait := time.Millisecond; errors.Is(unix.Rmdir(dir), unix.EBUSY) && wait < 5*time.Second; wait *= 2 {
			time.Sleep(wait)
		}
	}
}

// removeGroups removes what servers left that were killed: groups whose server is gone.
func removeGroups() {
	h, err := hierarchies()
	if err != nil {
		return // there are none
	}
	for _, dir := range h.dirs {
		left, _ := filepath.Glob(filepath.Join(dir, groupPrefix+"*"))
		for _, path := range left {
			server, _, _ := strings.Cut(strings.TrimPrefix(filepath.Base(path), groupPrefix), "-")
			pid, err := strconv.Atoi(server)
			if err == nil && hasEnded(pid) {
				unix.Rmdir(path) //nolint:errcheck // one that is in use stays
			}
		}
	}
}

// hasEnded reports whether a process is gone, or waits only for somebody to ask how it ended: one that was just killed may for long.
func hasEnded(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) || bytes.Contains(stat, []byte(") Z "))
}

func readNumber(path string) (int64, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseInt(string(bytes.TrimSpace(text)), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("read %s: %w", path, err)
	}
	return n, nil
}
