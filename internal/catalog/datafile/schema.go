// Package datafile turns Arrow record batches into the Parquet files of an Iceberg v2 table and back:
// field ids in the footer, types that Iceberg lacks coerced when nothing is lost, files cut near
// 64 MiB, the data version of each file computed while it is written and kept in its name. It touches
// a local directory only, so an engine child can write files that the server then registers.
package datafile

import (
	"bytes"
	"strconv"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/ipc"

	"tarn.dev/tarn/internal/base/errdef"
)

// Errors of this package.
var (
	// ErrLossy is returned when a value does not survive the coercion to what Iceberg v2 can hold; it
	// names the column and the first such value.
	ErrLossy = errdef.New(errdef.InvalidArgument, "catalog.type_lossy", "value would be changed")
	// ErrUnsupported is returned for a type that cannot be stored at all.
	ErrUnsupported = errdef.New(errdef.InvalidArgument, "catalog.type_unsupported", "type cannot be stored")
	// ErrMismatch is returned when rows do not fit the columns that a table has.
	ErrMismatch = errdef.New(errdef.InvalidArgument, "catalog.type_mismatch", "types do not fit")
	// ErrColumns is returned for a schema no table can have: no column, an empty or a repeated name.
	ErrColumns = errdef.New(errdef.InvalidArgument, "catalog.columns", "no such columns are possible")
	// ErrCorrupt is returned when a data file is not what was written.
	ErrCorrupt = errdef.New(errdef.DataLoss, "catalog.file_corrupt", "data file is damaged")
)

// ID is the Iceberg field id of a column or of a field within one. The parts of a list are called
// element, those of a map key and value.
type ID struct {
	Name string `json:"name"`
	ID   int    `json:"id"`
	Kids []ID   `json:"kids,omitempty"`
}

// Layout is what a writer must know of the table that its files will join. The zero Layout with
// First 1 is that of a new table.
type Layout struct {
	Schema []byte `json:"schema,omitempty"` // Arrow IPC; what the table has
	IDs    []ID   `json:"ids,omitempty"`
	First  int    `json:"first"`          // first field id that new columns may take
	Limit  int    `json:"limit"`          // and the one they may not; 0: unlimited
	Append bool   `json:"append"`         // columns must fit those the table has
	Table  string `json:"table"`          // named in errors
	UUID   string `json:"uuid,omitempty"` // of the table; ids mean nothing in another one
}

const fieldIDKey = "PARQUET:field_id"

// EncodeSchema and DecodeSchema carry a schema as bytes: an Arrow IPC stream without batches.
func EncodeSchema(s *arrow.Schema) ([]byte, error) {
	var buf bytes.Buffer
	w := ipc.NewWriter(&buf, ipc.WithSchema(s))
	if err := w.Close(); err != nil {
		return nil, err
	}
	return buf.Bytes(), nil
}

// DecodeSchema is the inverse of EncodeSchema.
func DecodeSchema(b []byte) (*arrow.Schema, error) {
	r, err := ipc.NewReader(bytes.NewReader(b))
	if err != nil {
		return nil, ErrCorrupt.Errorf("read schema: %w", err)
	}
	defer r.Release()
	return r.Schema(), nil
}

// Plain is schema without dictionaries, run ends and extension types: the values themselves. Reader
// yields it.
func Plain(s *arrow.Schema) *arrow.Schema {
	fields := s.Fields()
	for i := range fields {
		fields[i] = arrow.Field{Name: fields[i].Name, Type: plain(fields[i].Type), Nullable: true}
	}
	return arrow.NewSchema(fields, nil)
}

func plain(dt arrow.DataType) arrow.DataType {
	switch t := dt.(type) {
	case *arrow.DictionaryType:
		return plain(t.ValueType)
	case *arrow.RunEndEncodedType:
		return plain(t.Encoded())
	case arrow.ExtensionType:
		return plain(t.StorageType())
	case *arrow.StructType:
		fields := t.Fields()
		for i := range fields {
			fields[i] = arrow.Field{Name: fields[i].Name, Type: plain(fields[i].Type), Nullable: true}
		}
		return arrow.StructOf(fields...)
	case *arrow.MapType:
		return arrow.MapOf(plain(t.KeyType()), plain(t.ItemType()))
	case *arrow.FixedSizeListType:
		return arrow.FixedSizeListOf(t.Len(), plain(t.Elem()))
	case arrow.ListLikeType:
		return arrow.ListOf(plain(t.Elem()))
	}
	return dt
}

