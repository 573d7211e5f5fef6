// Package roomtest gives tests a small disk of their own, which they may fill.
package roomtest

import (
	"errors"
	"syscall"
	"testing"
)

// Disk mounts a disk of a size such as "8m" for the time of a test, and returns its folder. Only root mounts: for others the test is skipped.
func Disk(t *testing.T, size string) string {
	t.Helper()
	dir := t.TempDir()
	if err := syscall.Mount("tarn-test", dir, "tmpfs", 0, "size="+size); errors.Is(err, syscall.EPERM) {
		t.Skip("only root mounts a disk; CI is root")
	} else if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}
