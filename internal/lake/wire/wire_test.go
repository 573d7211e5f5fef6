package wire_test

import (
	"bytes"
	"encoding/binary"
	"math"
	"testing"

	"pgregory.net/rapid"

	"tarn.dev/tarn/internal/lake/wire"
)

func TestRoundTrip(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		u := rapid.Uint64().Draw(t, "u")
		i := rapid.Int64().Draw(t, "i")
		s := rapid.String().Draw(t, "s")
		b := binary.AppendUvarint(nil, u)
		b = binary.AppendVarint(b, i)
		b = wire.AppendBytes(b, s)
		r := wire.NewReader(b)
		if gotU, gotI, gotS := r.Uvarint(), r.Varint(), r.String(); gotU != u || gotI != i || gotS != s || !r.Done() {
			t.Fatal(gotU, gotI, gotS, r.Done())
		}
	})
}

func TestReaderRefuses(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		data []byte
		read func(r *wire.Reader)
	}{
		"nothing":         {nil, func(r *wire.Reader) { r.Uvarint() }},
		"longer form":     {[]byte{0x81, 0x00}, func(r *wire.Reader) { r.Uvarint() }},
		"over 64 bits":    {bytes.Repeat([]byte{0xff}, 11), func(r *wire.Reader) { r.Uvarint() }},
		"over 63 bits":    {binary.AppendUvarint(nil, math.MaxUint64), func(r *wire.Reader) { r.Int() }},
		"over 31 bits":    {binary.AppendUvarint(nil, 1<<31), func(r *wire.Reader) { r.Size() }},
		"short string":    {[]byte{5, 'a'}, func(r *wire.Reader) { _ = r.String() }},
		"huge length":     {binary.AppendUvarint(nil, math.MaxUint64), func(r *wire.Reader) { r.Bytes() }},
		"short take":      {[]byte{1}, func(r *wire.Reader) { r.Take(2) }},
		"negative take":   {[]byte{1}, func(r *wire.Reader) { r.Take(-1) }},
		"after a failure": {[]byte{1}, func(r *wire.Reader) { r.Fail(); r.Take(1) }},
	} {
		r := wire.NewReader(c.data)
		c.read(r)
		if r.OK() || r.Done() || r.Uvarint() != 0 {
			t.Errorf("%s was accepted", name)
		}
	}
}
