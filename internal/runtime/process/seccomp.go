//go:build linux

package process

import (
	"slices"

	"golang.org/x/sys/unix"
)

// allowed are the system calls of programs that compute: files, memory, processes, signals, time,
// sockets. Whatever is not named is refused with EPERM: mounts, namespaces, modules, keys, tracing,
// other processes' memory, bpf, io_uring, raw clocks, quotas, swapping, handles to files by number.
// Each architecture adds its own.
var allowed = []uint32{
	unix.SYS_ACCEPT, unix.SYS_ACCEPT4, unix.SYS_BIND, unix.SYS_BRK, unix.SYS_CAPGET, unix.SYS_CAPSET, unix.SYS_CHDIR,
	unix.SYS_CLOCK_GETRES, unix.SYS_CLOCK_GETTIME, unix.SYS_CLOCK_NANOSLEEP, unix.SYS_CLOSE, unix.SYS_CLOSE_RANGE, unix.SYS_CONNECT,
	unix.SYS_COPY_FILE_RANGE, unix.SYS_DUP, unix.SYS_DUP3, unix.SYS_EPOLL_CREATE1, unix.SYS_EPOLL_CTL, unix.SYS_EPOLL_PWAIT,
	unix.SYS_EPOLL_PWAIT2, unix.SYS_EVENTFD2, unix.SYS_EXECVE, unix.SYS_EXECVEAT, unix.SYS_EXIT, unix.SYS_EXIT_GROUP,
	unix.SYS_FACCESSAT, unix.SYS_FACCESSAT2, unix.SYS_FADVISE64, unix.SYS_FALLOCATE, unix.SYS_FCHDIR, unix.SYS_FCHMOD, unix.SYS_FCHMODAT,
	452 /* fchmodat2 */, unix.SYS_FCHOWN, unix.SYS_FCHOWNAT, unix.SYS_FCNTL, unix.SYS_FDATASYNC, unix.SYS_FGETXATTR, unix.SYS_FLISTXATTR,
	unix.SYS_FLOCK, unix.SYS_FREMOVEXATTR, unix.SYS_FSETXATTR, unix.SYS_FSTAT, unix.SYS_FSTATFS, unix.SYS_FSYNC, unix.SYS_FTRUNCATE,
	unix.SYS_FUTEX, 449 /* futex_waitv */, 454 /* futex_wake */, 455 /* futex_wait */, 456, /* futex_requeue */
	unix.SYS_GETCPU, unix.SYS_GETCWD, unix.SYS_GETDENTS64, unix.SYS_GETEGID, unix.SYS_GETEUID, unix.SYS_GETGID, unix.SYS_GETGROUPS,
	unix.SYS_GETITIMER, unix.SYS_GETPEERNAME, unix.SYS_GETPGID, unix.SYS_GETPID, unix.SYS_GETPPID, unix.SYS_GETPRIORITY,
	unix.SYS_GETRANDOM, unix.SYS_GETRESGID, unix.SYS_GETRESUID, unix.SYS_GETRLIMIT, unix.SYS_GET_ROBUST_LIST, unix.SYS_GETRUSAGE,
	unix.SYS_GETSID, unix.SYS_GETSOCKNAME, unix.SYS_GETSOCKOPT, unix.SYS_GETTID, unix.SYS_GETTIMEOFDAY, unix.SYS_GETUID, unix.SYS_GETXATTR,
	unix.SYS_GET_MEMPOLICY, unix.SYS_INOTIFY_ADD_WATCH, unix.SYS_INOTIFY_INIT1, unix.SYS_INOTIFY_RM_WATCH, unix.SYS_IOCTL,
	unix.SYS_IOPRIO_GET, unix.SYS_IOPRIO_SET, unix.SYS_KILL, unix.SYS_LGETXATTR, unix.SYS_LINKAT, unix.SYS_LISTEN, unix.SYS_LISTXATTR,
	unix.SYS_LLISTXATTR, unix.SYS_LREMOVEXATTR, unix.SYS_LSEEK, unix.SYS_LSETXATTR, unix.SYS_MADVISE, unix.SYS_MBIND, unix.SYS_MEMBARRIER,
	unix.SYS_MEMFD_CREATE, unix.SYS_MINCORE, unix.SYS_MKDIRAT, unix.SYS_MKNODAT, unix.SYS_MLOCK, unix.SYS_MLOCK2, unix.SYS_MLOCKALL,
	unix.SYS_MMAP, unix.SYS_MPROTECT, unix.SYS_MREMAP, unix.SYS_MSYNC, unix.SYS_MUNLOCK, unix.SYS_MUNLOCKALL, unix.SYS_MUNMAP,
	unix.SYS_NANOSLEEP, unix.SYS_NEWFSTATAT, unix.SYS_OPENAT, unix.SYS_OPENAT2, unix.SYS_PIDFD_OPEN, unix.SYS_PIDFD_SEND_SIGNAL,
	unix.SYS_PIPE2, unix.SYS_PKEY_ALLOC, unix.SYS_PKEY_FREE, unix.SYS_PKEY_MPROTECT, unix.SYS_PPOLL, unix.SYS_PRCTL, unix.SYS_PREAD64,
	unix.SYS_PREADV, unix.SYS_PREADV2, unix.SYS_PRLIMIT64, unix.SYS_PSELECT6, unix.SYS_PWRITE64, unix.SYS_PWRITEV, unix.SYS_PWRITEV2,
	unix.SYS_READ, unix.SYS_READAHEAD, unix.SYS_READLINKAT, unix.SYS_READV, unix.SYS_RECVFROM, unix.SYS_RECVMMSG, unix.SYS_RECVMSG,
	unix.SYS_REMOVEXATTR, unix.SYS_RENAMEAT, unix.SYS_RENAMEAT2, unix.SYS_RESTART_SYSCALL, unix.SYS_RSEQ, unix.SYS_RT_SIGACTION,
	unix.SYS_RT_SIGPENDING, unix.SYS_RT_SIGPROCMASK, unix.SYS_RT_SIGQUEUEINFO, unix.SYS_RT_SIGRETURN, unix.SYS_RT_SIGSUSPEND,
	unix.SYS_RT_SIGTIMEDWAIT, unix.SYS_RT_TGSIGQUEUEINFO, unix.SYS_SCHED_GETAFFINITY, unix.SYS_SCHED_GETATTR, unix.SYS_SCHED_GETPARAM,
	unix.SYS_SCHED_GET_PRIORITY_MAX, unix.SYS_SCHED_GET_PRIORITY_MIN, unix.SYS_SCHED_GETSCHEDULER, unix.SYS_SCHED_SETAFFINITY,
	unix.SYS_SCHED_SETATTR, unix.SYS_SCHED_SETPARAM, unix.SYS_SCHED_SETSCHEDULER, unix.SYS_SCHED_YIELD, unix.SYS_SENDFILE,
	unix.SYS_SENDMMSG, unix.SYS_SENDMSG, unix.SYS_SENDTO, unix.SYS_SETGID, unix.SYS_SETGROUPS, unix.SYS_SETITIMER, unix.SYS_SETPGID,
	unix.SYS_SETPRIORITY, unix.SYS_SETREGID, unix.SYS_SETRESGID, unix.SYS_SETRESUID, unix.SYS_SETREUID, unix.SYS_SETRLIMIT,
	unix.SYS_SET_MEMPOLICY, unix.SYS_SET_ROBUST_LIST, unix.SYS_SETSID, unix.SYS_SETSOCKOPT, unix.SYS_SET_TID_ADDRESS, unix.SYS_SETUID,
	unix.SYS_SETXATTR, unix.SYS_SHMAT, unix.SYS_SHMCTL, unix.SYS_SHMDT, unix.SYS_SHMGET, unix.SYS_SEMCTL, unix.SYS_SEMGET, unix.SYS_SEMOP,
	unix.SYS_SEMTIMEDOP, unix.SYS_MSGCTL, unix.SYS_MSGGET, unix.SYS_MSGRCV, unix.SYS_MSGSND, unix.SYS_SHUTDOWN, unix.SYS_SIGALTSTACK,
	unix.SYS_SIGNALFD4, unix.SYS_SOCKETPAIR, unix.SYS_SPLICE, unix.SYS_STATFS, unix.SYS_STATX, unix.SYS_SYMLINKAT, unix.SYS_SYNC,
	unix.SYS_SYNC_FILE_RANGE, unix.SYS_SYNCFS, unix.SYS_SYSINFO, unix.SYS_TEE, unix.SYS_TGKILL, unix.SYS_TIMER_CREATE, unix.SYS_TIMER_DELETE,
	unix.SYS_TIMERFD_CREATE, unix.SYS_TIMERFD_GETTIME, unix.SYS_TIMERFD_SETTIME, unix.SYS_TIMER_GETOVERRUN, unix.SYS_TIMER_GETTIME,
	unix.SYS_TIMER_SETTIME, unix.SYS_TIMES, unix.SYS_TKILL, unix.SYS_TRUNCATE, unix.SYS_UMASK, unix.SYS_UNAME, unix.SYS_UNLINKAT,
	unix.SYS_UTIMENSAT, unix.SYS_VMSPLICE, unix.SYS_WAIT4, unix.SYS_WAITID, unix.SYS_WRITE, unix.SYS_WRITEV,
}

