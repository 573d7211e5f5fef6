// Package pgtest runs Postgres servers for tests: one that the tests of a package share, and servers of
// their own for tests that kill them. A machine without Postgres skips these tests and says why.
package pgtest

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// errNone says that a machine has no Postgres.
var errNone = errors.New("no Postgres: install Debian's package postgresql (tools/setup dev does as root)")

// lookAgain is the time between two looks at a process that cannot be waited for.
const lookAgain = 10 * time.Millisecond

// Server is one Postgres, reached through a socket in its own folder. Its superuser is "postgres", who
// needs no password there; others do.
type Server struct {
	dir  string
	bin  string
	cred *syscall.Credential // nil to run as this user

	mu      sync.Mutex
	process *os.Process
	ended   chan struct{}
}

var shared struct {
	sync.Mutex
	server *Server
	err    error
}

// Main runs the tests of a package, then stops the server that they shared.
func Main(m *testing.M) int {
	defer func() {
		if shared.server != nil {
			shared.server.remove()
		}
	}()
	return m.Run()
}

// Database makes an empty database on the shared server and returns its address. The shared server does
// not sync: tests about that start their own.
func Database(t testing.TB) string {
	t.Helper()
	shared.Lock()
	if shared.server == nil && shared.err == nil {
		shared.server, shared.err = start("-c", "fsync=off", "-c", "max_connections=400", "-c", "shared_buffers=32MB")
	}
	s, err := shared.server, shared.err
	shared.Unlock()
	skipOrFail(t, err)
	return s.Database(t)
}

// Start runs a server of the test's own, with the settings that production has.
func Start(t testing.TB, settings ...string) *Server {
	t.Helper()
	s, err := start(settings...)
	skipOrFail(t, err)
	t.Cleanup(s.remove)
	return s
}

func skipOrFail(t testing.TB, err error) {
	t.Helper()
	switch {
	case errors.Is(err, errNone):
		t.Skip(err)
	case err != nil:
		t.Fatal(err)
	}
}

func start(settings ...string) (_ *Server, err error) {
	s := &Server{}
	if s.bin, err = find(); err != nil {
		return nil, err
	}
	if s.dir, err = os.MkdirTemp("", "pg"); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			s.remove()
		}
	}()
	if err := s.own(); err != nil {
		return nil, err
	}
	initdb := s.command("initdb", "-D", s.data(), "-U", "postgres", "-E", "UTF8", "--locale=C", "--no-sync")
	if out, err := initdb.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("initdb: %w\n%s", err, out)
	}
	conf := fmt.Sprintf("listen_addresses = ''\nunix_socket_directories = '%s'\n", s.dir)
	for i := 0; i < len(settings); i += 2 {
		conf += strings.Replace(settings[i+1], "=", " = ", 1) + "\n"
	}
	for name, text := range map[string]string{
		"postgresql.conf": conf,
		"pg_hba.conf":     "local all postgres trust\nlocal all all scram-sha-256\n",
	} {
		if err := os.WriteFile(filepath.Join(s.data(), name), []byte(text), 0o600); err != nil { // its owner stays
			return nil, err
		}
	}
	return s, s.Up()
}

// own gives the folder to the user whom the server runs as: Postgres refuses to be root.
func (s *Server) own() error {
	if os.Geteuid() != 0 {
		return nil
	}
	u, err := user.Lookup("postgres")
	if err != nil {
		if u, err = user.Lookup("nobody"); err != nil {
			return err
		}
	}
	uid, err := strconv.ParseUint(u.Uid, 10, 32)
	if err != nil {
		return err
	}
	gid, err := strconv.ParseUint(u.Gid, 10, 32)
	if err != nil {
		return err
	}
	s.cred = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	if err := os.Chown(s.dir, int(uid), int(gid)); err != nil {
		return err
	}
	if err := s.command("initdb", "--version").Run(); err != nil {
		return fmt.Errorf("user %s cannot work in %s: %w", u.Username, s.dir, err)
	}
	return nil
}

// find returns the folder of the newest server programs, which Debian keeps out of PATH.
func find() (string, error) {
	dirs, err := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	if err != nil {
		return "", err
	}
	if len(dirs) > 0 {
		newest := slices.MaxFunc(dirs, func(a, b string) int { return number(a) - number(b) })
		return filepath.Dir(newest), nil
	}
	if path, err := exec.LookPath("initdb"); err == nil {
		return filepath.Dir(path), nil
	}
	return "", errNone
}

func number(path string) int {
	n, _ := strconv.Atoi(strings.Split(path, "/")[4])
	return n
}

func (s *Server) data() string { return filepath.Join(s.dir, "data") }
func (s *Server) log() string  { return filepath.Join(s.dir, "log") }

