package server_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"

	tarnv1 "tarn.dev/tarn/api/gen/tarn/v1"
	"tarn.dev/tarn/api/gen/tarn/v1/tarnv1connect"
	"tarn.dev/tarn/internal/base/build"
	"tarn.dev/tarn/internal/client"
	"tarn.dev/tarn/internal/system"
	"tarn.dev/tarn/internal/system/home"
)

// The test binary is also what a server starts: the engine that runs SQL, the first process of a box.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		if role, ok := system.Roles[os.Args[1]]; ok {
			os.Exit(role())
		}
		if os.Args[1] == dialRole {
			os.Exit(dialMain(os.Args[2]))
		}
	}
	os.Exit(m.Run())
}

// place is a running server on a socket, with a home and a project folder of its own.
type place struct {
	t     *testing.T
	home  home.Home
	dir   string
	log   *journal
	ended <-chan error
}

// serve starts a server; it ends with the test, without an error.
func serve(t *testing.T, idle time.Duration) *place {
	t.Helper()
	h, err := home.At(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	h.Cache = t.TempDir()
	p := &place{t: t, home: h, dir: t.TempDir(), log: &journal{changed: make(chan struct{})}}
	p.write("tarn.toml", "[project]\nname = \"p\"\n")
	p.start(idle)
	t.Cleanup(func() {
		c, err := client.Open(context.Background(), client.Options{Home: h, NoStart: true})
		if err != nil {
			return
		}
		defer c.Close()
		if _, err := c.System.Shutdown(context.Background(), &tarnv1.ShutdownRequest{RequestId: "end"}); err != nil {
			t.Error(err)
		}
		if err := <-p.ended; err != nil {
			t.Errorf("the server ended with %v", err)
		}
	})
	return p
}

func (p *place) start(idle time.Duration) {
	p.t.Helper()
	s, err := system.Open(p.t.Context(), system.Config{Home: p.home, Build: build.Current(), Idle: idle, Log: slog.New(p.log)})
	if err != nil {
		p.t.Fatal(err)
	}
	done, ready := make(chan error, 1), make(chan struct{})
	go func() { done <- s.Run(context.Background(), func() { close(ready) }) }()
	<-ready
	p.ended = done
}

func (p *place) write(name, content string) string {
	p.t.Helper()
	path := filepath.Join(p.dir, name)
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		p.t.Fatal(err)
	}
	return path
}

func (p *place) open() *client.Client {
	p.t.Helper()
	c, err := client.Open(p.t.Context(), client.Options{Home: p.home, NoStart: true})
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(c.Close)
	return c
}

// socket is a transport to the server that keeps no connection.
func (p *place) socket() *http.Transport {
	return &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", p.home.Socket)
		},
	}
}