// families of sockets that a sandbox may have: its own processes, and the network if it has one. Others
// reach the kernel (netlink, packet, alg), the hypervisor (vsock) or hardware.
var families = []uint32{unix.AF_UNIX, unix.AF_INET, unix.AF_INET6}

const (
	// newNamespace are the flags of clone that make a namespace; user namespaces most of all, inside of
	// which a process would have every capability again.
	newNamespace = unix.CLONE_NEWUSER | unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWNET | unix.CLONE_NEWIPC |
		unix.CLONE_NEWUTS | unix.CLONE_NEWCGROUP | 0x80 // CLONE_NEWTIME

	offsetOfNumber       = 0
	offsetOfArchitecture = 4
	offsetOfArguments    = 16 // 8 bytes each; the lower half comes first on all our architectures
)

func refuse(errno uint32) uint32 { return unix.SECCOMP_RET_ERRNO | errno }

// seccompFilter is the program that judges each system call. The kernel remembers for each number
// whether its answer depends on arguments, so its length costs nothing for most calls.
// A template may also enter namespaces, those that its supervisor's sandboxes pass to it, and restrict its forks.
func seccompFilter(template bool) []unix.SockFilter {
	const (
		load = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS
		eq   = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
		set  = unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K
		ret  = unix.BPF_RET | unix.BPF_K
	)
	give := func(answer uint32) unix.SockFilter { return unix.SockFilter{Code: ret, K: answer} }
	argument := func(n uint32) unix.SockFilter { return unix.SockFilter{Code: load, K: offsetOfArguments + 8*n} }
	p := []unix.SockFilter{
		{Code: load, K: offsetOfArchitecture},
		{Code: eq, K: auditArchitecture, Jt: 1},
		give(unix.SECCOMP_RET_KILL_PROCESS), // numbers of another architecture mean other calls
		{Code: load, K: offsetOfNumber},
	}
	when := func(number uint32, then ...unix.SockFilter) {
		p = append(p, unix.SockFilter{Code: eq, K: number, Jf: uint8(len(then))})
		p = append(p, then...)
	}
	// The flags of clone3 are in memory, where a filter cannot look. Libraries then fall back to clone.
	when(unix.SYS_CLONE3, give(refuse(uint32(unix.ENOSYS))))
	when(unix.SYS_CLONE, argument(0),
		unix.SockFilter{Code: set, K: newNamespace, Jt: 1}, give(unix.SECCOMP_RET_ALLOW), give(refuse(uint32(unix.EPERM))))
	family := []unix.SockFilter{argument(0)}
	for i, f := range families {
		family = append(family, unix.SockFilter{Code: eq, K: f, Jt: uint8(len(families) - i)})
	}
	when(unix.SYS_SOCKET, append(family, give(refuse(uint32(unix.EAFNOSUPPORT))), give(unix.SECCOMP_RET_ALLOW))...)
	// A terminal's input queue is typed into by TIOCSTI and TIOCLINUX.
	when(unix.SYS_IOCTL, argument(1),
		unix.SockFilter{Code: eq, K: unix.TIOCSTI, Jt: 2}, unix.SockFilter{Code: eq, K: unix.TIOCLINUX, Jt: 1},
		give(unix.SECCOMP_RET_ALLOW), give(refuse(uint32(unix.EPERM))))
	// Limits of other processes: the supervisor has the same user.
	when(unix.SYS_PRLIMIT64, argument(0),
		unix.SockFilter{Code: eq, K: 0, Jf: 1}, give(unix.SECCOMP_RET_ALLOW), give(refuse(uint32(unix.EPERM))))
	if template {
		when(unix.SYS_SETNS, give(unix.SECCOMP_RET_ALLOW))
		when(unix.SYS_LANDLOCK_CREATE_RULESET, give(unix.SECCOMP_RET_ALLOW))
		when(unix.SYS_LANDLOCK_RESTRICT_SELF, give(unix.SECCOMP_RET_ALLOW))
	}
	special := []uint32{unix.SYS_IOCTL, unix.SYS_PRLIMIT64}
	for _, number := range slices.Concat(allowed, allowedHere) {
		if !slices.Contains(special, number) {
			when(number, give(unix.SECCOMP_RET_ALLOW))
		}
	}
	return append(p, give(refuse(uint32(unix.EPERM))))
}
