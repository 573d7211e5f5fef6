package query

import (
	"fmt"
	"strings"

	"github.com/apache/arrow-go/v18/arrow"
)

// Interval says how a column's files spell an INTERVAL, which Parquet readers do not agree on.
type Interval string

// The spellings; the zero value is for every other type.
const (
	Nanoseconds Interval = "nanoseconds" // a BIGINT
	Parts       Interval = "parts"       // a struct of months, days and nanoseconds
)

// ColumnOf describes how the engine reads a column of a table: declared is the type that SQL shall see,
// stored the one its files have.
func ColumnOf(fieldID int, name string, declared, stored arrow.DataType) Column {
	c := Column{FieldID: fieldID, Name: name, Type: DuckType(declared)}
	switch t := declared.(type) {
	case *arrow.DurationType:
		c.Type, c.Interval = "BIGINT", Nanoseconds
	case *arrow.MonthIntervalType, *arrow.DayTimeIntervalType, *arrow.MonthDayNanoIntervalType:
		c.Type, c.Interval = DuckType(stored), Parts
	case arrow.DecimalType:
		if t.GetPrecision() > 38 || t.GetScale() < 0 || t.GetScale() > t.GetPrecision() {
			c.Type = DuckType(stored)
		}
	}
	return c
}

// DuckType is the DuckDB type that holds the values of an Arrow type, the same that a scan of an Arrow
// file gives, so that a query has one result type wherever its input lies.
func DuckType(t arrow.DataType) string {
	switch t := t.(type) {
	case *arrow.NullType:
		return "INTEGER"
	case *arrow.BooleanType:
		return "BOOLEAN"
	case *arrow.Int8Type:
		return "TINYINT"
	case *arrow.Int16Type:
		return "SMALLINT"
	case *arrow.Int32Type:
		return "INTEGER"
	case *arrow.Int64Type:
		return "BIGINT"
	case *arrow.Uint8Type:
		return "UTINYINT"
	case *arrow.Uint16Type:
		return "USMALLINT"
	case *arrow.Uint32Type:
		return "UINTEGER"
	case *arrow.Uint64Type:
		return "UBIGINT"
	case *arrow.Float16Type, *arrow.Float32Type:
		return "FLOAT"
	case *arrow.Float64Type:
		return "DOUBLE"
	case *arrow.Date32Type, *arrow.Date64Type:
		return "DATE"
	case *arrow.Time32Type, *arrow.Time64Type:
		return "TIME"
	case *arrow.TimestampType:
		if t.TimeZone != "" {
			return "TIMESTAMPTZ"
		}
		return map[arrow.TimeUnit]string{
			arrow.Second: "TIMESTAMP_S", arrow.Millisecond: "TIMESTAMP_MS",
			arrow.Microsecond: "TIMESTAMP", arrow.Nanosecond: "TIMESTAMP_NS",
		}[t.Unit]
	case *arrow.DurationType, *arrow.MonthIntervalType, *arrow.DayTimeIntervalType, *arrow.MonthDayNanoIntervalType:
		return "INTERVAL"
	case arrow.DecimalType:
		return fmt.Sprintf("DECIMAL(%d, %d)", t.GetPrecision(), t.GetScale())
	case *arrow.BinaryType, *arrow.LargeBinaryType, *arrow.BinaryViewType, *arrow.FixedSizeBinaryType:
		return "BLOB"
	case *arrow.DictionaryType:
		return DuckType(t.ValueType)
	case *arrow.RunEndEncodedType:
		return DuckType(t.Encoded())
	case arrow.ExtensionType:
		return DuckType(t.StorageType())
	case *arrow.StructType:
		fields := make([]string, t.NumFields())
		for i, f := range t.Fields() {
			fields[i] = `"` + strings.ReplaceAll(f.Name, `"`, `""`) + `" ` + DuckType(f.Type)
		}
		return "STRUCT(" + strings.Join(fields, ", ") + ")"
	case *arrow.MapType:
		return "MAP(" + DuckType(t.KeyType()) + ", " + DuckType(t.ItemType()) + ")"
	case *arrow.FixedSizeListType:
		return fmt.Sprintf("%s[%d]", DuckType(t.Elem()), t.Len())
	case arrow.ListLikeType:
		return DuckType(t.Elem()) + "[]"
	}
	return "VARCHAR" // strings of all kinds
}
