// Package pgmeta keeps rows in the schema "tarn" of a Postgres database (docs/formats/meta-postgres.md), for any
// number of servers at once.
//
// # One order
//
// A transaction locks the row that holds the newest number before it reads or writes anything else, and
// has the lock until its commit is visible. So transactions happen one after the other, whichever
// server makes them: numbers are given in the order of commits, conditions are evaluated on what all
// transactions before have left (on absent keys too, which no lock on a row could guard), there are no
// deadlocks, and nothing fails to serialize. A reader who sees number N sees everything up to N, so a
// watcher's cursor is one number. A sequence would not do: its numbers are given before the commit, and
// a watcher that has read number 8 would never look for the 7 that commits after it.
//
// The price is that commits do not overlap. Each server therefore commits all transactions that wait as
// one (package serial), in two exchanges with the database.
//
// # A commit without an answer
//
// The connection may be lost between a COMMIT and its answer. Every batch writes its number into the
// row of its writer; whoever retries takes the lock and looks there. COMMIT is only ever sent by who
// was told that it has the lock, so a retry that has the lock knows that the earlier attempt is over:
// it has happened, which the row says, or it never will. Nothing acknowledged is lost, nothing is
// applied twice. When the database stays away for longer than the patience, ErrOutcomeUnknown says so.
//
// # Watching
//
// Every commit notifies. One goroutine per store reads which keys have changed since it last looked,
// and wakes the watchers that these concern; it also looks once a second by itself, because a
// notification is a hint that a lost connection or a pooler loses.
package pgmeta

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"iter"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"tarn.dev/tarn/internal/meta"
	"tarn.dev/tarn/internal/meta/serial"
)

const (
	// defaultRemember is for how many transactions deletions are remembered, as in sqlitemeta.
	defaultRemember = 100_000
	// defaultPatience is for how long an operation tries again while the database is away. A restart
	// takes seconds, and after 30 s a server has lost its session anyway.
	defaultPatience = 30 * time.Second
	// scanBuffer is how much of a scan is read before its first row is given away. Nearly all scans end
	// within it, and then hold no connection while their rows are looked at.
	scanBuffer = 1 << 20
)

// Store is a meta.Store in a Postgres database.
type Store struct {
	where    string // host, database and user, for messages
	identity int64
	pool     *pgxpool.Pool
	patience,
	answer time.Duration
	rememberDeletions int64

	writer   *writer
	queue    *serial.Queue
	watchers serial.Watchers
	changed  chan struct{} // buffered: the follower should look
	last     atomic.Int64  // the newest number that the follower has seen

	ending  context.Context //nolint:containedctx // ends with the store; Watch and Txn wait on it
	end     context.CancelCauseFunc
	running sync.WaitGroup
	closing sync.Once
}

// options are what tests choose.
type options struct {
	remember int64
	patience time.Duration
	answer   time.Duration
	deaf     bool // hears no notifications
}

// Open connects to the database that url names, with what url leaves out taken from the variables,
// service file and password file that every Postgres program reads. It makes the schema if there is none.
func Open(ctx context.Context, url string) (*Store, error) {
	return open(ctx, url, options{remember: defaultRemember, patience: defaultPatience, answer: defaultAnswer})
}

func open(ctx context.Context, url string, o options) (_ *Store, err error) {
	config, err := parse(url)
	if err != nil {
		return nil, err
	}
	s := &Store{
		where: where(config.ConnConfig), patience: o.patience, answer: o.answer, rememberDeletions: o.remember,
		changed: make(chan struct{}, 1),
	}
	s.ending, s.end = context.WithCancelCause(context.Background())
	defer func() {
		if err != nil {
			s.end(err)
			if s.pool != nil {
				s.pool.Close()
			}
		}
	}()
	if s.pool, err = pgxpool.NewWithConfig(ctx, config); err != nil {
		return nil, s.classify(err, "open metadata")
	}
	if err := s.prepare(ctx); err != nil {
		return nil, err
	}
	s.queue = serial.NewQueue(s.ending)
	s.writer = &writer{s: s, config: config.ConnConfig, id: make([]byte, 16)}
	_, _ = rand.Read(s.writer.id) // never fails
	s.running.Go(func() { s.queue.Run(s.writer.write); s.writer.retire() })
	s.running.Go(s.follow)
	if !o.deaf {
		s.running.Go(func() { s.listen(config.ConnConfig) })
	}
	return s, nil
}

// Identity is a random number that the database got with its tables: two addresses of one database have
// the same.
func (s *Store) Identity() int64 { return s.identity }

// String is the database for messages: without a password.
func (s *Store) String() string { return s.where }

// Durable reports whether the server is set up to keep what it acknowledges when its host crashes.
func (s *Store) Durable(ctx context.Context) (durable bool, err error) {
	err = s.patiently(ctx, "check metadata", func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, s.answer)
		defer cancel()
		return s.pool.QueryRow(ctx, `SELECT current_setting('fsync')::bool AND current_setting('full_page_writes')::bool`).Scan(&durable)
	})
	return durable, err
}

// Get implements meta.Store.
func (s *Store) Get(ctx context.Context, key string) (meta.Row, error) {
	if err := meta.CheckKey(key); err != nil {
		return meta.Row{}, err
	}
	row := meta.Row{Key: key}
	var sum int64
	err := s.patiently(ctx, fmt.Sprintf("get %q", key), func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, s.answer)
		defer cancel()
		err := s.pool.QueryRow(ctx, `SELECT value, version, sum FROM tarn.rows WHERE key = $1`, []byte(key)).Scan(&row.Value, &row.Version, &sum)
		if errors.Is(err, pgx.ErrNoRows) {
			return meta.ErrNotFound.Errorf("no key %q", key)
		}
		return err
	})
	if err != nil {
		return meta.Row{}, err
	}
	return row, meta.Verify(row, sum)
}

