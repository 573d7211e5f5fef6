// Package duck is DuckDB with Arrow batches as its input and output.
//
// Arrow in is a table function of our own over a Source (scan.cpp), because the driver's own view
// crashes the process when a query reads columns that are not a leading prefix. Arrow out streams in
// batches of many rows (stream.cpp). Everything else goes through DuckDB's C API.
//
// A DB is used by one goroutine at a time; DuckDB runs its own threads. There is no cancellation here:
// a DB lives in an engine child, and that process is what a caller kills.
package duck

// #cgo CXXFLAGS: -O2 -std=c++17 -DDUCKDB_STATIC_BUILD
// #include <stdlib.h>
// #include "shim.h"
import "C"

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"runtime/cgo"
	"slices"
	"strings"
	"sync"
	"unsafe"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/cdata"
	"github.com/apache/arrow-go/v18/arrow/memory"
	b "github.com/duckdb/duckdb-go-bindings"
)

// Error is what DuckDB said. Class is the text before the first colon ("Parser Error").
type Error struct {
	Class   string
	Message string // without the class
}

// Error returns the whole text.
func (e *Error) Error() string { return e.Class + ": " + e.Message }

// newError reads DuckDB's text. Some of it is JSON inside of text.
func newError(text string) error {
	if before, inner, ok := strings.Cut(text, `{"exception_type":`); ok {
		var exception struct {
			Message string `json:"exception_message"`
		}
		if json.NewDecoder(strings.NewReader(`{"exception_type":`+inner)).Decode(&exception) == nil {
			text = before + exception.Message
		}
	}
	class, message, ok := strings.Cut(text, ": ")
	if !ok || strings.ContainsAny(class, "\n\"") || !strings.HasSuffix(class, "Error") && class != "INTERNAL" {
		return &Error{Class: "Error", Message: text}
	}
	return &Error{Class: class, Message: message}
}

// DB is one DuckDB instance in memory with one connection.
type DB struct {
	db           b.Database
	conn, helper b.Connection // helper only lends its context to Arrow conversion
	sources      *sources
	handle       cgo.Handle
}

type sources struct {
	mu     sync.Mutex
	byName map[string]Source
}

// Open starts an instance with the given settings.
func Open(settings map[string]string) (*DB, error) {
	var config b.Config
	if b.CreateConfig(&config) == b.StateError {
		return nil, errors.New("create DuckDB configuration")
	}
	defer b.DestroyConfig(&config)
	for _, name := range slices.Sorted(maps.Keys(settings)) {
		if b.SetConfig(config, name, settings[name]) == b.StateError {
			return nil, fmt.Errorf("DuckDB refuses %s = %q", name, settings[name])
		}
	}
	d := &DB{sources: &sources{byName: map[string]Source{}}}
	var message string
	if b.OpenExt(":memory:", &d.db, config, &message) == b.StateError {
		return nil, newError(message)
	}
	if b.Connect(d.db, &d.conn) == b.StateError || b.Connect(d.db, &d.helper) == b.StateError {
		d.Close()
		return nil, errors.New("connect to DuckDB")
	}
	d.handle = cgo.NewHandle(d.sources)
	if C.duck_register(d.conn.Ptr, d.helper.Ptr, C.uintptr_t(d.handle)) != 0 {
		d.Close()
		return nil, errors.New("register arrow_batches")
	}
	return d, nil
}

// Close ends the instance. Statements and Rows of it must be closed before.
func (d *DB) Close() {
	if d.helper.Ptr != nil {
		b.Disconnect(&d.helper)
	}
	if d.conn.Ptr != nil {
		b.Disconnect(&d.conn)
	}
	b.Close(&d.db)
	if d.handle != 0 {
		d.handle.Delete()
		d.handle = 0
	}
}

// Register makes a source readable as arrow_batches('name').
func (d *DB) Register(name string, s Source) {
	d.sources.mu.Lock()
	defer d.sources.mu.Unlock()
	d.sources.byName[name] = s
}

// Exec runs one statement and discards its result.
func (d *DB) Exec(sql string) error {
	s, err := d.Prepare(sql)
	if err != nil {
		return err
	}
	defer s.Close()
	rows, err := s.Stream(0)
	if err != nil {
		return err
	}
	defer rows.Close()
	for {
		batch, err := rows.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		batch.Release()
	}
}

