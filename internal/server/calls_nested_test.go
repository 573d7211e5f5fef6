package server_test

import (
	"bytes"
	"fmt"
	"runtime"
	"strings"
	"testing"

	tarnv1 "tarn.dev/tarn/api/gen/tarn/v1"
)

// nesting are functions that call others from their sandboxes.
const nesting = `
import asyncio, json, os, socket, threading
import tarn

@tarn.function
def double(n):
    return 2 * n

@tarn.function
def fib(n):
    return n if n < 2 else sum(fib.map([n - 1, n - 2]))

@tarn.function
def deep(n):
    return 0 if n == 0 else 1 + deep.remote(n - 1)

@tarn.function(concurrency=1)
def alone(n):
    return 0 if n == 0 else 1 + other.remote(n - 1)

@tarn.function(concurrency=1)
def other(n):
    return 0 if n == 0 else 1 + alone.remote(n - 1)

@tarn.function(concurrency=1)
def apart(n):
    async def both(): # one of them ends while the other waits for the turn
        return sum(await asyncio.gather(*(apart.remote.aio(n - 1) for _ in range(3))))
    return 1 if n == 0 else asyncio.run(both())

@tarn.function
def maps(n):
    return sum(rows.map(range(n), ordered=False))

@tarn.function
def rows(n):
    return sum(double.starmap((i,) for i in range(n)))

@tarn.function
def blob(n):
    return os.urandom(n << 20)

@tarn.function
def length(data):
    return len(data) >> 20

@tarn.function
def big(n):
    data = blob.remote(n)
    back = echo.remote(data)
    assert back == data
    return length.remote(data)

@tarn.function
def echo(data):
    return data

@tarn.function
def spawned(n):
    calls = [double.spawn(i) for i in range(n)]
    return sum(tarn.gather(*(tarn.FunctionCall.from_id(c.id) for c in calls)))

@tarn.function(concurrency=tarn.Concurrency(1, key="k"))
def pieces(n):
    for _ in range(n):
        yield b"x" * 500_000

@tarn.function(concurrency=tarn.Concurrency(1, key="k"))
def keyed(n):
    return n

@tarn.function
def ahead(n):
    it = pieces.remote(200) # is held back by us, and holds nothing that the next one needs
    next(it)
    return keyed.remote(n) + sum(1 for _ in it)

@tarn.function
def raises(n):
    if n:
        return raises.remote(n - 1)
    raise KeyError("inner")

@tarn.function
def block(n):
    print("blocked", flush=True)
    threading.Event().wait()

@tarn.function
def blocks(n):
    return block.remote(n) if n == 0 else blocks.remote(n - 1)

@tarn.function
def stands(n):
    yield 1
    threading.Event().wait()

@tarn.function
def dies(n):
    for _ in stands.remote(n):
        os._exit(7)

@tarn.function(timeout=1)
def late(n):
    return block.remote(n)

@tarn.function
def returns(n):
    next(stands.remote(n))
    block.spawn(n)
    return n

@tarn.function
def bomb(n):
    for _ in range(2000):
        block.spawn(n)

@tarn.function
def impatient(n):
    try:
        block.spawn(n).get(timeout=0.5)
    except tarn.errors.DeadlineError:
        return double.remote(n)
`

// value calls f(n) and returns its result as it came.
func (c *caller) value(function string, n int) *tarnv1.CallResult {
	c.t.Helper()
	id := c.beginAs(fmt.Sprint(function, n), function, true, 1)
	c.put(id, 0, true, n)
	got := c.read(id, 0, nil)
	if len(got.results) != 1 {
		c.t.Fatalf("%s(%d): %d results", function, n, len(got.results))
	}
	return got.results[0]
}

