// Package metatest is the conformance suite of the meta port. Every implementation runs it.
package metatest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/meta"
)

// Run checks that the stores that open returns keep the contract of meta.Store. Each call of open
// returns an empty store that the suite closes. reopen closes a store and opens it again with its
// rows; nil says that rows do not outlive the store.
func Run(t *testing.T, open func(t *testing.T) meta.Store, reopen func(t *testing.T, s meta.Store) meta.Store) {
	for name, test := range map[string]func(*testing.T, meta.Store){
		"set_get_delete":               setGetDelete,
		"empty_value_is_not_absent":    emptyValue,
		"conditions":                   conditions,
		"failed_txn_writes_nothing":    failedTxn,
		"invalid_arguments":            invalidArguments,
		"any_bytes_in_keys_and_values": anyBytes,
		"versions_grow":                versionsGrow,
		"scan":                         scan,
		"scan_is_a_snapshot":           scanSnapshot,
		"scan_may_write_inside":        scanNested,
		"counter_loses_no_increment":   counter,
		"one_of_many_creates":          oneCreates,
		"canceled_context":             canceledContext,
		"watch_from_the_start":         watchFromStart,
		"watch_from_now":               watchFromNow,
		"watch_deletions":              watchDeletions,
		"watch_misses_nothing":         watchMissesNothing,
		"watch_ends_with_context":      watchEnds,
		"close_ends_everything":        closeEnds,
		"model":                        model,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := open(t)
			test(t, s)
			if err := s.Close(); err != nil {
				t.Errorf("close: %v", err)
			}
		})
	}
	if reopen != nil {
		t.Run("reopen", func(t *testing.T) {
			t.Parallel()
			survives(t, open(t), reopen)
		})
	}
}

// Benchmark measures what the layers above do most.
func Benchmark(b *testing.B, open func(b *testing.B) meta.Store) {
	fill := func(b *testing.B, s meta.Store) {
		for i := range 100 {
			var writes []meta.Write
			for j := range 100 {
				writes = append(writes, meta.Set(fmt.Sprintf("p/%02d/%02d", i, j), make([]byte, 100)))
			}
			_, err := s.Txn(b.Context(), nil, writes)
			must(b, err)
		}
	}
	b.Run("get", func(b *testing.B) {
		s := open(b)
		fill(b, s)
		for i := 0; b.Loop(); i++ {
			_, err := s.Get(b.Context(), fmt.Sprintf("p/%02d/%02d", i%100, i/100%100))
			must(b, err)
		}
	})
	b.Run("scan_100", func(b *testing.B) {
		s := open(b)
		fill(b, s)
		for i := 0; b.Loop(); i++ {
			if n := len(read(b, s, meta.Prefix(fmt.Sprintf("p/%02d/", i%100)))); n != 100 {
				b.Fatalf("%d rows", n)
			}
		}
	})
	for _, writers := range []int{1, 50} {
		b.Run(fmt.Sprintf("txn_writers_%d", writers), func(b *testing.B) {
			s := open(b)
			var n atomic.Int64
			b.ResetTimer()
			var wg sync.WaitGroup
			for w := range writers {
				wg.Go(func() {
					key := fmt.Sprintf("w/%d", w)
					for n.Add(1) <= int64(b.N) {
						if _, err := s.Txn(b.Context(), nil, []meta.Write{meta.Set(key, []byte("x"))}); err != nil {
							b.Error(err)
						}
					}
				})
			}
			wg.Wait()
		})
	}
}

func setGetDelete(t *testing.T, s meta.Store) {
	_, err := s.Get(t.Context(), "a")
	wantErr(t, err, meta.ErrNotFound)
	v1 := txn(t, s, nil, meta.Set("a", []byte("1")), meta.Set("b", []byte("2")))
	equal(t, get(t, s, "a"), meta.Row{Key: "a", Value: []byte("1"), Version: v1})
	equal(t, get(t, s, "b"), meta.Row{Key: "b", Value: []byte("2"), Version: v1})
	v2 := txn(t, s, nil, meta.Set("a", []byte("3")), meta.Delete("b"), meta.Delete("never there"))
	equal(t, get(t, s, "a"), meta.Row{Key: "a", Value: []byte("3"), Version: v2})
	_, err = s.Get(t.Context(), "b")
	wantErr(t, err, meta.ErrNotFound)
	if err != nil && !strings.Contains(err.Error(), `"b"`) {
		t.Errorf("message %q does not name the key", err)
	}
}

