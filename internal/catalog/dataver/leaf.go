package dataver

import (
	"encoding/binary"
	"math"
	"math/bits"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/decimal"
	"github.com/zeebo/xxh3"
)

type loader = func(a arrow.Array, start int, lo, hi []uint64)

// leaf returns the class of a type without children and what turns its values into words; a nil
// loader for a type that has no canonical form.
func leaf(dt arrow.DataType) (class, loader) {
	switch t := dt.(type) {
	case *arrow.BooleanType:
		return classBool, loadBool
	case *arrow.Int8Type:
		return classInt, loadInts((*array.Int8).Int8Values)
	case *arrow.Int16Type:
		return classInt, loadInts((*array.Int16).Int16Values)
	case *arrow.Int32Type:
		return classInt, loadInts((*array.Int32).Int32Values)
	case *arrow.Int64Type:
		return classInt, loadInts((*array.Int64).Int64Values)
	case *arrow.Uint8Type:
		return classInt, loadInts((*array.Uint8).Uint8Values)
	case *arrow.Uint16Type:
		return classInt, loadInts((*array.Uint16).Uint16Values)
	case *arrow.Uint32Type:
		return classInt, loadInts((*array.Uint32).Uint32Values)
	case *arrow.Uint64Type:
		return classInt, loadUint64
	case *arrow.Float16Type:
		return classFloat, loadFloat16
	case *arrow.Float32Type:
		return classFloat, loadFloats((*array.Float32).Float32Values)
	case *arrow.Float64Type:
		return classFloat, loadFloats((*array.Float64).Float64Values)
	case *arrow.Decimal32Type:
		return classDecimal, loadDecimals[decimal.Decimal32, *array.Decimal32](t.Scale, func(v decimal.Decimal32) (bool, [4]uint64) { return magnitude(int64(v)) })
	case *arrow.Decimal64Type:
		return classDecimal, loadDecimals[decimal.Decimal64, *array.Decimal64](t.Scale, func(v decimal.Decimal64) (bool, [4]uint64) { return magnitude(int64(v)) })
	case *arrow.Decimal128Type:
		return classDecimal, loadDecimals[decimal.Decimal128, *array.Decimal128](t.Scale, func(v decimal.Decimal128) (bool, [4]uint64) {
			u := v.Abs()
			return v.Sign() < 0, [4]uint64{u.LowBits(), uint64(u.HighBits())}
		})
	case *arrow.Decimal256Type:
		return classDecimal, loadDecimals[decimal.Decimal256, *array.Decimal256](t.Scale, func(v decimal.Decimal256) (bool, [4]uint64) {
			return v.Sign() < 0, v.Abs().Array()
		})
	case *arrow.StringType, *arrow.LargeStringType, *arrow.StringViewType:
		return classString, loadStrings
	case *arrow.BinaryType, *arrow.LargeBinaryType, *arrow.BinaryViewType, *arrow.FixedSizeBinaryType:
		return classBinary, loadBytes
	case *arrow.Date32Type:
		return classDate, loadScaled(func(a *array.Date32) []arrow.Date32 { return a.Date32Values() }, 86_400_000)
	case *arrow.Date64Type:
		return classDate, loadInts((*array.Date64).Date64Values)
	case *arrow.Time32Type:
		return classTime, loadScaled((*array.Time32).Time32Values, nanos(t.Unit))
	case *arrow.Time64Type:
		return classTime, loadScaled((*array.Time64).Time64Values, nanos(t.Unit))
	case *arrow.DurationType:
		return classDuration, loadScaled((*array.Duration).DurationValues, nanos(t.Unit))
	case *arrow.TimestampType:
		c := classLocal
		if t.TimeZone != "" {
			c = classInstant
		}
		return c, loadScaled((*array.Timestamp).TimestampValues, nanos(t.Unit))
	case *arrow.MonthIntervalType:
		return classInterval, loadIntervals(func(a *array.MonthInterval, i int) (int32, int32, int64) {
			return int32(a.Value(i)), 0, 0
		})
	case *arrow.DayTimeIntervalType:
		return classInterval, loadIntervals(func(a *array.DayTimeInterval, i int) (int32, int32, int64) {
			v := a.Value(i)
			return 0, v.Days, int64(v.Milliseconds) * 1_000_000
		})
	case *arrow.MonthDayNanoIntervalType:
		return classInterval, loadIntervals(func(a *array.MonthDayNanoInterval, i int) (int32, int32, int64) {
			v := a.Value(i)
			return v.Months, v.Days, v.Nanoseconds
		})
	}
	return 0, nil
}

func nanos(u arrow.TimeUnit) uint64 {
	switch u {
	case arrow.Second:
		return 1_000_000_000
	case arrow.Millisecond:
		return 1_000_000
	case arrow.Microsecond:
		return 1_000
	}
	return 1
}

