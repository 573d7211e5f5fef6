package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"connectrpc.com/connect"

	tarnv1 "tarn.dev/tarn/api/gen/tarn/v1"
	"tarn.dev/tarn/internal/lake"
)

const (
	// pageSize bounds an answer of Look: with the longest names about 5 MB.
	pageSize = 1000
	// readBuffer is how much of a file travels in one message of ReadAt.
	readBuffer = 1 << 20
	// smallFile is the longest file that is sent along with another one.
	smallFile = 128 << 10
	// maxMore bounds what is sent along.
	maxMore = 8 << 20
)

// at is the tree of a commit that is named by its whole id: what has no row any more is not there, whatever of it
// waits to be collected.
func at(ctx context.Context, p *Project, commit string) (lake.Tree, error) {
	if _, err := lake.ParseHash(commit); err != nil {
		return lake.Tree{}, err
	}
	c, err := p.Lake.Resolve(ctx, commit)
	return p.Lake.Tree(c.Tree), err
}

func (s *fileService) Look(ctx context.Context, req *tarnv1.LookRequest) (*tarnv1.LookResponse, error) {
	p, err := s.projects.Open(ctx, req.GetProject())
	if err != nil {
		return nil, err
	}
	tree, err := at(ctx, p, req.GetCommit())
	if err != nil {
		return nil, err
	}
	prefix := lake.FilePrefix
	if req.GetFolder() != "" {
		prefix = lake.FileKey(req.GetFolder()) + "/"
	}
	if req.GetName() != "" {
		return lookUp(ctx, tree, prefix+strings.TrimPrefix(lake.FileKey(req.GetName()), lake.FilePrefix))
	}
	limit := pageSize
	if n := int(req.GetLimit()); n > 0 {
		limit = min(n, pageSize)
	}
	resp := &tarnv1.LookResponse{}
	for e, err := range folder(ctx, tree, prefix, afterName(prefix, req.GetAfter())) {
		if err != nil {
			return nil, err
		}
		if hidden, err := behindFile(ctx, tree, e); err != nil || hidden {
			if err != nil {
				return nil, err
			}
			continue
		}
		if resp.Entries = append(resp.Entries, e); len(resp.GetEntries()) == limit {
			break
		}
	}
	return resp, nil
}

// lookUp answers with the file or folder at a key, or with nothing.
func lookUp(ctx context.Context, tree lake.Tree, key string) (*tarnv1.LookResponse, error) {
	if _, err := lake.ParseKey(key); err != nil {
		return nil, err
	}
	e, found, err := tree.Get(ctx, key)
	if err != nil {
		return nil, err
	}
	if found && e.Kind != lake.KindFolder {
		return &tarnv1.LookResponse{Entries: []*tarnv1.Entry{toEntry(key, e)}}, nil
	}
	if found, err = anyUnder(ctx, tree, key+"/"); err != nil || !found {
		return &tarnv1.LookResponse{}, err
	}
	return &tarnv1.LookResponse{Entries: []*tarnv1.Entry{folderEntry(key)}}, nil
}

// afterName is the key after which a listing goes on behind name; nothing: from the begin.
func afterName(prefix, name string) string {
	if name == "" {
		return ""
	}
	trimmed, isFolder := strings.CutSuffix(name, "/")
	key := prefix + strings.TrimPrefix(lake.FileKey(trimmed), lake.FilePrefix)
	if isFolder {
		key += behind
	}
	return key
}

// behindFile reports whether e is a folder that has the name of a file. A merge can bring both to one branch; a
// file system has room for one.
func behindFile(ctx context.Context, tree lake.Tree, e *tarnv1.Entry) (bool, error) {
	if e.GetKind() != string(lake.KindFolder) {
		return false, nil
	}
	file, found, err := tree.Get(ctx, strings.TrimSuffix(e.GetKey(), "/"))
	return found && file.Kind != lake.KindFolder, err
}

func (s *fileService) ReadAt(ctx context.Context, req *tarnv1.ReadAtRequest, out *connect.ServerStream[tarnv1.ReadAtResponse]) error {
	if req.GetOffset() < 0 || req.GetLength() < 0 {
		return errPath.Errorf("a part of a file begins at 0 or later, and has 0 bytes or more")
	}
	p, err := s.projects.Open(ctx, req.GetProject())
	if err != nil {
		return err
	}
	tree, err := at(ctx, p, req.GetCommit())
	if err != nil {
		return err
	}
	name, err := filePath(req.GetPath())
	if err != nil {
		return err
	}
	key := lake.FileKey(name)
	e, found, err := tree.Get(ctx, key)
	if err != nil {
		return err
	}
	if !found || e.Kind == lake.KindFolder {
		return errNoEntry.Errorf("no file %s in commit %s", name, req.GetCommit())
	}
	if err := readPart(ctx, p, lake.KeyEntry{Key: key, Entry: e}, req.GetOffset(), req.GetLength(), out); err != nil {
		return err
	}
	if req.GetOffset() > 0 || e.Location.Size > smallFile {
		return nil
	}
	return readMore(ctx, p, tree, key, min(req.GetMore(), maxMore), out)
}

// readMore sends the small files that come after a key, and says which one would be the next.
func readMore(ctx context.Context, p *Project, tree lake.Tree, after string, budget int64, out *connect.ServerStream[tarnv1.ReadAtResponse]) error {
	for ke, err := range tree.Scan(ctx, lake.FilePrefix, after) {
		if err != nil {
			return err
		}
		size := ke.Entry.Location.Size
		if ke.Entry.Kind != lake.KindFile || size > smallFile {
			return nil // a reader that goes on meets something else
		}
		if budget -= max(size, 1); budget < 0 {
			return out.Send(&tarnv1.ReadAtResponse{Next: lake.DisplayKey(ke.Key)})
		}
		if err := readPart(ctx, p, ke, 0, size, out); err != nil {
			return err
		}
	}
	return nil
}

// readPart sends the bytes of a file from offset on, in messages that begin where the one before ended.
func readPart(ctx context.Context, p *Project, ke lake.KeyEntry, offset, length int64, out *connect.ServerStream[tarnv1.ReadAtResponse]) error {
	name := lake.DisplayKey(ke.Key)
	length = min(length, ke.Entry.Location.Size-offset)
	if length <= 0 {
		return nil
	}
	r, err := p.Flow.OpenFileAt(ctx, ke.Entry, offset)
	if err != nil {
		return fmt.Errorf("open %s: %w", name, err)
	}
	defer r.Close() //nolint:errcheck // read only
	buf := make([]byte, min(length, readBuffer))
	for length > 0 {
		n, err := io.ReadFull(r, buf[:min(length, readBuffer)])
		if err != nil && !errors.Is(err, io.EOF) {
			return fmt.Errorf("read %s: %w", name, err)
		}
		if n == 0 {
			return fmt.Errorf("read %s: %w", name, lake.ErrCorrupt.Errorf("it ends %d bytes early", length))
		}
		if err := out.Send(&tarnv1.ReadAtResponse{Path: name, Offset: offset, Data: buf[:n]}); err != nil {
			return err
		}
		offset, length = offset+int64(n), length-int64(n)
	}
	return nil
}
