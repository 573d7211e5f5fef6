// Package meta is the port to small, ordered, transactional metadata: refs, runs, leases, memo rows.
//
// Keys are strings ordered bytewise; parts are joined with "/" and escaped by Key. Indexes are keys
// that the same transaction writes. Implementations are children (sqlitemeta, pgmeta); every one
// passes metatest.
package meta

import (
	"context"
	"iter"

	"tarn.dev/tarn/internal/base/errdef"
)

// Errors of every implementation.
var (
	// ErrNotFound is returned by Get for a key that has no row.
	ErrNotFound = errdef.New(errdef.NotFound, "meta.not_found", "no such key")
	// ErrConditionFailed is returned by Txn when a condition does not hold; nothing was written.
	// It wraps a *ConditionError that names the key.
	ErrConditionFailed = errdef.New(errdef.Conflict, "meta.condition_failed", "condition failed")
)

// Row is one key with its value. Version is the number of the transaction that wrote it: positive,
// growing over the life of the store, never reused.
type Row struct {
	Key     string
	Value   []byte
	Version int64
}

// Condition must hold for a transaction to apply. Build one with Absent, Exists, At or Is.
type Condition struct {
	Key     string
	Kind    ConditionKind
	Version int64  // for AtVersion
	Value   []byte // for HasValue
}

// ConditionKind says what a Condition asks of its key.
type ConditionKind uint8

// The kinds of conditions.
const (
	IsAbsent ConditionKind = iota + 1
	IsPresent
	AtVersion
	HasValue
)

// Absent holds when key has no row.
func Absent(key string) Condition { return Condition{Key: key, Kind: IsAbsent} }

// Exists holds when key has a row.
func Exists(key string) Condition { return Condition{Key: key, Kind: IsPresent} }

// At holds when key's row was last written by the transaction numbered version.
func At(key string, version int64) Condition {
	return Condition{Key: key, Kind: AtVersion, Version: version}
}

// Is holds when key's row has exactly this value.
func Is(key string, value []byte) Condition {
	return Condition{Key: key, Kind: HasValue, Value: value}
}

// Write sets or deletes one key. Build one with Set or Delete.
type Write struct {
	Key    string
	Value  []byte
	Delete bool
}

// Set writes value under key.
func Set(key string, value []byte) Write { return Write{Key: key, Value: value} }

// Delete removes key; removing an absent key is no error.
func Delete(key string) Write { return Write{Key: key, Delete: true} }

// Range selects keys for Scan: Start <= key < End. An empty End means no upper bound. Limit 0 means all.
type Range struct {
	Start, End string
	Limit      int
	Reverse    bool
}

// Prefix is the range of all keys that begin with p.
func Prefix(p string) Range { return Range{Start: p, End: prefixEnd(p)} }

// Event tells a watcher that a key under its prefix was set or deleted.
type Event struct {
	Row
	Deleted bool
}

// ConditionError names the condition that failed.
type ConditionError struct{ Condition Condition }

func (e *ConditionError) Error() string { return "condition failed on " + e.Condition.Key }

// Store holds rows. All methods are safe for concurrent use.
type Store interface {
	// Get returns key's row or ErrNotFound; ErrCorrupt if the row is not what was written.
	Get(ctx context.Context, key string) (Row, error)
	// Scan yields the rows of r in order, from one consistent snapshot. A row that is not what was written
	// comes with its key and ErrCorrupt; who goes on gets the others.
	Scan(ctx context.Context, r Range) iter.Seq2[Row, error]
	// Txn applies all writes if all conditions hold, atomically and durably, and returns the
	// transaction's number, the Version of every row it wrote. A key may be written once per Txn.
	Txn(ctx context.Context, conditions []Condition, writes []Write) (int64, error)
	// Watch yields the newest state of every key under prefix that changed in a transaction after
	// cursor, in transaction order, then waits for more until ctx ends. Several changes of one key
	// between two reads may be folded into the last. Cursor -1 starts at now.
	Watch(ctx context.Context, prefix string, cursor int64) iter.Seq2[Event, error]
	// Check reads the whole store and yields what is damaged. An error is for what kept it from looking.
	Check(ctx context.Context) iter.Seq2[Damage, error]
	// Scrub returns when nothing of what was deleted or overwritten is left in the store's own files. It may be slow.
	Scrub(ctx context.Context) error
	// Close ends every Watch and releases the store.
	Close() error
}

func prefixEnd(p string) string {
	b := []byte(p)
	for i := len(b) - 1; i >= 0; i-- {
		if b[i] < 0xff {
			b[i]++
			return string(b[:i+1])
		}
	}
	return ""
}
