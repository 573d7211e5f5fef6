package server_test

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	tarnv1 "tarn.dev/tarn/api/gen/tarn/v1"
	"tarn.dev/tarn/api/gen/tarn/v1/tarnv1connect"
	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/client"
)

// called are the functions of these tests. What blocks says so first: its output is the signal to go on.
const called = `
import os, threading
import tarn

@tarn.function
def double(n):
    return 2 * n

@tarn.function
def some(n):
    if n == 1:
        raise ValueError("one is too few")
    if n == 2:
        os._exit(7)
    return n

@tarn.function
def block(n):
    if n == 0:
        print("blocked")
        threading.Event().wait()
    return n

@tarn.function(timeout=1)
def slow(n):
    return block._fn(n)

@tarn.function(retry=tarn.Retry(times=2, on=KeyError, delay=0.01))
def again(n):
    raise (KeyError if n == 0 else ValueError)(n)

@tarn.function
def count(n):
    yield from range(n)

@tarn.function
def size(n):
    return b"x" * n
`

// pickled is the input of a call f(n).
func pickled(n int) []byte { return fmt.Appendf(nil, "((I%d\nt(dt.", n) }

// number is pickle.dumps(n, protocol=5) of a small n.
func number(n byte) []byte { return []byte{0x80, 5, 'K', n, '.'} }

// caller speaks to the CallService of a place whose project holds the functions above.
type caller struct {
	*place
	tarnv1connect.CallServiceClient
}

func newCaller(t *testing.T) *caller {
	t.Helper()
	p := serve(t, 0)
	p.write("functions.py", called)
	return &caller{p, p.open().Calls}
}

func (c *caller) begin(function string, ordered bool, concurrency int32) string {
	c.t.Helper()
	return c.beginAs(fmt.Sprint(function, ordered, concurrency), function, ordered, concurrency)
}

func (c *caller) beginAs(request, function string, ordered bool, concurrency int32) string {
	c.t.Helper()
	got, err := c.Start(c.t.Context(), &tarnv1.StartCallRequest{
		RequestId: request, Project: "p", Dir: c.dir, File: "functions.py", Qualname: function,
		Ordered: ordered, Concurrency: concurrency, Author: "tester",
	})
	if err != nil {
		c.t.Fatal(err)
	}
	return got.GetCall().GetId()
}

func (c *caller) put(call string, first int64, last bool, numbers ...int) int64 {
	c.t.Helper()
	in := &tarnv1.PutInputsRequest{Project: "p", Call: call, First: first, Last: last}
	for _, n := range numbers {
		in.Inputs = append(in.Inputs, pickled(n))
	}
	got, err := c.Put(soon(c.t), in)
	if err != nil {
		c.t.Fatal(err)
	}
	return got.GetNext()
}

// seen is what a stream of results held.
type seen struct {
	results []*tarnv1.CallResult
	printed string
	call    *tarnv1.Call // nil: the stream was left before its end
}

// read takes results from a sequence number on until enough says so; nil reads to the end.
func (c *caller) read(call string, from int64, enough func(*seen) bool) *seen {
	c.t.Helper()
	s, err := c.Results(soon(c.t), &tarnv1.CallResultsRequest{Project: "p", Call: call, From: from})
	if err != nil {
		c.t.Fatal(err)
	}
	defer s.Close() //nolint:errcheck // what it has to say came before
	got := &seen{}
	for s.Receive() {
		switch e := s.Msg().GetEvent().(type) {
		case *tarnv1.CallResultsResponse_Result:
			if e.Result.GetBig() != nil {
				e.Result.Value = c.fetch(call, e.Result.GetBig())
			}
			got.results = append(got.results, e.Result)
		case *tarnv1.CallResultsResponse_Output:
			got.printed += e.Output.GetText()
		case *tarnv1.CallResultsResponse_Call:
			got.call = e.Call
		}
		if enough != nil && enough(got) {
			return got
		}
	}
	if s.Err() != nil {
		c.t.Fatal(s.Err())
	}
	return got
}

// fetch reads a value that a result names.
func (c *caller) fetch(call string, big *tarnv1.BigValue) []byte {
	c.t.Helper()
	s, err := c.GetValue(soon(c.t), &tarnv1.GetValueRequest{Project: "p", Call: call, Value: big.GetValue()})
	if err != nil {
		c.t.Fatal(err)
	}
	defer s.Close() //nolint:errcheck // what it has to say came before
	var got []byte
	for s.Receive() {
		got = append(got, s.Msg().GetData()...)
	}
	if s.Err() != nil || int64(len(got)) != big.GetSize() || fmt.Sprintf("%x", sha256.Sum256(got)) != big.GetSha256() {
		c.t.Errorf("%d bytes came of %v: %v", len(got), big, s.Err())
	}
	return got
}

func blocked(s *seen) bool { return strings.Contains(s.printed, "blocked") }

