// Package blobtest is the conformance suite of the blob port. Every implementation runs it.
package blobtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/blob"
)

// Run checks that the stores that open returns keep the contract of blob.Store. Each call of open
// returns an empty store that lives until the end of t.
func Run(t *testing.T, open func(t *testing.T) blob.Store) {
	for name, test := range map[string]func(*testing.T, blob.Store){
		"put_and_get":                 putAndGet,
		"large_blob_streams":          largeBlob,
		"put_twice":                   putTwice,
		"put_race_has_one_winner":     putRace,
		"failing_reader_leaves_none":  failingReader,
		"canceled_put_leaves_none":    canceledPut,
		"invisible_until_whole":       invisibleUntilWhole,
		"ranges":                      ranges,
		"missing":                     missing,
		"invalid_names":               invalidNames,
		"long_names":                  longNames,
		"list_order":                  listOrder,
		"list_prefix":                 listPrefix,
		"list_stops":                  listStops,
		"delete_keeps_open_readers":   deleteKeepsReaders,
		"put_after_delete":            putAfterDelete,
		"canceled_context":            canceledContext,
		"concurrent_use":              concurrentUse,
		"uri_names_the_blob":          uriNames,
		"model":                       model,
		"result_of_get_honors_cancel": canceledGet,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, open(t))
		})
	}
}

// Benchmark measures what the lake does most: packs in, ranges out, listing.
func Benchmark(b *testing.B, open func(b *testing.B) blob.Store) {
	pack := randomBytes(16 << 20)
	b.Run("put_16MiB", func(b *testing.B) {
		s, n := open(b), 0
		b.SetBytes(int64(len(pack)))
		for b.Loop() {
			n++
			must(b, s.Put(b.Context(), fmt.Sprintf("packs/%08d", n), bytes.NewReader(pack)))
		}
	})
	b.Run("put_4KiB_parallel", func(b *testing.B) {
		s := open(b)
		var n atomic.Int64
		b.SetBytes(4 << 10)
		b.SetParallelism(8)
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				must(b, s.Put(b.Context(), fmt.Sprintf("small/%08d", n.Add(1)), bytes.NewReader(pack[:4<<10])))
			}
		})
	})
	b.Run("get_64KiB_of_16MiB", func(b *testing.B) {
		s := open(b)
		must(b, s.Put(b.Context(), "packs/a", bytes.NewReader(pack)))
		b.SetBytes(64 << 10)
		for b.Loop() {
			r, err := s.Get(b.Context(), "packs/a", rand.Int64N(int64(len(pack)-64<<10)), 64<<10)
			must(b, err)
			_, err = io.Copy(io.Discard, r)
			must(b, errors.Join(err, r.Close()))
		}
	})
	b.Run("list_1000", func(b *testing.B) {
		s := open(b)
		for i := range 1000 {
			must(b, s.Put(b.Context(), fmt.Sprintf("x/%02d/%04d", i%16, i), strings.NewReader("x")))
		}
		for b.Loop() {
			if got := len(list(b, s, "x/")); got != 1000 {
				b.Fatalf("listed %d", got)
			}
		}
	})
}

func putAndGet(t *testing.T, s blob.Store) {
	for _, data := range []string{"", "x", strings.Repeat("0123456789", 100_000)} {
		name := fmt.Sprintf("a/b=1/%d.bin", len(data))
		put(t, s, name, data)
		equal(t, get(t, s, name, 0, -1), data)
		info, err := s.Stat(t.Context(), name)
		must(t, err)
		if info.Name != name || info.Size != int64(len(data)) || info.ModTime.IsZero() {
			t.Errorf("Stat = %+v", info)
		}
	}
}

// A source that yields a byte at a time, then data together with EOF, is read like any other.
func largeBlob(t *testing.T, s blob.Store) {
	data := randomBytes(5<<20 + 17)
	must(t, s.Put(t.Context(), "large", iotest.DataErrReader(iotest.HalfReader(bytes.NewReader(data)))))
	equal(t, get(t, s, "large", 0, -1), string(data))
	must(t, s.Put(t.Context(), "slow", iotest.OneByteReader(strings.NewReader("slow"))))
	equal(t, get(t, s, "slow", 0, -1), "slow")
}

func putTwice(t *testing.T, s blob.Store) {
	put(t, s, "a", "first")
	wantErr(t, s.Put(t.Context(), "a", strings.NewReader("second")), blob.ErrExists)
	equal(t, get(t, s, "a", 0, -1), "first")
}

