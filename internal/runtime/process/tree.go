//go:build linux

package process

import (
	"bytes"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
)

// descendants returns every process below pid, without pid. It is a snapshot: who needs all of a
// moving tree looks again.
func descendants(pid int) []int {
	var found []int
	queue := []int{pid}
	for len(queue) > 0 {
		kids := children(queue[0])
		queue = append(queue[1:], kids...)
		found = append(found, kids...)
	}
	return found
}

// hasChildrenFile says whether the kernel lists children (CONFIG_PROC_CHILDREN). Reading the lists of a
// small tree is much cheaper than reading all processes of a host.
var hasChildrenFile = sync.OnceValue(func() bool {
	_, err := os.Stat("/proc/self/task/" + strconv.Itoa(os.Getpid()) + "/children")
	return err == nil
})

func children(pid int) []int {
	var kids []int
	if !hasChildrenFile() {
		for _, p := range processes() {
			if stat, ok := readStat(p); ok && stat.parent == pid {
				kids = append(kids, p)
			}
		}
		return kids
	}
	tasks := "/proc/" + strconv.Itoa(pid) + "/task/"
	threads, err := os.ReadDir(tasks)
	if err != nil {
		return nil // it has ended
	}
	for _, t := range threads {
		list, err := os.ReadFile(tasks + t.Name() + "/children")
		if err != nil {
			continue
		}
		for _, f := range strings.Fields(string(list)) {
			if p, err := strconv.Atoi(f); err == nil {
				kids = append(kids, p)
			}
		}
	}
	return kids
}

func processes() []int {
	dir, err := os.Open("/proc")
	if err != nil {
		return nil
	}
	defer dir.Close() // read-only
	names, _ := dir.Readdirnames(-1)
	var pids []int
	for _, n := range names {
		if p, err := strconv.Atoi(n); err == nil {
			pids = append(pids, p)
		}
	}
	return pids
}

type stat struct {
	parent, session int
	dead            bool // ended, but not yet reaped by its parent
}

func readStat(pid int) (stat, bool) {
	text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return stat{}, false
	}
	// The name, in parentheses, may hold anything: the fields count from the last parenthesis.
	fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
	if len(fields) < 4 {
		return stat{}, false
	}
	parent, err1 := strconv.Atoi(fields[1])
	session, err2 := strconv.Atoi(fields[3])
	return stat{parent, session, fields[0] == "Z"}, err1 == nil && err2 == nil
}

func killAll(pids []int) {
	for _, p := range pids {
		syscall.Kill(p, syscall.SIGKILL) //nolint:errcheck // it may have ended
	}
}

// killSession kills what belongs to a session, until nothing is found. It is for the case that the
// tree's root is gone and with it the tree.
func killSession(session int) {
	if session <= 1 {
		return
	}
	for range 10 {
		var found []int
		for _, p := range processes() {
			if s, ok := readStat(p); ok && s.session == session && !s.dead {
				found = append(found, p)
			}
		}
		if len(found) == 0 {
			return
		}
		killAll(found)
	}
}

// usage is what a process holds: threads, and bytes of memory that the kernel cannot drop.
type usage struct {
	threads int
	memory  int64
}

func readUsage(pid int) (u usage) {
	text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/status")
	if err != nil {
		return usage{}
	}
	u.memory = (field(text, "\nRssAnon:") + field(text, "\nRssShmem:")) << 10
	u.threads = int(field(text, "\nThreads:"))
	return u
}

// proportional is the memory of a process with shared pages divided among those who share them. The
// kernel walks the page tables for it, so it is read only where the cheap figure is not enough.
func proportional(pid int) int64 {
	text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/smaps_rollup")
	if err != nil { // it has ended, or hides its maps
		return readUsage(pid).memory
	}
	return (field(text, "\nPss_Anon:") + field(text, "\nPss_Shmem:")) << 10
}

// field returns the number that follows name in a file of /proc, 0 if there is none.
func field(text []byte, name string) int64 {
	_, rest, ok := bytes.Cut(text, []byte(name))
	if !ok {
		return 0
	}
	f := bytes.Fields(rest[:min(len(rest), 40)])
	if len(f) == 0 {
		return 0
	}
	n, _ := strconv.ParseInt(string(f[0]), 10, 64)
	return n
}
