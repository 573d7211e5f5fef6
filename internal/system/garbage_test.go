package system

import (
	"context"
	"log/slog"
	"strings"
	"testing"
	"time"

	"tarn.dev/tarn/internal/blob/fsblob"
	"tarn.dev/tarn/internal/flow"
	"tarn.dev/tarn/internal/lake"
	"tarn.dev/tarn/internal/meta/lease"
	"tarn.dev/tarn/internal/meta/sqlitemeta"
	"tarn.dev/tarn/internal/server"
)

// The server collects a project that is in use when a day has passed since the last time, and not before.
func TestCollectDue(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	rows, err := sqlitemeta.Open(t.TempDir() + "/meta.db")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = rows.Close() })
	session, err := lease.Begin(ctx, rows, sessionPrefix, time.Minute, "test")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = session.End(context.WithoutCancel(ctx)) })
	blobs, err := fsblob.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	l, err := lake.Open(ctx, blobs, rows, lakePrefix("p"), lake.Options{Session: session})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	f := flow.New(flow.Config{Session: session}, "p", l, blobs, rows, rowsPrefix("p")+"flow/", nil)
	done := make(chan struct{})
	close(done)
	s := &System{
		config: Config{Log: slog.New(slog.DiscardHandler)},
		projects: &projects{open: map[string]*opening{
			"p":     {done: done, project: &server.Project{Name: "p", Lake: l, Flow: f}},
			"opens": {done: make(chan struct{})},
		}},
	}
	left := func() (n int) {
		for _, err := range blobs.List(ctx, "fragments/") {
			if err != nil {
				t.Fatal(err)
			}
			n++
		}
		return n
	}
	lose := func(name string) {
		t.Helper()
		if err := blobs.Put(ctx, "fragments/"+name, strings.NewReader("rows")); err != nil {
			t.Fatal(err)
		}
	}
	lose("first")
	s.collectDue(ctx, time.Now())
	if n := left(); n != 0 {
		t.Errorf("%d blobs are left of one that nothing names", n)
	}
	lose("second")
	s.collectDue(ctx, time.Now().Add(collectEvery-time.Minute))
	if n := left(); n != 1 {
		t.Errorf("%d blobs are left before a day has passed", n)
	}
	s.collectDue(ctx, time.Now().Add(collectEvery+time.Minute))
	if n := left(); n != 0 {
		t.Errorf("%d blobs are left when a day has passed", n)
	}
}
