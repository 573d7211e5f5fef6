package pgmeta_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/url"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"

	"tarn.dev/tarn/internal/meta"
	"tarn.dev/tarn/internal/meta/pgmeta"
	"tarn.dev/tarn/internal/meta/pgmeta/pgtest"
)

// Writers of two servers go on while the database is killed in every way. All is there once in the end:
// a transaction that was applied twice would have a row with another number than was returned, or a
// counter that is too high; one that was lost has none, or one that is too low.
func TestKilledDatabase(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t)
	address := server.Database(t)
	stores := []*pgmeta.Store{open(t, address), open(t, address)}
	for name, kill := range map[string]func(){
		"terminated": func() {
			for range 5 {
				pgtest.Exec(t, server.URL("postgres"), `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'tarn'`)
			}
		},
		"backend killed": func() {
			conn, err := pgx.Connect(t.Context(), server.URL("postgres"))
			must(t, err)
			rows, err := conn.Query(t.Context(), `SELECT pid FROM pg_stat_activity WHERE application_name = 'tarn'`)
			must(t, err)
			pids, err := pgx.CollectRows(rows, pgx.RowTo[int])
			must(t, err)
			must(t, conn.Close(t.Context()))
			server.KillBackend(t, pids[rand.N(len(pids))])
		},
		"postmaster killed": func() { server.Kill(t); must(t, server.Up()) },
		"restarted":         func() { server.Restart(t) },
	} {
		const writers = 8
		var wg sync.WaitGroup
		var done atomic.Bool
		started := make(chan struct{}, writers)
		counter := "n/" + name
		must2(stores[0].Txn(t.Context(), nil, []meta.Write{meta.Set(counter, []byte("0"))}))
		var counted atomic.Int64
		for w := range writers {
			wg.Go(func() {
				s := stores[w%len(stores)]
				for i := 0; !done.Load(); i++ {
					key := fmt.Sprintf("k/%s/%d/%d", name, w, i)
					v, err := s.Txn(t.Context(), []meta.Condition{meta.Absent(key)}, []meta.Write{meta.Set(key, nil)})
					if err != nil {
						t.Errorf("%s: txn: %v", name, err)
						return
					}
					if row, err := s.Get(t.Context(), key); err != nil || row.Version != v {
						t.Errorf("%s: %s was written by %d, and is there as %d: %v", name, key, v, row.Version, err)
					}
					// The retry of this one would not be stopped by a condition on what it wrote.
					if v, err = s.Txn(t.Context(), nil, []meta.Write{meta.Set(key, []byte("again"))}); err != nil {
						t.Errorf("%s: txn: %v", name, err)
					} else if row, err := s.Get(t.Context(), key); err != nil || row.Version != v {
						t.Errorf("%s: %s was written by %d, and is there as %d: %v", name, key, v, row.Version, err)
					}
					if increment(t, s, counter) {
						counted.Add(1)
					}
					if i == 2 {
						started <- struct{}{}
					}
				}
			})
		}
		for range writers {
			<-started
		}
		kill()
		before := counted.Load()
		for counted.Load() < before+2*writers && !t.Failed() { // they go on after it
			increment(t, stores[0], "other")
		}
		done.Store(true)
		wg.Wait()
		row, err := stores[1].Get(t.Context(), counter)
		must(t, err)
		if got := string(row.Value); got != fmt.Sprint(counted.Load()) {
			t.Errorf("%s: counter is %s after %d increments", name, got, counted.Load())
		}
	}
	for _, s := range stores {
		must(t, s.Close())
	}
}

// increment reports whether it was this call that raised the counter.
func increment(t *testing.T, s meta.Store, key string) bool {
	row, err := s.Get(t.Context(), key)
	cond := meta.At(key, row.Version)
	if errors.Is(err, meta.ErrNotFound) {
		cond, err = meta.Absent(key), nil
	}
	if err != nil {
		t.Errorf("get: %v", err)
		return false
	}
	n, _ := strconv.Atoi(string(row.Value))
	_, err = s.Txn(t.Context(), []meta.Condition{cond}, []meta.Write{meta.Set(key, []byte(strconv.Itoa(n+1)))})
	if err != nil && !errors.Is(err, meta.ErrConditionFailed) {
		t.Errorf("txn: %v", err)
	}
	return err == nil
}

