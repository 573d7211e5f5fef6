package fusefs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"tarn.dev/tarn/internal/base/service"
)

// kind is the type of our mounts in /proc/self/mountinfo, behind "fuse.".
const kind = "tarn"

// New is a mount of a tree on a folder, which must be there and empty. It ends when it is stopped, and when somebody
// unmounts it.
func New(dir string, t Tree, o Options) service.Service {
	return service.New("mount "+dir, func(ctx context.Context, ready func()) error {
		dir, err := filepath.Abs(dir)
		if err == nil {
			dir, err = filepath.EvalSymlinks(dir) // as the kernel calls it
		}
		if err != nil {
			return ErrFolder.Errorf("%w", err)
		}
		if err := usable(); err != nil {
			return err
		}
		inner, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
		defer cancel(nil)
		nodes := newFiles(inner, t, o, fuse.Owner{Uid: uint32(os.Geteuid()), Gid: uint32(os.Getegid())})
		server, err := fuse.NewServer(nodes, dir, mountOptions(o))
		if err != nil {
			return ErrUnavailable.Errorf("%s", strings.TrimSpace(err.Error())).WithNext("tarn file get, for a copy")
		}
		// The library leaves the descriptor open for children, which would keep the connection after our end.
		if err := unix.CloseRange(3, ^uint(0), unix.CLOSE_RANGE_CLOEXEC); err != nil && !errors.Is(err, unix.ENOSYS) {
			return errors.Join(ErrUnavailable.Errorf("close descriptors: %w", err), detach(dir, true))
		}
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			server.Serve()
		}()
		if err := server.WaitMount(); err != nil {
			return errors.Join(ErrUnavailable.Errorf("%w", err), detach(dir, true))
		}
		release, err := guard(dir)
		if err != nil {
			return errors.Join(err, detach(dir, true))
		}
		ready()
		select {
		case <-ended: // unmounted from outside
		case <-ctx.Done():
			err = unmount(dir, o, ended)
		}
		cancel(service.ErrStopping)
		nodes.content.fetches.Wait()
		return errors.Join(err, release())
	})
}

func root() bool { return os.Geteuid() == 0 }

func mountOptions(o Options) *fuse.MountOptions {
	options := &fuse.MountOptions{
		Name: kind, FsName: o.Source, MaxWrite: blockSize, MaxBackground: 32, DisableXAttrs: true, EnableSymlinkCaching: true,
		ExplicitDataCacheControl: true, Options: []string{"default_permissions"}, Logger: log.New(reporter{o}, "", 0),
	}
	if root() {
		options.DirectMountStrict = true
		options.DirectMountFlags = unix.MS_RDONLY | unix.MS_NOSUID | unix.MS_NODEV
	} else {
		options.Options = append(options.Options, "ro", "nosuid", "nodev")
	}
	return options
}

// reporter is where the library says what it cannot return.
type reporter struct{ o Options }

func (r reporter) Write(p []byte) (int, error) {
	r.o.Report("", errors.New(strings.TrimSpace(string(p))))
	return len(p), nil
}

// usable says what a host or user lacks.
func usable() error {
	if _, err := os.Stat("/dev/fuse"); err != nil {
		return ErrUnavailable.Errorf("this host has no /dev/fuse").
			WithNext("modprobe fuse, as root", "in a container: start it with --device /dev/fuse --cap-add SYS_ADMIN", "tarn file get, for a copy")
	}
	if root() {
		return nil
	}
	if _, err := fusermount(); err != nil {
		return ErrUnavailable.Errorf("users other than root mount with fusermount3, which is not installed").
			WithNext("sudo apt-get install fuse3", "tarn file get, for a copy")
	}
	f, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0) // as fusermount will, in the name of this user
	if err != nil {
		return ErrUnavailable.Errorf("this user cannot use FUSE: %w", err).WithNext("sudo chmod 666 /dev/fuse", "tarn file get, for a copy")
	}
	return f.Close()
}

func fusermount() (string, error) {
	name, err := exec.LookPath("fusermount3")
	if err != nil {
		name, err = exec.LookPath("fusermount")
	}
	return name, err
}

