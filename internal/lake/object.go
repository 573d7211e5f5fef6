package lake

import (
	"sync"

	"github.com/klauspost/compress/zstd"

	"tarn.dev/tarn/internal/base/errdef"
)

// MaxObject is the largest object. Nodes and chunks stay far below; what wants to be larger is a file.
const MaxObject = 64 << 20

var (
	// ErrNotFound is returned for an object that no live pack holds.
	ErrNotFound = errdef.New(errdef.NotFound, "lake.object_not_found", "no such object")
	// ErrTooLarge is returned by Put for an object over MaxObject.
	ErrTooLarge = errdef.New(errdef.InvalidArgument, "lake.object_too_large", "object is too large")
	// ErrCorrupt is returned when stored bytes are missing or not what was written.
	ErrCorrupt = errdef.New(errdef.DataLoss, "lake.corrupt", "stored data is corrupt")
)

// codec says how an object's bytes are stored in a pack.
type codec uint8

const (
	codecRaw  codec = 1
	codecZstd codec = 2
)

// Both are safe for concurrent EncodeAll and DecodeAll. Checksums are off: the object's hash covers the
// plaintext. A decoder's window is bounded by MaxObject, so a hostile frame cannot claim more memory.
var (
	encoder = sync.OnceValue(func() *zstd.Encoder {
		return mustCodec(zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderCRC(false)))
	})
	decoder = sync.OnceValue(func() *zstd.Decoder {
		return mustCodec(zstd.NewReader(nil, zstd.WithDecoderConcurrency(0), zstd.WithDecoderMaxMemory(MaxObject)))
	})
)

func mustCodec[T any](c T, err error) T {
	if err != nil {
		panic(err) // the options are constant
	}
	return c
}

const (
	// minCompress: below it zstd's frame eats what it saves.
	minCompress = 96
	// sampleSize: larger objects are judged by this much of their middle first, because compressing
	// video or Parquet in full only to throw the result away would halve the throughput of a put.
	sampleSize = 32 << 10
)

// encode returns the bytes to store, in scratch's memory or data itself, and how they are coded.
func encode(data, scratch []byte) ([]byte, codec) {
	if len(data) < minCompress {
		return data, codecRaw
	}
	if len(data) > 4*sampleSize {
		mid := (len(data) - sampleSize) / 2
		scratch = encoder().EncodeAll(data[mid:mid+sampleSize], scratch[:0])
		if !pays(len(scratch), sampleSize) {
			return data, codecRaw
		}
	}
	scratch = encoder().EncodeAll(data, scratch[:0])
	if !pays(len(scratch), len(data)) {
		return data, codecRaw
	}
	return scratch, codecZstd
}

// pays: a saving below 1/16 is not worth decompressing on every read.
func pays(stored, raw int) bool { return stored < raw-raw/16 }

// decode is the inverse of encode; raw is the expected length. The result may be stored itself.
func decode(stored []byte, c codec, raw int) ([]byte, error) {
	switch c {
	case codecRaw:
		if len(stored) != raw {
			return nil, ErrCorrupt.Errorf("%d bytes are stored, %d expected", len(stored), raw)
		}
		return stored, nil
	case codecZstd:
		data, err := decoder().DecodeAll(stored, make([]byte, 0, raw))
		if err != nil {
			return nil, ErrCorrupt.Errorf("zstd: %w", err)
		}
		if len(data) != raw {
			return nil, ErrCorrupt.Errorf("zstd yields %d bytes, %d expected", len(data), raw)
		}
		return data, nil
	}
	return nil, ErrCorrupt.Errorf("unknown codec %d", c)
}
