package memo_test

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"tarn.dev/tarn/internal/flow/memo"
	"tarn.dev/tarn/internal/meta"
	"tarn.dev/tarn/internal/meta/lease"
	"tarn.dev/tarn/internal/meta/sqlitemeta"
)

var update = flag.Bool("update", false, "write the golden files again")

// golden is a key of docs/formats/memo.md, taken apart.
type golden struct {
	Name       string
	Components memo.Components
	Encoding   string // hex
	Key        memo.Key
}

var samples = []golden{
	{Name: "nothing", Components: memo.Components{}},
	{Name: "sql", Components: memo.Components{
		Language: "sql", Semantics: 1, Code: []memo.CodePart{{Name: "sql", Hash: "ab12"}},
		Inputs: []memo.InputID{{Param: "orders", Kind: "table", Identity: memo.TableIdentity("rows1:00:3", "ff")}},
	}},
	{Name: "python", Components: memo.Components{
		Language: "python", Semantics: 2, Entry: "Model.fit",
		Code:  []memo.CodePart{{Module: "b", Name: "*", Hash: "02"}, {Module: "a", Name: "f", Hash: "01"}},
		Files: []memo.NameValue{{Name: "z.csv", Value: "0a"}, {Name: "data/ä.csv", Value: "0b"}},
		Lock:  "cafe", Python: "3.11", Platform: "linux-x86_64-glibc",
		Params:  []memo.NameValue{{Name: "top", Value: "5"}, {Name: "name", Value: `"x"`}},
		Secrets: []string{"TOKEN", "KEY"},
		Inputs: []memo.InputID{
			{Param: "image", Kind: "files", Identity: memo.FilesIdentity([]string{memo.FileIdentity("b.png", "02"), memo.FileIdentity("a.png", "01")})},
			{Param: "absent", Kind: "table"},
		},
		Item: "a.png",
	}},
}

