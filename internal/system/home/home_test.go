package home_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/system/home"
)

func at(t *testing.T, dir string) home.Home {
	t.Helper()
	h, err := home.At(dir)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// ended is a context that lets nobody wait.
func ended() context.Context {
	ctx, cancel := context.WithCancelCause(context.Background())
	cancel(nil)
	return ctx
}

func TestOneHomeHasOneSocket(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(dir, link); err != nil {
		t.Fatal(err)
	}
	a, b, other := at(t, dir), at(t, link), at(t, t.TempDir())
	if a != b {
		t.Errorf("a home and a link to it differ: %v, %v", a, b)
	}
	if a.Socket == other.Socket {
		t.Errorf("two homes share the socket %s", a.Socket)
	}
	if deep := at(t, filepath.Join(dir, strings.Repeat("deep/", 40))); len(deep.Socket) > 107 {
		t.Errorf("socket path has %d bytes: %s", len(deep.Socket), deep.Socket)
	}
}

func TestLock(t *testing.T) {
	t.Parallel()
	h := at(t, t.TempDir())
	release, err := h.Lock(t.Context(), "v1.2.3")
	if err != nil {
		t.Fatal(err)
	}
	_, err = h.Lock(ended(), "v1.2.3")
	if !errors.Is(err, home.ErrLocked) {
		t.Fatalf("second Lock: %v", err)
	}
	if e := errdef.As(err); e.Details["pid"] != os.Getpid() || !strings.Contains(e.Message, "v1.2.3") {
		t.Errorf("the error does not name the holder: %+v", e)
	}
	// Whoever waits gets it when it is free.
	got := make(chan error)
	go func() {
		again, err := h.Lock(t.Context(), "v1.2.4")
		if err == nil {
			err = again()
		}
		got <- err
	}()
	if err := release(); err != nil {
		t.Fatal(err)
	}
	if err := <-got; err != nil {
		t.Errorf("Lock after release: %v", err)
	}
	if err := h.AwaitFree(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestFormat(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name, content string
		want          *errdef.Error
	}{
		{"same", "tarn-home 1\n", nil},
		{"newer", "tarn-home 2\n", home.ErrNewer},
		{"zero", "tarn-home 0\n", home.ErrNotAHome},
		{"empty", "", home.ErrNotAHome},
		{"other", "\x00\x01", home.ErrNotAHome},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			h := at(t, t.TempDir())
			if err := os.WriteFile(h.FormatFile(), []byte(test.content), 0o600); err != nil {
				t.Fatal(err)
			}
			release, err := h.Lock(t.Context(), "v1")
			if test.want == nil {
				if err != nil {
					t.Fatal(err)
				}
				if err := release(); err != nil {
					t.Error(err)
				}
				return
			}
			if !errors.Is(err, test.want) {
				t.Errorf("Lock: %v, want %s", err, test.want.Reason)
			}
			// A refused home is left unlocked and as it was.
			if b, _ := os.ReadFile(h.FormatFile()); string(b) != test.content {
				t.Errorf("the format file was changed to %q", b)
			}
			if err := h.AwaitFree(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestForeignFolders(t *testing.T) {
	t.Parallel()
	full := t.TempDir()
	if err := os.WriteFile(filepath.Join(full, "thesis.doc"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := at(t, full).Lock(t.Context(), "v1"); !errors.Is(err, home.ErrNotAHome) || !strings.Contains(err.Error(), "thesis.doc") {
		t.Errorf("a folder with something else in it: %v", err)
	}
	if os.Geteuid() != 0 {
		t.Log("not root: another user's folder is not tried")
		return
	}
	theirs := t.TempDir()
	if err := os.Chown(theirs, 12345, 12345); err != nil {
		t.Fatal(err)
	}
	_, err := home.At(theirs)
	if !errors.Is(err, home.ErrForeign) || !strings.Contains(strings.Join(errdef.As(err).Next, " "), "TARN_URL") {
		t.Errorf("another user's home: %v", err)
	}
}

func TestSocketFolder(t *testing.T) {
	run, err := os.MkdirTemp("", "tarn")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(run) })
	t.Setenv("XDG_RUNTIME_DIR", run)
	dir := t.TempDir()
	if h := at(t, dir); filepath.Dir(h.Socket) != filepath.Join(run, "tarn") {
		t.Errorf("socket %s is not in %s", h.Socket, run)
	}
	if err := os.Chmod(filepath.Join(run, "tarn"), 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := home.At(dir); errdef.CodeOf(err) != errdef.PermissionDenied {
		t.Errorf("a socket folder that others can enter: %v", err)
	}
	if err := os.Remove(filepath.Join(run, "tarn")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(t.TempDir(), filepath.Join(run, "tarn")); err != nil {
		t.Fatal(err)
	}
	if _, err := home.At(dir); errdef.CodeOf(err) != errdef.PermissionDenied {
		t.Errorf("a socket folder that is a link: %v", err)
	}
}
