package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"
	"strings"

	"connectrpc.com/connect"

	tarnv1 "tarn.dev/tarn/api/gen/tarn/v1"
	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/lake"
)

// Errors of file calls.
var (
	errPutProtocol = errdef.New(errdef.InvalidArgument, "server.put_protocol", "a put is `write`, then for each file `path` and its `data`")
	errPath        = errdef.New(errdef.InvalidArgument, "server.path", "the path cannot be used")
	errNotOneFile  = errdef.New(errdef.InvalidArgument, "server.not_a_file", "not one file")
)

// getBuffer is how much of a file travels in one message.
const getBuffer = 512 << 10

type fileService struct{ projects Projects }

func (s *fileService) Get(ctx context.Context, req *tarnv1.GetRequest, out *connect.ServerStream[tarnv1.GetResponse]) error {
	p, err := s.projects.Open(ctx, req.GetProject())
	if err != nil {
		return err
	}
	open := p.Flow.OpenFile
	if req.GetAcceptDrift() {
		open = p.Flow.OpenDrifted
	}
	return inCommit(ctx, p.Lake, req.GetRef(), req.GetPattern(), func(c lake.Commit, pattern, ref string) error {
		sel, err := selectFiles(ctx, p.Lake.Tree(c.Tree), pattern, ref)
		if err != nil {
			return err
		}
		if req.GetOne() && !sel.one {
			return errNotOneFile.Errorf("%s is not one file on %s", pattern, ref)
		}
		buf := make([]byte, getBuffer)
		for ke, err := range sel.entries {
			if err != nil {
				return err
			}
			if err := sendFile(ctx, open, ke, sel, buf, out); err != nil {
				return err
			}
		}
		return nil
	})
}

// opener reads the bytes of a file.
type opener func(ctx context.Context, e lake.Entry) (io.ReadCloser, error)

func sendFile(ctx context.Context, open opener, ke lake.KeyEntry, sel selection, buf []byte, out *connect.ServerStream[tarnv1.GetResponse]) error {
	e := toEntry(ke.Key, ke.Entry)
	head := &tarnv1.GetFile{Entry: e, Relative: strings.TrimPrefix(e.GetName(), sel.strip), One: sel.one}
	if err := out.Send(&tarnv1.GetResponse{Event: &tarnv1.GetResponse_File{File: head}}); err != nil {
		return err
	}
	r, err := open(ctx, ke.Entry)
	if err != nil {
		return fmt.Errorf("open %s: %w", e.GetName(), err)
	}
	defer r.Close() //nolint:errcheck // read only
	for {
		n, err := io.ReadFull(r, buf)
		if n > 0 {
			if err := out.Send(&tarnv1.GetResponse{Event: &tarnv1.GetResponse_Data{Data: buf[:n]}}); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read %s: %w", e.GetName(), err)
		}
	}
}

func (s *fileService) List(ctx context.Context, req *tarnv1.ListRequest, out *connect.ServerStream[tarnv1.ListResponse]) error {
	p, err := s.projects.Open(ctx, req.GetProject())
	if err != nil {
		return err
	}
	send := func(e *tarnv1.Entry) error { return out.Send(&tarnv1.ListResponse{File: e}) }
	return inCommit(ctx, p.Lake, req.GetRef(), req.GetPattern(), func(c lake.Commit, pattern, ref string) error {
		tree := p.Lake.Tree(c.Tree)
		sel, err := selectFiles(ctx, tree, pattern, ref)
		if err != nil {
			return err
		}
		if sel.folder != "" && !req.GetRecursive() {
			for e, err := range folder(ctx, tree, sel.folder, "") {
				if err == nil {
					err = send(e)
				}
				if err != nil {
					return err
				}
			}
			return nil
		}
		for ke, err := range sel.entries {
			if err != nil {
				return err
			}
			if err := send(toEntry(ke.Key, ke.Entry)); err != nil {
				return err
			}
		}
		return nil
	})
}

// behind is what follows the key of a folder in a key behind all that is in it: keys are UTF-8, in which this
// byte does not occur.
const behind = "/\xff"

// folder lists one level, behind a key. What lies deeper is skipped, not read: the cost is that of what is shown.
func folder(ctx context.Context, tree lake.Tree, prefix, after string) iter.Seq2[*tarnv1.Entry, error] {
	return func(yield func(*tarnv1.Entry, error) bool) {
		for deeper := true; deeper; {
			deeper = false
			for ke, err := range tree.Scan(ctx, prefix, after) {
				if err != nil {
					yield(nil, err)
					return
				}
				name, _, isFolder := strings.Cut(ke.Key[len(prefix):], "/")
				if !isFolder && ke.Entry.Kind == lake.KindFolder { // what an asset keeps of its folder as a whole
					continue
				}
				e := toEntry(ke.Key, ke.Entry)
				if isFolder {
					e = folderEntry(prefix + name)
				}
				if !yield(e, nil) {
					return
				}
				if isFolder {
					after, deeper = prefix+name+behind, true
					break
				}
			}
		}
	}
}

func folderEntry(key string) *tarnv1.Entry {
	return &tarnv1.Entry{Name: lake.DisplayKey(key) + "/", Kind: string(lake.KindFolder), Key: key + "/"}
}

func (s *fileService) Remove(ctx context.Context, req *tarnv1.RemoveRequest) (*tarnv1.RemoveResponse, error) {
	write := req.GetWrite()
	if err := checkWrite(write); err != nil {
		return nil, err
	}
	if len(req.GetPatterns()) == 0 {
		return nil, errPath.Errorf("nothing to remove was named")
	}
	p, err := s.projects.Open(ctx, write.GetProject())
	if err != nil {
		return nil, err
	}
	patterns := slices.Clone(req.GetPatterns())
	pub, err := p.Flow.Publish(ctx, publication(write, "Remove "+strings.Join(patterns, ", "), func(ctx context.Context, tx *lake.Tx) error {
		n := 0
		tree := p.Lake.Tree(tx.Head.Tree)
		for _, pattern := range patterns {
			sel, err := selectFiles(ctx, tree, pattern, write.GetInto())
			if err != nil {
				return err
			}
			if sel.folder != "" && !strings.HasSuffix(pattern, "/") {
				return errPath.Errorf("%s is a folder: write %s/ to remove all that is in it", pattern, pattern)
			}
			for ke, err := range sel.entries {
				if err != nil {
					return err
				}
				tx.Delete(ke.Key)
				if n++; n%stagedFiles == 0 {
					if err := tx.Spill(ctx); err != nil {
						return err
					}
				}
			}
		}
		return nil
	}))
	if err != nil {
		return nil, err
	}
	before, err := p.Lake.Commit(ctx, pub.Before)
	if err != nil {
		return nil, err
	}
	resp := &tarnv1.RemoveResponse{}
	for c, err := range p.Lake.Tree(before.Tree).Diff(ctx, p.Lake.Tree(pub.Commit.Tree), lake.FilePrefix) {
		if err != nil {
			return nil, err
		}
		if c.After == nil {
			resp.Files++
		}
	}
	resp.Written = written(write.GetInto(), pub)
	return resp, nil
}
