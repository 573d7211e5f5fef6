package datafile

import (
	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/parquet/metadata"
	"github.com/apache/arrow-go/v18/parquet/pqarrow"

	"tarn.dev/tarn/internal/base/errdef"
)

// ErrRefused is returned by Gate.
var ErrRefused = errdef.New(errdef.InvalidArgument, "catalog.file_refused", "data file refused")

// Gate refuses a file that an Iceberg reader would misread as one with the columns of stored: columns
// without or with other field ids (they are then found by name, or not), timestamps that are not in
// microseconds (their bounds would be taken for microseconds, and filters find nothing), other types.
func Gate(footer *metadata.FileMetaData, stored *arrow.Schema) error {
	got, err := pqarrow.FromParquet(footer.Schema, nil, nil)
	if err != nil {
		return ErrRefused.Errorf("read columns: %w", err)
	}
	if got.NumFields() != stored.NumFields() {
		return ErrRefused.Errorf("the file has %d columns, %d were announced", got.NumFields(), stored.NumFields())
	}
	for i, f := range stored.Fields() {
		if err := gateField(f.Name, got.Field(i), f); err != nil {
			return err
		}
	}
	return nil
}

func gateField(path string, got, want arrow.Field) error {
	if id := metaValue(got.Metadata, fieldIDKey); id != metaValue(want.Metadata, fieldIDKey) {
		return ErrRefused.Errorf("column %s has field id %s, expected %s", path, id, metaValue(want.Metadata, fieldIDKey))
	}
	kids, wantKids := nested(got.Type), nested(want.Type)
	if len(kids) != len(wantKids) || len(kids) == 0 && !sameStored(got.Type, want.Type) {
		return ErrRefused.Errorf("column %s has type %s, expected %s", path, got.Type, want.Type)
	}
	for i, k := range wantKids {
		if err := gateField(path+"."+k.Name, kids[i], k); err != nil {
			return err
		}
	}
	return nil
}

func nested(dt arrow.DataType) []arrow.Field {
	switch t := dt.(type) {
	case *arrow.StructType:
		return t.Fields()
	case *arrow.MapType:
		return []arrow.Field{t.KeyField(), t.ItemField()}
	case arrow.ListLikeType:
		return []arrow.Field{t.ElemField()}
	}
	return nil
}

// sameStored compares leaf types as files have them: strings and binaries have one form there.
func sameStored(a, b arrow.DataType) bool {
	return arrow.TypeEqual(a, b) || isString(a) && isString(b) || isBinary(a) && isBinary(b)
}
