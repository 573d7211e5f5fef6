package datafile

import (
	"github.com/apache/arrow-go/v18/arrow"
)

// Merge unites two schemas by column name: have first, then the new columns of add. A column of both
// gets the narrower type that holds the values of either; ErrMismatch names the column that has none.
func Merge(table string, have, add *arrow.Schema) (*arrow.Schema, error) {
	fields := have.Fields()
	for _, f := range add.Fields() {
		at := have.FieldIndices(f.Name)
		if len(at) == 0 {
			f.Nullable = true // rows that are there already have no value
			fields = append(fields, f)
			continue
		}
		g := &fields[at[0]]
		dt, ok := mergeType(g.Type, f.Type)
		if !ok {
			return nil, ErrMismatch.Errorf("%s.%s is %s, the new rows have %s", table, f.Name, g.Type, f.Type).
				WithNext("cast the column, or replace the table")
		}
		g.Type, g.Nullable = dt, g.Nullable || f.Nullable
	}
	for i := range fields {
		if _, ok := add.FieldsByName(fields[i].Name); !ok {
			fields[i].Nullable = true
		}
	}
	meta := have.Metadata()
	return arrow.NewSchema(fields, &meta), nil
}

// mergeType is the type that holds the values of both, if Iceberg can read files of either as it.
func mergeType(a, b arrow.DataType) (arrow.DataType, bool) {
	if arrow.TypeEqual(a, b) {
		return a, true
	}
	pa, pb := plain(a), plain(b)
	switch {
	case arrow.TypeEqual(pa, pb):
		return a, true
	case pa.ID() == arrow.NULL:
		return b, true
	case pb.ID() == arrow.NULL:
		return a, true
	}
	if wa, wb := intWidth(pa), intWidth(pb); wa > 0 && wb > 0 {
		return mergeInts(pa, pb), true
	}
	if wa, wb := floatWidth(pa), floatWidth(pb); wa > 0 && wb > 0 {
		if wb > wa {
			return b, true
		}
		return a, true
	}
	if isString(pa) && isString(pb) || isBinary(pa) && isBinary(pb) {
		return a, true
	}
	switch ta := pa.(type) {
	case *arrow.TimestampType:
		if tb, ok := pb.(*arrow.TimestampType); ok && (ta.TimeZone == "") == (tb.TimeZone == "") {
			return &arrow.TimestampType{Unit: max(ta.Unit, tb.Unit), TimeZone: ta.TimeZone}, true
		}
	case *arrow.DurationType:
		if tb, ok := pb.(*arrow.DurationType); ok {
			return &arrow.DurationType{Unit: max(ta.Unit, tb.Unit)}, true
		}
	case *arrow.Date32Type, *arrow.Date64Type:
		if pb.ID() == arrow.DATE32 || pb.ID() == arrow.DATE64 {
			return arrow.FixedWidthTypes.Date32, true
		}
	case *arrow.Time32Type, *arrow.Time64Type:
		if pb.ID() == arrow.TIME32 || pb.ID() == arrow.TIME64 {
			if pa.ID() == arrow.TIME64 && (pb.ID() == arrow.TIME32 || pa.(*arrow.Time64Type).Unit == arrow.Nanosecond) {
				return a, true
			}
			if pb.ID() == arrow.TIME64 || pa.(*arrow.Time32Type).Unit == arrow.Second {
				return b, true
			}
			return a, true
		}
	case arrow.DecimalType:
		if tb, ok := pb.(arrow.DecimalType); ok {
			sa, sb := storedDecimal(ta).(*arrow.Decimal128Type), storedDecimal(tb).(*arrow.Decimal128Type)
			if sa.Scale == sb.Scale { // Iceberg may widen a decimal, never shift it
				if sb.Precision > sa.Precision {
					return b, true
				}
				return a, true
			}
		}
	case *arrow.StructType:
		if tb, ok := pb.(*arrow.StructType); ok {
			return mergeStructs(ta, tb)
		}
	case *arrow.MapType:
		if tb, ok := pb.(*arrow.MapType); ok {
			k, okKey := mergeType(ta.KeyType(), tb.KeyType())
			v, okValue := mergeType(ta.ItemType(), tb.ItemType())
			if okKey && okValue {
				return arrow.MapOf(k, v), true
			}
		}
	case arrow.ListLikeType:
		if tb, ok := pb.(arrow.ListLikeType); ok && pb.ID() != arrow.MAP {
			if e, ok := mergeType(ta.Elem(), tb.Elem()); ok {
				return arrow.ListOf(e), true
			}
		}
	}
	return nil, false
}

func mergeStructs(a, b *arrow.StructType) (arrow.DataType, bool) {
	fields := a.Fields()
	for _, f := range b.Fields() {
		i, ok := a.FieldIdx(f.Name)
		if !ok {
			f.Nullable = true
			fields = append(fields, f)
			continue
		}
		dt, ok := mergeType(fields[i].Type, f.Type)
		if !ok {
			return nil, false
		}
		fields[i].Type, fields[i].Nullable = dt, true
	}
	return arrow.StructOf(fields...), true
}

func intWidth(dt arrow.DataType) int {
	switch dt.ID() {
	case arrow.INT8, arrow.UINT8:
		return 8
	case arrow.INT16, arrow.UINT16:
		return 16
	case arrow.INT32, arrow.UINT32:
		return 32
	case arrow.INT64, arrow.UINT64:
		return 64
	}
	return 0
}

func mergeInts(a, b arrow.DataType) arrow.DataType {
	wa, wb := intWidth(a), intWidth(b)
	ua, ub := arrow.IsUnsignedInteger(a.ID()), arrow.IsUnsignedInteger(b.ID())
	if ua == ub {
		if wb > wa {
			return b
		}
		return a
	}
	signed, unsigned, ws, wu := a, wb, wa, wb
	if ua {
		signed, unsigned, ws, wu = b, wa, wb, wa
	}
	if ws > wu {
		return signed
	}
	switch unsigned {
	case 8:
		return arrow.PrimitiveTypes.Int16
	case 16:
		return arrow.PrimitiveTypes.Int32
	}
	return arrow.PrimitiveTypes.Int64 // values above it are refused by the file already
}

func floatWidth(dt arrow.DataType) int {
	switch dt.ID() {
	case arrow.FLOAT16:
		return 16
	case arrow.FLOAT32:
		return 32
	case arrow.FLOAT64:
		return 64
	}
	return 0
}

func isString(dt arrow.DataType) bool {
	return dt.ID() == arrow.STRING || dt.ID() == arrow.LARGE_STRING || dt.ID() == arrow.STRING_VIEW
}

func isBinary(dt arrow.DataType) bool {
	return dt.ID() == arrow.BINARY || dt.ID() == arrow.LARGE_BINARY || dt.ID() == arrow.BINARY_VIEW
}
