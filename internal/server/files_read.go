package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"connectrpc.com/connect"

	tarnv1 "tarn.dev/tarn/api/gen/tarn/v1"
	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/lake"
)

// errNotAFileKey is returned for a key that no Select has told.
var errNotAFileKey = errdef.New(errdef.InvalidArgument, "server.not_a_file_key", "not the key of a file")

// selectedPerMessage is how many files one message of Select tells.
const selectedPerMessage = 512

func (s *fileService) Select(ctx context.Context, req *tarnv1.SelectRequest, out *connect.ServerStream[tarnv1.SelectResponse]) error {
	p, err := s.projects.Open(ctx, req.GetProject())
	if err != nil {
		return err
	}
	return inCommit(ctx, p.Lake, req.GetRef(), req.GetPattern(), func(c lake.Commit, pattern, ref string) error {
		sel, err := selectFiles(ctx, p.Lake.Tree(c.Tree), pattern, ref)
		if err != nil {
			return err
		}
		next := &tarnv1.SelectResponse{Commit: c.ID.String(), One: sel.one}
		for ke, err := range sel.entries {
			if err != nil {
				return err
			}
			next.Files = append(next.Files, selected(ke, sel.strip))
			if len(next.Files) == selectedPerMessage {
				if err := out.Send(next); err != nil {
					return err
				}
				next.Files = next.Files[:0]
			}
		}
		return out.Send(next)
	})
}

func selected(ke lake.KeyEntry, strip string) *tarnv1.Selected {
	f := &tarnv1.Selected{Key: ke.Key, Relative: strings.TrimPrefix(lake.DisplayKey(ke.Key), strip), Size: ke.Entry.Location.Size}
	if ke.Entry.Kind == lake.KindFile {
		f.Hash = ke.Entry.Version
	}
	return f
}

// Files up to aheadSize are read in advance, aheadFiles of them at once: from a bucket, each takes a while.
const (
	aheadSize  = 256 << 10
	aheadFiles = 8
)

func (s *fileService) Read(ctx context.Context, req *tarnv1.ReadRequest, out *connect.ServerStream[tarnv1.ReadResponse]) error {
	p, err := s.projects.Open(ctx, req.GetProject())
	if err != nil {
		return err
	}
	c, err := p.Lake.Resolve(ctx, req.GetCommit())
	if err != nil {
		return err
	}
	open := p.Flow.OpenFile
	if req.GetAcceptDrift() {
		open = p.Flow.OpenDrifted
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // of what is read ahead
	tree, w := p.Lake.Tree(c.Tree), pieceWriter{out: out}
	ahead := make([]chan opened, 0, aheadFiles)
	offset, keys := req.GetOffset(), req.GetKeys()
	for next := 0; next < len(keys) || len(ahead) > 0; {
		if next < len(keys) && len(ahead) < aheadFiles {
			ahead = append(ahead, openAhead(ctx, tree, open, keys[next], offset))
			offset = 0
			next++
			continue
		}
		file := <-ahead[0]
		ahead = ahead[1:]
		if err := w.file(file); err != nil {
			for _, rest := range ahead {
				cancel()
				(<-rest).close()
			}
			return err
		}
	}
	return w.flush()
}

// opened is a file that is about to be sent: its content, or, if it is large, its reader.
type opened struct {
	name    string
	content []byte
	r       io.ReadCloser
	err     error
}

func (o opened) close() {
	if o.r != nil {
		o.r.Close() //nolint:errcheck // read only
	}
}

func openAhead(ctx context.Context, tree lake.Tree, open opener, key string, offset int64) chan opened {
	done := make(chan opened, 1)
	go func() { done <- openOne(ctx, tree, open, key, offset) }()
	return done
}

func openOne(ctx context.Context, tree lake.Tree, open opener, key string, offset int64) opened {
	e, found, err := tree.Get(ctx, key)
	switch {
	case err != nil:
		return opened{err: err}
	case !found || !strings.HasPrefix(key, lake.FilePrefix) || e.Kind == lake.KindFolder:
		return opened{err: errNotAFileKey.Errorf("%q is not the key of a file in that commit", key)}
	}
	o := opened{name: lake.DisplayKey(key)}
	if o.r, o.err = open(ctx, e); o.err != nil {
		o.err = fmt.Errorf("open %s: %w", o.name, o.err)
		return o
	}
	if offset > 0 {
		o.err = skip(o.r, offset)
	} else if e.Location.Size <= aheadSize && e.Kind == lake.KindFile {
		o.content, o.err = io.ReadAll(io.LimitReader(o.r, aheadSize+1))
		o.close()
		o.r = nil
	}
	if o.err != nil {
		o.close()
		o.r, o.err = nil, fmt.Errorf("read %s: %w", o.name, o.err)
	}
	return o
}

// skip leaves the first bytes out: without reading them, where that can be.
func skip(r io.Reader, offset int64) error {
	if s, ok := r.(io.Seeker); ok {
		_, err := s.Seek(offset, io.SeekStart)
		return err
	}
	_, err := io.CopyN(io.Discard, r, offset)
	return err
}

// pieceWriter puts what is small together in messages of about getBuffer.
type pieceWriter struct {
	out  *connect.ServerStream[tarnv1.ReadResponse]
	next tarnv1.ReadResponse
	size int
	buf  []byte
}

func (w *pieceWriter) file(o opened) error {
	switch {
	case o.err != nil:
		return o.err
	case o.r == nil:
		return w.add(o.content, true)
	}
	defer o.close()
	if err := w.flush(); err != nil {
		return err
	}
	if w.buf == nil {
		w.buf = make([]byte, getBuffer)
	}
	for {
		n, err := io.ReadFull(o.r, w.buf)
		last := errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
		if err != nil && !last {
			return fmt.Errorf("read %s: %w", o.name, err)
		}
		if err := errors.Join(w.add(w.buf[:n], last), w.flush()); err != nil || last {
			return err
		}
	}
}

func (w *pieceWriter) add(data []byte, last bool) error {
	w.next.Pieces = append(w.next.Pieces, &tarnv1.Piece{Data: data, Last: last})
	if w.size += len(data); w.size < getBuffer && len(w.next.Pieces) < selectedPerMessage {
		return nil
	}
	return w.flush()
}

func (w *pieceWriter) flush() error {
	if len(w.next.Pieces) == 0 {
		return nil
	}
	err := w.out.Send(&w.next)
	w.next.Pieces, w.size = w.next.Pieces[:0], 0
	return err
}