func loadBool(a arrow.Array, start int, lo, hi []uint64) {
	b := a.(*array.Boolean)
	clear(hi)
	for i := range lo {
		lo[i] = 0
		if b.Value(start + i) {
			lo[i] = 1
		}
	}
}

// loadInts widens to 128-bit two's complement.
func loadInts[A arrow.Array, T ~int8 | ~int16 | ~int32 | ~int64 | ~uint8 | ~uint16 | ~uint32](values func(A) []T) loader {
	return func(a arrow.Array, start int, lo, hi []uint64) {
		for i, v := range values(a.(A))[start : start+len(lo)] {
			w := int64(v)
			lo[i], hi[i] = uint64(w), uint64(w>>63)
		}
	}
}

func loadUint64(a arrow.Array, start int, lo, hi []uint64) {
	copy(lo, a.(*array.Uint64).Uint64Values()[start:])
	clear(hi)
}

// loadScaled multiplies into 128 bits, where no count of seconds, milliseconds or microseconds overflows.
func loadScaled[A arrow.Array, T ~int32 | ~int64](values func(A) []T, factor uint64) loader {
	return func(a arrow.Array, start int, lo, hi []uint64) {
		for i, v := range values(a.(A))[start : start+len(lo)] {
			h, l := bits.Mul64(uint64(v), factor)
			if v < 0 {
				h -= factor
			}
			lo[i], hi[i] = l, h
		}
	}
}

func floatWord(f float64) uint64 {
	switch {
	case f != f:
		return 0x7ff8000000000000
	case f == 0:
		return 0
	}
	return math.Float64bits(f)
}

func loadFloats[A arrow.Array, T float32 | float64](values func(A) []T) loader {
	return func(a arrow.Array, start int, lo, hi []uint64) {
		clear(hi)
		for i, v := range values(a.(A))[start : start+len(lo)] {
			lo[i] = floatWord(float64(v))
		}
	}
}

func loadFloat16(a arrow.Array, start int, lo, hi []uint64) {
	f := a.(*array.Float16)
	clear(hi)
	for i := range lo {
		lo[i] = floatWord(float64(f.Value(start + i).Float32()))
	}
}

func loadStrings(a arrow.Array, start int, lo, hi []uint64) {
	s := a.(array.StringLike)
	for i := range lo {
		h := xxh3.HashString128(s.Value(start + i))
		lo[i], hi[i] = h.Lo, h.Hi
	}
}

func loadBytes(a arrow.Array, start int, lo, hi []uint64) {
	b := a.(interface{ Value(int) []byte })
	for i := range lo {
		if a.IsNull(start + i) {
			continue // a null of a view may have no bytes to point at
		}
		h := xxh3.Hash128(b.Value(start + i))
		lo[i], hi[i] = h.Lo, h.Hi
	}
}

func loadIntervals[A arrow.Array](value func(A, int) (months, days int32, nanos int64)) loader {
	return func(a arrow.Array, start int, lo, hi []uint64) {
		for i := range lo {
			m, d, n := value(a.(A), start+i)
			lo[i], hi[i] = uint64(n), uint64(uint32(m))<<32|uint64(uint32(d))
		}
	}
}

func magnitude(v int64) (bool, [4]uint64) {
	if v < 0 {
		return true, [4]uint64{-uint64(v)}
	}
	return false, [4]uint64{uint64(v)}
}

// loadDecimals strips trailing zeros, so that 1.50 of any width and scale is 1.5, and hashes
// sign, magnitude and what is left of the scale.
func loadDecimals[T any, A interface {
	arrow.Array
	Value(int) T
}](scale int32, split func(T) (negative bool, mag [4]uint64)) loader {
	return func(a arrow.Array, start int, lo, hi []uint64) {
		arr := a.(A)
		var buf [37]byte
		for i := range lo {
			if arr.IsNull(start + i) {
				continue // its slot may hold anything
			}
			neg, mag := split(arr.Value(start + i))
			s := scale
			if mag == ([4]uint64{}) {
				s = 0
			} else {
				for mag[0]&1 == 0 {
					q, rem := divTen(mag)
					if rem != 0 {
						break
					}
					mag, s = q, s-1
				}
			}
			buf[0] = 0
			if neg {
				buf[0] = 1
			}
			for j, w := range mag {
				binary.LittleEndian.PutUint64(buf[1+8*j:], w)
			}
			binary.LittleEndian.PutUint32(buf[33:], uint32(s))
			h := xxh3.Hash128(buf[:])
			lo[i], hi[i] = h.Lo, h.Hi
		}
	}
}

func divTen(mag [4]uint64) (q [4]uint64, rem uint64) {
	for i := 3; i >= 0; i-- {
		if rem == 0 && mag[i] == 0 {
			continue
		}
		q[i], rem = bits.Div64(rem, mag[i], 10)
	}
	return q, rem
}