// Scan implements meta.Store. The snapshot is that of the first step of the iteration.
func (s *Store) Scan(ctx context.Context, r meta.Range) iter.Seq2[meta.Row, error] {
	return func(yield func(meta.Row, error) bool) {
		for row, err := range s.read(ctx, r) {
			if err != nil {
				yield(meta.Row{}, err)
				return
			}
			if !yield(row.Row, meta.Verify(row.Row, row.sum)) {
				return
			}
		}
	}
}

// read yields the rows of r as they are stored; an error is the last.
func (s *Store) read(ctx context.Context, r meta.Range) iter.Seq2[summed, error] {
	return func(yield func(summed, error) bool) {
		ctx, cancel := s.bound(ctx)
		defer cancel()
		var first []summed
		var rest *stream
		err := s.patiently(ctx, "scan", func(context.Context) (err error) {
			first, rest, err = s.scan(ctx, r) // under the context that lasts as long as the iteration
			return err
		})
		if err != nil {
			yield(summed{}, err)
			return
		}
		if rest != nil {
			defer rest.close()
		}
		give := func(row summed) bool {
			if ctx.Err() != nil {
				yield(summed{}, context.Cause(ctx))
				return false
			}
			return yield(row, nil)
		}
		for _, row := range first {
			if !give(row) {
				return
			}
		}
		for rest != nil && rest.rows.Next() {
			row, err := readRow(rest.rows)
			if err != nil {
				yield(summed{}, s.failed(ctx, err, "scan"))
				return
			}
			if !give(row) {
				return
			}
		}
		if rest != nil && rest.rows.Err() != nil {
			yield(summed{}, s.failed(ctx, rest.rows.Err(), "scan"))
		}
	}
}

// stream is what a long scan has not read yet, on a connection of its own: one of the pool would be
// missing to what is done per row.
type stream struct {
	conn *pgx.Conn
	rows pgx.Rows
}

// close drops the connection rather than reading what is left.
func (s *stream) close() {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	s.conn.Close(ctx) //nolint:errcheck // read-only
	s.rows.Close()
}

// scan reads the first rows of r, and returns where the others come from if there are more.
func (s *Store) scan(ctx context.Context, r meta.Range) ([]summed, *stream, error) {
	conn, err := s.pool.Acquire(ctx)
	if err != nil {
		return nil, nil, err
	}
	query, args := scanQuery(r)
	rows, err := conn.Query(ctx, query, args...)
	if err != nil {
		conn.Release()
		return nil, nil, err
	}
	var first []summed
	size := 0
	for size < scanBuffer {
		if !rows.Next() {
			rows.Close()
			conn.Release()
			return first, nil, rows.Err()
		}
		row, err := readRow(rows)
		if err != nil {
			rows.Close()
			conn.Release()
			return nil, nil, err
		}
		first = append(first, row)
		size += len(row.Key) + len(row.Value)
	}
	return first, &stream{conn.Hijack(), rows}, nil
}

func scanQuery(r meta.Range) (string, []any) {
	query, args := `SELECT key, value, version, sum FROM tarn.rows WHERE key >= $1`, []any{[]byte(r.Start)}
	if r.End != "" {
		query, args = query+` AND key < $2`, append(args, []byte(r.End))
	}
	query += ` ORDER BY key`
	if r.Reverse {
		query += ` DESC`
	}
	if r.Limit > 0 {
		query += fmt.Sprintf(` LIMIT %d`, r.Limit)
	}
	return query, args
}

// summed is a row with the sum that stands beside it.
type summed struct {
	meta.Row
	sum int64
}

func readRow(rows pgx.Rows) (row summed, err error) {
	var key []byte
	err = rows.Scan(&key, &row.Value, &row.Version, &row.sum)
	row.Key = string(key)
	return row, err
}

// Txn implements meta.Store. A transaction that writes nothing gets the number of the newest one. After
// it was taken up it waits for the outcome: an error of ctx always means "not applied".
func (s *Store) Txn(ctx context.Context, conditions []meta.Condition, writes []meta.Write) (int64, error) {
	if err := s.usable(ctx); err != nil {
		return 0, err
	}
	if err := meta.CheckTxn(conditions, writes); err != nil {
		return 0, err
	}
	return s.queue.Do(ctx, conditions, writes)
}

// Scrub implements meta.Store as far as a client of the database can: it gives the room of deleted rows free. Its log, its
// replicas and the backups of its administrator are not ours.
func (s *Store) Scrub(ctx context.Context) error {
	if err := s.usable(ctx); err != nil {
		return err
	}
	if _, err := s.pool.Exec(ctx, `VACUUM tarn.rows`); err != nil {
		return s.classify(err, "vacuum the rows")
	}
	return nil
}

// Close implements meta.Store. Transactions that were taken up finish, if the database answers; the
// others get ErrClosed.
func (s *Store) Close() error {
	s.closing.Do(func() {
		s.end(ErrClosed)
		s.running.Wait()
		s.pool.Close()
	})
	return nil
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

// bound returns a context that also ends with the store.
func (s *Store) bound(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(s.ending, func() { cancel(context.Cause(s.ending)) })
	return ctx, func() { stop(); cancel(nil) }
}
