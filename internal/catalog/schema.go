package catalog

import (
	"strconv"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/iceberg-go"

	"tarn.dev/tarn/internal/base/errdef"
)

// icebergFields spells out stored Arrow fields, which carry their field ids, as those of an Iceberg
// schema. All are optional: a column may be added to files that lack it.
func icebergFields(fields []arrow.Field) ([]iceberg.NestedField, error) {
	out := make([]iceberg.NestedField, len(fields))
	for i, f := range fields {
		t, err := icebergType(f.Type)
		if err != nil {
			return nil, err
		}
		id, err := fieldID(f)
		if err != nil {
			return nil, err
		}
		out[i] = iceberg.NestedField{ID: id, Name: f.Name, Type: t}
	}
	return out, nil
}

func fieldID(f arrow.Field) (int, error) {
	text, _ := f.Metadata.GetValue("PARQUET:field_id")
	id, err := strconv.Atoi(text)
	if err != nil {
		return 0, errdef.Newf(errdef.Internal, "catalog.field_id", "column %s has no field id", f.Name)
	}
	return id, nil
}

func icebergType(dt arrow.DataType) (iceberg.Type, error) {
	switch t := dt.(type) {
	case *arrow.BooleanType:
		return iceberg.PrimitiveTypes.Bool, nil
	case *arrow.Int32Type:
		return iceberg.PrimitiveTypes.Int32, nil
	case *arrow.Int64Type:
		return iceberg.PrimitiveTypes.Int64, nil
	case *arrow.Float32Type:
		return iceberg.PrimitiveTypes.Float32, nil
	case *arrow.Float64Type:
		return iceberg.PrimitiveTypes.Float64, nil
	case *arrow.StringType, *arrow.LargeStringType:
		return iceberg.PrimitiveTypes.String, nil
	case *arrow.BinaryType, *arrow.LargeBinaryType:
		return iceberg.PrimitiveTypes.Binary, nil
	case *arrow.FixedSizeBinaryType:
		return iceberg.FixedTypeOf(t.ByteWidth), nil
	case *arrow.Decimal128Type:
		return iceberg.DecimalTypeOf(int(t.Precision), int(t.Scale)), nil
	case *arrow.Date32Type:
		return iceberg.PrimitiveTypes.Date, nil
	case *arrow.Time64Type:
		return iceberg.PrimitiveTypes.Time, nil
	case *arrow.TimestampType:
		if t.TimeZone != "" {
			return iceberg.PrimitiveTypes.TimestampTz, nil
		}
		return iceberg.PrimitiveTypes.Timestamp, nil
	case *arrow.StructType:
		fields, err := icebergFields(t.Fields())
		if err != nil {
			return nil, err
		}
		return &iceberg.StructType{FieldList: fields}, nil
	case *arrow.MapType:
		fields, err := icebergFields([]arrow.Field{t.KeyField(), t.ItemField()})
		if err != nil {
			return nil, err
		}
		return &iceberg.MapType{KeyID: fields[0].ID, KeyType: fields[0].Type, ValueID: fields[1].ID, ValueType: fields[1].Type}, nil
	case *arrow.ListType:
		fields, err := icebergFields([]arrow.Field{t.ElemField()})
		if err != nil {
			return nil, err
		}
		return &iceberg.ListType{ElementID: fields[0].ID, Element: fields[0].Type}, nil
	}
	return nil, errdef.Newf(errdef.Internal, "catalog.type", "type %s cannot be stored", dt)
}