func emptyValue(t *testing.T, s meta.Store) {
	txn(t, s, nil, meta.Set("nil", nil), meta.Set("empty", []byte{}))
	txn(t, s, []meta.Condition{meta.Exists("nil"), meta.Exists("empty"), meta.Is("nil", nil), meta.Is("empty", nil)})
	if r := get(t, s, "nil"); len(r.Value) != 0 {
		t.Errorf("value = %q", r.Value)
	}
}

func conditions(t *testing.T, s meta.Store) {
	v1 := txn(t, s, nil, meta.Set("a", []byte("1")))
	v2 := txn(t, s, nil, meta.Set("b", []byte("2")))
	for _, c := range []struct {
		cond meta.Condition
		want bool
	}{
		{meta.Absent("a"), false},
		{meta.Absent("none"), true},
		{meta.Exists("a"), true},
		{meta.Exists("none"), false},
		{meta.At("a", v1), true},
		{meta.At("a", v2), false},
		{meta.At("none", v1), false},
		{meta.At("none", 0), false},
		{meta.Is("a", []byte("1")), true},
		{meta.Is("a", []byte("2")), false},
		{meta.Is("a", nil), false},
		{meta.Is("none", nil), false},
	} {
		_, err := s.Txn(t.Context(), []meta.Condition{meta.Exists("b"), c.cond}, nil)
		if c.want {
			must(t, err)
			continue
		}
		wantErr(t, err, meta.ErrConditionFailed)
		var ce *meta.ConditionError
		if !errors.As(err, &ce) {
			t.Errorf("%v: no ConditionError in %v", c.cond, err)
		} else if diff := cmp.Diff(c.cond, ce.Condition); diff != "" {
			t.Error(diff)
		}
	}
}

// Conditions are judged on what was there before; a failure leaves no trace, not even a number.
func failedTxn(t *testing.T, s meta.Store) {
	v := txn(t, s, nil, meta.Set("a", []byte("1")))
	_, err := s.Txn(t.Context(), []meta.Condition{meta.Absent("a")}, []meta.Write{meta.Set("b", nil), meta.Delete("a")})
	wantErr(t, err, meta.ErrConditionFailed)
	if errdef.CodeOf(err) != errdef.Conflict {
		t.Errorf("code = %v", errdef.CodeOf(err))
	}
	equal(t, read(t, s, meta.Prefix("")), []meta.Row{{Key: "a", Value: []byte("1"), Version: v}})
	txn(t, s, []meta.Condition{meta.Absent("c")}, meta.Set("c", nil))
}

func invalidArguments(t *testing.T, s meta.Store) {
	long := strings.Repeat("x", meta.MaxKey+1)
	for _, key := range []string{"", long} {
		_, err := s.Get(t.Context(), key)
		wantErr(t, err, meta.ErrInvalidKey)
		_, err = s.Txn(t.Context(), nil, []meta.Write{meta.Set(key, nil)})
		wantErr(t, err, meta.ErrInvalidKey)
		_, err = s.Txn(t.Context(), []meta.Condition{meta.Absent(key)}, nil)
		wantErr(t, err, meta.ErrInvalidKey)
	}
	for name, do := range map[string]func() error{
		"twice": func() error {
			_, err := s.Txn(t.Context(), nil, []meta.Write{meta.Set("a", nil), meta.Delete("a")})
			return err
		},
		"too large": func() error {
			_, err := s.Txn(t.Context(), nil, []meta.Write{meta.Set("a", make([]byte, meta.MaxValue+1))})
			return err
		},
		"no kind": func() error {
			_, err := s.Txn(t.Context(), []meta.Condition{{Key: "a"}}, nil)
			return err
		},
	} {
		if err := do(); errdef.CodeOf(err) != errdef.InvalidArgument {
			t.Errorf("%s: error = %v", name, err)
		}
	}
	txn(t, s, nil, meta.Set(long[1:], make([]byte, meta.MaxValue)))
	if got := get(t, s, long[1:]); len(got.Value) != meta.MaxValue {
		t.Errorf("value of %d bytes", len(got.Value))
	}
}

var hostileKeys = []string{
	"\x00", "\x00\x00", "\x01", " ", "%", "%2F", "'; DROP TABLE row; --", "/", "a", "a\x00", "a\x00b", "a/", "a/b", "a0", "aä", "\xc3\x28",
	"\xf0\x9f\x98\x80", "\xfe", "\xff", "\xff\x00", "\xff\xff", "\xff\xffa",
}

