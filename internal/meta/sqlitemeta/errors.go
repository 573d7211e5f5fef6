package sqlitemeta

import (
	"context"
	"errors"
	"strings"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/meta"
)

// Errors that the database gives to this store.
var (
	// ErrDiskFull means that a transaction found no space; nothing of it was written.
	ErrDiskFull = errdef.New(errdef.ResourceExhausted, "meta.disk_full", "the disk is full")
	// ErrCorrupt means that the database file is not what was written.
	ErrCorrupt = meta.ErrCorrupt
	// ErrPermission means that this user may not read or write the file.
	ErrPermission = errdef.New(errdef.PermissionDenied, "meta.permission_denied", "no permission")
	// ErrBusy means that another process writes to the file, which no Tarn server does.
	ErrBusy = errdef.New(errdef.Unavailable, "meta.busy", "the metadata database is in use")
	// ErrDevice means that the disk reported an error.
	ErrDevice = errdef.New(errdef.Unavailable, "meta.device_error", "the disk reports an error")
	// ErrNewerFormat means that a newer Tarn wrote the file.
	ErrNewerFormat = errdef.New(errdef.FailedPrecondition, "meta.newer_format", "written by a newer Tarn")
	// ErrClosed is returned by every method after Close.
	ErrClosed = errdef.New(errdef.Unavailable, "meta.closed", "the metadata store is closed")
)

// classify gives a database error a code; an error that has one, or is a context's, stays.
func (s *Store) classify(err error, doing string) error {
	var known *errdef.Error
	if err == nil || errors.As(err, &known) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	if strings.HasPrefix(err.Error(), "sql: Scan error") { // a number where text was written, or such
		return ErrCorrupt.Errorf("%s: %s is damaged: %w", doing, s.path, err)
	}
	var sqliteErr *sqlite.Error
	if !errors.As(err, &sqliteErr) {
		return errdef.Newf(errdef.Internal, "meta.database", "%s: %w", doing, err)
	}
	switch sqliteErr.Code() & 0xff {
	case sqlite3.SQLITE_FULL:
		return ErrDiskFull.Errorf("%s: the disk that holds %s is full: %w", doing, s.path, err).
			WithNext("free space on that disk, or move TARN_HOME to a larger one")
	case sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB:
		return ErrCorrupt.Errorf("%s: %s is damaged: %w", doing, s.path, err).
			WithNext("stop Tarn, copy the home aside, and restore "+s.path+" from a backup", "tarn fsck")
	case sqlite3.SQLITE_PERM, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_AUTH, sqlite3.SQLITE_CANTOPEN:
		return ErrPermission.Errorf("%s: %s cannot be opened for writing: %w", doing, s.path, err)
	case sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED:
		return ErrBusy.Errorf("%s: another process writes to %s: %w", doing, s.path, err)
	case sqlite3.SQLITE_IOERR:
		return ErrDevice.Errorf("%s: the disk that holds %s reports an error: %w", doing, s.path, err)
	}
	return errdef.Newf(errdef.Internal, "meta.database", "%s: %w", doing, err)
}
