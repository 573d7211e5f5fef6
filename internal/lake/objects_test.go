package lake

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"testing"

	"pgregory.net/rapid"

	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/meta"
)

// TestModel compares two lakes on one store with a map, under puts, flushes, discards, folds of the
// index, and reopening.
func TestModel(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		store := newTestStore(t)
		options := Options{PackBytes: rapid.SampledFrom([]int{100, 1000, packTarget}).Draw(rt, "pack"), CacheBytes: 1}
		lakes := []*Lake{store.open(t, options), store.open(t, options)}
		stored := map[Hash][]byte{}
		batches := make([]map[Hash][]byte, len(lakes))
		open := make([]*Batch, len(lakes))
		begin := func(i int) { open[i], batches[i] = lakes[i].Begin(t.Context()), map[Hash][]byte{} }
		begin(0)
		begin(1)
		index := rapid.IntRange(0, 1)
		content := rapid.Map(rapid.IntRange(0, 60), func(n int) []byte { return bytes.Repeat([]byte(fmt.Sprint(n)), n) })
		rt.Repeat(map[string]func(*rapid.T){
			"put": func(rt *rapid.T) {
				i, data := index.Draw(rt, "lake"), content.Draw(rt, "content")
				batches[i][put(t, open[i], TypeRecord, data)] = data
			},
			"flush": func(rt *rapid.T) {
				i := index.Draw(rt, "lake")
				flush(t, open[i])
				for h, data := range batches[i] {
					stored[h] = data
				}
				batches[i] = map[Hash][]byte{}
			},
			"discard": func(rt *rapid.T) {
				i := index.Draw(rt, "lake")
				open[i].Discard()
				begin(i)
			},
			"fold": func(rt *rapid.T) {
				if err := lakes[index.Draw(rt, "lake")].compact(t.Context()); err != nil {
					rt.Fatal(err)
				}
			},
			"rebuild": func(rt *rapid.T) {
				if err := lakes[index.Draw(rt, "lake")].RebuildIndex(t.Context()); err != nil {
					rt.Fatal(err)
				}
			},
			"reopen": func(rt *rapid.T) {
				i := index.Draw(rt, "lake")
				open[i].Discard()
				lakes[i] = store.open(t, options)
				begin(i)
			},
			"": func(rt *rapid.T) {
				for _, l := range lakes {
					for h, data := range stored {
						got, err := l.Get(t.Context(), TypeRecord, h)
						if err != nil || !bytes.Equal(got, data) {
							rt.Fatalf("%s: %v, %q, want %q", h, err, got, data)
						}
					}
				}
			},
		})
		if p := verify(t, lakes[0], true); len(p) > 0 {
			rt.Fatal(p)
		}
	})
}

// setState moves a pack's row, as garbage collection does; nil deletes it.
func setState(t *testing.T, l *Lake, name Hash, state packState) {
	t.Helper()
	row, err := l.rows.Get(t.Context(), l.packKey(name))
	if err != nil {
		t.Fatal(err)
	}
	r, err := parsePackRow(row)
	if err != nil {
		t.Fatal(err)
	}
	r.State, r.Epoch = state, 1
	write := meta.Set(row.Key, mustJSON(r))
	if state == "" {
		write = meta.Delete(row.Key)
	}
	if _, err := l.rows.Txn(t.Context(), nil, []meta.Write{write}); err != nil {
		t.Fatal(err)
	}
}