// post sends raw bytes to a procedure and returns status and body.
func (p *place) post(procedure, contentType string, body io.Reader) (int, []byte) {
	p.t.Helper()
	req, err := http.NewRequestWithContext(p.t.Context(), http.MethodPost, "http://tarn/tarn.v1."+procedure, body)
	if err != nil {
		p.t.Fatal(err)
	}
	req.Header.Set("Content-Type", contentType)
	resp, err := p.socket().RoundTrip(req)
	if err != nil {
		p.t.Fatalf("%s: %v", procedure, err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		p.t.Fatalf("%s: %v", procedure, err)
	}
	return resp.StatusCode, b
}

// calls are generated clients over one transport.
type calls struct {
	history tarnv1connect.HistoryServiceClient
	files   tarnv1connect.FileServiceClient
	tables  tarnv1connect.TableServiceClient
	queries tarnv1connect.QueryServiceClient
	runs    tarnv1connect.RunServiceClient
	system  tarnv1connect.SystemServiceClient
}

func over(rt http.RoundTripper, base string) calls {
	doer := &http.Client{Transport: rt}
	o := connect.WithClientOptions()
	return calls{
		tarnv1connect.NewHistoryServiceClient(doer, base, o), tarnv1connect.NewFileServiceClient(doer, base, o),
		tarnv1connect.NewTableServiceClient(doer, base, o), tarnv1connect.NewQueryServiceClient(doer, base, o),
		tarnv1connect.NewRunServiceClient(doer, base, o), tarnv1connect.NewSystemServiceClient(doer, base, o),
	}
}

// put stores one file.
func put(ctx context.Context, files tarnv1connect.FileServiceClient, w *tarnv1.Write, path, content string) (*tarnv1.PutResponse, error) {
	s, err := files.Put(ctx)
	if err != nil {
		return nil, err
	}
	for _, m := range []*tarnv1.PutRequest{
		{Event: &tarnv1.PutRequest_Write{Write: w}}, {Event: &tarnv1.PutRequest_Path{Path: path}}, {Event: &tarnv1.PutRequest_Data{Data: []byte(content)}},
	} {
		if s.Send(m) != nil {
			break // the answer says why
		}
	}
	return s.CloseAndReceive()
}

func into(branch, request string) *tarnv1.Write {
	return &tarnv1.Write{RequestId: request, Project: "p", Into: branch, Author: "tester"}
}

// commits counts the commits of a branch.
func (p *place) commits(c *client.Client, branch string) (n int) {
	p.t.Helper()
	s, err := c.History.Log(p.t.Context(), &tarnv1.LogRequest{Project: "p", Ref: branch})
	if err != nil {
		p.t.Fatal(err)
	}
	for s.Receive() {
		n++
	}
	if s.Err() != nil {
		p.t.Fatal(s.Err())
	}
	return n
}

// journal is a server's log that can be waited for.
type journal struct {
	slog.TextHandler
	mu      sync.Mutex
	lines   []map[string]string
	changed chan struct{}
}

func (j *journal) Enabled(context.Context, slog.Level) bool { return true }
func (j *journal) WithAttrs([]slog.Attr) slog.Handler       { return j }
func (j *journal) WithGroup(string) slog.Handler            { return j }

func (j *journal) Handle(_ context.Context, r slog.Record) error {
	line := map[string]string{"msg": r.Message}
	r.Attrs(func(a slog.Attr) bool { line[a.Key] = a.Value.String(); return true })
	j.mu.Lock()
	defer j.mu.Unlock()
	j.lines = append(j.lines, line)
	close(j.changed)
	j.changed = make(chan struct{})
	return nil
}

// awaitEnd waits until a call has ended with an error, or with its connection.
func (j *journal) awaitEnd(t *testing.T, procedure string) {
	t.Helper()
	j.await(t, procedure+" ended", func(line map[string]string) bool {
		return line["call"] == "/tarn.v1."+procedure && strings.HasPrefix(line["msg"], "call ")
	})
}

// await waits for a line.
func (j *journal) await(t *testing.T, what string, fits func(line map[string]string) bool) {
	t.Helper()
	ctx := soon(t)
	for at := 0; ; {
		j.mu.Lock()
		lines, changed := j.lines, j.changed
		j.mu.Unlock()
		for ; at < len(lines); at++ {
			if fits(lines[at]) {
				return
			}
		}
		select {
		case <-changed:
		case <-ctx.Done():
			t.Fatalf("the log never said: %s", what)
		}
	}
}

// awaitStop waits until the server has begun to stop.
func (j *journal) awaitStop(t *testing.T, why string) {
	t.Helper()
	j.await(t, "stop, "+why, func(line map[string]string) bool { return line["msg"] == "stop" && line["why"] == why })
}

// soon bounds a wait for what should come at once.
func soon(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// wireError is an error as a client without protobuf sees it.
type wireError struct {
	Code    string `json:"code"`
	Message string `json:"message"`
}

func jsonError(t *testing.T, b []byte) wireError {
	t.Helper()
	var e wireError
	if err := json.NewDecoder(bytes.NewReader(b)).Decode(&e); err != nil {
		t.Fatalf("the answer is no JSON: %q", b)
	}
	return e
}
