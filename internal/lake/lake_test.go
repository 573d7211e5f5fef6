package lake

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"tarn.dev/tarn/internal/blob"
	"tarn.dev/tarn/internal/blob/memblob"
	"tarn.dev/tarn/internal/meta"
	"tarn.dev/tarn/internal/meta/sqlitemeta"
)

// testStore is what a lake stands on; open opens another Lake on it.
type testStore struct {
	blobs blob.Store
	rows  meta.Store
}

func newTestStore(t testing.TB) testStore {
	t.Helper()
	rows, err := sqlitemeta.Open(filepath.Join(memoryDir(t), "meta.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := rows.Close(); err != nil {
			t.Error(err)
		}
	})
	return testStore{memblob.New(), rows}
}

// memoryDir is a folder in memory where the system has one: the model test makes thousands of
// transactions, and their durability is for the tests of sqlitemeta.
func memoryDir(t testing.TB) string {
	dir, err := os.MkdirTemp("/dev/shm", "lake")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func (s testStore) open(t testing.TB, opt Options) *Lake {
	t.Helper()
	l, err := Open(t.Context(), s.blobs, s.rows, "p/test/lake", opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	return l
}

func put(t testing.TB, b *Batch, typ Type, data []byte) Hash {
	t.Helper()
	h, err := b.Put(t.Context(), typ, data)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func flush(t testing.TB, b *Batch) {
	t.Helper()
	if err := b.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func wantObject(t testing.TB, l *Lake, typ Type, h Hash, want []byte) {
	t.Helper()
	got, err := l.Get(t.Context(), typ, h)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Fatalf("%s %s: got %d other bytes than put", typ, h, len(got))
	}
}

func randomBytes(seed uint64, n int) []byte {
	data := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), byte(seed >> 16)}).Read(data)
	return data
}

func TestPutFlushGet(t *testing.T) {
	t.Parallel()
	store := newTestStore(t)
	l, other := store.open(t, Options{}), store.open(t, Options{})
	b := l.Begin(t.Context())
	small, big := []byte("hello"), bytes.Repeat([]byte("compressible "), 1000)
	hSmall, hBig := put(t, b, TypeRecord, small), put(t, b, TypeDef, big)
	if _, err := l.Get(t.Context(), TypeRecord, hSmall); !errors.Is(err, ErrNotFound) {
		t.Fatalf("an object is visible before Flush: %v", err)
	}
	flush(t, b)
	for _, l := range []*Lake{l, other, store.open(t, Options{})} {
		wantObject(t, l, TypeRecord, hSmall, small)
		wantObject(t, l, TypeDef, hBig, big)
		if _, err := l.Get(t.Context(), TypeDef, hSmall); !errors.Is(err, ErrNotFound) {
			t.Fatalf("got a record as a definition: %v", err)
		}
	}
}

func TestFileRoundTrip(t *testing.T) {
	t.Parallel()
	l := newTestStore(t).open(t, Options{})
	for _, size := range []int{0, 1, 256, 257, 4096, minChunk, minChunk + 1, avgChunk, 3 * maxChunk, 20 << 20} {
		want := randomBytes(uint64(size), size)
		b := l.Begin(t.Context())
		ref, err := b.PutFile(t.Context(), bytes.NewReader(want))
		if err != nil {
			t.Fatal(err)
		}
		flush(t, b)
		r, err := l.OpenFile(t.Context(), ref)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) || ref.Size != int64(size) {
			t.Fatalf("size %d: got %d other bytes", size, len(got))
		}
	}
}
