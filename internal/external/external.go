// Package external reads originals: files that somebody else keeps, at a URL, and that the history names without
// holding their bytes.
//
// What a look at an original tells is a State. The one that was recorded is the identity of what was linked: whoever
// opens it gets those bytes or an error that says what is there instead, never other bytes in silence.
//
// Each scheme has a Source: of file, http and https here, of object stores beside their blobs.
package external

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/bmatcuk/doublestar/v4"
	"github.com/zeebo/blake3"

	"tarn.dev/tarn/internal/base/errdef"
)

// Errors of originals.
var (
	// ErrURL means that a URL names nothing that can be linked.
	ErrURL = errdef.New(errdef.InvalidArgument, "external.url", "not the URL of a file")
	// ErrChanged means that an original is not what it was.
	ErrChanged = errdef.New(errdef.FailedPrecondition, "external.changed", "the original has changed")
	// ErrGone means that there is no original, any more.
	ErrGone = errdef.New(errdef.FailedPrecondition, "external.gone", "the original is not there")
	// ErrDenied means that the original may not be read from here.
	ErrDenied = errdef.New(errdef.PermissionDenied, "external.denied", "no permission to read the original")
	// ErrUnverifiable means that nothing would tell a change.
	ErrUnverifiable = errdef.New(errdef.FailedPrecondition, "external.unverifiable", "a change of the original would not be noticed")
	// ErrUnreachable means that nobody answers, however often they are asked.
	ErrUnreachable = errdef.New(errdef.Unavailable, "external.unreachable", "the original cannot be reached")
)

// State is what a look at an original tells.
type State struct {
	URL      string
	ETag     string // what its server calls these bytes; of a file of this host: inode and time of change. May be empty
	Size     int64
	Modified time.Time // zero: unknown
}

// Same reports whether an original that now looks so holds what it held: by its etag where one was recorded, else by its time.
func (s State) Same(now State) bool {
	if s.Size != now.Size {
		return false
	}
	if s.ETag != "" {
		// A server may call the same bytes weak when it would compress them for others.
		return strings.TrimPrefix(s.ETag, weak) == strings.TrimPrefix(now.ETag, weak)
	}
	return s.Modified.Equal(now.Modified)
}

// weak begins the etag of what is equal, but perhaps not in each byte.
const weak = "W/"

// Version names the state, for memo and diff: URL, size, and etag or, for want of one, time.
func (s State) Version() string {
	mark := s.ETag
	if mark == "" {
		mark = s.Modified.UTC().Format(time.RFC3339Nano)
	}
	h := blake3.New()
	for _, part := range []string{"external 1", s.URL, strconv.FormatInt(s.Size, 10), mark} {
		fmt.Fprintf(h, "%d:%s", len(part), part) // a hash takes everything
	}
	return hex.EncodeToString(h.Sum(nil))
}

// String says what is there.
func (s State) String() string {
	text := fmt.Sprintf("%d bytes", s.Size)
	if s.ETag != "" {
		text += ", etag " + s.ETag
	}
	if !s.Modified.IsZero() {
		text += ", of " + s.Modified.UTC().Format(time.RFC3339)
	}
	return text
}

// verifiable refuses a state that could not tell a change.
func (s State) verifiable() error {
	if s.Size < 0 || s.ETag == "" && s.Modified.IsZero() {
		return ErrUnverifiable.Errorf("%s: its server tells neither etag nor time, or no size, so a change would not be noticed", s.URL).
			WithNext("download it, and store the copy: tarn file put")
	}
	return nil
}

// Found is an original that a URL names.
type Found struct {
	State
	Name string // below the folder that it is linked to
	One  bool   // the URL is this file's own
}

// Part is a part of a file: so many bytes from Offset on, or, below zero, all.
type Part struct{ Offset, Length int64 }

// All is the whole of a file.
var All = Part{Length: -1}

