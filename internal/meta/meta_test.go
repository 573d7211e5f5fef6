package meta_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/meta"
)

func TestPrefix(t *testing.T) {
	t.Parallel()
	for p, end := range map[string]string{
		"": "", "a": "b", "a/": "a0", "a\xff": "b", "a\xff\xff": "b", "\xff": "", "\xff\xff": "", "\xfe\xff": "\xff", "\x00": "\x01",
	} {
		if diff := cmp.Diff(meta.Range{Start: p, End: end}, meta.Prefix(p)); diff != "" {
			t.Errorf("Prefix(%q): %s", p, diff)
		}
	}
}

func TestPrefixHoldsExactlyWhatBeginsSo(t *testing.T) {
	t.Parallel()
	text := rapid.Map(rapid.SliceOfN(rapid.SampledFrom([]byte{0, 'a', 'b', 0xfe, 0xff}), 0, 4), func(b []byte) string { return string(b) })
	rapid.Check(t, func(t *rapid.T) {
		p, key := text.Draw(t, "prefix"), text.Draw(t, "key")
		r := meta.Prefix(p)
		if in := r.Start <= key && (r.End == "" || key < r.End); in != strings.HasPrefix(key, p) {
			t.Fatalf("%q under %q: %v", key, p, in)
		}
	})
}

func TestKey(t *testing.T) {
	t.Parallel()
	for want, parts := range map[string][]string{
		"a":          {"a"},
		"a/b":        {"a", "b"},
		"a%2Fb":      {"a/b"},
		"a%252Fb":    {"a%2Fb"},
		"a/":         {"a", ""},
		"/":          {"", ""},
		"":           {""},
		"%25/%2F":    {"%", "/"},
		"p/x/file/ä": {"p", "x", "file", "ä"},
	} {
		if got := meta.Key(parts...); got != want {
			t.Errorf("Key(%q) = %q, want %q", parts, got, want)
		}
		if diff := cmp.Diff(parts, meta.SplitKey(want)); diff != "" {
			t.Errorf("SplitKey(%q): %s", want, diff)
		}
	}
}

// Different parts give different keys, and a prefix of parts is a prefix of keys and nothing else is.
func TestKeyKeepsPartsApart(t *testing.T) {
	t.Parallel()
	part := rapid.OneOf(rapid.SampledFrom([]string{"", "/", "%", "%2F", "%2f", "%25", "a", "a/b"}), rapid.String())
	parts := rapid.SliceOfN(part, 1, 4)
	rapid.Check(t, func(t *rapid.T) {
		a, b := parts.Draw(t, "a"), parts.Draw(t, "b")
		if diff := cmp.Diff(a, meta.SplitKey(meta.Key(a...))); diff != "" {
			t.Fatal(diff)
		}
		if (meta.Key(a...) == meta.Key(b...)) != slices.Equal(a, b) {
			t.Fatalf("%q and %q: %q", a, b, meta.Key(a...))
		}
		under := len(b) > len(a) && slices.Equal(a, b[:len(a)])
		if strings.HasPrefix(meta.Key(b...), meta.Key(a...)+"/") != under {
			t.Fatalf("%q under %q: %v", b, a, under)
		}
	})
}

func TestConditionHolds(t *testing.T) {
	t.Parallel()
	row := &meta.Row{Key: "k", Value: []byte("v"), Version: 3}
	for _, c := range []struct {
		cond          meta.Condition
		there, absent bool
	}{
		{meta.Absent("k"), false, true},
		{meta.Exists("k"), true, false},
		{meta.At("k", 3), true, false},
		{meta.At("k", 2), false, false},
		{meta.Is("k", []byte("v")), true, false},
		{meta.Is("k", nil), false, false},
		{meta.Condition{Key: "k"}, false, false},
	} {
		if c.cond.Holds(row) != c.there || c.cond.Holds(nil) != c.absent {
			t.Errorf("%v: %v, %v", c.cond, c.cond.Holds(row), c.cond.Holds(nil))
		}
		err := c.cond.Failed()
		var ce *meta.ConditionError
		if !errors.Is(err, meta.ErrConditionFailed) || !errors.As(err, &ce) || ce.Condition.Key != "k" || errdef.CodeOf(err) != errdef.Conflict {
			t.Errorf("Failed() = %v", err)
		}
	}
}

// TestSum is the golden value of docs/formats/meta.md: it must not change.
func TestSum(t *testing.T) {
	t.Parallel()
	if got := meta.Sum(meta.Row{Key: "a/b", Value: []byte("value"), Version: 7}); got != -2672718692962150760 {
		t.Errorf("sum %d", got)
	}
}

func BenchmarkSum(b *testing.B) {
	r := meta.Row{Key: "p/project/lake/branch/main", Value: make([]byte, 200), Version: 7}
	for b.Loop() {
		meta.Sum(r)
	}
}