func anyBytes(t *testing.T, s meta.Store) {
	var want []meta.Row
	for _, k := range hostileKeys {
		v := txn(t, s, nil, meta.Set(k, []byte(k+"\x00\xff")))
		want = append(want, meta.Row{Key: k, Value: []byte(k + "\x00\xff"), Version: v})
		equal(t, get(t, s, k), want[len(want)-1])
	}
	slices.SortFunc(want, func(a, b meta.Row) int { return strings.Compare(a.Key, b.Key) })
	equal(t, read(t, s, meta.Range{}), want)
	for _, p := range append(hostileKeys, "", "\xff\xff\xff", "zzz") {
		var under []meta.Row
		for _, r := range want {
			if strings.HasPrefix(r.Key, p) {
				under = append(under, r)
			}
		}
		equal(t, read(t, s, meta.Prefix(p)), under)
	}
}

func versionsGrow(t *testing.T, s meta.Store) {
	last := int64(0)
	for i := range 20 {
		v := txn(t, s, nil, meta.Set("a", []byte(fmt.Sprint(i))))
		if v <= last {
			t.Fatalf("version %d after %d", v, last)
		}
		last = v
		if i%3 == 0 {
			last = txn(t, s, nil, meta.Delete("a"))
		}
	}
}

func scan(t *testing.T, s meta.Store) {
	var all []meta.Write
	for i := range 20 {
		all = append(all, meta.Set(fmt.Sprintf("k/%02d", i), []byte{byte(i)}))
	}
	txn(t, s, nil, append(all, meta.Set("a", nil), meta.Set("l", nil))...)
	for _, c := range []struct {
		r    meta.Range
		want string
	}{
		{meta.Range{Start: "k/05", End: "k/08"}, "k/05 k/06 k/07"},
		{meta.Range{Start: "k/05", End: "k/08", Reverse: true}, "k/07 k/06 k/05"},
		{meta.Range{Start: "k/05", End: "k/08", Limit: 2}, "k/05 k/06"},
		{meta.Range{Start: "k/05", End: "k/08", Limit: 2, Reverse: true}, "k/07 k/06"},
		{meta.Range{Start: "k/05", End: "k/05"}, ""},
		{meta.Range{Start: "k/08", End: "k/05"}, ""},
		{meta.Range{Start: "k/18"}, "k/18 k/19 l"},
		{meta.Range{End: "k/01"}, "a k/00"},
		{meta.Range{Limit: 1}, "a"},
		{meta.Range{Limit: 1, Reverse: true}, "l"},
		{meta.Prefix("k/1"), "k/10 k/11 k/12 k/13 k/14 k/15 k/16 k/17 k/18 k/19"},
	} {
		var got []string
		for _, r := range read(t, s, c.r) {
			got = append(got, r.Key)
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("scan %+v = %v, want %s", c.r, got, c.want)
		}
	}
}

func scanSnapshot(t *testing.T, s meta.Store) {
	var writes []meta.Write
	for i := range 500 {
		writes = append(writes, meta.Set(fmt.Sprintf("k/%03d", i), []byte("old")))
	}
	txn(t, s, nil, writes...)
	n := 0
	for row, err := range s.Scan(t.Context(), meta.Prefix("k/")) {
		must(t, err)
		if n == 0 {
			txn(t, s, nil, meta.Set("k/250", []byte("new")), meta.Delete("k/400"), meta.Set("k/999", nil))
		}
		n++
		if string(row.Value) != "old" {
			t.Errorf("%s is %q", row.Key, row.Value)
		}
	}
	if n != 500 {
		t.Errorf("%d rows, want the 500 of the snapshot", n)
	}
}

func scanNested(t *testing.T, s meta.Store) {
	txn(t, s, nil, meta.Set("a/1", nil), meta.Set("a/2", nil), meta.Set("a/3", nil))
	var wg sync.WaitGroup
	for range 20 { // more scans at once than any pool has connections
		wg.Go(func() {
			for row, err := range s.Scan(t.Context(), meta.Prefix("a/")) {
				if err != nil {
					t.Errorf("scan: %v", err)
					return
				}
				if _, err := s.Get(t.Context(), row.Key); err != nil {
					t.Errorf("get: %v", err)
				}
				if _, err := s.Txn(t.Context(), nil, []meta.Write{meta.Set("b", nil)}); err != nil {
					t.Errorf("txn: %v", err)
				}
			}
		})
	}
	wg.Wait()
}