// The connection is cut around the COMMIT: before the database gets it, or after, so that only the answer
// is lost. In both cases the transaction happens once, and the caller is told its number.
func TestLostCommit(t *testing.T) {
	t.Parallel()
	for name, deliver := range map[string]bool{"request": false, "answer": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cut := newCutter(t, pgtest.Database(t), deliver)
			s := open(t, cut.url)
			const n = 20
			for i := range n {
				key := fmt.Sprint("k", i)
				cut.armed.Store(true)
				v, err := s.Txn(t.Context(), []meta.Condition{meta.Absent(key)}, []meta.Write{meta.Set(key, []byte("x")), meta.Delete("none")})
				must(t, err)
				if cut.armed.Load() {
					t.Fatal("nothing was cut")
				}
				row, err := s.Get(t.Context(), key)
				must(t, err)
				if row.Version != v || v != int64(i+1) {
					t.Errorf("transaction %d returned %d and wrote %d", i+1, v, row.Version)
				}
				// The outcome is as well remembered when it is a failure.
				_, err = s.Txn(t.Context(), []meta.Condition{meta.Absent(key)}, []meta.Write{meta.Set(key, []byte("y"))})
				if !errors.Is(err, meta.ErrConditionFailed) {
					t.Errorf("txn: %v", err)
				}
			}
			if got := cut.cuts.Load(); got != n {
				t.Errorf("%d cuts", got)
			}
			must(t, s.Close())
		})
	}
}

// cutter stands between a store and its database, and cuts a connection that sends COMMIT when armed.
type cutter struct {
	url     string
	socket  string
	deliver bool
	armed   atomic.Bool
	cuts    atomic.Int64
}

func newCutter(t *testing.T, address string, deliver bool) *cutter {
	t.Helper()
	u, err := url.Parse(address)
	must(t, err)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	t.Cleanup(func() { l.Close() })
	c := &cutter{socket: filepath.Join(u.Query().Get("host"), ".s.PGSQL.5432"), deliver: deliver}
	c.url = "postgres://postgres@" + l.Addr().String() + u.Path + "?sslmode=disable"
	go func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			go c.serve(client)
		}
	}()
	return c
}

func (c *cutter) serve(client net.Conn) {
	defer client.Close()
	server, err := net.Dial("unix", c.socket)
	if err != nil {
		return
	}
	defer server.Close()
	var muted atomic.Bool
	go func() {
		defer client.Close()
		buf := make([]byte, 64<<10)
		for {
			n, err := server.Read(buf)
			if muted.Load() || err != nil { // the answer to COMMIT has come, so it has happened
				return
			}
			if _, err := client.Write(buf[:n]); err != nil {
				return
			}
		}
	}()
	buf := make([]byte, 64<<10)
	for {
		n, err := client.Read(buf)
		if err != nil {
			return
		}
		if bytes.Contains(buf[:n], []byte("COMMIT")) && bytes.Contains(buf[:n], []byte("NOTIFY")) && c.armed.CompareAndSwap(true, false) {
			c.cuts.Add(1)
			if !c.deliver {
				return
			}
			muted.Store(true)
			server.Write(buf[:n])       //nolint:errcheck // seen by the reader
			io.Copy(io.Discard, client) //nolint:errcheck // until the reader closes it
			return
		}
		if _, err := server.Write(buf[:n]); err != nil {
			return
		}
	}
}

// A database that does not come back: what was not sent to it has failed, and says so.
func TestDatabaseGone(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t)
	s := open(t, server.Database(t))
	must2(s.Txn(t.Context(), nil, []meta.Write{meta.Set("a", nil)}))
	server.Kill(t)
	txn := make(chan error)
	go func() {
		_, err := s.Txn(t.Context(), nil, []meta.Write{meta.Set("b", nil)})
		txn <- err
	}()
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("enough")
	get := make(chan error)
	go func() {
		_, err := s.Get(ctx, "a")
		get <- err
	}()
	cancel(why)
	if err := <-get; !errors.Is(err, why) {
		t.Errorf("get: %v", err)
	}
	must(t, s.Close()) // which does not wait for the database
	if err := <-txn; !errors.Is(err, pgmeta.ErrUnreachable) && !errors.Is(err, pgmeta.ErrClosed) {
		t.Errorf("txn: %v", err)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func must2(_ int64, err error) {
	if err != nil {
		panic(err)
	}
}
