package flow_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"tarn.dev/tarn/internal/flow"
)

// Everybody gets each line once, however late they come and however slowly they read.
func TestSlowReadersMissNothing(t *testing.T) {
	t.Parallel()
	const count = 20_000
	p := newPlace(t, "talks.sh", fmt.Sprintf(`# tarn: outputs = { talks = "csv" }
mkfifo gate
echo ready
read go < gate
i=0
while [ $i -lt %d ]; do echo line $i; i=$((i+1)); done
printf 'x\n1\n' > $TARN_OUT_TALKS
`, count))
	run := p.startUntil("ready")
	type reader struct {
		events bool
		slow   bool
	}
	got := map[reader]chan []string{}
	for _, r := range []reader{{}, {events: true}, {slow: true}, {events: true, slow: true}} {
		lines := make(chan []string, 1)
		got[r] = lines
		begun := make(chan struct{})
		go func() {
			source := p.Logs(t.Context(), run.ID, "", true)
			if r.events {
				source = p.Events(t.Context(), run.ID, 0)
			}
			var seen []string
			for e, err := range source {
				if err != nil {
					t.Error(err)
				}
				if e.Type != "log" {
					continue
				}
				if seen = append(seen, e.Message); len(seen) == 1 {
					close(begun)
				}
				if r.slow && len(seen) == 2 { // it stands still while everything is said
					p.wait(run.ID)
				}
			}
			lines <- seen
		}()
		<-begun // it has the first line, and waits for more
	}
	p.letGo("gate")
	want := []string{"ready"}
	for i := range count {
		want = append(want, fmt.Sprintf("line %d", i))
	}
	if o := p.wait(run.ID); o.State != flow.RunSucceeded {
		t.Fatalf("%s: %v", o.State, o.Error)
	}
	for r, lines := range got {
		if seen := <-lines; !slices.Equal(seen, want) {
			t.Errorf("%+v: %d lines of %d", r, len(seen), len(want))
		}
	}
	var kept []string
	for e, err := range p.Logs(t.Context(), run.ID, "talks", false) {
		if err != nil {
			t.Fatal(err)
		}
		kept = append(kept, e.Message)
	}
	if !slices.Equal(kept, want) {
		t.Errorf("%d lines are kept of %d: %.100s", len(kept), len(want), strings.Join(kept, ", "))
	}
}
