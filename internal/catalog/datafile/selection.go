package datafile

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"math"
	"slices"
	"strings"

	"github.com/apache/arrow-go/v18/parquet/metadata"
	"github.com/apache/arrow-go/v18/parquet/schema"
)

// Need is what one scan of a table reads: columns, of rows for which all conditions hold. It may be asked for more than it
// will read, never for less.
type Need struct {
	All   bool        `json:",omitempty"` // every column
	IDs   []int       `json:",omitempty"` // field ids of columns
	Names []string    `json:",omitempty"` // of columns, of files that have no field ids; as SQL compares names
	Where []Condition `json:",omitempty"`
}

// reads says whether a scan reads the column with a leaf.
func (n Need) reads(footer *metadata.FileMetaData, leaf int) bool {
	root := footer.Schema.ColumnRoot(leaf)
	return n.All || slices.Contains(n.IDs, int(root.FieldID())) ||
		slices.ContainsFunc(n.Names, func(name string) bool { return strings.EqualFold(name, root.Name()) })
}

// Condition holds for a row if one of its comparisons does.
type Condition struct {
	ID  int // field id of the column
	Any []Comparison
}

// Comparison compares a column with a constant: exactly one of Int, Float and Text. Int is also days of a date, and
// microseconds of a time or timestamp. It does not hold for null.
type Comparison struct {
	Op    Op
	Int   *int64   `json:",omitempty"`
	Float *float64 `json:",omitempty"`
	Text  *string  `json:",omitempty"`
}

// Op compares a column (left) with a constant (right).
type Op string

// The comparisons.
const (
	Equal        Op = "="
	Less         Op = "<"
	LessEqual    Op = "<="
	Greater      Op = ">"
	GreaterEqual Op = ">="
)

// Span is a part of a file.
type Span struct{ Offset, Length int64 }

// Selection is what of a file is needed: whole row groups, and of these the bytes of some columns.
type Selection struct {
	Groups []int
	Spans  []Span
}

// Select finds what scans need of a file of size bytes. A row group is left out if its statistics say that no scan
// finds a row in it. Without scans all row groups stay, and no column does.
func Select(footer *metadata.FileMetaData, size int64, needs []Need) (s Selection, err error) {
	err = decode("select parts", func() error {
		for g := range footer.NumRowGroups() {
			group := footer.RowGroup(g)
			if len(needs) > 0 && !slices.ContainsFunc(needs, func(n Need) bool { return n.mayFind(footer, g) }) {
				continue
			}
			s.Groups = append(s.Groups, g)
			for i := range footer.Schema.NumColumns() {
				if !slices.ContainsFunc(needs, func(n Need) bool { return n.reads(footer, i) }) {
					continue
				}
				chunk, err := group.ColumnChunk(i)
				if err != nil {
					return err
				}
				span := spanOf(chunk)
				if span.Offset < 0 || span.Length < 0 || span.Offset > size || span.Length > size-span.Offset {
					return ErrCorrupt.Errorf("column %s lies outside of the file", footer.Schema.Column(i).Path())
				}
				s.Spans = append(s.Spans, span)
			}
		}
		return nil
	})
	return s, err
}

// spanOf is where the pages of a column in a row group are.
func spanOf(chunk *metadata.ColumnChunkMetaData) Span {
	at := chunk.DataPageOffset()
	if chunk.HasDictionaryPage() && chunk.DictionaryPageOffset() > 0 {
		at = min(at, chunk.DictionaryPageOffset())
	}
	return Span{at, chunk.TotalCompressedSize()}
}

// magic ends a Parquet file, after the footer and its length.
const magic = "PAR1"

// FooterOf is a footer of some of a file's row groups, as it stands at the end of a file.
func FooterOf(footer *metadata.FileMetaData, groups []int) (text []byte, err error) {
	err = decode("write footer", func() error {
		some, err := footer.Subset(groups)
		if err != nil {
			return err
		}
		var b bytes.Buffer
		if _, err := some.WriteTo(&b, nil); err != nil {
			return err
		}
		text = b.Bytes()
		return nil
	})
	if err != nil {
		return nil, err
	}
	return append(binary.LittleEndian.AppendUint32(text, uint32(len(text))), magic...), nil
}

func (n Need) mayFind(footer *metadata.FileMetaData, group int) bool {
	return !slices.ContainsFunc(n.Where, func(c Condition) bool { return !c.mayHold(footer, group) })
}

// mayHold says whether a row group may have a row for which the condition holds.
func (c Condition) mayHold(footer *metadata.FileMetaData, group int) bool {
	for i := range footer.Schema.NumColumns() {
		col := footer.Schema.Column(i)
		if len(col.ColumnPath()) != 1 || int(col.SchemaNode().FieldID()) != c.ID {
			continue
		}
		chunk, err := footer.RowGroup(group).ColumnChunk(i)
		if err != nil {
			return true
		}
		stats, err := chunk.Statistics()
		if err != nil || stats == nil {
			return true
		}
		written := footer.RowGroups[group].Columns[i].MetaData.GetStatistics()
		if written.IsSetNullCount() && written.GetNullCount() == chunk.NumValues() {
			return false
		}
		return !written.IsSetMinValue() || !written.IsSetMaxValue() || // one that is long is left out
			slices.ContainsFunc(c.Any, func(p Comparison) bool { return p.mayHold(col, stats) })
	}
	return true // the file lacks the column
}

func (p Comparison) mayHold(col *schema.Column, stats metadata.TypedStatistics) bool {
	switch s := stats.(type) {
	case *metadata.Int32Statistics:
		return p.Int == nil || col.SortOrder() != schema.SortSIGNED || within(p.Op, *p.Int, int64(s.Min()), int64(s.Max()))
	case *metadata.Int64Statistics:
		return p.Int == nil || col.SortOrder() != schema.SortSIGNED || within(p.Op, *p.Int, s.Min(), s.Max())
	case *metadata.Float32Statistics:
		return p.Float == nil || withinFloats(p.Op, *p.Float, float64(s.Min()), float64(s.Max()))
	case *metadata.Float64Statistics:
		return p.Float == nil || withinFloats(p.Op, *p.Float, s.Min(), s.Max())
	case *metadata.ByteArrayStatistics:
		_, text := col.LogicalType().(schema.StringLogicalType)
		return p.Text == nil || !text || within(p.Op, *p.Text, string(s.Min()), string(s.Max()))
	}
	return true
}

// within says whether a value between least and greatest may compare so.
func within[T cmp.Ordered](op Op, constant, least, greatest T) bool {
	switch op {
	case Equal:
		return least <= constant && constant <= greatest
	case Less:
		return least < constant
	case LessEqual:
		return least <= constant
	case Greater:
		return greatest > constant
	case GreaterEqual:
		return greatest >= constant
	}
	return true
}

// withinFloats knows that statistics leave NaN out, which SQL takes for the greatest number.
func withinFloats(op Op, constant, least, greatest float64) bool {
	if op == Greater || op == GreaterEqual || math.IsNaN(constant) || math.IsNaN(least) || math.IsNaN(greatest) {
		return true
	}
	return within(op, constant, least, greatest)
}
