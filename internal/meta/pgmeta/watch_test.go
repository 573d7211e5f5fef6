package pgmeta

import (
	"errors"
	"fmt"
	"os"
	"testing"

	"tarn.dev/tarn/internal/meta"
	"tarn.dev/tarn/internal/meta/pgmeta/pgtest"
)

func TestMain(m *testing.M) { os.Exit(pgtest.Main(m)) }

// A watcher that comes back after deletions were forgotten is told so; one that starts at 0 needs none.
func TestCursorExpires(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	o := options{remember: 20, patience: defaultPatience, answer: defaultAnswer}
	s, err := open(t.Context(), url, o)
	if err != nil {
		t.Fatal(err)
	}
	var first, last int64
	for i := range 50 {
		key := fmt.Sprintf("k/%d", i)
		for _, w := range []meta.Write{meta.Set(key, nil), meta.Delete(key)} {
			if last, err = s.Txn(t.Context(), nil, []meta.Write{w}); err != nil {
				t.Fatal(err)
			}
			if first == 0 {
				first = last
			}
		}
	}
	var left int
	if err := s.pool.QueryRow(t.Context(), `SELECT count(*) FROM tarn.gone`).Scan(&left); err != nil || left > 20 {
		t.Errorf("%d deletions are remembered, %v", left, err)
	}
	for cursor, want := range map[int64]bool{first: true, last - 30: true, last - 5: false, 0: false, -1: false} {
		events := s.Watch(t.Context(), "k/", cursor)
		if _, err := s.Txn(t.Context(), nil, []meta.Write{meta.Set("k/end", []byte(fmt.Sprint(cursor)))}); err != nil {
			t.Fatal(err)
		}
		for _, err := range events {
			if errors.Is(err, meta.ErrCursorExpired) != want || (err != nil && !want) {
				t.Errorf("watch from %d of %d: %v", cursor, last, err)
			}
			break
		}
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

// A watcher learns of another server's transactions also where notifications do not arrive, as behind a
// pooler.
func TestWatchWithoutNotifications(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	o := options{remember: defaultRemember, patience: defaultPatience, answer: defaultAnswer, deaf: true}
	deaf, err := open(t.Context(), url, o)
	if err != nil {
		t.Fatal(err)
	}
	other, err := Open(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	events := deaf.Watch(t.Context(), "k", 0)
	waiting := make(chan struct{})
	go func() {
		<-waiting
		if _, err := other.Txn(t.Context(), nil, []meta.Write{meta.Set("k2", nil)}); err != nil {
			t.Errorf("txn: %v", err)
		}
	}()
	if _, err := other.Txn(t.Context(), nil, []meta.Write{meta.Set("k1", nil)}); err != nil {
		t.Fatal(err)
	}
	for e, err := range events {
		if err != nil {
			t.Fatal(err)
		}
		if e.Key == "k2" {
			break
		}
		close(waiting)
	}
	if err := errors.Join(deaf.Close(), other.Close()); err != nil {
		t.Error(err)
	}
}

// A server that is stopped while it has the lock, or whose host vanished, holds up the others for moments only,
// and what it had begun has not happened.
func TestStoppedWithTheLock(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	stopped, err := Open(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	other, err := Open(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	w := &writer{s: stopped, config: stopped.writer.config, id: []byte("stopped")}
	v, err := w.begin(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := other.Txn(t.Context(), nil, []meta.Write{meta.Set("k", []byte("other"))}); err != nil {
		t.Fatal(err)
	}
	p := &plan{last: v.last + 1, changes: map[string]change{"k": {Row: meta.Row{Key: "k", Value: []byte("stopped"), Version: v.last + 1}}}}
	if err := w.apply(t.Context(), p, v.last); err == nil {
		t.Error("the stopped server wrote after all")
	}
	w.drop()
	if row, err := other.Get(t.Context(), "k"); err != nil || string(row.Value) != "other" {
		t.Errorf("k is %q: %v", row.Value, err)
	}
	if err := errors.Join(stopped.Close(), other.Close()); err != nil {
		t.Error(err)
	}
}
