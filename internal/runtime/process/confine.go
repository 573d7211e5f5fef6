//go:build linux

package process

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"tarn.dev/tarn/internal/runtime"
)

// Where a confined command finds things.
const (
	homeInside   = "/sandbox"
	mountsInside = "/mnt"
)

// namespaces are those that every confined supervisor is born into. The network's follows when the job
// is known: the supervisor leaves the host's unless the job may keep it.
const namespaces = unix.CLONE_NEWUSER | unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWIPC |
	unix.CLONE_NEWUTS | unix.CLONE_NEWCGROUP

// Host users of sandboxes at level full come from a range that no distribution gives to anybody: one for
// each sandbox, so that two of them have nothing in common, not even a limit. They own nothing: the
// mounts of a sandbox show files of the server's user as its own. A template has a block of them, its forks'.
const (
	firstUser  = 0x70000000
	users      = 1 << 27
	firstBlock = firstUser + users
	blocks     = 1 << 11
	blockSize  = 1 << 16
)

// confine makes a supervisor that is about to start the first process of its own namespaces.
func confine(level runtime.Level, part string, attr *syscall.SysProcAttr) {
	user, group, size := os.Geteuid(), os.Getegid(), 1
	if level == runtime.Full {
		user = firstUser + rand.IntN(users)
		if part == partTemplate {
			user, size = firstBlock+rand.IntN(blocks)*blockSize, blockSize
		}
		group = user
	}
	attr.Cloneflags = namespaces
	attr.UidMappings = []syscall.SysProcIDMap{{HostID: user, Size: size}}
	attr.GidMappings = []syscall.SysProcIDMap{{HostID: group, Size: size}}
	attr.GidMappingsEnableSetgroups = level == runtime.Full
	attr.Credential = &syscall.Credential{NoSetGroups: level != runtime.Full}
}

// root tells a confined supervisor what to show to its command, beside the files of the host that every
// sandbox has.
type root struct {
	Binds   []bind
	Network bool  // the host's
	Shared  int64 // bytes of shared memory; 0 leaves it to the kernel
}

// bind is a file or folder of the host. If Passed it comes as a descriptor, in the order of Binds, and
// Source is only its name.
type bind struct {
	Source, Target []byte
	Writable       bool
	Folder         bool
	Passed         bool
}

// root is what the sandbox's jobs see.
func (s *sandbox) root() (*root, error) {
	spec := s.now()
	home, err1 := s.bind(s.home, homeInside, true)
	tmp, err2 := s.bind(filepath.Join(s.dir, "tmp"), "/tmp", true)
	mounts, err3 := s.binds(spec.Mounts)
	r := &root{Network: spec.Network, Shared: spec.Limits.MemoryBytes, Binds: append([]bind{home, tmp}, mounts...)}
	var err4 error
	if path, err := filepath.EvalSymlinks("/etc/resolv.conf"); err == nil && spec.Network {
		var resolver bind
		resolver, err4 = s.bind(path, "/etc/resolv.conf", false)
		r.Binds = append(r.Binds, resolver)
	}
	return r, errors.Join(err1, err2, err3, err4)
}

// binds are what shows mounts.
func (s *sandbox) binds(mounts []runtime.Mount) ([]bind, error) {
	var all []bind
	for _, m := range mounts {
		if everywhere(m) {
			continue
		}
		b, err := s.bind(m.Source, inside(m), m.Writable)
		if err != nil {
			return nil, err
		}
		all = append(all, b)
	}
	return all, nil
}

func (s *sandbox) bind(source, target string, writable bool) (bind, error) {
	info, err := os.Stat(source)
	if err != nil {
		return bind{}, ErrInvalidSpec.Errorf("sandbox %s: %w", s.spec.ID, err)
	}
	return bind{
		Source: []byte(source), Target: []byte(target), Writable: writable, Folder: info.IsDir(),
		Passed: s.runtime.level == runtime.Full,
	}, nil
}

// everywhere says that every sandbox shows what the mount does.
func everywhere(m runtime.Mount) bool {
	return m.InPlace && !m.Writable && slices.ContainsFunc(systemFolders, func(dir string) bool {
		return m.Source == dir || strings.HasPrefix(m.Source, dir+"/")
	})
}

// inside is where a confined command finds a mount.
func inside(m runtime.Mount) string {
	if m.InPlace {
		return m.Source
	}
	return filepath.Join(mountsInside, m.Name)
}

// trees opens what the root binds, as the sandbox's user sees it: files of the server's user are that
// user's. Only root may do this, and only on the host's side.
func (r *root) trees(users *os.File) (fds []int, err error) {
	defer func() {
		if err != nil {
			closeAll(fds)
		}
	}()
	for _, b := range r.Binds {
		if !b.Passed {
			continue
		}
		fd, err := openTree(string(b.Source), b.Writable, int(users.Fd()))
		if err != nil {
			return fds, err
		}
		fds = append(fds, fd)
	}
	return fds, nil
}

// openTree returns a mount of path that is nowhere yet. users is the namespace whose user 0 owns what
// the server's user owns, or -1.
func openTree(path string, writable bool, users int) (int, error) {
	fd, err := unix.OpenTree(unix.AT_FDCWD, path, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE)
	if err != nil {
		return -1, fmt.Errorf("open %s for a sandbox: %w", path, err)
	}
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV}
	if !writable {
		attr.Attr_set |= unix.MOUNT_ATTR_RDONLY
	}
	if users >= 0 {
		attr.Attr_set |= unix.MOUNT_ATTR_IDMAP
		attr.Userns_fd = uint64(users)
	}
	if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, &attr); err != nil {
		unix.Close(fd) //nolint:errcheck // the first error counts
		if errors.Is(err, unix.EINVAL) && users >= 0 {
			return -1, errLacks.Errorf("level full cannot show %s: its file system does not map users", path).
				WithNext("put it on another file system, or start the server with TARN_LEVEL=userns")
		}
		return -1, fmt.Errorf("show %s to a sandbox: %w", path, err)
	}
	return fd, nil
}

func closeAll(fds []int) {
	for _, fd := range fds {
		unix.Close(fd) //nolint:errcheck // nothing was written
	}
}
