package client_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	tarnv1 "tarn.dev/tarn/api/gen/tarn/v1"
	"tarn.dev/tarn/internal/base/build"
	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/client"
	"tarn.dev/tarn/internal/lake"
	"tarn.dev/tarn/internal/runtime/process"
	"tarn.dev/tarn/internal/server"
	"tarn.dev/tarn/internal/system"
	"tarn.dev/tarn/internal/system/home"
)

// The test binary is also the server that clients start.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == home.ServerRole {
		os.Exit(system.BackgroundMain())
	}
	if len(os.Args) > 1 && os.Args[1] == process.Role {
		os.Exit(process.InitMain())
	}
	os.Exit(m.Run())
}

var (
	older = build.Info{Version: "v0.0.1"}
	newer = build.Info{Version: "v9.0.0"}
)

// newHome is a home whose server, if any, is stopped when the test ends.
func newHome(t *testing.T) home.Home {
	t.Helper()
	h, err := home.At(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c, err := client.Open(context.Background(), client.Options{Home: h, NoStart: true})
		if err != nil {
			return
		}
		if _, err := c.System.Shutdown(context.Background(), &tarnv1.ShutdownRequest{RequestId: "q"}); err != nil {
			t.Error(err)
		}
		c.Close()
		if err := h.AwaitFree(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return h
}

func open(t *testing.T, o client.Options) *client.Client {
	t.Helper()
	c, err := client.Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// serve runs a server of a build in this process; ended tells what it ended with.
func serve(t *testing.T, h home.Home, b build.Info) (ended <-chan error) {
	t.Helper()
	s, err := system.Open(t.Context(), system.Config{Home: h, Build: b, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	done, ready := make(chan error, 1), make(chan struct{})
	go func() { done <- s.Run(context.Background(), func() { close(ready) }) }()
	<-ready
	return done
}

func TestClientsStartOneServer(t *testing.T) {
	t.Parallel()
	h := newHome(t)
	if _, err := client.Open(t.Context(), client.Options{Home: h, NoStart: true}); !errors.Is(err, client.ErrNoServer) {
		t.Fatalf("without a server: %v", err)
	}
	pids := make([]int32, 8)
	var wg sync.WaitGroup
	for i := range pids {
		wg.Go(func() {
			c, err := client.Open(t.Context(), client.Options{Home: h})
			if err != nil {
				t.Error(err)
				return
			}
			pids[i] = c.Server.GetPid()
			c.Close()
		})
	}
	wg.Wait()
	for _, pid := range pids {
		if pid != pids[0] || pid == int32(os.Getpid()) {
			t.Errorf("servers %v", pids)
		}
	}
}

func TestNewerClientReplacesIdleServer(t *testing.T) {
	t.Parallel()
	h := newHome(t)
	ended := serve(t, h, older)
	c := open(t, client.Options{Home: h, Build: newer})
	if c.Server.GetPid() == int32(os.Getpid()) {
		t.Error("the older server still answers")
	}
	if err := <-ended; err != nil {
		t.Errorf("the older server ended with %v", err)
	}
}

func TestBusyServerIsLeftAlone(t *testing.T) {
	t.Parallel()
	h := newHome(t)
	ended := serve(t, h, older)
	busy := open(t, client.Options{Home: h, Build: older})
	c := open(t, client.Options{Home: h, Build: newer})
	if c.Server.GetVersion() != older.Version {
		t.Errorf("a busy server was replaced by %s", c.Server.GetVersion())
	}
	if _, err := busy.System.Shutdown(t.Context(), &tarnv1.ShutdownRequest{RequestId: "q"}); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestOlderClientUsesNewerServer(t *testing.T) {
	t.Parallel()
	h := newHome(t)
	ended := serve(t, h, newer)
	c := open(t, client.Options{Home: h, Build: older})
	if c.Server.GetVersion() != newer.Version {
		t.Errorf("an older client replaced a newer server by %s", c.Server.GetVersion())
	}
	if _, err := c.System.Shutdown(t.Context(), &tarnv1.ShutdownRequest{RequestId: "q"}); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// A home that somebody holds without answering is named with who holds it, after a moment.
func TestLockedHome(t *testing.T) {
	t.Parallel()
	h := newHome(t)
	release, err := h.Lock(t.Context(), "v0.0.7")
	if err != nil {
		t.Fatal(err)
	}
	_, err = client.Open(t.Context(), client.Options{Home: h})
	if !errors.Is(err, home.ErrLocked) || !strings.Contains(err.Error(), "v0.0.7") {
		t.Errorf("Open: %v", err)
	}
	if err := release(); err != nil {
		t.Fatal(err)
	}
	open(t, client.Options{Home: h})
}

func TestCanceledStart(t *testing.T) {
	t.Parallel()
	h := newHome(t)
	release, err := h.Launching(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer release() //nolint:errcheck // a lock file
	why := errors.New("the user went away")
	ctx, cancel := context.WithCancelCause(t.Context())
	time.AfterFunc(10*time.Millisecond, func() { cancel(why) })
	if _, err := client.Open(ctx, client.Options{Home: h}); !errors.Is(err, why) {
		t.Errorf("Open: %v", err)
	}
}

// An error is the same on both sides: code, reason, message, details, and errors.Is.
func TestErrorsCrossTheWire(t *testing.T) {
	t.Parallel()
	c := open(t, client.Options{Home: newHome(t)})
	_, err := c.History.Resolve(t.Context(), &tarnv1.ResolveRequest{Project: "p", Ref: "nope"})
	if !errors.Is(err, lake.ErrRefNotFound) || errdef.CodeOf(err) != errdef.NotFound || !strings.Contains(err.Error(), "nope") {
		t.Errorf("unary: %#v", err)
	}
	stream, err := c.History.Log(t.Context(), &tarnv1.LogRequest{Project: "p", Ref: "nope"})
	if err != nil {
		t.Fatal(err)
	}
	for stream.Receive() {
	}
	if err := client.Error(stream.Err()); !errors.Is(err, lake.ErrRefNotFound) {
		t.Errorf("server stream: %#v", err)
	}
	put, err := c.Files.Put(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	err = put.Send(&tarnv1.PutRequest{Event: &tarnv1.PutRequest_Write{Write: &tarnv1.Write{Project: "p", Into: "nope", RequestId: "q"}}})
	if err != nil && !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	_, err = put.CloseAndReceive()
	if err := client.Error(err); !errors.Is(err, lake.ErrBranchNotFound) {
		t.Errorf("client stream: %#v", err)
	}
	if _, err := c.History.CreateBranch(t.Context(), &tarnv1.CreateBranchRequest{Project: "p", Name: "x", From: "main"}); errdef.CodeOf(err) != errdef.InvalidArgument {
		t.Errorf("without a request id: %v", err)
	}
}

// brittle is a control with a bug in one call.
type brittle struct{ server.Control }

func (brittle) Status() server.Status                   { return server.Status{} }
func (brittle) Doctor(context.Context) []server.Finding { panic("secret state") }

type none struct{ server.Projects }

func (none) Names(context.Context) ([]string, error) { return nil, nil }

// A panic ends one call, and tells the caller nothing but where to look. The token travels with all.
func TestPanicAndToken(t *testing.T) {
	t.Parallel()
	var log strings.Builder
	handler := server.Handler(server.Services{Log: slog.New(slog.NewTextHandler(&log, nil)), Control: brittle{}, Projects: none{}})
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer t0k" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		handler.ServeHTTP(w, r)
	}))
	defer s.Close()
	if _, err := client.Open(t.Context(), client.Options{URL: s.URL}); errdef.CodeOf(err) != errdef.Unauthenticated {
		t.Errorf("without a token: %v", err)
	}
	c := open(t, client.Options{URL: s.URL + "/", Token: "t0k"})
	_, err := c.System.Doctor(t.Context(), &tarnv1.DoctorRequest{})
	if errdef.CodeOf(err) != errdef.Internal || strings.Contains(err.Error(), "secret") {
		t.Errorf("Doctor: %v", err)
	}
	if !strings.Contains(log.String(), "secret state") {
		t.Errorf("the log does not tell: %s", log.String())
	}
	if _, err := c.System.Status(t.Context(), &tarnv1.StatusRequest{}); err != nil {
		t.Errorf("after the panic: %v", err)
	}
}
