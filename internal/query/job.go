// Package query runs SQL over the tables of a ref, in children that may die.
//
// The server never opens DuckDB. It keeps an Engine: a pool of processes of its own binary in the role
// `tarn engine` (package query/engine, the only one that links DuckDB), each in a sandbox, two of them warm. A child gets
// a Job as a line of JSON on stdin, says on descriptor 3 that it began, streams Arrow on stdout and
// answers with a Result as a line of JSON on descriptor 3. It analyzes any number of texts, or runs
// a job: then it exits, or takes the next one of the same owner. Cancelling kills it; a crash or a runaway query is an error of that query and of
// nothing else.
//
// A query is two steps: Analyze says which tables a statement reads and what it writes, a Resolver
// says where those tables are, and Run gets both as a Job.
package query

import (
	"context"
	"strings"
	"time"

	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/catalog/datafile"
)

// Job is what an engine child does.
type Job struct {
	SQL     string         // Analysis.SQL; the text itself with Analyze
	Params  map[string]any `json:",omitempty"` // by name; "1", "2", ... for positional ones
	Sources []Source       `json:",omitempty"`
	Write   *Write         `json:",omitempty"`
	Sinks   []Sink         `json:",omitempty"`

	// Analyze only parses SQL; Result.Analysis holds the answer and the child takes further jobs.
	Analyze bool `json:",omitempty"`
	// Describe only binds SQL to the sources; Result.Schema holds the answer.
	Describe bool `json:",omitempty"`

	// Bind only binds statements, one after the other; Result.Bound holds the answer.
	Bind []Binding `json:",omitempty"`

	// Owner, if set, lets the job run in a child that ran another one of the same owner, e.g. of one run of a pipeline.
	Owner string `json:"-"`
	Again bool   `json:",omitempty"` // the child is to take further jobs: set by Run

	// Limit ends the job when it has so many rows; 0 is all. Not with a file that DuckDB writes.
	Limit int64 `json:",omitempty"`

	// Seed, if set, asks for the same rows each time: random numbers start from it, and where the order of
	// rows shows in the result (sums of floating-point numbers, LIMIT, list) one thread runs the query.
	Seed string `json:",omitempty"`

	MemoryBytes int64  `json:",omitempty"` // DuckDB's own limit; the process needs up to 1.7 times that
	Threads     int    `json:",omitempty"`
	TempDir     string `json:",omitempty"` // where it may spill: set by Run
	TempBytes   int64  `json:",omitempty"` // bound of what it spills
	DiskBytes   int64  `json:",omitempty"` // bound of what it writes, what it spills included
}

// Name is the name of a table as SQL says it. Ref is the part after "@", or of AT (VERSION => ...).
type Name struct {
	Namespace string `json:",omitempty"` // "" is the default one
	Table     string
	Ref       string `json:",omitempty"`
}

// String is the name as a user would write it: orders, sales.orders@dev.
func (n Name) String() string {
	s := n.Table
	if n.Namespace != "" && n.Namespace != "default" {
		s = n.Namespace + "." + s
	}
	if n.Ref != "" {
		s += "@" + n.Ref
	}
	return s
}

// same reports whether SQL takes both for the same table: it does not tell Orders from orders.
func (n Name) same(o Name) bool { return strings.EqualFold(n.String(), o.String()) }

// Source is a table of a job. Exactly one of Parquet, Arrow and Import is set; Parquet without files
// is an empty table.
type Source struct {
	Name    Name
	Parquet *ParquetScan `json:",omitempty"`
	Arrow   []string     `json:",omitempty"` // Arrow IPC files of one schema, mapped
	Import  *ImportScan  `json:",omitempty"`
	// Still, if set, looks when the job has ended whether its files are what they were; without it they cannot change.
	Still func(context.Context) error `json:"-"`
}

// ParquetScan reads the files of a table: by field id, so that renamed and added columns come right.
type ParquetScan struct {
	Files   []string
	Columns []Column
	Far     *Far `json:"-"` // instead of Files
	// ByName says that the files are somebody else's: columns go by their names, and those of all files are united.
	ByName bool `json:",omitempty"`
	// Excerpts says that files are excerpts: the child tells what it Needs before it reads more than footers. Set by Run.
	Excerpts bool `json:",omitempty"`
}

// Column is a column of a table. Type is a DuckDB type; ColumnOf makes all of
// it from Arrow types.
type Column struct {
	FieldID  int
	Name     string
	Type     string
	Interval Interval `json:",omitempty"`
}

// ImportScan reads foreign files with DuckDB's own sniffers.
type ImportScan struct {
	Format  string         // parquet, csv or json (also JSON lines)
	Paths   []string       // absolute; globs with *, ** and ? are expanded and sorted
	Options map[string]any `json:",omitempty"` // of read_parquet, read_csv, read_json: header, delim, columns, ...
}

// WriteMode says what becomes of the rows a write produces.
type WriteMode string

// The modes of a write.
const (
	Append  WriteMode = "append"  // INSERT: the rows are added to the target
	Replace WriteMode = "replace" // UPDATE, DELETE, MERGE: the rows are the target's whole new content
	Create  WriteMode = "create"  // CREATE TABLE AS: the rows are a new table
)

