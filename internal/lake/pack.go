package lake

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"io"
	"slices"

	"github.com/zeebo/blake3"

	"tarn.dev/tarn/internal/blob"
)

// The pack format, version 1: docs/formats/pack.md.
const (
	packMagic    = "TARNPK1\n"
	packEndMagic = "TARNPE1\n"
	packHeader   = len(packMagic)
	packEntry    = HashSize + 4 + 4 + 4 + 4
	packNonce    = 16
	packTrailer  = packNonce + 4 + 4 + len(packEndMagic) // nonce, count, footer offset, magic

	packTarget = 16 << 20
	// maxPackBytes is the largest Options.PackBytes, maxPack the largest pack: one that is closed by
	// the object that crosses the line, with a footer no longer than its objects could make it.
	maxPackBytes = 256 << 20
	maxPack      = 1 << 30
)

// place is where a pack holds one object.
type place struct {
	hash   Hash
	typ    Type
	codec  codec
	stored uint32
	raw    uint32
	offset uint32
}

func compareHashes(a, b Hash) int { return bytes.Compare(a[:], b[:]) }

func comparePlaces(a, b place) int { return compareHashes(a.hash, b.hash) }

func appendPlace(b []byte, p place) []byte {
	b = append(b, p.hash[:]...)
	b = append(b, byte(p.typ), byte(p.codec), 0, 0)
	b = binary.BigEndian.AppendUint32(b, p.stored)
	b = binary.BigEndian.AppendUint32(b, p.raw)
	return binary.BigEndian.AppendUint32(b, p.offset)
}

func parsePlace(b []byte) place {
	return place{
		hash: Hash(b[:HashSize]), typ: Type(b[32]), codec: codec(b[33]),
		stored: binary.BigEndian.Uint32(b[36:]), raw: binary.BigEndian.Uint32(b[40:]), offset: binary.BigEndian.Uint32(b[44:]),
	}
}

var packHasher = blake3.NewDeriveKey("tarn.dev 2026 lake pack v1")

// packName is the hash of everything after the objects. Each object's bytes are covered by its own hash
// in there, so a pack is checked without reading it twice while it is written.
func packName(footer []byte) Hash {
	hasher := packHasher.Clone()
	_, _ = hasher.Write(footer) // never fails
	var h Hash
	hasher.Sum(h[:0])
	return h
}

func packBlob(name Hash) string {
	s := name.String()
	return packPrefix + s[:2] + "/" + s
}

const packPrefix = "packs/"

// pack is one being filled, then finished: complete bytes under a name.
type pack struct {
	name   Hash
	data   []byte
	places []place // sorted by hash once finished
}

func newPack(buffer []byte) *pack {
	return &pack{data: append(buffer[:0], packMagic...)}
}

func (p *pack) add(h Hash, t Type, stored []byte, c codec, raw int) {
	p.places = append(p.places, place{
		hash: h, typ: t, codec: c, stored: uint32(len(stored)), raw: uint32(raw), offset: uint32(len(p.data)),
	})
	p.data = append(p.data, stored...)
}

// finish appends the footer. The nonce makes the name unique even if the same objects were packed
// before (L3).
func (p *pack) finish(nonce [packNonce]byte) {
	slices.SortFunc(p.places, comparePlaces)
	footer := len(p.data)
	for _, pl := range p.places {
		p.data = appendPlace(p.data, pl)
	}
	p.data = append(p.data, nonce[:]...)
	p.data = binary.BigEndian.AppendUint32(p.data, uint32(len(p.places)))
	p.data = binary.BigEndian.AppendUint32(p.data, uint32(footer))
	p.data = append(p.data, packEndMagic...)
	p.name = packName(p.data[footer:])
}

func randomNonce() (n [packNonce]byte) {
	_, _ = rand.Read(n[:]) // never fails
	return n
}

// parseFooter reads a pack's footer (places and trailer) of a pack of size bytes and checks all it says.
func parseFooter(name Hash, footer []byte, size int64) ([]place, error) {
	bad := func(why string) error {
		return ErrCorrupt.Errorf("pack %s: %s", name, why).WithDetail("pack", name.String())
	}
	if len(footer) < packTrailer || string(footer[len(footer)-len(packEndMagic):]) != packEndMagic {
		return nil, bad("its end is missing")
	}
	if packName(footer) != name {
		return nil, bad("its footer is not what was written")
	}
	entries := footer[:len(footer)-packTrailer]
	end := uint64(size) - uint64(len(footer))
	places := make([]place, 0, len(entries)/packEntry)
	for b := entries; len(b) >= packEntry; b = b[packEntry:] {
		p := parsePlace(b)
		if !p.typ.valid() || p.raw > MaxObject || uint64(p.offset) < uint64(packHeader) || uint64(p.offset)+uint64(p.stored) > end {
			return nil, bad("its footer lists an impossible object")
		}
		places = append(places, p)
	}
	return places, nil
}

// readFooter reads the footer of a stored pack.
func readFooter(ctx context.Context, blobs blob.Store, name Hash, size int64) ([]place, error) {
	bad := func(why string) error {
		return ErrCorrupt.Errorf("pack %s: %s", name, why).WithDetail("pack", name.String())
	}
	if size < int64(packHeader+packTrailer) || size > maxPack {
		return nil, bad("it cannot be of that size")
	}
	trailer, err := readBlob(ctx, blobs, packBlob(name), size-int64(packTrailer), int64(packTrailer))
	if err != nil {
		return nil, missingPack(name, err)
	}
	if len(trailer) != packTrailer || string(trailer[packTrailer-len(packEndMagic):]) != packEndMagic {
		return nil, bad("its end is missing")
	}
	count := int64(binary.BigEndian.Uint32(trailer[packNonce:]))
	offset := int64(binary.BigEndian.Uint32(trailer[packNonce+4:]))
	length := count*int64(packEntry) + int64(packTrailer)
	if offset < int64(packHeader) || offset+length != size {
		return nil, bad("its trailer contradicts its size")
	}
	footer, err := readBlob(ctx, blobs, packBlob(name), offset, length)
	if err != nil {
		return nil, missingPack(name, err)
	}
	if int64(len(footer)) != length {
		return nil, bad("it is shorter than it was")
	}
	return parseFooter(name, footer, size)
}

// missingPack turns the absence of a blob that a row names into data loss.
func missingPack(name Hash, err error) error {
	if errors.Is(err, blob.ErrNotFound) {
		return ErrCorrupt.Errorf("pack %s is missing: %w", name, err).WithDetail("pack", name.String())
	}
	return err
}

func readBlob(ctx context.Context, blobs blob.Store, name string, offset, length int64) (_ []byte, err error) {
	r, err := blobs.Get(ctx, name, offset, length)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	data := make([]byte, length)
	n, err := io.ReadFull(r, data)
	if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
		err = nil
	}
	return data[:n], err
}
