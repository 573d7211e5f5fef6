package cli

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
)

// cellText is a value that is not null, as a table and CSV have it. Nested values are JSON.
func cellText(a arrow.Array, i int) string {
	a, i = plainArray(a, i)
	if a.IsNull(i) {
		return "null" // a null of a dictionary or a union
	}
	switch a := a.(type) {
	case array.StringLike:
		return a.Value(i)
	case *array.Float32:
		return floatText(float64(a.Value(i)), 32)
	case *array.Float64:
		return floatText(a.Value(i), 64)
	case *array.Float16:
		return floatText(float64(a.Value(i).Float32()), 32)
	case *array.Binary:
		return `\x` + hex.EncodeToString(a.Value(i))
	case *array.LargeBinary:
		return `\x` + hex.EncodeToString(a.Value(i))
	case *array.BinaryView:
		return `\x` + hex.EncodeToString(a.Value(i))
	case *array.FixedSizeBinary:
		return `\x` + hex.EncodeToString(a.Value(i))
	case *array.Timestamp:
		return timestampText(a, i, " ")
	case array.ListLike, *array.Struct:
		return string(appendCell(nil, a, i))
	}
	text := string(appendCell(nil, a, i))
	return strings.Trim(text, `"`) // of a moment, which has no other quotes
}

// plainArray takes off what is not a value's own: dictionaries, unions, run ends, extension types.
func plainArray(a arrow.Array, i int) (arrow.Array, int) {
	for {
		switch t := a.(type) {
		case *array.Dictionary:
			if t.IsNull(i) {
				return a, i
			}
			a, i = t.Dictionary(), t.GetValueIndex(i)
		case *array.RunEndEncoded:
			a, i = t.Values(), t.GetPhysicalIndex(i)
		case *array.SparseUnion:
			a = t.Field(t.ChildID(i))
		case *array.DenseUnion:
			a, i = t.Field(t.ChildID(i)), int(t.ValueOffset(i))
		case array.ExtensionArray:
			a = t.Storage()
		default:
			return a, i
		}
	}
}

// appendCell appends a value as JSON. Numbers keep all of their digits; what JSON has no word for is a
// string: dates, times, binary values (base64), NaN and the infinities.
func appendCell(b []byte, a arrow.Array, i int) []byte {
	a, i = plainArray(a, i)
	if a.IsNull(i) {
		return append(b, "null"...)
	}
	switch a := a.(type) {
	case *array.Boolean:
		return strconv.AppendBool(b, a.Value(i))
	case *array.Int8:
		return strconv.AppendInt(b, int64(a.Value(i)), 10)
	case *array.Int16:
		return strconv.AppendInt(b, int64(a.Value(i)), 10)
	case *array.Int32:
		return strconv.AppendInt(b, int64(a.Value(i)), 10)
	case *array.Int64:
		return strconv.AppendInt(b, a.Value(i), 10)
	case *array.Uint8:
		return strconv.AppendUint(b, uint64(a.Value(i)), 10)
	case *array.Uint16:
		return strconv.AppendUint(b, uint64(a.Value(i)), 10)
	case *array.Uint32:
		return strconv.AppendUint(b, uint64(a.Value(i)), 10)
	case *array.Uint64:
		return strconv.AppendUint(b, a.Value(i), 10)
	case *array.Float16:
		return appendFloat(b, float64(a.Value(i).Float32()), 32)
	case *array.Float32:
		return appendFloat(b, float64(a.Value(i)), 32)
	case *array.Float64:
		return appendFloat(b, a.Value(i), 64)
	case *array.Decimal32, *array.Decimal64, *array.Decimal128, *array.Decimal256:
		return append(b, decimalText(a, i)...)
	case array.StringLike:
		return appendString(b, a.Value(i))
	case *array.Binary:
		return appendBytes(b, a.Value(i))
	case *array.LargeBinary:
		return appendBytes(b, a.Value(i))
	case *array.BinaryView:
		return appendBytes(b, a.Value(i))
	case *array.FixedSizeBinary:
		return appendBytes(b, a.Value(i))
	case *array.Map:
		return appendMap(b, a, i)
	case array.ListLike:
		return appendList(b, a, i)
	case *array.Struct:
		return appendStruct(b, a, i)
	}
	return appendString(b, momentText(a, i))
}

func appendList(b []byte, a array.ListLike, i int) []byte {
	start, end := a.ValueOffsets(i)
	b = append(b, '[')
	for j := start; j < end; j++ {
		if j > start {
			b = append(b, ',', ' ')
		}
		b = appendCell(b, a.ListValues(), int(j))
	}
	return append(b, ']')
}

func appendStruct(b []byte, a *array.Struct, i int) []byte {
	b = append(b, '{')
	for j, f := range a.DataType().(*arrow.StructType).Fields() {
		if j > 0 {
			b = append(b, ',', ' ')
		}
		b = append(appendString(b, f.Name), ':', ' ')
		b = appendCell(b, a.Field(j), i)
	}
	return append(b, '}')
}

// appendMap makes an object; keys that are not strings are written as strings.
func appendMap(b []byte, a *array.Map, i int) []byte {
	start, end := a.ValueOffsets(i)
	b = append(b, '{')
	for j := start; j < end; j++ {
		if j > start {
			b = append(b, ',', ' ')
		}
		b = append(appendString(b, cellText(a.Keys(), int(j))), ':', ' ')
		b = appendCell(b, a.Items(), int(j))
	}
	return append(b, '}')
}

