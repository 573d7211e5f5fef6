//go:build linux

package process_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"tarn.dev/tarn/internal/runtime"
)

const attackRole = "test-attack"

// attack is something that a hostile program tries. It must fail with one of the errors given, in words; nil
// means that the host or the supervisor was reached.
type attack struct {
	try  func(a args) error
	want []error
}

// args name things on the host that an attack aims at.
type args struct{ secret, other, abstract, port, pid string }

var (
	noFile  = []error{unix.ENOENT, unix.ENOTDIR}
	noRight = []error{unix.EPERM, unix.EACCES}
	noWrite = []error{unix.EROFS, unix.EACCES, unix.EPERM}
)

func raw(number uintptr, a ...uintptr) error {
	var p [6]uintptr
	copy(p[:], a)
	if _, _, errno := unix.RawSyscall6(number, p[0], p[1], p[2], p[3], p[4], p[5]); errno != 0 {
		return errno
	}
	return nil
}

func read(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.Read(make([]byte, 1))
	return err
}

func write(path string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	return f.Close()
}

func dial(network, address string) error {
	c, err := net.DialTimeout(network, address, time.Second)
	if err != nil {
		return err
	}
	return c.Close()
}

func socket(family, kind, protocol int) error {
	fd, err := unix.Socket(family, kind, protocol)
	if err != nil {
		return err
	}
	return unix.Close(fd)
}

func text(s string) uintptr { return uintptr(unsafe.Pointer(unsafe.StringData(s + "\x00"))) }

// seen is the error of an attack that looks for something and finds nothing.
var errHidden = errors.New("nothing was found")

func hidden(found bool) error {
	if found {
		return nil
	}
	return errHidden
}

