package datafile

import (
	"context"
	"math"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/memory"
)

// gathered is the values of lists in one run, from which offsets follow.
type gathered struct {
	values  arrow.Array
	offsets []int32
}

// gather brings the values of a's lists together: without those under nulls or between views. With
// pad > 0 a null list takes pad null values, as lists of a fixed size do.
func gather(ctx context.Context, path string, a array.ListLike, values arrow.Array, pad int) (gathered, error) {
	n := a.Len()
	g := gathered{offsets: make([]int32, n+1)}
	var first, end, total int64
	run := true // the values lie one after the other already
	for i := range n {
		s, e := a.ValueOffsets(i)
		if a.IsNull(i) {
			run = run && s == e && pad == 0
			total += int64(pad)
		} else {
			if total == 0 && i == 0 || first == end {
				first, end = s, s
			}
			run = run && s == end
			end = e
			total += e - s
		}
		if total > math.MaxInt32 {
			return g, ErrUnsupported.Errorf("column %s: more than %d list elements in one batch", path, math.MaxInt32)
		}
		g.offsets[i+1] = int32(total)
	}
	if run {
		g.values = array.NewSlice(values, first, end)
		return g, nil
	}
	idx := array.NewInt64Builder(memory.DefaultAllocator)
	idx.Reserve(int(total))
	for i := range n {
		if a.IsNull(i) {
			for range pad {
				idx.AppendNull()
			}
			continue
		}
		s, e := a.ValueOffsets(i)
		for j := s; j < e; j++ {
			idx.Append(j)
		}
	}
	var err error
	g.values, err = take(ctx, values, idx.NewArray())
	return g, err
}

func convertList(ctx context.Context, path string, a array.ListLike, to arrow.ListLikeType) (arrow.Array, error) {
	fixed, isFixed := to.(*arrow.FixedSizeListType)
	pad := 0
	if isFixed {
		pad = int(fixed.Len())
		for i := range a.Len() {
			if s, e := a.ValueOffsets(i); a.IsValid(i) && e-s != int64(pad) {
				return nil, lossy(path, a, i, to)
			}
		}
	}
	g, err := gather(ctx, path, a, a.ListValues(), pad)
	if err != nil {
		return nil, err
	}
	values, err := convert(ctx, path+".element", g.values, to.Elem())
	if err != nil {
		return nil, err
	}
	buffers := []*memory.Buffer{validity(a), memory.NewBufferBytes(arrow.GetBytes(g.offsets))}
	if isFixed {
		buffers = buffers[:1]
	}
	return array.MakeFromData(array.NewData(to, a.Len(), buffers, []arrow.ArrayData{values.Data()}, a.NullN(), 0)), nil
}

func convertMap(ctx context.Context, path string, a *array.Map, to *arrow.MapType) (arrow.Array, error) {
	keys, err := gather(ctx, path, a, a.Keys(), 0)
	if err != nil {
		return nil, err
	}
	items, err := gather(ctx, path, a, a.Items(), 0)
	if err != nil {
		return nil, err
	}
	k, err := convert(ctx, path+".key", keys.values, to.KeyType())
	if err != nil {
		return nil, err
	}
	v, err := convert(ctx, path+".value", items.values, to.ItemType())
	if err != nil {
		return nil, err
	}
	entries := array.NewData(to.Elem(), k.Len(), []*memory.Buffer{nil}, []arrow.ArrayData{k.Data(), v.Data()}, 0, 0)
	buffers := []*memory.Buffer{validity(a), memory.NewBufferBytes(arrow.GetBytes(keys.offsets))}
	return array.MakeFromData(array.NewData(to, a.Len(), buffers, []arrow.ArrayData{entries}, a.NullN(), 0)), nil
}

