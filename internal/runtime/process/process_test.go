//go:build linux

package process_test

import (
	"context"
	"errors"
	"os"
	"testing"

	"tarn.dev/tarn/internal/runtime"
	"tarn.dev/tarn/internal/runtime/process"
	"tarn.dev/tarn/internal/runtime/runtimetest"
)

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == process.Role {
		os.Exit(process.InitMain())
	}
	if len(os.Args) > 1 && os.Args[1] == serverRole {
		os.Exit(server(os.Args[2:]))
	}
	if len(os.Args) > 1 && os.Args[1] == leaksRole {
		os.Exit(leaks(os.Args[2:]))
	}
	if len(os.Args) > 1 && os.Args[1] == attackRole {
		os.Exit(attackMain(os.Args[2:]))
	}
	runtimetest.Helper()
	if err := os.Setenv("GORACE", "atexit_sleep_ms=0"); err != nil { // for the supervisors
		panic(err)
	}
	os.Exit(m.Run())
}

func TestConformance(t *testing.T) {
	t.Parallel()
	for _, level := range levels {
		t.Run(string(level), func(t *testing.T) {
			t.Parallel()
			need(t, level)
			runtimetest.Run(t, func(t *testing.T) runtime.Runtime { return open(t, level) })
		})
	}
}

var levels = []runtime.Level{runtime.Process, runtime.UserNS, runtime.Full}

// need skips a test where the host lacks a level: CI has all of them, as root.
func need(t testing.TB, level runtime.Level) {
	t.Helper()
	if _, _, err := process.Choose(t.Context(), process.Place{Dir: t.TempDir()}, string(level)); err != nil {
		t.Skip(err)
	}
}

func BenchmarkRuntime(b *testing.B) {
	for _, level := range levels {
		b.Run(string(level), func(b *testing.B) {
			need(b, level)
			runtimetest.Benchmark(b, func(b *testing.B) runtime.Runtime { return open(b, level) })
		})
	}
}

func open(t testing.TB, level runtime.Level) runtime.Runtime {
	t.Helper()
	rt, err := process.New(process.Place{Dir: t.TempDir(), Init: os.Getenv("TARN_INIT")}, level)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := rt.Close(); err != nil {
			t.Error(err)
		}
	})
	return rt
}

// A command that has run for longer than its job might have taken to be handed over is assigned work as any other.
func TestAssignLater(t *testing.T) {
	t.Parallel()
	for _, level := range levels {
		t.Run(string(level), func(t *testing.T) {
			t.Parallel()
			need(t, level)
			sb, err := open(t, level).Create(t.Context(), runtime.Spec{})
			if err != nil {
				t.Fatal(err)
			}
			ctx, end := context.WithCancel(t.Context())
			began, ended := make(chan struct{}), make(chan error, 1)
			go func() {
				_, err := sb.Run(ctx, runtime.Command{
					Argv: []string{"/bin/sh", "-c", `echo {} >&"$TARN_MESSAGES_FD"; exec sleep 1000`}, Message: func([]byte) { close(began) },
				})
				ended <- err
			}()
			<-began
			if err := process.PassDeadline(sb); err != nil {
				t.Error(err)
			}
			if err := sb.Assign(ctx, runtime.Limits{PIDs: 10}); err != nil {
				t.Error(err)
			}
			end()
			if err := errors.Join(<-ended, sb.Close()); err != nil {
				t.Error(err)
			}
		})
	}
}
