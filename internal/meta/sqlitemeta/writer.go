package sqlitemeta

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync/atomic"

	"tarn.dev/tarn/internal/base/fault"
	"tarn.dev/tarn/internal/meta"
)

// maxBatch is how many transactions share a commit at most. It bounds the time until the first returns.
const maxBatch = 256

// request is one Txn on its way through the writer.
type request struct {
	conditions []meta.Condition
	writes     []meta.Write
	taken      atomic.Bool // by the writer, or by its caller who gave up
	number     int64
	err        error
	done       chan struct{}
}

type writer struct {
	s       *Store
	db      *sql.DB
	conn    *sql.Conn
	get     *sql.Stmt
	set     *sql.Stmt
	unset   *sql.Stmt
	bury    *sql.Stmt
	count   *sql.Stmt
	queue   chan *request
	stopped chan struct{}
}

// newWriter opens the one writing connection, and makes or checks the schema.
func newWriter(s *Store) (*writer, error) {
	w := &writer{s: s, queue: make(chan *request), stopped: make(chan struct{})}
	var err error
	if w.db, err = sql.Open("sqlite", s.dsn("_pragma=journal_mode(WAL)")); err != nil {
		return nil, err
	}
	if err := w.prepare(); err != nil {
		return nil, errors.Join(err, w.close())
	}
	return w, nil
}

// close frees the statements and the connection first: a database closes what it has, not what is lent,
// and SQLite keeps a connection that has statements. The last connection to close moves the log into
// the database.
func (w *writer) close() error {
	var errs []error
	for _, stmt := range []*sql.Stmt{w.get, w.set, w.unset, w.bury, w.count} {
		if stmt != nil {
			errs = append(errs, stmt.Close())
		}
	}
	if w.conn != nil {
		errs = append(errs, w.conn.Close())
	}
	return errors.Join(append(errs, w.db.Close())...)
}

func (w *writer) prepare() (err error) {
	ctx := context.Background()
	if w.conn, err = w.db.Conn(ctx); err != nil {
		return err
	}
	if err := w.migrate(ctx); err != nil {
		return err
	}
	for _, p := range []struct {
		stmt **sql.Stmt
		text string
	}{
		{&w.get, `SELECT value, version FROM row WHERE key = ?`},
		{&w.set, `INSERT INTO row VALUES (?, ?, ?)
			ON CONFLICT (key) DO UPDATE SET value = excluded.value, version = excluded.version`},
		{&w.unset, `DELETE FROM row WHERE key = ?`},
		{&w.bury, `INSERT INTO gone VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET version = excluded.version`},
		{&w.count, `UPDATE state SET value = ? WHERE name = 'txn'`},
	} {
		if *p.stmt, err = w.conn.PrepareContext(ctx, p.text); err != nil {
			return err
		}
	}
	var last, horizon int64
	if err := w.conn.QueryRowContext(ctx, `SELECT
		(SELECT value FROM state WHERE name = 'txn'), (SELECT value FROM state WHERE name = 'horizon')`,
	).Scan(&last, &horizon); err != nil {
		return err
	}
	w.s.last.Store(last)
	w.s.horizon.Store(horizon)
	return nil
}

func (w *writer) migrate(ctx context.Context) error {
	var app, version, tables int
	if err := w.conn.QueryRowContext(ctx, `SELECT
		(SELECT application_id FROM pragma_application_id), (SELECT user_version FROM pragma_user_version),
		(SELECT count(*) FROM sqlite_schema)`).Scan(&app, &version, &tables); err != nil {
		return err
	}
	switch {
	case tables == 0 && app == 0:
		if _, err := w.conn.ExecContext(ctx, "BEGIN IMMEDIATE;"+schema+"COMMIT;"); err != nil {
			return err
		}
		return nil
	case app != applicationID:
		return ErrCorrupt.Errorf("open metadata: %s is a database, but not Tarn's", w.s.path)
	case version > formatVersion:
		return ErrNewerFormat.Errorf("open metadata: %s has format %d, this Tarn knows %d", w.s.path, version, formatVersion).
			WithNext("use a newer Tarn")
	}
	return nil
}

// run serves requests until the store ends.
func (w *writer) run() {
	defer close(w.stopped)
	batch := make([]*request, 0, maxBatch)
	for {
		select {
		case r := <-w.queue:
			batch = w.collect(append(batch[:0], r))
		case <-w.s.ending.Done():
			return
		}
		if len(batch) > 0 {
			w.commit(batch)
		}
	}
}

