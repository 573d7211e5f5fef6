package lake

import (
	"bytes"
	"context"
	"errors"
	"io"
	"testing"

	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/blob"
)

// rewrite replaces a blob's bytes, as a failing disk would.
func rewrite(t *testing.T, blobs blob.Store, name string, change func([]byte) []byte) {
	t.Helper()
	data := readAll(t, blobs, name)
	if err := blobs.Delete(t.Context(), name); err != nil {
		t.Fatal(err)
	}
	if err := blobs.Put(t.Context(), name, bytes.NewReader(change(bytes.Clone(data)))); err != nil {
		t.Fatal(err)
	}
}

func readAll(t *testing.T, blobs blob.Store, name string) []byte {
	t.Helper()
	r, err := blobs.Get(t.Context(), name, 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	data, err := io.ReadAll(r)
	if err := errors.Join(err, r.Close()); err != nil {
		t.Fatal(err)
	}
	return data
}

func blobNames(t *testing.T, blobs blob.Store, prefix string) []string {
	t.Helper()
	var names []string
	for info, err := range blobs.List(t.Context(), prefix) {
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, info.Name)
	}
	return names
}

// verify runs fsck and returns its problems.
func verify(t *testing.T, l *Lake, deep bool) []Problem {
	t.Helper()
	var problems []Problem
	if _, err := l.Fsck(t.Context(), FsckOptions{Deep: deep}, func(p Problem) { problems = append(problems, p) }); err != nil {
		t.Fatal(err)
	}
	return problems
}

// TestFlippedByte flips every byte of a pack, one at a time: every object is then either what was put or
// data loss, through a lake that knew the pack and through a new one, and a deep fsck sees each flip that
// matters: zstd has header bits without effect on what a frame decodes to.
func TestFlippedByte(t *testing.T) {
	t.Parallel()
	store := newTestStore(t)
	l := store.open(t, Options{CacheBytes: 1})
	b := l.Begin(t.Context())
	objects := map[Hash][]byte{}
	for _, data := range [][]byte{[]byte("small"), bytes.Repeat([]byte("compress "), 40), randomBytes(1, 200)} {
		objects[put(t, b, TypeRecord, data)] = data
	}
	flush(t, b)
	name := packBlob(findPack(t, l, put(t, l.Begin(t.Context()), TypeRecord, []byte("small"))))
	size := len(readAll(t, store.blobs, name))
	check := func(i int, l *Lake) (lost int) {
		for h, want := range objects {
			got, err := l.Get(t.Context(), TypeRecord, h)
			switch {
			case err == nil && !bytes.Equal(got, want):
				t.Fatalf("byte %d: wrong data", i)
			case err != nil && !errdef.IsCorrupt(err):
				t.Fatalf("byte %d: %v, want data loss", i, err)
			case err != nil:
				lost++
			}
		}
		return lost
	}
	for i := range size {
		flip := func(data []byte) []byte { data[i] ^= 0x41; return data }
		rewrite(t, store.blobs, name, flip)
		if lost := check(i, l); lost > 1 {
			t.Fatalf("byte %d: %d objects are lost", i, lost)
		}
		fresh := &Lake{blobs: l.blobs, rows: l.rows, prefix: l.prefix, opt: l.opt, index: newIndex(), cache: newCache(1)}
		fresh.graves.Store(l.graves.Load())
		if err := fresh.refreshNow(t.Context()); err != nil {
			t.Fatal(err)
		}
		lost := check(i, fresh)
		harmless := lost == 0 && i >= packHeader && i < size-packTrailer-len(objects)*packEntry
		found := false
		f := fsck{l: fresh, opt: FsckOptions{Deep: true}, report: func(Problem) { found = true }}
		if err := f.packs(t.Context()); err != nil {
			t.Fatal(err)
		}
		if !found && !harmless {
			t.Fatalf("byte %d: fsck sees nothing", i)
		}
		rewrite(t, store.blobs, name, flip)
	}
	if p := verify(t, l, true); len(p) > 0 {
		t.Fatal(p)
	}
}

