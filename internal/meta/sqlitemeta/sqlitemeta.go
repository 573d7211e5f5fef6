// Package sqlitemeta keeps rows in one SQLite database (docs/formats/meta.md).
//
// One goroutine writes. It takes whatever transactions wait (package serial), evaluates the conditions
// of each in turn on what those before it wrote, and commits all with one sync of the disk. Each
// transaction keeps its own number and succeeds or fails by itself; only a failing disk fails all that
// share a commit.
//
// Readers have connections of their own and see the snapshot at which they started (WAL). A watcher is
// woken by the writer. Writes of other processes would not wake it: a home has one server, which holds
// the home's lock, so there are none.
package sqlitemeta

import (
	"context"
	"database/sql"
	_ "embed"
	"errors"
	"fmt"
	"iter"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"

	_ "modernc.org/sqlite" // the driver

	"tarn.dev/tarn/internal/meta"
	"tarn.dev/tarn/internal/meta/serial"
)

//go:embed schema.sql
var schema string

const (
	applicationID = 0x5461726e
	formatVersion = 2
	// defaultRemember is for how many transactions deletions are remembered; they are forgotten in
	// steps of a tenth. A row that is written and deleted leaves some 50 bytes until then.
	defaultRemember = 100_000
)

// Store is a meta.Store in an SQLite database.
type Store struct {
	path    string
	readers *sql.DB
	get     *sql.Stmt
	changes *sql.Stmt
	writer  *writer

	rememberDeletions int64

	last    atomic.Int64 // number of the newest visible transaction
	horizon atomic.Int64 // deletions up to here may be forgotten

	queue    *serial.Queue
	watchers serial.Watchers

	ending  context.Context //nolint:containedctx // ends with the store; Watch and Txn wait on it
	end     context.CancelCauseFunc
	closing sync.Once
	err     error // of Close
}

// Open opens the database at path, or makes one. The folder must exist.
func Open(path string) (*Store, error) {
	return open(path, defaultRemember)
}

func open(path string, rememberDeletions int64) (*Store, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("open metadata %s: %w", path, err)
	}
	s := &Store{path: path, rememberDeletions: rememberDeletions}
	s.ending, s.end = context.WithCancelCause(context.Background())
	if err := s.open(); err != nil {
		s.end(err)
		if s.writer != nil {
			s.writer.close() //nolint:errcheck // the first error is the one to tell
		}
		if s.readers != nil {
			s.readers.Close() //nolint:errcheck // likewise
		}
		return nil, s.classify(err, "open metadata")
	}
	s.queue = serial.NewQueue(s.ending)
	go func() {
		defer close(s.writer.stopped)
		s.queue.Run(s.writer.commit)
	}()
	return s, nil
}

func (s *Store) open() (err error) {
	// Made here, not by SQLite, so that a missing folder or permission gets its usual message and mode.
	f, err := os.OpenFile(s.path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		if errors.Is(err, os.ErrPermission) {
			return ErrPermission.Errorf("open metadata: %w", err)
		}
		return fmt.Errorf("open metadata: %w", err)
	}
	if err := f.Close(); err != nil {
		return err
	}
	if s.writer, err = newWriter(s); err != nil {
		return err
	}
	if s.readers, err = sql.Open("sqlite", s.dsn("_pragma=query_only(1)")); err != nil {
		return err
	}
	// Not bounded: a scan may call Get for each of its rows, and a bound would let scans starve them.
	s.readers.SetMaxIdleConns(8)
	if s.get, err = s.readers.Prepare(`SELECT value, version, sum FROM row WHERE key = ?`); err != nil {
		return err
	}
	s.changes, err = s.readers.Prepare(selectChanges)
	return err
}

func (s *Store) dsn(extra string) string {
	u := url.URL{Scheme: "file", Path: s.path}
	u.RawQuery = "_pragma=busy_timeout(5000)&_pragma=synchronous(FULL)&" + extra
	return u.String()
}

// Path is the database's file, for messages.
func (s *Store) Path() string { return s.path }

