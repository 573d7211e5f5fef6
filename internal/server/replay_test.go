package server_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"testing"

	"connectrpc.com/connect"
	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/ipc"
	"github.com/apache/arrow-go/v18/arrow/memory"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	tarnv1 "tarn.dev/tarn/api/gen/tarn/v1"
	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/client"
)

// loses passes a request on, waits for the whole reply, keeps it, and tells the caller that the
// connection broke.
type loses struct {
	http.RoundTripper
	reply *http.Response
	body  []byte
}

func (l *loses) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := l.RoundTripper.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if l.body, err = io.ReadAll(resp.Body); err != nil {
		return nil, err
	}
	l.reply = resp
	return nil, errors.New("the connection broke")
}

// found is the reply that was lost, as the caller would have had it.
func (l *loses) found() http.RoundTripper {
	return trip(func(r *http.Request) (*http.Response, error) {
		_, _ = io.Copy(io.Discard, r.Body) // a stream's sender waits for it
		resp := *l.reply
		resp.Body, resp.Request = io.NopCloser(bytes.NewReader(l.body)), r
		return &resp, nil
	})
}

type trip func(*http.Request) (*http.Response, error)

func (t trip) RoundTrip(r *http.Request) (*http.Response, error) { return t(r) }

// rows is an Arrow IPC stream of one column.
func rows(t *testing.T, values ...int64) []byte {
	t.Helper()
	b := array.NewRecordBuilder(memory.DefaultAllocator, arrow.NewSchema([]arrow.Field{{Name: "id", Type: arrow.PrimitiveTypes.Int64}}, nil))
	b.Field(0).(*array.Int64Builder).AppendValues(values, nil)
	var out bytes.Buffer
	w := ipc.NewWriter(&out, ipc.WithSchema(b.Schema()))
	if err := errors.Join(w.Write(b.NewRecordBatch()), w.Close()); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// last is the last message of a stream.
func last[T any](s *connect.ServerStreamForClient[T], err error) (*T, error) {
	if err != nil {
		return nil, err
	}
	var msg *T
	for s.Receive() {
		m := s.Msg()
		msg = m
	}
	return msg, s.Err()
}

// Whatever changes something answers a repeated request as it answered first, and acts once: the reply to
// each call is lost on its way, and the same request is sent again.
func TestRequestsAreDoneOnce(t *testing.T) {
	t.Parallel()
	p := serve(t, 0)
	p.write("numbers.sql", "SELECT 1 AS one\n")
	csv := p.write("orders.csv", "id\n1\n2\n")
	c := p.open()
	ctx := t.Context()
	main := func(request string) *tarnv1.Write { return into("main", request) }
	for _, op := range []struct {
		name string
		call func(c calls, request string) (proto.Message, error)
		then func() // after which the same request must still have its answer
	}{
		{name: "put", call: func(c calls, r string) (proto.Message, error) { return put(ctx, c.files, main(r), "raw/a.txt", "a") }},
		{name: "a put of what is there", call: func(c calls, r string) (proto.Message, error) {
			return put(ctx, c.files, main(r), "raw/a.txt", "a")
		}},
		{name: "import", call: func(c calls, r string) (proto.Message, error) {
			m, err := last(c.tables.Import(ctx, &tarnv1.ImportRequest{Write: main(r), Sources: []string{csv}, Mode: "append"}))
			return m.GetDone(), err
		}, then: func() { p.write("orders.csv", "") }},
		{name: "write", call: func(c calls, r string) (proto.Message, error) {
			s, err := c.tables.Write(ctx)
			if err != nil {
				return nil, err
			}
			head := &tarnv1.WriteTableHead{Write: main(r), Table: "orders", Mode: "append"}
			if s.Send(&tarnv1.WriteTableRequest{Event: &tarnv1.WriteTableRequest_Head{Head: head}}) == nil {
				_ = s.Send(&tarnv1.WriteTableRequest{Event: &tarnv1.WriteTableRequest_Data{Data: rows(t, 7)}})
			}
			return s.CloseAndReceive()
		}},
		{name: "SQL", call: func(c calls, r string) (proto.Message, error) {
			m, err := last(c.queries.Query(ctx, &tarnv1.QueryRequest{Write: main(r), Sql: "insert into orders select id + 10 from orders"}))
			return m.GetSummary(), err
		}},
		{name: "branch create", call: func(c calls, r string) (proto.Message, error) {
			return c.history.CreateBranch(ctx, &tarnv1.CreateBranchRequest{RequestId: r, Project: "p", Name: "dev", From: "main"})
		}, then: func() {
			if _, err := put(ctx, c.Files, into("dev", "more"), "raw/b.txt", "b"); err != nil {
				t.Fatal(err)
			}
		}},
		{name: "tag create", call: func(c calls, r string) (proto.Message, error) {
			return c.history.CreateTag(ctx, &tarnv1.CreateTagRequest{RequestId: r, Project: "p", Name: "v1", From: "main"})
		}},
		{name: "merge", call: func(c calls, r string) (proto.Message, error) {
			return c.history.Merge(ctx, &tarnv1.MergeRequest{Write: main(r), Source: "dev"})
		}},
		{name: "revert", call: func(c calls, r string) (proto.Message, error) {
			return c.history.Revert(ctx, &tarnv1.RevertRequest{Write: main(r), Commit: "dev"})
		}},
		{name: "branch delete", call: func(c calls, r string) (proto.Message, error) {
			return c.history.DeleteBranch(ctx, &tarnv1.DeleteBranchRequest{RequestId: r, Project: "p", Name: "dev"})
		}},
		{name: "tag delete", call: func(c calls, r string) (proto.Message, error) {
			return c.history.DeleteTag(ctx, &tarnv1.DeleteTagRequest{RequestId: r, Project: "p", Name: "v1"})
		}},
		{name: "file rm", call: func(c calls, r string) (proto.Message, error) {
			return c.files.Remove(ctx, &tarnv1.RemoveRequest{Write: main(r), Patterns: []string{"raw/"}})
		}},
		{name: "table rm", call: func(c calls, r string) (proto.Message, error) {
			return c.tables.Remove(ctx, &tarnv1.RemoveTablesRequest{Write: main(r), Tables: []string{"orders"}})
		}},
		{name: "run", call: func(c calls, r string) (proto.Message, error) {
			m, err := c.runs.Start(ctx, &tarnv1.StartRunRequest{RequestId: r, Spec: &tarnv1.RunSpec{Project: "p", Dir: p.dir, Into: "main"}})
			if err != nil {
				return nil, err
			}
			end, err := last(c.runs.Events(ctx, &tarnv1.RunEventsRequest{Project: "p", Run: m.GetRun().GetId()}))
			return end.GetRun(), err // its state when the reply was made is another one each time
		}},
		{name: "asset rm", call: func(c calls, r string) (proto.Message, error) {
			return c.runs.RemoveAssets(ctx, &tarnv1.RemoveAssetsRequest{Write: main(r), Names: []string{"numbers"}})
		}},
	} {
		lost := &loses{RoundTripper: p.socket()}
		if _, err := op.call(over(lost, "http://tarn"), op.name); errdef.CodeOf(client.Error(err)) != errdef.Unavailable {
			t.Fatalf("%s: %v, want a connection that broke", op.name, err)
		}
		after := p.commits(c, "main")
		if op.then != nil {
			op.then()
		}
		again, err := op.call(over(p.socket(), "http://tarn"), op.name)
		if err != nil {
			t.Errorf("%s again: %v", op.name, err)
			continue
		}
		if op.name == "run" {
			if r := again.(*tarnv1.Run); r.GetState() != "succeeded" {
				t.Errorf("run: %v", r)
			}
			continue // its first reply is not its end; that it is one run is seen below
		}
		if now := p.commits(c, "main"); now != after {
			t.Errorf("%s was done twice: %d commits, then %d", op.name, after, now)
		}
		first, err := op.call(over(lost.found(), "http://tarn"), op.name)
		if err != nil {
			t.Errorf("%s: the lost reply was %v", op.name, err)
			continue
		}
		if d := cmp.Diff(first, again, protocmp.Transform()); d != "" {
			t.Errorf("%s: another answer (- first, + again):\n%s", op.name, d)
		}
	}
	list, err := c.Runs.List(ctx, &tarnv1.ListRunsRequest{Project: "p"})
	if err != nil || len(list.GetRuns()) != 1 {
		t.Errorf("runs: %v, %v", list.GetRuns(), err)
	}
}

// A request id belongs to one request, and must be there.
func TestRequestIDs(t *testing.T) {
	t.Parallel()
	p := serve(t, 0)
	c := p.open()
	ctx := context.Background()
	if _, err := put(ctx, c.Files, into("main", "one"), "a.txt", "a"); err != nil {
		t.Fatal(err)
	}
	create := func(request string) error {
		_, err := c.History.CreateBranch(ctx, &tarnv1.CreateBranchRequest{RequestId: request, Project: "p", Name: "x", From: "main"})
		return err
	}
	for name, got := range map[string]struct {
		err  error
		want string
	}{
		"used by a put":  {create("one"), "lake.request_reused"},
		"none":           {create(""), "server.no_request_id"},
		"too long":       {create(string(bytes.Repeat([]byte("x"), 201))), "server.no_request_id"},
		"none for a put": {func() error { _, err := put(ctx, c.Files, into("main", ""), "b.txt", "b"); return err }(), "server.no_request_id"},
	} {
		if e := errdef.As(client.Error(got.err)); e.Reason != got.want || e.Code != errdef.InvalidArgument {
			t.Errorf("%s: %v, want %s", name, got.err, got.want)
		}
	}
}
