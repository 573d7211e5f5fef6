package prolly

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/zeebo/blake3"
	"pgregory.net/rapid"
)

var update = flag.Bool("update", false, "rewrite golden files")

var errMissing = errors.New("no such node")

// memory is a Store that counts what it is asked for.
type memory struct {
	nodes      map[Hash][]byte
	gets, puts int
}

func newMemory() *memory { return &memory{nodes: map[Hash][]byte{}} }

func (m *memory) Get(_ context.Context, h Hash) ([]byte, error) {
	m.gets++
	data, ok := m.nodes[h]
	if !ok {
		return nil, errMissing
	}
	return data, nil
}

func (m *memory) Put(_ context.Context, data []byte) (Hash, error) {
	m.puts++
	h := Hash(blake3.Sum256(data))
	m.nodes[h] = data
	return h, nil
}

// tiny makes trees of many levels out of few keys.
var tiny = Params{Min: 20, Target: 60, Max: 200}

// tb is what *testing.T and *rapid.T share.
type tb interface {
	rapid.TB
	Context() context.Context
}

func sorted(model map[string]string) []string { return slices.Sorted(maps.Keys(model)) }

func build(t tb, s Store, p Params, model map[string]string) Map {
	t.Helper()
	var edits []Edit
	for k, v := range model {
		edits = append(edits, Edit{Key: []byte(k), Value: []byte(v)})
	}
	m, err := Open(s, Hash{}).edit(t.Context(), p, edits)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func check(t tb, m Map) {
	t.Helper()
	c := NewChecker(m.store, func(context.Context, Item) error { return nil })
	if err := c.Check(t.Context(), m.root); err != nil {
		t.Fatalf("check: %v", err)
	}
}

func contents(t tb, m Map, r Range) []string {
	t.Helper()
	var out []string
	for it, err := range m.Scan(t.Context(), r) {
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, string(it.Key)+"="+string(it.Value))
	}
	return out
}

func key() *rapid.Generator[string] {
	return rapid.OneOf(
		rapid.Map(rapid.IntRange(0, 120), func(i int) string { return fmt.Sprintf("k%03d", i) }),
		rapid.StringN(0, 3, 8),
		rapid.Map(rapid.IntRange(0, 3), func(i int) string { return string(bytes.Repeat([]byte{'x'}, 300+i)) }),
	)
}

func value() *rapid.Generator[string] {
	return rapid.OneOf(rapid.StringN(0, 4, 12), rapid.Just(strings.Repeat("v", 220)))
}

func model() *rapid.Generator[map[string]string] { return rapid.MapOfN(key(), value(), 0, 150) }

// edited draws changes of a model and returns them with the changed model.
func edited(t *rapid.T, model map[string]string, label string) ([]Edit, map[string]string) {
	after := maps.Clone(model)
	var edits []Edit
	for range rapid.IntRange(0, 12).Draw(t, label) {
		k := key().Draw(t, "key")
		if len(model) > 0 && rapid.Bool().Draw(t, "existing") {
			k = rapid.SampledFrom(sorted(model)).Draw(t, "key of model")
		}
		if rapid.IntRange(0, 2).Draw(t, "remove") == 0 {
			edits = append(edits, Edit{Key: []byte(k), Remove: true})
			delete(after, k)
			continue
		}
		v := value().Draw(t, "value")
		edits = append(edits, Edit{Key: []byte(k), Value: []byte(v)})
		after[k] = v
	}
	return edits, after
}

