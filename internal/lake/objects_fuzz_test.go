package lake

import (
	"bytes"
	"encoding/binary"
	"testing"

	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/blob/memblob"
)

// FuzzPackFooter gives the parser footers that prove themselves, as a hostile writer can make them.
func FuzzPackFooter(f *testing.F) {
	p := goldenPack()
	footer := int(binary.BigEndian.Uint32(p.data[len(p.data)-12:]))
	f.Add(p.data[footer:len(p.data)-len(packEndMagic)], uint32(len(p.data)))
	f.Add([]byte{}, uint32(0))
	f.Fuzz(func(t *testing.T, body []byte, size uint32) {
		data := append(bytes.Clone(body), packEndMagic...)
		places, err := parseFooter(packName(data), data, int64(size))
		if err != nil {
			if !errdef.IsCorrupt(err) {
				t.Fatal(err)
			}
			return
		}
		for _, pl := range places {
			if int64(pl.offset)+int64(pl.stored) > int64(size) || pl.raw > MaxObject {
				t.Fatalf("%+v in a pack of %d bytes", pl, size)
			}
		}
	})
}

// FuzzSegment gives the parser segments whose tables prove themselves.
func FuzzSegment(f *testing.F) {
	var golden bytes.Buffer
	p := goldenPack()
	var locations []location
	for _, pl := range p.places {
		locations = append(locations, location{p.name, pl})
	}
	if _, _, err := writeSegment(&golden, []Hash{p.name}, int64(len(locations)), yieldAll(locations)); err != nil {
		f.Fatal(err)
	}
	f.Add(golden.Bytes()[:golden.Len()-HashSize-len(segmentEndMagic)], uint16(len(segmentMagic)+len(locations)*segmentEntry))
	f.Add([]byte{}, uint16(0))
	f.Fuzz(func(t *testing.T, body []byte, offset uint16) {
		data := bytes.Clone(body)
		sum := segmentSum(data[min(int(offset), len(data)):])
		data = append(append(data, sum[:]...), segmentEndMagic...)
		blobs := memblob.New()
		if err := blobs.Put(t.Context(), segmentBlob("x"), bytes.NewReader(data)); err != nil {
			t.Fatal(err)
		}
		s, err := openSegment(t.Context(), blobs, "x", int64(len(data)))
		if err == nil {
			l := &Lake{blobs: blobs, index: newIndex()}
			for loc, aerr := range s.all(t.Context(), blobs) {
				if err = aerr; err == nil {
					_, err = s.find(t.Context(), l, loc.hash)
				}
				if err != nil {
					break
				}
			}
		}
		if err != nil && !errdef.IsCorrupt(err) {
			t.Fatal(err)
		}
	})
}

func FuzzFileNode(f *testing.F) {
	f.Add(encodeFileNode(1, []fileChild{{Hash{1}, 5}, {Hash{2}, 7}}), uint8(1), int64(12))
	f.Fuzz(func(t *testing.T, data []byte, height uint8, size int64) {
		children, err := decodeFileNode(data, height, size)
		if err != nil {
			if !errdef.IsCorrupt(err) {
				t.Fatal(err)
			}
			return
		}
		if !bytes.Equal(encodeFileNode(height, children), data) {
			t.Fatal("two nodes mean the same")
		}
	})
}
