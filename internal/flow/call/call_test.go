package call

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"
)

func number(n int) Value { return Value{Data: binary.BigEndian.AppendUint32(nil, uint32(n))} }

// TestModel drives a call with random puts, duplicates, worker deaths, late answers, generators, lost connections and a
// cancel, and compares what a consumer sees with what the invariants say.
func TestModel(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	rapid.Check(t, func(t *rapid.T) {
		ctx, stop := context.WithCancel(context.Background())
		stop() // nothing waits
		ordered := rapid.Bool().Draw(t, "ordered")
		total := rapid.IntRange(0, 40).Draw(t, "total")
		budget := NewBudget(rapid.Int64Range(0, 50).Draw(t, "budget"))
		other := New(false, budget, dir) // takes its part
		if _, err := other.Put(ctx, 0, []Value{number(0), number(1)}, true); err != nil {
			t.Fatal(err)
		}
		c := New(ordered, budget, dir)
		check := func() {
			known := c.inputs.memory + c.results.memory + other.inputs.memory
			if used := budget.used.Load(); used > budget.limit || used != int64(known) {
				t.Fatalf("C9: %d of %d in use, the calls know of %d", used, budget.limit, known)
			}
		}
		var running, late []Input
		var got []Result
		canceled := false
		read := func(limit int) {
			for r, err := range c.Results(ctx, int64(len(got)), nil) {
				if errors.Is(err, context.Canceled) {
					return
				}
				if err != nil {
					t.Fatal(err)
				}
				if r.Sequence != int64(len(got)) {
					t.Fatalf("C4: result %d has number %d", len(got), r.Sequence)
				}
				switch f, data := r.Failure, string(r.Value.Data); {
				case r.More && data != "y",
					!r.More && f == nil && data != string(number(int(r.Index)).Data),
					f != nil && f.Err.Error() == "x" && (f.Traceback != "where" || string(f.Pickle) != "what" || data != ""):
					t.Fatalf("C9: %+v came back with %q", r, data)
				}
				got = append(got, r)
				if limit--; limit == 0 {
					return // the connection is lost
				}
			}
		}
		put := 0
		t.Repeat(map[string]func(*rapid.T){
			"put": func(t *rapid.T) {
				first := rapid.IntRange(0, put).Draw(t, "first") // again, from any number on
				to := rapid.IntRange(first, total).Draw(t, "to")
				var inputs []Value
				for i := first; i < to; i++ {
					inputs = append(inputs, number(i))
				}
				next, err := c.Put(ctx, int64(first), inputs, to == total)
				if err != nil && !canceled && !errors.Is(err, ErrClosed) {
					t.Fatal(err)
				}
				put = max(put, int(next))
			},
			"gap": func(t *rapid.T) {
				if _, err := c.Put(ctx, int64(put)+1, []Value{number(0)}, false); !errors.Is(err, ErrGap) {
					t.Fatal("C2: a gap was accepted:", err)
				}
			},
			"take": func(t *rapid.T) {
				if in, ok := c.Take(); ok {
					if canceled {
						t.Fatal("C6: taken after the cancel")
					}
					if binary.BigEndian.Uint32(in.Value.Data) != uint32(in.Index) {
						t.Fatal("another input's data")
					}
					running = append(running, in)
				}
			},
			"take late": func(t *rapid.T) {
				since, waits := c.Next()
				if _, ok := c.TakeLate(since); ok {
					t.Fatal("taken as late when it was not")
				}
				in, ok := c.TakeLate(since.Add(1))
				if ok != waits {
					t.Fatal("an input is next:", waits, "and was taken:", ok)
				}
				if ok {
					running = append(running, in)
				}
			},
			"yield": func(t *rapid.T) {
				if len(running) > 0 {
					c.Yield(ctx, rapid.SampledFrom(running).Draw(t, "in"), Value{Data: []byte("y")}, nil)
				}
			},
			"finish": func(t *rapid.T) {
				if len(running) == 0 {
					return
				}
				i := rapid.IntRange(0, len(running)-1).Draw(t, "i")
				in := running[i]
				running = slices.Delete(running, i, i+1)
				late = append(late, in)
				r := Result{Value: in.Value}
				if rapid.Bool().Draw(t, "fails") {
					r = Result{Failure: &Failure{Err: errors.New("x"), Traceback: "where", Pickle: []byte("what")}}
				}
				if c.Finish(in, r) == canceled {
					t.Fatal("C3, C6: the wrong answer to a finish")
				}
			},
			"die": func(t *rapid.T) { // its worker: the input is taken again, if nobody has seen part of its result
				if len(running) == 0 {
					return
				}
				i := rapid.IntRange(0, len(running)-1).Draw(t, "i")
				in := running[i]
				running = slices.Delete(running, i, i+1)
				late = append(late, in)
				if !c.Again(in) {
					c.Finish(in, Result{Failure: &Failure{Err: errors.New("died")}})
				}
			},
			"late": func(t *rapid.T) {
				if len(late) > 0 {
					in := rapid.SampledFrom(late).Draw(t, "in")
					if c.Finish(in, Result{Value: in.Value}) || c.Again(in) || c.Yield(ctx, in, Value{}, nil) {
						t.Fatal("C3: an old attempt counts")
					}
				}
			},
			"":     func(*rapid.T) { check() },
			"read": func(t *rapid.T) { read(rapid.IntRange(1, 5).Draw(t, "limit")) },
			"cancel": func(t *rapid.T) {
				if rapid.IntRange(0, 20).Draw(t, "really") == 0 {
					canceled = canceled || !c.Progress().Ended
					c.Cancel()
				}
			},
		})
		// To the end.
		for put < total && !canceled {
			var rest []Value
			for i := put; i < total; i++ {
				rest = append(rest, number(i))
			}
			next, err := c.Put(ctx, int64(put), rest, true)
			if err != nil {
				t.Fatal(err)
			}
			put = int(next)
		}
		if !canceled {
			if _, err := c.Put(ctx, int64(total), nil, true); err != nil {
				t.Fatal(err)
			}
		}
		for _, in := range running {
			c.Finish(in, Result{Value: in.Value})
		}
		for {
			in, ok := c.Take()
			if !ok {
				break
			}
			c.Finish(in, Result{Value: in.Value})
		}
		read(-1)
		p := c.Progress()
		finals := map[int64]int{}
		last, ended := int64(-1), int64(0) // by the cancel
		for _, r := range got {
			if r.Failure != nil && errors.Is(r.Failure.Err, ErrCanceled) {
				ended++
			}
			if finals[r.Index] > 0 {
				t.Fatalf("C1: input %d has a result after its final one", r.Index)
			}
			if !r.More {
				finals[r.Index]++
			}
			if ordered && r.Index < last {
				t.Fatalf("C4: %d after %d", r.Index, last)
			}
			last = r.Index
		}
		if !p.Ended || len(finals) != put || p.Done != int64(put)-ended || p.Inputs != int64(put) {
			t.Fatalf("C1, C7: %d inputs, %d results, %+v", put, len(finals), p)
		}
		check()
		if err := errors.Join(c.Close(), c.Close(), other.Close()); err != nil || budget.used.Load() != 0 {
			t.Fatalf("C9: %d in use after the end: %v", budget.used.Load(), err)
		}
	})
}

