package cacheblob_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"sync"
	"testing"

	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/blob"
	"tarn.dev/tarn/internal/blob/memblob"
)

const letters = "abcdefghijklmnopqrstuvwxyz"

// ask reads parts and returns them as texts.
func ask(ctx context.Context, s blob.FarStore, name string, parts ...blob.Range) ([]string, error) {
	var mu sync.Mutex
	out := make([]string, len(parts))
	err := s.Ranges(ctx, name, int64(len(letters)), parts, func(i int, data []byte) error {
		mu.Lock()
		defer mu.Unlock()
		out[i] += string(data)
		return nil
	})
	return out, err
}

func wantParts(t *testing.T, s blob.FarStore, name string, parts ...blob.Range) {
	t.Helper()
	got, err := ask(t.Context(), s, name, parts...)
	if err != nil {
		t.Fatal(err)
	}
	for i, p := range parts {
		if want := letters[p.Offset:p.End()]; got[i] != want {
			t.Errorf("bytes %d to %d are %q, want %q", p.Offset, p.End(), got[i], want)
		}
	}
}

func TestRanges(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	far := &counted{Store: memblob.New()}
	put(t, far, "a", letters)
	s := open(t, dir, 1<<20).Of(far)
	fetches := func(n int64, parts ...blob.Range) {
		t.Helper()
		before := far.gets.Load()
		wantParts(t, s, "a", parts...)
		if got := far.gets.Load() - before; got != n {
			t.Errorf("%v took %d fetches, want %d", parts, got, n)
		}
	}
	fetches(2, blob.Range{Offset: 20, Length: 3}, blob.Range{Offset: 2, Length: 4}, blob.Range{Offset: 6, Length: 1}) // two are neighbors
	fetches(0, blob.Range{Offset: 6, Length: 1}, blob.Range{Offset: 20, Length: 3}, blob.Range{Offset: 6, Length: 1})
	fetches(1, blob.Range{Offset: 2, Length: 4}, blob.Range{Offset: 0, Length: 2})
	fetches(1, blob.Range{Offset: 0, Length: 26}, blob.Range{Offset: 26, Length: 0}) // none of it is looked for in others
	s = open(t, dir, 1<<20).Of(far)
	fetches(0, blob.Range{Offset: 0, Length: 26}, blob.Range{Offset: 20, Length: 3})

	for _, p := range []blob.Range{{Offset: -1, Length: 1}, {Offset: 0, Length: -1}, {Offset: 20, Length: 7}, {Offset: 0, Length: blob.MaxRange + 1}} {
		if _, err := ask(t.Context(), s, "a", p); errdef.CodeOf(err) != errdef.Internal {
			t.Errorf("%v: %v", p, err)
		}
	}
	if _, err := ask(t.Context(), s, "none", blob.Range{Length: 1}); !errors.Is(err, blob.ErrNotFound) {
		t.Error(err)
	}
	put(t, far, "short", "abc")
	if _, err := ask(t.Context(), s, "short", blob.Range{Length: 4}); errdef.CodeOf(err) != errdef.DataLoss {
		t.Errorf("a blob that is shorter than was said: %v", err)
	}
	if _, err := ask(t.Context(), s, "../a", blob.Range{Length: 1}); errdef.CodeOf(err) != errdef.InvalidArgument {
		t.Error(err)
	}
}

