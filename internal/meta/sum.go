package meta

import (
	"bytes"
	"encoding/binary"
	"errors"
	"iter"

	"github.com/zeebo/xxh3"

	"tarn.dev/tarn/internal/base/errdef"
)

// ErrCorrupt means that a row, or the database that holds it, is not what was written.
var ErrCorrupt = errdef.New(errdef.DataLoss, "meta.corrupt", "the metadata database is damaged")

// Sum is what a store keeps beside a row (docs/formats/meta.md): of its key, value and version, so that
// a row that moved to another key does not pass either.
func Sum(r Row) int64 {
	var head [16]byte
	binary.BigEndian.PutUint64(head[:], uint64(r.Version))
	binary.BigEndian.PutUint64(head[8:], uint64(len(r.Key)))
	var h xxh3.Hasher
	_, _ = h.Write(head[:]) // a hash never fails
	_, _ = h.WriteString(r.Key)
	_, _ = h.Write(r.Value)
	return int64(h.Sum64())
}

// Verify returns ErrCorrupt unless sum is that of r.
func Verify(r Row, sum int64) error {
	if sum == Sum(r) {
		return nil
	}
	return ErrCorrupt.Errorf("the row %q is not what was written", r.Key).WithNext("tarn fsck --repair")
}

// Sound leaves out of a scan the rows that are not what was written. It is for checks: Check tells of those.
func Sound(scan iter.Seq2[Row, error]) iter.Seq2[Row, error] {
	return func(yield func(Row, error) bool) {
		for row, err := range scan {
			if (err == nil || row.Key == "" || !errors.Is(err, ErrCorrupt)) && !yield(row, err) {
				return
			}
		}
	}
}

// Damage is what Check found: a row that is not what was written, or, without a key, something of the
// database itself.
type Damage struct {
	Row       // as it is stored
	Sum int64 // as it is stored
	Err error // what is wrong, of code DataLoss
}

// healBytes bounds what Heal tries: 255 sums of each byte of a row, 0.3 s for one of this size.
const healBytes = 4 << 10

// Heal returns the row that was written, if one byte of its key, value, version or sum is all that has
// changed since. That another row fits the sum has a chance of one in 10^13.
func (d Damage) Heal() (Row, bool) {
	if len(d.Key)+len(d.Value) > healBytes {
		return Row{}, false
	}
	if changed := uint64(d.Sum ^ Sum(d.Row)); oneByte(changed) {
		return d.Row, true
	}
	key, value := []byte(d.Key), bytes.Clone(d.Value)
	var version [8]byte
	binary.BigEndian.PutUint64(version[:], uint64(d.Version))
	for _, part := range [][]byte{key, value, version[:]} {
		for i, was := range part {
			for x := 1; x < 256; x++ {
				part[i] = was ^ byte(x)
				r := Row{Key: string(key), Value: value, Version: int64(binary.BigEndian.Uint64(version[:]))}
				if Sum(r) == d.Sum {
					return r, true
				}
			}
			part[i] = was
		}
	}
	return Row{}, false
}

func oneByte(n uint64) bool {
	for shift := 0; shift < 64; shift += 8 {
		if n&^(0xff<<shift) == 0 {
			return true
		}
	}
	return false
}