// TestBounds has an endless producer and a consumer that stops early: a hundred thousand inputs, and no more held than promised.
func TestBounds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := New(true, NewBudget(1<<10), t.TempDir())
		ctx, cancel := context.WithCancel(t.Context())
		produced := make(chan int64)
		go func() {
			next := int64(0)
			for {
				batch := make([]Value, 64)
				got, err := c.Put(ctx, next, batch, false)
				if err != nil || ctx.Err() != nil {
					produced <- got
					return
				}
				next = got
			}
		}()
		worked := make(chan bool)
		go func() {
			defer close(worked)
			for !c.Progress().Ended {
				changed := c.Changed()
				in, ok := c.Take()
				if !ok {
					select {
					case <-changed:
					case <-ctx.Done():
						return
					}
					continue
				}
				c.Finish(in, Result{Value: Value{Data: make([]byte, 100)}})
			}
		}()
		seen := int64(0)
		for r, err := range c.Results(ctx, 0, nil) {
			if err != nil || r.Index != seen {
				t.Fatal(r.Index, seen, err)
			}
			seen++
			c.mu.Lock()
			held := len(c.open) + len(c.out) + len(c.waiting)
			c.mu.Unlock()
			if held > 2*Window+keepSent+1001 {
				t.Fatalf("%d held after %d", held, seen)
			}
			if seen == 100_000 {
				break
			}
		}
		synctest.Wait()
		if p := c.Progress(); p.Inputs > seen+Window {
			t.Errorf("%d inputs were taken, %d results sent", p.Inputs, seen)
		}
		c.Cancel()
		cancel()
		<-produced
		<-worked
		if _, err := c.Put(t.Context(), c.Progress().Inputs, []Value{{}}, false); !errors.Is(err, ErrCanceled) {
			t.Error("an input after the cancel:", err)
		}
	})
}

// TestResume asks again for results after a lost connection, and for some that are gone.
func TestResume(t *testing.T) {
	t.Parallel()
	c := New(false, NewBudget(0), t.TempDir())
	for i := range int64(keepSent + 3000) {
		if _, err := c.Put(t.Context(), i, []Value{{}}, i == keepSent+2999); err != nil {
			t.Fatal(err)
		}
		in, _ := c.Take()
		c.Finish(in, Result{})
		c.markSent(i + 1)
	}
	from := int64(keepSent + 2500)
	for r, err := range c.Results(t.Context(), from, nil) {
		if err != nil || r.Sequence != from {
			t.Fatal(r.Sequence, from, err)
		}
		from++
	}
	if from != keepSent+3000 {
		t.Error("ended at", from)
	}
	for _, err := range c.Results(t.Context(), 0, nil) {
		if !errors.Is(err, ErrGone) {
			t.Error("what is gone was found:", err)
		}
	}
}

