package flow

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"tarn.dev/tarn/internal/blob"
	"tarn.dev/tarn/internal/flow/memo"
	"tarn.dev/tarn/internal/lake"
	"tarn.dev/tarn/internal/meta"
)

// What results and runs name stays for its time, and no longer; what nothing names goes.
func TestCollectResults(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	f := bareFlow(t)
	l, rows, blobs := f.lake, f.rows, f.blobs

	b := l.Begin(ctx)
	text := strings.Repeat("a line of output\n", 100)
	log, err := b.PutFile(ctx, strings.NewReader(text))
	if err == nil {
		err = b.Flush(ctx)
	}
	if err != nil {
		t.Fatal(err)
	}
	b.Discard()
	step, err := json.Marshal(Step{Run: "r-aaaaaa", Name: "one", State: StepSucceeded, Log: &log})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := rows.Txn(ctx, nil, []meta.Write{meta.Set(f.runs.stepKey("r-aaaaaa", "one"), step)}); err != nil {
		t.Fatal(err)
	}

	result := func(key, name string) *memo.Fragment {
		name = "fragments/" + name
		if err := blobs.Put(ctx, name, strings.NewReader("rows")); err != nil {
			t.Fatal(err)
		}
		return &memo.Fragment{Key: memo.Key(key), Created: now(), Tables: []memo.Table{{Name: "t", Blob: name, Bytes: 4}}}
	}
	for _, frag := range []*memo.Fragment{result("a", "a"), result("b", "b-first")} {
		if _, _, err := f.memo.Remember(ctx, frag); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.memo.Replace(ctx, result("b", "b-second")); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"fragments/lost", "tables/u/data/lost.parquet"} {
		if err := blobs.Put(ctx, name, strings.NewReader("rows")); err != nil {
			t.Fatal(err)
		}
	}

	collect := func(at time.Time) []string {
		t.Helper()
		if _, err := l.Collect(ctx, lake.CollectOptions{Holder: &holdings{f, at}}); err != nil {
			t.Fatal(err)
		}
		var left []string
		for _, prefix := range []string{"fragments/", "tables/"} {
			for info, err := range blobs.List(ctx, prefix) {
				if err != nil {
					t.Fatal(err)
				}
				left = append(left, info.Name)
			}
		}
		if _, err := l.OpenFile(ctx, log); err != nil {
			t.Fatal(err)
		}
		if err := l.CheckFile(ctx, log, true); err != nil {
			t.Errorf("the log of a run: %v", err)
		}
		return left
	}
	if left := collect(now()); !slices.Equal(left, []string{"fragments/a", "fragments/b-second"}) {
		t.Errorf("left are %v", left)
	}
	if left := collect(now().Add(memoAge + time.Hour)); len(left) != 0 {
		t.Errorf("left after their time are %v", left)
	}
	if frag, err := f.memo.Lookup(ctx, "a"); err != nil || frag != nil {
		t.Errorf("a result past its time: %v, %v", frag, err)
	}

	// A row that names what is not there is damage: nothing is deleted on the strength of it.
	if _, _, err := f.memo.Remember(ctx, &memo.Fragment{Key: "c", Created: now(), Provenance: lake.Hash{1}}); err != nil {
		t.Fatal(err)
	}
	if err := blobs.Put(ctx, "fragments/again", strings.NewReader("rows")); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Collect(ctx, lake.CollectOptions{Holder: &holdings{f, now()}}); !errors.Is(err, lake.ErrCorrupt) {
		t.Errorf("with damage: %v", err)
	}
	if _, err := blobs.Stat(ctx, "fragments/again"); errors.Is(err, blob.ErrNotFound) {
		t.Error("something was deleted in spite of damage")
	}
}
