package service_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"tarn.dev/tarn/internal/base/service"
	"tarn.dev/tarn/internal/base/service/servicetest"
)

func idle() service.Service {
	return service.New("idle", func(ctx context.Context, ready func()) error {
		ready()
		<-ctx.Done()
		return context.Cause(ctx)
	})
}

func TestNew(t *testing.T) {
	t.Parallel()
	servicetest.Exercise(t, idle)
}

func TestGroup(t *testing.T) {
	t.Parallel()
	servicetest.Exercise(t, func() service.Service { return service.Group("all", idle(), idle(), idle()) })
	servicetest.Exercise(t, func() service.Service { return service.Group("none") })
}

func TestStopHasACause(t *testing.T) {
	t.Parallel()
	var cause error
	s := service.New("s", func(ctx context.Context, ready func()) error {
		ready()
		<-ctx.Done()
		cause = context.Cause(ctx)
		return nil
	})
	if err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := s.Stop(); err != nil || !errors.Is(cause, service.ErrStopping) {
		t.Errorf("Stop: %v; cause inside: %v", err, cause)
	}
}

func TestFailures(t *testing.T) {
	t.Parallel()
	errBusy := errors.New("port in use")
	t.Run("start", func(t *testing.T) {
		t.Parallel()
		s := service.New("edge", func(context.Context, func()) error { return errBusy })
		if err := s.Start(t.Context()); !errors.Is(err, errBusy) || err.Error() != "edge: port in use" {
			t.Errorf("Start: %v", err)
		}
	})
	t.Run("later", func(t *testing.T) {
		t.Parallel()
		s := service.New("edge", func(_ context.Context, ready func()) error { ready(); return errBusy })
		if err := s.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		<-s.Done()
		if err := s.Stop(); !errors.Is(err, errBusy) {
			t.Errorf("Stop: %v", err)
		}
	})
	t.Run("while_stopping", func(t *testing.T) {
		t.Parallel()
		s := service.New("store", func(ctx context.Context, ready func()) error {
			ready()
			<-ctx.Done()
			return fmt.Errorf("sync: %w", errBusy)
		})
		if err := s.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := s.Stop(); !errors.Is(err, errBusy) {
			t.Errorf("a real failure during a stop was swallowed: %v", err)
		}
	})
}

// journal notes who started and stopped, in order.
type journal struct {
	mu    sync.Mutex
	lines []string
}

func (j *journal) add(s string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.lines = append(j.lines, s)
}

func (j *journal) member(name string, startErr error, quit <-chan struct{}) service.Service {
	return service.New(name, func(ctx context.Context, ready func()) error {
		if startErr != nil {
			j.add("fail " + name)
			return startErr
		}
		j.add("start " + name)
		ready()
		select {
		case <-ctx.Done():
		case <-quit:
		}
		j.add("stop " + name)
		return nil
	})
}

func TestGroupOrder(t *testing.T) {
	t.Parallel()
	errBusy := errors.New("busy")
	for _, c := range []struct {
		name  string
		fail  string
		cause func(g service.Service, cancel func(), quit func())
		want  []string
	}{
		{"stop", "", func(g service.Service, _, _ func()) { g.Stop() }, []string{"start a", "start b", "start c", "stop c", "stop b", "stop a"}},
		{"context", "", func(_ service.Service, cancel, _ func()) { cancel() }, []string{"start a", "start b", "start c", "stop c", "stop b", "stop a"}},
		{"member ends", "", func(_ service.Service, _, quit func()) { quit() }, []string{"start a", "start b", "start c", "stop b", "stop c", "stop a"}},
		{"start fails", "b", func(service.Service, func(), func()) {}, []string{"start a", "fail b", "stop a"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			var j journal
			quit := make(chan struct{})
			var members []service.Service
			for _, name := range []string{"a", "b", "c"} {
				var err error
				if name == c.fail {
					err = errBusy
				}
				var q chan struct{}
				if name == "b" {
					q = quit
				}
				members = append(members, j.member(name, err, q))
			}
			ctx, cancel := context.WithCancelCause(t.Context())
			defer cancel(nil)
			g := service.Group("g", members...)
			err := g.Start(ctx)
			if (err != nil) != (c.fail != "") || c.fail != "" && !errors.Is(err, errBusy) {
				t.Fatalf("Start: %v", err)
			}
			c.cause(g, func() { cancel(nil) }, func() { close(quit) })
			<-g.Done()
			if diff := cmp.Diff(c.want, slices.Clone(j.lines)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// A member that hangs in its start must not keep Stop waiting.
func TestGroupStopDuringStart(t *testing.T) {
	t.Parallel()
	entered := make(chan struct{})
	slow := service.New("slow", func(ctx context.Context, _ func()) error {
		close(entered)
		<-ctx.Done()
		return context.Cause(ctx)
	})
	g := service.Group("g", idle(), slow, idle())
	result := make(chan error, 1)
	go func() { result <- g.Start(context.WithoutCancel(t.Context())) }()
	<-entered
	if err := g.Stop(); err != nil {
		t.Errorf("Stop: %v", err)
	}
	if err := <-result; !errors.Is(err, service.ErrStopped) {
		t.Errorf("Start: %v, want ErrStopped", err)
	}
}
