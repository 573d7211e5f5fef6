package flow_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"tarn.dev/tarn/internal/base/room"
	"tarn.dev/tarn/internal/flow"
)

// Two steps that ask for more memory than the host has for both go one after the other, also in two runs; the second says what it
// waits for.
func TestStepsTakeTurnsAtMemory(t *testing.T) {
	t.Parallel()
	memory := fmt.Sprint(room.Memory() / 3 * 2)
	script := func(name string) string {
		return fmt.Sprintf("# tarn: outputs = { %s = \"csv\" }\n# tarn: memory = %q\nmkfifo gate; echo ready; read go < gate\nprintf 'x\\n1\\n' > $TARN_OUT_%s\n",
			name, memory, strings.ToUpper(name))
	}
	p := newPlace(t, "one.sh", script("one"), "two.sh", script("two"))
	run := p.startUntil("ready")
	said := ""
	for e, err := range p.Events(context.Background(), run.ID, 0) {
		if err != nil {
			t.Fatal(err)
		}
		if e.Type == "log" && e.Message == "ready" {
			continue
		}
		if e.Type == "log" {
			said = e.Message
			break
		}
	}
	if !strings.Contains(said, " waits for its turn: it asks for ") || !strings.Contains(said, " of memory, and others have ") {
		t.Error(said)
	}
	p.letGo("gate") // which finds one that runs
	ready := 0
	for e, err := range p.Events(context.Background(), run.ID, 0) {
		if err != nil {
			t.Fatal(err)
		}
		if e.Type == "log" && e.Message == "ready" {
			if ready++; ready == 2 {
				p.letGo("gate")
			}
		}
	}
	if o := p.wait(run.ID); o.State != flow.RunSucceeded {
		t.Errorf("%s %v", o.State, o.Error)
	}
}

// What a step makes counts for its limit of disk: a table as well as what lies in its own folder.
func TestDiskLimitOfResults(t *testing.T) {
	t.Parallel()
	p := newPlace(t,
		"endless.py", `
import itertools, tarn
import pyarrow as pa

@tarn.asset(resources=tarn.Resources(disk="20MiB"))
def endless():
    for _ in itertools.count():
        yield pa.table({"x": list(range(100_000))})
`,
		"huge.sql", "-- tarn: disk = \"20MiB\"\nSELECT i, hash(i) AS h FROM range(100_000_000_000) t(i)\n",
		"dd.sh", "# tarn: outputs = { dd = \"csv\" }\n# tarn: disk = \"20MiB\"\nyes > $TARN_OUT_DD\n")
	for _, name := range []string{"endless", "huge", "dd"} {
		o := p.run(p.request(name))
		st := o.steps[name]
		if o.State != flow.RunFailed || st == nil || st.Error == nil || !strings.Contains(st.Error.Error(), "more than its limit") {
			t.Errorf("%s: %s %v", name, o.State, o.Error)
		}
	}
}