// unmount takes a mount away, also from programs that still use it: they get errors from then on.
func unmount(dir string, o Options, ended <-chan struct{}) error {
	err := detach(dir, false)
	if errors.Is(err, unix.EBUSY) {
		o.Report("", ErrBusy.Errorf("%s was still in use, and is taken away: programs that go on reading it get errors", dir))
		err = detach(dir, true)
	}
	if err != nil {
		return ErrFolder.Errorf("unmount %s: %w", dir, err).WithNext("umount --lazy " + dir)
	}
	if root() {
		<-ended // others cannot end what is in use; it ends with this process
	}
	return nil
}

// detach unmounts a folder; with force also one that is in use.
func detach(dir string, force bool) error {
	if root() {
		// MNT_FORCE ends the connection: nobody waits on, and copies of the mount in other namespaces do not keep it.
		flags := unix.UMOUNT_NOFOLLOW | unix.MNT_FORCE
		if force {
			flags |= unix.MNT_DETACH
		}
		return unix.Unmount(dir, flags)
	}
	name, err := fusermount()
	if err != nil {
		return err
	}
	args := []string{"-u", dir}
	if force {
		args = []string{"-u", "-z", dir}
	}
	out, err := exec.Command(name, args...).CombinedOutput()
	if strings.Contains(string(out), "busy") {
		return unix.EBUSY
	}
	if err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}

// Prepare makes a folder ready to be mounted on: it makes one that is not there, and takes away a mount whose process
// was killed, which it reports. Everything else that is in the way is an error.
func Prepare(dir string) (dead bool, err error) {
	dir, err = filepath.Abs(dir)
	if err != nil {
		return false, ErrFolder.Errorf("%w", err)
	}
	if parent, err := filepath.EvalSymlinks(filepath.Dir(dir)); err == nil {
		dir = filepath.Join(parent, filepath.Base(dir))
	}
	d, err := os.Open(dir) // stat may be answered by what the kernel remembers
	if errors.Is(err, syscall.ENOTCONN) {
		if _, on, err := mountedOn(dir); err != nil || on != "fuse."+kind {
			return false, errors.Join(ErrFolder.Errorf("%s is a mount (%s) whose process is gone", dir, on).WithNext("umount --lazy "+dir), err)
		}
		if err := detach(dir, true); err != nil {
			return false, ErrFolder.Errorf("%s is a mount whose process is gone, and cannot be unmounted: %w", dir, err)
		}
		dead = true
	} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, ErrFolder.Errorf("%w", err)
	} else if err == nil {
		_ = d.Close() // only opened
	}
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return dead, ErrFolder.Errorf("%w", err)
	}
	if dir, err = filepath.EvalSymlinks(dir); err != nil {
		return dead, ErrFolder.Errorf("%w", err)
	}
	_, on, err := mountedOn(dir)
	if err != nil {
		return dead, err
	}
	if on != "" {
		return dead, ErrFolder.Errorf("%s is a mount already (%s)", dir, on).WithNext("umount "+dir, "mount on another folder")
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return dead, ErrFolder.Errorf("%w", err)
	}
	if len(entries) > 0 {
		return dead, ErrFolder.Errorf("%s is not empty: a mount would hide what is in it", dir).WithNext("mount on another folder; one that is not there is made")
	}
	return dead, nil
}

// mountinfo escapes these characters of names.
var unescape = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)

// mountedOn returns the id and the type of what is mounted on a folder, "" if nothing is.
func mountedOn(dir string) (id, kind string, err error) {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return "", "", ErrUnavailable.Errorf("%w", err)
	}
	for line := range strings.Lines(string(mounts)) {
		left, right, _ := strings.Cut(line, " - ")
		fields, of := strings.Fields(left), strings.Fields(right)
		if len(fields) > 4 && len(of) > 0 && unescape.Replace(fields[4]) == dir {
			id, kind = fields[0], of[0] // the last one is on top
		}
	}
	return id, kind, nil
}
