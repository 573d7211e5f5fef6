package pgmeta

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/base/fault"
	"tarn.dev/tarn/internal/meta/serial"
)

// sessionSettings of the writing connection. A server that is stopped while it has the lock must not stop
// the others for longer than that; and who is told that a transaction happened relies on it.
const sessionSettings = `SELECT set_config('idle_in_transaction_session_timeout', '10s', false),
	CASE current_setting('synchronous_commit') WHEN 'off' THEN set_config('synchronous_commit', 'on', false) END`

// maxStatement is how many bytes of values go into one statement; the protocol ends at 1 GiB.
const maxStatement = 32 << 20

// writer commits batches, on one connection and from one goroutine.
type writer struct {
	s      *Store
	config *pgx.ConnConfig
	conn   *pgx.Conn // nil when there is none
	id     []byte    // of the row that says which batch was the last
	batch  int64     // number of the batch that is under way
	last   int64     // the newest number that this writer has seen
}

// write makes a batch happen, once, and answers every request.
func (w *writer) write(batch []*serial.Request) {
	w.batch++
	pause := newPauses(w.s.patience)
	var doubt *plan // what happened, if the COMMIT whose answer is missing did
	for {
		p, err := w.attempt(batch, &doubt)
		if err == nil {
			w.last = p.last
			p.answer(batch)
			w.s.look()
			return
		}
		w.drop()
		if !passing(err) || !pause.wait(w.s.ending) {
			w.fail(batch, err, doubt != nil)
			return
		}
	}
}

// attempt tries once. Doubt is not nil while an earlier attempt may have happened; having the lock ends
// the doubt, because that attempt had it.
func (w *writer) attempt(batch []*serial.Request, doubt **plan) (*plan, error) {
	ctx, cancel := context.WithTimeout(context.Background(), w.s.answer+slack(batch))
	defer cancel()
	v, err := w.begin(ctx, batch)
	if err != nil {
		return nil, err
	}
	if *doubt != nil && v.mark == w.batch {
		w.rollback(ctx)
		return *doubt, nil
	}
	*doubt = nil
	if v.last < w.last {
		return nil, ErrWentBack.Errorf("write metadata: %s is at transaction %d and was at %d: a backup was restored, or a standby took over that had not received everything", w.s.where, v.last, w.last).
			WithNext("restart every Tarn server, then run tarn fsck")
	}
	p := evaluate(batch, v)
	if p.last == v.last {
		w.rollback(ctx)
		return p, nil
	}
	err = w.apply(ctx, p, v.last)
	if err != nil && !refused(err) {
		*doubt = p
	}
	return p, err
}

// refused reports whether the database said no, in an error that leaves the connection up: then it has
// undone the transaction. After anything else it may have committed.
func refused(err error) bool {
	var p *pgconn.PgError
	return errors.As(err, &p) && p.SeverityUnlocalized == "ERROR"
}

// begin starts a transaction, waits for the lock, and reads what the conditions and deletions of a batch
// are about. In read-committed isolation each statement sees what was committed when it began, so what
// follows the lock sees all earlier transactions.
func (w *writer) begin(ctx context.Context, batch []*serial.Request) (*view, error) {
	if err := w.connect(ctx); err != nil {
		return nil, err
	}
	v := &view{}
	keys, values := lookups(batch)
	v.found = make([]found, len(keys))
	var b pgx.Batch
	b.Queue(`BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE`)
	b.Queue(`SELECT value FROM tarn.state WHERE name = 'txn' FOR UPDATE`).QueryRow(func(row pgx.Row) error { return row.Scan(&v.last) })
	b.Queue(`SELECT coalesce(max(batch), 0) FROM tarn.writer WHERE id = $1`, w.id).QueryRow(func(row pgx.Row) error { return row.Scan(&v.mark) })
	if len(keys) > 0 {
		b.Queue(`SELECT k.i - 1, r.version, coalesce(r.value = k.value, false)
			FROM unnest($1::bytea[], $2::bytea[]) WITH ORDINALITY AS k(key, value, i) JOIN tarn.rows r ON r.key = k.key`,
			keys, values).Query(v.read)
	}
	if err := w.conn.SendBatch(ctx, &b).Close(); err != nil {
		return nil, err
	}
	return v, nil
}

