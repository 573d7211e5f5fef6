package lake

import (
	"encoding/hex"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/external"
)

var updateHistory = flag.Bool("update-history", false, "rewrite the golden files of entries and commits")

func hashes() *rapid.Generator[Hash] {
	return rapid.Custom(func(t *rapid.T) (h Hash) {
		copy(h[:], rapid.SliceOfN(rapid.Byte(), 0, HashSize).Draw(t, "hash"))
		return h
	})
}

func entries() *rapid.Generator[Entry] {
	return rapid.Custom(func(t *rapid.T) Entry {
		text := rapid.StringN(0, 5, 20)
		pairs := rapid.MapOfN(text, text, 0, 3)
		size := rapid.Int64Min(0)
		return Entry{
			Kind: rapid.SampledFrom(kinds).Draw(t, "kind"), Version: text.Draw(t, "version"), Schema: text.Draw(t, "schema"),
			Partitioning: text.Draw(t, "partitioning"), Properties: pairs.Draw(t, "properties"),
			Location: Location{
				Ref: FileRef{
					Hash: hashes().Draw(t, "file hash"), Size: size.Draw(t, "file size"), Root: hashes().Draw(t, "root"),
					Height: rapid.Uint8Max(maxHeight).Draw(t, "height"), Inline: rapid.SliceOfN(rapid.Byte(), 0, 5).Draw(t, "inline"),
				},
				Object: hashes().Draw(t, "object"), Table: text.Draw(t, "table"), Slots: hashes().Draw(t, "slots"),
				Provenance: hashes().Draw(t, "provenance"), Size: size.Draw(t, "size"), Rows: size.Draw(t, "rows"),
				Data: pairs.Draw(t, "data"),
			},
		}
	})
}

func TestEntryRoundTrip(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		e, o := entries().Draw(t, "entry"), entries().Draw(t, "other")
		data, err := encodeEntry(e)
		if err != nil {
			t.Fatal(err)
		}
		got, err := decodeEntry(data)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(e, got, cmpopts.EquateEmpty()); d != "" {
			t.Fatal(d)
		}
		moved := e
		moved.Location = o.Location
		if !e.SameIdentity(&moved) || !(*Entry)(nil).SameIdentity(nil) || e.SameIdentity(nil) {
			t.Fatal("identity depends on the location")
		}
		for i := range data { // every cut is noticed
			if _, err := decodeEntry(data[:i]); !errdef.IsCorrupt(err) {
				t.Fatalf("cut at %d of %d: %v", i, len(data), err)
			}
		}
	})
}

func TestEntryRefused(t *testing.T) {
	t.Parallel()
	for name, e := range map[string]Entry{
		"no kind":       {},
		"unknown kind":  {Kind: "view"},
		"negative size": {Kind: KindFile, Location: Location{Size: -1}},
		"huge":          {Kind: KindFile, Schema: string(make([]byte, 2<<20))},
	} {
		if _, err := encodeEntry(e); errdef.CodeOf(err) != errdef.InvalidArgument {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzDecodeEntry(f *testing.F) {
	for _, e := range goldenEntries() {
		data, err := encodeEntry(e)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		e, err := decodeEntry(data)
		if err != nil {
			return
		}
		if again, err := encodeEntry(e); err != nil || string(again) != string(data) {
			t.Fatalf("decoded, but not canonical: %x, %v", data, err)
		}
	})
}

func FuzzDecodeCommit(f *testing.F) {
	for _, c := range goldenCommits() {
		f.Add(encodeCommit(c))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := decodeCommit(Hash{}, data)
		if err == nil && string(encodeCommit(c)) != string(data) {
			t.Fatalf("decoded, but not canonical: %x", data)
		}
	})
}

func goldenEntries() []Entry {
	return []Entry{
		{Kind: KindFile, Version: "v", Location: Location{Ref: FileRef{Hash: Hash{0xaa}, Size: 5, Inline: []byte("hello")}, Size: 5}},
		{Kind: KindFile, Version: "v", Location: Location{Ref: FileRef{Hash: Hash{0xaa}, Size: 9 << 30, Root: Hash{0xbb}, Height: 2}, Size: 9 << 30}},
		{
			Kind: KindTable, Version: "rows1:00ff:3", Schema: "s", Partitioning: "p", Properties: map[string]string{"b": "2", "a": "1"},
			Location: Location{Table: "tables/t/metadata/1.json", Slots: Hash{1}, Provenance: Hash{2}, Size: 100, Rows: 3, Data: map[string]string{"k": "v"}},
		},
		{Kind: KindDef, Version: "d", Location: Location{Object: Hash{3}}},
		ExternalEntry(external.State{URL: "s3://b/k", ETag: `"e"`, Size: 7, Modified: time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)}),
	}
}

func goldenCommits() []Commit {
	return []Commit{
		{Time: time.Unix(0, 0).UTC()},
		{
			Parents: []Hash{{1}, {2}}, Tree: Hash{3}, Generation: 300, Time: time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC),
			Author: "ann", Message: "Zürich\n", Run: "r-7k2m9x",
		},
	}
}

// TestHistoryGolden pins the bytes that docs/formats/entry.md and commit.md describe.
func TestHistoryGolden(t *testing.T) {
	t.Parallel()
	got := ""
	for i, e := range goldenEntries() {
		data, err := encodeEntry(e)
		if err != nil {
			t.Fatal(err)
		}
		got += fmt.Sprintf("entry %d\n%s", i, hex.Dump(data))
	}
	for i, c := range goldenCommits() {
		data := encodeCommit(c)
		id := HashOf(TypeCommit, data)
		got += fmt.Sprintf("commit %d, id %s\n%s", i, id, hex.Dump(data))
		c.ID = id
		if again, err := decodeCommit(id, data); err != nil || !cmp.Equal(c, again) {
			t.Errorf("commit %d came back as %+v, %v", i, again, err)
		}
		for cut := range data {
			if _, err := decodeCommit(id, data[:cut]); !errdef.IsCorrupt(err) {
				t.Errorf("commit %d cut at %d: %v", i, cut, err)
			}
		}
	}
	file := filepath.Join("testdata", "history.golden")
	if *updateHistory {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), got); d != "" {
		t.Error(d)
	}
}