// End is where the part of a file of size bytes ends.
func (p Part) End(size int64) int64 {
	if p.Length < 0 || p.Length > size-p.Offset {
		return size
	}
	return p.Offset + p.Length
}

// Header is the header Range that asks for the part; none for a whole file.
func (p Part) Header() string {
	switch {
	case p.Length > 0:
		return fmt.Sprintf("bytes=%d-%d", p.Offset, p.Offset+p.Length-1)
	case p.Offset > 0:
		return fmt.Sprintf("bytes=%d-", p.Offset)
	}
	return ""
}

// Source reads the originals of a scheme.
type Source interface {
	// Find yields what a URL names: a file, or those in a folder, which come under its name unless the URL ends in a slash.
	Find(ctx context.Context, u *url.URL) iter.Seq2[Found, error]
	// Stat looks at one.
	Stat(ctx context.Context, u *url.URL) (State, error)
	// Open reads a part of one. It may refuse with ErrChanged one whose etag is not this, if that is not empty.
	Open(ctx context.Context, u *url.URL, etag string, part Part) (io.ReadCloser, State, error)
}

// Originals are those of all schemes.
type Originals struct{ sources map[string]Source }

// New returns the originals of this host and of the web, and those of more, by their scheme.
func New(more map[string]Source) *Originals {
	web := newWeb()
	sources := map[string]Source{"file": files{}, "http": web, "https": web}
	maps.Copy(sources, more)
	return &Originals{sources}
}

func (o *Originals) source(text string) (Source, *url.URL, error) {
	u, err := url.Parse(text)
	if err != nil {
		return nil, nil, ErrURL.Errorf("%.200q: %w", text, errors.Unwrap(err))
	}
	s := o.sources[u.Scheme]
	if s == nil {
		return nil, nil, ErrURL.Errorf("%.200q: a URL begins with %s://", text, strings.Join(slices.Sorted(maps.Keys(o.sources)), "://, "))
	}
	if u.User != nil {
		return nil, nil, ErrURL.Errorf("the URL of %s holds credentials, which would be in the history for ever", u.Host)
	}
	if u.Fragment != "" {
		return nil, nil, ErrURL.Errorf("%.200q: a # in a name is written %%23", text)
	}
	return s, u, nil
}

// Find yields what a URL names; nothing is an error. A * in its path matches any part of a name, ** any folders; one that
// belongs to a name is written %2A.
func (o *Originals) Find(ctx context.Context, text string) iter.Seq2[Found, error] {
	return func(yield func(Found, error) bool) {
		s, u, err := o.source(text)
		if err != nil {
			yield(Found{}, err)
			return
		}
		find := s.Find(ctx, u)
		if strings.Contains(u.EscapedPath(), "*") {
			find = glob(ctx, s, u)
		}
		none := true
		for f, err := range find {
			none = false
			if err == nil {
				err = f.verifiable()
			}
			if !yield(f, err) || err != nil {
				return
			}
		}
		if none {
			yield(Found{}, errdef.Newf(errdef.NotFound, "external.none", "%s holds no files", text))
		}
	}
}

// glob yields those files of the folder before the first * whose names match.
func glob(ctx context.Context, s Source, u *url.URL) iter.Seq2[Found, error] {
	escaped := u.EscapedPath()
	at := strings.LastIndex(escaped[:strings.Index(escaped, "*")], "/") + 1
	parts := strings.Split(escaped[at:], "*")
	for i, part := range parts {
		literal, err := url.PathUnescape(part)
		if err != nil {
			return failed(ErrURL.Errorf("%.200q: %w", u, err))
		}
		parts[i] = special.Replace(literal)
	}
	pattern := strings.Join(parts, "*")
	folder := *u
	folder.RawPath = escaped[:at]
	var err error
	if folder.Path, err = url.PathUnescape(folder.RawPath); err != nil {
		return failed(ErrURL.Errorf("%.200q: %w", u, err))
	}
	return func(yield func(Found, error) bool) {
		for f, err := range s.Find(ctx, &folder) {
			if err == nil && !doublestar.MatchUnvalidated(pattern, f.Name) {
				continue
			}
			if !yield(f, err) || err != nil {
				return
			}
		}
	}
}