// collect takes up first and everything else that waits right now. While a batch is on its way to the
// disk the next one gathers, so no timer is needed to fill it.
func (w *writer) collect(batch []*request) []*request {
	taken := batch[:0]
	for _, r := range batch {
		if r.taken.CompareAndSwap(false, true) {
			taken = append(taken, r)
		}
	}
	for len(taken) < maxBatch {
		select {
		case r := <-w.queue:
			if r.taken.CompareAndSwap(false, true) {
				taken = append(taken, r)
			}
		default:
			return taken
		}
	}
	return taken
}

// commit applies a batch with one sync and answers every request.
func (w *writer) commit(batch []*request) {
	before := w.s.last.Load()
	last, err := w.apply(batch, before)
	if err == nil && last > before {
		w.s.last.Store(last)
	}
	for _, r := range batch {
		if err != nil {
			r.number, r.err = 0, err
		}
		close(r.done)
	}
	if err == nil && last > before {
		w.s.wake(batch)
		w.forget(before, last)
	}
}

func (w *writer) apply(batch []*request, last int64) (_ int64, err error) {
	ctx := context.Background()
	if _, err := w.conn.ExecContext(ctx, `BEGIN IMMEDIATE`); err != nil {
		return 0, err
	}
	defer func() {
		if err != nil {
			// After some errors SQLite has rolled back by itself; then this one has nothing to say.
			w.conn.ExecContext(ctx, `ROLLBACK`) //nolint:errcheck // err is the cause
		}
	}()
	before := last
	for _, r := range batch {
		if r.err, err = w.check(ctx, r.conditions); err != nil {
			return 0, err
		}
		if r.err != nil {
			continue
		}
		if len(r.writes) > 0 {
			last++
			if err := w.write(ctx, r.writes, last); err != nil {
				return 0, err
			}
		}
		r.number = last
	}
	if last > before {
		if _, err := w.count.ExecContext(ctx, last); err != nil {
			return 0, err
		}
	}
	if err := fault.Point("meta.commit.before"); err != nil {
		return 0, err
	}
	if _, err := w.conn.ExecContext(ctx, `COMMIT`); err != nil {
		return 0, err
	}
	// Only a crash makes sense after a commit: the transactions have happened.
	_ = fault.Point("meta.commit.after")
	return last, nil
}

// check returns the error of the first condition that does not hold, and apart from it a failure of
// the database.
func (w *writer) check(ctx context.Context, conditions []meta.Condition) (failed, err error) {
	for _, c := range conditions {
		row := &meta.Row{Key: c.Key}
		switch err := w.get.QueryRowContext(ctx, []byte(c.Key)).Scan(&row.Value, &row.Version); {
		case errors.Is(err, sql.ErrNoRows):
			row = nil
		case err != nil:
			return nil, err
		}
		if !c.Holds(row) {
			return c.Failed(), nil
		}
	}
	return nil, nil
}

func (w *writer) write(ctx context.Context, writes []meta.Write, number int64) error {
	for _, wr := range writes {
		if !wr.Delete {
			if _, err := w.set.ExecContext(ctx, []byte(wr.Key), nonNil(wr.Value), number); err != nil {
				return err
			}
			continue
		}
		res, err := w.unset.ExecContext(ctx, []byte(wr.Key))
		if err != nil {
			return err
		}
		n, err := res.RowsAffected()
		if err != nil {
			return err
		}
		if n == 0 {
			continue // it was absent: nothing changed that a watcher could want
		}
		if _, err := w.bury.ExecContext(ctx, []byte(wr.Key), number); err != nil {
			return err
		}
	}
	return nil
}

// forget removes old deletions now and then. When it fails, the next time makes up for it.
func (w *writer) forget(before, last int64) {
	keep := w.s.rememberDeletions
	step := keep / 10
	if before/step == last/step || last <= keep {
		return
	}
	horizon := last - keep
	w.s.horizon.Store(horizon) // before they go: a watcher checks it after reading
	ctx := context.Background()
	text := fmt.Sprintf(`BEGIN IMMEDIATE; UPDATE state SET value = %d WHERE name = 'horizon';
		DELETE FROM gone WHERE version <= %d; COMMIT;`, horizon, horizon)
	if _, err := w.conn.ExecContext(ctx, text); err != nil {
		w.conn.ExecContext(ctx, `ROLLBACK`) //nolint:errcheck // see apply
	}
}

func nonNil(b []byte) []byte {
	if b == nil {
		return []byte{}
	}
	return b
}