// Get implements meta.Store.
func (s *Store) Get(ctx context.Context, key string) (meta.Row, error) {
	if err := s.usable(ctx); err != nil {
		return meta.Row{}, err
	}
	if err := meta.CheckKey(key); err != nil {
		return meta.Row{}, err
	}
	row := meta.Row{Key: key}
	// One lookup is shorter than the driver's watching of a context.
	var sum int64
	err := s.get.QueryRowContext(context.WithoutCancel(ctx), []byte(key)).Scan(&row.Value, &row.Version, &sum)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return meta.Row{}, meta.ErrNotFound.Errorf("no key %q", key)
	case err != nil:
		return meta.Row{}, s.classify(s.orClosed(err), fmt.Sprintf("get %q", key))
	}
	return row, meta.Verify(row, sum)
}

// Scan implements meta.Store. The snapshot is that of the first step of the iteration.
func (s *Store) Scan(ctx context.Context, r meta.Range) iter.Seq2[meta.Row, error] {
	return func(yield func(meta.Row, error) bool) {
		if err := s.usable(ctx); err != nil {
			yield(meta.Row{}, err)
			return
		}
		query, args := `SELECT key, value, version, sum FROM row WHERE key >= ?`, []any{[]byte(r.Start)}
		if r.End != "" {
			query, args = query+` AND key < ?`, append(args, []byte(r.End))
		}
		query += ` ORDER BY key`
		if r.Reverse {
			query += ` DESC`
		}
		if r.Limit > 0 {
			query, args = query+` LIMIT ?`, append(args, r.Limit)
		}
		rows, err := s.readers.QueryContext(context.WithoutCancel(ctx), query, args...)
		if err != nil {
			yield(meta.Row{}, s.classify(s.orClosed(err), "scan"))
			return
		}
		defer rows.Close() // read-only
		for rows.Next() {
			var row meta.Row
			var key []byte
			var sum int64
			if err := rows.Scan(&key, &row.Value, &row.Version, &sum); err != nil {
				yield(meta.Row{}, s.classify(err, "scan"))
				return
			}
			row.Key = string(key)
			if ctx.Err() != nil {
				yield(meta.Row{}, context.Cause(ctx))
				return
			}
			if !yield(row, meta.Verify(row, sum)) {
				return
			}
		}
		if err := rows.Err(); err != nil {
			yield(meta.Row{}, s.classify(s.orClosed(err), "scan"))
		}
	}
}

// Txn implements meta.Store. A transaction that writes nothing gets the number of the newest one.
// An error of ctx always means "not applied".
func (s *Store) Txn(ctx context.Context, conditions []meta.Condition, writes []meta.Write) (int64, error) {
	if err := s.usable(ctx); err != nil {
		return 0, err
	}
	if err := meta.CheckTxn(conditions, writes); err != nil {
		return 0, err
	}
	number, err := s.queue.Do(ctx, conditions, writes)
	return number, s.classify(err, "write metadata")
}

// Scrub implements meta.Store. The writer overwrites what it deletes (secure_delete), so what is left is in the log.
func (s *Store) Scrub(ctx context.Context) error {
	if err := s.usable(ctx); err != nil {
		return err
	}
	for {
		// Readers that hold on to an old snapshot keep its part of the log; SQLite waits for them for a while.
		var busy, log, moved int
		err := s.writer.db.QueryRowContext(ctx, `PRAGMA wal_checkpoint(TRUNCATE)`).Scan(&busy, &log, &moved)
		if err != nil {
			return s.classify(s.orClosed(err), "clear the log")
		}
		if busy == 0 {
			return nil
		}
		if err := s.usable(ctx); err != nil {
			return err
		}
	}
}

// Close implements meta.Store. Transactions that were taken up finish; the others get ErrClosed.
func (s *Store) Close() error {
	s.closing.Do(func() {
		s.end(ErrClosed)
		<-s.writer.stopped
		s.err = s.classify(errors.Join(s.readers.Close(), s.writer.close()), "close metadata")
	})
	return s.err
}

func (s *Store) usable(ctx context.Context) error {
	if s.ending.Err() != nil {
		return context.Cause(s.ending)
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return nil
}

// orClosed replaces what the driver says about a connection that Close took away.
func (s *Store) orClosed(err error) error {
	if s.ending.Err() != nil {
		return context.Cause(s.ending)
	}
	return err
}
