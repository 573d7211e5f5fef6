package lake

import (
	"encoding/binary"
	"errors"
	"io"

	"github.com/zeebo/blake3"
)

// Where files are cut: FastCDC with normalised sizes, version 1 (docs/formats/file.md). The same content
// gives the same chunks for ever, so none of this may change without a new version.
//
// The loop is our own: the library at hand flips a package-wide table on every new chunker, decides by
// the low bits, which only see the last 22 bytes, and holds 8 MiB per file, also for one of 4 KiB.
const (
	minChunk = 256 << 10
	avgChunk = 1 << 20
	maxChunk = 4 << 20

	gearWindow = 64

	// A border is a position whose rolling hash is below a threshold: one in 2^22 before avgChunk,
	// one in 2^18 after it.
	thresholdBefore = uint64(1) << (64 - 22)
	thresholdAfter  = uint64(1) << (64 - 18)
)

var gear = func() (table [256]uint64) {
	var raw [256 * 8]byte
	blake3.DeriveKey("tarn.dev 2026 lake chunk gear v1", nil, raw[:])
	for i := range table {
		table[i] = binary.BigEndian.Uint64(raw[8*i:])
	}
	return table
}()

// border looks for the end of a chunk in a growing buffer.
type border struct {
	hash uint64
	pos  int // bytes that the hash has seen, or skipped
}

// find returns the length of the chunk at the begin of data, or 0 if data is too short to tell. Data must
// begin with what it began with in the call before.
func (s *border) find(data []byte) int {
	if len(data) < minChunk {
		return 0
	}
	data = data[:min(len(data), maxChunk)]
	hash, i := s.hash, s.pos
	if i == 0 {
		for i = minChunk - gearWindow; i < minChunk-1; i++ {
			hash = hash<<1 + gear[data[i]]
		}
	}
	for before := data[:min(len(data), avgChunk)]; i < len(before); i++ {
		hash = hash<<1 + gear[before[i]]
		if hash < thresholdBefore {
			return i + 1
		}
	}
	for ; i < len(data); i++ {
		hash = hash<<1 + gear[data[i]]
		if hash < thresholdAfter {
			return i + 1
		}
	}
	if i == maxChunk {
		return maxChunk
	}
	s.hash, s.pos = hash, i
	return 0
}

// readStep is how much is read before looking for a border again: what lies behind the border is copied
// once, so it must be small against a chunk.
const readStep = 128 << 10

// chunker cuts what a reader yields.
type chunker struct {
	r    io.Reader
	rest [readStep]byte
	n    int // bytes of rest in use
	eof  bool
}

// next fills buffer, of length maxChunk, with the next chunk and returns its length; 0 at the end.
func (c *chunker) next(buffer []byte) (int, error) {
	filled := copy(buffer, c.rest[:c.n])
	c.n = 0
	var s border
	for {
		if end := s.find(buffer[:filled]); end > 0 {
			c.n = copy(c.rest[:], buffer[end:filled])
			return end, nil
		}
		if c.eof {
			return filled, nil
		}
		n, err := io.ReadFull(c.r, buffer[filled:min(filled+readStep, maxChunk)])
		filled += n
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			c.eof = true
		case err != nil:
			return 0, err
		}
	}
}

// done reports whether the chunk that next returned was the last.
func (c *chunker) done() bool { return c.eof && c.n == 0 }
