package pgmeta

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/meta"
)

// Errors that the database gives to this store.
var (
	// ErrInvalidURL means that the address of the database cannot be read.
	ErrInvalidURL = errdef.New(errdef.InvalidArgument, "meta.invalid_url", "not the address of a Postgres database")
	// ErrUnreachable means that the database could not be reached or did not answer; nothing was written.
	ErrUnreachable = errdef.New(errdef.Unavailable, "meta.unreachable", "the metadata database does not answer")
	// ErrOutcomeUnknown means that the database went away during a commit and did not come back in time.
	ErrOutcomeUnknown = errdef.New(errdef.Unavailable, "meta.outcome_unknown", "whether the transaction happened is not known")
	// ErrBusy means that the database has no connection left.
	ErrBusy = errdef.New(errdef.ResourceExhausted, "meta.too_many_connections", "the metadata database has no free connection")
	// ErrReadOnly means that the server is a standby, or was told to refuse writes.
	ErrReadOnly = errdef.New(errdef.FailedPrecondition, "meta.read_only", "the metadata database is read-only")
	// ErrLogin means that the database does not accept the user or the password.
	ErrLogin = errdef.New(errdef.Unauthenticated, "meta.login_failed", "the metadata database refuses the login")
	// ErrNoDatabase means that the server has no such database.
	ErrNoDatabase = errdef.New(errdef.NotFound, "meta.no_database", "no such database")
	// ErrPermission means that the user lacks a permission.
	ErrPermission = errdef.New(errdef.PermissionDenied, "meta.permission_denied", "no permission")
	// ErrDiskFull means that the database server found no space; nothing of the transaction was written.
	ErrDiskFull = errdef.New(errdef.ResourceExhausted, "meta.disk_full", "the disk of the metadata database is full")
	// ErrCorrupt means that the database is not what was written.
	ErrCorrupt = meta.ErrCorrupt
	// ErrWentBack means that the database has lost transactions that it had acknowledged.
	ErrWentBack = errdef.New(errdef.DataLoss, "meta.went_back", "the metadata database has lost transactions")
	// ErrOldServer means that the Postgres is older than any that is tested.
	ErrOldServer = errdef.New(errdef.FailedPrecondition, "meta.old_server", "the Postgres server is too old")
	// ErrNewerFormat means that a newer Tarn made the tables.
	ErrNewerFormat = errdef.New(errdef.FailedPrecondition, "meta.newer_format", "written by a newer Tarn")
	// ErrClosed is returned by every method after Close.
	ErrClosed = errdef.New(errdef.Unavailable, "meta.closed", "the metadata store is closed")
)

// passing reports whether what failed may succeed later by itself: the server restarts, a network comes
// back, another client gives up its connection or its lock, a standby takes over.
func passing(err error) bool {
	var known *errdef.Error
	if errors.As(err, &known) {
		return false
	}
	switch code := sqlState(err); {
	case code == "":
		return away(err)
	case strings.HasPrefix(code, "08"), strings.HasPrefix(code, "57P"), strings.HasPrefix(code, "40"):
		return true
	case code == "53300", code == "53200", code == "55P03", code == "25P03", code == "25006", code == "57014":
		return true
	}
	return false
}

// away reports whether err is of the connection, not of the database.
func away(err error) bool {
	var network net.Error
	var connect *pgconn.ConnectError
	return errors.As(err, &network) || errors.As(err, &connect) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) ||
		errors.Is(err, net.ErrClosed) || errors.Is(err, context.DeadlineExceeded) || pgconn.SafeToRetry(err) || strings.Contains(err.Error(), "conn closed")
}

func sqlState(err error) string {
	var p *pgconn.PgError
	if errors.As(err, &p) {
		return p.Code
	}
	return ""
}

// classify gives a database error a code; an error that has one stays. No message holds a password:
// the driver's leave it out, and where is made without it.
func (s *Store) classify(err error, doing string) error {
	var known *errdef.Error
	if err == nil || errors.As(err, &known) {
		return err
	}
	switch code := sqlState(err); {
	case code == "28P01", code == "28000":
		return ErrLogin.Errorf("%s: %s refuses the login: %w", doing, s.where, err).
			WithNext("put the password into PGPASSWORD, ~/.pgpass or the address")
	case code == "3D000":
		return ErrNoDatabase.Errorf("%s: %s does not exist: %w", doing, s.where, err).WithNext("createdb NAME")
	case code == "42501":
		return ErrPermission.Errorf("%s: %s: %w", doing, s.where, err).
			WithNext("let the database's owner run: GRANT CREATE ON DATABASE name TO user")
	case code == "25006":
		return ErrReadOnly.Errorf("%s: %s is a standby or read-only: %w", doing, s.where, err).
			WithNext("give the address of the primary, or all hosts with target_session_attrs=read-write")
	case code == "53300":
		return ErrBusy.Errorf("%s: %s: %w", doing, s.where, err).
			WithNext("raise max_connections of the database, or start with ?pool_max_conns=4 in the address")
	case code == "53100":
		return ErrDiskFull.Errorf("%s: the disk of %s is full: %w", doing, s.where, err)
	case code == "XX001", code == "XX002":
		return ErrCorrupt.Errorf("%s: %s is damaged: %w", doing, s.where, err).WithNext("restore the database from a backup")
	case passing(err):
		return ErrUnreachable.Errorf("%s: %s does not answer: %w", doing, s.where, err).
			WithNext("see that the database runs and that host and port are right")
	}
	return errdef.Newf(errdef.Internal, "meta.database", "%s: %s: %w", doing, s.where, err)
}