// A copy whose bytes are not what they were is fetched again: cut, changed, gone, or with the bytes of another.
func TestDamagedCopies(t *testing.T) {
	t.Parallel()
	damages := map[string]func(path string, data []byte) error{
		"cut":     func(path string, data []byte) error { return os.WriteFile(path, data[:len(data)-1], 0o600) },
		"changed": func(path string, data []byte) error { data[0] ^= 1; return os.WriteFile(path, data, 0o600) },
		"gone":    func(path string, _ []byte) error { return os.Remove(path) },
		"zeros":   func(path string, data []byte) error { return os.WriteFile(path, make([]byte, len(data)), 0o600) },
	}
	for name, damage := range damages {
		for _, restart := range []bool{false, true} {
			dir := t.TempDir()
			far := &counted{Store: memblob.New()}
			put(t, far, "a", letters)
			s := open(t, dir, 1<<20).Of(far)
			read := func() {
				t.Helper()
				wantParts(t, s, "a", blob.Range{Offset: 3, Length: 5}, blob.Range{Offset: 11, Length: 9})
				if data, err := s.Small(t.Context(), "a"); err != nil || string(data) != letters {
					t.Fatalf("%s: %q, %v", name, data, err)
				}
			}
			read()
			for _, path := range copies(t, dir) {
				data, err := os.ReadFile(path)
				if err == nil {
					err = damage(path, bytes.Clone(data))
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			if restart {
				s = open(t, dir, 1<<20).Of(far)
			}
			read()
			read()
			if n := far.gets.Load(); n != 6 {
				t.Errorf("%s: %d fetches, want 3 and 3 again", name, n)
			}
		}
	}
}

func TestSmall(t *testing.T) {
	t.Parallel()
	far := &counted{Store: memblob.New()}
	s := open(t, t.TempDir(), 1<<20).Of(far)
	if _, err := s.Small(t.Context(), "a"); !errors.Is(err, blob.ErrNotFound) {
		t.Fatal(err)
	}
	put(t, s, "a", letters)
	for range 2 {
		if data, err := s.Small(t.Context(), "a"); err != nil || string(data) != letters {
			t.Fatalf("%q, %v", data, err)
		}
	}
	if n := far.gets.Load(); n != 2 {
		t.Errorf("%d fetches, want one that found nothing, and one", n)
	}
	if err := s.Delete(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Small(t.Context(), "a"); !errors.Is(err, blob.ErrNotFound) {
		t.Errorf("of a deleted blob: %v", err)
	}
}

// A fetch that breaks fails its caller alone: who waits for the same part fetches it.
func TestBrokenRange(t *testing.T) {
	t.Parallel()
	begun, goOn := make(chan bool), make(chan bool)
	far := &counted{Store: memblob.New()}
	far.get = func(ctx context.Context) error {
		begun <- true
		<-goOn
		return context.Cause(ctx)
	}
	put(t, far, "a", letters)
	s := open(t, t.TempDir(), 1<<20).Of(far)
	first, cancel := context.WithCancel(t.Context())
	results := [2]chan error{make(chan error, 1), make(chan error, 1)}
	for i, ctx := range []context.Context{first, t.Context()} {
		go func() {
			got, err := ask(ctx, s, "a", blob.Range{Offset: 1, Length: 3})
			if err == nil && got[0] != "bcd" {
				err = errors.New(got[0])
			}
			results[i] <- err
		}()
		if i == 0 {
			<-begun
		}
	}
	cancel()
	goOn <- true
	if err := <-results[0]; !errors.Is(err, context.Canceled) {
		t.Errorf("the one who gave up: %v", err)
	}
	<-begun
	goOn <- true
	if err := <-results[1]; err != nil {
		t.Error(err)
	}
}

// Parts give way to others as whole copies do.
func TestBudgetOfRanges(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	far := &counted{Store: memblob.New()}
	put(t, far, "a", letters)
	s := open(t, dir, 10).Of(far)
	for i := range int64(len(letters)) {
		wantParts(t, s, "a", blob.Range{Offset: i, Length: 1})
	}
	if n := len(copies(t, dir)); n != 10 {
		t.Errorf("%d copies of a byte within a budget of 10", n)
	}
	before := far.gets.Load()
	wantParts(t, s, "a", blob.Range{Offset: 25, Length: 1}, blob.Range{Offset: 0, Length: 1})
	if n := far.gets.Load() - before; n != 1 {
		t.Errorf("%d fetches of the one used last and the first", n)
	}
}

// A blob that is here as a whole is told from one that would have to be fetched.
func TestHeld(t *testing.T) {
	t.Parallel()
	s := open(t, t.TempDir(), 1<<20).Of(&counted{Store: memblob.New()})
	put(t, s, "a", letters)
	if path, ok := s.Held(t.Context(), "a"); ok {
		t.Errorf("before anybody fetched it: %s", path)
	}
	if _, err := s.File(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	path, ok := s.Held(t.Context(), "a")
	if data, err := os.ReadFile(path); !ok || string(data) != letters {
		t.Errorf("%t, %q, %v", ok, data, err)
	}
}

// A disk that takes no copies costs fetches, and nothing else.
func TestNoRoomForParts(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	far := &counted{Store: memblob.New()}
	put(t, far, "a", letters)
	s := open(t, dir, 1<<20).Of(far)
	if err := os.Remove(dir); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		wantParts(t, s, "a", blob.Range{Offset: 1, Length: 3})
		if data, err := s.Small(t.Context(), "a"); err != nil || string(data) != letters {
			t.Errorf("%q, %v", data, err)
		}
	}
	if n := far.gets.Load(); n != 4 {
		t.Errorf("%d fetches", n)
	}
}