// states are the states of all calls, by function.
func (c *caller) states() map[string]string {
	c.t.Helper()
	got, err := c.List(soon(c.t), &tarnv1.ListCallsRequest{Project: "p"})
	if err != nil {
		c.t.Fatal(err)
	}
	out := map[string]string{}
	for _, call := range got.GetCalls() {
		if !strings.Contains(out[call.GetFunction()], call.GetState()) {
			out[call.GetFunction()] += call.GetState()
		}
	}
	return out
}

// A function calls others and itself, in every way that there is, however many of it may run at once.
func TestCallsOfCalls(t *testing.T) {
	t.Parallel()
	c := newCaller(t)
	c.write("functions.py", nesting)
	for _, x := range []struct {
		function string
		n        int
		want     byte
	}{
		{"fib", 7, 13},
		{"deep", 3, 3},
		{"alone", 5, 5},
		{"apart", 2, 9},
		{"maps", 4, 8},
		{"big", 3, 3},
		{"spawned", 6, 30},
		{"ahead", 1, 200},
		{"impatient", 4, 8},
	} {
		if r := c.value(x.function, x.n); !bytes.Equal(r.GetValue(), number(x.want)) {
			t.Errorf("%s(%d) is %q, want %d: %v", x.function, x.n, r.GetValue(), x.want, r.GetError())
		}
	}
	e := c.value("raises", 2).GetError()
	if e.GetClass() != "KeyError" || strings.Count(e.GetTraceback(), "functions.py") != 3 || len(e.GetPickle()) == 0 {
		t.Errorf("an exception of the second level: %v", e)
	}
	if e := c.value("deep", 33).GetError(); e.GetClass() != "ResourceExhaustedError" || !strings.Contains(e.GetMessage(), "deep would be called by calls that are 32 deep") {
		t.Errorf("deeper than calls may be: %v", e)
	}
}

// What was begun by a call ends when it is canceled, at any depth.
func TestCallCancelReachesBelow(t *testing.T) {
	t.Parallel()
	c := newCaller(t)
	c.write("functions.py", nesting)
	id := c.begin("blocks", false, 1)
	c.put(id, 0, true, 3)
	c.read(id, 0, blocked)
	got, err := c.List(soon(t), &tarnv1.ListCallsRequest{Project: "p"})
	if err != nil {
		t.Fatal(err)
	}
	calls := got.GetCalls() // the newest first
	for i, call := range calls {
		want := ""
		if i+1 < len(calls) {
			want = calls[i+1].GetId()
		}
		if call.GetParent() != want || call.GetAuthor() != "tester" {
			t.Errorf("%v was begun by %q, want %q", call, call.GetParent(), want)
		}
	}
	if len(calls) != 5 {
		t.Errorf("%d calls, want 5", len(calls))
	}
	c.cancel(id)
	for function, state := range c.states() {
		if state != "canceled" {
			t.Errorf("%s is %s after the root was canceled", function, state)
		}
	}
	c.read(id, 0, nil).ends(t, "canceled", 0, 0)
}

// What a call waits for ends with it, however it ends; what it spawned goes on.
func TestCallEndsWhatItWaitsFor(t *testing.T) {
	t.Parallel()
	for function, want := range map[string]struct{ reason, waited, spawned string }{
		"dies":    {"call.worker_ended", "stands", ""},
		"late":    {"call.timeout", "block", ""},
		"returns": {"", "stands", "block"},
	} {
		t.Run(function, func(t *testing.T) {
			t.Parallel()
			c := newCaller(t)
			c.write("functions.py", nesting)
			if e := c.value(function, 0).GetError(); e.GetReason() != want.reason {
				t.Error(e)
			}
			states := c.states()
			if states[want.waited] != "canceled" || strings.Contains(states[want.spawned], "canceled") {
				t.Errorf("afterwards: %v", states)
			}
		})
	}
}