// ends checks the state and the counts that a call ended with.
func (s *seen) ends(t *testing.T, state string, done, failed int64) {
	t.Helper()
	if c := s.call; c.GetState() != state || c.GetDone() != done || c.GetInputs() != done && state != "canceled" || c.GetFailed() != failed || c.GetEnded() == nil {
		t.Errorf("the call ended as %v, want %s with %d inputs done, %d failed", c, state, done, failed)
	}
}

// reasons are the results by input: "ok", or the reason of the error.
func (s *seen) reasons() string {
	sorted := slices.SortedFunc(slices.Values(s.results), func(a, b *tarnv1.CallResult) int { return cmp.Compare(a.GetIndex(), b.GetIndex()) })
	var out []string
	for _, r := range sorted {
		out = append(out, fmt.Sprintf("%d:%s", r.GetIndex(), cmp.Or(r.GetError().GetReason(), "ok")))
	}
	return strings.Join(out, " ")
}

// Every input has one result, in order, also when inputs come twice and the connection is lost between.
func TestCallMap(t *testing.T) {
	t.Parallel()
	c := newCaller(t)
	id := c.begin("double", true, 2)
	if again := c.begin("double", true, 2); again != id {
		t.Errorf("the same request started %s, then %s", id, again)
	}
	c.put(id, 0, false, 0, 1, 2, 3)
	if next := c.put(id, 2, true, 2, 3, 4, 5); next != 6 {
		t.Errorf("inputs 2 to 5, two of them again: %d is next", next)
	}
	got := c.read(id, 0, func(s *seen) bool { return len(s.results) == 3 })
	rest := c.read(id, 3, nil)
	got.results = append(got.results, rest.results...)
	for i, r := range got.results {
		if r.GetIndex() != int64(i) || r.GetSequence() != int64(i) || !bytes.Equal(r.GetValue(), number(byte(2*i))) {
			t.Errorf("result %d: %v", i, r)
		}
	}
	if len(got.results) != 6 {
		t.Errorf("%d results of 6 inputs", len(got.results))
	}
	rest.ends(t, "succeeded", 6, 0)
	empty := c.begin("double", false, 1)
	c.put(empty, 0, true)
	c.read(empty, 0, nil).ends(t, "succeeded", 0, 0)
	if _, err := c.Put(t.Context(), &tarnv1.PutInputsRequest{Project: "p", Call: id, First: 6, Inputs: [][]byte{pickled(1)}}); err == nil || errdef.As(err).Reason != "call.closed" {
		t.Error("an input after the last:", err)
	}
	_, err := c.Start(t.Context(), &tarnv1.StartCallRequest{RequestId: "x", Project: "p", Dir: c.dir, File: "functions.py", Qualname: "doubel"})
	if errdef.CodeOf(err) != errdef.NotFound || !strings.Contains(err.Error(), "double") {
		t.Error("a function that is not there:", err)
	}
}

// A value that came damaged, or is nobody's, is refused; one that was handed over whole is removed with its input, and one that a result
// names stays for another reader.
func TestCallBigValues(t *testing.T) {
	t.Parallel()
	c := newCaller(t)
	id := c.begin("size", true, 1)
	hand := func(data, sum []byte) (string, error) {
		s, err := c.PutValue(soon(t))
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range []*tarnv1.PutValueRequest{{Project: "p", Call: id}, {Data: data[:1]}, {Data: data[1:]}, {Sha256: fmt.Sprintf("%x", sum)}} {
			if err := s.Send(m); err != nil {
				break // the answer says why
			}
		}
		got, err := s.CloseAndReceive()
		return got.GetValue(), err
	}
	input := bigInput(2 << 20)
	sum := sha256.Sum256(input)
	if _, err := hand(input, make([]byte, 32)); errdef.As(client.Error(err)).Reason != "call.value_damaged" {
		t.Error("a damaged value:", err)
	}
	put := func(value string) error {
		_, err := c.Put(soon(t), &tarnv1.PutInputsRequest{Project: "p", Call: id, Inputs: [][]byte{nil}, Values: map[int32]string{0: value}, Last: true})
		return err
	}
	for _, name := range []string{"in-1", "../../x", ""} {
		if err := put(name); errdef.As(client.Error(err)).Reason != "call.no_value" {
			t.Errorf("value %q: %v", name, err)
		}
	}
	name, err := hand(input, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	if err := put(name); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		r := c.read(id, 0, nil).results
		if len(r) != 1 || len(r[0].GetValue()) < 2<<20 {
			t.Errorf("%d results, %v", len(r), r[0].GetError())
		}
	}
	v, err := c.GetValue(soon(t), &tarnv1.GetValueRequest{Project: "p", Call: id, Value: name})
	if err == nil && !v.Receive() {
		err = v.Err()
	}
	if errdef.As(client.Error(err)).Reason != "call.no_value" {
		t.Error("an input's value can be read:", err)
	}
}

