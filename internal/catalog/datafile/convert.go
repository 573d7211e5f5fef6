package datafile

import (
	"context"
	"math"
	"math/big"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/bitutil"
	"github.com/apache/arrow-go/v18/arrow/compute"
	"github.com/apache/arrow-go/v18/arrow/decimal"
	"github.com/apache/arrow-go/v18/arrow/decimal128"
	"github.com/apache/arrow-go/v18/arrow/decimal256"
	"github.com/apache/arrow-go/v18/arrow/float16"
	"github.com/apache/arrow-go/v18/arrow/memory"
)

// convert returns a with type to, each value the same, or ErrLossy. It serves both directions: what is
// written becomes what Iceberg holds, what is read becomes what the table declares. Arrays live in Go
// memory, so nothing has to be released.
func convert(ctx context.Context, path string, a arrow.Array, to arrow.DataType) (arrow.Array, error) {
	from := a.DataType()
	switch t := a.(type) {
	case *array.Dictionary:
		values, err := convert(ctx, path, t.Dictionary(), to)
		if err != nil {
			return nil, err
		}
		return take(ctx, values, t.Indices())
	case *array.RunEndEncoded:
		b := array.NewInt64Builder(memory.DefaultAllocator)
		for i := range t.Len() {
			b.Append(int64(t.GetPhysicalIndex(i)))
		}
		values, err := convert(ctx, path, t.Values(), to)
		if err != nil {
			return nil, err
		}
		return take(ctx, values, b.NewArray())
	case array.ExtensionArray:
		return convert(ctx, path, t.Storage(), to)
	case *array.Null:
		return array.MakeArrayOfNull(memory.DefaultAllocator, to, a.Len()), nil
	case *array.Map:
		if m, ok := to.(*arrow.MapType); ok {
			return convertMap(ctx, path, t, m)
		}
	case *array.Struct:
		if s, ok := to.(*arrow.StructType); ok {
			return convertStruct(ctx, path, t, s)
		}
		if isInterval(to) {
			return fromIntervalStruct(ctx, path, t, to)
		}
	case array.ListLike:
		if l, ok := to.(arrow.ListLikeType); ok && to.ID() != arrow.MAP {
			return convertList(ctx, path, t, l)
		}
	}
	switch {
	case arrow.TypeEqual(from, to):
		return a, nil
	case to.ID() == arrow.NULL:
		if a.NullN() != a.Len() {
			return nil, lossyAny(path, a, to)
		}
		return array.NewNull(a.Len()), nil
	case isInterval(from):
		return intervalStruct(path, a, to)
	case isString(from) && isString(to), isBinaryLike(from) && isBinaryLike(to):
		return convertBytes(path, a, to)
	}
	if kf, ff := lane(from); kf != 0 {
		if kt, ft := lane(to); kt == kf || kf == laneDuration && to.ID() == arrow.INT64 || kt == laneDuration && from.ID() == arrow.INT64 {
			if kf != kt { // durations are stored as nanoseconds
				if kf == laneDuration {
					ft = 1
				} else {
					ff = 1
				}
			}
			return convertLane(path, a, to, ff, ft)
		}
	}
	if floatWidth(from) > 0 && floatWidth(to) > 0 {
		return convertFloats(path, a, to)
	}
	if df, ok := from.(arrow.DecimalType); ok {
		if dt, ok := to.(arrow.DecimalType); ok {
			return convertDecimals(path, a, df, dt)
		}
	}
	return nil, ErrMismatch.Errorf("column %s has type %s, expected %s", path, from, to)
}

func take(ctx context.Context, values, indices arrow.Array) (arrow.Array, error) {
	return compute.TakeArray(compute.WithAllocator(ctx, memory.DefaultAllocator), values, indices)
}

// lossyAny names the first value that is not null.
func lossyAny(path string, a arrow.Array, to arrow.DataType) error {
	for i := range a.Len() {
		if a.IsValid(i) {
			return lossy(path, a, i, to)
		}
	}
	return nil
}

func lossy(path string, a arrow.Array, i int, to arrow.DataType) error {
	text := a.ValueStr(i)
	if len(text) > 80 {
		text = text[:80] + "..."
	}
	return ErrLossy.Errorf("column %s (%s): %s cannot be held as %s without loss", path, a.DataType(), text, to).
		WithDetail("column", path).WithDetail("value", text).
		WithNext("cast the column to a type that keeps what you need")
}

