package pgmeta

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"tarn.dev/tarn/internal/meta"
)

//go:embed schema.sql
var schema string

const (
	formatVersion = 2
	oldestServer  = 13
	// connections for reads of one server at once; writing, listening and long scans have their own.
	connections = 8
	// connectWithin bounds one attempt to connect.
	connectWithin = 5 * time.Second
	// schemaLock is the advisory lock of who makes the tables: "Tarn".
	schemaLock = 0x5461726e
)

func parse(url string) (*pgxpool.Config, error) {
	if !strings.HasPrefix(url, "postgres://") && !strings.HasPrefix(url, "postgresql://") {
		scheme, _, _ := strings.Cut(url, ":")
		return nil, ErrInvalidURL.Errorf("%q is no kind of metadata store", scheme).WithNext("postgres://user@host:5432/database")
	}
	config, err := pgxpool.ParseConfig(url)
	if err != nil { // which is without the password
		return nil, ErrInvalidURL.Errorf("%w", err).WithNext("postgres://user@host:5432/database")
	}
	if !strings.Contains(url, "pool_max_conns") {
		config.MaxConns = connections
	}
	c := config.ConnConfig
	if c.ConnectTimeout == 0 || c.ConnectTimeout > connectWithin {
		c.ConnectTimeout = connectWithin
	}
	if c.RuntimeParams["application_name"] == "" {
		c.RuntimeParams["application_name"] = "tarn"
	}
	// A statement that was planned once for all cursors would read the whole table to find what is new.
	c.DefaultQueryExecMode = pgx.QueryExecModeCacheDescribe
	// A host that vanished without a word is noticed within 30 s.
	c.DialFunc = (&net.Dialer{KeepAliveConfig: net.KeepAliveConfig{
		Enable: true, Idle: 10 * time.Second, Interval: 5 * time.Second, Count: 4,
	}}).DialContext
	return config, nil
}

func where(c *pgx.ConnConfig) string {
	return fmt.Sprintf("database %s of %s at %s", c.Database, c.User, net.JoinHostPort(c.Host, fmt.Sprint(c.Port)))
}

// prepare checks the server, makes the tables if there are none, and reads the newest number. It does
// not wait for a server that is not there, only for one that starts up or has no connection to spare.
func (s *Store) prepare(ctx context.Context) error {
	pause := newPauses(min(s.patience, 10*time.Second))
	for {
		err := s.prepareOnce(ctx)
		code := sqlState(err)
		if err == nil || (code != "57P03" && code != "53300") || !pause.wait(ctx) {
			return s.failed(ctx, err, "open metadata")
		}
	}
}

func (s *Store) prepareOnce(ctx context.Context) error {
	conn, err := s.pool.Acquire(ctx)
	if err != nil {
		return err
	}
	defer conn.Release()
	var version int
	var standby bool
	err = conn.QueryRow(ctx, `SELECT current_setting('server_version_num')::int,
		pg_is_in_recovery() OR current_setting('transaction_read_only')::bool`).Scan(&version, &standby)
	switch {
	case err != nil:
		return err
	case version < oldestServer*10000:
		return ErrOldServer.Errorf("open metadata: %s is Postgres %d, Tarn needs %d or newer", s.where, version/10000, oldestServer)
	case standby:
		return ErrReadOnly.Errorf("open metadata: %s is a standby or read-only", s.where).
			WithNext("give the address of the primary, or all hosts with target_session_attrs=read-write")
	}
	return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `SELECT pg_advisory_xact_lock($1)`, schemaLock); err != nil {
			return err
		}
		return s.migrate(ctx, tx)
	})
}

// migrate runs under a lock: servers that start at once make the tables once. A schema that somebody
// made in advance is used, since CREATE SCHEMA needs a permission that the user then need not have.
func (s *Store) migrate(ctx context.Context, tx pgx.Tx) error {
	var haveSchema, haveTables bool
	if err := tx.QueryRow(ctx, `SELECT to_regnamespace('tarn') IS NOT NULL, to_regclass('tarn.state') IS NOT NULL`).
		Scan(&haveSchema, &haveTables); err != nil {
		return err
	}
	missing := ""
	if !haveSchema {
		missing = `CREATE SCHEMA tarn;`
	}
	if !haveTables {
		missing += schema
	}
	if missing != "" {
		if _, err := tx.Conn().PgConn().Exec(ctx, missing).ReadAll(); err != nil {
			return err
		}
	}
	var format, last int64
	err := tx.QueryRow(ctx, `SELECT f.value, t.value, i.value FROM tarn.state f, tarn.state t, tarn.state i
		WHERE f.name = 'format' AND t.name = 'txn' AND i.name = 'identity'`).Scan(&format, &last, &s.identity)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return ErrCorrupt.Errorf("open metadata: the table tarn.state of %s lacks its rows", s.where)
	case err != nil:
		return err
	case format > formatVersion:
		return ErrNewerFormat.Errorf("open metadata: %s has format %d, this Tarn knows %d", s.where, format, formatVersion).
			WithNext("use a newer Tarn")
	case format < formatVersion:
		if err := toVersion2(ctx, tx); err != nil {
			return err
		}
	}
	s.last.Store(last)
	_, err = tx.Exec(ctx, `DELETE FROM tarn.writer WHERE at < now() - interval '7 days'`)
	return err
}

// toVersion2 gives the rows of version 1 their sums. The column has no default, so that a server of an older
// version that is still up is refused by the database: it would write rows without.
func toVersion2(ctx context.Context, tx pgx.Tx) error {
	if _, err := tx.Exec(ctx, `ALTER TABLE tarn.rows ADD COLUMN sum bigint`); err != nil {
		return err
	}
	const step = 10_000
	after := []byte{}
	for {
		rows, err := tx.Query(ctx, `SELECT key, value, version, 0::bigint FROM tarn.rows WHERE key > $1 ORDER BY key LIMIT $2`, after, step)
		if err != nil {
			return err
		}
		var keys [][]byte
		var sums []int64
		for rows.Next() {
			row, err := readRow(rows)
			if err != nil {
				return err
			}
			keys, sums = append(keys, []byte(row.Key)), append(sums, meta.Sum(row.Row))
		}
		if err := rows.Err(); err != nil {
			return err
		}
		if len(keys) == 0 {
			break
		}
		after = keys[len(keys)-1]
		if _, err := tx.Exec(ctx, `UPDATE tarn.rows r SET sum = s.sum FROM unnest($1::bytea[], $2::bigint[]) AS s(key, sum) WHERE r.key = s.key`, keys, sums); err != nil {
			return err
		}
	}
	if _, err := tx.Exec(ctx, `ALTER TABLE tarn.rows ALTER COLUMN sum SET NOT NULL`); err != nil {
		return err
	}
	_, err := tx.Exec(ctx, `UPDATE tarn.state SET value = 2 WHERE name = 'format'`)
	return err
}