var attacks = map[string]attack{
	// Files of the host.
	"read_secret":         {func(a args) error { return read(a.secret) }, noFile},
	"read_other_sandbox":  {func(a args) error { return read(a.other) }, noFile},
	"read_shadow":         {func(args) error { return read("/etc/shadow") }, noFile},
	"read_root_home":      {func(args) error { return read("/" + "root/.bashrc") }, noFile},
	"read_var":            {func(args) error { _, err := os.ReadDir("/var"); return err }, noFile},
	"read_sys":            {func(args) error { _, err := os.ReadDir("/sys"); return err }, noFile},
	"read_through_dots":   {func(a args) error { return read("/sandbox/../../../.." + a.secret) }, noFile},
	"read_through_root":   {func(a args) error { return read("/proc/self/root" + a.secret) }, noFile},
	"read_through_parent": {func(a args) error { return read("/proc/1/root" + a.secret) }, slices.Concat(noFile, noRight)},
	"read_through_cwd":    {func(a args) error { return read("/proc/1/cwd" + a.secret) }, slices.Concat(noFile, noRight)},
	"follow_link":         {func(a args) error { return errors.Join(os.Symlink(a.secret, "link"), read("link")) }, noFile},
	"handle_by_number":    {func(args) error { return raw(unix.SYS_OPEN_BY_HANDLE_AT, 0, 0, 0) }, noRight},
	"write_usr":           {func(args) error { return write("/usr/tarn-was-here") }, noWrite},
	"write_root":          {func(args) error { return write("/tarn-was-here") }, noWrite},
	"write_etc":           {func(args) error { return write("/etc/passwd") }, noWrite},
	"write_mount":         {func(args) error { return write("/mnt/given/new") }, noWrite},
	"remove_usr":          {func(args) error { return os.Remove("/usr/bin/env") }, noWrite},
	// Devices.
	"make_device":  {func(args) error { return device("/sandbox/disk", 254, 0) }, noRight},
	"make_device2": {func(args) error { return device("/tmp/mem", 1, 1) }, noRight},
	"read_disk":    {func(args) error { return read("/dev/vda") }, noFile},
	"read_kmsg":    {func(args) error { return read("/dev/kmsg") }, noFile},
	"open_fuse":    {func(args) error { return read("/dev/fuse") }, noFile},
	// Processes.
	"see_host":         {func(args) error { found, _ := filepath.Glob("/proc/[0-9]*/exe"); return hidden(len(found) > 4) }, []error{errHidden}},
	"signal_host":      {func(a args) error { return kill(a.pid) }, []error{unix.ESRCH}},
	"kill_supervisor":  {killSupervisor, []error{errHidden}},
	"supervisor_mem":   {func(args) error { return write("/proc/1/mem") }, slices.Concat(noFile, noRight)},
	"supervisor_env":   {func(args) error { return read("/proc/1/environ") }, slices.Concat(noFile, noRight)},
	"supervisor_files": {func(args) error { _, err := os.Readlink("/proc/1/fd/3"); return err }, slices.Concat(noFile, noRight)},
	"supervisor_task":  {supervisorTasks, []error{errHidden}},
	"ptrace":           {func(args) error { return raw(unix.SYS_PTRACE, unix.PTRACE_ATTACH, 1) }, noRight},
	"read_memory":      {func(args) error { return raw(unix.SYS_PROCESS_VM_READV, 1) }, noRight},
	"limit_supervisor": {func(args) error { return raw(unix.SYS_PRLIMIT64, 1, unix.RLIMIT_NOFILE) }, noRight},
	"take_descriptor":  {func(args) error { return raw(unix.SYS_PIDFD_GETFD, 3, 3) }, noRight},
	"be_tracee":        {func(args) error { return raw(unix.SYS_PTRACE, unix.PTRACE_TRACEME) }, noRight},
	// Namespaces, mounts, capabilities.
	"new_user_namespace":  {func(args) error { return raw(unix.SYS_UNSHARE, unix.CLONE_NEWUSER) }, noRight},
	"new_mount_namespace": {func(args) error { return raw(unix.SYS_UNSHARE, unix.CLONE_NEWNS) }, noRight},
	"clone_namespace":     {func(args) error { return raw(unix.SYS_CLONE, unix.CLONE_NEWUSER|uintptr(unix.SIGCHLD)) }, noRight},
	"clone3":              {func(args) error { return raw(unix.SYS_CLONE3, 0, 0) }, []error{unix.ENOSYS}},
	"enter_namespace":     {func(args) error { return raw(unix.SYS_SETNS, 0, 0) }, noRight},
	"enter_others":        {enterOthers, []error{errHidden}},
	"mount":               {func(args) error { return unix.Mount("x", "/tmp", "tmpfs", 0, "") }, noRight},
	"remount_usr":         {func(args) error { return unix.Mount("", "/usr", "", unix.MS_REMOUNT|unix.MS_BIND, "") }, noRight},
	"unmount_mask":        {func(args) error { return unix.Unmount("/proc/keys", unix.MNT_DETACH) }, noRight},
	"new_mount":           {func(args) error { return raw(unix.SYS_FSOPEN, text("proc"), 0) }, noRight},
	"open_tree":           {func(args) error { return raw(unix.SYS_OPEN_TREE, uintptr(0), text("/"), unix.OPEN_TREE_CLONE) }, noRight},
	"pivot_root":          {func(args) error { return unix.PivotRoot(".", ".") }, noRight},
	"chroot":              {func(args) error { return unix.Chroot("/tmp") }, noRight},
	"become_other":        {func(args) error { return raw(unix.SYS_SETUID, 1234) }, slices.Concat(noRight, []error{unix.EINVAL})},
	"gain_capabilities":   {gainCapabilities, noRight},
	"setuid_program":      {setuidProgram, []error{errHidden}},
	// The kernel.
	"load_module":     {func(args) error { return raw(unix.SYS_INIT_MODULE, 0, 0, text("")) }, noRight},
	"bpf":             {func(args) error { return raw(unix.SYS_BPF, 0, 0, 0) }, noRight},
	"perf":            {func(args) error { return raw(unix.SYS_PERF_EVENT_OPEN, 0) }, noRight},
	"userfaultfd":     {func(args) error { return raw(unix.SYS_USERFAULTFD, 0) }, noRight},
	"io_uring":        {func(args) error { return raw(unix.SYS_IO_URING_SETUP, 1, 0) }, noRight},
	"keyring":         {func(args) error { return raw(unix.SYS_KEYCTL, 0, 0) }, noRight},
	"kexec":           {func(args) error { return raw(unix.SYS_KEXEC_LOAD, 0, 0, 0, 0) }, noRight},
	"reboot":          {func(args) error { return raw(unix.SYS_REBOOT, 0, 0, 0) }, noRight},
	"set_clock":       {func(args) error { return raw(unix.SYS_CLOCK_SETTIME, 0, 0) }, noRight},
	"set_hostname":    {func(args) error { return raw(unix.SYS_SETHOSTNAME, text("x"), 1) }, noRight},
	"kernel_log":      {func(args) error { return raw(unix.SYS_SYSLOG, 3, 0, 0) }, noRight},
	"kernel_memory":   {func(args) error { return hidden(read("/proc/kcore") == nil) }, []error{errHidden}},
	"kernel_symbols":  {func(args) error { return hidden(read("/proc/kallsyms") == nil) }, []error{errHidden}},
	"sysrq":           {func(args) error { return hidden(sysrq()) }, []error{errHidden}},
	"sysctl":          {func(args) error { return write("/proc/sys/kernel/core_pattern") }, noWrite},
	"sysctl_network":  {func(args) error { return write("/proc/sys/net/ipv4/ip_forward") }, noWrite},
	"other_numbering": {func(args) error { return raw(0x40000000+unix.SYS_GETPID, 0) }, slices.Concat(noRight, []error{unix.ENOSYS})},
	"terminal_input":  {func(args) error { return raw(unix.SYS_IOCTL, 0, unix.TIOCSTI, text("x")) }, noRight},
	"raise_priority":  {func(args) error { return unix.Setpriority(unix.PRIO_PROCESS, 0, -10) }, noRight},
	"raise_limit":     {func(args) error { return raiseLimit() }, noRight},
	// The network, which is off.
	"internet":        {func(args) error { return dial("udp4", "192.0.2.1:9") }, []error{unix.ENETUNREACH}},
	"host_loopback":   {func(a args) error { return dial("tcp", "127.0.0.1:"+a.port) }, []error{unix.ECONNREFUSED}},
	"host_abstract":   {func(a args) error { return dial("unix", a.abstract) }, []error{unix.ECONNREFUSED}},
	"host_socket":     {func(a args) error { return dial("unix", a.secret+".sock") }, noFile},
	"packet_socket":   {func(args) error { return socket(unix.AF_PACKET, unix.SOCK_RAW, 0) }, []error{unix.EAFNOSUPPORT}},
	"raw_socket":      {func(args) error { return socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP) }, noRight},
	"netlink":         {func(args) error { return socket(unix.AF_NETLINK, unix.SOCK_RAW, 0) }, []error{unix.EAFNOSUPPORT}},
	"hypervisor":      {func(args) error { return socket(unix.AF_VSOCK, unix.SOCK_STREAM, 0) }, []error{unix.EAFNOSUPPORT}},
	"kernel_crypto":   {func(args) error { return socket(unix.AF_ALG, unix.SOCK_SEQPACKET, 0) }, []error{unix.EAFNOSUPPORT}},
	"other_segments":  {func(args) error { return hidden(read("/proc/sysvipc/shm") == nil) }, []error{errHidden}},
	"inherited_files": {inheritedFiles, []error{errHidden}},
	"host_variables":  {func(args) error { return hidden(len(os.Environ()) > 0) }, []error{errHidden}},
}

