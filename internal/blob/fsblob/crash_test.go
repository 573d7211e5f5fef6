package fsblob_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/base/fault"
	"tarn.dev/tarn/internal/blob"
	"tarn.dev/tarn/internal/blob/fsblob"
)

const putRole = "test-put"

// TestMain lets a test run a Put in a process that it can kill.
func TestMain(m *testing.M) {
	if len(os.Args) > 2 && os.Args[1] == putRole {
		s, err := fsblob.Open(os.Args[2])
		if err == nil {
			err = s.Put(context.Background(), "packs/a", io.MultiReader(bytes.NewReader(make([]byte, 1<<20)), os.Stdin))
		}
		fmt.Fprintln(os.Stdout, err)
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// child starts a Put that copies what is written to the returned pipe.
func child(t *testing.T, dir string, env ...string) (*exec.Cmd, io.WriteCloser) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, putRole, dir)
	cmd.Env = append(os.Environ(), env...)
	in, err := cmd.StdinPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	return cmd, in
}

// A put that is killed leaves a temporary file, which the next Open removes; one that is under way keeps
// its own.
func TestAbandonedFilesAreRemoved(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	cmd, in := child(t, dir)
	// More than a pipe and the copying buffer hold: when it is written, the put has begun.
	if _, err := in.Write(make([]byte, 1<<20)); err != nil {
		t.Fatal(err)
	}
	if n := len(temporary(t, dir)); n != 1 {
		t.Fatalf("%d temporary files during a put", n)
	}
	s := open(t, dir)
	if n := len(temporary(t, dir)); n != 1 {
		t.Error("Open took the file of a living process")
	}
	if got := names(t, s); len(got) != 0 {
		t.Errorf("visible: %v", got)
	}
	if err := errors.Join(cmd.Process.Kill(), in.Close()); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err == nil {
		t.Error("the child was not killed")
	}
	s2 := open(t, dir)
	if left := temporary(t, dir); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
	for i, s := range []blob.Store{s, s2} { // both still have their folders
		if err := s.Put(t.Context(), fmt.Sprint("b", i), strings.NewReader("x")); err != nil {
			t.Error(err)
		}
	}
}

func TestCrashPoints(t *testing.T) {
	t.Parallel()
	if !fault.Enabled {
		t.Skip("built without -tags fault")
	}
	for point, visible := range map[string]bool{"blob.put.before_link": false, "blob.put.after_link": true} {
		dir := t.TempDir()
		cmd, in := child(t, dir, "TARN_FAULT="+point+"=kill")
		if err := in.Close(); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Wait(); err == nil {
			t.Errorf("%s: the child lived", point)
		}
		s := open(t, dir)
		if got := len(names(t, s)) == 1; got != visible {
			t.Errorf("%s: visible %v", point, got)
		}
		if left := temporary(t, dir); len(left) != 0 {
			t.Errorf("%s: left: %v", point, left)
		}
	}
}

// It runs alone: a process that another test is starting holds all open files for a moment, and with them the disk that they fill.
func TestFullAndReadOnlyDisk(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("tarn-test", dir, "tmpfs", 0, "size=1m"); err != nil {
		t.Skipf("cannot mount a small file system here: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil { // the store keeps its lock open
			t.Error(err)
		}
	})
	s := open(t, dir)
	err := s.Put(t.Context(), "a/big", bytes.NewReader(make([]byte, 2<<20)))
	if !errors.Is(err, fsblob.ErrDiskFull) || errdef.CodeOf(err) != errdef.ResourceExhausted || len(errdef.As(err).Next) == 0 {
		t.Errorf("full: %v", err)
	}
	if left := temporary(t, dir); len(left) != 0 || len(names(t, s)) != 0 {
		t.Errorf("left: %v", left)
	}
	if err := s.Put(t.Context(), "a/small", strings.NewReader("x")); err != nil {
		t.Errorf("after a full disk: %v", err)
	}
	if err := syscall.Mount("", dir, "", syscall.MS_REMOUNT|syscall.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	if err := s.Put(t.Context(), "a/other", strings.NewReader("x")); !errors.Is(err, fsblob.ErrPermission) {
		t.Errorf("read-only: %v", err)
	}
	if got := names(t, s); len(got) != 1 {
		t.Errorf("names: %v", got)
	}
}

func TestNamesThatNeedAFileAndAFolder(t *testing.T) {
	t.Parallel()
	s := open(t, t.TempDir())
	for _, name := range []string{"a", "b/c"} {
		if err := s.Put(t.Context(), name, strings.NewReader("x")); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"a/b", "a/b/c", "b"} {
		if err := s.Put(t.Context(), name, strings.NewReader("x")); !errors.Is(err, blob.ErrInvalidName) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestFolderRemovedFromOutside(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := open(t, dir)
	for range 2 {
		if err := s.Put(t.Context(), "a/b/c", strings.NewReader("x")); err != nil {
			t.Fatal(err)
		}
		if err := os.RemoveAll(filepath.Join(dir, "a")); err != nil {
			t.Fatal(err)
		}
	}
}

// Only regular files are blobs: a link could lead out of the store, a pipe would hang a reader.
func TestSpecialFilesAreNotBlobs(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := open(t, dir)
	if err := errors.Join(os.Symlink("/etc/hostname", filepath.Join(dir, "link")), syscall.Mkfifo(filepath.Join(dir, "pipe"), 0o600)); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"link", "pipe"} {
		if _, err := s.Get(t.Context(), name, 0, -1); !errors.Is(err, blob.ErrNotFound) {
			t.Errorf("get %s: %v", name, err)
		}
		if _, err := s.Stat(t.Context(), name); !errors.Is(err, blob.ErrNotFound) {
			t.Errorf("stat %s: %v", name, err)
		}
		if err := s.Put(t.Context(), name, strings.NewReader("x")); !errors.Is(err, blob.ErrExists) {
			t.Errorf("put %s: %v", name, err)
		}
	}
	if got := names(t, s); len(got) != 0 {
		t.Errorf("listed: %v", got)
	}
}

func TestURIOfOddFolder(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "a b%20ä#?")
	s := open(t, dir)
	if err := s.Put(t.Context(), "x/y.parquet", strings.NewReader("x")); err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse(s.URI("x/y.parquet"))
	if err != nil || u.Scheme != "file" {
		t.Fatalf("%v %v", u, err)
	}
	if data, err := os.ReadFile(u.Path); err != nil || string(data) != "x" {
		t.Errorf("%s: %q %v", u, data, err)
	}
}

func TestOpenRefuses(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := fsblob.Open(file); err == nil || !strings.Contains(err.Error(), file) {
		t.Errorf("opened a file: %v", err)
	}
}

func temporary(t *testing.T, dir string) (files []string) {
	t.Helper()
	err := filepath.WalkDir(filepath.Join(dir, "~tmp"), func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			files = append(files, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func names(t *testing.T, s blob.Store) (found []string) {
	t.Helper()
	for info, err := range s.List(t.Context(), "") {
		if err != nil {
			t.Fatal(err)
		}
		found = append(found, info.Name)
	}
	return found
}
