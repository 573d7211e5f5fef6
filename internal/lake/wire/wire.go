// Package wire reads and writes the primitives of Tarn's own encodings: one value, one encoding.
//
// Numbers are unsigned LEB128 in the shortest form (signed ones zigzag), strings and byte strings carry
// their length in front. docs/formats/ builds on these words.
package wire

import (
	"encoding/binary"
	"math"
)

// Reader takes apart bytes that may be hostile. After the first violation OK is false for good and
// all reads yield zero values, so that a decoder may read on and ask once.
type Reader struct {
	rest []byte
	bad  bool
}

// NewReader reads data; what it returns are parts of data, not copies.
func NewReader(data []byte) *Reader { return &Reader{rest: data} }

// OK reports whether every read so far was well-formed.
func (r *Reader) OK() bool { return !r.bad }

// Done reports whether all reads were well-formed and nothing is left.
func (r *Reader) Done() bool { return !r.bad && len(r.rest) == 0 }

// Len is the number of bytes that are left.
func (r *Reader) Len() int { return len(r.rest) }

// Fail marks the bytes as malformed, for rules that only the caller knows.
func (r *Reader) Fail() { r.bad = true }

// Uvarint reads a number.
func (r *Reader) Uvarint() uint64 {
	v, n := binary.Uvarint(r.rest)
	// A last byte of zero would be a longer form of a shorter number.
	if r.bad || n <= 0 || (n > 1 && r.rest[n-1] == 0) {
		r.bad = true
		return 0
	}
	r.rest = r.rest[n:]
	return v
}

// Varint reads a signed number.
func (r *Reader) Varint() int64 {
	u := r.Uvarint()
	v := int64(u >> 1)
	if u&1 != 0 {
		v = ^v
	}
	return v
}

// Int reads a number that fits 63 bits.
func (r *Reader) Int() int64 {
	v := r.Uvarint()
	if v > math.MaxInt64 {
		r.bad = true
		return 0
	}
	return int64(v)
}

// Size reads a number that fits 31 bits, such as a count or a parameter.
func (r *Reader) Size() int {
	v := r.Uvarint()
	if v > math.MaxInt32 {
		r.bad = true
		return 0
	}
	return int(v)
}

// Take reads n bytes.
func (r *Reader) Take(n int) []byte {
	if r.bad || n < 0 || n > len(r.rest) {
		r.bad = true
		return nil
	}
	b := r.rest[:n:n]
	r.rest = r.rest[n:]
	return b
}

// Bytes reads a byte string.
func (r *Reader) Bytes() []byte {
	n := r.Uvarint()
	if n > uint64(len(r.rest)) {
		r.bad = true
		return nil
	}
	return r.Take(int(n))
}

// String reads a string.
func (r *Reader) String() string { return string(r.Bytes()) }

// AppendBytes writes a byte string.
func AppendBytes[T []byte | string](b []byte, s T) []byte {
	b = binary.AppendUvarint(b, uint64(len(s)))
	return append(b, s...)
}

// AppendInt writes a number that is not negative.
func AppendInt(b []byte, v int64) []byte { return binary.AppendUvarint(b, uint64(v)) }
