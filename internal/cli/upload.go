package cli

import (
	"context"
	"errors"
	"io"
	"os"

	tarnv1 "tarn.dev/tarn/api/gen/tarn/v1"
	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/cli/ui"
)

const (
	// putBuffer is how much of a file travels in one message.
	putBuffer = 512 << 10
	// smallFile is the size up to which a file travels with others, which are putFiles and putBuffer together at most.
	smallFile = 64 << 10
	putFiles  = 256
	// putAhead groups are read while another one is sent.
	putAhead = 4
)

// errChanged is returned for a file that was written while it was read.
var errChanged = errdef.New(errdef.FailedPrecondition, "cli.source_changed", "the file changed while it was read")

// upload is a put on its way.
type upload struct {
	send func(*tarnv1.PutRequest) error
	in   io.Reader
	bar  *ui.Bar
	buf  []byte
}

// put sends the sources.
func (a *app) put(ctx context.Context, t target, write *tarnv1.Write, sources []source) (*tarnv1.PutResponse, error) {
	total := int64(0)
	for _, s := range sources {
		if s.size < 0 || total < 0 {
			total = -1
		} else {
			total += s.size
		}
	}
	// A failure on this side must not leave the server waiting, nor let it publish half of the files.
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stream, err := t.Files.Put(ctx)
	if err != nil {
		return nil, err
	}
	u := &upload{send: stream.Send, in: a.in, bar: a.err.Progress(total, "storing")}
	defer u.bar.Done()
	if err = u.send(&tarnv1.PutRequest{Event: &tarnv1.PutRequest_Write{Write: write}}); err == nil {
		err = u.all(ctx, sources)
	}
	if err != nil && !errors.Is(err, io.EOF) {
		cancel(err)
		stream.CloseAndReceive() //nolint:errcheck // the error is ours
		return nil, err
	}
	// io.EOF from Send says that the server has answered early: with an error.
	return stream.CloseAndReceive()
}

// putGroup is what is sent together: small files, which somebody else reads, or one large one.
type putGroup struct {
	sources []source
	read    chan readGroup // nil for a large one
}

type readGroup struct {
	files []*tarnv1.WholeFile
	err   error
}

// all sends the sources in their order.
func (u *upload) all(ctx context.Context, sources []source) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	groups := make(chan putGroup, putAhead)
	go func() {
		defer close(groups)
		for len(sources) > 0 {
			g := nextGroup(sources)
			sources = sources[len(g.sources):]
			select {
			case groups <- g:
			case <-ctx.Done():
				return
			}
			if g.read != nil {
				go func() { g.read <- readAll(g.sources) }()
			}
		}
	}()
	for g := range groups {
		if err := u.group(ctx, g); err != nil {
			return err
		}
	}
	return context.Cause(ctx)
}

func nextGroup(sources []source) putGroup {
	size := int64(0)
	for i, s := range sources {
		small := s.size >= 0 && s.size <= smallFile
		switch {
		case !small && i == 0:
			return putGroup{sources: sources[:1]}
		case !small, i == putFiles, size+s.size > putBuffer:
			return putGroup{sources[:i], make(chan readGroup, 1)}
		}
		size += s.size
	}
	return putGroup{sources, make(chan readGroup, 1)}
}

func (u *upload) group(ctx context.Context, g putGroup) error {
	if g.read == nil {
		return u.large(ctx, g.sources[0])
	}
	r := <-g.read
	if r.err != nil {
		return r.err
	}
	if err := context.Cause(ctx); err != nil {
		return err
	}
	for _, f := range r.files {
		u.bar.Add(len(f.GetContent()))
	}
	return u.send(&tarnv1.PutRequest{Event: &tarnv1.PutRequest_Files{Files: &tarnv1.WholeFiles{Files: r.files}}})
}

// readAll reads small files.
func readAll(sources []source) (r readGroup) {
	for _, s := range sources {
		w := &tarnv1.WholeFile{Path: s.name()}
		r.err = reading(s.file, func(f *os.File) error {
			w.Content = make([]byte, s.size+1) // one more, so that it shows when there is more
			n, err := io.ReadFull(f, w.Content)
			w.Content = w.Content[:n]
			switch {
			case err == nil:
				return errChanged.Errorf("%s has grown since it was looked at; nothing was stored", s.file)
			case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
				return nil
			}
			return errSource.Errorf("read %s: %w", s.file, err)
		})
		if r.err != nil {
			return r
		}
		r.files = append(r.files, w)
	}
	return r
}

// reading lets read read a file, and refuses what was written meanwhile: that may be a mix of before and after.
func reading(name string, read func(*os.File) error) error {
	f, err := os.Open(name)
	if err != nil {
		return errSource.Errorf("read %s: %w", name, err)
	}
	defer f.Close() //nolint:errcheck // read only
	before, err := f.Stat()
	if err != nil {
		return errSource.Errorf("read %s: %w", name, err)
	}
	if err := read(f); err != nil {
		return err
	}
	after, err := f.Stat()
	if err != nil {
		return errSource.Errorf("read %s: %w", name, err)
	}
	if before.Size() != after.Size() || !before.ModTime().Equal(after.ModTime()) {
		return errChanged.Errorf("%s changed while it was read; nothing was stored", name).WithNext("put it again when nobody writes to it")
	}
	return nil
}

// large sends a file in messages of its own.
func (u *upload) large(ctx context.Context, s source) error {
	if err := u.send(&tarnv1.PutRequest{Event: &tarnv1.PutRequest_Path{Path: s.name()}}); err != nil {
		return err
	}
	if s.file == "-" {
		return u.copy(s.file, interruptible{ctx, u.in})
	}
	return reading(s.file, func(f *os.File) error { return u.copy(s.file, f) })
}

func (u *upload) copy(name string, r io.Reader) error {
	if u.buf == nil {
		u.buf = make([]byte, putBuffer)
	}
	for {
		n, err := io.ReadFull(r, u.buf)
		if n > 0 {
			u.bar.Add(n)
			if err := u.send(&tarnv1.PutRequest{Event: &tarnv1.PutRequest_Data{Data: u.buf[:n]}}); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return nil
		}
		if err != nil {
			return errSource.Errorf("read %s: %w", name, err)
		}
	}
}

// interruptible ends a read of stdin, which may wait for ever, when ctx ends. The read that was under way
// keeps its own buffer: it may still come to an end.
type interruptible struct {
	ctx context.Context //nolint:containedctx // io.Reader has no other place for it
	r   io.Reader
}

func (i interruptible) Read(b []byte) (int, error) {
	type result struct {
		n   int
		err error
	}
	own, done := make([]byte, len(b)), make(chan result, 1)
	go func() {
		n, err := i.r.Read(own)
		done <- result{n, err}
	}()
	select {
	case got := <-done:
		return copy(b, own[:got.n]), got.err
	case <-i.ctx.Done():
		return 0, context.Cause(i.ctx)
	}
}
