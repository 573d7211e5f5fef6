package flow_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"tarn.dev/tarn/internal/flow"
	"tarn.dev/tarn/internal/flow/call"
)

// spilled are the nameless files in which calls keep what has no room in memory.
func (p *place) spilled() int {
	p.t.Helper()
	open, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		p.t.Fatal(err)
	}
	n := 0
	for _, fd := range open {
		target, err := os.Readlink(filepath.Join("/proc/self/fd", fd.Name()))
		if err != nil && !errors.Is(err, fs.ErrNotExist) { // another test closed it
			p.t.Fatal(err)
		}
		if strings.HasPrefix(target, p.home) && strings.Contains(target, "/calls/values-") {
			n++
		}
	}
	return n
}

// Several calls whose callers read nothing have more results than there is memory for: each caller still gets its own, all of them,
// and nothing is left of them afterwards.
func TestResultsBeyondTheMemoryOfCalls(t *testing.T) {
	t.Parallel()
	p := newPlace(t, "pipeline.py", "import tarn\n\n\n@tarn.function\ndef chunk(n):\n    return bytes([n]) * 100_000\n")
	const inputs = 40 // of 100 kB: four times the budget, for each call
	var calls []*flow.Call
	for k := range 3 {
		c, err := p.StartCall(t.Context(), flow.CallRequest{ID: fmt.Sprint(k), Dir: p.dir, File: "pipeline.py", Qualname: "chunk", Ordered: true})
		if err != nil {
			t.Fatal(err)
		}
		var given []call.Value
		for n := range inputs {
			given = append(given, call.Value{Data: fmt.Appendf(nil, "((I%d\nt(dt.", n+k*inputs)}) // ((n,), {})
		}
		if next, err := c.Put(t.Context(), 0, given, true); err != nil || next != inputs {
			t.Fatal(next, err)
		}
		calls = append(calls, c)
	}
	for k, c := range calls {
		if err := c.Wait(t.Context()); err != nil {
			t.Fatal(k, err)
		}
	}
	if n := p.spilled(); n < 2 { // the first one may have ended within the budget
		t.Errorf("%d calls wrote to disk", n)
	}
	for k, c := range calls {
		next := int64(0)
		for r, err := range c.Results(t.Context(), 0, nil) {
			if err != nil || r.Failure != nil || r.Index != next {
				t.Fatalf("call %d, result %d of input %d: %v %v", k, next, r.Index, r.Failure, err)
			}
			if want := bytes.Repeat([]byte{byte(int(next) + k*inputs)}, 100_000); !bytes.Contains(r.Value.Data, want) {
				t.Fatalf("call %d, input %d: the value is another's", k, next)
			}
			next++
		}
		if next != inputs {
			t.Errorf("call %d: %d results", k, next)
		}
	}
	p.stop()
	if n := p.spilled(); n != 0 {
		t.Errorf("%d files are left after the stop", n)
	}
}