// Strings runs a query and returns its first column, which must be VARCHAR. Parameters are positional.
func (d *DB) Strings(sql string, args ...any) ([]string, error) {
	s, err := d.Prepare(sql)
	if err != nil {
		return nil, err
	}
	defer s.Close()
	for i, arg := range args {
		if err := s.Bind(i+1, arg); err != nil {
			return nil, err
		}
	}
	rows, err := s.Stream(0)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var out []string
	for {
		batch, err := rows.Next()
		if err == io.EOF {
			return out, nil
		}
		if err != nil {
			return nil, err
		}
		column, ok := batch.Column(0).(*array.String)
		if !ok {
			batch.Release()
			return nil, fmt.Errorf("%s: the first column is %s", sql, batch.Column(0).DataType())
		}
		for i := range column.Len() {
			out = append(out, strings.Clone(column.Value(i)))
		}
		batch.Release()
	}
}

// Stmt is a prepared statement.
type Stmt struct {
	db *DB
	st b.PreparedStatement
}

// ErrSeveral is returned by Prepare for a text that is not exactly one statement.
var ErrSeveral = errors.New("not exactly one statement")

// Prepare parses and binds one statement.
func (d *DB) Prepare(sql string) (*Stmt, error) {
	if strings.ContainsRune(sql, 0) {
		return nil, &Error{Class: "Parser Error", Message: "the text contains a NUL character"}
	}
	var extracted b.ExtractedStatements
	n := b.ExtractStatements(d.conn, sql, &extracted)
	defer b.DestroyExtracted(&extracted)
	if n == 0 {
		if message := b.ExtractStatementsError(extracted); message != "" {
			return nil, newError(message)
		}
		return nil, ErrSeveral
	}
	if n != 1 {
		return nil, ErrSeveral
	}
	s := &Stmt{db: d}
	if b.PrepareExtractedStatement(d.conn, extracted, 0, &s.st) == b.StateError {
		err := newError(b.PrepareError(s.st))
		s.Close()
		return nil, err
	}
	return s, nil
}

// Close frees the statement.
func (s *Stmt) Close() { b.DestroyPrepare(&s.st) }

// Params are the names of the parameters in the order of their numbers; "1", "2", ... if positional.
func (s *Stmt) Params() []string {
	names := make([]string, b.NParams(s.st))
	for i := range names {
		names[i] = b.ParameterName(s.st, b.IdxT(i+1))
	}
	return names
}

// Bind sets parameter number i (from 1) to nil, a bool, string, int, int64, float64 or json.Number.
func (s *Stmt) Bind(i int, value any) error {
	n, state := b.IdxT(i), b.State(b.StateError)
	switch v := value.(type) {
	case nil:
		state = b.BindNull(s.st, n)
	case bool:
		state = b.BindBoolean(s.st, n, v)
	case string:
		state = b.BindVarcharLength(s.st, n, v, b.IdxT(len(v)))
	case int:
		state = b.BindInt64(s.st, n, int64(v))
	case int64:
		state = b.BindInt64(s.st, n, v)
	case float64:
		if v == math.Trunc(v) && math.Abs(v) < 1<<53 { // JSON knows one kind of number; 5 means an integer
			return s.Bind(i, int64(v))
		}
		state = b.BindDouble(s.st, n, v)
	case json.Number:
		if whole, err := v.Int64(); err == nil {
			return s.Bind(i, whole)
		}
		float, err := v.Float64()
		if err != nil {
			return fmt.Errorf("parameter %d: %w", i, err)
		}
		state = b.BindDouble(s.st, n, float)
	default:
		return fmt.Errorf("parameter %d: values of type %T are not supported", i, value)
	}
	if state == b.StateError {
		return fmt.Errorf("parameter %d: DuckDB refuses %v", i, value)
	}
	return nil
}

// Schema is the Arrow schema that the rows will have.
func (s *Stmt) Schema() (*arrow.Schema, error) {
	return importSchema(func(schema *C.struct_ArrowSchema, err **C.char) {
		C.duck_describe(s.db.conn.Ptr, s.st.Ptr, schema, err)
	})
}