func findPack(t *testing.T, l *Lake, h Hash) Hash {
	t.Helper()
	loc, state, err := l.locate(t.Context(), h, true)
	if err != nil || state == "" {
		t.Fatal(state, err)
	}
	return loc.pack
}

func TestTruncatedOrMissingPack(t *testing.T) {
	t.Parallel()
	store := newTestStore(t)
	l := store.open(t, Options{})
	b := l.Begin(t.Context())
	h := put(t, b, TypeRecord, randomBytes(1, 1000))
	flush(t, b)
	name := packBlob(findPack(t, l, h))
	whole := readAll(t, store.blobs, name)
	for _, keep := range []int{0, 7, 8, 500, 1008, len(whole) - 1} {
		rewrite(t, store.blobs, name, func([]byte) []byte { return whole[:keep] })
		fresh := store.open(t, Options{})
		if _, err := fresh.Get(t.Context(), TypeRecord, h); !errdef.IsCorrupt(err) {
			t.Fatalf("%d bytes left: %v, want data loss", keep, err)
		}
		if len(verify(t, fresh, false)) == 0 {
			t.Fatalf("%d bytes left: fsck sees nothing", keep)
		}
	}
	if err := store.blobs.Delete(t.Context(), name); err != nil {
		t.Fatal(err)
	}
	for _, l := range []*Lake{l, store.open(t, Options{})} {
		if _, err := l.Get(t.Context(), TypeRecord, h); !errdef.IsCorrupt(err) {
			t.Fatalf("pack deleted: %v, want data loss", err)
		}
		if len(verify(t, l, false)) == 0 {
			t.Fatal("pack deleted: fsck sees nothing")
		}
	}
}

// TestDamagedSegment: whatever happens to a segment, every object stays readable (L5), fsck names the
// segment, and a rebuild makes fsck content.
func TestDamagedSegment(t *testing.T) {
	t.Parallel()
	for what, change := range map[string]func([]byte) []byte{
		"entry flipped":  func(b []byte) []byte { b[20] ^= 1; return b },
		"tables flipped": func(b []byte) []byte { b[len(b)-segmentTrailer-9] ^= 1; return b },
		"end flipped":    func(b []byte) []byte { b[len(b)-1] ^= 1; return b },
		"truncated":      func(b []byte) []byte { return b[:len(b)/2] },
		"empty":          func([]byte) []byte { return nil },
		"missing":        nil,
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			store := newTestStore(t)
			l := store.open(t, Options{})
			objects := manyPacks(t, l, maxLoosePacks+3)
			l.background.Wait()
			segments := blobNames(t, store.blobs, segmentPrefix)
			if len(segments) != 1 {
				t.Fatalf("%d segments", len(segments))
			}
			open := store.open(t, Options{})
			if change == nil {
				if err := store.blobs.Delete(t.Context(), segments[0]); err != nil {
					t.Fatal(err)
				}
			} else {
				rewrite(t, store.blobs, segments[0], change)
			}
			for _, l := range []*Lake{open, store.open(t, Options{})} {
				for h, data := range objects {
					wantObject(t, l, TypeRecord, h, data)
				}
			}
			if p := verify(t, l, false); len(p) == 0 {
				t.Fatal("fsck sees nothing")
			}
			if err := l.RebuildIndex(t.Context()); err != nil {
				t.Fatal(err)
			}
			if p := verify(t, l, true); len(p) > 0 {
				t.Fatal(p)
			}
			for h, data := range objects {
				wantObject(t, store.open(t, Options{}), TypeRecord, h, data)
			}
		})
	}
}

// manyPacks flushes n packs of one object each.
func manyPacks(t testing.TB, l *Lake, n int) map[Hash][]byte {
	t.Helper()
	objects := map[Hash][]byte{}
	for i := range n {
		b := l.Begin(context.WithoutCancel(t.Context()))
		data := randomBytes(uint64(i), 50)
		objects[put(t, b, TypeRecord, data)] = data
		flush(t, b)
		b.Discard()
	}
	return objects
}