// TestSince is how long an input could have been taken: neither behind another, nor while nobody reads results.
func TestSince(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := New(false, NewBudget(1<<30), t.TempDir())
		start := time.Now()
		waited := func(want time.Duration) Input {
			t.Helper()
			in, ok := c.Take()
			if got := in.Since.Sub(start); !ok || got != want {
				t.Errorf("input %d could be taken since %s, want %s", in.Index, got, want)
			}
			return in
		}
		if _, err := c.Put(t.Context(), 0, []Value{{}, {}, {}}, true); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		first := waited(0)
		time.Sleep(time.Second)
		c.Finish(first, Result{Value: Value{Data: make([]byte, MaxBytes+1)}})
		if _, ok := c.Take(); ok {
			t.Error("taken while nobody reads")
		}
		c.markSent(1)
		waited(2 * time.Second)
		again := waited(2 * time.Second)
		time.Sleep(time.Second)
		c.Again(again)
		waited(3 * time.Second)
	})
}

// TestDisk has values without room in memory go about: the disk that they take stays bounded, and a call that has ended is as it was.
func TestDisk(t *testing.T) {
	t.Parallel()
	c := New(false, NewBudget(0), t.TempDir())
	const size, count = 1 << 20, 64
	value := func(i int64) Value { return Value{Data: bytes.Repeat([]byte{byte(i)}, size)} }
	var from int64
	for i := range int64(2 * count) {
		if _, err := c.Put(t.Context(), i, []Value{value(i)}, i == 2*count-1); err != nil {
			t.Fatal(err)
		}
		in, ok := c.Take()
		if !ok || in.Value.Data[size-1] != byte(i) {
			t.Fatalf("input %d: %v, of %d bytes", i, ok, len(in.Value.Data))
		}
		c.Finish(in, Result{Value: value(i)})
		for r, err := range c.Results(t.Context(), from, nil) {
			if err != nil || r.Index != i || r.Value.Data[0] != byte(i) {
				t.Fatal(i, r.Index, err)
			}
			from++
			break
		}
	}
	var info syscall.Stat_t
	took := int64(0)
	for _, s := range []*store{&c.inputs, &c.results} {
		if err := syscall.Fstat(int(s.file.Fd()), &info); err != nil {
			t.Fatal(err)
		}
		took += info.Blocks * 512
	}
	if most := int64(MaxBytes + 4*piece); took > most {
		t.Errorf("%d bytes on disk, want %d at most", took, most)
	}
	again := 0
	for r, err := range c.Results(t.Context(), 2*count-10, nil) {
		if err != nil || r.Value.Data[size-1] != byte(r.Index) {
			t.Fatal(r.Index, err)
		}
		again++
	}
	if again != 10 {
		t.Errorf("%d results again, want 10", again)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	for _, err := range c.Results(t.Context(), 2*count-1, nil) {
		if !errors.Is(err, ErrGone) {
			t.Error("after the call was forgotten:", err)
		}
	}
}

// TestNoRoom has a value that finds room nowhere: its input says so, and the call goes on to its end.
func TestNoRoom(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	c := New(false, NewBudget(4), file) // no folder can be made there
	if _, err := c.Put(t.Context(), 0, []Value{number(0), number(1)}, true); err != nil {
		t.Fatal(err)
	}
	if next, err := c.Put(t.Context(), 1, []Value{number(1)}, true); next != 1 || !errors.Is(err, ErrStore) {
		t.Error("an input without room:", next, err)
	}
	in, _ := c.Take()
	if c.Yield(t.Context(), in, Value{Data: make([]byte, 5)}, nil) {
		t.Error("a value without room was kept")
	}
	if _, err := c.Put(t.Context(), 1, []Value{number(1)}, true); err != nil {
		t.Fatal(err)
	}
	in, _ = c.Take()
	c.Finish(in, Result{Value: Value{Data: make([]byte, 5)}})
	count := 0
	for r, err := range c.Results(t.Context(), 0, nil) {
		if err != nil || r.Failure == nil || !errors.Is(r.Failure.Err, ErrStore) {
			t.Error(r, err)
		}
		count++
	}
	if count != 2 {
		t.Errorf("%d results", count)
	}
}

// TestEmpty ends at once.
func TestEmpty(t *testing.T) {
	t.Parallel()
	c := New(true, NewBudget(0), t.TempDir())
	if _, err := c.Put(t.Context(), 0, nil, true); err != nil {
		t.Fatal(err)
	}
	for r, err := range c.Results(t.Context(), 0, nil) {
		t.Error(r, err)
	}
	if err := c.Wait(t.Context()); err != nil {
		t.Error(err)
	}
}