func TestEditMatchesModel(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		s := newMemory()
		want := model().Draw(t, "model")
		m := build(t, s, tiny, want)
		for range rapid.IntRange(1, 4).Draw(t, "rounds") {
			var edits []Edit
			if rapid.IntRange(0, 7).Draw(t, "wipe") == 0 { // leave next to nothing
				for i, k := range sorted(want) {
					if i >= 2 {
						edits = append(edits, Edit{Key: []byte(k), Remove: true})
						delete(want, k)
					}
				}
			} else {
				edits, want = edited(t, want, "edits")
			}
			// I1 needs the parameters to come from the map; an emptied one takes the default.
			next, err := m.edit(t.Context(), tiny, edits)
			if err != nil {
				t.Fatal(err)
			}
			m = next
			check(t, m)
			if again := build(t, newMemory(), tiny, want); again.root != m.root {
				t.Fatalf("same content, other root: %x by edits, %x in bulk", m.root, again.root)
			}
		}
		var lines []string
		for _, k := range sorted(want) {
			lines = append(lines, k+"="+want[k])
		}
		if d := cmp.Diff(lines, contents(t, m, Range{})); d != "" {
			t.Fatal(d)
		}
		if n, err := m.Count(t.Context()); err != nil || int(n) != len(want) {
			t.Fatalf("count %d %v, want %d", n, err, len(want))
		}
		k := key().Draw(t, "get")
		got, ok, err := m.Get(t.Context(), []byte(k))
		if v, has := want[k]; err != nil || ok != has || string(got) != v {
			t.Fatalf("get %q: %q %v %v", k, got, ok, err)
		}
	})
}

func TestScanRange(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		content := model().Draw(t, "model")
		m := build(t, newMemory(), tiny, content)
		r := Range{Start: []byte(key().Draw(t, "start")), Reverse: rapid.Bool().Draw(t, "reverse")}
		switch rapid.IntRange(0, 2).Draw(t, "end") {
		case 0:
			r.End = []byte(key().Draw(t, "end"))
		case 1:
			reverse := r.Reverse
			r = Prefix(r.Start)
			r.Reverse = reverse
		}
		var want []string
		for _, k := range sorted(content) {
			if k >= string(r.Start) && (r.End == nil || k < string(r.End)) {
				want = append(want, k+"="+content[k])
			}
		}
		if r.Reverse {
			slices.Reverse(want)
		}
		if d := cmp.Diff(want, contents(t, m, r)); d != "" {
			t.Fatal(d)
		}
	})
}

func TestDiffAndMergeMatchModel(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		s := newMemory()
		base := model().Draw(t, "base")
		sourceEdits, source := edited(t, base, "source")
		targetEdits, target := edited(t, base, "target")
		b := build(t, s, tiny, base)
		src, err := b.edit(t.Context(), tiny, sourceEdits)
		if err != nil {
			t.Fatal(err)
		}
		tgt, err := b.edit(t.Context(), tiny, targetEdits)
		if err != nil {
			t.Fatal(err)
		}
		r := Range{}
		if rapid.Bool().Draw(t, "bounded") {
			r = Range{Start: []byte("k030"), End: []byte("k090")}
		}
		show := func(model map[string]string, k string) string {
			if v, ok := model[k]; ok {
				return "'" + v + "'"
			}
			return "-"
		}
		shown := func(v []byte) string {
			if v == nil {
				return "-"
			}
			return "'" + string(v) + "'"
		}
		in := func(k string) bool {
			return k >= string(r.Start) && (r.End == nil || k < string(r.End))
		}
		all := maps.Clone(base)
		maps.Copy(all, source)
		maps.Copy(all, target)
		var wantDiff, gotDiff, wantMerge, gotMerge []string
		for _, k := range sorted(all) {
			bv, sv, tv := show(base, k), show(source, k), show(target, k)
			if in(k) && sv != tv {
				wantDiff = append(wantDiff, k+sv+tv)
			}
			if in(k) && (bv != sv || bv != tv) {
				wantMerge = append(wantMerge, fmt.Sprint(k, bv, sv, tv, bv != sv, bv != tv))
			}
		}
		for c, err := range Diff(t.Context(), src, tgt, r) {
			if err != nil {
				t.Fatal(err)
			}
			gotDiff = append(gotDiff, string(c.Key)+shown(c.Before)+shown(c.After))
		}
		for w, err := range Merge3(t.Context(), b, src, tgt, r) {
			if err != nil {
				t.Fatal(err)
			}
			gotMerge = append(gotMerge, fmt.Sprint(string(w.Key), shown(w.Base), shown(w.Source), shown(w.Target),
				w.Changed&Source != 0, w.Changed&Target != 0))
		}
		if d := cmp.Diff(wantDiff, gotDiff); d != "" {
			t.Fatal("diff", d)
		}
		if d := cmp.Diff(wantMerge, gotMerge); d != "" {
			t.Fatal("merge", d)
		}
	})
}