// validity is a's bitmap from bit 0 on, nil when nothing is null.
func validity(a arrow.Array) *memory.Buffer {
	if a.NullN() == 0 {
		return nil
	}
	buf := make([]byte, bitutil.BytesForBits(int64(a.Len())))
	for i := range a.Len() {
		if a.IsValid(i) {
			bitutil.SetBit(buf, i)
		}
	}
	return memory.NewBufferBytes(buf)
}

type laneKind byte

const (
	laneInt laneKind = iota + 1
	laneTimestamp
	laneTime
	laneDate
	laneDuration
)

// lane says whether the values of a type are integers on a common scale, and the size of their unit
// (in nanoseconds; dates in milliseconds).
func lane(dt arrow.DataType) (laneKind, int64) {
	switch t := dt.(type) {
	case *arrow.TimestampType:
		return laneTimestamp, int64(t.Unit.Multiplier())
	case *arrow.Time32Type:
		return laneTime, int64(t.Unit.Multiplier())
	case *arrow.Time64Type:
		return laneTime, int64(t.Unit.Multiplier())
	case *arrow.DurationType:
		return laneDuration, int64(t.Unit.Multiplier())
	case *arrow.Date32Type:
		return laneDate, 86_400_000
	case *arrow.Date64Type:
		return laneDate, 1
	}
	if intWidth(dt) > 0 {
		return laneInt, 1
	}
	return 0, 0
}

func widen[T ~int8 | ~int16 | ~int32 | ~int64 | ~uint8 | ~uint16 | ~uint32 | ~uint64](v []T) []int64 {
	out := make([]int64, len(v))
	for i, x := range v {
		out[i] = int64(x)
	}
	return out
}

func narrow[T ~int8 | ~int16 | ~int32 | ~int64 | ~uint8 | ~uint16 | ~uint32 | ~uint64](v []int64, valid func(int) bool) (*memory.Buffer, int) {
	out := make([]T, len(v))
	for i, x := range v {
		out[i] = T(x)
		if int64(out[i]) != x && valid(i) {
			return nil, i
		}
	}
	return memory.NewBufferBytes(arrow.GetBytes(out)), -1
}

func laneValues(a arrow.Array) []int64 {
	switch t := a.(type) {
	case *array.Int8:
		return widen(t.Int8Values())
	case *array.Int16:
		return widen(t.Int16Values())
	case *array.Int32:
		return widen(t.Int32Values())
	case *array.Int64:
		return widen(t.Int64Values())
	case *array.Uint8:
		return widen(t.Uint8Values())
	case *array.Uint16:
		return widen(t.Uint16Values())
	case *array.Uint32:
		return widen(t.Uint32Values())
	case *array.Uint64:
		return widen(t.Uint64Values())
	case *array.Timestamp:
		return widen(t.TimestampValues())
	case *array.Time32:
		return widen(t.Time32Values())
	case *array.Time64:
		return widen(t.Time64Values())
	case *array.Date32:
		return widen(t.Date32Values())
	case *array.Date64:
		return widen(t.Date64Values())
	case *array.Duration:
		return widen(t.DurationValues())
	}
	return nil
}

// convertLane moves integers from units of from to units of to.
func convertLane(path string, a arrow.Array, to arrow.DataType, from, unit int64) (arrow.Array, error) {
	vals := laneValues(a)
	big64 := a.DataType().ID() == arrow.UINT64 && to.ID() != arrow.UINT64
	for i, v := range vals {
		if a.IsNull(i) {
			vals[i] = 0
			continue
		}
		switch {
		case big64 && v < 0:
			return nil, lossy(path, a, i, to)
		case from > unit:
			f := from / unit
			if v > math.MaxInt64/f || v < math.MinInt64/f {
				return nil, lossy(path, a, i, to)
			}
			vals[i] = v * f
		case unit > from:
			f := unit / from
			if v%f != 0 {
				return nil, lossy(path, a, i, to)
			}
			vals[i] = v / f
		}
	}
	if to.ID() == arrow.UINT64 {
		for i, v := range vals {
			if v < 0 && a.IsValid(i) && a.DataType().ID() != arrow.UINT64 {
				return nil, lossy(path, a, i, to)
			}
		}
	}
	var buf *memory.Buffer
	bad := -1
	switch to.ID() {
	case arrow.INT8:
		buf, bad = narrow[int8](vals, a.IsValid)
	case arrow.INT16:
		buf, bad = narrow[int16](vals, a.IsValid)
	case arrow.INT32, arrow.DATE32, arrow.TIME32:
		buf, bad = narrow[int32](vals, a.IsValid)
	case arrow.UINT8:
		buf, bad = narrow[uint8](vals, a.IsValid)
	case arrow.UINT16:
		buf, bad = narrow[uint16](vals, a.IsValid)
	case arrow.UINT32:
		buf, bad = narrow[uint32](vals, a.IsValid)
	default:
		buf = memory.NewBufferBytes(arrow.GetBytes(vals))
	}
	if bad >= 0 {
		return nil, lossy(path, a, bad, to)
	}
	return array.MakeFromData(array.NewData(to, a.Len(), []*memory.Buffer{validity(a), buf}, nil, a.NullN(), 0)), nil
}

