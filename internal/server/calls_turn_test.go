package server_test

import (
	"fmt"
	"runtime"
	"strings"
	"testing"

	tarnv1 "tarn.dev/tarn/api/gen/tarn/v1"
	"tarn.dev/tarn/internal/base/room"
)

// turning are functions that limit each other.
var turning = fmt.Sprintf(`
MOST = %q # of the memory
import os, threading
import tarn

@tarn.function
def block(n):
    print("blocked")
    threading.Event().wait()

@tarn.function(priority=1)
def urgent(n):
    block._fn(n)

@tarn.function(priority=-1)
def patient(n):
    return n

@tarn.function(concurrency=tarn.Concurrency(1, key="api"))
def asks(n):
    block._fn(n)

@tarn.function(concurrency=tarn.Concurrency(1, key="api"))
def asks_too(n):
    return n

@tarn.function(concurrency=1)
def alone(n):
    if n == 0:
        block._fn(n)
    return n

@tarn.function(start_timeout=0.2, retry=tarn.Retry(times=1, delay=0.01))
def hurried(n):
    return n


@tarn.function(start_timeout="2m", retry=tarn.Retry(times=1, delay=0.01))
def in_time(n):
    return n

@tarn.function(cache=True)
def cached(n):
    return n

@tarn.function(resources=tarn.Resources(memory=MOST))
def hungry(n):
    block._fn(n)

@tarn.function(resources=tarn.Resources(memory=MOST))
def hungry_too(n):
    return n

@tarn.asset(cache=True)
def asset():
    return [{"n": 1}]

@tarn.function(resources=tarn.Resources(gpu="H100"))
def graphic(n):
    return n
`, fmt.Sprint(room.Memory()/3*2))

func (c *caller) cancel(id string) {
	c.t.Helper()
	if _, err := c.Cancel(soon(c.t), &tarnv1.CancelCallRequest{Project: "p", Call: id}); err != nil {
		c.t.Fatal(err)
	}
}

func (c *caller) done(id string) int64 {
	c.t.Helper()
	got, err := c.Get(soon(c.t), &tarnv1.GetCallRequest{Project: "p", Call: id})
	if err != nil {
		c.t.Fatal(err)
	}
	return got.GetCall().GetDone()
}

// fill has every core taken, by a call for each.
func (c *caller) fill() []string {
	c.t.Helper()
	var calls []string
	for i := range runtime.NumCPU() {
		id := c.beginAs(fmt.Sprint("block", i), "block", false, 1)
		c.put(id, 0, true, 0)
		c.read(id, 0, blocked)
		calls = append(calls, id)
	}
	return calls
}

// Where all cores are taken, the function with the higher priority is next, whoever came first.
func TestCallPriority(t *testing.T) {
	t.Parallel()
	c := newCaller(t)
	c.write("functions.py", turning)
	calls := c.fill()
	low := c.begin("patient", false, 1)
	c.put(low, 0, true, 1)
	high := c.begin("urgent", false, 1)
	c.put(high, 0, true, 0)
	c.begin("patient", false, 2) // the way of a whole request: who waits is in line
	c.cancel(calls[0])
	c.read(high, 0, blocked)
	if n := c.done(low); n != 0 {
		t.Error("the lower priority went first")
	}
	c.cancel(high)
	c.read(low, 0, nil).ends(t, "succeeded", 1, 0)
}

// A call that gets no turn says so, where its caller and its logs show it; a call that is done with some inputs does not.
func TestCallSaysThatItWaits(t *testing.T) {
	t.Parallel()
	c := newCaller(t)
	c.write("functions.py", turning)
	calls := c.fill()
	id := c.begin("patient", false, 1)
	c.put(id, 0, true, 1)
	const words = "patient waits for its turn"
	c.read(id, 0, func(s *seen) bool { return strings.Contains(s.printed, words) })
	if got, err := c.Get(soon(t), &tarnv1.GetCallRequest{Project: "p", Call: id}); err != nil || got.GetCall().GetState() != "waiting" {
		t.Errorf("the state of a call that waits for its turn: %v, %v", got, err)
	}
	c.cancel(calls[0])
	got := c.read(id, 0, nil)
	got.ends(t, "succeeded", 1, 0)
	if n := strings.Count(got.printed, words); n != 1 {
		t.Errorf("it said %d times that it waits", n)
	}
}

// An input that finds no core in time fails, after its retries; one that is behind others of its call does not count its wait.
func TestCallStartTimeout(t *testing.T) {
	t.Parallel()
	c := newCaller(t)
	c.write("functions.py", turning)
	calls := c.fill()
	late := c.begin("hurried", false, 1)
	c.put(late, 0, true, 1)
	got := c.read(late, 0, nil)
	if got.reasons() != "0:call.start_timeout" || strings.Count(got.printed, "failed, again in") != 1 {
		t.Errorf("%s\n%s", got.reasons(), got.printed)
	}
	if e := got.results[0].GetError(); e.GetCode() != "deadline_exceeded" || !strings.Contains(e.GetMessage(), "start_timeout=") {
		t.Errorf("%v", e)
	}
	c.cancel(calls[0])
	soonEnough := c.begin("in_time", false, 2)
	c.put(soonEnough, 0, true, 1, 2, 3)
	c.read(soonEnough, 0, nil).ends(t, "succeeded", 3, 0)
}

// A limit holds for all calls of a function, and of all functions with its key; others go on.
func TestCallLimits(t *testing.T) {
	t.Parallel()
	c := newCaller(t)
	c.write("functions.py", turning)
	for _, functions := range [][2]string{{"asks", "asks_too"}, {"alone", "alone"}, {"hungry", "hungry_too"}} {
		first := c.begin(functions[0], false, 8)
		c.put(first, 0, true, 0)
		c.read(first, 0, blocked)
		second := c.begin(functions[1], true, 8)
		c.put(second, 0, true, 1)
		other := c.beginAs("beside "+functions[0], "patient", false, 8)
		c.put(other, 0, true, 1)
		c.read(other, 0, nil).ends(t, "succeeded", 1, 0)
		if n := c.done(second); n != 0 {
			t.Errorf("%s went on beside %s", functions[1], functions[0])
		}
		c.cancel(first)
		c.read(second, 0, nil).ends(t, "succeeded", 1, 0)
	}
}

// An option that no call honours is refused by name.
func TestCallOptionsAreRefused(t *testing.T) {
	t.Parallel()
	c := newCaller(t)
	c.write("functions.py", turning)
	for function, option := range map[string]string{"cached": "cache=True", "graphic": "gpu="} {
		_, err := c.Start(t.Context(), &tarnv1.StartCallRequest{RequestId: function, Project: "p", Dir: c.dir, File: "functions.py", Qualname: function})
		if err == nil || !strings.Contains(err.Error(), option+" is not there yet") {
			t.Errorf("%s: %v", option, err)
		}
	}
	c.begin("asset", false, 1) // its cache is for runs
}
