// Package room says how much of a host's memory and disk is for what runs on it.
package room

import (
	"fmt"
	"math"

	"golang.org/x/sys/unix"
)

// What is written for others leaves 1 GiB free, or a twentieth of a small disk: a store that cannot write serves nobody.
const (
	spareBytes = 1 << 30
	spareShare = 20
)

// Room is what a disk has left, in bytes.
type Room struct {
	Free  int64 // for who is not root
	Spare int64 // of it, what is to stay free
}

// Of returns the room of the disk that holds path.
func Of(path string) (Room, error) {
	var disk unix.Statfs_t
	if err := unix.Statfs(path, &disk); err != nil {
		return Room{}, fmt.Errorf("how much room there is at %s: %w", path, err)
	}
	size := func(blocks uint64) int64 {
		return int64(min(blocks, math.MaxInt64/uint64(max(disk.Frsize, 1))) * uint64(disk.Frsize)) //nolint:gosec // it fits by the min
	}
	return Room{Free: size(disk.Bavail), Spare: min(spareBytes, size(disk.Blocks)/spareShare)}, nil
}

// Left is what may still be written; 0 when the spare room is touched.
func (r Room) Left() int64 { return max(r.Free-r.Spare, 0) }

// Memory is what of the host's memory may be given to programs, together: the rest is for the system and the server.
func Memory() int64 {
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) != nil {
		return 4 << 30
	}
	return int64(info.Totalram) * int64(info.Unit) / 10 * 9 //nolint:gosec // no host has that much
}
