package call

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"tarn.dev/tarn/internal/base/room/roomtest"
)

// TestRoom fills a small disk: the last twentieth of it stays free.
func TestRoom(t *testing.T) {
	t.Parallel()
	disk := roomtest.Disk(t, "4m")
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