// Check refuses a schema that no table can have.
func Check(s *arrow.Schema) error {
	if s.NumFields() == 0 {
		return ErrColumns.Errorf("a table needs at least one column")
	}
	seen := make(map[string]bool, s.NumFields())
	for i, f := range s.Fields() {
		switch {
		case f.Name == "":
			return ErrColumns.Errorf("column %d has no name", i+1)
		case seen[f.Name]:
			return ErrColumns.Errorf("two columns are named %q", f.Name)
		}
		seen[f.Name] = true
	}
	return nil
}

// Stored returns the columns of s as files hold them, with the field ids of ids.
func Stored(s *arrow.Schema, ids []ID) (*arrow.Schema, error) {
	fields := make([]arrow.Field, s.NumFields())
	for i, f := range s.Fields() {
		id := find(ids, f.Name)
		if id == nil {
			return nil, errdef.Newf(errdef.Internal, "catalog.field_id", "column %s has no field id", f.Name)
		}
		var err error
		if fields[i], err = stored(f.Name, f.Name, f.Type, id); err != nil {
			return nil, err
		}
	}
	return arrow.NewSchema(fields, nil), nil
}

func find(ids []ID, name string) *ID {
	for i := range ids {
		if ids[i].Name == name {
			return &ids[i]
		}
	}
	return nil
}

func stored(path, name string, dt arrow.DataType, id *ID) (arrow.Field, error) {
	f := arrow.Field{Name: name, Nullable: true, Metadata: idMeta(id.ID)}
	kid := func(name string, dt arrow.DataType) (arrow.Field, error) {
		k := find(id.Kids, name)
		if k == nil {
			return arrow.Field{}, errdef.Newf(errdef.Internal, "catalog.field_id", "%s.%s has no field id", path, name)
		}
		return stored(path+"."+name, name, dt, k)
	}
	switch t := plain(dt).(type) {
	case *arrow.StructType:
		if t.NumFields() == 0 {
			return f, ErrUnsupported.Errorf("column %s is a struct without fields, which Parquet cannot hold", path)
		}
		fields := make([]arrow.Field, t.NumFields())
		for i, g := range t.Fields() {
			var err error
			if fields[i], err = kid(g.Name, g.Type); err != nil {
				return f, err
			}
		}
		f.Type = arrow.StructOf(fields...)
	case *arrow.MapType:
		k, err := kid("key", t.KeyType())
		if err != nil {
			return f, err
		}
		v, err := kid("value", t.ItemType())
		if err != nil {
			return f, err
		}
		k.Nullable = false
		f.Type = arrow.MapOfFields(k, v)
	case arrow.ListLikeType:
		e, err := kid("element", t.Elem())
		if err != nil {
			return f, err
		}
		f.Type = arrow.ListOfField(e)
	default:
		st, err := storedLeaf(path, t)
		if err != nil {
			return f, err
		}
		f.Type = st
		if s, ok := st.(*arrow.StructType); ok { // an interval
			fields := s.Fields()
			for i := range fields {
				k := find(id.Kids, fields[i].Name)
				if k == nil {
					return f, errdef.Newf(errdef.Internal, "catalog.field_id", "%s.%s has no field id", path, fields[i].Name)
				}
				fields[i].Metadata = idMeta(k.ID)
			}
			f.Type = arrow.StructOf(fields...)
		}
	}
	return f, nil
}

func idMeta(id int) arrow.Metadata {
	return arrow.NewMetadata([]string{fieldIDKey}, []string{strconv.Itoa(id)})
}

// intervalType holds what no Parquet reader agrees on: months, days and nanoseconds.
var intervalType = arrow.StructOf(
	arrow.Field{Name: "months", Type: arrow.PrimitiveTypes.Int32, Nullable: true},
	arrow.Field{Name: "days", Type: arrow.PrimitiveTypes.Int32, Nullable: true},
	arrow.Field{Name: "nanoseconds", Type: arrow.PrimitiveTypes.Int64, Nullable: true},
)