func TestGoldenKeys(t *testing.T) {
	t.Parallel()
	path := filepath.Join("testdata", "keys.json")
	got := slices.Clone(samples)
	for i := range got {
		got[i].Encoding, got[i].Key = hex.EncodeToString(got[i].Components.Encode()), got[i].Components.Key()
	}
	if *update {
		b, err := json.MarshalIndent(got, "", "  ")
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, append(b, '\n'), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var want []golden
	if err := json.Unmarshal(b, &want); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// The encoding is that of the document, string by string.
func TestEncoding(t *testing.T) {
	t.Parallel()
	want := []string{
		"python", "2",
		"2", "a", "f", "01", "b", "*", "02",
		"Model.fit",
		"2", "data/ä.csv", "0b", "z.csv", "0a",
		"cafe", "3.11", "linux-x86_64-glibc",
		"2", "name", `"x"`, "top", "5",
		"2", "KEY", "TOKEN",
		"2", "image", "files", "a.png\x0001\x00b.png\x0002", "absent", "table", "",
		"a.png",
	}
	var got []string
	for rest := samples[2].Components.Encode(); len(rest) > 0; {
		n, size := binary.Uvarint(rest)
		got = append(got, string(rest[size:size+int(n)]))
		rest = rest[size+int(n):]
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// Two different works never have one encoding, wherever a text is cut; order that means nothing does not count.
func TestKeysTellWorksApart(t *testing.T) {
	t.Parallel()
	word := rapid.SampledFrom([]string{"", "a", "b", "ab", "1", "0", "\x00", "a\x00"})
	named := rapid.SliceOfNDistinct(rapid.Custom(func(t *rapid.T) memo.NameValue {
		return memo.NameValue{Name: word.Draw(t, "name"), Value: word.Draw(t, "value")}
	}), 0, 3, func(nv memo.NameValue) string { return nv.Name })
	works := rapid.Custom(func(t *rapid.T) memo.Components {
		return memo.Components{
			Language: word.Draw(t, "language"), Semantics: rapid.IntRange(0, 2).Draw(t, "semantics"), Entry: word.Draw(t, "entry"),
			Files: named.Draw(t, "files"), Params: named.Draw(t, "params"), Lock: word.Draw(t, "lock"), Item: word.Draw(t, "item"),
			Secrets: rapid.SliceOfN(word, 0, 2).Draw(t, "secrets"),
		}
	})
	canonical := func(c memo.Components) string {
		byName := func(a, b memo.NameValue) int { return strings.Compare(a.Name, b.Name) }
		c.Files, c.Params = slices.SortedFunc(slices.Values(c.Files), byName), slices.SortedFunc(slices.Values(c.Params), byName)
		c.Secrets = slices.Sorted(slices.Values(c.Secrets))
		b, _ := json.Marshal(c)
		return string(b)
	}
	rapid.Check(t, func(t *rapid.T) {
		a, b := works.Draw(t, "a"), works.Draw(t, "b")
		if same := canonical(a) == canonical(b); same != (a.Key() == b.Key()) {
			t.Fatalf("same work: %t, same key: %t", same, !same)
		}
		slices.Reverse(b.Params)
		slices.Reverse(b.Files)
		if again := works.Draw(t, "c"); canonical(again) == canonical(b) != (again.Key() == b.Key()) {
			t.Fatal("order changed the key")
		}
	})
}

func TestExplain(t *testing.T) {
	t.Parallel()
	base := memo.Components{
		Language: "python", Code: []memo.CodePart{{Module: "p", Name: "f", Hash: "1"}, {Module: "q", Name: "*", Hash: "1"}},
		Lock: "l1", Python: "3.11", Params: []memo.NameValue{{Name: "top", Value: "5"}},
		Inputs: []memo.InputID{{Param: "a", Identity: "1"}}, Files: []memo.NameValue{{Name: "x.csv", Value: "1"}},
	}
	for want, change := range map[string]func(c *memo.Components){
		"":                                       func(*memo.Components) {},
		"code changed: p.f":                      func(c *memo.Components) { c.Code[0].Hash = "2" },
		"code changed: q":                        func(c *memo.Components) { c.Code[1].Hash = "2" },
		"code changed: p.g, p.f (removed)":       func(c *memo.Components) { c.Code[0].Name = "g" },
		"environment changed":                    func(c *memo.Components) { c.Lock = "l2" },
		"Python changed: 3.11 to 3.12":           func(c *memo.Components) { c.Lock, c.Python = "l2", "3.12" },
		"parameter top changed: 5 to 6":          func(c *memo.Components) { c.Params[0].Value = "6" },
		"parameter top is gone":                  func(c *memo.Components) { c.Params = nil },
		"input table a changed":                  func(c *memo.Components) { c.Inputs[0].Identity = "2" },
		"project file x.csv changed: 1 to 2":     func(c *memo.Components) { c.Files[0].Value = "2" },
		"code changed: p.f; environment changed": func(c *memo.Components) { c.Code[0].Hash, c.Lock = "2", "l2" },
	} {
		now := base
		now.Code, now.Params, now.Inputs, now.Files = slices.Clone(base.Code), slices.Clone(base.Params), slices.Clone(base.Inputs), slices.Clone(base.Files)
		change(&now)
		if got := memo.Explain(base, now, func(p string) string { return "table " + p }); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

// Of many that make one key at once, one counts, and all get that one.
func TestRememberIsFirstWins(t *testing.T) {
	t.Parallel()
	rows, err := sqlitemeta.Open(filepath.Join(t.TempDir(), "meta.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	ctx := context.Background()
	session, err := lease.Begin(ctx, rows, "s", time.Minute, "test")
	if err != nil {
		t.Fatal(err)
	}
	m := memo.Open(rows, "x/", session)
	if f, err := m.Lookup(ctx, "k"); f != nil || err != nil {
		t.Fatalf("%v, %v", f, err)
	}
	got := make([]*memo.Fragment, 16)
	won := make([]bool, 16)
	var wg sync.WaitGroup
	for i := range got {
		wg.Add(1)
		go func() {
			defer wg.Done()
			var err error
			f := &memo.Fragment{Key: "k", Check: &memo.Verdict{Message: string(rune('a' + i))}}
			if got[i], won[i], err = m.Remember(ctx, f); err != nil {
				t.Error(err)
			}
		}()
	}
	wg.Wait()
	winners := 0
	for i := range got {
		if won[i] {
			winners++
		}
		if got[i] == nil || got[i].Check.Message != got[0].Check.Message {
			t.Errorf("%d got %+v, 0 got %+v", i, got[i], got[0])
		}
	}
	if winners != 1 {
		t.Errorf("%d winners", winners)
	}
	if err := m.Replace(ctx, &memo.Fragment{Key: "k", Check: &memo.Verdict{Message: "new"}}); err != nil {
		t.Fatal(err)
	}
	if f, err := m.Lookup(ctx, "k"); err != nil || f.Check.Message != "new" {
		t.Errorf("%+v, %v", f, err)
	}
	var aside []string
	err = m.Replaced(ctx, func(_ meta.Row, f *memo.Fragment) error {
		aside = append(aside, f.Check.Message)
		return nil
	})
	if err != nil || len(aside) != 1 || aside[0] != got[0].Check.Message {
		t.Errorf("kept aside is %q, %v", aside, err)
	}

	// A process that was taken for dead remembers nothing: what its rows would name may be gone.
	if err := session.End(ctx); err != nil {
		t.Fatal(err)
	}
	for _, f := range []*memo.Fragment{{Key: "k"}, {Key: "other"}} {
		if err := m.Replace(ctx, f); !errors.Is(err, meta.ErrConditionFailed) {
			t.Errorf("replace %s: %v", f.Key, err)
		}
	}
	if _, _, err := m.Remember(ctx, &memo.Fragment{Key: "other"}); !errors.Is(err, meta.ErrConditionFailed) {
		t.Errorf("remember: %v", err)
	}
}