// bigInput is the file of the input size(n), with n bytes beside: docs/formats/calls.md.
func bigInput(n int) []byte {
	pickle := pickled(n)
	out := binary.LittleEndian.AppendUint64(binary.LittleEndian.AppendUint64(binary.LittleEndian.AppendUint64(nil, 2), uint64(len(pickle))), uint64(n))
	out = append(append(out, make([]byte, 64-len(out))...), pickle...)
	return append(out, make([]byte, 128-len(out)+n)...)
}

// An exception and the death of a process are the result of their input; the others do not notice.
func TestCallFailures(t *testing.T) {
	t.Parallel()
	c := newCaller(t)
	id := c.begin("some", true, 1)
	c.put(id, 0, true, 0, 1, 2, 3)
	got := c.read(id, 0, nil)
	if want := "0:ok 1:run.user_code 2:call.worker_ended 3:ok"; got.reasons() != want {
		t.Errorf("got %s, want %s", got.reasons(), want)
	}
	got.ends(t, "failed", 4, 2)
	if e := got.results[1].GetError(); e.GetClass() != "ValueError" || e.GetModule() != "builtins" ||
		!strings.Contains(e.GetTraceback(), "functions.py") || strings.Contains(e.GetTraceback(), "_serve") || len(e.GetPickle()) == 0 {
		t.Errorf("the exception came back as %v", e)
	}
	if e := got.results[2].GetError(); !strings.Contains(e.GetMessage(), "exit status 7") {
		t.Errorf("the death came back as %v", e)
	}
	later, err := c.Get(soon(t), &tarnv1.GetCallRequest{Project: "p", Call: id})
	if err != nil || len(later.GetFailures()) != 2 {
		t.Fatalf("asked for afterwards: %v, %v", later, err)
	}
	for i, f := range later.GetFailures() {
		want := got.results[i+1].GetError()
		want.Pickle = nil
		if f.GetIndex() != int64(i+1) || !proto.Equal(f.GetError(), want) {
			t.Errorf("asked for afterwards: %v, want %v", f, want)
		}
	}
	slow := c.begin("slow", false, 1)
	c.put(slow, 0, true, 0, 1)
	if got := c.read(slow, 0, nil).reasons(); got != "0:call.timeout 1:ok" {
		t.Error("a timeout:", got)
	}
	again := c.begin("again", false, 1)
	c.put(again, 0, true, 0, 1)
	tried := c.read(again, 0, nil)
	if n := strings.Count(tried.printed, "failed, again in"); n != 2 || tried.reasons() != "0:run.user_code 1:run.user_code" {
		t.Errorf("%d attempts were made again, want two of the first and none of the second: %s\n%s", n, tried.reasons(), tried.printed)
	}
}

// A worker that is busy does not keep the inputs behind it waiting, and a cancel ends what blocks.
func TestCallBesideABlockedInput(t *testing.T) {
	t.Parallel()
	c := newCaller(t)
	id := c.begin("block", false, 2)
	c.put(id, 0, false, 0)
	c.read(id, 0, blocked)
	c.put(id, 1, false, 1)
	got := c.read(id, 0, func(s *seen) bool { return len(s.results) == 1 })
	if got.reasons() != "1:ok" {
		t.Errorf("beside a blocked input: %s", got.reasons())
	}
	if _, err := c.Cancel(soon(t), &tarnv1.CancelCallRequest{Project: "p", Call: id}); err != nil {
		t.Fatal(err)
	}
	rest := c.read(id, 1, nil)
	if rest.reasons() != "0:call.canceled" {
		t.Errorf("after the cancel: %s", rest.reasons())
	}
	rest.ends(t, "canceled", 1, 0)
}

// A generator's values come one by one, then its end; a value may be large.
func TestCallValues(t *testing.T) {
	t.Parallel()
	c := newCaller(t)
	id := c.begin("count", true, 1)
	c.put(id, 0, true, 2)
	got := c.read(id, 0, nil)
	if len(got.results) != 3 {
		t.Fatalf("a generator of two: %v", got.results)
	}
	for i, r := range got.results[:2] {
		if !r.GetMore() || !bytes.Equal(r.GetValue(), number(byte(i))) {
			t.Errorf("value %d: %v", i, r)
		}
	}
	if end := got.results[2]; end.GetMore() || !end.GetEnd() || end.GetIndex() != 0 {
		t.Errorf("its end: %v", end)
	}
	got.ends(t, "succeeded", 1, 0)
	const large = 5 << 20
	id = c.begin("size", true, 1)
	c.put(id, 0, true, large)
	if r := c.read(id, 0, nil).results; len(r) != 1 || len(r[0].GetValue()) < large {
		t.Errorf("a value of %d bytes: %d results", large, len(r))
	}
}
