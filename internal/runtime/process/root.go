//go:build linux

package process

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// newRoot is where a confined supervisor builds its root, which is its command's too: a folder that every host has
// and that holds nothing which a sandbox might be given.
const newRoot = "/sys"

// systemFolders hold the host's programs and libraries.
var systemFolders = []string{"/usr", "/bin", "/sbin", "/lib", "/lib64", "/lib32", "/libx32"}

// settings are files of /etc that programs need and that say nothing about the host's people.
var settings = []string{
	"alternatives", "ca-certificates", "ca-certificates.conf", "crypto-policies", "ld.so.cache", "ld.so.conf", "ld.so.conf.d",
	"localtime", "mime.types", "pki", "protocols", "services", "ssl", "timezone", "fonts", "magic",
}

// ownSettings are files of /etc that are a sandbox's own.
var ownSettings = map[string]string{
	"passwd":        "root:x:0:0:sandbox:/sandbox:/bin/sh\n",
	"group":         "root:x:0:\n",
	"hosts":         "127.0.0.1 localhost\n::1 localhost\n",
	"hostname":      "sandbox\n",
	"nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
}

// maskedFiles and maskedFolders of /proc tell of the host, or change it.
var (
	maskedFiles = []string{
		"kcore", "keys", "key-users", "kmsg", "kallsyms", "kpagecount", "kpageflags", "kpagecgroup", "latency_stats", "sched_debug",
		"slabinfo", "sysrq-trigger", "timer_list", "timer_stats", "vmallocinfo", "config.gz", "cmdline", "partitions", "swaps",
	}
	maskedFolders = []string{"acpi", "asound", "bus", "driver", "dynamic_debug", "fs", "irq", "pressure", "scsi", "sysvipc", "tty"}
)

// prepareRoot builds what every job's root has and makes it the only one, so that it is there when a job comes: nothing
// of the host that was not shown can be reached afterwards, by no path and no descriptor, but by the thread that it
// leaves outside. It runs as the first process of its namespaces.
func prepareRoot() (*outside, error) {
	var out *outside
	steps := []struct {
		what string
		do   func() error
	}{
		{"keep mounts to itself", func() error { return unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "") }},
		{"leave a thread outside", func() (err error) {
			out, err = stayOutside()
			return err
		}},
		{"name the host", func() error { return unix.Sethostname([]byte("sandbox")) }},
		{"mount the root", func() error {
			return unix.Mount("tarn", newRoot, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=755,size=4m")
		}},
		{"show the host's programs", prepareSystem},
		{"make /etc", prepareSettings},
		{"make /dev", prepareDevices},
		{"mount /proc", prepareProc},
		{"change the root", changeRoot},
	}
	for _, s := range steps {
		if err := s.do(); err != nil {
			return nil, fmt.Errorf("%s: %w", s.what, err)
		}
	}
	return out, nil
}

func changeRoot() error {
	if err := os.Chdir(newRoot); err != nil {
		return err
	}
	if err := unix.PivotRoot(".", "."); err != nil {
		return err
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("leave the host's: %w", err)
	}
	return os.Chdir("/")
}

func prepareSystem() error {
	for _, dir := range systemFolders {
		info, err := os.Lstat(dir)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			continue
		case err != nil:
			return err
		case info.Mode()&os.ModeSymlink != 0:
			to, err := os.Readlink(dir)
			if err == nil {
				err = os.Symlink(to, newRoot+dir)
			}
			if err != nil {
				return err
			}
		default:
			if err := show(dir, dir); err != nil {
				return err
			}
		}
	}
	return nil
}

func prepareSettings() error {
	if err := os.Mkdir(newRoot+"/etc", 0o755); err != nil {
		return err
	}
	for _, name := range settings {
		path, err := filepath.EvalSymlinks("/etc/" + name) // some point out of /etc
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil {
			err = show(path, "/etc/"+name)
		}
		if err != nil {
			return err
		}
	}
	for name, text := range ownSettings {
		if err := os.WriteFile(newRoot+"/etc/"+name, []byte(text), 0o644); err != nil { //nolint:gosec // for everybody
			return err
		}
	}
	return nil
}