// Read, add one, write if unchanged: from many writers at once no increment is lost.
func counter(t *testing.T, s meta.Store) {
	const writers, each = 50, 4
	txn(t, s, nil, meta.Set("n", []byte("0")))
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for range each {
				for {
					row, err := s.Get(t.Context(), "n")
					if err != nil {
						t.Errorf("get: %v", err)
						return
					}
					n, _ := strconv.Atoi(string(row.Value))
					cond := meta.At("n", row.Version)
					if w%2 == 0 {
						cond = meta.Is("n", row.Value)
					}
					_, err = s.Txn(t.Context(), []meta.Condition{cond}, []meta.Write{meta.Set("n", []byte(strconv.Itoa(n+1)))})
					if err == nil {
						break
					}
					if !errors.Is(err, meta.ErrConditionFailed) {
						t.Errorf("txn: %v", err)
						return
					}
				}
			}
		})
	}
	wg.Wait()
	if got := string(get(t, s, "n").Value); got != fmt.Sprint(writers*each) {
		t.Errorf("n = %s, want %d", got, writers*each)
	}
}

func oneCreates(t *testing.T, s meta.Store) {
	for round := range 5 {
		key := fmt.Sprintf("lock/%d", round)
		var winners atomic.Int64
		var mu sync.Mutex
		seen := map[int64]bool{}
		var wg sync.WaitGroup
		for w := range 50 {
			wg.Go(func() {
				_, err := s.Txn(t.Context(), []meta.Condition{meta.Absent(key)},
					[]meta.Write{meta.Set(key, []byte{byte(w)}), meta.Set(fmt.Sprintf("w/%d/%d", round, w), nil)})
				if err == nil {
					winners.Add(1)
				} else if !errors.Is(err, meta.ErrConditionFailed) {
					t.Errorf("txn: %v", err)
				}
				v, err := s.Txn(t.Context(), nil, []meta.Write{meta.Set(fmt.Sprintf("x/%d", w), nil)})
				mu.Lock()
				defer mu.Unlock()
				if err != nil || seen[v] {
					t.Errorf("txn: number %d, seen before: %v, error %v", v, seen[v], err)
				}
				seen[v] = true
			})
		}
		wg.Wait()
		if n := winners.Load(); n != 1 {
			t.Errorf("%d writers created %s", n, key)
		}
		if got := len(read(t, s, meta.Prefix(fmt.Sprintf("w/%d/", round)))); got != 1 {
			t.Errorf("%d transactions left rows", got)
		}
	}
}

func canceledContext(t *testing.T, s meta.Store) {
	txn(t, s, nil, meta.Set("a", nil), meta.Set("b", nil))
	why := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	n := 0
	var last error
	for _, err := range s.Scan(ctx, meta.Range{}) {
		n, last = n+1, err
		cancel(why)
	}
	if n != 2 || !errors.Is(last, why) {
		t.Errorf("%d results, last error %v", n, last)
	}
	_, err := s.Get(ctx, "a")
	wantErr(t, err, why)
	_, err = s.Txn(ctx, nil, []meta.Write{meta.Set("c", nil)})
	wantErr(t, err, why)
	for _, err := range s.Watch(ctx, "", 0) {
		wantErr(t, err, why)
	}
	if got := len(read(t, s, meta.Range{})); got != 2 {
		t.Errorf("%d rows", got)
	}
}

func watchFromStart(t *testing.T, s meta.Store) {
	txn(t, s, nil, meta.Set("a/1", []byte("old")), meta.Set("b/1", nil))
	v2 := txn(t, s, nil, meta.Set("a/2", []byte("x")))
	v3 := txn(t, s, nil, meta.Set("a/1", []byte("new")))
	want := []meta.Event{
		{Row: meta.Row{Key: "a/2", Value: []byte("x"), Version: v2}},
		{Row: meta.Row{Key: "a/1", Value: []byte("new"), Version: v3}},
	}
	equal(t, watch(t, s, "a/", 0, 2), want)
	equal(t, watch(t, s, "a/", v2, 1), want[1:])
}

func watchFromNow(t *testing.T, s meta.Store) {
	txn(t, s, nil, meta.Set("a/1", []byte("before")))
	next, stop := pull(t, s, "a/", -1)
	defer stop()
	v := txn(t, s, nil, meta.Set("a/2", []byte("after")), meta.Set("b", nil))
	equal(t, next(), meta.Event{Row: meta.Row{Key: "a/2", Value: []byte("after"), Version: v}})
	txn(t, s, nil, meta.Set("b", nil))
	v = txn(t, s, nil, meta.Set("a/1", []byte("again")))
	equal(t, next(), meta.Event{Row: meta.Row{Key: "a/1", Value: []byte("again"), Version: v}})
}