func (s *Server) command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(s.bin, name), args...)
	cmd.Dir = s.dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: s.cred}
	return cmd
}

// Up starts the server, again after Kill, and returns when it answers.
func (s *Server) Up() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	log, err := os.OpenFile(s.log(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close() // the child has its own
	// A postmaster that was killed leaves this behind; it would take its children's memory for a server.
	if err := os.Remove(filepath.Join(s.data(), "postmaster.pid")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	cmd := s.command("postgres", "-D", s.data())
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr.Pdeathsig = syscall.SIGQUIT
	ended, started := make(chan struct{}), make(chan error, 1)
	go func() {
		runtime.LockOSThread() // the signal comes when the thread ends that started the process
		defer close(ended)
		err := cmd.Start()
		started <- err
		if err == nil {
			cmd.Wait() //nolint:errcheck // killed, mostly
		}
	}()
	if err := <-started; err != nil {
		return err
	}
	s.process, s.ended = cmd.Process, ended
	return s.await(ended)
}

// await tries to connect until that succeeds or the server has ended.
func (s *Server) await(ended chan struct{}) error {
	for {
		conn, err := pgx.Connect(context.Background(), s.URL("postgres"))
		if err == nil {
			return conn.Close(context.Background())
		}
		select {
		case <-ended:
			text, _ := os.ReadFile(s.log())
			return fmt.Errorf("postgres ended: %s", bytes.TrimSpace(text))
		case <-time.After(lookAgain):
		}
	}
}

// Kill ends the postmaster with SIGKILL and waits until its children have noticed and are gone.
func (s *Server) Kill(t testing.TB) {
	t.Helper()
	s.signal(t, syscall.SIGKILL)
	s.mu.Lock()
	defer s.mu.Unlock()
	<-s.ended
	s.awaitChildren()
}

// awaitChildren waits for the processes that work in the data folder; a new server would refuse to start
// beside them.
func (s *Server) awaitChildren() {
	for {
		links, _ := filepath.Glob("/proc/[0-9]*/cwd")
		busy := slices.ContainsFunc(links, func(link string) bool {
			dir, err := os.Readlink(link)
			return err == nil && dir == s.data()
		})
		if !busy {
			return
		}
		<-time.After(lookAgain)
	}
}

func (s *Server) signal(t testing.TB, sig os.Signal) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.process.Signal(sig); err != nil {
		t.Fatal(err)
	}
}

// Restart stops the server at once, as an administrator does, and starts it again.
func (s *Server) Restart(t testing.TB) {
	t.Helper()
	s.signal(t, syscall.SIGINT)
	s.mu.Lock()
	ended := s.ended
	s.mu.Unlock()
	<-ended
	if err := s.Up(); err != nil {
		t.Fatal(err)
	}
}

// KillBackend ends one process that serves a client with SIGKILL, as running out of memory does: the
// postmaster then ends all others and recovers from its log.
func (s *Server) KillBackend(t testing.TB, pid int) {
	t.Helper()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
		t.Fatal(err)
	}
}

func (s *Server) remove() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.process != nil {
		s.process.Signal(syscall.SIGQUIT) //nolint:errcheck // it may be gone
		<-s.ended
		s.awaitChildren()
	}
	os.RemoveAll(s.dir) //nolint:errcheck // a temporary folder
}

// URL is the address of a database for the superuser.
func (s *Server) URL(database string) string {
	return (&url.URL{Scheme: "postgres", User: url.User("postgres"), Path: "/" + database, RawQuery: url.Values{"host": {s.dir}}.Encode()}).String()
}

// Database makes an empty database and returns its address.
func (s *Server) Database(t testing.TB) string {
	t.Helper()
	address, err := s.Create()
	if err != nil {
		t.Fatal(err)
	}
	return address
}

// Create does so where there is no test to fail.
func (s *Server) Create() (address string, err error) {
	var b [6]byte
	_, _ = rand.Read(b[:]) // never fails
	name := "t" + hex.EncodeToString(b[:])
	ctx := context.Background()
	conn, err := pgx.Connect(ctx, s.URL("postgres"))
	if err != nil {
		return "", err
	}
	_, err = conn.Exec(ctx, "CREATE DATABASE "+name)
	return s.URL(name), errors.Join(err, conn.Close(ctx))
}

// Exec runs statements on a connection of its own.
func Exec(t testing.TB, url string, statements ...string) {
	t.Helper()
	ctx := context.Background()
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx) //nolint:errcheck // each statement is committed
	for _, text := range statements {
		if _, err := conn.Exec(ctx, text); err != nil {
			t.Fatalf("%s: %v", text, err)
		}
	}
}
