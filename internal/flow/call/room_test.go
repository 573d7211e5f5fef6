package call

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// TestRoom fills a small disk: the last twentieth of it stays free.
func TestRoom(t *testing.T) {
	t.Parallel()
	disk := t.TempDir()
	if err := syscall.Mount("tarn-test", disk, "tmpfs", 0, "size=4m"); errors.Is(err, syscall.EPERM) {
		t.Skip("only root mounts a disk")
	} else if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(disk, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	f, err := os.Create(filepath.Join(disk, "x"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	filled := 0
	for Room(disk) == nil {
		n, err := f.Write(make([]byte, 64<<10))
		if err != nil {
			t.Fatal("the disk is full:", err)
		}
		filled += n
	}
	if !errors.Is(Room(disk), syscall.ENOSPC) || filled < 3<<20 {
		t.Errorf("after %d bytes: %v", filled, Room(disk))
	}
	c := New(false, NewBudget(0), disk)
	if _, err := c.Put(t.Context(), 0, []Value{number(0)}, true); !errors.Is(err, ErrStore) {
		t.Error("an input on a full disk:", err)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
}
