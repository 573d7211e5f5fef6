package errdef

import (
	"context"
	"errors"
)

// Code is one of the closed set of error classes.
type Code uint8

// The codes. The zero value is no error.
const (
	OK Code = iota
	InvalidArgument
	Unauthenticated
	PermissionDenied
	NotFound
	AlreadyExists
	Conflict
	FailedPrecondition
	ResourceExhausted
	Unavailable
	DeadlineExceeded
	UserCode
	NotImplemented
	DataLoss
	Internal
	Canceled
)

// Row is what follows from a code on every surface.
type Row struct {
	Code   Code
	Name   string // on the wire and in --json
	HTTP   int
	GRPC   string // canonical gRPC code name
	Exit   int    // of the CLI
	Retry  string // when the same call may be tried again
	Python string // class in tarn.errors
	Text   string // what it means, for docs
}

// Table is the whole mapping; docs/reference/errors.md and the Python classes are generated from it.
var Table = []Row{
	{InvalidArgument, "invalid_argument", 400, "INVALID_ARGUMENT", 4, "no", "InvalidArgumentError", "what was typed or sent cannot be right"},
	{Unauthenticated, "unauthenticated", 401, "UNAUTHENTICATED", 5, "no", "AuthError", "who is calling is not known"},
	{PermissionDenied, "permission_denied", 403, "PERMISSION_DENIED", 5, "no", "PermissionDeniedError", "the caller may not do this"},
	{NotFound, "not_found", 404, "NOT_FOUND", 6, "no", "NotFoundError", "what was named does not exist"},
	{AlreadyExists, "already_exists", 409, "ALREADY_EXISTS", 7, "no", "AlreadyExistsError", "the name is taken"},
	{Conflict, "conflict", 409, "ABORTED", 7, "after reading again", "ConflictError", "somebody else changed it, or two changes do not fit together"},
	{FailedPrecondition, "failed_precondition", 412, "FAILED_PRECONDITION", 7, "no", "PreconditionError", "something else must be done first"},
	{ResourceExhausted, "resource_exhausted", 429, "RESOURCE_EXHAUSTED", 8, "with backoff", "ResourceExhaustedError", "memory, disk, quota or time slots are used up"},
	{Unavailable, "unavailable", 503, "UNAVAILABLE", 8, "with backoff", "UnavailableError", "a server or a network cannot be reached"},
	{DeadlineExceeded, "deadline_exceeded", 504, "DEADLINE_EXCEEDED", 8, "if idempotent", "DeadlineError", "it took longer than allowed"},
	{UserCode, "user_code", 422, "UNKNOWN", 9, "by the function's retry policy", "UserCodeError", "the user's function failed, or a check did not pass"},
	{NotImplemented, "not_implemented", 501, "UNIMPLEMENTED", 1, "no", "NotImplementedByServerError", "this server cannot do that"},
	{DataLoss, "data_loss", 500, "DATA_LOSS", 10, "never", "DataLossError", "stored bytes are missing or not what was written"},
	{Internal, "internal", 500, "INTERNAL", 1, "no", "InternalError", "a bug in Tarn"},
	{Canceled, "canceled", 499, "CANCELED", 130, "no", "CanceledError", "the caller stopped it"},
}

// Row returns the table row of c; the row of Internal for a code that has none.
func (c Code) Row() Row {
	for _, r := range Table {
		if r.Code == c {
			return r
		}
	}
	return Internal.Row()
}

// String is the wire name.
func (c Code) String() string {
	if c == OK {
		return "ok"
	}
	return c.Row().Name
}

// ParseCode is the inverse of String; a name that is not in the table is Internal.
func ParseCode(name string) Code {
	for _, r := range Table {
		if r.Name == name {
			return r.Code
		}
	}
	return Internal
}

func contextCode(err error) (Code, string) {
	switch {
	case errors.Is(err, context.Canceled):
		return Canceled, "canceled"
	case errors.Is(err, context.DeadlineExceeded):
		return DeadlineExceeded, "deadline_exceeded"
	}
	return Internal, "internal"
}
