package lake

import (
	"encoding/json"
	"strings"

	"tarn.dev/tarn/internal/meta"
)

// packState is what a pack's row says. Garbage collection moves live to condemned, and condemned to no
// row at all; nothing moves back.
type packState string

const (
	packLive      packState = "live"
	packCondemned packState = "condemned"
)

// packRow is the value of a pack's row: one row per pack, never one per object.
type packRow struct {
	State   packState `json:"state"`
	Size    int64     `json:"size"`
	Objects int       `json:"objects"`
	Epoch   int64     `json:"epoch"` // when it was condemned
}

// stored is what the pack's objects take.
func (r packRow) stored() int64 {
	return r.Size - int64(packHeader) - int64(packTrailer) - int64(r.Objects)*int64(packEntry)
}

// segmentRow is the value of an index segment's row.
type segmentRow struct {
	Size    int64 `json:"size"`
	Objects int64 `json:"objects"`
	Packs   int   `json:"packs"`
}

// Packs and segments share one prefix so that one scan sees both in one snapshot.
func (l *Lake) packKey(name Hash) string      { return l.prefix + "packs/p/" + name.String() }
func (l *Lake) segmentKey(name string) string { return l.prefix + "packs/s/" + name }
func (l *Lake) packsPrefix() string           { return l.prefix + "packs/" }

// packOfKey is the inverse of packKey.
func (l *Lake) packOfKey(key string) (Hash, bool) {
	hex, ok := strings.CutPrefix(key, l.prefix+"packs/p/")
	if !ok {
		return Hash{}, false
	}
	name, err := ParseHash(hex)
	return name, err == nil
}

func parsePackRow(row meta.Row) (packRow, error) {
	var r packRow
	if err := json.Unmarshal(row.Value, &r); err != nil {
		return packRow{}, ErrCorrupt.Errorf("row %s: %w", row.Key, err)
	}
	if r.State != packLive && r.State != packCondemned {
		return packRow{}, ErrCorrupt.Errorf("row %s: unknown state %q", row.Key, r.State)
	}
	return r, nil
}

func mustJSON(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // structs of numbers and strings
	}
	return b
}
