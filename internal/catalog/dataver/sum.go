// Package dataver computes the data version of a table: an additive hash of its rows that ignores row
// order, batch and file borders, encodings and the writer. docs/formats/data-version.md is the
// specification; testdata/golden.txt holds its vectors.
//
// It is an identity within a project and no security boundary: who chooses the rows can find two
// bags of rows with one sum.
package dataver

import (
	"encoding/hex"
	"math/bits"
	"strconv"
	"strings"

	"tarn.dev/tarn/internal/base/errdef"
)

// Prefix begins the text of every Sum and names the version of the row hash.
const Prefix = "rows1:"

// ErrSyntax is returned by Parse for a text that no Sum prints.
var ErrSyntax = errdef.New(errdef.InvalidArgument, "dataver.syntax", "not a data version")

// Sum is the sum of the hashes of a bag of rows, modulo 2^128, and the number of its rows. The zero
// Sum is the empty bag. Column names and types of an empty bag do not show in it: an identity is a
// Sum together with a schema.
type Sum struct {
	Hi, Lo uint64
	Rows   int64
}

// Add returns the sum of both bags together.
func (s Sum) Add(o Sum) Sum {
	lo, carry := bits.Add64(s.Lo, o.Lo, 0)
	hi, _ := bits.Add64(s.Hi, o.Hi, carry)
	return Sum{Hi: hi, Lo: lo, Rows: s.Rows + o.Rows}
}

// Sub returns the sum of the rows that are left when those of o are taken out; o must be part of s.
func (s Sum) Sub(o Sum) Sum {
	lo, borrow := bits.Sub64(s.Lo, o.Lo, 0)
	hi, _ := bits.Sub64(s.Hi, o.Hi, borrow)
	return Sum{Hi: hi, Lo: lo, Rows: s.Rows - o.Rows}
}

// Hex is the sum without its row count, 32 lower-case digits.
func (s Sum) Hex() string {
	b := make([]byte, 0, 16)
	for _, w := range []uint64{s.Hi, s.Lo} {
		for i := 56; i >= 0; i -= 8 {
			b = append(b, byte(w>>i))
		}
	}
	return hex.EncodeToString(b)
}

// String is the data version in text: rows1:<32 hex digits>:<rows>.
func (s Sum) String() string { return Prefix + s.Hex() + ":" + strconv.FormatInt(s.Rows, 10) }

// Parse is the inverse of String and accepts nothing else.
func Parse(text string) (Sum, error) {
	rest, ok := strings.CutPrefix(text, Prefix)
	digits, count, split := strings.Cut(rest, ":")
	if !ok || !split || len(digits) != 32 {
		return Sum{}, ErrSyntax.Errorf("%q is not a data version", text)
	}
	hi, errHi := strconv.ParseUint(digits[:16], 16, 64)
	lo, errLo := strconv.ParseUint(digits[16:], 16, 64)
	rows, errRows := strconv.ParseInt(count, 10, 64)
	s := Sum{Hi: hi, Lo: lo, Rows: rows}
	if errHi != nil || errLo != nil || errRows != nil || rows < 0 || s.String() != text {
		return Sum{}, ErrSyntax.Errorf("%q is not a data version", text)
	}
	return s, nil
}

// MarshalText makes a Sum its String in JSON.
func (s Sum) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText is the inverse of MarshalText.
func (s *Sum) UnmarshalText(text []byte) error {
	p, err := Parse(string(text))
	if err != nil {
		return err
	}
	*s = p
	return nil
}