func appendString(b []byte, s string) []byte {
	if !utf8.ValidString(s) {
		s = strings.ToValidUTF8(s, "\uFFFD")
	}
	var out strings.Builder
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	if enc.Encode(s) != nil {
		return strconv.AppendQuote(b, s)
	}
	return append(b, strings.TrimSuffix(out.String(), "\n")...)
}

func appendBytes(b, v []byte) []byte {
	return append(base64.StdEncoding.AppendEncode(append(b, '"'), v), '"')
}

func appendFloat(b []byte, v float64, bits int) []byte {
	switch {
	case math.IsNaN(v):
		return append(b, `"NaN"`...)
	case math.IsInf(v, 1):
		return append(b, `"Infinity"`...)
	case math.IsInf(v, -1):
		return append(b, `"-Infinity"`...)
	}
	return append(b, floatText(v, bits)...)
}

// floatText is the shortest text that means v, and looks like a fraction.
func floatText(v float64, bits int) string {
	switch {
	case math.IsNaN(v):
		return "nan"
	case math.IsInf(v, 1):
		return "inf"
	case math.IsInf(v, -1):
		return "-inf"
	}
	format := byte('f')
	if abs := math.Abs(v); abs != 0 && (abs < 1e-5 || abs >= 1e16) {
		format = 'e'
	}
	s := strconv.FormatFloat(v, format, -1, bits)
	if format == 'f' && !strings.Contains(s, ".") {
		s += ".0"
	}
	return s
}

func decimalText(a arrow.Array, i int) string {
	scale := a.DataType().(arrow.DecimalType).GetScale()
	switch a := a.(type) {
	case *array.Decimal32:
		return a.Value(i).ToString(scale)
	case *array.Decimal64:
		return a.Value(i).ToString(scale)
	case *array.Decimal128:
		return a.Value(i).ToString(scale)
	case *array.Decimal256:
		return a.Value(i).ToString(scale)
	}
	return a.ValueStr(i)
}

// momentText is a date, a time, a span of time, or whatever else has only one text.
func momentText(a arrow.Array, i int) string {
	switch a := a.(type) {
	case *array.Date32:
		if v := a.Value(i); v == math.MaxInt32 || v == -math.MaxInt32 {
			return infinity(v > 0)
		}
		return a.Value(i).ToTime().Format(time.DateOnly)
	case *array.Date64:
		return a.Value(i).ToTime().Format(time.DateOnly)
	case *array.Time32:
		return a.Value(i).ToTime(a.DataType().(*arrow.Time32Type).Unit).Format(clock)
	case *array.Time64:
		return a.Value(i).ToTime(a.DataType().(*arrow.Time64Type).Unit).Format(clock)
	case *array.Timestamp:
		return timestampText(a, i, "T")
	case *array.Duration:
		return spanText(0, 0, int64(a.Value(i))*int64(a.DataType().(*arrow.DurationType).Unit.Multiplier()))
	case *array.MonthInterval:
		return spanText(int32(a.Value(i)), 0, 0)
	case *array.DayTimeInterval:
		return spanText(0, a.Value(i).Days, int64(a.Value(i).Milliseconds)*int64(time.Millisecond))
	case *array.MonthDayNanoInterval:
		return spanText(a.Value(i).Months, a.Value(i).Days, a.Value(i).Nanoseconds)
	}
	return a.ValueStr(i)
}

const clock = "15:04:05.999999999"

// infinity is DuckDB's word for the dates before and after all others.
func infinity(after bool) string {
	if after {
		return "infinity"
	}
	return "-infinity"
}

func timestampText(a *array.Timestamp, i int, between string) string {
	v, t := a.Value(i), a.DataType().(*arrow.TimestampType)
	if v == math.MaxInt64 || v == -math.MaxInt64 {
		return infinity(v > 0)
	}
	layout := time.DateOnly + between + clock
	at := v.ToTime(t.Unit)
	if t.TimeZone == "" {
		return at.Format(layout)
	}
	if zone, err := t.GetZone(); err == nil && zone != nil {
		at = at.In(zone)
	}
	return at.Format(layout + "Z07:00")
}

// spanText is a span as DuckDB writes an INTERVAL.
func spanText(months, days int32, nanos int64) string {
	var parts []string
	add := func(n int32, unit string) {
		if n != 0 {
			if n != 1 && n != -1 {
				unit += "s"
			}
			parts = append(parts, fmt.Sprintf("%d %s", n, unit))
		}
	}
	add(months/12, "year")
	add(months%12, "month")
	add(days, "day")
	if nanos != 0 || len(parts) == 0 {
		sign := ""
		n := uint64(nanos)
		if nanos < 0 {
			sign, n = "-", -n
		}
		text := fmt.Sprintf("%s%02d:%02d:%02d", sign, n/3600e9, n/60e9%60, n/1e9%60)
		if fraction := n % 1e9; fraction != 0 {
			text += strings.TrimRight(fmt.Sprintf(".%09d", fraction), "0")
		}
		parts = append(parts, text)
	}
	return strings.Join(parts, " ")
}
