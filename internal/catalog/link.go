package catalog

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/google/uuid"
	"github.com/zeebo/blake3"

	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/catalog/datafile"
	"tarn.dev/tarn/internal/external"
	"tarn.dev/tarn/internal/lake"
)

// ErrLinked is returned where the rows of a table would have to be ours, and are in files of somebody else.
var ErrLinked = errdef.New(errdef.FailedPrecondition, "catalog.linked", "the table is a link")

// LinkedProperty of an entry says that the table's rows are in files of somebody else, and of which format those are.
const LinkedProperty = "tarn.linked"

// linkedParquet is the one value of LinkedProperty.
const linkedParquet = "parquet"

// Linked is a table whose rows are in Parquet files of somebody else: columns go by name.
type Linked struct {
	Schema *arrow.Schema // of all files together
	Rows   int64
	Files  []external.State
}

// linkVersion is the version of linkFile, docs/formats/table-link.md.
const linkVersion = 1

// linkFile is the metadata of a linked table.
type linkFile struct {
	Version int            `json:"version"`
	Schema  []byte         `json:"schema"`
	Rows    int64          `json:"rows"`
	Files   []linkOriginal `json:"files"`
}

type linkOriginal struct {
	URL      string    `json:"url"`
	ETag     string    `json:"etag,omitempty"`
	Size     int64     `json:"size"`
	Modified time.Time `json:"modified,omitzero"`
}

// IsLinked reports whether the rows of a table are in files of somebody else.
func IsLinked(e lake.Entry) bool {
	return e.Kind == lake.KindTable && e.Properties[LinkedProperty] != ""
}

// Link makes a table of files that stay where they are. Its identity is what was recorded of them.
func (c *Catalog) Link(ctx context.Context, l Linked) (lake.Entry, error) {
	schema, err := datafile.EncodeSchema(l.Schema)
	if err != nil {
		return lake.Entry{}, err
	}
	file := linkFile{Version: linkVersion, Schema: schema, Rows: l.Rows}
	var size int64
	for _, f := range l.Files {
		size += f.Size
		file.Files = append(file.Files, linkOriginal(f))
	}
	data, err := json.Marshal(file)
	if err != nil {
		return lake.Entry{}, fmt.Errorf("encode links: %w", err)
	}
	name := provedName(uuid.New(), "00001-"+uuid.NewString(), ".link.json", data)
	if err := c.blobs.Put(ctx, name, bytes.NewReader(data)); err != nil {
		return lake.Entry{}, err
	}
	return lake.Entry{
		Kind: lake.KindTable, Version: l.version(), Schema: Fingerprint(l.Schema),
		Properties: map[string]string{LinkedProperty: linkedParquet},
		Location:   lake.Location{Table: name, Size: size, Rows: l.Rows},
	}, nil
}

// version is the identity of the rows: of the files, in any order.
func (l Linked) version() string {
	lines := make([]string, len(l.Files))
	for i, f := range l.Files {
		lines[i] = f.Version()
	}
	slices.Sort(lines)
	h := blake3.NewDeriveKey("tarn.dev 2026 table links v1")
	for _, line := range lines {
		_, _ = h.WriteString(line + "\n") // a hash never fails
	}
	return "links1:" + hex.EncodeToString(h.Sum(nil)[:16])
}

// Linked reads which files a linked table is.
func (c *Catalog) Linked(ctx context.Context, e lake.Entry) (Linked, error) {
	at := e.Location.Table
	if format := e.Properties[LinkedProperty]; format != linkedParquet {
		return Linked{}, ErrCorrupt.Errorf("a link to files of format %q; this program knows %s", format, linkedParquet)
	}
	data, err := c.small(ctx, at)
	if err != nil {
		return Linked{}, fmt.Errorf("read links: %w", err)
	}
	var file linkFile
	if err := json.Unmarshal(data, &file); err != nil {
		return Linked{}, ErrCorrupt.Errorf("read links %s: %w", at, err)
	}
	if file.Version != linkVersion {
		return Linked{}, ErrCorrupt.Errorf("read links %s: version %d is unknown to this program", at, file.Version)
	}
	l := Linked{Rows: file.Rows}
	for _, f := range file.Files {
		l.Files = append(l.Files, external.State(f))
	}
	if l.Schema, err = datafile.DecodeSchema(file.Schema); err != nil {
		return Linked{}, ErrCorrupt.Errorf("read links %s: %w", at, err)
	}
	if l.version() != e.Version || Fingerprint(l.Schema) != e.Schema || l.Rows != e.Location.Rows {
		return Linked{}, ErrCorrupt.Errorf("the links %s are not those of version %s", at, e.Version)
	}
	return l, nil
}

// ours refuses a linked table where its rows would have to be ours.
func ours(name string, e lake.Entry) error {
	if !IsLinked(e) {
		return nil
	}
	return ErrLinked.Errorf("%s is a link: its rows are in files of somebody else, and only read", name).
		WithNext(fmt.Sprintf(`keep a copy of them: tarn query 'CREATE OR REPLACE TABLE "%s" AS FROM "%s"'`, name, name))
}