// enterOthers tries every namespace in sight that is not its own.
func enterOthers(args) error {
	all, _ := filepath.Glob("/proc/[0-9]*/ns/*")
	for _, path := range all {
		own, err := os.Stat("/proc/self/ns/" + filepath.Base(path))
		if err != nil {
			continue
		}
		f, err := os.Open(path)
		if err != nil {
			continue
		}
		info, err := f.Stat()
		if err == nil && !os.SameFile(own, info) && raw(unix.SYS_SETNS, f.Fd(), 0) == nil {
			return f.Close()
		}
		f.Close()
	}
	return errHidden
}

func device(path string, major, minor uint32) error {
	if err := unix.Mknod(path, unix.S_IFBLK|0o600, int(unix.Mkdev(major, minor))); err != nil {
		return err
	}
	return read(path)
}

func kill(pid string) error {
	var n int
	if _, err := fmt.Sscan(pid, &n); err != nil {
		return nil
	}
	return unix.Kill(n, 0)
}

// killSupervisor would not be there to answer if it had worked: the supervisor takes everybody along.
func killSupervisor(args) error {
	for s := syscall.Signal(1); s < 32; s++ {
		if s != unix.SIGCONT {
			unix.Kill(1, s) //nolint:errcheck // it has no effect
		}
	}
	return hidden(exec.Command("/bin/true").Run() != nil) // it lives to reap one more
}

