package flow

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// On a full disk output is lost, and says so; who follows the run still sees it end.
func TestJournalOnAFullDisk(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "run.jsonl")
	if err := os.Symlink("/dev/full", path); err != nil { // what is removed at the end is the link
		t.Fatal(err)
	}
	j := newJournal(path)
	var failed error
	for i := range 1000 {
		if err := j.append(Event{Seq: int64(i + 1), Type: "log", Step: "s", Message: strings.Repeat("x", 100)}); err != nil {
			failed = err
		}
	}
	if failed == nil || !strings.Contains(failed.Error(), "no space left") {
		t.Errorf("the journal said %v", failed)
	}
	r, err := j.open()
	if err != nil {
		t.Fatal(err)
	}
	if err := j.append(Event{Seq: 2000, Type: "run", State: "succeeded"}); err != nil {
		t.Errorf("the error is told twice: %v", err)
	}
	var kept strings.Builder
	if err := j.output("s", &kept); err != nil || !strings.Contains(kept.String(), "the rest was lost") {
		t.Errorf("%v, kept %q", err, kept.String())
	}
	if err := j.end(); err != nil {
		t.Error(err)
	}
	var seen []string
	for e, err := range j.read(t.Context(), r, 0, true) {
		if err != nil {
			t.Fatal(err)
		}
		seen = append(seen, e.State)
	}
	if !slices.Equal(seen, []string{"succeeded"}) {
		t.Errorf("a reader saw %q", seen)
	}
}