func watchDeletions(t *testing.T, s meta.Store) {
	v1 := txn(t, s, nil, meta.Set("a/1", nil), meta.Set("a/2", nil), meta.Set("a/3", nil))
	v2 := txn(t, s, nil, meta.Delete("a/1"), meta.Delete("a/none"))
	v3 := txn(t, s, nil, meta.Delete("a/2"))
	v4 := txn(t, s, nil, meta.Set("a/2", []byte("back")))
	equal(t, watch(t, s, "a/", v1, 2), []meta.Event{
		{Row: meta.Row{Key: "a/1", Version: v2}, Deleted: true},
		{Row: meta.Row{Key: "a/2", Value: []byte("back"), Version: v4}},
	})
	v5 := txn(t, s, nil, meta.Delete("a/2"))
	equal(t, watch(t, s, "a/", v3, 1), []meta.Event{{Row: meta.Row{Key: "a/2", Version: v5}, Deleted: true}})
}

// Whatever the timing, a watcher that applies its events to a map ends with the rows of the store, and
// sees versions in order.
func watchMissesNothing(t *testing.T, s meta.Store) {
	const writers, each = 8, 25
	var watching, writing sync.WaitGroup
	results := make([]map[string]string, 4)
	for i := range results {
		events := s.Watch(t.Context(), "k/", -1)
		watching.Go(func() {
			got, finished, last := map[string]string{}, 0, int64(0)
			for e, err := range events {
				if err != nil {
					t.Errorf("watch: %v", err)
					return
				}
				if e.Version < last {
					t.Errorf("version %d after %d", e.Version, last)
				}
				last = e.Version
				got[e.Key] = string(e.Value)
				if e.Deleted {
					delete(got, e.Key)
				}
				if strings.HasPrefix(e.Key, "k/done") {
					if finished++; finished == writers {
						break
					}
				}
			}
			results[i] = got
		})
	}
	for w := range writers {
		writing.Go(func() {
			for i := range each {
				key := fmt.Sprintf("k/%d", (w+i)%5)
				wr := meta.Set(key, []byte(fmt.Sprint(w, i)))
				if i%3 == 0 {
					wr = meta.Delete(key)
				}
				if _, err := s.Txn(t.Context(), nil, []meta.Write{wr, meta.Set("other", nil)}); err != nil {
					t.Errorf("txn: %v", err)
				}
			}
			if _, err := s.Txn(t.Context(), nil, []meta.Write{meta.Set(fmt.Sprintf("k/done%d", w), nil)}); err != nil {
				t.Errorf("txn: %v", err)
			}
		})
	}
	writing.Wait()
	watching.Wait()
	want := map[string]string{}
	for _, r := range read(t, s, meta.Prefix("k/")) {
		want[r.Key] = string(r.Value)
	}
	for _, got := range results {
		equal(t, got, want)
	}
}

func watchEnds(t *testing.T, s meta.Store) {
	why := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	done := make(chan error, 1)
	started := make(chan struct{})
	events := s.Watch(ctx, "a", 0)
	go func() {
		var last error
		for _, err := range events {
			if last = err; err == nil {
				close(started)
			}
		}
		done <- last
	}()
	txn(t, s, nil, meta.Set("a", nil))
	<-started
	cancel(why)
	wantErr(t, <-done, why)
}

func closeEnds(t *testing.T, s meta.Store) {
	txn(t, s, nil, meta.Set("a", nil))
	ended := make(chan error, 1)
	waiting := make(chan struct{})
	go func() {
		for _, err := range s.Watch(context.WithoutCancel(t.Context()), "", 0) {
			if err != nil {
				ended <- err
				return
			}
			close(waiting)
		}
		ended <- nil
	}()
	<-waiting
	must(t, s.Close())
	if err := <-ended; err == nil {
		t.Error("Watch ended without an error")
	}
	if _, err := s.Get(t.Context(), "a"); err == nil || errors.Is(err, meta.ErrNotFound) {
		t.Errorf("Get after Close: %v", err)
	}
	if _, err := s.Txn(t.Context(), nil, []meta.Write{meta.Set("b", nil)}); err == nil {
		t.Error("Txn after Close succeeded")
	}
	for _, err := range s.Scan(t.Context(), meta.Range{}) {
		if err == nil {
			t.Error("Scan after Close yielded")
		}
	}
	must(t, s.Close())
}

