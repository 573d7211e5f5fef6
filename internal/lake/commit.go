package lake

import (
	"context"
	"encoding/binary"
	"fmt"
	"time"
	"unicode/utf8"

	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/lake/wire"
)

// MaxMessage bounds a commit's message: a log line, not a document.
const MaxMessage = 64 << 10

// ErrInvalidCommit is returned for an author, message or run that a commit cannot hold.
var ErrInvalidCommit = errdef.New(errdef.InvalidArgument, "lake.invalid_commit", "invalid commit")

// Commit is one state of all data of a project, with the states it came from. It never changes.
type Commit struct {
	ID         Hash      `json:"id"`
	Parents    []Hash    `json:"parents,omitempty"` // the first is the branch's head before
	Cut        []Hash    `json:"cut,omitempty"`     // the parents that retention has removed; not part of the commit
	Tree       Hash      `json:"tree"`              // zero: no entries
	Author     string    `json:"author,omitempty"`
	Message    string    `json:"message,omitempty"`
	Run        string    `json:"run,omitempty"` // the run that made it
	Time       time.Time `json:"time"`
	Generation int64     `json:"generation"` // longest way to a root: above that of every parent
}

// commitMagic opens every commit: "TC" and the version of the format.
const commitMagic = "TC\x01"

// encodeCommit writes c without its ID, which is the hash of these bytes. See docs/formats/commit.md.
func encodeCommit(c Commit) []byte {
	b := append([]byte(nil), commitMagic...)
	b = wire.AppendInt(b, int64(len(c.Parents)))
	for _, p := range c.Parents {
		b = append(b, p[:]...)
	}
	b = append(b, c.Tree[:]...)
	b = wire.AppendInt(b, c.Generation)
	b = binary.AppendVarint(b, c.Time.UnixNano())
	b = wire.AppendBytes(b, c.Author)
	b = wire.AppendBytes(b, c.Message)
	return wire.AppendBytes(b, c.Run)
}

// decodeCommit is the inverse of encodeCommit and refuses all other bytes.
func decodeCommit(id Hash, data []byte) (Commit, error) {
	r := wire.NewReader(data)
	if string(r.Take(len(commitMagic))) != commitMagic {
		return Commit{}, ErrCorrupt.Errorf("commit %s does not begin with %q; a newer Tarn may have written it", id, commitMagic)
	}
	c := Commit{ID: id}
	n := r.Size()
	if n > r.Len()/HashSize {
		r.Fail()
		n = 0
	}
	for range n {
		c.Parents = append(c.Parents, readHash(r))
	}
	c.Tree = readHash(r)
	c.Generation = r.Int()
	c.Time = time.Unix(0, r.Varint()).UTC()
	c.Author, c.Message, c.Run = r.String(), r.String(), r.String()
	if !r.Done() {
		return Commit{}, ErrCorrupt.Errorf("commit %s is cut off or has too much", id)
	}
	return c, nil
}

func readHash(r *wire.Reader) (h Hash) {
	copy(h[:], r.Take(HashSize))
	return h
}

// Commit reads a commit by its whole id; Resolve takes names.
func (l *Lake) Commit(ctx context.Context, id Hash) (Commit, error) {
	if err := l.index.cut(id); err != nil {
		return Commit{}, err
	}
	data, err := l.Get(ctx, TypeCommit, id)
	if err != nil {
		return Commit{}, fmt.Errorf("commit %s: %w", id, err)
	}
	c, err := decodeCommit(id, data)
	c.Cut = l.index.cutOf(c.Parents)
	return c, err
}

// CommitInfo is what a caller says about a commit it makes.
type CommitInfo struct {
	Author, Message, Run string

	// RequestID makes an update idempotent: a second one with the same id on the same branch returns
	// the first one's commit and does nothing. Empty: every call is a new one.
	RequestID string
}

func (i CommitInfo) check() error {
	for what, s := range map[string]string{"author": i.Author, "message": i.Message, "run": i.Run, "request id": i.RequestID} {
		most := MaxMessage
		if what != "message" {
			most = 1 << 10
		}
		switch {
		case len(s) > most:
			return ErrInvalidCommit.Errorf("the %s has %d bytes, at most %d are allowed", what, len(s), most)
		case !utf8.ValidString(s):
			return ErrInvalidCommit.Errorf("the %s %q is not valid UTF-8", what, clip(s))
		}
	}
	return nil
}

// newCommit describes the child of parents; a root has none.
func newCommit(parents []Commit, tree Hash, info CommitInfo, now time.Time) Commit {
	c := Commit{Tree: tree, Author: info.Author, Message: info.Message, Run: info.Run, Time: now.UTC()}
	for _, p := range parents {
		c.Parents = append(c.Parents, p.ID)
		c.Generation = max(c.Generation, p.Generation+1)
	}
	return c
}
