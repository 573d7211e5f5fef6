package datafile

import (
	"errors"
	"slices"
	"unicode/utf8"

	"github.com/apache/arrow-go/v18/parquet"
	"github.com/apache/arrow-go/v18/parquet/metadata"
	"github.com/apache/arrow-go/v18/parquet/schema"
)

// Stats is what a footer says of a file, as Iceberg's manifests have it: by the field ids of columns that have values.
type Stats struct {
	Bytes, Values, Nulls map[int]int64
	// Lower and Upper bound the values of columns that are not nested, if the footer tells. They are no values where those are
	// long: see boundLength.
	Lower, Upper map[int][]byte
	Groups       []int64 // offsets of the row groups
}

// boundLength is how much of a text (in characters) or of bytes a bound has at most: it is Iceberg's default.
const boundLength = 16

// StatsOf reads the statistics of a file that passed Gate.
func StatsOf(footer *metadata.FileMetaData) (Stats, error) {
	s := Stats{Bytes: map[int]int64{}, Values: map[int]int64{}, Nulls: map[int]int64{}, Lower: map[int][]byte{}, Upper: map[int][]byte{}}
	err := decode("read statistics", func() error {
		for g := range footer.NumRowGroups() {
			chunk, err := footer.RowGroup(g).ColumnChunk(0)
			if err != nil {
				return err
			}
			at := chunk.DataPageOffset()
			if chunk.HasDictionaryPage() {
				at = min(at, chunk.DictionaryPageOffset())
			}
			s.Groups = append(s.Groups, at)
		}
		for i := range footer.Schema.NumColumns() {
			if err := s.column(footer, i); err != nil {
				return err
			}
		}
		return nil
	})
	return s, err
}

// column adds what is known of one column. A writer leaves out a smallest or greatest value that is long (more than 4 KiB with
// arrow-go), or both if all are NaN; bounds of the other row groups would then hide these rows from whoever filters by them.
func (s *Stats) column(footer *metadata.FileMetaData, i int) error {
	var all metadata.TypedStatistics
	col := footer.Schema.Column(i)
	id := int(col.SchemaNode().FieldID())
	counted, bounded := true, len(col.ColumnPath()) == 1
	for g := range footer.NumRowGroups() {
		chunk, err := footer.RowGroup(g).ColumnChunk(i)
		if err != nil {
			return err
		}
		s.Bytes[id] += chunk.TotalCompressedSize()
		s.Values[id] += chunk.NumValues()
		stats, err := chunk.Statistics()
		if err != nil {
			return err
		}
		written := footer.RowGroups[g].Columns[i].MetaData.GetStatistics()
		if stats == nil || !written.IsSetNullCount() {
			counted, bounded = false, false
			continue
		}
		s.Nulls[id] += stats.NullCount()
		bounded = bounded && (written.IsSetMinValue() && written.IsSetMaxValue() || stats.NullCount() == chunk.NumValues())
		if all == nil {
			all = stats
		} else {
			all.Merge(stats)
		}
	}
	if !counted {
		delete(s.Nulls, id)
	}
	if !bounded || all == nil || !all.HasMinMax() {
		return nil
	}
	lower, upper, err := bounds(col, all)
	if err != nil {
		return err
	}
	if len(lower) > 0 {
		s.Lower[id] = lower
	}
	if len(upper) > 0 {
		s.Upper[id] = upper
	}
	return nil
}

// bounds spells out the smallest and the greatest value as Iceberg does: as Parquet's plain encoding has them, but for decimals.
// There may be no short upper bound.
func bounds(col *schema.Column, stats metadata.TypedStatistics) (lower, upper []byte, err error) {
	lower, upper = slices.Clone(stats.EncodeMin()), slices.Clone(stats.EncodeMax())
	switch col.LogicalType().(type) {
	case schema.DecimalLogicalType:
		if col.PhysicalType() != parquet.Types.FixedLenByteArray {
			return nil, nil, errors.New("column " + col.Path() + " has decimals as " + col.PhysicalType().String())
		}
		return shortest(lower), shortest(upper), nil
	case schema.StringLogicalType:
		if short := firstRunes(lower); len(short) < len(lower) {
			lower = short
		}
		if short := firstRunes(upper); len(short) < len(upper) {
			upper = afterText(short)
		}
	default:
		if col.PhysicalType() != parquet.Types.ByteArray {
			break
		}
		lower = lower[:min(len(lower), boundLength)]
		if len(upper) > boundLength {
			upper = afterBytes(upper[:boundLength])
		}
	}
	return lower, upper, nil
}

// shortest is a number in two's complement, big-endian, without the bytes that say nothing.
func shortest(b []byte) []byte {
	for len(b) > 1 && (b[0] == 0 && b[1] < 0x80 || b[0] == 0xff && b[1] >= 0x80) {
		b = b[1:]
	}
	return b
}

func firstRunes(text []byte) []byte {
	n := 0
	for i := range string(text) {
		if n == boundLength {
			return text[:i]
		}
		n++
	}
	return text
}

// afterText is a text that is greater than all that begin with b, and no longer; nil if there is none.
func afterText(b []byte) []byte {
	if !utf8.Valid(b) {
		return nil
	}
	for len(b) > 0 {
		r, n := utf8.DecodeLastRune(b)
		b = b[:len(b)-n]
		if r == 0xd7ff {
			r = 0xdfff // what follows is no character
		}
		if r < utf8.MaxRune {
			return utf8.AppendRune(b, r+1)
		}
	}
	return nil
}

// afterBytes is afterText for bytes.
func afterBytes(b []byte) []byte {
	for i := len(b) - 1; i >= 0; i-- {
		if b[i] < 0xff {
			b[i]++
			return b[:i+1]
		}
	}
	return nil
}