func TestOneChangeInAMillionKeys(t *testing.T) {
	t.Parallel()
	s := newMemory()
	edits := make([]Edit, 1_000_000)
	buf := make([]byte, 0, 80*len(edits))
	for i := range edits {
		from := len(buf)
		buf = fmt.Appendf(buf, "file/images/%07d.png", i)
		mid := len(buf)
		buf = binary.LittleEndian.AppendUint64(buf, rand.Uint64())
		buf = append(buf, make([]byte, 32)...)
		edits[i] = Edit{Key: buf[from:mid:mid], Value: buf[mid:len(buf):len(buf)]}
	}
	m, err := Open(s, Hash{}).Edit(t.Context(), edits)
	if err != nil {
		t.Fatal(err)
	}
	var size, largest int
	for _, data := range s.nodes {
		size += len(data)
		largest = max(largest, len(data))
	}
	mean := size / len(s.nodes)
	t.Logf("%d nodes, mean %d bytes, largest %d", len(s.nodes), mean, largest)
	if mean < 2<<10 || mean > 8<<10 || largest > 20<<10 {
		t.Errorf("nodes have %d bytes in the mean, %d at most", mean, largest)
	}
	for name, e := range map[string]Edit{
		"set":     {Key: []byte("file/images/0500000.png"), Value: []byte("new")},
		"insert":  {Key: []byte("file/images/0500000b.png"), Value: []byte("new")},
		"append":  {Key: []byte("zzz"), Value: []byte("new")},
		"prepend": {Key: []byte("aaa"), Value: []byte("new")},
		"remove":  {Key: []byte("file/images/0777777.png"), Remove: true},
	} {
		s.gets, s.puts = 0, 0
		changed, err := m.Edit(t.Context(), []Edit{e})
		if err != nil {
			t.Fatal(err)
		}
		if s.puts > 12 || s.gets > 20 {
			t.Errorf("%s: wrote %d nodes and read %d", name, s.puts, s.gets)
		}
		s.gets = 0
		n := 0
		for c, err := range Diff(t.Context(), m, changed, Range{}) {
			if err != nil || !bytes.Equal(c.Key, e.Key) {
				t.Fatal(c, err)
			}
			n++
		}
		if n != 1 || s.gets > 30 {
			t.Errorf("%s: diff found %d changes in %d reads", name, n, s.gets)
		}
	}
	s.puts = 0
	if same, err := m.Edit(t.Context(), []Edit{edits[123456]}); err != nil || same.root != m.root || s.puts != 0 {
		t.Errorf("setting a key to its value wrote %d nodes: %v", s.puts, err)
	}
}

func TestEditRefusesWhatIsTooLarge(t *testing.T) {
	t.Parallel()
	m := Open(newMemory(), Hash{})
	for _, e := range []Edit{{Key: make([]byte, MaxKey+1)}, {Key: []byte("a"), Value: make([]byte, MaxValue+1)}} {
		if _, err := m.Edit(t.Context(), []Edit{e}); !errors.Is(err, ErrTooLarge) {
			t.Errorf("key of %d, value of %d bytes: %v", len(e.Key), len(e.Value), err)
		}
	}
	var edits []Edit // the largest that is allowed, several times
	for i := range byte(7) {
		k := make([]byte, MaxKey)
		k[0] = i
		edits = append(edits, Edit{Key: k, Value: make([]byte, MaxValue)})
	}
	m, err := m.Edit(t.Context(), edits)
	if err != nil {
		t.Fatal(err)
	}
	check(t, m)
	if n, err := m.Count(t.Context()); n != 7 || err != nil {
		t.Error(n, err)
	}
}

