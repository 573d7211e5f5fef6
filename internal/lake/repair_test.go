package lake

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"slices"
	"strings"
	"testing"

	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/meta"
	"tarn.dev/tarn/internal/meta/sqlitemeta"
)

// repaired runs a repair and returns the reasons of what it did.
func repaired(t *testing.T, l *Lake) (did []string) {
	t.Helper()
	report := func(p Problem) {
		t.Log(p)
		did = append(did, p.Reason)
	}
	session, err := l.session(t.Context())
	if err == nil {
		err = errors.Join(RepairRows(t.Context(), l.rows, session, report), l.Repair(t.Context(), report))
	}
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(did)
	return slices.Compact(did)
}

// putFiles publishes files of their own content, each as one commit.
func putFiles(t *testing.T, l *Lake, files map[string][]byte) {
	t.Helper()
	for name, data := range files {
		_, err := l.Update(t.Context(), "main", CommitInfo{}, func(ctx context.Context, tx *Tx) error {
			ref, err := tx.Batch().PutFile(ctx, bytes.NewReader(data))
			tx.Put(FileKey(name), FileEntry(ref))
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

// TestRepairPacks: whatever happens to a pack, a repair saves its sound objects and puts it aside, doing it again
// does nothing, and putting the lost content again makes the store whole.
func TestRepairPacks(t *testing.T) {
	t.Parallel()
	for what, change := range map[string]func([]byte) []byte{
		"header":    func(b []byte) []byte { b[2] ^= 1; return b },
		"object":    func(b []byte) []byte { b[packHeader+400] ^= 1; return b },
		"footer":    func(b []byte) []byte { b[len(b)-packTrailer-9] ^= 1; return b },
		"end":       func(b []byte) []byte { b[len(b)-1] ^= 1; return b },
		"longer":    func(b []byte) []byte { return append(b, 0) },
		"truncated": func(b []byte) []byte { return b[:len(b)/2] },
		"empty":     func([]byte) []byte { return nil },
		"missing":   nil,
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			store := newTestStore(t)
			l := store.open(t, Options{CacheBytes: 1})
			files := map[string][]byte{"a": randomBytes(1, 1000), "b": randomBytes(2, 1000)}
			putFiles(t, l, files)
			name := packBlob(findPack(t, l, HashOf(TypeChunk, files["a"])))
			if change == nil {
				if err := store.blobs.Delete(t.Context(), name); err != nil {
					t.Fatal(err)
				}
			} else {
				rewrite(t, store.blobs, name, change)
			}
			l = store.open(t, Options{CacheBytes: 1})
			if len(verify(t, l, true)) == 0 {
				t.Fatal("fsck sees nothing")
			}
			if did := repaired(t, l); !slices.Equal(did, []string{"repair.pack_aside"}) {
				t.Errorf("it did %v", did)
			}
			if did := repaired(t, l); len(did) > 0 {
				t.Errorf("again it did %v", did)
			}
			aside := blobNames(t, store.blobs, quarantinePrefix)
			if change != nil && len(aside) != 1 {
				t.Errorf("aside are %q", aside)
			}
			_, err := l.Get(t.Context(), TypeChunk, HashOf(TypeChunk, files["a"]))
			if err != nil && !errdef.IsCorrupt(err) && errdef.CodeOf(err) != errdef.NotFound {
				t.Error(err)
			}
			if _, err := l.Get(t.Context(), TypeChunk, HashOf(TypeChunk, files["b"])); err != nil {
				t.Errorf("what was in another pack: %v", err)
			}
		})
	}
}

// TestPutAgainHeals: content that was lost is whole again, in every commit, when it is put again.
func TestPutAgainHeals(t *testing.T) {
	t.Parallel()
	store := newTestStore(t)
	l := store.open(t, Options{CacheBytes: 1})
	content := randomBytes(1, 1000)
	b := l.Begin(t.Context())
	h := put(t, b, TypeChunk, content)
	flush(t, b)
	b.Discard()
	name := packBlob(findPack(t, l, h))
	rewrite(t, store.blobs, name, func(b []byte) []byte { b[packHeader+400] ^= 1; return b })
	again := func() {
		t.Helper()
		b := l.Begin(t.Context())
		defer b.Discard()
		if got := put(t, b, TypeChunk, content); got != h {
			t.Fatal(got)
		}
		flush(t, b)
	}
	again()
	if _, err := l.Get(t.Context(), TypeChunk, h); !errdef.IsCorrupt(err) {
		t.Fatalf("before the repair: %v", err)
	}
	repaired(t, l)
	again()
	wantObject(t, l, TypeChunk, h, content)
	if p := verify(t, l, true); len(p) > 0 {
		t.Error(p)
	}
}

// TestRepairRows changes each row of a small history, in one byte and in several: fsck names the row, a repair
// leaves a store that fsck finds clean, whose branches are where they were.
func TestRepairRows(t *testing.T) {
	t.Parallel()
	for what, change := range map[string]string{
		"one byte of the value": `UPDATE row SET value = cast(x'01' || substr(value, 2) AS BLOB) WHERE key = ? AND length(value) > 0`,
		"the whole value":       `UPDATE row SET value = x'0102030405060708' WHERE key = ?`,
		"the version":           `UPDATE row SET version = version + 1 WHERE key = ?`,
		"the sum":               `UPDATE row SET sum = ~sum WHERE key = ?`,
		"one byte of the key":   `UPDATE row SET key = cast(x'01' || substr(key, 2) AS BLOB) WHERE key = ?`,
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			store := newTestStore(t)
			l := store.open(t, Options{})
			putFiles(t, l, map[string][]byte{"a": randomBytes(1, 1000), "b": randomBytes(2, 1000)})
			before, err := l.Branch(t.Context(), "main")
			if err != nil {
				t.Fatal(err)
			}
			var keys []string
			for row, err := range store.rows.Scan(t.Context(), meta.Prefix(l.prefix)) {
				if err != nil {
					t.Fatal(err)
				}
				if !strings.Contains(row.Key, "/gc/") { // of the session that is alive
					keys = append(keys, row.Key)
				}
			}
			if len(keys) < 8 {
				t.Fatalf("only %q", keys)
			}
			for _, key := range keys {
				if _, err := store.rows.Get(t.Context(), key); errors.Is(err, meta.ErrNotFound) {
					continue // a repair has put it aside for good
				}
				if damage(t, store, change, key) == 0 {
					continue
				}
				named := slices.ContainsFunc(verify(t, l, false), func(p Problem) bool {
					return p.Reason == "fsck.row" && p.Where[1:] == key[1:]
				})
				if !named {
					t.Errorf("fsck does not name %s", key)
				}
				repaired(t, l)
				if p := verify(t, l, true); len(p) > 0 {
					t.Errorf("%s: after the repair: %v", key, p)
				}
				if now, err := l.Branch(t.Context(), "main"); err != nil || now.Commit != before.Commit {
					t.Errorf("%s: main is at %v, %v", key, now, err)
				}
			}
		})
	}
}

func damage(t *testing.T, store testStore, change, key string) int64 {
	t.Helper()
	db, err := sql.Open("sqlite", store.rows.(*sqlitemeta.Store).Path())
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	}()
	res, err := db.ExecContext(t.Context(), change, []byte(key))
	if err != nil {
		t.Fatal(err)
	}
	n, err := res.RowsAffected()
	if err != nil {
		t.Fatal(err)
	}
	return n
}
