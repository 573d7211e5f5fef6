package lake

import (
	"time"

	"tarn.dev/tarn/internal/external"
)

// FileEntry is the entry of a file with this content: its identity is the content's hash, so that a file
// written twice, or cut in another way, is no change.
func FileEntry(ref FileRef) Entry {
	return Entry{Kind: KindFile, Version: ref.Hash.String(), Location: Location{Ref: ref, Size: ref.Size}}
}

// What an external entry has of its original: URL and etag are identity, the time tells versions without etag apart
// by being in their version.
const (
	externalURL      = "url"
	externalETag     = "etag"
	externalModified = "modified"
)

// ExternalEntry is the entry of a file that stays where it is.
func ExternalEntry(s external.State) Entry {
	e := Entry{Kind: KindExternal, Version: s.Version(), Properties: map[string]string{externalURL: s.URL}, Location: Location{Size: s.Size}}
	if s.ETag != "" {
		e.Properties[externalETag] = s.ETag
	}
	if !s.Modified.IsZero() {
		e.Location.Data = map[string]string{externalModified: s.Modified.UTC().Format(time.RFC3339Nano)}
	}
	return e
}

// Original is what was recorded of an external entry's original.
func (e Entry) Original() (external.State, error) {
	s := external.State{URL: e.Properties[externalURL], ETag: e.Properties[externalETag], Size: e.Location.Size}
	if text := e.Location.Data[externalModified]; text != "" {
		at, err := time.Parse(time.RFC3339Nano, text)
		if err != nil {
			return s, ErrEntryCorrupt.Errorf("link to %s: %w", s.URL, err)
		}
		s.Modified = at
	}
	if s.Version() != e.Version {
		return s, ErrEntryCorrupt.Errorf("link to %s: its version %s is not that of what it records", s.URL, e.Version)
	}
	return s, nil
}