// TestGolden pins the bytes that docs/formats/tree.md describes.
func TestGolden(t *testing.T) {
	t.Parallel()
	s := newMemory()
	var edits []Edit
	for i := range 40 {
		edits = append(edits, Edit{Key: fmt.Appendf(nil, "k%02d", i), Value: fmt.Appendf(nil, "value %d", i)})
	}
	m, err := Open(s, Hash{}).edit(t.Context(), Params{Min: 64, Target: 256, Max: 1024}, edits)
	if err != nil {
		t.Fatal(err)
	}
	root, err := load(t.Context(), s, m.root)
	if err != nil {
		t.Fatal(err)
	}
	got := fmt.Sprintf("root %x\n%s", m.root, hex.Dump(root.raw))
	for _, it := range root.items {
		got += fmt.Sprintf("child %x\n%s", it.child, hex.Dump(s.nodes[it.child]))
	}
	file := filepath.Join("testdata", "node.golden")
	if *update {
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

// TestCheckFindsDamage proves the checker: each kind of damage to a good tree is named.
func TestCheckFindsDamage(t *testing.T) {
	t.Parallel()
	content := map[string]string{}
	for i := range 100 {
		content[fmt.Sprintf("k%03d", i)] = fmt.Sprint(i)
	}
	s := newMemory()
	m := build(t, s, tiny, content)
	root, err := load(t.Context(), s, m.root)
	if err != nil {
		t.Fatal(err)
	}
	put := func(n node) Hash {
		h, err := s.Put(t.Context(), encode(n.params, n.level, n.items))
		if err != nil {
			t.Fatal(err)
		}
		return h
	}
	with := func(change func(items []item) []item) Hash {
		n := *root
		n.items = change(slices.Clone(n.items))
		return put(n)
	}
	for name, h := range map[string]Hash{
		"missing child":    with(func(it []item) []item { it[0].child = Hash{1}; return it }),
		"wrong count":      with(func(it []item) []item { it[0].keys++; return it }),
		"wrong last key":   with(func(it []item) []item { it[0].key = []byte("k0"); return it }),
		"single child":     with(func(it []item) []item { return it[:1] }),
		"missing border":   put(node{params: tiny, items: []item{{key: []byte("a"), value: make([]byte, 500)}, {key: []byte("b")}}}),
		"other parameters": put(node{params: Params{Min: 1, Target: 2, Max: 3}, level: root.level, items: root.items}),
		"wrong level":      put(node{params: tiny, level: root.level + 1, items: root.items}),
	} {
		c := NewChecker(s, func(context.Context, Item) error { return nil })
		if err := c.Check(t.Context(), h); err == nil {
			t.Errorf("%s was not found", name)
		}
	}
	boom := errors.New("boom")
	c := NewChecker(s, func(context.Context, Item) error { return boom })
	if err := c.Check(t.Context(), m.root); !errors.Is(err, boom) {
		t.Errorf("leaf error came back as %v", err)
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(encode(tiny, 0, []item{{key: []byte("a"), value: []byte("1")}, {key: []byte("b")}}))
	f.Add(encode(tiny, 1, []item{{key: []byte("a"), child: Hash{1}, keys: 3}}))
	f.Fuzz(func(t *testing.T, data []byte) {
		n, err := decode(data)
		if err != nil {
			if !errors.Is(err, ErrCorrupt) {
				t.Fatal(err)
			}
			return
		}
		if !bytes.Equal(encode(n.params, n.level, n.items), data) {
			t.Fatalf("decoded, but not canonical: %x", data)
		}
	})
}
