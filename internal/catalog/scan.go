package catalog

import (
	"context"
	"encoding/hex"
	"fmt"
	"iter"
	"path"
	"slices"
	"strings"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/iceberg-go"
	"github.com/zeebo/blake3"

	"tarn.dev/tarn/internal/catalog/datafile"
	"tarn.dev/tarn/internal/catalog/dataver"
	"tarn.dev/tarn/internal/lake"
)

// Column is one column of a table: what it is declared to be, what its files hold, and the field id by
// which it is found in them.
type Column struct {
	FieldID  int
	Name     string
	Declared arrow.DataType
	Stored   arrow.DataType // as Iceberg has it; of narrower type in older files
}

// ScanFile is one data file of a table.
type ScanFile struct {
	Name  string // of the blob
	URI   string // where it lies now
	Rows  int64
	Bytes int64
}

// Scan is what a reader needs to read a table.
type Scan struct {
	Schema  *arrow.Schema
	IDs     []datafile.ID
	Columns []Column
	Files   []ScanFile
}

// Scan lists the columns and data files of a table.
func (c *Catalog) Scan(ctx context.Context, e lake.Entry) (Scan, error) {
	s, err := c.load(ctx, e)
	if err != nil {
		return Scan{}, err
	}
	out := Scan{Schema: s.schema, IDs: s.ids}
	stored, err := datafile.Stored(s.schema, s.ids)
	if err != nil {
		return Scan{}, err
	}
	for i, f := range s.schema.Fields() {
		id, err := fieldID(stored.Field(i))
		if err != nil {
			return Scan{}, err
		}
		out.Columns = append(out.Columns, Column{FieldID: id, Name: f.Name, Declared: f.Type, Stored: stored.Field(i).Type})
	}
	files, err := c.files(ctx, s)
	if err != nil {
		return Scan{}, err
	}
	if len(files.deletes) > 0 {
		return Scan{}, ErrForeign.Errorf("the table has %d delete files of another engine; let it rewrite the table", len(files.deletes))
	}
	for _, name := range files.names() {
		f := files.data[name].DataFile()
		out.Files = append(out.Files, ScanFile{Name: dataName(s.uuid, name), URI: c.blobs.URI(dataName(s.uuid, name)), Rows: f.Count(), Bytes: f.FileSizeBytes()})
	}
	return out, nil
}

// Rows yields all rows of a table as batches of its plain schema (datafile.Plain), file by file.
func (c *Catalog) Rows(ctx context.Context, e lake.Entry) iter.Seq2[arrow.RecordBatch, error] {
	return func(yield func(arrow.RecordBatch, error) bool) {
		scan, err := c.Scan(ctx, e)
		if err != nil {
			yield(nil, err)
			return
		}
		plain := datafile.Plain(scan.Schema)
		for _, f := range scan.Files {
			src, err := openData(ctx, c.blobs, f.Name)
			if err != nil {
				yield(nil, err)
				return
			}
			for rec, err := range datafile.Read(ctx, src, plain, scan.IDs) {
				if !yield(rec, err) || err != nil {
					return
				}
			}
		}
	}
}

// fileSet is the live files of a table by their own names.
type fileSet struct {
	data    map[string]iceberg.ManifestEntry
	deletes []iceberg.ManifestEntry
}

func (f fileSet) names() []string {
	names := make([]string, 0, len(f.data))
	for n := range f.data {
		names = append(names, n)
	}
	slices.Sort(names)
	return names
}

func (c *Catalog) files(ctx context.Context, s *state) (fileSet, error) {
	list, err := c.manifests(ctx, s)
	if err != nil {
		return fileSet{}, err
	}
	return c.entries(ctx, list)
}

// entries reads manifests.
func (c *Catalog) entries(ctx context.Context, list []iceberg.ManifestFile) (fileSet, error) {
	set := fileSet{data: map[string]iceberg.ManifestEntry{}}
	for _, m := range list {
		for e, err := range m.Entries(fileIO{ctx, c}, true) {
			if err != nil {
				return fileSet{}, ErrCorrupt.Errorf("read manifest %s: %w", m.FilePath(), err)
			}
			if contentOf(e.DataFile()) == iceberg.ManifestContentData {
				set.data[path.Base(e.DataFile().FilePath())] = e
			} else {
				set.deletes = append(set.deletes, e)
			}
		}
	}
	return set, nil
}

// version is the data version of what t will hold, and its rows.
func (c *Catalog) version(ctx context.Context, t *draft, list []iceberg.ManifestFile) (string, int64, error) {
	sum := t.sum
	known := t.rowsKnown
	for _, f := range t.add {
		s, ok := datafile.SumOf(path.Base(f.FilePath()), f.Count())
		sum, known = sum.Add(s), known && ok
	}
	if known {
		return sum.String(), sum.Rows, nil
	}
	files, err := c.entries(ctx, list)
	if err != nil {
		return "", 0, err
	}
	return versionOf(files)
}

// versionOf is the data version of files: of their rows, if the name of each tells, else of the files.
func versionOf(files fileSet) (string, int64, error) {
	var sum dataver.Sum
	known := len(files.deletes) == 0
	var rows int64
	lines := make([]string, 0, len(files.data)+len(files.deletes))
	for name, e := range files.data {
		f := e.DataFile()
		s, ok := datafile.SumOf(name, f.Count())
		sum, known, rows = sum.Add(s), known && ok, rows+f.Count()
		lines = append(lines, fmt.Sprintf("data %s %d %d\n", name, f.FileSizeBytes(), f.Count()))
	}
	if known {
		return sum.String(), sum.Rows, nil
	}
	for _, e := range files.deletes {
		f := e.DataFile()
		lines = append(lines, fmt.Sprintf("delete %s %d %d\n", path.Base(f.FilePath()), f.FileSizeBytes(), f.Count()))
	}
	slices.Sort(lines)
	h := blake3.NewDeriveKey("tarn.dev 2026 table files v1")
	_, _ = h.WriteString(strings.Join(lines, "")) // a hash never fails
	return "files1:" + hex.EncodeToString(h.Sum(nil)[:16]), rows, nil
}
