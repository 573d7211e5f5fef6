package flow

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"

	"tarn.dev/tarn/internal/base/room/roomtest"
	"tarn.dev/tarn/internal/flow/turn"
	"tarn.dev/tarn/internal/runtime"
)

// On a disk without room one goes on at a time, and there are several again when there is room.
func TestTurnsOnFullDisk(t *testing.T) {
	t.Parallel()
	disk := roomtest.Disk(t, "8m")
	full := filepath.Join(disk, "full")
	if err := os.WriteFile(full, make([]byte, 8<<20-64<<10), 0o600); err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		h := NewHost(4, 1<<30, disk)
		claims := h.claims(runtime.Limits{}, ofSteps)
		inside := make(chan func(), 3)
		for range 3 {
			go func() {
				done, err := h.turns.Take(t.Context(), turn.Rank{}, claims...)
				if err != nil {
					t.Error(err)
				}
				inside <- done
			}()
		}
		synctest.Wait()
		if n := len(inside); n != 1 {
			t.Fatalf("%d go on", n)
		}
		if said := h.waits("x", claims); !strings.Contains(said, "the disk is nearly full") {
			t.Error(said)
		}
		if err := os.Remove(full); err != nil {
			t.Fatal(err)
		}
		(<-inside)()
		synctest.Wait()
		if n := len(inside); n != 2 {
			t.Errorf("with room %d go on", n)
		}
	})
}