// apply writes what p says and commits.
func (w *writer) apply(ctx context.Context, p *plan, before int64) error {
	var b pgx.Batch
	p.queue(&b)
	b.Queue(`UPDATE tarn.state SET value = $1 WHERE name = 'txn'`, p.last)
	b.Queue(`INSERT INTO tarn.writer VALUES ($1, $2, now()) ON CONFLICT (id) DO UPDATE SET batch = excluded.batch, at = excluded.at`, w.id, w.batch)
	w.queueForget(&b, before, p.last)
	b.Queue(`NOTIFY tarn_meta`)
	b.Queue(`COMMIT`).Exec(func(tag pgconn.CommandTag) error {
		if tag.String() != "COMMIT" {
			return errdef.Newf(errdef.Internal, "meta.database", "%s answers COMMIT with %s", w.s.where, tag)
		}
		return nil
	})
	if err := fault.Point("meta.pg.before_commit"); err != nil {
		return err
	}
	if err := w.conn.SendBatch(ctx, &b).Close(); err != nil {
		return err
	}
	// Only a crash makes sense after a commit: the transactions have happened.
	_ = fault.Point("meta.pg.after_commit")
	return nil
}

// queueForget removes old deletions now and then, in steps of a tenth of what is remembered.
func (w *writer) queueForget(b *pgx.Batch, before, last int64) {
	keep := w.s.rememberDeletions
	step := keep / 10
	if before/step == last/step || last <= keep {
		return
	}
	b.Queue(`UPDATE tarn.state SET value = $1 WHERE name = 'horizon'`, last-keep)
	b.Queue(`DELETE FROM tarn.gone WHERE version <= $1`, last-keep)
}

func (w *writer) connect(ctx context.Context) error {
	if w.conn != nil {
		return nil
	}
	conn, err := pgx.ConnectConfig(ctx, w.config)
	if err != nil {
		return err
	}
	w.conn = conn
	_, err = conn.Exec(ctx, sessionSettings)
	return err
}

// rollback ends a transaction that wrote nothing; a connection on which that fails is no longer of use.
func (w *writer) rollback(ctx context.Context) {
	if _, err := w.conn.Exec(ctx, `ROLLBACK`); err != nil {
		w.drop()
	}
}

// drop closes the connection without a word, which rolls back whatever was open.
func (w *writer) drop() {
	if w.conn == nil {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	w.conn.Close(ctx) //nolint:errcheck // it is of no use any more
	w.conn = nil
}

// retire removes the writer's row when the store closes; a row that stays is removed after a week.
func (w *writer) retire() {
	if w.conn == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	w.conn.Exec(ctx, `DELETE FROM tarn.writer WHERE id = $1`, w.id) //nolint:errcheck // see above
	w.conn.Close(ctx)                                               //nolint:errcheck // nothing is open
}

func (w *writer) fail(batch []*serial.Request, err error, doubt bool) {
	err = w.s.classify(err, "write metadata")
	if doubt {
		err = ErrOutcomeUnknown.Errorf("write metadata: %s went away during a commit, so it is not known whether that happened: %w", w.s.where, err).
			WithNext("when the database is back, look whether the change is there before you repeat it")
	}
	for _, r := range batch {
		r.Number, r.Err = 0, err
	}
}

// slack is for sending a large batch over a slow network, at 1 MiB/s.
func slack(batch []*serial.Request) time.Duration {
	size := 0
	for _, r := range batch {
		for _, w := range r.Writes {
			size += len(w.Value)
		}
	}
	return time.Duration(size>>20) * time.Second
}
