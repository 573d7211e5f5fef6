package catalog_test

import (
	"bytes"
	"context"
	"io"
	"slices"
	"testing"

	"tarn.dev/tarn/internal/base/errdef"
)

func TestVerify(t *testing.T) {
	t.Parallel()
	b, ctx := inMemory(t), context.Background()
	e := b.create(t, `[{"id":1,"name":"a"}]`)
	e = b.append(t, e, orders, `[{"id":2,"name":"b"}]`)
	if err := b.Verify(ctx, e, true); err != nil {
		t.Fatal(err)
	}
	wrong := e
	wrong.Location.Rows++
	if err := b.Verify(ctx, wrong, false); !errdef.IsCorrupt(err) {
		t.Errorf("a wrong number of rows: %v", err)
	}
	var names []string
	first := func(name string) bool {
		seen := slices.Contains(names, name)
		if !seen {
			names = append(names, name)
		}
		return !seen
	}
	for range 2 { // once seen, a blob is not followed again
		if err := b.Reach(ctx, e, first); err != nil {
			t.Fatal(err)
		}
	}
	if len(names) != 6 { // metadata, manifest list, two manifests, two data files
		t.Errorf("blobs: %v", names)
	}
	for _, name := range names {
		whole := b.take(t, name)
		if err := b.Verify(ctx, e, false); !errdef.IsCorrupt(err) {
			t.Errorf("without %s: %v", name, err)
		}
		b.restore(t, name, whole)
	}
	// A flipped bit among the values: seen when rows are read, and only then.
	name := names[len(names)-1]
	whole := b.take(t, name)
	seen := 0
	for at := 4; at < 80; at++ {
		bad := bytes.Clone(whole)
		bad[at] ^= 1
		b.restore(t, name, bad)
		if err := b.Verify(ctx, e, false); err != nil {
			t.Errorf("without reading rows: %v", err)
		}
		if err := b.Verify(ctx, e, true); errdef.IsCorrupt(err) {
			seen++
		} else if err != nil {
			t.Errorf("byte %d: %v", at, err)
		}
		b.take(t, name)
	}
	if seen == 0 {
		t.Error("no flipped bit was seen")
	}
}

// take removes a blob and returns its bytes.
func (b *bench) take(t *testing.T, name string) []byte {
	t.Helper()
	ctx := context.Background()
	r, err := b.blobs.Get(ctx, name, 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	data, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	if err := b.blobs.Delete(ctx, name); err != nil {
		t.Fatal(err)
	}
	return data
}

func (b *bench) restore(t *testing.T, name string, data []byte) {
	t.Helper()
	if err := b.blobs.Put(context.Background(), name, bytes.NewReader(data)); err != nil {
		t.Fatal(err)
	}
}
