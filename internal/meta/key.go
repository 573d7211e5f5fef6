package meta

import (
	"fmt"
	"strings"

	"tarn.dev/tarn/internal/base/errdef"
)

// ErrInvalidKey is returned for a key that no row can have.
var ErrInvalidKey = errdef.New(errdef.InvalidArgument, "meta.invalid_key", "invalid key")

// ErrCursorExpired is yielded by Watch for a cursor above 0 from which on deletions may have been
// forgotten; the watch has ended then. The caller reads everything again and watches from before that.
var ErrCursorExpired = errdef.New(errdef.FailedPrecondition, "meta.cursor_expired", "the cursor is too old")

// Limits of every implementation.
const (
	MaxKey   = 4 << 10
	MaxValue = 16 << 20
)

var (
	escaper   = strings.NewReplacer("%", "%25", "/", "%2F")
	unescaper = strings.NewReplacer("%25", "%", "%2F", "/")
)

// Key joins parts with "/". A "/" or "%" in a part is escaped, so that different parts never give the
// same key and Prefix(Key(parts...) + "/") holds exactly the keys with further parts.
func Key(parts ...string) string {
	if len(parts) == 1 {
		return escaper.Replace(parts[0])
	}
	escaped := make([]string, len(parts))
	for i, p := range parts {
		escaped[i] = escaper.Replace(p)
	}
	return strings.Join(escaped, "/")
}

// SplitKey is the inverse of Key.
func SplitKey(key string) []string {
	parts := strings.Split(key, "/")
	for i, p := range parts {
		parts[i] = unescaper.Replace(p)
	}
	return parts
}

// CheckTxn returns what is wrong with a transaction, whatever the rows are: an invalid key, a key
// written twice, a value above MaxValue, a condition of no kind.
func CheckTxn(conditions []Condition, writes []Write) error {
	for _, c := range conditions {
		if err := CheckKey(c.Key); err != nil {
			return err
		}
		if c.Kind < IsAbsent || c.Kind > HasValue {
			return errdef.Newf(errdef.InvalidArgument, "meta.invalid_condition", "condition on key %q has no kind", c.Key)
		}
	}
	written := make(map[string]struct{}, len(writes))
	for _, w := range writes {
		if err := CheckKey(w.Key); err != nil {
			return err
		}
		if _, twice := written[w.Key]; twice {
			return errdef.Newf(errdef.InvalidArgument, "meta.key_written_twice", "key %q is written twice in one transaction", w.Key)
		}
		written[w.Key] = struct{}{}
		if len(w.Value) > MaxValue {
			return errdef.Newf(errdef.InvalidArgument, "meta.value_too_large",
				"value of key %q has %d bytes, at most %d", w.Key, len(w.Value), MaxValue)
		}
	}
	return nil
}

// CheckKey returns ErrInvalidKey for an empty key and one above MaxKey.
func CheckKey(key string) error {
	switch {
	case key == "":
		return ErrInvalidKey.Errorf("invalid key: it is empty")
	case len(key) > MaxKey:
		return ErrInvalidKey.Errorf("invalid key %.40q...: %d bytes, at most %d", key, len(key), MaxKey)
	}
	return nil
}

// Holds reports whether c holds for the row that its key has, nil for none.
func (c Condition) Holds(row *Row) bool {
	switch c.Kind {
	case IsAbsent:
		return row == nil
	case IsPresent:
		return row != nil
	case AtVersion:
		return row != nil && row.Version == c.Version
	case HasValue:
		return row != nil && string(row.Value) == string(c.Value)
	}
	return false
}

// Failed is the error of a transaction whose condition c does not hold.
func (c Condition) Failed() error {
	return ErrConditionFailed.Errorf("%w", &ConditionError{c})
}

// String says what the condition asks.
func (c Condition) String() string {
	switch c.Kind {
	case IsAbsent:
		return c.Key + " is absent"
	case IsPresent:
		return c.Key + " exists"
	case AtVersion:
		return fmt.Sprintf("%s is at version %d", c.Key, c.Version)
	case HasValue:
		return fmt.Sprintf("%s has a value of %d bytes", c.Key, len(c.Value))
	}
	return "invalid condition on " + c.Key
}
