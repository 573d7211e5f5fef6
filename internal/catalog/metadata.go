package catalog

import (
	"encoding/json"
	"fmt"
	"slices"

	"github.com/apache/iceberg-go"
	"github.com/google/uuid"
)

// metadata is that of an Iceberg v2 table with one snapshot at most. It is read and written by us: iceberg-go's package table
// would keep logs and number field ids by itself, and takes 8 ms at the start of each process for scans that nobody calls.
type metadata struct {
	FormatVersion   int               `json:"format-version"`
	TableUUID       uuid.UUID         `json:"table-uuid"`
	Location        string            `json:"location"`
	LastSequence    int64             `json:"last-sequence-number"`
	LastUpdated     int64             `json:"last-updated-ms"`
	LastColumnID    int               `json:"last-column-id"`
	CurrentSchema   int               `json:"current-schema-id"`
	Schemas         []*iceberg.Schema `json:"schemas"`
	DefaultSpec     int               `json:"default-spec-id"`
	Specs           []json.RawMessage `json:"partition-specs"`
	LastPartition   int               `json:"last-partition-id"`
	DefaultSort     int               `json:"default-sort-order-id"`
	SortOrders      []json.RawMessage `json:"sort-orders"`
	Properties      map[string]string `json:"properties"`
	CurrentSnapshot *int64            `json:"current-snapshot-id,omitempty"`
	Snapshots       []*snapshot       `json:"snapshots,omitempty"`
	Refs            map[string]any    `json:"refs,omitempty"`
	SnapshotLog     []map[string]any  `json:"snapshot-log"`
	MetadataLog     []map[string]any  `json:"metadata-log"`
}

// snapshot is the list of a table's manifests. It has no parent: that is another metadata file's.
type snapshot struct {
	ID           int64             `json:"snapshot-id"`
	Sequence     int64             `json:"sequence-number"`
	Millis       int64             `json:"timestamp-ms"`
	ManifestList string            `json:"manifest-list"`
	Summary      map[string]string `json:"summary"`
	SchemaID     int               `json:"schema-id"`
}

// What a snapshot's summary says was done.
const (
	opAppend    = "append"
	opOverwrite = "overwrite"
	opReplace   = "replace" // the same rows in other files, or elsewhere
)

func parseMetadata(data []byte) (*metadata, error) {
	m := &metadata{CurrentSchema: -1}
	if err := json.Unmarshal(data, m); err != nil {
		return nil, err
	}
	switch {
	case m.FormatVersion != 2:
		return nil, fmt.Errorf("it has format version %d", m.FormatVersion)
	case m.TableUUID == uuid.Nil:
		return nil, fmt.Errorf("it has no table-uuid")
	case m.schema() == nil:
		return nil, fmt.Errorf("it has no schema %d", m.CurrentSchema)
	case m.CurrentSnapshot != nil && (m.snapshot() == nil || m.snapshot().ManifestList == ""):
		return nil, fmt.Errorf("it has no manifests of snapshot %d", *m.CurrentSnapshot)
	}
	return m, nil
}

func (m *metadata) schema() *iceberg.Schema {
	i := slices.IndexFunc(m.Schemas, func(s *iceberg.Schema) bool { return s != nil && s.ID == m.CurrentSchema })
	if i < 0 {
		return nil
	}
	return m.Schemas[i]
}

// snapshot is the current one, nil for none.
func (m *metadata) snapshot() *snapshot {
	i := slices.IndexFunc(m.Snapshots, func(s *snapshot) bool { return m.CurrentSnapshot != nil && s != nil && s.ID == *m.CurrentSnapshot })
	if i < 0 {
		return nil
	}
	return m.Snapshots[i]
}
