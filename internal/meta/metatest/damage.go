package metatest

import (
	"bytes"
	"errors"
	"fmt"
	"testing"

	"tarn.dev/tarn/internal/meta"
)

// DamagedRow changes each byte of the one row of s, one at a time, by giving change what follows SET in an
// UPDATE; blob is how the database writes bytes. Whoever reads the row MUST get ErrCorrupt, other rows MUST be
// readable, Check MUST name it, and Heal MUST give back what was written.
func DamagedRow(t *testing.T, s meta.Store, change func(set string), blob string) {
	t.Helper()
	if _, err := s.Txn(t.Context(), nil, []meta.Write{meta.Set("k/row", []byte("some value"))}); err != nil {
		t.Fatal(err)
	}
	row, err := s.Get(t.Context(), "k/row")
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		was  []byte
		text func(b []byte) string
	}{
		"key":     {[]byte(row.Key), func(b []byte) string { return fmt.Sprintf(blob, b) }},
		"value":   {row.Value, func(b []byte) string { return fmt.Sprintf(blob, b) }},
		"version": {number(row.Version), decimal},
		"sum":     {number(meta.Sum(row)), decimal},
	} {
		for i := range c.was {
			b := bytes.Clone(c.was)
			b[i] ^= 1 << (i % 8)
			change(name + " = " + c.text(b))
			damagedRow(t, s, fmt.Sprintf("byte %d of the %s", i, name), row)
			change(name + " = " + c.text(c.was))
		}
	}
	for d, err := range s.Check(t.Context()) {
		t.Errorf("after all is as it was: %v %v", d, err)
	}
}

func damagedRow(t *testing.T, s meta.Store, what string, want meta.Row) {
	t.Helper()
	var found []meta.Damage
	for d, err := range s.Check(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		if d.Key != "" {
			found = append(found, d)
		}
	}
	if len(found) != 1 || !errors.Is(found[0].Err, meta.ErrCorrupt) {
		t.Fatalf("%s: check finds %v", what, found)
	}
	if healed, ok := found[0].Heal(); !ok || healed.Key != want.Key || !bytes.Equal(healed.Value, want.Value) || healed.Version != want.Version {
		t.Errorf("%s: healed to %v, %v", what, healed, ok)
	}
	if _, err := s.Get(t.Context(), found[0].Key); !errors.Is(err, meta.ErrCorrupt) {
		t.Errorf("%s: get gives %v", what, err)
	}
	if _, err := s.Txn(t.Context(), nil, []meta.Write{meta.Set("l", nil)}); err != nil {
		t.Fatal(err)
	}
	damaged, sound := 0, 0
	for row, err := range s.Scan(t.Context(), meta.Range{}) {
		switch {
		case err == nil:
			sound++
		case errors.Is(err, meta.ErrCorrupt) && row.Key == found[0].Key:
			damaged++
		default:
			t.Errorf("%s: scan gives %v", what, err)
		}
	}
	if damaged != 1 || sound != 1 {
		t.Errorf("%s: scan gives %d damaged rows and %d others", what, damaged, sound)
	}
	if _, err := s.Txn(t.Context(), nil, []meta.Write{meta.Delete("l")}); err != nil {
		t.Fatal(err)
	}
	// A row whose version has changed may be none of those that a watcher asks for; the deletion always is.
	for e, err := range s.Watch(t.Context(), "", 0) {
		if err == nil && e.Key == found[0].Key || err != nil && !errors.Is(err, meta.ErrCorrupt) {
			t.Errorf("%s: watch gives %v %v", what, e, err)
		}
		break
	}
}

func number(n int64) []byte {
	b := make([]byte, 8)
	for i := range b {
		b[i] = byte(n >> (56 - 8*i))
	}
	return b
}

func decimal(b []byte) string {
	var n int64
	for _, c := range b {
		n = n<<8 | int64(c)
	}
	return fmt.Sprint(n)
}
