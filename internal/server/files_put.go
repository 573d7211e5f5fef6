package server

import (
	"context"
	"errors"
	"io"
	"runtime"
	"strings"

	"connectrpc.com/connect"
	"golang.org/x/sync/errgroup"

	tarnv1 "tarn.dev/tarn/api/gen/tarn/v1"
	"tarn.dev/tarn/internal/flow"
	"tarn.dev/tarn/internal/lake"
)

func (s *fileService) Put(ctx context.Context, in *connect.ClientStream[tarnv1.PutRequest]) (*tarnv1.PutResponse, error) {
	if !in.Receive() {
		return nil, errors.Join(in.Err(), errPutProtocol)
	}
	write := in.Msg().GetWrite()
	if write == nil {
		return nil, errPutProtocol
	}
	if err := checkWrite(write); err != nil {
		return nil, err
	}
	p, err := s.projects.Open(ctx, write.GetProject())
	if err != nil {
		return nil, err
	}
	if _, err := p.Lake.Branch(ctx, write.GetInto()); err != nil { // before the bytes travel
		return nil, err
	}
	may, err := p.Flow.Writable(ctx, write.GetInto())
	if err != nil {
		return nil, err
	}
	files := newStage(ctx, p.Lake, may)
	defer func() { files.discard() }()
	if err := (&putReader{in: in}).receive(ctx, files); err != nil {
		return nil, err
	}
	if err := files.done(ctx); err != nil {
		return nil, err
	}
	resp := &tarnv1.PutResponse{Files: files.files, Bytes: files.bytes, Reused: files.reused}
	if resp.Written, err = files.publish(ctx, p, write, "Put"); err != nil {
		return nil, err
	}
	return resp, nil
}

// publication is a client's change of files.
func publication(w *tarnv1.Write, message string, change func(ctx context.Context, tx *lake.Tx) error) flow.Publication {
	return flow.Publication{Branch: w.GetInto(), Info: info(w, message), Dir: w.GetDir(), Change: change}
}

// filePath is the path as it stands in the tree: normal form, no slash in front.
func filePath(name string) (string, error) {
	key := lake.FileKey(strings.TrimPrefix(name, "/"))
	if _, err := lake.ParseKey(key); err != nil {
		return "", err
	}
	return lake.DisplayKey(key), nil
}

// putReader reads the files of a put. It is the reader of the one whose bytes come in messages of their own: it ends
// where the next message is of something else, which is then in ahead.
type putReader struct {
	in    *connect.ClientStream[tarnv1.PutRequest]
	data  []byte
	ahead *tarnv1.PutRequest // of another file, if not nil
	done  bool
}

// renewFiles is how many small files one batch takes.
const renewFiles = 64 << 10

// receive stores what a put sends.
func (r *putReader) receive(ctx context.Context, files *stage) error {
	for {
		more, err := r.some(ctx, files)
		if err != nil || !more {
			return err
		}
		if err := files.renew(ctx); err != nil {
			return err
		}
	}
}

// some stores renewFiles, or all that are left. Small files, which come whole, are stored several at a time.
func (r *putReader) some(ctx context.Context, files *stage) (more bool, err error) {
	small, ctx := errgroup.WithContext(ctx)
	small.SetLimit(2 * runtime.GOMAXPROCS(0))
	n := 0
	for n < renewFiles && ctx.Err() == nil && err == nil { // the group says why its context has ended
		var m *tarnv1.PutRequest
		if m, err = r.next(); m == nil {
			break
		}
		switch e := m.GetEvent().(type) {
		case *tarnv1.PutRequest_Path:
			if err = files.put(ctx, e.Path, r); err == nil && len(r.data) > 0 {
				err = errPutProtocol
			}
		case *tarnv1.PutRequest_Files:
			n += len(e.Files.GetFiles())
			small.Go(func() error { return files.putWhole(ctx, e.Files.GetFiles()) })
		default:
			err = errPutProtocol
		}
	}
	if failed := small.Wait(); failed != nil {
		return false, failed
	}
	return n >= renewFiles, err
}

// next is the message that begins something, nil after the last one.
func (r *putReader) next() (*tarnv1.PutRequest, error) {
	if m := r.ahead; m != nil {
		r.ahead = nil
		return m, nil
	}
	if r.done || !r.in.Receive() {
		return nil, r.in.Err()
	}
	return r.in.Msg(), nil
}

func (r *putReader) Read(b []byte) (int, error) {
	for len(r.data) == 0 {
		if r.done || r.ahead != nil {
			return 0, io.EOF
		}
		if !r.in.Receive() {
			r.done = true
			if err := r.in.Err(); err != nil {
				return 0, err
			}
			continue
		}
		if e, ok := r.in.Msg().GetEvent().(*tarnv1.PutRequest_Data); ok {
			r.data = e.Data
		} else {
			r.ahead = r.in.Msg()
		}
	}
	n := copy(b, r.data)
	r.data = r.data[n:]
	return n, nil
}

func anyUnder(ctx context.Context, tree lake.Tree, prefix string) (bool, error) {
	for _, err := range tree.Scan(ctx, prefix, "") {
		return err == nil, err
	}
	return false, nil
}