// TestCondemnedPack: a batch that counts on a pack which is condemned before the batch ends stores the
// object again (L4), whether that happens before seal or between seal and the transaction.
func TestCondemnedPack(t *testing.T) {
	t.Parallel()
	for _, when := range []string{"before seal", "after seal", "deleted"} {
		t.Run(when, func(t *testing.T) {
			t.Parallel()
			store := newTestStore(t)
			l := store.open(t, Options{})
			data := randomBytes(1, 500)
			first := l.Begin(t.Context())
			h := put(t, first, TypeRecord, data)
			flush(t, first)
			old := findPack(t, l, h)

			b := l.Begin(t.Context())
			put(t, b, TypeRecord, data)
			put(t, b, TypeRecord, []byte("something new"))
			switch when {
			case "deleted":
				setState(t, l, old, "")
				if err := b.Flush(t.Context()); !errors.Is(err, ErrCollected) {
					t.Fatalf("flushed on a deleted pack: %v", err)
				}
				return
			case "before seal":
				setState(t, l, old, packCondemned)
			case "after seal":
				conditions, writes, err := b.seal(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				setState(t, l, old, packCondemned)
				if _, err := l.rows.Txn(t.Context(), conditions, writes); !errors.Is(err, meta.ErrConditionFailed) {
					t.Fatalf("the transaction does not assert the pack: %v", err)
				}
			}
			flush(t, b)
			setState(t, l, old, "")
			if err := store.blobs.Delete(t.Context(), packBlob(old)); err != nil {
				t.Fatal(err)
			}
			fresh := store.open(t, Options{})
			wantObject(t, fresh, TypeRecord, h, data)
			if findPack(t, fresh, h) == old {
				t.Fatal("the object is still in the deleted pack")
			}
		})
	}
}

// TestDedup: what is stored is not stored again, within a batch, after Flush, and by another process.
func TestDedup(t *testing.T) {
	t.Parallel()
	store := newTestStore(t)
	data := randomBytes(1, 1000)
	for range 3 {
		l := store.open(t, Options{})
		for range 2 {
			b := l.Begin(t.Context())
			put(t, b, TypeRecord, data)
			put(t, b, TypeRecord, data)
			flush(t, b)
			flush(t, b)
		}
	}
	// One more holds the first commit of the history.
	if packs := blobNames(t, store.blobs, packPrefix); len(packs) != 2 {
		t.Fatalf("%d packs, want 2", len(packs))
	}
}

func TestFoldingKeepsFewSegments(t *testing.T) {
	t.Parallel()
	store := newTestStore(t)
	l := store.open(t, Options{})
	objects := map[Hash][]byte{}
	for i := range 20 * maxLoosePacks {
		b := l.Begin(t.Context())
		data := fmt.Append(nil, "object ", i)
		objects[put(t, b, TypeRecord, data)] = data
		flush(t, b)
		if i%maxLoosePacks == 0 {
			l.background.Wait()
		}
	}
	l.background.Wait()
	fresh := store.open(t, Options{})
	if n := len(fresh.index.segments); n > 8 {
		t.Errorf("%d segments for %d packs", n, len(objects))
	}
	if n := len(fresh.index.footers); n >= 2*maxLoosePacks {
		t.Errorf("%d packs are loose", n)
	}
	if got, rows := len(blobNames(t, store.blobs, segmentPrefix)), len(fresh.index.segments); got != rows {
		t.Errorf("%d segment blobs for %d segments", got, rows)
	}
	for h, data := range objects {
		wantObject(t, fresh, TypeRecord, h, data)
	}
	if p := verify(t, fresh, true); len(p) > 0 {
		t.Fatal(p)
	}
}

func TestConcurrentBatches(t *testing.T) {
	t.Parallel()
	store := newTestStore(t)
	l := store.open(t, Options{PackBytes: 2000})
	const writers, objects = 8, 100
	errs := make(chan error, writers)
	for w := range writers {
		go func() {
			errs <- func() error {
				b := l.Begin(t.Context())
				defer b.Discard()
				for i := range objects {
					// Half of the objects are every writer's.
					data := fmt.Append(nil, "object ", i, " of ", w*(i%2))
					h, err := b.Put(t.Context(), TypeRecord, data)
					if err != nil {
						return err
					}
					if i%10 == 9 {
						if err := b.Flush(t.Context()); err != nil {
							return err
						}
						if got, err := l.Get(t.Context(), TypeRecord, h); err != nil || !bytes.Equal(got, data) {
							return fmt.Errorf("object %d of %d: %q, %w", i, w, got, err)
						}
					}
				}
				return nil
			}()
		}()
	}
	for range writers {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	l.background.Wait()
	if p := verify(t, store.open(t, Options{}), true); len(p) > 0 {
		t.Fatal(p)
	}
}

// TestOneBatchManyWriters: a batch takes puts from several goroutines, into packs so small that writers
// wait for uploads.
func TestOneBatchManyWriters(t *testing.T) {
	t.Parallel()
	store := newTestStore(t)
	l := store.open(t, Options{PackBytes: 500})
	b := l.Begin(t.Context())
	errs := make(chan error, 8)
	for range cap(errs) {
		go func() {
			for i := range 300 {
				if _, err := b.Put(t.Context(), TypeRecord, randomBytes(uint64(i), 100)); err != nil {
					errs <- err
					return
				}
			}
			errs <- nil
		}()
	}
	for range cap(errs) {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	flush(t, b)
	for i := range 300 {
		data := randomBytes(uint64(i), 100)
		wantObject(t, l, TypeRecord, HashOf(TypeRecord, data), data)
	}
}

func TestEndedBatch(t *testing.T) {
	t.Parallel()
	store := newTestStore(t)
	l := store.open(t, Options{PackBytes: 10})
	b := l.Begin(t.Context())
	put(t, b, TypeRecord, randomBytes(1, 100))
	b.Discard()
	b.Discard()
	if _, err := b.Put(t.Context(), TypeRecord, []byte("x")); !errors.Is(err, ErrDiscarded) {
		t.Errorf("put after Discard: %v", err)
	}
	if err := b.Flush(t.Context()); !errors.Is(err, ErrDiscarded) {
		t.Errorf("flush after Discard: %v", err)
	}
	cause := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	b = l.Begin(ctx)
	put(t, b, TypeRecord, []byte("y"))
	cancel(cause)
	if err := b.Flush(t.Context()); !errors.Is(err, cause) {
		t.Errorf("flush after the context's end: %v", err)
	}
	b.Discard()
	if stats, err := l.Fsck(t.Context(), FsckOptions{}, func(p Problem) { t.Error(p) }); err != nil || stats.Packs != 1 {
		t.Errorf("%+v, %v", stats, err)
	}
}

func TestBadInput(t *testing.T) {
	t.Parallel()
	l := newTestStore(t).open(t, Options{})
	b := l.Begin(t.Context())
	if _, err := b.Put(t.Context(), 0, nil); errdef.CodeOf(err) != errdef.InvalidArgument {
		t.Errorf("type 0: %v", err)
	}
	if _, err := b.Put(t.Context(), typeEnd, nil); errdef.CodeOf(err) != errdef.InvalidArgument {
		t.Errorf("type %d: %v", typeEnd, err)
	}
	if _, err := b.Put(t.Context(), TypeRecord, make([]byte, MaxObject+1)); !errors.Is(err, ErrTooLarge) {
		t.Errorf("too large: %v", err)
	}
	if err := b.Require(t.Context(), TypeRecord, Hash{1}); !errors.Is(err, ErrNotFound) {
		t.Errorf("require what is not there: %v", err)
	}
	for _, s := range []string{"", "12", fmt.Sprintf("%064X", 0xabc), fmt.Sprintf("%063xg", 0)} {
		if _, err := ParseHash(s); !errors.Is(err, ErrBadHash) {
			t.Errorf("ParseHash(%q): %v", s, err)
		}
	}
}

func TestNewerFormat(t *testing.T) {
	t.Parallel()
	store := newTestStore(t)
	l := store.open(t, Options{})
	for value, want := range map[string]error{`{"version":2}`: ErrFormat, `{"version":0}`: ErrCorrupt, `x`: ErrCorrupt} {
		if _, err := l.rows.Txn(t.Context(), nil, []meta.Write{meta.Set(l.prefix+"format", []byte(value))}); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(t.Context(), store.blobs, store.rows, l.prefix, Options{}); !errors.Is(err, want) {
			t.Errorf("format %s: %v, want %v", value, err, want)
		}
	}
}
