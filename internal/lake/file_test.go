package lake

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"runtime"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
	"github.com/zeebo/blake3"

	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/blob/fsblob"
)

func putFile(t testing.TB, l *Lake, r io.Reader) FileRef {
	t.Helper()
	b := l.Begin(t.Context())
	defer b.Discard()
	ref, err := b.PutFile(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	flush(t, b)
	return ref
}

func openFile(t testing.TB, l *Lake, ref FileRef) io.ReadSeekCloser {
	t.Helper()
	r, err := l.OpenFile(t.Context(), ref)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

func TestFileIsAReader(t *testing.T) {
	t.Parallel()
	l := newTestStore(t).open(t, Options{})
	for _, size := range []int{0, 100, 3000} {
		want := randomBytes(1, size)
		if err := iotest.TestReader(openFile(t, l, putFile(t, l, bytes.NewReader(want))), want); err != nil {
			t.Errorf("size %d: %v", size, err)
		}
	}
}

func TestRandomAccess(t *testing.T) {
	t.Parallel()
	l := newTestStore(t).open(t, Options{})
	want := randomBytes(7, 12<<20)
	r := openFile(t, l, putFile(t, l, bytes.NewReader(want)))
	source := bytes.NewReader(want)
	random := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		at, n := random.Int64N(int64(len(want)+10)), random.IntN(2<<20)
		if random.IntN(3) == 0 {
			at, n = random.Int64N(int64(len(want))), random.IntN(100)
		}
		whence := random.IntN(3)
		offset := at - []int64{0, int64(len(want)) - int64(source.Len()), int64(len(want))}[whence]
		if whence == io.SeekCurrent {
			here, err := source.Seek(0, io.SeekCurrent)
			if err != nil {
				t.Fatal(err)
			}
			offset = at - here
		}
		a, errA := source.Seek(offset, whence)
		b, errB := r.Seek(offset, whence)
		if a != b || errA != nil || errB != nil {
			t.Fatalf("seek: %d %v, want %d %v", b, errB, a, errA)
		}
		wantPart, gotPart := make([]byte, n), make([]byte, n)
		wantN, wantErr := io.ReadFull(source, wantPart)
		gotN, gotErr := io.ReadFull(r, gotPart)
		if wantN != gotN || !errors.Is(gotErr, wantErr) || !bytes.Equal(wantPart, gotPart) {
			t.Fatalf("read %d at %d: %d %v, want %d %v", n, at, gotN, gotErr, wantN, wantErr)
		}
	}
	if _, err := r.Seek(-1, io.SeekStart); errdef.CodeOf(err) != errdef.InvalidArgument {
		t.Errorf("seek before the begin: %v", err)
	}
}

// TestShiftedContent: bytes inserted at the begin, and a piece cut out of the middle, cost the chunks
// around the change and no others.
func TestShiftedContent(t *testing.T) {
	t.Parallel()
	l := newTestStore(t).open(t, Options{})
	data := randomBytes(3, 40<<20)
	first := putFile(t, l, bytes.NewReader(data))
	for what, changed := range map[string][]byte{
		"inserted": append([]byte("new first bytes"), data...),
		"cut out":  append(bytes.Clone(data[:20<<20]), data[20<<20+333:]...),
	} {
		before := l.storedBytes()
		ref := putFile(t, l, bytes.NewReader(changed))
		if ref.Root == first.Root || ref.Hash != Hash(blake3.Sum256(changed)) {
			t.Errorf("%s: %+v", what, ref)
		}
		if grown := l.storedBytes() - before; grown > 3*maxChunk {
			t.Errorf("%s: %d bytes were stored for a small change", what, grown)
		}
	}
	before := l.storedBytes()
	if diff := cmp.Diff(first, putFile(t, l, iotest.HalfReader(bytes.NewReader(data)))); diff != "" {
		t.Errorf("the same content has two refs:\n%s", diff)
	}
	if grown := l.storedBytes() - before; grown != 0 {
		t.Errorf("%d bytes were stored for known content", grown)
	}
}

func (l *Lake) storedBytes() (n int64) {
	l.index.mu.RLock()
	defer l.index.mu.RUnlock()
	for _, p := range l.index.packs {
		n += p.Size
	}
	return n
}

// TestChunkSizes: repetitive content, which has no borders or nothing but borders, stays within bounds.
func TestChunkSizes(t *testing.T) {
	t.Parallel()
	for what, data := range map[string][]byte{
		"zeros": make([]byte, 20<<20), "ones": bytes.Repeat([]byte{0xff}, 20<<20), "random": randomBytes(5, 30<<20),
	} {
		cut := chunker{r: iotest.OneByteReader(bytes.NewReader(data[:1<<20]))}
		if what != "zeros" {
			cut.r = bytes.NewReader(data)
		}
		var joined []byte
		buffer := make([]byte, maxChunk)
		for {
			n, err := cut.next(buffer)
			if err != nil {
				t.Fatal(err)
			}
			if n == 0 {
				break
			}
			joined = append(joined, buffer[:n]...)
			if n < minChunk && !cut.done() {
				t.Errorf("%s: a chunk of %d bytes", what, n)
			}
		}
		if !bytes.Equal(joined, data[:len(joined)]) || len(joined) < 1<<20 {
			t.Errorf("%s: %d other bytes than read", what, len(joined))
		}
	}
}

// TestStreaming puts and reads a file that is much larger than the memory it may take.
func TestStreaming(t *testing.T) { //nolint:paralleltest // it measures the heap
	store := newTestStore(t)
	blobs, err := fsblob.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	store.blobs = blobs
	l := store.open(t, Options{})
	const size, budget = 448 << 20, 224 << 20 // half of it live: what is garbage counts until it is collected
	var peak uint64
	watch := func(int) {
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		peak = max(peak, m.HeapInuse)
	}
	ref := putFile(t, l, &watchedReader{r: io.LimitReader(newSource("random", 1), size), every: 16 << 20, call: watch})
	whole := blake3.New()
	if _, err := io.Copy(whole, &watchedReader{r: openFile(t, l, ref), every: 16 << 20, call: watch}); err != nil {
		t.Fatal(err)
	}
	if got := Hash(whole.Sum(nil)); got != ref.Hash || ref.Size != size || ref.Height == 0 {
		t.Errorf("read %s, put %+v", got, ref)
	}
	if peak > budget {
		t.Errorf("the heap grew to %d MiB", peak>>20)
	}
}

type watchedReader struct {
	r        io.Reader
	n, every int
	call     func(int)
}

func (w *watchedReader) Read(p []byte) (int, error) {
	n, err := w.r.Read(p)
	if w.n += n; w.n >= w.every {
		w.n = 0
		w.call(n)
	}
	return n, err
}

// TestBrokenRead: an error of the source ends PutFile with it, whatever was on its way.
func TestBrokenRead(t *testing.T) {
	t.Parallel()
	l := newTestStore(t).open(t, Options{})
	broken := errors.New("unplugged")
	for _, after := range []int64{0, 100, 3 << 20, 9 << 20} {
		b := l.Begin(t.Context())
		r := io.MultiReader(io.LimitReader(newSource("random", 1), after), iotest.ErrReader(broken))
		if _, err := b.PutFile(t.Context(), r); !errors.Is(err, broken) {
			t.Errorf("after %d bytes: %v", after, err)
		}
		b.Discard()
	}
}

// TestForgedRef: a ref that contradicts what is stored yields data loss, never other bytes or a panic.
func TestForgedRef(t *testing.T) {
	t.Parallel()
	l := newTestStore(t).open(t, Options{})
	big, small := putFile(t, l, bytes.NewReader(randomBytes(1, 6<<20))), putFile(t, l, bytes.NewReader(randomBytes(2, 5000)))
	for what, ref := range map[string]FileRef{
		"node as chunk":     {Root: big.Root, Size: big.Size},
		"chunk as node":     {Root: small.Root, Size: small.Size, Height: 1},
		"too high":          {Root: big.Root, Size: big.Size, Height: big.Height + 1},
		"far too high":      {Root: big.Root, Size: big.Size, Height: 200},
		"size too small":    {Root: big.Root, Size: big.Size - 1, Height: big.Height},
		"size too large":    {Root: big.Root, Size: big.Size + 1, Height: big.Height},
		"chunk too small":   {Root: small.Root, Size: small.Size + 1},
		"negative":          {Root: small.Root, Size: -1},
		"inline too short":  {Size: 3, Inline: []byte("ab")},
		"inline and root":   {Root: small.Root, Size: 5000, Inline: []byte("ab")},
		"nothing there":     {Root: Hash{1}, Size: 5000},
		"no node there":     {Root: Hash{1}, Size: 5000, Height: 1},
		"root without size": {Root: small.Root},
	} {
		r, err := l.OpenFile(t.Context(), ref)
		if err == nil {
			_, err = io.Copy(io.Discard, r)
			err = errors.Join(err, r.Close())
		}
		if !errdef.IsCorrupt(err) {
			t.Errorf("%s: %v, want data loss", what, err)
		}
	}
	// What is left of a ref to what was forgotten.
	if _, err := l.OpenFile(t.Context(), FileRef{Size: 5000}); !errors.Is(err, ErrForgotten) {
		t.Errorf("no root: %v", err)
	}
}

// TestFileTree builds trees over many chunks without having the chunks, the worst hashes included.
func TestFileTree(t *testing.T) {
	t.Parallel()
	l := newTestStore(t).open(t, Options{})
	for what, hash := range map[string]func(int) Hash{
		"usual":               numbered,
		"each ends a node":    func(i int) Hash { h := numbered(i); h[HashSize-1] = 0; return h },
		"none ends a node":    func(i int) Hash { h := numbered(i); h[HashSize-1] = 1; return h },
		"all the same chunk":  func(int) Hash { return numbered(0) },
		"one border in three": func(i int) Hash { h := numbered(i); h[HashSize-1] = byte(i % 3); return h },
	} {
		for _, n := range []int{2, 64, 65, 1024, 1025, 5000, 70_000} {
			b := l.Begin(t.Context())
			tree := fileTree{batch: b}
			for i := range n {
				if err := tree.add(t.Context(), 0, fileChild{hash(i), int64(i + 1)}); err != nil {
					t.Fatal(err)
				}
			}
			root, height, err := tree.finish(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			flush(t, b)
			size := int64(n) * int64(n+1) / 2
			r := openFile(t, l, FileRef{Root: root, Size: size, Height: height}).(*fileReader)
			for i, pos := 0, int64(0); i < n; i++ {
				if i%100 == 0 || i == n-1 {
					s, err := r.find(pos)
					if err != nil || s.hash != hash(i) || s.start != pos || s.size != int64(i+1) {
						t.Fatalf("%s: chunk %d of %d: %+v, %v", what, i, n, s, err)
					}
				}
				pos += int64(i + 1)
			}
		}
	}
}