// storedLeaf is the type of Iceberg v2 (as Arrow) that holds the values of dt.
func storedLeaf(path string, dt arrow.DataType) (arrow.DataType, error) {
	switch t := dt.(type) {
	case *arrow.NullType, *arrow.Int8Type, *arrow.Int16Type, *arrow.Uint8Type, *arrow.Uint16Type, *arrow.Int32Type:
		return arrow.PrimitiveTypes.Int32, nil
	case *arrow.Uint32Type, *arrow.Uint64Type, *arrow.Int64Type, *arrow.DurationType: // durations in nanoseconds
		return arrow.PrimitiveTypes.Int64, nil
	case *arrow.Float16Type, *arrow.Float32Type:
		return arrow.PrimitiveTypes.Float32, nil
	case *arrow.Float64Type, *arrow.BooleanType:
		return dt, nil
	case *arrow.StringType, *arrow.LargeStringType, *arrow.BinaryType, *arrow.LargeBinaryType:
		return dt, nil
	case *arrow.StringViewType: // 64-bit offsets: a batch of views may hold more than 2 GiB
		return arrow.BinaryTypes.LargeString, nil
	case *arrow.BinaryViewType:
		return arrow.BinaryTypes.LargeBinary, nil
	case *arrow.FixedSizeBinaryType:
		if t.ByteWidth == 0 {
			return arrow.BinaryTypes.LargeBinary, nil
		}
		return dt, nil
	case *arrow.Date32Type, *arrow.Date64Type:
		return arrow.FixedWidthTypes.Date32, nil
	case *arrow.Time32Type, *arrow.Time64Type:
		return arrow.FixedWidthTypes.Time64us, nil
	case *arrow.TimestampType:
		if t.TimeZone != "" {
			return arrow.FixedWidthTypes.Timestamp_us, nil // which is in UTC
		}
		return &arrow.TimestampType{Unit: arrow.Microsecond}, nil
	case arrow.DecimalType:
		return storedDecimal(t), nil
	case *arrow.MonthIntervalType, *arrow.DayTimeIntervalType, *arrow.MonthDayNanoIntervalType:
		return intervalType, nil
	}
	return nil, ErrUnsupported.Errorf("column %s has type %s, which an Iceberg table cannot hold", path, dt).
		WithNext("cast the column to another type")
}

// storedDecimal keeps the scale where Iceberg can (0 to 38) and otherwise comes as near as it can;
// values that then do not fit are refused as they are met.
func storedDecimal(t arrow.DecimalType) arrow.DataType {
	p, s := t.GetPrecision(), t.GetScale()
	if s < 0 {
		p, s = p-s, 0
	}
	if s > 38 {
		s = 38
	}
	return &arrow.Decimal128Type{Precision: max(1, min(p, 38)), Scale: s}
}

// allocator hands out the field ids of new columns.
type allocator struct{ next, limit int }

func (a *allocator) take(path string) (int, error) {
	if a.limit > 0 && a.next >= a.limit {
		return 0, ErrColumns.Errorf("column %s: more new columns than one write may add", path)
	}
	a.next++
	return a.next - 1, nil
}

// identify gives a column its field ids: those of have where the types fit, new ones elsewhere.
func (a *allocator) identify(path, name string, dt, haveType arrow.DataType, have *ID) (ID, error) {
	dt = plain(dt)
	id := ID{Name: name}
	if have != nil {
		haveType = plain(haveType)
		if _, ok := mergeType(haveType, dt); !ok || (haveType.ID() == arrow.NULL) != (dt.ID() == arrow.NULL) {
			have = nil // an id is bound to a type for good, and a null column is stored as int
		}
	}
	var err error
	if have != nil {
		id.ID = have.ID
	} else if id.ID, err = a.take(path); err != nil {
		return id, err
	}
	kid := func(name string, dt, hadType arrow.DataType) {
		if err != nil {
			return
		}
		var had *ID
		if have != nil && hadType != nil {
			had = find(have.Kids, name)
		}
		var k ID
		if k, err = a.identify(path+"."+name, name, dt, hadType, had); err == nil {
			id.Kids = append(id.Kids, k)
		}
	}
	switch t := dt.(type) {
	case *arrow.StructType:
		old, _ := haveType.(*arrow.StructType)
		for _, f := range t.Fields() {
			var had arrow.DataType
			if old != nil {
				if g, ok := old.FieldByName(f.Name); ok {
					had = g.Type
				}
			}
			kid(f.Name, f.Type, had)
		}
	case *arrow.MapType:
		var hadKey, hadValue arrow.DataType
		if old, ok := haveType.(*arrow.MapType); ok {
			hadKey, hadValue = old.KeyType(), old.ItemType()
		}
		kid("key", t.KeyType(), hadKey)
		kid("value", t.ItemType(), hadValue)
	case arrow.ListLikeType:
		var had arrow.DataType
		if old, ok := haveType.(arrow.ListLikeType); ok {
			had = old.Elem()
		}
		kid("element", t.Elem(), had)
	case *arrow.MonthIntervalType, *arrow.DayTimeIntervalType, *arrow.MonthDayNanoIntervalType:
		for _, f := range intervalType.Fields() {
			kid(f.Name, f.Type, f.Type)
		}
	}
	return id, err
}
