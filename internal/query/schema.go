package query

import (
	"bytes"
	"fmt"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/ipc"
)

// FormatSchema is an Arrow IPC stream of the schema alone.
func FormatSchema(schema *arrow.Schema) ([]byte, error) {
	var b bytes.Buffer
	w := ipc.NewWriter(&b, ipc.WithSchema(schema))
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("format schema: %w", err)
	}
	return b.Bytes(), nil
}

// ParseSchema is the inverse of FormatSchema.
func ParseSchema(data []byte) (*arrow.Schema, error) {
	r, err := ipc.NewReader(bytes.NewReader(data))
	if err != nil {
		return nil, fmt.Errorf("parse schema: %w", err)
	}
	defer r.Release()
	return r.Schema(), nil
}