func survives(t *testing.T, s meta.Store, reopen func(*testing.T, meta.Store) meta.Store) {
	v1 := txn(t, s, nil, meta.Set("a/1", []byte("x")), meta.Set("a/2", nil))
	v2 := txn(t, s, nil, meta.Delete("a/2"))
	s = reopen(t, s)
	equal(t, read(t, s, meta.Range{}), []meta.Row{{Key: "a/1", Value: []byte("x"), Version: v1}})
	equal(t, watch(t, s, "a/", v1, 1), []meta.Event{{Row: meta.Row{Key: "a/2", Version: v2}, Deleted: true}})
	if v := txn(t, s, nil, meta.Set("b", nil)); v <= v2 {
		t.Errorf("version %d was given before (%d)", v, v2)
	}
	must(t, s.Close())
}

// model compares with a sorted map under random transactions.
func model(t *testing.T, s meta.Store) {
	round := 0
	rapid.Check(t, func(rt *rapid.T) {
		round++
		root := fmt.Sprintf("round%d/", round) // cheaper than a new store
		m := map[string]meta.Row{}
		key := rapid.Map(rapid.SampledFrom([]string{"a", "a/b", "a/c", "a0", "b", "\xff", "\xff\xff"}),
			func(k string) string { return root + k })
		value := rapid.SliceOfN(rapid.Byte(), 0, 3)
		rt.Repeat(map[string]func(*rapid.T){
			"txn": func(rt *rapid.T) {
				var conds []meta.Condition
				holds := true
				for _, k := range rapid.SliceOfN(key, 0, 3).Draw(rt, "condition keys") {
					row, there := m[k]
					c := rapid.SampledFrom([]meta.Condition{
						meta.Absent(k), meta.Exists(k), meta.At(k, row.Version), meta.Is(k, row.Value),
						meta.At(k, row.Version+1), meta.Is(k, []byte("other value")),
					}).Draw(rt, "condition")
					conds = append(conds, c)
					switch c.Kind {
					case meta.IsAbsent:
						holds = holds && !there
					case meta.IsPresent:
						holds = holds && there
					case meta.AtVersion:
						holds = holds && there && row.Version == c.Version
					case meta.HasValue:
						holds = holds && there && bytes.Equal(row.Value, c.Value)
					}
				}
				var writes []meta.Write
				for _, k := range rapid.SliceOfNDistinct(key, 0, 3, rapid.ID[string]).Draw(rt, "written keys") {
					if rapid.Bool().Draw(rt, "delete") {
						writes = append(writes, meta.Delete(k))
					} else {
						writes = append(writes, meta.Set(k, value.Draw(rt, "value")))
					}
				}
				v, err := s.Txn(t.Context(), conds, writes)
				if holds != (err == nil) || (err != nil && !errors.Is(err, meta.ErrConditionFailed)) {
					rt.Fatalf("conditions hold: %v; error: %v", holds, err)
				}
				if !holds {
					return
				}
				for _, w := range writes {
					if w.Delete {
						delete(m, w.Key)
					} else {
						m[w.Key] = meta.Row{Key: w.Key, Value: w.Value, Version: v}
					}
				}
			},
			"get": func(rt *rapid.T) {
				k := key.Draw(rt, "key")
				got, err := s.Get(t.Context(), k)
				want, there := m[k]
				if there != (err == nil) {
					rt.Fatalf("get %q: there %v, error %v", k, there, err)
				}
				equal(rt, got, want)
			},
			"scan": func(rt *rapid.T) {
				r := meta.Range{
					Start: key.Draw(rt, "start"), End: key.Draw(rt, "end"),
					Limit: rapid.IntRange(0, 3).Draw(rt, "limit"), Reverse: rapid.Bool().Draw(rt, "reverse"),
				}
				var want []meta.Row
				for _, k := range slices.Sorted(maps.Keys(m)) {
					if r.Start <= k && k < r.End {
						want = append(want, m[k])
					}
				}
				if r.Reverse {
					slices.Reverse(want)
				}
				if r.Limit > 0 {
					want = want[:min(r.Limit, len(want))]
				}
				equal(rt, read(rt, s, r), want)
			},
			"": func(rt *rapid.T) {
				if got := read(rt, s, meta.Prefix(root)); len(got) != len(m) {
					rt.Fatalf("%d rows, want %d", len(got), len(m))
				}
			},
		})
	})
}