func putRace(t *testing.T, s blob.Store) {
	const writers, names = 8, 10
	for n := range names {
		name := fmt.Sprintf("race/%d/blob", n) // the folder is raced for as well
		var wg sync.WaitGroup
		var winner atomic.Pointer[string]
		start := make(chan struct{})
		for w := range writers {
			wg.Go(func() {
				data := strings.Repeat(fmt.Sprint(w), 1000+w)
				<-start
				switch err := s.Put(t.Context(), name, strings.NewReader(data)); {
				case err == nil:
					if !winner.CompareAndSwap(nil, &data) {
						t.Errorf("two puts of %s succeeded", name)
					}
				case !errors.Is(err, blob.ErrExists):
					t.Errorf("put: %v", err)
				}
			})
		}
		close(start)
		wg.Wait()
		if winner.Load() == nil {
			t.Fatalf("no put of %s succeeded", name)
		}
		equal(t, get(t, s, name, 0, -1), *winner.Load())
	}
}

func failingReader(t *testing.T, s blob.Store) {
	broken := errors.New("source broke")
	err := s.Put(t.Context(), "a/b", io.MultiReader(bytes.NewReader(randomBytes(1<<20)), iotest.ErrReader(broken)))
	wantErr(t, err, broken)
	wantErr(t, stat(t, s, "a/b"), blob.ErrNotFound)
	if got := list(t, s, ""); len(got) != 0 {
		t.Errorf("visible after a failed put: %v", got)
	}
	put(t, s, "a/b", "then it works")
}

func canceledPut(t *testing.T, s blob.Store) {
	why := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	r := readerFunc(func(p []byte) (int, error) { cancel(why); return copy(p, "data"), nil }) // endless
	wantErr(t, s.Put(ctx, "a", r), why)
	wantErr(t, stat(t, s, "a"), blob.ErrNotFound)
}

func invisibleUntilWhole(t *testing.T, s blob.Store) {
	pr, pw := io.Pipe()
	done := make(chan error, 1)
	go func() { done <- s.Put(context.WithoutCancel(t.Context()), "x/slow", pr) }()
	_, err := pw.Write([]byte("half"))
	must(t, err)
	wantErr(t, stat(t, s, "x/slow"), blob.ErrNotFound)
	if got := list(t, s, ""); len(got) != 0 {
		t.Errorf("half a blob is listed: %v", got)
	}
	_, err = pw.Write([]byte("whole"))
	must(t, errors.Join(err, pw.Close(), <-done))
	equal(t, get(t, s, "x/slow", 0, -1), "halfwhole")
}

func ranges(t *testing.T, s blob.Store) {
	put(t, s, "digits", "0123456789")
	for _, c := range []struct {
		offset, length int64
		want           string
	}{
		{0, -1, "0123456789"},
		{0, 0, ""},
		{3, 4, "3456"},
		{3, -1, "3456789"},
		{8, 100, "89"},
		{10, -1, ""},
		{10, 5, ""},
		{1 << 40, 5, ""},
	} {
		if got := get(t, s, "digits", c.offset, c.length); got != c.want {
			t.Errorf("Get(%d, %d) = %q, want %q", c.offset, c.length, got, c.want)
		}
	}
}

func missing(t *testing.T, s blob.Store) {
	put(t, s, "a/b", "x")
	for _, name := range []string{"none", "a", "a/b/c", "a/none"} {
		_, err := s.Get(t.Context(), name, 0, -1)
		wantErr(t, err, blob.ErrNotFound)
		wantErr(t, stat(t, s, name), blob.ErrNotFound)
		wantErr(t, s.Delete(t.Context(), name), blob.ErrNotFound)
		if err != nil && !strings.Contains(err.Error(), name) {
			t.Errorf("message %q does not name %s", err, name)
		}
	}
}

var hostile = []string{
	"", "/", "/a", "a/", "a//b", ".", "..", "a/../b", "../../etc/passwd", "a/.", "./a", "a\x00b", "a b",
	"a\nb", "ä", "a\\b", "~tmp/x", "~tmp", "C:", "a?b", "a%2fb", "a*", strings.Repeat("x", 256),
	strings.Repeat("x/", 600) + "x", "\xff",
}

func invalidNames(t *testing.T, s blob.Store) {
	for _, name := range hostile {
		wantErr(t, s.Put(t.Context(), name, strings.NewReader("x")), blob.ErrInvalidName)
		_, err := s.Get(t.Context(), name, 0, -1)
		wantErr(t, err, blob.ErrInvalidName)
		wantErr(t, stat(t, s, name), blob.ErrInvalidName)
		wantErr(t, s.Delete(t.Context(), name), blob.ErrInvalidName)
	}
	if got := list(t, s, ""); len(got) != 0 {
		t.Errorf("listed %v", got)
	}
}

