package catalog_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
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

// TestMetadataIsProved changes each byte of a table's metadata, manifest list and manifests, one at a time, cuts them
// and swaps them: nobody reads the table then.
func TestMetadataIsProved(t *testing.T) {
	t.Parallel()
	b, ctx := inMemory(t), context.Background()
	e := b.create(t, `[{"id":1,"name":"a"}]`)
	e = b.append(t, e, orders, `[{"id":2,"name":"b"}]`)
	whole := map[string][]byte{}
	err := b.Reach(ctx, e, func(name string) bool {
		if strings.Contains(name, "/metadata/") {
			whole[name] = nil
		}
		return true
	})
	if err != nil || len(whole) != 4 {
		t.Fatalf("%v: %v", whole, err)
	}
	refused := func(name, what string, data []byte) {
		t.Helper()
		b.take(t, name)
		b.restore(t, name, data)
		if _, err := b.Scan(ctx, e); !errdef.IsCorrupt(err) {
			t.Errorf("%s, %s: %v", name, what, err)
		}
	}
	for name := range whole {
		whole[name] = b.take(t, name)
		b.restore(t, name, whole[name])
	}
	for name, data := range whole {
		for at := range data {
			bad := bytes.Clone(data)
			bad[at] ^= 1 << (at % 8)
			refused(name, fmt.Sprintf("byte %d", at), bad)
		}
		refused(name, "cut", data[:len(data)-1])
		refused(name, "empty", nil)
		for _, other := range whole {
			if !bytes.Equal(other, data) {
				refused(name, "swapped", other)
			}
		}
		b.take(t, name)
		b.restore(t, name, data)
	}
	if _, err := b.Scan(ctx, e); err != nil {
		t.Error(err)
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
