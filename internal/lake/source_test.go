package lake

import (
	"encoding/binary"
	"fmt"
	"io"
)

// newSource yields endless content: "random" as fast as memory, without repeats, or "text".
func newSource(kind string, seed uint64) io.Reader {
	if kind == "random" {
		return &randomSource{block: randomBytes(seed, 1<<20)}
	}
	return &textSource{line: seed}
}

// randomSource repeats a random block, but marks every 512 bytes so that no two chunks are equal.
type randomSource struct {
	block []byte
	pos   int
	n     uint64
}

func (s *randomSource) Read(p []byte) (int, error) {
	if s.pos == len(s.block) {
		s.pos = 0
	}
	if s.pos == 0 {
		for i := 0; i < len(s.block); i += 512 {
			s.n++
			binary.BigEndian.PutUint64(s.block[i:], s.n*0x9e3779b97f4a7c15)
		}
	}
	n := copy(p, s.block[s.pos:])
	s.pos += n
	return n, nil
}

type textSource struct {
	line uint64
	buf  []byte
}

func (s *textSource) Read(p []byte) (int, error) {
	for len(s.buf) < len(p) {
		s.line++
		s.buf = fmt.Appendf(s.buf, "%d,2026-01-%02d,flight %d,%x\n", s.line, s.line%28, s.line*7919%10000, s.line*0x9e3779b97f4a7c15)
	}
	n := copy(p, s.buf)
	s.buf = s.buf[:copy(s.buf, s.buf[n:])]
	return n, nil
}
