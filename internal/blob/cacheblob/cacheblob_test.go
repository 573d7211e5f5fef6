package cacheblob_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"tarn.dev/tarn/internal/blob"
	"tarn.dev/tarn/internal/blob/blobtest"
	"tarn.dev/tarn/internal/blob/cacheblob"
	"tarn.dev/tarn/internal/blob/memblob"
)

func TestConformance(t *testing.T) {
	t.Parallel()
	for _, budget := range []int64{0, 1 << 30} {
		t.Run(fmt.Sprint(budget), func(t *testing.T) {
			t.Parallel()
			cache := open(t, t.TempDir(), budget)
			n := atomic.Int64{}
			far := func(*testing.T) blob.FileStore { return cache.Of(below{memblob.New(), fmt.Sprint(n.Add(1))}) }
			blobtest.Run(t, func(t *testing.T) blob.Store { return far(t) })
			blobtest.RunFiles(t, far)
		})
	}
}

// below tells stores apart by their addresses, as buckets do.
type below struct {
	*memblob.Store
	prefix string
}

func (b below) URI(name string) string { return "mem:///" + b.prefix + "/" + name }

// counted counts what is fetched, and breaks what it is told to.
type counted struct {
	*memblob.Store
	gets  atomic.Int64
	get   func(ctx context.Context) error // before a fetch
	short int64                           // a fetch breaks after so many bytes, if positive
}

var errCut = errors.New("cut off")

func (c *counted) Get(ctx context.Context, name string, offset, length int64) (io.ReadCloser, error) {
	c.gets.Add(1)
	if c.get != nil {
		if err := c.get(ctx); err != nil {
			return nil, err
		}
	}
	r, err := c.Store.Get(ctx, name, offset, length)
	if err == nil && c.short > 0 {
		return io.NopCloser(io.MultiReader(io.LimitReader(r, c.short), errReader{})), nil
	}
	return r, err
}

type errReader struct{}

func (errReader) Read([]byte) (int, error) { return 0, errCut }

// What was used last stays, up to the budget, also over a restart; what is in use stays in any case.
func TestBudget(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		far := &counted{Store: memblob.New()}
		for _, name := range []string{"a", "b", "c"} {
			put(t, far, name, strings.Repeat(name, 100))
		}
		s := open(t, dir, 250).Of(far)
		// use uses blobs, and returns how many of them were fetched.
		use := func(names ...string) int64 {
			ctx, cancel := context.WithCancel(t.Context())
			before := far.gets.Load()
			for _, name := range names {
				path, err := s.File(ctx, name)
				if err != nil {
					t.Fatal(err)
				}
				if data, err := os.ReadFile(path); err != nil || string(data) != strings.Repeat(name, 100) {
					t.Errorf("%s: %q, %v", name, data, err)
				}
			}
			if n := len(copies(t, dir)); n < len(names) {
				t.Errorf("%d copies while %v are used", n, names)
			}
			cancel()
			synctest.Wait()
			if n := len(copies(t, dir)); n > 2 {
				t.Errorf("%d copies within the budget of two", n)
			}
			<-time.After(time.Second) // the next use is later
			return far.gets.Load() - before
		}
		if n := use("a", "b", "c"); n != 3 {
			t.Errorf("fetched %d at first", n)
		}
		for _, name := range []string{"a", "b", "c", "b", "c"} {
			use(name)
		}
		half := filepath.Join(dir, "new-123")
		if err := os.WriteFile(half, []byte("half"), 0o600); err != nil {
			t.Fatal(err)
		}
		s = open(t, dir, 250).Of(far)
		if _, err := os.Stat(half); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("what was being written is still there: %v", err)
		}
		if n := use("b", "c"); n != 0 {
			t.Errorf("fetched %d of those used last", n)
		}
		s = open(t, dir, 150).Of(far)
		if n := use("c"); n != 0 {
			t.Error("the one used last gave way to the other")
		}
		if err := os.Remove(copies(t, dir)[0]); err != nil {
			t.Fatal(err)
		}
		if n := use("c"); n != 1 {
			t.Errorf("fetched %d of one that somebody removed", n)
		}
		open(t, dir, 0)
		if left := copies(t, dir); len(left) != 0 {
			t.Errorf("a smaller budget keeps %v", left)
		}
	})
}

func TestOneFetchForAll(t *testing.T) {
	t.Parallel()
	begun, goOn := make(chan bool), make(chan bool)
	far := &counted{Store: memblob.New(), get: func(ctx context.Context) error {
		begun <- true
		select {
		case <-goOn:
		case <-ctx.Done():
		}
		return context.Cause(ctx)
	}}
	put(t, far, "a", "content")
	s := open(t, t.TempDir(), 1000).Of(far)
	first, cancel := context.WithCancel(t.Context())
	ask := func(ctx context.Context) <-chan error {
		done := make(chan error, 1)
		go func() {
			path, err := s.File(ctx, "a")
			if err == nil {
				_, err = os.Stat(path)
			}
			done <- err
		}()
		return done
	}
	a := ask(first)
	<-begun
	b, c := ask(t.Context()), ask(t.Context())
	cancel()
	if err := <-a; !errors.Is(err, context.Canceled) {
		t.Errorf("the first, who gave up: %v", err)
	}
	<-begun // one of the others fetches on its own account
	close(goOn)
	if err := errors.Join(<-b, <-c); err != nil {
		t.Error(err)
	}
	if n := far.gets.Load(); n != 2 {
		t.Errorf("%d fetches", n)
	}
}

// A fetch that breaks leaves nothing, and the next one begins again.
func TestBrokenFetch(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	far := &counted{Store: memblob.New(), short: 3}
	put(t, far, "a", "content")
	s := open(t, dir, 1000).Of(far)
	if _, err := s.File(t.Context(), "a"); !errors.Is(err, errCut) {
		t.Fatal(err)
	}
	if left := copies(t, dir); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
	far.short = 0
	path, err := s.File(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	if data, err := os.ReadFile(path); string(data) != "content" {
		t.Errorf("%q, %v", data, err)
	}
}

// Who uses a copy keeps it when the blob is deleted; nobody else finds it any more.
func TestDeletedWhileUsed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		s := open(t, dir, 1000).Of(memblob.New())
		put(t, s, "a", "old")
		ctx, cancel := context.WithCancel(t.Context())
		path, err := s.File(ctx, "a")
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Delete(t.Context(), "a"); err != nil {
			t.Fatal(err)
		}
		put(t, s, "a", "new")
		if next, err := s.File(ctx, "a"); err != nil || next == path {
			t.Errorf("the new blob is at %s, %v", next, err)
		}
		if data, err := os.ReadFile(path); string(data) != "old" {
			t.Errorf("%q, %v", data, err)
		}
		cancel()
		synctest.Wait()
		if left := copies(t, dir); len(left) != 1 {
			t.Errorf("left: %v", left)
		}
	})
}

func open(t *testing.T, dir string, budget int64) *cacheblob.Cache {
	t.Helper()
	c, err := cacheblob.Open(dir, budget)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func put(t *testing.T, s blob.Store, name, data string) {
	t.Helper()
	if err := s.Put(t.Context(), name, strings.NewReader(data)); err != nil {
		t.Fatal(err)
	}
}

func copies(t *testing.T, dir string) []string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil {
		t.Fatal(err)
	}
	return found
}
