package dataver

import (
	"math/bits"

	"github.com/apache/arrow-go/v18/arrow"

	"tarn.dev/tarn/internal/base/errdef"
)

// Errors of NewHasher and Write.
var (
	// ErrUnsupported is returned for a column whose type has no canonical form.
	ErrUnsupported = errdef.New(errdef.InvalidArgument, "dataver.type_unsupported", "type has no data version")
	// ErrDuplicate is returned for a schema with two columns of one name.
	ErrDuplicate = errdef.New(errdef.InvalidArgument, "dataver.duplicate_column", "two columns of one name")
	// ErrSchema is returned by Write for a batch of another schema.
	ErrSchema = errdef.New(errdef.Internal, "dataver.schema_mismatch", "batch of another schema")
)

// piece is how many rows are hashed at once: their accumulators (16 B each) stay in the L2 cache while
// column after column is folded into them. Measured: 1.3 times the speed of whole batches of 1 M rows.
const piece = 16 << 10

// Row is the hash of one row.
type Row struct{ Hi, Lo uint64 }

// Hasher sums the hashes of rows, batch by batch. It is for one goroutine; sums of several are added.
type Hasher struct {
	schema *arrow.Schema
	cols   []*node
	sum    Sum
	acc    vec
}

// NewHasher returns a Hasher for batches of schema, or an error that names the column that cannot be
// hashed.
func NewHasher(schema *arrow.Schema) (*Hasher, error) {
	h := &Hasher{schema: schema, cols: make([]*node, 0, schema.NumFields())}
	seen := make(map[string]bool, schema.NumFields())
	for _, f := range schema.Fields() {
		if seen[f.Name] {
			return nil, ErrDuplicate.Errorf("two columns are named %q", f.Name)
		}
		seen[f.Name] = true
		n, err := newNode(f.Name, f.Name, f.Type)
		if err != nil {
			return nil, err
		}
		h.cols = append(h.cols, n)
	}
	return h, nil
}

// Write adds the rows of rec.
func (h *Hasher) Write(rec arrow.RecordBatch) error {
	return h.each(rec, func(r Row) {
		var carry uint64
		h.sum.Lo, carry = bits.Add64(h.sum.Lo, r.Lo, 0)
		h.sum.Hi, _ = bits.Add64(h.sum.Hi, r.Hi, carry)
		h.sum.Rows++
	})
}

// Rows appends the hash of each row of rec to dst, and leaves the sum as it is.
func (h *Hasher) Rows(dst []Row, rec arrow.RecordBatch) ([]Row, error) {
	err := h.each(rec, func(r Row) { dst = append(dst, r) })
	return dst, err
}

// Sum is the sum of all rows written so far.
func (h *Hasher) Sum() Sum { return h.sum }

func (h *Hasher) each(rec arrow.RecordBatch, yield func(Row)) error {
	if s := rec.Schema(); s != h.schema && !sameColumns(s, h.schema) {
		return ErrSchema.Errorf("hash rows: batch has schema %s, expected %s", s, h.schema)
	}
	rows := int(rec.NumRows())
	for start := 0; start < rows; start += piece {
		n := min(piece, rows-start)
		acc := h.acc.zeroed(n)
		for i, c := range h.cols {
			c.add(rec.Column(i), start, n, acc)
		}
		for i := range n {
			lo, hi := finish(acc.lo[i], acc.hi[i])
			yield(Row{Hi: hi, Lo: lo})
		}
	}
	return nil
}

func sameColumns(a, b *arrow.Schema) bool {
	if a.NumFields() != b.NumFields() {
		return false
	}
	for i, f := range a.Fields() {
		if g := b.Field(i); f.Name != g.Name || !arrow.TypeEqual(f.Type, g.Type) {
			return false
		}
	}
	return true
}

// The constants of the mixing functions: the fractional parts of the square roots of 2, 3, 5, 7, 11
// and 13, made odd. They are part of the format.
const (
	k0 uint64 = 0x6a09e667f3bcc909
	k1 uint64 = 0xbb67ae8584caa73b
	k2 uint64 = 0x3c6ef372fe94f82b
	k3 uint64 = 0xa54ff53a5f1d36f1
	k4 uint64 = 0x510e527fade682d1
	k5 uint64 = 0x9b05688c2b3e6c1f
)

// mum multiplies to 128 bits and folds the halves.
func mum(a, b uint64) uint64 {
	hi, lo := bits.Mul64(a, b)
	return hi ^ lo
}

// finish spreads an accumulated sum of column values, so that rows cannot trade column values
// without changing the sum of their hashes.
func finish(lo, hi uint64) (uint64, uint64) {
	x := mum(lo^k0, hi^k1)
	y := mum(lo^k2, bits.RotateLeft64(hi, 32)^k3)
	return mum(x^lo, y^k4), mum(y^hi, x^k5)
}

// seed makes equal values in differently named columns, or of different classes, different.
type seed struct{ a, b, c, d uint64 }

// vec holds 128-bit words as two slices of equal length.
type vec struct{ lo, hi []uint64 }

// zeroed returns n zero words in v's memory, which grows as needed.
func (v *vec) zeroed(n int) vec {
	if cap(v.lo) < n {
		v.lo, v.hi = make([]uint64, n), make([]uint64, n)
	}
	r := vec{v.lo[:n], v.hi[:n]}
	clear(r.lo)
	clear(r.hi)
	return r
}