// special are the characters of patterns that mean themselves here.
var special = strings.NewReplacer(`\`, `\\`, "[", `\[`, "?", `\?`, "{", `\{`)

func failed(err error) iter.Seq2[Found, error] {
	return func(yield func(Found, error) bool) { yield(Found{}, err) }
}

// Now looks at an original.
func (o *Originals) Now(ctx context.Context, text string) (State, error) {
	s, u, err := o.source(text)
	if err != nil {
		return State{}, err
	}
	return s.Stat(ctx, u)
}

// Check looks whether an original is what it was.
func (o *Originals) Check(ctx context.Context, was State) error {
	s, u, err := o.source(was.URL)
	if err != nil {
		return err
	}
	now, err := s.Stat(ctx, u)
	return compare(was, now, err)
}

func compare(was, now State, err error) error {
	switch {
	case errors.Is(err, ErrGone):
		return ErrGone.Errorf("%s is not there any more; linked were %s", was.URL, was).
			WithNext("tarn log NAME, for the commit that linked it")
	case err != nil:
		return err
	case !was.Same(now):
		return ErrChanged.Errorf("%s has changed: linked were %s; there now are %s", was.URL, was, now).
			WithNext("link it again, as a new version: tarn file link "+was.URL+" NAME", "take what is there now: tarn file get --accept-drift NAME")
	}
	return nil
}

// Open reads a part of an original, which must be what it was. The part lies in it. The reader's error tells a change
// that comes while it reads.
func (o *Originals) Open(ctx context.Context, was State, part Part) (io.ReadCloser, error) {
	s, u, err := o.source(was.URL)
	if err != nil {
		return nil, err
	}
	r, now, err := s.Open(ctx, u, was.ETag, part)
	if errors.Is(err, ErrChanged) {
		if now, err = s.Stat(ctx, u); err == nil && was.Same(now) { // it changed and changed back, or the server errs
			return nil, ErrUnreachable.Errorf("%s: its server says that it has changed, and that it is still %s", was.URL, now)
		}
		return nil, compare(was, now, err)
	}
	if err != nil {
		return nil, compare(was, now, err)
	}
	if err := compare(was, now, nil); err != nil {
		return nil, errors.Join(err, r.Close())
	}
	return &exact{ReadCloser: r, url: was.URL, left: part.End(was.Size) - part.Offset}, nil
}

// OpenDrifted reads what is there now, whatever was.
func (o *Originals) OpenDrifted(ctx context.Context, was State) (io.ReadCloser, error) {
	s, u, err := o.source(was.URL)
	if err != nil {
		return nil, err
	}
	r, now, err := s.Open(ctx, u, "", All)
	if err != nil {
		return nil, compare(was, now, err)
	}
	return r, nil
}

// Whole is the size of a file of which a server sends length bytes, with this header Content-Range if they are a part.
func Whole(contentRange string, length int64) int64 {
	_, size, _ := strings.Cut(contentRange, "/")
	if n, err := strconv.ParseInt(size, 10, 64); err == nil {
		return n
	}
	return length
}

// exact ends with an error where the bytes are more or less than were told.
type exact struct {
	io.ReadCloser
	url  string
	left int64
}

func (e *exact) Read(p []byte) (int, error) {
	n, err := e.ReadCloser.Read(p)
	e.left -= int64(n)
	switch {
	case e.left < 0:
		return 0, ErrChanged.Errorf("%s gives more bytes than it said it has", e.url)
	case errors.Is(err, io.EOF) && e.left > 0:
		return n, ErrChanged.Errorf("%s ends %d bytes before its end", e.url, e.left)
	}
	return n, err
}
