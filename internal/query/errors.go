package query

import "tarn.dev/tarn/internal/base/errdef"

// Errors of queries.
var (
	// ErrStatement is what DuckDB or the analysis refuses about a statement.
	ErrStatement = errdef.New(errdef.InvalidArgument, "query.statement", "the statement cannot run")
	// ErrUnsupported is a statement or function that parses but is not for Tarn.
	ErrUnsupported = errdef.New(errdef.InvalidArgument, "query.unsupported", "the statement is not supported")
	// ErrTemplate is dbt's {{ }}.
	ErrTemplate = errdef.New(errdef.InvalidArgument, "query.template", "the statement is a template")
	// ErrParam is a parameter that is missing, unknown or of a type that cannot be bound.
	ErrParam = errdef.New(errdef.InvalidArgument, "query.param", "a parameter does not fit")
	// ErrNoFiles is an import pattern that matches nothing.
	ErrNoFiles = errdef.New(errdef.NotFound, "query.no_files", "no file matches")
	// ErrFileAccess is a statement that names a file or a place outside its job.
	ErrFileAccess = errdef.New(errdef.PermissionDenied, "query.file_access", "queries read tables, not files")
	// ErrRead is a file of a source that cannot be read.
	ErrRead = errdef.New(errdef.FailedPrecondition, "query.read", "a file cannot be read")
	// ErrCorrupt is a file of a source whose bytes are not what was written.
	ErrCorrupt = errdef.New(errdef.DataLoss, "query.corrupt", "a file is corrupt")
	// ErrForeign is a file of somebody else that is not what a source takes it for.
	ErrForeign = errdef.New(errdef.InvalidArgument, "query.foreign_file", "not a file of the format")
	// ErrOutOfMemory is a query that needs more than its memory limit.
	ErrOutOfMemory = errdef.New(errdef.ResourceExhausted, "query.out_of_memory", "the query needs more memory than its limit")
	// ErrDiskFull is a query that needs more disk than there is, or than it may use.
	ErrDiskFull = errdef.New(errdef.ResourceExhausted, "query.disk_full", "the query needs more disk than there is")
	// ErrCrashed is a child that ended without an answer.
	ErrCrashed = errdef.New(errdef.Internal, "query.engine_crashed", "the query engine crashed")
	// ErrClosed is a use of an Engine after Close.
	ErrClosed = errdef.New(errdef.Unavailable, "query.closed", "the query engine is shut down")
)
