package flow

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"golang.org/x/sync/errgroup"

	"tarn.dev/tarn/internal/catalog"
	"tarn.dev/tarn/internal/external"
	"tarn.dev/tarn/internal/lake"
)

// OpenFile reads a file of the history, wherever it is. Of a link come the bytes that were linked, or an error.
func (f *Flow) OpenFile(ctx context.Context, e lake.Entry) (io.ReadCloser, error) {
	return f.OpenFileAt(ctx, e, 0)
}

// OpenFileAt reads a file as OpenFile does, from offset on.
func (f *Flow) OpenFileAt(ctx context.Context, e lake.Entry, offset int64) (io.ReadCloser, error) {
	if err := e.Readable(); err != nil {
		return nil, err
	}
	if e.Kind == lake.KindExternal {
		was, err := e.Original()
		if err != nil {
			return nil, err
		}
		return f.Originals.Open(ctx, was, external.Part{Offset: offset, Length: -1})
	}
	r, err := f.lake.OpenFile(ctx, e.Location.Ref)
	if err == nil && offset > 0 {
		_, err = r.Seek(offset, io.SeekStart)
	}
	return r, err
}

// OpenDrifted reads a file as OpenFile does, but of a link come the bytes that its original has now. No run reads so:
// what it made would be remembered as made of others.
func (f *Flow) OpenDrifted(ctx context.Context, e lake.Entry) (io.ReadCloser, error) {
	if e.Kind != lake.KindExternal {
		return f.OpenFile(ctx, e)
	}
	was, err := e.Original()
	if err != nil {
		return nil, err
	}
	return f.Originals.OpenDrifted(ctx, was)
}

// looks is how many originals are asked for at once.
const looks = 16

// FsckExternal asks for the originals of the links on all branches and tags, and reports those that are not what was
// linked. What older commits linked may have changed since, and mostly has: they are not asked for.
func (f *Flow) FsckExternal(ctx context.Context, report func(lake.Problem)) (int64, error) {
	var mu sync.Mutex // of report
	seen := map[string]bool{}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(looks)
	asked := int64(0)
	look := func(key string, was external.State) {
		asked++
		g.Go(func() error {
			err := f.Originals.Check(ctx, was)
			if err == nil || ctx.Err() != nil {
				return context.Cause(ctx)
			}
			mu.Lock()
			defer mu.Unlock()
			report(lake.Problem{Reason: "fsck.external", Where: key, Message: err.Error()})
			return nil
		})
	}
	err := f.heads(ctx, func(ref lake.Ref) error {
		head, err := f.lake.Commit(ctx, ref.Commit)
		if err != nil {
			return err
		}
		for _, prefix := range []string{lake.FilePrefix, lake.TablePrefix} {
			for ke, err := range f.lake.Tree(head.Tree).Scan(ctx, prefix, "") {
				if err != nil {
					return err
				}
				id := ke.Key + "\x00" + ke.Entry.Version
				if seen[id] {
					continue
				}
				linked, err := f.linked(ctx, ke.Entry)
				if err != nil {
					return fmt.Errorf("%s: %w", ke.Key, err)
				}
				if len(linked) > 0 {
					seen[id] = true
				}
				for _, was := range linked {
					look(ke.Key, was)
				}
			}
		}
		return nil
	})
	return asked, errors.Join(err, g.Wait())
}

// linked are the originals that an entry names.
func (f *Flow) linked(ctx context.Context, e lake.Entry) ([]external.State, error) {
	switch {
	case e.Kind == lake.KindExternal:
		was, err := e.Original()
		return []external.State{was}, err
	case catalog.IsLinked(e):
		l, err := f.tables.Linked(ctx, e)
		return l.Files, err
	}
	return nil, nil
}

// heads visits every branch and tag.
func (f *Flow) heads(ctx context.Context, visit func(lake.Ref) error) error {
	for _, refs := range []func(yield func(lake.Ref, error) bool){f.lake.Branches(ctx), f.lake.Tags(ctx)} {
		for ref, err := range refs {
			if err == nil {
				err = visit(ref)
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}