func convertStruct(ctx context.Context, path string, a *array.Struct, to *arrow.StructType) (arrow.Array, error) {
	from := a.DataType().(*arrow.StructType)
	kids := make([]arrow.ArrayData, to.NumFields())
	for i, f := range to.Fields() {
		j, ok := from.FieldIdx(f.Name)
		if !ok { // added to the table after these rows were written
			kids[i] = array.MakeArrayOfNull(memory.DefaultAllocator, f.Type, a.Len()).Data()
			continue
		}
		k, err := convert(ctx, path+"."+f.Name, a.Field(j), f.Type)
		if err != nil {
			return nil, err
		}
		kids[i] = k.Data()
	}
	return array.MakeFromData(array.NewData(to, a.Len(), []*memory.Buffer{validity(a)}, kids, a.NullN(), 0)), nil
}

func isInterval(dt arrow.DataType) bool {
	switch dt.ID() {
	case arrow.INTERVAL_MONTHS, arrow.INTERVAL_DAY_TIME, arrow.INTERVAL_MONTH_DAY_NANO:
		return true
	}
	return false
}

// intervalStruct spells an interval out as intervalType.
func intervalStruct(path string, a arrow.Array, to arrow.DataType) (arrow.Array, error) {
	if arrow.TypeEqual(a.DataType(), to) {
		return a, nil
	}
	if s, ok := to.(*arrow.StructType); !ok || s.NumFields() != intervalType.NumFields() {
		return nil, ErrMismatch.Errorf("column %s has type %s, expected %s", path, a.DataType(), to)
	}
	b := array.NewStructBuilder(memory.DefaultAllocator, to.(*arrow.StructType))
	months, days := b.FieldBuilder(0).(*array.Int32Builder), b.FieldBuilder(1).(*array.Int32Builder)
	nanos := b.FieldBuilder(2).(*array.Int64Builder)
	for i := range a.Len() {
		if a.IsNull(i) {
			b.AppendNull()
			continue
		}
		var v arrow.MonthDayNanoInterval
		switch t := a.(type) {
		case *array.MonthInterval:
			v.Months = int32(t.Value(i))
		case *array.DayTimeInterval:
			v.Days, v.Nanoseconds = t.Value(i).Days, int64(t.Value(i).Milliseconds)*1_000_000
		case *array.MonthDayNanoInterval:
			v = t.Value(i)
		}
		b.Append(true)
		months.Append(v.Months)
		days.Append(v.Days)
		nanos.Append(v.Nanoseconds)
	}
	return b.NewArray(), nil
}

func fromIntervalStruct(ctx context.Context, path string, a *array.Struct, to arrow.DataType) (arrow.Array, error) {
	plainStruct, err := convertStruct(ctx, path, a, intervalType)
	if err != nil {
		return nil, err
	}
	s := plainStruct.(*array.Struct)
	months, days, nanos := s.Field(0).(*array.Int32), s.Field(1).(*array.Int32), s.Field(2).(*array.Int64)
	b := array.NewBuilder(memory.DefaultAllocator, to)
	for i := range a.Len() {
		if a.IsNull(i) {
			b.AppendNull()
			continue
		}
		v := arrow.MonthDayNanoInterval{Months: months.Value(i), Days: days.Value(i), Nanoseconds: nanos.Value(i)}
		fits := true
		switch t := b.(type) {
		case *array.MonthIntervalBuilder:
			fits = v.Days == 0 && v.Nanoseconds == 0
			t.Append(arrow.MonthInterval(v.Months))
		case *array.DayTimeIntervalBuilder:
			ms := v.Nanoseconds / 1_000_000
			fits = v.Months == 0 && v.Nanoseconds%1_000_000 == 0 && int64(int32(ms)) == ms
			t.Append(arrow.DayTimeInterval{Days: v.Days, Milliseconds: int32(ms)})
		case *array.MonthDayNanoIntervalBuilder:
			t.Append(v)
		}
		if !fits {
			return nil, lossy(path, a, i, to)
		}
	}
	return b.NewArray(), nil
}
