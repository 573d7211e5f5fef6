//go:build linux

package process

import (
	"fmt"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// scopes are what Landlock keeps a sandbox from, beside what namespaces do: abstract sockets of others, which a sandbox on
// the host's network would reach. 0 where the kernel has no Landlock, or one that is too old.
var scopes = sync.OnceValue(func() uint64 {
	version, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	if errno != 0 || version < 6 {
		return 0
	}
	return unix.LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET
})

// scope restricts the calling thread, and so what it forks. It must have refused new privileges.
func scope() error {
	attributes := struct{ files, network, scoped uint64 }{scoped: scopes()}
	if attributes.scoped == 0 {
		return nil
	}
	fd, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, uintptr(unsafe.Pointer(&attributes)), unsafe.Sizeof(attributes), 0)
	if errno != 0 {
		return fmt.Errorf("make a Landlock ruleset: %w", errno)
	}
	defer unix.Close(int(fd)) //nolint:errcheck // it has no contents
	if _, _, errno := unix.Syscall(unix.SYS_LANDLOCK_RESTRICT_SELF, fd, 0, 0); errno != 0 {
		return fmt.Errorf("restrict by Landlock: %w", errno)
	}
	return nil
}

// Landlock reports whether it adds to the levels with namespaces here.
func Landlock() bool { return scopes() != 0 }