func convertFloats(path string, a arrow.Array, to arrow.DataType) (arrow.Array, error) {
	b := array.NewBuilder(memory.DefaultAllocator, to)
	for i := range a.Len() {
		if a.IsNull(i) {
			b.AppendNull()
			continue
		}
		var v, got float64
		switch t := a.(type) {
		case *array.Float16:
			v = float64(t.Value(i).Float32())
		case *array.Float32:
			v = float64(t.Value(i))
		case *array.Float64:
			v = t.Value(i)
		}
		switch t := b.(type) {
		case *array.Float16Builder:
			h := float16.New(float32(v))
			t.Append(h)
			got = float64(h.Float32())
		case *array.Float32Builder:
			t.Append(float32(v))
			got = float64(float32(v))
		case *array.Float64Builder:
			t.Append(v)
			got = v
		}
		if got != v && v == v {
			return nil, lossy(path, a, i, to)
		}
	}
	return b.NewArray(), nil
}

func isBinaryLike(dt arrow.DataType) bool {
	return isBinary(dt) || dt.ID() == arrow.FIXED_SIZE_BINARY
}

func convertBytes(path string, a arrow.Array, to arrow.DataType) (arrow.Array, error) {
	b := array.NewBuilder(memory.DefaultAllocator, to)
	b.Reserve(a.Len())
	fixed, width := -1, 0
	if f, ok := to.(*arrow.FixedSizeBinaryType); ok {
		fixed = f.ByteWidth
	}
	str, isStr := a.(array.StringLike)
	bin, _ := a.(interface{ Value(int) []byte })
	for i := range a.Len() {
		if a.IsNull(i) {
			b.AppendNull()
			continue
		}
		if isStr {
			b.(array.StringLikeBuilder).Append(str.Value(i))
			continue
		}
		v := bin.Value(i)
		switch t := b.(type) {
		case *array.FixedSizeBinaryBuilder:
			if len(v) != fixed {
				return nil, lossy(path, a, i, to)
			}
			t.Append(v)
		case *array.BinaryBuilder:
			if width += len(v); width > math.MaxInt32 && to.ID() == arrow.BINARY {
				return nil, lossy(path, a, i, to)
			}
			t.Append(v)
		case *array.BinaryViewBuilder:
			t.Append(v)
		}
	}
	return b.NewArray(), nil
}

func decimalInt(a arrow.Array, i int) *big.Int {
	switch t := a.(type) {
	case *array.Decimal32:
		return big.NewInt(int64(t.Value(i)))
	case *array.Decimal64:
		return big.NewInt(int64(t.Value(i)))
	case *array.Decimal128:
		return t.Value(i).BigInt()
	case *array.Decimal256:
		return t.Value(i).BigInt()
	}
	return nil
}

func convertDecimals(path string, a arrow.Array, from, to arrow.DecimalType) (arrow.Array, error) {
	b := array.NewBuilder(memory.DefaultAllocator, to)
	shift := to.GetScale() - from.GetScale()
	factor := new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(max(shift, -shift))), nil)
	limit := new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(to.GetPrecision())), nil)
	rem := new(big.Int)
	for i := range a.Len() {
		if a.IsNull(i) {
			b.AppendNull()
			continue
		}
		v := decimalInt(a, i)
		if shift >= 0 {
			v.Mul(v, factor)
		} else if v.QuoRem(v, factor, rem); rem.Sign() != 0 {
			return nil, lossy(path, a, i, to)
		}
		if v.CmpAbs(limit) >= 0 {
			return nil, lossy(path, a, i, to)
		}
		switch t := b.(type) {
		case *array.Decimal32Builder:
			t.Append(decimal.Decimal32(v.Int64()))
		case *array.Decimal64Builder:
			t.Append(decimal.Decimal64(v.Int64()))
		case *array.Decimal128Builder:
			t.Append(decimal128.FromBigInt(v))
		case *array.Decimal256Builder:
			t.Append(decimal256.FromBigInt(v))
		}
	}
	return b.NewArray(), nil
}