func longNames(t *testing.T, s blob.Store) {
	long := strings.Repeat("x", 255)
	name := strings.Join([]string{long, long, long, long}, "/") // 1023 bytes
	put(t, s, name, "deep")
	equal(t, get(t, s, name, 0, -1), "deep")
	if diff := cmp.Diff([]string{name}, list(t, s, "")); diff != "" {
		t.Error(diff)
	}
}

// Order is by bytes of whole names; '-' and '.' sort before '/', so folders come between.
var ordered = []string{
	"A", "a-b", "a-b.c", "a.b", "a/b", "a/c-", "a/c.d", "a/c/d", "a/c/e/f", "a/c=", "a0", "aa", "b=1/x", "b=10/x", "b=2/x",
}

func listOrder(t *testing.T, s blob.Store) {
	if !slices.IsSorted(ordered) {
		t.Fatal("the test's own list is not sorted")
	}
	for _, i := range rand.Perm(len(ordered)) {
		put(t, s, ordered[i], ordered[i])
	}
	if diff := cmp.Diff(ordered, list(t, s, "")); diff != "" {
		t.Error(diff)
	}
	for info, err := range s.List(t.Context(), "") {
		must(t, err)
		if info.Size != int64(len(info.Name)) || info.ModTime.IsZero() {
			t.Errorf("listed %+v", info)
		}
	}
}

func listPrefix(t *testing.T, s blob.Store) {
	for _, name := range ordered {
		put(t, s, name, "x")
	}
	prefixes := []string{"z", "a//", "..", "../", "/", "~tmp/", "a/../", "\x00", "a/b/", "b=1/x/"}
	for _, name := range ordered {
		for i := range len(name) + 1 {
			prefixes = append(prefixes, name[:i])
		}
	}
	for _, prefix := range prefixes {
		var want []string
		for _, name := range ordered {
			if strings.HasPrefix(name, prefix) {
				want = append(want, name)
			}
		}
		if diff := cmp.Diff(want, list(t, s, prefix)); diff != "" {
			t.Errorf("List(%q):\n%s", prefix, diff)
		}
	}
}

func listStops(t *testing.T, s blob.Store) {
	for _, name := range ordered {
		put(t, s, name, "x")
	}
	n := 0
	for range s.List(t.Context(), "") {
		if n++; n == 3 {
			break
		}
	}
	why := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	n = 0
	var last error
	for _, err := range s.List(ctx, "") {
		n, last = n+1, err
		cancel(why)
	}
	if n != 2 || !errors.Is(last, why) {
		t.Errorf("after cancel: %d results, last error %v", n, last)
	}
}

func deleteKeepsReaders(t *testing.T, s blob.Store) {
	data := string(randomBytes(1 << 20))
	put(t, s, "a", data)
	r, err := s.Get(t.Context(), "a", 0, -1)
	must(t, err)
	must(t, s.Delete(t.Context(), "a"))
	got, err := io.ReadAll(r)
	must(t, errors.Join(err, r.Close()))
	equal(t, string(got), data)
	wantErr(t, s.Delete(t.Context(), "a"), blob.ErrNotFound)
}

func putAfterDelete(t *testing.T, s blob.Store) {
	for i := range 3 {
		put(t, s, "a/b", fmt.Sprint(i))
		equal(t, get(t, s, "a/b", 0, -1), fmt.Sprint(i))
		must(t, s.Delete(t.Context(), "a/b"))
	}
}

func canceledContext(t *testing.T, s blob.Store) {
	put(t, s, "a", "x")
	why := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(why)
	wantErr(t, s.Put(ctx, "b", strings.NewReader("x")), why)
	_, err := s.Get(ctx, "a", 0, -1)
	wantErr(t, err, why)
	_, err = s.Stat(ctx, "a")
	wantErr(t, err, why)
	wantErr(t, s.Delete(ctx, "a"), why)
	for _, err := range s.List(ctx, "") {
		wantErr(t, err, why)
	}
	if diff := cmp.Diff([]string{"a"}, list(t, s, "")); diff != "" {
		t.Error(diff)
	}
}

func canceledGet(t *testing.T, s blob.Store) {
	put(t, s, "a", "data")
	why := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	r, err := s.Get(ctx, "a", 0, -1)
	must(t, err)
	cancel(why)
	_, err = io.ReadAll(r)
	wantErr(t, err, why)
	must(t, r.Close())
}

