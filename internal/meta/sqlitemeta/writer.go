package sqlitemeta

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"

	"modernc.org/sqlite"

	"tarn.dev/tarn/internal/base/fault"
	"tarn.dev/tarn/internal/meta"
	"tarn.dev/tarn/internal/meta/serial"
)

type writer struct {
	s       *Store
	db      *sql.DB
	conn    *sql.Conn
	get     *sql.Stmt
	set     *sql.Stmt
	unset   *sql.Stmt
	bury    *sql.Stmt
	count   *sql.Stmt
	stopped chan struct{}
}

// newWriter opens the one writing connection, and makes or checks the schema.
func newWriter(s *Store) (*writer, error) {
	w := &writer{s: s, stopped: make(chan struct{})}
	var err error
	if w.db, err = sql.Open("sqlite", s.dsn("_pragma=journal_mode(WAL)&_pragma=secure_delete(1)")); err != nil {
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
		{&w.set, `INSERT INTO row VALUES (?, ?, ?, ?)
			ON CONFLICT (key) DO UPDATE SET value = excluded.value, version = excluded.version, sum = excluded.sum`},
		{&w.unset, `DELETE FROM row WHERE key = ?`},
		{&w.bury, `INSERT INTO gone VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET version = excluded.version`},
		{&w.count, `UPDATE state SET value = ? WHERE name = 'txn'`},
	} {
		if *p.stmt, err = w.conn.PrepareContext(ctx, p.text); err != nil {
			return err
		}
	}
	var last, horizon int64
	// No number is given twice, also when the one in state was damaged.
	if err := w.conn.QueryRowContext(ctx, `SELECT max(value, coalesce((SELECT max(version) FROM row), 0), coalesce((SELECT max(version) FROM gone), 0)),
		(SELECT value FROM state WHERE name = 'horizon') FROM state WHERE name = 'txn'`,
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
	case version < formatVersion:
		_, err := w.conn.ExecContext(ctx, "BEGIN IMMEDIATE;"+toVersion2+"COMMIT;")
		return err
	}
	return nil
}

// toVersion2 gives the rows of version 1 their sums.
const toVersion2 = `
ALTER TABLE row ADD COLUMN sum INTEGER NOT NULL DEFAULT 0;
UPDATE row SET sum = tarn_sum(key, value, version);
PRAGMA user_version = 2;
`

func init() {
	sqlite.MustRegisterDeterministicScalarFunction("tarn_sum", 3, func(_ *sqlite.FunctionContext, args []driver.Value) (driver.Value, error) {
		key, isKey := args[0].([]byte)
		value, isValue := args[1].([]byte)
		version, isVersion := args[2].(int64)
		if !isKey || !isValue || !isVersion {
			return nil, ErrCorrupt.Errorf("a row is not of bytes: %T, %T, %T", args[0], args[1], args[2])
		}
		return meta.Sum(meta.Row{Key: string(key), Value: value, Version: version}), nil
	})
}

// commit applies a batch with one sync.
func (w *writer) commit(batch []*serial.Request) {
	before := w.s.last.Load()
	last, err := w.apply(batch, before)
	if err != nil {
		for _, r := range batch {
			r.Number, r.Err = 0, err
		}
		return
	}
	if last > before {
		w.s.last.Store(last)
		w.s.watchers.Wake(written(batch))
		w.forget(before, last)
	}
}

func (w *writer) apply(batch []*serial.Request, last int64) (_ int64, err error) {
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
		if r.Err, err = w.check(ctx, r.Conditions); err != nil {
			return 0, err
		}
		if r.Err != nil {
			continue
		}
		if len(r.Writes) > 0 {
			last++
			if err := w.write(ctx, r.Writes, last); err != nil {
				return 0, err
			}
		}
		r.Number = last
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
			sum := meta.Sum(meta.Row{Key: wr.Key, Value: wr.Value, Version: number})
			if _, err := w.set.ExecContext(ctx, []byte(wr.Key), nonNil(wr.Value), number, sum); err != nil {
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

// written are the keys that a committed batch wrote.
func written(batch []*serial.Request) (keys []string) {
	for _, r := range batch {
		if r.Err != nil {
			continue
		}
		for _, wr := range r.Writes {
			keys = append(keys, wr.Key)
		}
	}
	return keys
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
