// Package servicetest is the suite that every service.Service passes.
package servicetest

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"tarn.dev/tarn/internal/base/service"
)

// patience ends a test that hangs; no test waits for it to pass.
const patience = 20 * time.Second

// Exercise runs the suite. fresh makes a service that was not started and can start; it is called for
// every case.
func Exercise(t *testing.T, fresh func() service.Service) {
	t.Helper()
	run := func(name string, f func(t *testing.T, s service.Service)) {
		t.Run(name, func(t *testing.T) {
			s := fresh()
			f(t, s)
			if err := s.Stop(); err != nil {
				t.Errorf("Stop at the end: %v", err)
			}
			await(t, s.Done(), "Done after Stop")
		})
	}
	run("start_stop", func(t *testing.T, s service.Service) {
		closed(t, s.Started(), false, "Started before Start")
		start(t, s)
		closed(t, s.Started(), true, "Started after Start")
		closed(t, s.Done(), false, "Done while it runs")
		stop(t, s)
		closed(t, s.Done(), true, "Done after Stop")
	})
	run("start_twice", func(t *testing.T, s service.Service) {
		start(t, s)
		start(t, s)
	})
	run("stop_twice", func(t *testing.T, s service.Service) {
		start(t, s)
		stop(t, s)
		stop(t, s)
	})
	run("stop_before_start", func(t *testing.T, s service.Service) {
		stop(t, s)
		if err := s.Start(context.WithoutCancel(t.Context())); !errors.Is(err, service.ErrStopped) {
			t.Errorf("Start after Stop: %v, want ErrStopped", err)
		}
		closed(t, s.Started(), false, "Started of a service that never ran")
	})
	run("start_after_stop", func(t *testing.T, s service.Service) {
		start(t, s)
		stop(t, s)
		if err := s.Start(context.WithoutCancel(t.Context())); !errors.Is(err, service.ErrStopped) {
			t.Errorf("Start after Stop: %v, want ErrStopped", err)
		}
	})
	run("context_ends", func(t *testing.T, s service.Service) {
		ctx, cancel := context.WithCancelCause(context.Background())
		defer cancel(nil)
		if err := s.Start(ctx); err != nil {
			t.Fatal(err)
		}
		cancel(errors.New("the caller went away"))
		await(t, s.Done(), "Done after the context ended")
	})
	run("race", func(t *testing.T, s service.Service) {
		var all sync.WaitGroup
		for range 8 {
			all.Go(func() {
				if err := s.Start(context.Background()); err != nil && !errors.Is(err, service.ErrStopped) && !errors.Is(err, service.ErrStopping) {
					t.Errorf("Start: %v", err)
				}
			})
			all.Go(func() {
				if err := s.Stop(); err != nil {
					t.Errorf("Stop: %v", err)
				}
				closed(t, s.Done(), true, "Done after Stop")
			})
		}
		done := make(chan struct{})
		go func() { all.Wait(); close(done) }()
		await(t, done, "concurrent Start and Stop")
	})
}

func start(t *testing.T, s service.Service) {
	t.Helper()
	if err := s.Start(context.WithoutCancel(t.Context())); err != nil {
		t.Fatalf("Start: %v", err)
	}
}

func stop(t *testing.T, s service.Service) {
	t.Helper()
	if err := s.Stop(); err != nil {
		t.Fatalf("Stop: %v", err)
	}
}

func closed(t *testing.T, c <-chan struct{}, want bool, what string) {
	t.Helper()
	got := false
	select {
	case <-c:
		got = true
	default:
	}
	if got != want {
		t.Errorf("%s: closed is %t, want %t", what, got, want)
	}
}

func await(t *testing.T, c <-chan struct{}, what string) {
	t.Helper()
	select {
	case <-c:
	case <-time.After(patience):
		t.Fatalf("%s: still waiting after %v", what, patience)
	}
}
