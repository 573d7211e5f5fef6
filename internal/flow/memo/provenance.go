package memo

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/lake"
)

// Kinds of provenance.
const (
	ByStep   = "step"
	ByImport = "import"
	ByWrite  = "write"
	ByLink   = "link"
	ByCheck  = "check"
)

// Provenance says how data came about. It is immutable and lives as long as the data.
type Provenance struct {
	Version    int          `json:"version"`
	Kind       string       `json:"kind"`
	Asset      string       `json:"asset,omitempty"`
	Function   string       `json:"function,omitempty"`
	File       string       `json:"file,omitempty"`
	Run        string       `json:"run,omitempty"`
	Author     string       `json:"author,omitempty"`
	Time       time.Time    `json:"time"`
	Snapshot   lake.Hash    `json:"snapshot"`
	Key        Key          `json:"key,omitempty"`
	Components *Components  `json:"components,omitempty"`
	Inputs     []Source     `json:"inputs,omitempty"`
	Source     []FileSource `json:"source,omitempty"`
	Statement  string       `json:"statement,omitempty"`
	Level      string       `json:"level,omitempty"`
	Reported   []Reported   `json:"reported,omitempty"`
}

// Reported is a number (metric) or a fact (metadata) that a function told of its result.
type Reported struct {
	Kind  string          `json:"kind"`
	Name  string          `json:"name"`
	Value json.RawMessage `json:"value"`
}

// Source is one input as it was read.
type Source struct {
	Param      string    `json:"param"`
	Kind       string    `json:"kind"`
	Key        string    `json:"key"` // key in the tree
	Commit     string    `json:"commit,omitempty"`
	Identity   string    `json:"identity"`
	Rows       int64     `json:"rows,omitempty"`
	Provenance lake.Hash `json:"provenance"`
}

// FileSource is one file that was imported, or linked: then Path is its URL, and Hash tells what was recorded of it.
type FileSource struct {
	Path string `json:"path"`
	Size int64  `json:"size"`
	Hash string `json:"hash"`
}

// PutProvenance stores p.
func PutProvenance(ctx context.Context, b *lake.Batch, p Provenance) (lake.Hash, error) {
	p.Version = 1
	body, err := json.Marshal(p)
	if err != nil {
		return lake.Hash{}, fmt.Errorf("encode provenance: %w", err)
	}
	return b.Put(ctx, lake.TypeRecord, body)
}

// GetProvenance reads a record; the zero hash has none.
func GetProvenance(ctx context.Context, l *lake.Lake, id lake.Hash) (*Provenance, error) {
	if id.IsZero() {
		return nil, nil
	}
	body, err := l.Get(ctx, lake.TypeRecord, id)
	if err != nil {
		return nil, fmt.Errorf("read provenance %s: %w", id, err)
	}
	var p Provenance
	if err := json.Unmarshal(body, &p); err != nil {
		return nil, errdef.Newf(errdef.DataLoss, "memo.provenance", "provenance %s: %w", id, err)
	}
	return &p, nil
}
