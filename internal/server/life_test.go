package server_test

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	tarnv1 "tarn.dev/tarn/api/gen/tarn/v1"
	"tarn.dev/tarn/internal/base/build"
	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/client"
	"tarn.dev/tarn/internal/lake"
	"tarn.dev/tarn/internal/system"
	"tarn.dev/tarn/internal/system/home"
)

// dialRole makes the test binary dial a socket and say how that went.
const dialRole = "test-dial"

const (
	dialed  = 0
	refused = 3
)

func dialMain(socket string) int {
	c, err := net.Dial("unix", socket)
	if errors.Is(err, os.ErrPermission) {
		return refused
	}
	if err != nil {
		return 1
	}
	c.Close() //nolint:errcheck // nothing was written
	return dialed
}

// The socket is its owner's: its folder lets nobody else in. To be somebody else, this test needs root.
func TestSocketIsTheOwners(t *testing.T) {
	t.Parallel()
	p := serve(t, 0)
	folder, err := os.Stat(filepath.Dir(p.home.Socket))
	if err != nil || folder.Mode().Perm() != 0o700 || int(folder.Sys().(*syscall.Stat_t).Uid) != os.Geteuid() {
		t.Errorf("the socket's folder is %v, %v", folder.Mode(), err)
	}
	dial := func(uid uint32) int {
		self, err := os.Open("/proc/self/exe") // its path may be closed to others
		if err != nil {
			t.Fatal(err)
		}
		defer self.Close() //nolint:errcheck // read only
		c := exec.CommandContext(t.Context(), "/proc/self/fd/3", dialRole, p.home.Socket)
		c.ExtraFiles, c.Dir = []*os.File{self}, "/"
		if uid != uint32(os.Geteuid()) {
			c.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
		}
		out, err := c.CombinedOutput()
		var exit *exec.ExitError
		if err != nil && !errors.As(err, &exit) {
			t.Fatalf("%v: %s", err, out)
		}
		return c.ProcessState.ExitCode()
	}
	if got := dial(uint32(os.Geteuid())); got != dialed {
		t.Errorf("the owner's dial ended with %d", got)
	}
	if os.Geteuid() != 0 {
		return
	}
	if got := dial(65534); got != refused {
		t.Errorf("a stranger's dial ended with %d", got)
	}
}

// Over the network a server stands behind something that knows who is calling. A token that is wrong, has
// expired, or is missing comes back as such from every kind of call, and a right one travels with all.
func TestTokenOverLoopback(t *testing.T) {
	t.Parallel()
	p := serve(t, 0)
	target, err := url.Parse("http://tarn")
	if err != nil {
		t.Fatal(err)
	}
	proxy := &httputil.ReverseProxy{Transport: p.socket(), Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(target) }, FlushInterval: -1}
	gate := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.Header.Get("Authorization") {
		case "Bearer good":
			proxy.ServeHTTP(w, r)
		case "Bearer foreign":
			w.WriteHeader(http.StatusForbidden)
		default:
			w.WriteHeader(http.StatusUnauthorized)
		}
	}))
	defer gate.Close()
	for token, want := range map[string]errdef.Code{"": errdef.Unauthenticated, "expired": errdef.Unauthenticated, "foreign": errdef.PermissionDenied} {
		if _, err := client.Open(t.Context(), client.Options{URL: gate.URL, Token: token}); errdef.CodeOf(err) != want {
			t.Errorf("token %q: %v", token, err)
		}
	}
	c, err := client.Open(t.Context(), client.Options{URL: gate.URL, Token: "good"})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := put(t.Context(), c.Files, into("main", "q"), "a.txt", "a"); err != nil {
		t.Errorf("client stream: %v", err)
	}
	if n := p.commits(c, "main"); n != 2 {
		t.Errorf("server stream: %d commits", n)
	}
}