// importSchema lets fill write a C schema and takes it over.
func importSchema(fill func(*C.struct_ArrowSchema, **C.char)) (*arrow.Schema, error) {
	schema := (*C.struct_ArrowSchema)(C.calloc(1, C.sizeof_struct_ArrowSchema))
	defer C.free(unsafe.Pointer(schema))
	var message *C.char
	fill(schema, &message)
	if err := takeError(message); err != nil {
		return nil, err
	}
	return cdata.ImportCArrowSchema((*cdata.CArrowSchema)(unsafe.Pointer(schema)))
}

func takeError(message *C.char) error {
	if message == nil {
		return nil
	}
	defer C.free(unsafe.Pointer(message))
	return newError(C.GoString(message))
}

// BatchRows is the default size of result batches.
const BatchRows = 64 << 10

// batchValues bounds a batch of very many columns.
const batchValues = 8 << 20

// convertedBytes bounds a batch that is put together from DuckDB's small ones.
const convertedBytes = 256 << 20

// Rows is a running query. It holds the statement's connection until Close.
type Rows struct {
	stream *C.duck_stream
	schema *arrow.Schema
	rows   int64
}

// Stream starts the statement. Batches have up to batchRows rows (0: BatchRows).
func (s *Stmt) Stream(batchRows int) (*Rows, error) {
	if batchRows == 0 {
		batchRows = BatchRows
	}
	r := &Rows{rows: int64(batchRows)}
	schema, err := importSchema(func(schema *C.struct_ArrowSchema, message **C.char) {
		r.stream = C.duck_stream_open(s.st.Ptr, schema, message)
	})
	if err != nil {
		r.Close()
		return nil, err
	}
	r.schema = schema
	r.rows = min(r.rows, batchValues/int64(max(1, schema.NumFields()))) // at least one vector is read anyway
	return r, nil
}

// Schema is the schema of every batch.
func (r *Rows) Schema() *arrow.Schema { return r.schema }

// Next returns the next batch or io.EOF. The caller releases it.
func (r *Rows) Next() (arrow.RecordBatch, error) {
	if bool(C.duck_stream_flat(r.stream)) {
		return r.fetch()
	}
	var parts []arrow.RecordBatch
	defer func() {
		for _, part := range parts {
			part.Release()
		}
	}()
	for rows, bytes := int64(0), int64(0); rows < r.rows && bytes < convertedBytes; {
		part, err := r.fetch()
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, err
		}
		parts = append(parts, part)
		rows += part.NumRows()
		for _, column := range part.Columns() {
			bytes += int64(column.Data().SizeInBytes())
		}
	}
	if len(parts) == 0 {
		return nil, io.EOF
	}
	return concatenate(r.schema, parts)
}

func (r *Rows) fetch() (arrow.RecordBatch, error) {
	out := (*C.struct_ArrowArray)(C.calloc(1, C.sizeof_struct_ArrowArray))
	defer C.free(unsafe.Pointer(out))
	var message *C.char
	n := C.duck_stream_next(r.stream, C.int64_t(r.rows), out, &message)
	if err := takeError(message); err != nil {
		return nil, err
	}
	if n == 0 {
		return nil, io.EOF
	}
	return cdata.ImportCRecordBatchWithSchema((*cdata.CArrowArray)(unsafe.Pointer(out)), r.schema)
}

// Close ends the query, also in the middle.
func (r *Rows) Close() {
	if r.stream != nil {
		C.duck_stream_free(r.stream)
		r.stream = nil
	}
}

func concatenate(schema *arrow.Schema, parts []arrow.RecordBatch) (arrow.RecordBatch, error) {
	if len(parts) == 1 {
		parts[0].Retain()
		return parts[0], nil
	}
	var rows int64
	for _, part := range parts {
		rows += part.NumRows()
	}
	columns := make([]arrow.Array, schema.NumFields())
	defer func() {
		for _, column := range columns {
			if column != nil {
				column.Release()
			}
		}
	}()
	for i := range columns {
		pieces := make([]arrow.Array, len(parts))
		for j, part := range parts {
			pieces[j] = part.Column(i)
		}
		var err error
		if columns[i], err = array.Concatenate(pieces, memory.DefaultAllocator); err != nil {
			return nil, fmt.Errorf("column %s: %w", schema.Field(i).Name, err)
		}
	}
	return array.NewRecordBatch(schema, columns, rows), nil
}
