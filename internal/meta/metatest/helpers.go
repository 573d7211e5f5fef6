package metatest

import (
	"context"
	"errors"
	"iter"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/meta"
)

type tb interface {
	Helper()
	Fatalf(format string, args ...any)
	Errorf(format string, args ...any)
}

func must(t tb, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("%s: %v", errdef.CodeOf(err), err)
	}
}

func wantErr(t tb, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("error = %v, want %v", err, want)
	}
}

func equal(t tb, got, want any) {
	t.Helper()
	if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("want -, got +:\n%s", diff)
	}
}

func txn(t *testing.T, s meta.Store, conditions []meta.Condition, writes ...meta.Write) int64 {
	t.Helper()
	v, err := s.Txn(t.Context(), conditions, writes)
	must(t, err)
	return v
}

func get(t *testing.T, s meta.Store, key string) meta.Row {
	t.Helper()
	row, err := s.Get(t.Context(), key)
	must(t, err)
	return row
}

func read(t tb, s meta.Store, r meta.Range) (rows []meta.Row) {
	t.Helper()
	for row, err := range s.Scan(context.Background(), r) {
		must(t, err)
		rows = append(rows, row)
	}
	return rows
}

// watch returns the first n events.
func watch(t *testing.T, s meta.Store, prefix string, cursor int64, n int) (events []meta.Event) {
	t.Helper()
	for e, err := range s.Watch(t.Context(), prefix, cursor) {
		must(t, err)
		if events = append(events, e); len(events) == n {
			break
		}
	}
	return events
}

func pull(t *testing.T, s meta.Store, prefix string, cursor int64) (next func() meta.Event, stop func()) {
	t.Helper()
	step, stop := iter.Pull2(s.Watch(t.Context(), prefix, cursor))
	return func() meta.Event {
		t.Helper()
		e, err, ok := step()
		if !ok {
			t.Fatalf("the watch ended")
		}
		must(t, err)
		return e
	}, stop
}