// Write says what a statement that is not a SELECT does. The job's result are the rows of Mode; the
// target itself is never touched by the engine.
type Write struct {
	Target    Name
	Mode      WriteMode
	OrReplace bool // CREATE OR REPLACE TABLE: the target may exist
	IfMissing bool // CREATE TABLE IF NOT EXISTS: nothing happens if the target exists
}

// Staged stands for the target of an Append or Replace in Analysis.SQL: a temporary table into which
// the target's rows (Replace) or none of them (Append) are copied first. What it holds after the
// statement is the result, so a write may read its own target and sees it as it was. Create has no
// staged table: its SQL is the SELECT alone.
const Staged = "__tarn_staged"

// Binding is a SELECT to bind to tables without rows: what is misspelt in it shows, and no row is read.
type Binding struct {
	Name   string // what a later binding calls its result
	SQL    string
	Params map[string]any `json:",omitempty"`
	Tables []BoundTable
}

// BoundTable is a table of a Binding: its columns, or the binding before that gives them.
type BoundTable struct {
	Name     Name
	Columns  []Column `json:",omitempty"`
	ResultOf string   `json:",omitempty"`
}

// Unbound is what is surely wrong with a Binding, whatever rows its tables will have.
type Unbound struct {
	Message string
	Line    int    // from 1; 0 if the engine does not say
	Column  string // the name that no table has, if that is what is wrong
	// Offered are columns that the place could name: also such as the statement itself makes.
	Offered []string
	Tables  []TableColumns
}

// TableColumns are the columns of one table of a Binding.
type TableColumns struct {
	Name    Name
	Columns []string
}

// SinkKind is where rows go.
type SinkKind string

// The kinds of sinks. SinkFile stands alone, the others combine.
const (
	SinkStream SinkKind = "stream" // Arrow IPC stream on stdout
	SinkArrow  SinkKind = "arrow"  // one uncompressed Arrow IPC file that can be mapped
	SinkTable  SinkKind = "table"  // Parquet files of a table, by catalog/datafile
	SinkFile   SinkKind = "file"   // a file in Format
)

// Sink is one destination of a job's rows.
type Sink struct {
	Kind   SinkKind
	Path   string `json:",omitempty"` // arrow, file: the file, which must not exist before Run; table: a folder
	Sync   bool   `json:",omitempty"` // arrow, file: durable before the job ends
	Format string `json:",omitempty"` // file: parquet, csv, json (lines) or arrow
	Rows   int64  `json:",omitempty"` // stream: send so many at most, only count the others; 0 is all
	// Table, for SinkTable: files go into Path, an existing folder, as they shall join this table.
	Table *datafile.Layout `json:",omitempty"`
}

// Result is what a child says at the end of a job.
type Result struct {
	Rows     int64
	Schema   []byte     `json:",omitempty"` // Arrow IPC stream of the schema alone; ParseSchema reads it
	Outputs  []Output   `json:",omitempty"` // one per sink, in order
	Analysis *Analysis  `json:",omitempty"`
	Bound    []*Unbound `json:",omitempty"` // one per Binding, nil if nothing is surely wrong
	Error    *Failure   `json:",omitempty"`

	// Needs, if set, is all that is said, and not the end: the child goes on when it gets an empty line.
	Needs Needs `json:",omitempty"`

	CPU             time.Duration `json:",omitempty"`
	PeakMemoryBytes int64         `json:",omitempty"` // of the child until now, resident, with mapped files
}

// Output is what a sink made.
type Output struct {
	Kind  SinkKind
	Bytes int64            `json:",omitempty"`
	Table *datafile.Result `json:",omitempty"` // table: the files, to be registered
}

// Failure is an error on its way from a child.
type Failure struct {
	Code    string
	Reason  string
	Message string
	Details map[string]any `json:",omitempty"`
	Next    []string       `json:",omitempty"`
}

// NewFailure makes an error ready for the way.
func NewFailure(err error) *Failure {
	e := errdef.As(err)
	return &Failure{Code: e.Code.String(), Reason: e.Reason, Message: e.Message, Details: e.Details, Next: e.Next}
}

// Err is the error again.
func (f *Failure) Err() error {
	e := errdef.New(errdef.ParseCode(f.Code), f.Reason, f.Message).WithNext(f.Next...)
	for key, value := range f.Details {
		e = e.WithDetail(key, value)
	}
	return e
}

// Kind is what a statement is.
type Kind string

// The kinds of statements that run.
const (
	Select Kind = "select"
	Insert Kind = "insert"
	Update Kind = "update"
	Delete Kind = "delete"
	Merge  Kind = "merge"
	CTAS   Kind = "create_table_as"
)

// Analysis is what a statement reads and writes.
type Analysis struct {
	Kind   Kind
	Tables []Reference `json:",omitempty"` // in order of appearance; a table that is read twice appears once
	Write  *Write      `json:",omitempty"`
	SQL    string      // what to run: AT clauses are folded into names, a write's target is Staged
	Params []string    `json:",omitempty"` // names, in order of appearance
}

// Reference is a place where a statement names a table.
type Reference struct {
	Name Name
	Line int // from 1
}
