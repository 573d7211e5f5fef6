package flow_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
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

// An item that has ended shows at once: the last of an interpreter's items waits until the one before was seen.
func TestProgressOfItems(t *testing.T) {
	t.Parallel()
	p := newPlace(t, "pipeline.py", strings.Replace(items, "    (out", `    import os, time
    while os.path.exists("one") and not os.path.exists("go"):
        time.sleep(0.01)
    open("one", "w").close()
    (out`, 1))
	p.putFiles("raw/a.txt", "a", "raw/b.txt", "b", "raw/c.txt", "c")
	run, _, err := p.Start(t.Context(), p.request())
	if err != nil {
		t.Fatal(err)
	}
	var seen []string
	for e, err := range p.Events(t.Context(), run.ID, 0) {
		if err != nil {
			t.Fatal(err)
		}
		if e.Type != "progress" || e.Total == 0 {
			continue
		}
		if seen = append(seen, fmt.Sprintf("%d/%d", e.Done, e.Total)); len(seen) == 2 { // two interpreters: two and one
			for _, box := range p.boxes() {
				// The interpreter of the single item ends on its own.
				if err := os.WriteFile(filepath.Join(box, "go"), nil, 0o600); err != nil && !errors.Is(err, fs.ErrNotExist) {
					t.Error(err)
				}
			}
		}
	}
	if want := []string{"1/3", "2/3", "3/3"}; !slices.Equal(seen, want) {
		t.Errorf("%q", seen)
	}
	if o := p.wait(run.ID); o.State != flow.RunSucceeded {
		t.Errorf("%s: %v", o.State, o.Error)
	}
}
