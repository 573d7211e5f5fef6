// Package errdef is the closed set of error codes and the one error type that crosses packages and
// the wire. HTTP status, gRPC code, CLI exit code and Python class of an error all follow from its
// code through one table (table.go).
//
// An error is classified where the knowledge exists (the adapter that sees ENOENT, the package that
// knows why a name is refused) and mapped to a transport once, at the edge. An error without a code
// is internal. Corruption is the code DataLoss: never retried, never cached.
package errdef

import (
	"errors"
	"fmt"
	"maps"
)

// Error is an error with a code. Reason is the stable, dotted, machine-readable contract
// ("lake.branch_not_found"). Message is for people: it names what they typed and may change.
// Next lists what to do: commands, or a sentence.
type Error struct {
	Code    Code
	Reason  string
	Message string
	Details map[string]any
	Next    []string
	cause   error
}

// New declares a sentinel or makes an error without formatting.
func New(code Code, reason, message string) *Error {
	return &Error{Code: code, Reason: reason, Message: message}
}

// Newf makes an error; a %w operand becomes its cause.
func Newf(code Code, reason, format string, args ...any) *Error {
	err := fmt.Errorf(format, args...)
	return &Error{Code: code, Reason: reason, Message: err.Error(), cause: errors.Unwrap(err)}
}

// Errorf returns a copy of sentinel e with another message, so that errors.Is(err, e) holds.
// A %w operand becomes its cause.
func (e *Error) Errorf(format string, args ...any) *Error {
	err := fmt.Errorf(format, args...)
	c := *e
	c.Message, c.cause = err.Error(), errors.Unwrap(err)
	return &c
}

// WithNext returns a copy that tells the user what to do next.
func (e *Error) WithNext(next ...string) *Error {
	c := *e
	c.Next = append(append([]string(nil), e.Next...), next...)
	return &c
}

// WithDetail returns a copy with one more machine-readable detail; v must marshal to JSON.
func (e *Error) WithDetail(key string, v any) *Error {
	c := *e
	c.Details = maps.Clone(e.Details)
	if c.Details == nil {
		c.Details = map[string]any{}
	}
	c.Details[key] = v
	return &c
}

// Error returns the message.
func (e *Error) Error() string { return e.Message }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.cause }

// Is matches errors of the same reason.
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	return ok && t.Reason == e.Reason
}

// As returns the outermost *Error in err's chain, or one of code Internal that wraps err.
// As(nil) is nil.
func As(err error) *Error {
	if err == nil {
		return nil
	}
	var e *Error
	if errors.As(err, &e) {
		if full := err.Error(); full != e.Message { // keep the facts that wrappers added
			c := *e
			c.Message, c.cause = full, err
			return &c
		}
		return e
	}
	code, reason := contextCode(err)
	return &Error{Code: code, Reason: reason, Message: err.Error(), cause: err}
}

// CodeOf is the code of err: OK for nil, Internal when nobody classified it.
func CodeOf(err error) Code {
	if err == nil {
		return OK
	}
	return As(err).Code
}

// IsCorrupt reports whether err says that stored bytes are not what was written.
func IsCorrupt(err error) bool { return CodeOf(err) == DataLoss }