func supervisorTasks(args) error {
	tasks, _ := filepath.Glob("/proc/1/task/*/mem")
	for _, t := range tasks {
		if f, err := os.OpenFile(t, os.O_RDWR, 0); err == nil {
			return f.Close()
		}
	}
	return errHidden
}

func gainCapabilities(args) error {
	all := [2]unix.CapUserData{{Effective: 1 << 21, Permitted: 1 << 21}}
	return unix.Capset(&unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, &all[0])
}

// setuidProgram looks whether a program of another user gives its rights away.
func setuidProgram(args) error {
	out, err := exec.Command("/bin/sh", "-c", "grep -h '^CapEff' /proc/self/status; for p in su mount passwd newgrp; do $p --version >/dev/null 2>&1; done").Output()
	if err != nil && len(out) == 0 {
		return err
	}
	return hidden(!bytes.Contains(out, []byte("0000000000000000")))
}

func sysrq() bool {
	f, err := os.OpenFile("/proc/sysrq-trigger", os.O_WRONLY, 0)
	if err != nil {
		return false
	}
	defer f.Close()
	info, err := f.Stat()
	return err != nil || info.Sys().(*syscall.Stat_t).Rdev != unix.Mkdev(1, 3) // a mask is /dev/null
}

func raiseLimit() error {
	var l unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &l); err != nil {
		return err
	}
	l.Max++
	return unix.Setrlimit(unix.RLIMIT_NOFILE, &l)
}

func inheritedFiles(args) error {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return err
	}
	for _, e := range entries {
		to, err := os.Readlink("/proc/self/fd/" + e.Name())
		if err == nil && !strings.HasPrefix(to, "pipe:") && !strings.HasPrefix(to, "anon_inode:") && to != "/dev/null" && !strings.HasPrefix(to, "/proc/") {
			return nil
		}
	}
	return errHidden
}

// attackMain tries everything and prints what worked. The last line is how much it tried.
func attackMain(argv []string) int {
	a := args{secret: argv[0], other: argv[1], abstract: argv[2], port: argv[3], pid: argv[4]}
	for name, at := range attacks {
		err := at.try(a)
		switch {
		case err == nil:
			fmt.Println(name, "worked")
		case !slices.ContainsFunc(at.want, func(want error) bool { return errors.Is(err, want) }):
			fmt.Println(name, "was refused in another way than expected:", err)
		}
	}
	fmt.Println(len(attacks))
	return 0
}