// Who begins calls without end is told, and all of them end with the root.
func TestCallBomb(t *testing.T) {
	t.Parallel()
	c := newCaller(t)
	c.write("functions.py", nesting)
	id := c.begin("bomb", false, 1)
	c.put(id, 0, true, 0)
	got := c.read(id, 0, nil)
	if e := got.results[0].GetError(); e.GetClass() != "ResourceExhaustedError" || !strings.Contains(e.GetMessage(), "1000 calls are under way that bomb") {
		t.Error(e)
	}
	if states := c.states(); strings.Contains(states["block"], "canceled") {
		t.Error("before the cancel:", states)
	}
	c.cancel(id)
	if states := c.states(); states["block"] != "canceled" {
		t.Error("after the cancel:", states)
	}
}

// Calls of calls are of the code that the root began with.
func TestCallsOfCallsSeeOneCode(t *testing.T) {
	t.Parallel()
	const code = `
import tarn

@tarn.function
def waits(n):
    return says.remote(n)

@tarn.function
def says(n):
    return %d
`
	c := newCaller(t)
	c.write("functions.py", fmt.Sprintf(code, 1))
	c.value("says", 0) // writes tarn.lock
	c.value("says", 1) // lays out the folder with it
	id := c.begin("waits", false, 1)
	c.write("functions.py", fmt.Sprintf(code, 2)+"# longer\n")
	c.put(id, 0, true, 0)
	if r := c.read(id, 0, nil).results[0]; !bytes.Equal(r.GetValue(), number(1)) {
		t.Errorf("%q %v", r.GetValue(), r.GetError())
	}
	if r := c.value("waits", 2); !bytes.Equal(r.GetValue(), number(2)) {
		t.Errorf("a new root: %q %v", r.GetValue(), r.GetError())
	}
}

// What a caller got of secrets is hidden in the calls that it makes, which may get it as an argument.
func TestCallsOfCallsHideSecrets(t *testing.T) {
	t.Parallel()
	c := newCaller(t)
	c.write("functions.py", `
import os, tarn

@tarn.function(secrets=["TOKEN"])
def knows(n):
    return tells.remote(os.environ["TOKEN"])

@tarn.function
def tells(what):
    print("told", what, os.environ.get("TOKEN"))
    return len(what)
`)
	const token = "correct horse battery"
	if _, err := c.open().Secrets.Set(soon(t), &tarnv1.SetSecretsRequest{RequestId: "s", Project: "p", Values: map[string]string{"TOKEN": token}}); err != nil {
		t.Fatal(err)
	}
	if r := c.value("knows", 0); !bytes.Equal(r.GetValue(), number(byte(len(token)))) {
		t.Fatalf("%q %v", r.GetValue(), r.GetError())
	}
	got, err := c.List(soon(t), &tarnv1.ListCallsRequest{Project: "p"})
	if err != nil {
		t.Fatal(err)
	}
	for _, call := range got.GetCalls() {
		if printed := c.read(call.GetId(), 0, nil).printed; printed != "told *** None\n" {
			t.Errorf("%s printed %q", call.GetFunction(), printed)
		}
	}
}

// A tree of calls is walked: it has about as many workers as there are cores, for each of its levels.
func TestCallTreeIsWalked(t *testing.T) {
	t.Parallel()
	c := newCaller(t)
	c.write("functions.py", `
import os, tarn

worker = os.urandom(8).hex()

@tarn.function
def tree(n):
    print(worker)
    return 1 if n == 0 else sum(tree.map([n - 1, n - 1]))
`)
	const levels = 7
	id := c.begin("tree", true, 1)
	c.put(id, 0, true, levels-1)
	got := c.read(id, 0, nil)
	if r := got.results[0]; !bytes.Equal(r.GetValue(), number(1<<(levels-1))) {
		t.Fatalf("%q %v", r.GetValue(), r.GetError())
	}
	workers := map[string]int{}
	for line := range strings.Lines(got.printed) {
		workers[line]++
	}
	if most := 2 * runtime.NumCPU() * levels; len(workers) > most {
		t.Errorf("%d workers, want %d at most", len(workers), most)
	}
}