func prepareDevices() error {
	if err := os.Mkdir(newRoot+"/dev", 0o755); err != nil {
		return err
	}
	for _, name := range []string{"null", "zero", "full", "random", "urandom"} {
		if err := touch(newRoot + "/dev/" + name); err != nil {
			return err
		}
		if err := unix.Mount("/dev/"+name, newRoot+"/dev/"+name, "", unix.MS_BIND, ""); err != nil {
			return err
		}
	}
	for name, to := range map[string]string{"fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2"} {
		if err := os.Symlink(to, newRoot+"/dev/"+name); err != nil {
			return err
		}
	}
	return os.Mkdir(newRoot+"/dev/shm", 0o1777)
}

// prepareProc shows the sandbox's own processes only, of those only what is the reader's own, and nothing
// of the host's kernel.
func prepareProc() error {
	proc := newRoot + "/proc"
	if err := os.Mkdir(proc, 0o555); err != nil {
		return err
	}
	if err := unix.Mount("proc", proc, "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "hidepid=2"); err != nil {
		return err
	}
	for _, name := range maskedFiles {
		if err := unix.Mount("/dev/null", proc+"/"+name, "", unix.MS_BIND, ""); err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	for _, name := range maskedFolders {
		err := unix.Mount("tarn", proc+"/"+name, "tmpfs", unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "size=4k,mode=555")
		if err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	if err := unix.Mount(proc+"/sys", proc+"/sys", "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return err
	}
	return readOnly(proc+"/sys", unix.AT_RECURSIVE)
}

// show binds a file or folder of the host into the new root, read-only.
func show(source, target string) error {
	info, err := os.Stat(source)
	if err != nil {
		return err
	}
	fd, err := openTree(source, false, -1)
	if err != nil {
		return err
	}
	defer unix.Close(fd) //nolint:errcheck // the mount is where it belongs, or the error is known
	return attach(fd, newRoot+target, info.IsDir())
}

// attach puts an open mount where its file or folder is made.
func attach(fd int, at string, folder bool) error {
	if err := makePlace(at, folder); err != nil {
		return err
	}
	return moveMount(fd, at)
}

// attachLate is attach in a root that is read-only for everybody else.
func (w *watch) attachLate(fd int, at string, folder bool) error {
	err := makePlace(at, folder)
	if errors.Is(err, unix.EROFS) {
		err = makePlace(fmt.Sprintf("/proc/self/fd/%d%s", w.places, at), folder)
	}
	if err != nil {
		return err
	}
	return moveMount(fd, at)
}

func makePlace(at string, folder bool) error {
	place := touch
	if folder {
		place = func(path string) error { return os.MkdirAll(path, 0o755) }
	}
	return errors.Join(os.MkdirAll(filepath.Dir(at), 0o755), place(at))
}

func moveMount(fd int, at string) error {
	if err := unix.MoveMount(fd, "", unix.AT_FDCWD, at, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("mount %s: %w", at, err)
	}
	return nil
}

func touch(path string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDONLY, 0o444)
	if err != nil {
		return err
	}
	return f.Close()
}

func readOnly(path string, flags uint) error {
	return unix.MountSetattr(unix.AT_FDCWD, path, flags, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY})
}

// enter completes the root with what the job binds, and makes it read-only. passed are the mounts that came with
// the job; others are opened outside.
func (r *root) enter(out *outside, passed []int) error {
	if err := r.bind(out, passed, attach); err != nil {
		return err
	}
	size := ""
	if r.Shared > 0 {
		size = fmt.Sprintf(",size=%d", r.Shared)
	}
	if err := unix.Mount("tarn", "/dev/shm", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=1777"+size); err != nil {
		return fmt.Errorf("mount /dev/shm: %w", err)
	}
	if err := readOnly("/", 0); err != nil {
		return fmt.Errorf("make the root read-only: %w", err)
	}
	return nil
}

// bind attaches what the root binds.
func (r *root) bind(out *outside, passed []int, attach func(fd int, at string, folder bool) error) error {
	defer closeAll(passed)
	for _, b := range r.Binds {
		var fd int
		if b.Passed {
			if len(passed) == 0 {
				return errors.New("a mount did not come with the job")
			}
			fd, passed = passed[0], passed[1:]
		} else {
			err := out.do(func() (err error) {
				fd, err = openTree(string(b.Source), b.Writable, -1)
				return err
			})
			if err != nil {
				return err
			}
		}
		err := attach(fd, string(b.Target), b.Folder)
		unix.Close(fd) //nolint:errcheck // a mount lives without it
		if err != nil {
			return err
		}
	}
	return nil
}
