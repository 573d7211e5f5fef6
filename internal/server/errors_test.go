package server_test

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"connectrpc.com/connect"
	"github.com/google/go-cmp/cmp"

	tarnv1 "tarn.dev/tarn/api/gen/tarn/v1"
	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/client"
	"tarn.dev/tarn/internal/server"
)

// refusing are projects that cannot be opened, each for the code that is its name.
type refusing struct{ server.Projects }

func refusal(name string) *errdef.Error {
	return errdef.Newf(errdef.ParseCode(name), "test."+name, "no %s today", name).
		WithDetail("text", "x").WithDetail("number", 7.0).WithNext("tarn this", "tarn that")
}

func (refusing) Open(_ context.Context, name string) (*server.Project, error) {
	return nil, refusal(name)
}

// connectHTTP are the statuses that Connect's protocol prescribes where the table has finer ones.
var connectHTTP = map[errdef.Code]int{errdef.FailedPrecondition: 400, errdef.UserCode: 500}

// Every code of the table, with reason, message, details and what to do next, is the same on both sides of
// every kind of call, and what other languages see follows from the table too.
func TestEveryCodeReachesTheClient(t *testing.T) {
	t.Parallel()
	s := httptest.NewServer(server.Handler(server.Services{Log: slog.New(slog.DiscardHandler), Projects: refusing{}}))
	defer s.Close()
	c := over(http.DefaultTransport, s.URL)
	ctx := t.Context()
	for _, row := range errdef.Table {
		sent := refusal(row.Name)
		for kind, call := range map[string]func() error{
			"unary": func() error {
				_, err := c.history.Resolve(ctx, &tarnv1.ResolveRequest{Project: row.Name})
				return err
			},
			"server stream": func() error {
				_, err := last(c.history.Log(ctx, &tarnv1.LogRequest{Project: row.Name}))
				return err
			},
			"client stream": func() error {
				w := into("main", "q")
				w.Project = row.Name
				_, err := put(ctx, c.files, w, "a", "a")
				return err
			},
		} {
			raw := call()
			got := errdef.As(client.Error(raw))
			if got.Code != row.Code || got.Reason != sent.Reason || got.Message != sent.Message {
				t.Errorf("%s of %s: got %v (%s)", kind, row.Name, got, got.Code)
			}
			if d := cmp.Diff(sent.Details, got.Details) + cmp.Diff(sent.Next, got.Next); d != "" {
				t.Errorf("%s of %s: %s", kind, row.Name, d)
			}
			if grpc := connect.CodeOf(raw).String(); grpc != strings.ToLower(row.GRPC) && (row.GRPC != "CANCELED" || grpc != "canceled") {
				t.Errorf("%s of %s: %s on the wire, %s in the table", kind, row.Name, grpc, row.GRPC)
			}
		}
		resp, err := http.Post(s.URL+"/tarn.v1.HistoryService/Resolve", "application/json", strings.NewReader(`{"project":"`+row.Name+`"}`))
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close() //nolint:errcheck // read to its end
		want := row.HTTP
		if connects, ok := connectHTTP[row.Code]; ok {
			want = connects
		}
		if err != nil || resp.StatusCode != want {
			t.Errorf("%s has HTTP status %d, want %d (%v)", row.Name, resp.StatusCode, want, err)
		}
		if e := jsonError(t, body); e.Message != sent.Message {
			t.Errorf("%s in JSON: %s", row.Name, body)
		}
	}
}

// What is no message of ours is refused before it costs anything, and the server answers on.
func TestMalformedRequests(t *testing.T) {
	t.Parallel()
	p := serve(t, 0)
	const resolve, toPut = "HistoryService/Resolve", "FileService/Put"
	whole := `{"project":"p","ref":"main"}`
	for name, c := range map[string]struct {
		procedure, contentType string
		body                   io.Reader
		status                 int
		code                   string
	}{
		"as it should be":      {resolve, "application/json", strings.NewReader(whole), 200, ""},
		"a newer field":        {resolve, "application/json", strings.NewReader(`{"project":"p","ref":"main","newer":{"a":1}}`), 200, ""},
		"no JSON":              {resolve, "application/json", strings.NewReader(whole[:9]), 400, "invalid_argument"},
		"another type":         {resolve, "application/json", strings.NewReader(`{"project":7}`), 400, "invalid_argument"},
		"no protobuf":          {resolve, "application/proto", strings.NewReader("\xff\xff\xff\xff"), 400, "invalid_argument"},
		"no UTF-8":             {resolve, "application/proto", strings.NewReader("\x0a\x02\xff\xfe"), 400, "invalid_argument"},
		"another format":       {resolve, "text/html", strings.NewReader(whole), 415, ""},
		"an unknown call":      {"HistoryService/Rebase", "application/json", strings.NewReader("{}"), 404, ""},
		"an unknown service":   {"MoonService/Land", "application/json", strings.NewReader("{}"), 404, ""},
		"too much at once":     {resolve, "application/json", io.MultiReader(strings.NewReader(`{"ref":"`), io.LimitReader(zeros{}, 65<<20), strings.NewReader(`"}`)), 429, "resource_exhausted"},
		"a stream as one call": {toPut, "application/json", strings.NewReader(whole), 415, ""},
	} {
		status, body := p.post(c.procedure, c.contentType, c.body)
		if status != c.status {
			t.Errorf("%s: HTTP status %d, want %d: %.200s", name, status, c.status, body)
			continue
		}
		if c.code != "" {
			if e := jsonError(t, body); e.Code != c.code {
				t.Errorf("%s: %.200s", name, body)
			}
		}
	}
	// In streams the status is 200, and the last envelope tells.
	for name, c := range map[string]struct{ body, want string }{
		"an envelope without its end":  {"\x00\x00\x00\x01\x00{", "invalid_argument"},
		"an envelope of 4 GiB":         {"\x00\xff\xff\xff\xff{", "resource_exhausted"},
		"nothing":                      {"", "invalid_argument"},
		"data before what it is for":   {"\x00\x00\x00\x00\x0f" + `{"data":"YQ=="}`, "server.put_protocol"},
		"compressed in no way we know": {"\x01\x00\x00\x00\x02{}", "invalid_argument"},
	} {
		status, body := p.post(toPut, "application/connect+json", strings.NewReader(c.body))
		if text := string(body); status != 200 || !strings.Contains(text, `"error"`) || !strings.Contains(text, c.want) && !strings.Contains(unpacked(t, body), c.want) {
			t.Errorf("%s: %d %q, want %s", name, status, text, c.want)
		}
	}
	if _, err := p.open().History.Resolve(t.Context(), &tarnv1.ResolveRequest{Project: "p", Ref: "main"}); err != nil {
		t.Errorf("after all that: %v", err)
	}
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = '0'
	}
	return len(b), nil
}

