package obs_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"tarn.dev/tarn/internal/base/obs"
)

func TestRequestIDsAreInEveryLine(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	log := obs.New(&out, slog.LevelInfo)
	ctx := obs.WithRequest(t.Context(), "q-1")
	log.With("project", "demo").InfoContext(ctx, "commit")
	log.InfoContext(t.Context(), "idle")
	log.DebugContext(ctx, "too fine")
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if len(lines) != 2 {
		t.Fatalf("%d lines: %s", len(lines), out.String())
	}
	var first, second map[string]any
	if err := errors.Join(json.Unmarshal([]byte(lines[0]), &first), json.Unmarshal([]byte(lines[1]), &second)); err != nil {
		t.Fatal(err)
	}
	if first["request"] != "q-1" || first["project"] != "demo" || first["msg"] != "commit" {
		t.Errorf("got %v", first)
	}
	if _, there := second["request"]; there {
		t.Errorf("a line outside a request has one: %v", second)
	}
}

func TestParseLevel(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]slog.Level{"": slog.LevelInfo, "DEBUG": slog.LevelDebug, "warn": slog.LevelWarn, "error": slog.LevelError} {
		if got, err := obs.ParseLevel(text); err != nil || got != want {
			t.Errorf("%q: %v, %v", text, got, err)
		}
	}
	if _, err := obs.ParseLevel("loud"); !errors.Is(err, obs.ErrLevel) || !strings.Contains(err.Error(), "loud") {
		t.Errorf("loud: %v", err)
	}
}

func TestOpenFile(t *testing.T) {
	t.Setenv(obs.LevelVariable, "warn")
	path := filepath.Join(t.TempDir(), "logs", "server.log")
	for _, text := range []string{"first", "second"} {
		log, c, err := obs.OpenFile(path)
		if err != nil {
			t.Fatal(err)
		}
		log.Info("hidden")
		log.Warn(text)
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if s := string(b); !strings.Contains(s, "first") || !strings.Contains(s, "second") || strings.Contains(s, "hidden") {
		t.Errorf("log holds %s", s)
	}
	t.Setenv(obs.LevelVariable, "loud")
	if _, _, err := obs.OpenFile(path); !errors.Is(err, obs.ErrLevel) {
		t.Errorf("bad level: %v", err)
	}
}