func concurrentUse(t *testing.T, s blob.Store) {
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			for i := range 10 {
				name := fmt.Sprintf("d%d/%d-%d", i%3, w, i)
				if err := s.Put(t.Context(), name, strings.NewReader(name)); err != nil {
					t.Errorf("put: %v", err)
				}
				for _, err := range s.List(t.Context(), fmt.Sprintf("d%d/", i%3)) {
					if err != nil {
						t.Errorf("list: %v", err)
					}
				}
				if i%2 == 0 {
					if err := s.Delete(t.Context(), name); err != nil {
						t.Errorf("delete: %v", err)
					}
				}
			}
		})
	}
	wg.Wait()
	if got := len(list(t, s, "")); got != 8*5 {
		t.Errorf("%d blobs are left, want %d", got, 8*5)
	}
}

func uriNames(t *testing.T, s blob.Store) {
	u, err := url.Parse(s.URI("tables/x=1/f.parquet"))
	must(t, err)
	if u.Scheme == "" || !strings.HasSuffix(u.Path, "/tables/x=1/f.parquet") {
		t.Errorf("URI = %s", u)
	}
}

// model compares with a map under random operations; names collide often.
func model(t *testing.T, s blob.Store) {
	type state = map[string]string
	round := 0
	rapid.Check(t, func(rt *rapid.T) {
		round++
		root := fmt.Sprintf("round%d/", round) // cheaper than a new store
		m := state{}
		name := rapid.Map(rapid.SampledFrom(ordered), func(n string) string { return root + n })
		rt.Repeat(map[string]func(*rapid.T){
			"put": func(rt *rapid.T) {
				n, data := name.Draw(rt, "name"), rapid.String().Draw(rt, "data")
				err := s.Put(t.Context(), n, strings.NewReader(data))
				if _, taken := m[n]; taken != errors.Is(err, blob.ErrExists) || (!taken && err != nil) {
					rt.Fatalf("put %s: taken %v, got %v", n, taken, err)
				} else if !taken {
					m[n] = data
				}
			},
			"delete": func(rt *rapid.T) {
				n := name.Draw(rt, "name")
				err := s.Delete(t.Context(), n)
				if _, there := m[n]; there != (err == nil) {
					rt.Fatalf("delete %s: there %v, got %v", n, there, err)
				}
				delete(m, n)
			},
			"get": func(rt *rapid.T) {
				n := name.Draw(rt, "name")
				off, length := rapid.Int64Range(0, 20).Draw(rt, "offset"), rapid.Int64Range(-1, 20).Draw(rt, "length")
				r, err := s.Get(t.Context(), n, off, length)
				want, there := m[n]
				if there != (err == nil) {
					rt.Fatalf("get %s: there %v, got %v", n, there, err)
				}
				if !there {
					return
				}
				got, err := io.ReadAll(r)
				must(rt, errors.Join(err, r.Close()))
				want = want[min(off, int64(len(want))):]
				if length >= 0 {
					want = want[:min(length, int64(len(want)))]
				}
				equal(rt, string(got), want)
			},
			"": func(rt *rapid.T) {
				var want []string
				for n := range m {
					want = append(want, n)
				}
				slices.Sort(want)
				if diff := cmp.Diff(want, list(rt, s, root)); diff != "" {
					rt.Fatal(diff)
				}
			},
		})
	})
}

type tb interface {
	Helper()
	Fatalf(format string, args ...any)
	Errorf(format string, args ...any)
}

func must(t tb, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("%s: %v", errdef.CodeOf(err), err)
	}
}

func wantErr(t tb, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("error = %v, want %v", err, want)
	}
}

func equal(t tb, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("got %d bytes %.40q, want %d bytes %.40q", len(got), got, len(want), want)
	}
}

func put(t *testing.T, s blob.Store, name, data string) {
	t.Helper()
	must(t, s.Put(t.Context(), name, strings.NewReader(data)))
}

func get(t *testing.T, s blob.Store, name string, offset, length int64) string {
	t.Helper()
	r, err := s.Get(t.Context(), name, offset, length)
	must(t, err)
	data, err := io.ReadAll(r)
	must(t, errors.Join(err, r.Close()))
	return string(data)
}

func stat(t *testing.T, s blob.Store, name string) error {
	_, err := s.Stat(t.Context(), name)
	return err
}

func list(t tb, s blob.Store, prefix string) (names []string) {
	t.Helper()
	for info, err := range s.List(context.Background(), prefix) {
		must(t, err)
		names = append(names, info.Name)
	}
	return names
}

func randomBytes(n int) []byte {
	b := make([]byte, n)
	r := rand.NewChaCha8([32]byte{1})
	_, _ = r.Read(b) // never fails
	return b
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }
