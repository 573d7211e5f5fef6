package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"

	"connectrpc.com/connect"

	tarnv1 "tarn.dev/tarn/api/gen/tarn/v1"
	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/flow"
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
	batch := p.Lake.Begin(ctx)
	defer batch.Discard()
	may, err := p.Flow.Writable(ctx, write.GetInto())
	if err != nil {
		return nil, err
	}
	files, size, err := receiveFiles(ctx, batch, in, may)
	if err != nil {
		return nil, err
	}
	if err := batch.Flush(ctx); err != nil {
		return nil, err
	}
	resp := &tarnv1.PutResponse{Files: int64(len(files)), Bytes: size}
	pub, err := p.Flow.Publish(ctx, publication(write, putMessage("Put", files), func(ctx context.Context, tx *lake.Tx) error {
		return publishFiles(ctx, tx, p.Lake.Tree(tx.Head.Tree), files)
	}))
	if err != nil {
		return nil, err
	}
	resp.Written = written(write.GetInto(), pub)
	return resp, nil
}

// publication is a client's change of files.
func publication(w *tarnv1.Write, message string, change func(ctx context.Context, tx *lake.Tx) error) flow.Publication {
	return flow.Publication{Branch: w.GetInto(), Info: info(w, message), Dir: w.GetDir(), Change: change}
}

// putMessage says what a put or link did, when its caller does not.
func putMessage(verb string, files map[string]lake.Entry) string {
	if len(files) > 1 {
		return fmt.Sprintf("%s %d files", verb, len(files))
	}
	for name := range files {
		return verb + " " + name
	}
	return verb + " nothing"
}

// receiveFiles stores what a put sends and returns it by path. may is asked for the key of each before its bytes.
func receiveFiles(ctx context.Context, batch *lake.Batch, in *connect.ClientStream[tarnv1.PutRequest], may func(key string) error) (map[string]lake.Entry, int64, error) {
	files := map[string]lake.Entry{}
	size := int64(0)
	r := &putReader{in: in}
	if err := r.advance(); err != nil && !errors.Is(err, io.EOF) {
		return nil, 0, err
	}
	for r.file != nil {
		name, err := filePath(*r.file)
		if err != nil {
			return nil, 0, err
		}
		if _, twice := files[name]; twice {
			return nil, 0, errPath.Errorf("the path %s comes twice in one put", name)
		}
		if err := may(lake.FileKey(name)); err != nil {
			return nil, 0, err
		}
		r.file = nil
		ref, err := batch.PutFile(ctx, r)
		if err != nil {
			return nil, 0, fmt.Errorf("put %s: %w", name, err)
		}
		files[name], size = lake.FileEntry(ref), size+ref.Size
	}
	if len(r.data) > 0 {
		return nil, 0, errPutProtocol
	}
	return files, size, nil
}

// filePath is the path as it stands in the tree: normal form, no slash in front.
func filePath(name string) (string, error) {
	key := lake.FileKey(strings.TrimPrefix(name, "/"))
	if _, err := lake.ParseKey(key); err != nil {
		return "", err
	}
	return lake.DisplayKey(key), nil
}

// putReader reads the bytes of one file after the other from a put: it ends where the next path comes,
// which is then in file.
type putReader struct {
	in   *connect.ClientStream[tarnv1.PutRequest]
	data []byte
	file *string
}

func (r *putReader) Read(b []byte) (int, error) {
	for len(r.data) == 0 {
		if r.file != nil {
			return 0, io.EOF
		}
		if err := r.advance(); err != nil {
			return 0, err
		}
	}
	n := copy(b, r.data)
	r.data = r.data[n:]
	return n, nil
}

func (r *putReader) advance() error {
	if !r.in.Receive() {
		if err := r.in.Err(); err != nil {
			return err
		}
		return io.EOF
	}
	switch e := r.in.Msg().GetEvent().(type) {
	case *tarnv1.PutRequest_Path:
		r.file = &e.Path
	case *tarnv1.PutRequest_Data:
		r.data = e.Data
	default:
		return errPutProtocol
	}
	return nil
}

// publishFiles puts files into the tree of an update. A path is a file or a folder, never both: copies
// on a disk could not hold it.
func publishFiles(ctx context.Context, tx *lake.Tx, tree lake.Tree, files map[string]lake.Entry) error {
	folders := map[string]bool{} // looked at, and no file
	occupied := map[string]bool{}
	for name, e := range files {
		for dir := path.Dir(name); dir != "." && !folders[dir]; dir = path.Dir(dir) {
			_, inTree, err := tree.Get(ctx, lake.FileKey(dir))
			if err != nil {
				return err
			}
			if _, inPut := files[dir]; inTree || inPut {
				return errPath.Errorf("%s cannot be stored: %s is a file, not a folder", name, dir)
			}
			folders[dir] = true
		}
		dir := path.Dir(name)
		if _, ok := occupied[dir]; !ok {
			prefix := lake.FilePrefix
			if dir != "." {
				prefix = lake.FileKey(dir) + "/"
			}
			var err error
			if occupied[dir], err = anyUnder(ctx, tree, prefix); err != nil {
				return err
			}
		}
		if occupied[dir] {
			folder, err := anyUnder(ctx, tree, lake.FileKey(name)+"/")
			if err != nil {
				return err
			}
			if folder {
				return errPath.Errorf("%s is a folder: write %s/ to store something in it", name, name)
			}
		}
		if ref := e.Location.Ref; !ref.Root.IsZero() {
			kind := lake.TypeChunk
			if ref.Height > 0 {
				kind = lake.TypeFileNode
			}
			if err := tx.Batch().Require(ctx, kind, ref.Root); err != nil {
				return err
			}
		}
		tx.Put(lake.FileKey(name), e)
	}
	return nil
}

func anyUnder(ctx context.Context, tree lake.Tree, prefix string) (bool, error) {
	for _, err := range tree.Scan(ctx, prefix, "") {
		return err == nil, err
	}
	return false, nil
}

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
			return listFolder(ctx, tree, sel.folder, send)
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

// listFolder lists one level. What lies deeper is skipped, not read: the cost is that of what is shown.
func listFolder(ctx context.Context, tree lake.Tree, prefix string, send func(*tarnv1.Entry) error) error {
	after := ""
	for {
		deeper := false
		for ke, err := range tree.Scan(ctx, prefix, after) {
			if err != nil {
				return err
			}
			name, _, isFolder := strings.Cut(ke.Key[len(prefix):], "/")
			if !isFolder && ke.Entry.Kind == lake.KindFolder { // what an asset keeps of its folder as a whole
				continue
			}
			if !isFolder {
				if err := send(toEntry(ke.Key, ke.Entry)); err != nil {
					return err
				}
				continue
			}
			if err := send(&tarnv1.Entry{Name: lake.DisplayKey(prefix+name) + "/", Kind: "folder", Key: prefix + name + "/"}); err != nil {
				return err
			}
			// Keys are UTF-8, in which this byte does not occur: all of the folder comes before it.
			after, deeper = prefix+name+"/\xff", true
			break
		}
		if !deeper {
			return nil
		}
	}
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
		gone := map[string]bool{} // the update may be tried again
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
				gone[ke.Key] = true
			}
		}
		for key := range gone {
			tx.Delete(key)
		}
		return nil
	}))
	if err != nil {
		return nil, err
	}
	changes, err := p.Flow.Changes(ctx, pub)
	if err != nil {
		return nil, err
	}
	resp := &tarnv1.RemoveResponse{}
	for _, c := range changes {
		if c.After == nil && strings.HasPrefix(c.Key, lake.FilePrefix) {
			resp.Files++
		}
	}
	resp.Written = written(write.GetInto(), pub)
	return resp, nil
}
