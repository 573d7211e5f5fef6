package pgmeta_test

import (
	"errors"
	"net/url"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/meta"
	"tarn.dev/tarn/internal/meta/pgmeta"
	"tarn.dev/tarn/internal/meta/pgmeta/pgtest"
)

// with returns address for another user, host or database.
func with(t *testing.T, address string, change func(*url.URL)) string {
	t.Helper()
	u, err := url.Parse(address)
	must(t, err)
	change(u)
	return u.String()
}

func TestOpenRefuses(t *testing.T) {
	t.Parallel()
	address := pgtest.Database(t)
	name := strings.TrimPrefix(with(t, address, func(u *url.URL) { u.Host, u.User, u.RawQuery, u.Scheme = "", nil, "", "" }), "/")
	role := "r" + name
	pgtest.Exec(t, address, "CREATE ROLE "+role+" LOGIN PASSWORD 'right'")
	readonly, newer, foreign := pgtest.Database(t), pgtest.Database(t), pgtest.Database(t)
	pgtest.Exec(t, readonly, `DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET default_transaction_read_only = on', current_database()); END $$`)
	must(t, open(t, newer).Close())
	pgtest.Exec(t, newer, `UPDATE tarn.state SET value = 99 WHERE name = 'format'`)
	pgtest.Exec(t, foreign, `CREATE SCHEMA tarn`, `CREATE TABLE tarn.state (name text, value bigint)`)
	as := func(password string) string {
		return with(t, address, func(u *url.URL) { u.User = url.UserPassword(role, password) })
	}
	for _, test := range []struct {
		url  string
		want *errdef.Error
		says string
	}{
		{as("wrong-secret"), pgmeta.ErrLogin, role},
		{as("right"), pgmeta.ErrPermission, "GRANT CREATE ON DATABASE"},
		{with(t, address, func(u *url.URL) { u.Path = "/absent" }), pgmeta.ErrNoDatabase, "absent"},
		{"postgres://someone:wrong-secret@127.0.0.1:1/x", pgmeta.ErrUnreachable, "127.0.0.1:1"},
		{"postgres://someone:wrong-secret@127.0.0.1:port/x", pgmeta.ErrInvalidURL, "postgres://user@host"},
		{"mysql://someone:wrong-secret@127.0.0.1/x", pgmeta.ErrInvalidURL, "mysql"},
		{readonly, pgmeta.ErrReadOnly, "standby or read-only"},
		{newer, pgmeta.ErrNewerFormat, "99"},
		{foreign, pgmeta.ErrCorrupt, "tarn.state"},
	} {
		_, err := pgmeta.Open(t.Context(), test.url)
		if !errors.Is(err, test.want) {
			t.Errorf("%s: %v, want %s", test.url, err, test.want.Reason)
			continue
		}
		text := err.Error() + strings.Join(errdef.As(err).Next, " ")
		if !strings.Contains(text, test.says) || strings.Contains(text, "wrong-secret") {
			t.Errorf("%s: %s", test.want.Reason, text)
		}
	}
	// A schema that somebody with the permission has made is enough.
	pgtest.Exec(t, address, "CREATE SCHEMA tarn AUTHORIZATION "+role)
	s := open(t, as("right"))
	must2(s.Txn(t.Context(), nil, []meta.Write{meta.Set("a", nil)}))
	must(t, s.Close())
}

// When all connections are taken, a transaction waits for one; a server that starts says so.
func TestTooManyConnections(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t, "-c", "max_connections=12", "-c", "superuser_reserved_connections=0")
	address := server.Database(t)
	s := open(t, address)
	must2(s.Txn(t.Context(), nil, []meta.Write{meta.Set("a", nil)}))
	var taken []*pgx.Conn
	for {
		conn, err := pgx.Connect(t.Context(), server.URL("postgres"))
		if err != nil {
			break
		}
		taken = append(taken, conn)
	}
	_, err := taken[0].Exec(t.Context(), `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'tarn'`)
	must(t, err)
	for { // whatever the store has given back: its connections end when the database comes to it
		conn, err := pgx.Connect(t.Context(), server.URL("postgres"))
		if err == nil {
			taken = append(taken, conn)
			continue
		}
		other, err := pgmeta.Open(t.Context(), address)
		if err == nil {
			must(t, other.Close())
			continue
		}
		if !errors.Is(err, pgmeta.ErrBusy) {
			t.Errorf("open: %v", err)
		}
		break
	}
	result := make(chan error)
	go func() {
		_, err := s.Txn(t.Context(), []meta.Condition{meta.Exists("a")}, []meta.Write{meta.Set("b", nil)})
		result <- err
	}()
	for _, conn := range taken {
		must(t, conn.Close(t.Context()))
	}
	must(t, <-result)
	must(t, s.Close())
}

// A database that went back behind what it had acknowledged is not written to.
func TestWentBack(t *testing.T) {
	t.Parallel()
	address := pgtest.Database(t)
	s := open(t, address)
	for range 3 {
		must2(s.Txn(t.Context(), nil, []meta.Write{meta.Set("a", nil)}))
	}
	if durable, err := s.Durable(t.Context()); durable || err != nil { // the shared server does not sync
		t.Errorf("durable: %v, %v", durable, err)
	}
	pgtest.Exec(t, address, `UPDATE tarn.state SET value = 1 WHERE name = 'txn'`)
	if _, err := s.Txn(t.Context(), nil, []meta.Write{meta.Set("a", nil)}); !errors.Is(err, pgmeta.ErrWentBack) {
		t.Errorf("txn: %v", err)
	}
	must(t, s.Close())
}