// A client that goes away in the middle of a put leaves nothing, and ends the call.
func TestPutCutOff(t *testing.T) {
	t.Parallel()
	p := serve(t, 0)
	c := p.open()
	ctx, cancel := context.WithCancel(t.Context())
	s, err := c.Files.Put(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range []*tarnv1.PutRequest{
		{Event: &tarnv1.PutRequest_Write{Write: into("main", "cut")}}, {Event: &tarnv1.PutRequest_Path{Path: "a.bin"}}, {Event: &tarnv1.PutRequest_Data{Data: make([]byte, 1<<20)}},
	} {
		if err := s.Send(m); err != nil {
			t.Fatal(err)
		}
	}
	cancel()
	if _, err := s.CloseAndReceive(); errdef.CodeOf(client.Error(err)) != errdef.Canceled {
		t.Errorf("the client heard %v", err)
	}
	p.log.awaitEnd(t, "FileService/Put")
	if n := p.commits(c, "main"); n != 1 {
		t.Errorf("%d commits", n)
	}
	// The same request, whole: it was not done before.
	if r, err := put(t.Context(), c.Files, into("main", "cut"), "a.bin", "a"); err != nil || !r.GetWritten().GetChanged() {
		t.Errorf("the put again: %v, %v", r, err)
	}
}

// A query ends when its client goes away.
func TestQueryCutOff(t *testing.T) {
	t.Parallel()
	p := serve(t, 0)
	c := p.open()
	endless := &tarnv1.QueryRequest{Write: &tarnv1.Write{Project: "p"}, Ref: "main", Sql: "select * from range(1000000000000)"}
	ctx, cancel := context.WithCancel(t.Context())
	s, err := c.Queries.Query(ctx, endless)
	if err != nil || !s.Receive() {
		t.Fatalf("%v, %v", err, s.Err())
	}
	cancel()
	for s.Receive() {
	}
	if e := errdef.As(client.Error(s.Err())); e.Code != errdef.Canceled {
		t.Errorf("the client heard %v", e)
	}
	p.log.awaitEnd(t, "QueryService/Query")
}

// A query ends with the time that its client gives it.
func TestQueryOutOfTime(t *testing.T) {
	t.Parallel()
	p := serve(t, 0)
	c := p.open()
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	endless := &tarnv1.QueryRequest{
		Write: &tarnv1.Write{Project: "p"}, Ref: "main",
		Sql: "select count(*) from range(1000000000000) a, range(1000000) b where a.range * b.range % 7 = 3",
	}
	if _, err := last(c.Queries.Query(ctx, endless)); errdef.CodeOf(client.Error(err)) != errdef.DeadlineExceeded {
		t.Errorf("after its time: %v", err)
	}
	p.log.awaitEnd(t, "QueryService/Query")
}

// slow is an asset that works for longer than an idle server would stay.
const slow = "# tarn: outputs = { made = \"csv\" }\nsleep 0.5\nprintf 'id\\n1\\n' > \"$TARN_OUT_MADE\"\n"

// A run goes on when nobody watches it, and holds a server that would be idle; after it the server ends.
func TestIdleWaitsForRuns(t *testing.T) {
	t.Parallel()
	const idle = 50 * time.Millisecond
	p := serve(t, idle)
	p.write("made.sh", slow)
	c, err := client.Open(t.Context(), client.Options{Home: p.home, NoStart: true})
	if err != nil {
		t.Fatal(err)
	}
	m, err := c.Runs.Start(t.Context(), &tarnv1.StartRunRequest{RequestId: "r", Spec: &tarnv1.RunSpec{Project: "p", Dir: p.dir, Into: "main"}})
	if err != nil {
		t.Fatal(err)
	}
	c.Close() // nobody is connected from here on
	select {
	case err := <-p.ended:
		if err != nil {
			t.Fatalf("the server ended with %v", err)
		}
	case <-soon(t).Done():
		t.Fatal("the idle server stays")
	}
	p.log.awaitStop(t, "idle")
	p.start(0)
	run, err := p.open().Runs.Get(t.Context(), &tarnv1.GetRunRequest{Project: "p", Run: m.GetRun().GetId()})
	if err != nil || run.GetRun().GetState() != "succeeded" || run.GetRun().GetCommit() == "" {
		t.Errorf("the run is %v, %v", run, err)
	}
}

// A server that is asked to end takes no new calls and finishes those under way; what does not end in time
// is told why.
func TestShutdownFinishesCalls(t *testing.T) {
	t.Parallel()
	p := serve(t, 0)
	c := p.open()
	begin := func(request, path string) func() (*tarnv1.PutResponse, error) {
		s, err := c.Files.Put(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range []*tarnv1.PutRequest{{Event: &tarnv1.PutRequest_Write{Write: into("main", request)}}, {Event: &tarnv1.PutRequest_Path{Path: path}}} {
			if err := s.Send(m); err != nil {
				t.Fatal(err)
			}
		}
		return s.CloseAndReceive
	}
	finish := begin("under way", "a.txt")
	asked, err := c.System.Shutdown(t.Context(), &tarnv1.ShutdownRequest{RequestId: "s", IfIdle: true})
	if err != nil || !asked.GetStopping() {
		t.Fatalf("%v, %v", asked, err)
	}
	p.log.awaitStop(t, "asked by a client")
	if r, err := finish(); err != nil || !r.GetWritten().GetChanged() {
		t.Errorf("the call under way: %v, %v", r, err)
	}
	if err := <-p.ended; err != nil {
		t.Fatalf("the server ended with %v", err)
	}
	if _, err := client.Open(t.Context(), client.Options{Home: p.home, NoStart: true}); !errors.Is(err, client.ErrNoServer) {
		t.Errorf("a call afterwards: %v", err)
	}
	p.start(0)
	c = p.open()
	if n := p.commits(c, "main"); n != 2 {
		t.Errorf("%d commits after the shutdown", n)
	}

	stuck := begin("stuck", "b.txt") // never finished by its client
	if _, err := c.System.Shutdown(t.Context(), &tarnv1.ShutdownRequest{RequestId: "s"}); err != nil {
		t.Fatal(err)
	}
	if err := <-p.ended; err != nil {
		t.Fatalf("the server ended with %v", err)
	}
	if _, err := stuck(); errdef.CodeOf(client.Error(err)) != errdef.Unavailable && errdef.CodeOf(client.Error(err)) != errdef.Canceled {
		t.Errorf("the call that was cut off: %v", err)
	}
	p.start(0)
	if n := p.commits(p.open(), "main"); n != 2 {
		t.Errorf("a put that never ended was published: %d commits", n)
	}
}

// A place that is taken is named, and given back when the start fails.
func TestSocketTaken(t *testing.T) {
	t.Parallel()
	p := serve(t, 0)
	if _, err := system.Open(t.Context(), system.Config{Home: p.home, Build: build.Info{}, Log: nil}); !errors.Is(err, home.ErrLocked) {
		t.Errorf("a second server of the home: %v", err)
	}
	if _, err := p.open().History.Resolve(t.Context(), &tarnv1.ResolveRequest{Project: "p", Ref: "main"}); err != nil {
		t.Errorf("the first server does not answer any more: %v", err)
	}

	h, err := home.At(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	h.Cache = t.TempDir()
	if err := os.MkdirAll(filepath.Join(h.Socket, "full"), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(h.Socket) }) //nolint:errcheck // not of the test's own folder, so tried at least
	q := &place{t: t, home: h, dir: t.TempDir(), log: &journal{changed: make(chan struct{})}}
	_, err = system.Open(t.Context(), system.Config{Home: h, Build: build.Current(), Log: slog.New(slog.DiscardHandler)})
	if e := errdef.As(err); e.Reason != "system.socket" {
		t.Fatalf("a folder where the socket should be: %v", err)
	}
	if err := os.RemoveAll(h.Socket); err != nil {
		t.Fatal(err)
	}
	q.start(0) // the lock is free
	c := q.open()
	if _, err := c.History.Resolve(t.Context(), &tarnv1.ResolveRequest{Project: "p", Ref: "nope"}); !errors.Is(err, lake.ErrRefNotFound) {
		t.Error(err)
	}
	if _, err := c.System.Shutdown(t.Context(), &tarnv1.ShutdownRequest{RequestId: "s"}); err != nil {
		t.Error(err)
	}
	if err := <-q.ended; err != nil {
		t.Error(err)
	}
}
