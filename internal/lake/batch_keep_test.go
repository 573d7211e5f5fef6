package lake

import (
	"bytes"
	"testing"
)

// What a put has stored is found by the next one, also when nothing came of the first.
func TestStoppedPutIsContinued(t *testing.T) {
	t.Parallel()
	s := newTestStore(t)
	l := s.open(t, Options{})
	data := randomBytes(11, keepBytes+3*packTarget)
	b := l.Begin(t.Context())
	if _, err := b.PutFile(t.Context(), bytes.NewReader(data)); err != nil {
		t.Fatal(err)
	}
	if n := b.Reused(); n != 0 {
		t.Errorf("%d bytes of something new were there already", n)
	}
	b.Discard()
	again := s.open(t, Options{}) // as another server would
	b = again.Begin(t.Context())
	defer b.Discard()
	ref, err := b.PutFile(t.Context(), bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	if n := b.Reused(); n < keepBytes-maxChunk {
		t.Errorf("%d of %d bytes were found again", n, len(data))
	}
	flush(t, b)
	got := make([]byte, len(data))
	if _, err := openFile(t, again, ref).Read(got[:1]); err != nil {
		t.Error(err)
	}
	report := func(p Problem) { t.Error(p) }
	if _, err := again.Fsck(t.Context(), FsckOptions{Deep: true}, report); err != nil {
		t.Error(err)
	}
}