// unpacked is the readable form of the details in an end of stream.
func unpacked(t *testing.T, body []byte) string {
	t.Helper()
	var end struct {
		Error struct {
			Details []struct {
				Debug json.RawMessage `json:"debug"`
			} `json:"details"`
		} `json:"error"`
	}
	if len(body) < 5 || json.Unmarshal(body[5:], &end) != nil {
		return ""
	}
	var out strings.Builder
	for _, d := range end.Error.Details {
		out.Write(d.Debug)
	}
	return out.String()
}

// A client that is newer than the server hears what is the matter, and not that there is a bug.
func TestUnknownCall(t *testing.T) {
	t.Parallel()
	p := serve(t, 0)
	rebase := connect.NewClient[tarnv1.ResolveRequest, tarnv1.ResolveResponse](&http.Client{Transport: p.socket()}, "http://tarn/tarn.v1.HistoryService/Rebase")
	_, err := rebase.CallUnary(t.Context(), connect.NewRequest(&tarnv1.ResolveRequest{}))
	if e := errdef.As(client.Error(err)); e.Code != errdef.NotImplemented || e.Reason != "client.no_such_call" || len(e.Next) == 0 {
		t.Errorf("%v: %s, %s, %q", err, e.Code, e.Reason, e.Next)
	}
}

// Names cannot lead out of the store, nor to what is no place in it.
func TestNames(t *testing.T) {
	t.Parallel()
	p := serve(t, 0)
	c := p.open()
	ctx := t.Context()
	long := strings.Repeat("x", 256)
	for _, path := range []string{"", "/", ".", "..", "../a", "a/../../b", "a/..", "./../a", "a//b", "a/./b", "a/", "a\x00b", "a\nb", long, strings.Repeat("d/", 2100) + "f"} {
		_, err := put(ctx, c.Files, into("main", "put "+path[:min(len(path), 100)]), path, "x")
		if e := errdef.As(client.Error(err)); e.Reason != "lake.invalid_name" || e.Code != errdef.InvalidArgument || len(e.Message) > 400 {
			t.Errorf("put %.40q: %v", path, err)
		}
	}
	for _, path := range []string{"a b", "..a", "a..", "%2e%2e/a", "C:\\a", "ä/ö", "~/a", "$HOME"} {
		if _, err := put(ctx, c.Files, into("main", "put "+path), path, path); err != nil {
			t.Errorf("put %q: %v", path, err)
		}
		got := ""
		s, err := c.Files.Get(ctx, &tarnv1.GetRequest{Project: "p", Ref: "main", Pattern: path, One: true})
		for err == nil && s.Receive() {
			got += string(s.Msg().GetData())
		}
		if err != nil || s.Err() != nil || got != path {
			t.Errorf("get %q: %q, %v, %v", path, got, err, s.Err())
		}
	}
	for _, name := range []string{"", "..", "../q", "a/b", ".hidden", "a\x00b", long} {
		_, err := c.History.Resolve(ctx, &tarnv1.ResolveRequest{Project: name, Ref: "main"})
		if e := errdef.As(err); e.Reason != "project.name" || len(e.Message) > 400 {
			t.Errorf("project %.20q: %v", name, err)
		}
	}
	for _, dir := range []string{"p", "../p", "./"} {
		_, err := c.Runs.Start(ctx, &tarnv1.StartRunRequest{RequestId: "r", Spec: &tarnv1.RunSpec{Project: "p", Dir: dir, Ref: "main"}})
		if e := errdef.As(err); e.Reason != "server.dir" {
			t.Errorf("run of %q: %v", dir, err)
		}
	}
	if names, err := c.System.Status(ctx, &tarnv1.StatusRequest{}); err != nil || cmp.Diff([]string{"p"}, names.GetProjects()) != "" {
		t.Errorf("projects %v, %v", names.GetProjects(), err)
	}
}
