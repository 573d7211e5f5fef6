package server_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	tarnv1 "tarn.dev/tarn/api/gen/tarn/v1"
)

// escaping speaks to the socket of its worker without the SDK.
const escaping = `
import http.client, json, os, socket
import tarn

def connect():
    with open(os.environ["TARN_CONTEXT"]) as f:
        path = json.load(f)["calls"]["socket"]
    s = socket.socket(socket.AF_UNIX)
    s.connect(f"/proc/self/fd/{os.open(os.path.dirname(path), os.O_PATH)}/{os.path.basename(path)}")
    return s

def say(procedure, request, stream=False):
    c = http.client.HTTPConnection("tarn")
    c.sock = connect()
    body, kind = json.dumps(request).encode(), "application/json"
    if stream:
        body, kind = b"\0" + len(body).to_bytes(4, "big") + body, "application/connect+json"
    c.request("POST", "/tarn.v1." + procedure, body, {"Content-Type": kind})
    answer = c.getresponse()
    return answer.status, answer.read().decode(errors="replace")

START = {"requestId": "x", "project": "p", "dir": "/", "file": "functions.py", "qualname": "double"}
# While the module is imported, no input is under way. (Discovery has no worker.)
imported = say("CallService/Start", START) if os.environ.get("TARN_CONTEXT") else None

@tarn.function
def double(n):
    return 2 * n

@tarn.function
def early(n):
    return json.dumps([*imported, os.path.exists("/proc/net/unix")])

@tarn.function
def services(n):
    calls = {
        "SystemService": ["GetStatus", "Shutdown", "ListProjects"], "HistoryService": ["ListBranches", "Log"], "FileService": ["List", "Put"],
        "RunService": ["Start", "List"], "SecretService": ["List", "Set"], "EnvService": ["List"], "TableService": ["List"], "QueryService": ["Query"],
    }
    said = {f"{s}/{c}": say(f"{s}/{c}", {"project": "p", "requestId": "x"}) for s in calls for c in calls[s]}
    said["CallService/List"] = say("CallService/List", {"project": "p"})
    said["/"] = say("../", {})
    return json.dumps(said)

@tarn.function
def others(id):
    said = {}
    for project in ("p", "q"):
        for name, fields in {"Get": {}, "Cancel": {}, "Put": {"first": 0, "inputs": [""]}}.items():
            said[f"{name} {project}"] = say("CallService/" + name, {"project": project, "call": id, **fields})
        for name, fields in {"Results": {}, "Logs": {"follow": True}, "GetValue": {"value": "in-1"}, "PutValue": {}}.items():
            said[f"{name} {project}"] = say("CallService/" + name, {"project": project, "call": id, **fields}, stream=True)
    said["Start q"] = say("CallService/Start", {**START, "project": "q"})
    return json.dumps(said)

@tarn.function
def floods(n):
    many = [connect() for _ in range(n)]
    for s in many:
        s.close()
    status, _ = say("CallService/Start", {**START, "source": "x" * (9 << 20)})
    assert status != 200, "a message of 9 MiB was taken"
    say("CallService/Start", {**START, "dir": "/etc", "source": "import os", "author": "somebody", "file": "functions.py"})
    return double.remote(n)
`

// text is the input of a call f(s).
func text(s string) []byte { return fmt.Appendf(nil, "((V%s\nt(dt.", s) }

// heard is what say answered.
type heard [2]any

func (h heard) status() int  { n, _ := h[0].(float64); return int(n) }
func (h heard) body() string { s, _ := h[1].(string); return s }

// answers calls a function that returns JSON.
func (c *caller) answers(function string, input []byte, into any) {
	c.t.Helper()
	id := c.begin(function, true, 1)
	if _, err := c.Put(soon(c.t), &tarnv1.PutInputsRequest{Project: "p", Call: id, Inputs: [][]byte{input}, Last: true}); err != nil {
		c.t.Fatal(err)
	}
	got := c.read(id, 0, nil)
	value := got.results[0].GetValue()
	from, to := bytes.IndexAny(value, "[{"), bytes.LastIndexAny(value, "]}")
	if from < 0 || to < from {
		c.t.Fatalf("%s: %q, %v", function, value, got.results[0].GetError())
	}
	if err := json.Unmarshal(value[from:to+1], into); err != nil {
		c.t.Fatalf("%s: %q: %v", function, value, err)
	}
}

// Over the socket of its worker a function reaches calls of its own, and nothing else of the server.
func TestCallSocketIsNarrow(t *testing.T) {
	t.Parallel()
	c := newCaller(t)
	beside := c.begin("block", false, 1)
	c.put(beside, 0, true, 0)
	c.read(beside, 0, blocked)
	c.write("functions.py", escaping)

	var early []any
	c.answers("early", pickled(0), &early)
	if body, _ := early[1].(string); !strings.Contains(body, "no input is under way") {
		t.Error("a call while the module is imported:", early)
	}

	said := map[string]heard{}
	c.answers("services", pickled(0), &said)
	if len(said) < 15 {
		t.Error("asked too little:", said)
	}
	for name, h := range said {
		if h.status() != 404 {
			t.Errorf("%s answers %v", name, h)
		}
	}

	clear(said)
	c.answers("others", text(beside), &said)
	if len(said) != 15 {
		t.Error("asked too little:", said)
	}
	for name, h := range said {
		if !strings.Contains(h.body(), `"not_found"`) {
			t.Errorf("%s answers %v", name, h)
		}
	}
	if state := c.states()["block"]; state != "running" {
		t.Error("the call of another root is", state)
	}
	if n := c.done(beside); n != 0 {
		t.Error("the call of another root has results:", n)
	}

	if r := c.value("floods", 100); !bytes.Equal(r.GetValue(), number(200)) {
		t.Errorf("%q %v", r.GetValue(), r.GetError())
	}
	got, err := c.List(soon(t), &tarnv1.ListCallsRequest{Project: "p"})
	if err != nil {
		t.Fatal(err)
	}
	for _, call := range got.GetCalls() {
		if call.GetAuthor() != "tester" {
			t.Errorf("%v has another author", call)
		}
	}
}
