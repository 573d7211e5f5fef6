package flow

import (
	"context"
	"testing"
	"time"

	"tarn.dev/tarn/internal/blob/fsblob"
	"tarn.dev/tarn/internal/lake"
	"tarn.dev/tarn/internal/meta"
	"tarn.dev/tarn/internal/meta/lease"
	"tarn.dev/tarn/internal/meta/sqlitemeta"
)

// bareFlow is a project without files, engine or sandboxes.
func bareFlow(t *testing.T) *Flow {
	t.Helper()
	ctx := t.Context()
	rows, err := sqlitemeta.Open(t.TempDir() + "/meta.db")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = rows.Close() })
	session, err := lease.Begin(ctx, rows, "s", time.Minute, "test")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = session.End(context.WithoutCancel(ctx)) })
	blobs, err := fsblob.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	l, err := lake.Open(ctx, blobs, rows, "lake/", lake.Options{Session: session})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return New(Config{Session: session}, "test", l, blobs, rows, "flow/", nil)
}

func TestPruneKeepsWhatIsYoung(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	f := bareFlow(t)
	l, rows := f.lake, f.rows
	head, err := l.Resolve(ctx, lake.MainBranch)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"run/r-aaaaaa", "dev"} {
		if _, err := l.CreateBranch(ctx, name, head.ID, ""); err != nil {
			t.Fatal(err)
		}
	}
	run := &Run{ID: "r-aaaaaa", State: RunFailed, Created: now()}
	if _, err := f.runs.create(ctx, run); err != nil {
		t.Fatal(err)
	}
	if _, err := rows.Txn(ctx, nil, []meta.Write{meta.Set(f.runs.eventPrefix(run.ID)+"000000000001", []byte("{}"))}); err != nil {
		t.Fatal(err)
	}
	left := func() (branches, events int) {
		for ref, err := range l.Branches(ctx) {
			if err != nil {
				t.Fatal(err)
			}
			if f.isRunBranch(ref.Name) {
				branches++
			}
		}
		for _, err := range f.runs.events(ctx, run.ID, 0) {
			if err != nil {
				t.Fatal(err)
			}
			events++
		}
		return branches, events
	}
	for _, c := range []struct {
		after            time.Duration
		branches, events int
	}{{time.Hour, 1, 1}, {keepRunBranch + time.Hour, 0, 1}, {keepEvents + time.Hour, 0, 0}} {
		if err := f.prune(ctx, now().Add(c.after)); err != nil {
			t.Fatal(err)
		}
		if b, e := left(); b != c.branches || e != c.events {
			t.Errorf("after %s: %d run branches and %d events, want %d and %d", c.after, b, e, c.branches, c.events)
		}
	}
	if _, err := l.Branch(ctx, "dev"); err != nil {
		t.Errorf("prune took a branch of the user: %v", err)
	}
	if _, err := f.runs.run(ctx, run.ID); err != nil {
		t.Errorf("prune took the run itself: %v", err)
	}
}
