package lake

import (
	"bytes"
	"context"
	"errors"
	"io"
	"sort"

	"tarn.dev/tarn/internal/base/errdef"
)

// OpenFile reads a file's content. Chunks are checked as they are read; reading straight ahead fetches
// the next ones in advance. The reader is for one goroutine; it ends with ctx.
func (l *Lake) OpenFile(ctx context.Context, ref FileRef) (io.ReadSeekCloser, error) {
	switch {
	case ref.Size < 0 || ref.Height > maxHeight:
		return nil, ErrCorrupt.Errorf("a file of %d bytes and height %d cannot be", ref.Size, ref.Height)
	case !ref.Root.IsZero():
		if ref.Size == 0 || len(ref.Inline) > 0 {
			return nil, ErrCorrupt.Errorf("a file with a root must have a size and no inline content")
		}
		ctx, cancel := context.WithCancelCause(ctx)
		return &fileReader{l: l, ctx: ctx, cancel: cancel, ref: ref}, nil
	case ref.forgotten():
		return nil, ErrForgotten
	case int64(len(ref.Inline)) != ref.Size:
		return nil, ErrCorrupt.Errorf("a file of %d bytes has %d bytes inline", ref.Size, len(ref.Inline))
	}
	return inlineReader{bytes.NewReader(ref.Inline)}, nil
}

type inlineReader struct{ *bytes.Reader }

func (inlineReader) Close() error { return nil }

// span is a chunk's place in its file.
type span struct {
	fileChild
	start int64
}

func (s span) end() int64 { return s.start + s.size }

// fetch is a chunk being read in advance.
type fetch struct {
	span
	result chan fetched
}

type fetched struct {
	data []byte
	err  error
}

// readAhead chunks are fetched in advance: enough to hide the hashing of one behind the use of another.
const readAhead = 2

type fileReader struct {
	l      *Lake
	ctx    context.Context //nolint:containedctx // Read and Seek take none
	cancel context.CancelCauseFunc
	ref    FileRef

	pos    int64
	chunk  span // whose bytes are data
	data   []byte
	leaf   []span // the chunks of the node read last
	ahead  []fetch
	closed bool
}

// ErrReaderClosed is returned by a file reader after Close.
var ErrReaderClosed = errdef.New(errdef.FailedPrecondition, "lake.reader_closed", "the file reader is closed")

func (r *fileReader) Read(p []byte) (int, error) {
	if r.closed {
		return 0, ErrReaderClosed
	}
	if len(p) == 0 {
		return 0, nil
	}
	if r.pos >= r.ref.Size {
		return 0, io.EOF
	}
	if r.data == nil || r.pos < r.chunk.start || r.pos >= r.chunk.end() {
		if err := r.load(); err != nil {
			return 0, err
		}
	}
	n := copy(p, r.data[r.pos-r.chunk.start:])
	r.pos += int64(n)
	return n, nil
}

// Seek moves to any position >= 0; reading behind the end is io.EOF.
func (r *fileReader) Seek(offset int64, whence int) (int64, error) {
	if r.closed {
		return 0, ErrReaderClosed
	}
	switch whence {
	case io.SeekStart:
	case io.SeekCurrent:
		offset += r.pos
	case io.SeekEnd:
		offset += r.ref.Size
	default:
		return 0, errdef.Newf(errdef.InvalidArgument, "lake.bad_seek", "seek: unknown whence %d", whence)
	}
	if offset < 0 {
		return 0, errdef.Newf(errdef.InvalidArgument, "lake.bad_seek", "seek: position %d is before the begin of the file", offset)
	}
	r.pos = offset
	return offset, nil
}

func (r *fileReader) Close() error {
	if r.closed {
		return nil
	}
	r.closed = true
	r.cancel(ErrReaderClosed)
	for _, f := range r.ahead {
		<-f.result
	}
	r.data, r.leaf, r.ahead = nil, nil, nil
	return nil
}

// load makes the chunk at pos current.
func (r *fileReader) load() error {
	sequential := r.data != nil && r.pos == r.chunk.end()
	r.data = nil
	for len(r.ahead) > 0 && (r.pos < r.ahead[0].start || r.pos >= r.ahead[0].end()) {
		<-r.ahead[0].result // it is at most readAhead chunks; leaving them behind would unbound memory
		r.ahead = r.ahead[1:]
	}
	if len(r.ahead) == 0 {
		s, err := r.find(r.pos)
		if err != nil {
			return err
		}
		r.start(s)
	}
	f := r.ahead[0]
	r.ahead = r.ahead[1:]
	if sequential {
		next := f.end()
		if n := len(r.ahead); n > 0 {
			next = r.ahead[n-1].end()
		}
		for len(r.ahead) < readAhead && next < r.ref.Size {
			s, err := r.find(next)
			if err != nil {
				<-f.result
				return err
			}
			r.start(s)
			next = s.end()
		}
	}
	got := <-f.result
	if got.err != nil {
		return got.err
	}
	if int64(len(got.data)) != f.size {
		return ErrCorrupt.Errorf("chunk %s has %d bytes, its file says %d", f.hash, len(got.data), f.size)
	}
	r.chunk, r.data = f.span, got.data
	return nil
}

func (r *fileReader) start(s span) {
	f := fetch{s, make(chan fetched, 1)}
	r.ahead = append(r.ahead, f)
	go func() {
		data, err := r.l.Get(r.ctx, TypeChunk, s.hash)
		err = missingPart(err)
		f.result <- fetched{data, err}
	}()
}

// find returns the chunk at offset, which is inside the file.
func (r *fileReader) find(offset int64) (span, error) {
	if s, ok := spanAt(r.leaf, offset); ok {
		return s, nil
	}
	at := span{fileChild{r.ref.Root, r.ref.Size}, 0}
	for height := r.ref.Height; height > 0; height-- {
		data, err := r.l.Get(r.ctx, TypeFileNode, at.hash)
		if err != nil {
			return span{}, missingPart(err)
		}
		children, err := decodeFileNode(data, height, at.size)
		if err != nil {
			return span{}, ErrCorrupt.Errorf("file node %s: %w", at.hash, err)
		}
		spans, start := make([]span, len(children)), at.start
		for i, c := range children {
			spans[i] = span{c, start}
			start += c.size
		}
		if height == 1 {
			r.leaf = spans
		}
		at, _ = spanAt(spans, offset)
	}
	return at, nil
}

// missingPart: a part of a file that is named but nowhere is lost data, not a wrong name.
func missingPart(err error) error {
	if errors.Is(err, ErrNotFound) {
		return ErrCorrupt.Errorf("a part of the file is missing: %w", err)
	}
	return err
}

func spanAt(spans []span, offset int64) (span, bool) {
	i := sort.Search(len(spans), func(i int) bool { return spans[i].end() > offset })
	if i == len(spans) || offset < spans[i].start {
		return span{}, false
	}
	return spans[i], true
}