// TestNobodyEscapes runs what hostile programs try, at the levels that promise to hold them. What they try is
// harmless should it work.
func TestNobodyEscapes(t *testing.T) {
	t.Parallel()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	secret := filepath.Join(dir, "secret")
	if err := os.WriteFile(secret, []byte("secret"), 0o644); err != nil { //nolint:gosec // the host's rights must not be what keeps it
		t.Fatal(err)
	}
	abstract := "@tarn-" + filepath.Base(filepath.Dir(dir))
	var port string
	for network, address := range map[string]string{"unix": abstract, "tcp": "127.0.0.1:0"} {
		l, err := net.Listen(network, address)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		if network == "tcp" {
			_, port, _ = net.SplitHostPort(l.Addr().String())
		}
	}
	for _, level := range confinedLevels {
		t.Run(string(level), func(t *testing.T) {
			t.Parallel()
			need(t, level)
			rt := open(t, level)
			other, err := rt.Create(t.Context(), runtime.Spec{ID: "other"})
			if err != nil {
				t.Fatal(err)
			}
			theirs := filepath.Join(other.HostHome(), "secret")
			if err := os.WriteFile(theirs, []byte("secret"), 0o600); err != nil {
				t.Fatal(err)
			}
			attack := []string{"/mnt/self", attackRole, secret, theirs, abstract, port, fmt.Sprint(os.Getpid())}
			mounts := []runtime.Mount{{Name: "self", Source: self}, {Name: "given", Source: dir}}
			want := fmt.Sprintln(len(attacks))
			try := func(t *testing.T, template *runtime.Template) {
				t.Parallel()
				sb, err := rt.Create(t.Context(), runtime.Spec{ID: t.Name(), Mounts: mounts, Template: template})
				if err != nil {
					t.Fatal(err)
				}
				defer sb.Close()
				var out bytes.Buffer
				exit, err := sb.Run(t.Context(), runtime.Command{Argv: attack, Stdout: &out, Stderr: &out})
				if err != nil || !exit.OK() || out.String() != want {
					t.Errorf("%+v %v:\n%s", exit, err, out.String())
				}
			}
			t.Run("command", func(t *testing.T) { try(t, nil) })
			t.Run("fork", func(t *testing.T) {
				try(t, pythonTemplate(t))
				if stats := rt.Templates(); stats.Unforked > 0 {
					t.Error("it was no fork")
				}
			})
			t.Run("package", func(t *testing.T) { attackFromPackage(t, rt, mounts, attack, want) })
		})
	}
}

// attackFromPackage attacks from the template itself: a package does it when it is imported.
func attackFromPackage(t *testing.T, rt runtime.Runtime, mounts []runtime.Mount, attack []string, want string) {
	t.Parallel()
	packages, result := t.TempDir(), t.TempDir()
	argv, err := json.Marshal(attack)
	if err != nil {
		t.Fatal(err)
	}
	text := fmt.Sprintf("import subprocess\nout = subprocess.run(%s, stdout=-1, stderr=-2, env={}).stdout\nopen('/mnt/result/out', 'wb').write(out)\n", argv)
	if err := os.WriteFile(filepath.Join(packages, "hostile.py"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	template := pythonTemplate(t, "hostile")
	template.Env["PYTHONPATH"] += ":/mnt/packages"
	template.Mounts = append(append(template.Mounts, mounts...), runtime.Mount{Name: "packages", Source: packages},
		runtime.Mount{Name: "result", Source: result, Writable: true})
	sb, err := rt.Create(t.Context(), runtime.Spec{ID: t.Name(), Template: template})
	if err != nil {
		t.Fatal(err)
	}
	defer sb.Close()
	if exit, err := sb.Run(t.Context(), runtime.Command{Argv: []string{"/bin/true"}}); err != nil || !exit.OK() {
		t.Fatal(exit, err)
	}
	out, err := os.ReadFile(filepath.Join(result, "out"))
	// It may enter namespaces, of which it sees none.
	want = "enter_namespace was refused in another way than expected: invalid argument\n" + want
	if err != nil || string(out) != want {
		t.Errorf("%v:\n%s", err, out)
	}
}
