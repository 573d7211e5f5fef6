// Package clienttree shows the files of a commit as a tree, as a client reads them through the API. A server that goes
// away is started or found again.
package clienttree

import (
	"context"
	"errors"
	"io/fs"
	"iter"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	tarnv1 "tarn.dev/tarn/api/gen/tarn/v1"
	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/base/service"
	"tarn.dev/tarn/internal/client"
	"tarn.dev/tarn/internal/fusefs"
)

// pageSize is how many entries one call lists.
const pageSize = 1000

// Between attempts to reach a server that went away: all together about ten seconds, for one that is started again.
const attempts, firstWait = 7, 100 * time.Millisecond

// Tree is the files of one commit.
type Tree struct {
	project, commit string
	open            func(context.Context) (*client.Client, error)

	mu      sync.Mutex
	current *client.Client
}

var _ fusefs.Tree = (*Tree)(nil)

// New is the tree of a commit, by its whole id. open connects to the server again when c has lost it.
func New(c *client.Client, project, commit string, open func(context.Context) (*client.Client, error)) *Tree {
	return &Tree{project: project, commit: commit, open: open, current: c}
}

// Close gives the connection up.
func (t *Tree) Close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.current.Close()
}

// Look implements fusefs.Tree. What cannot be a name of the history names nothing in it.
func (t *Tree) Look(ctx context.Context, folder, name string) (fusefs.Entry, error) {
	if !utf8.ValidString(name) {
		return fusefs.Entry{}, fs.ErrNotExist
	}
	entries, err := t.look(ctx, &tarnv1.LookRequest{Folder: folder, Name: name})
	if errdef.CodeOf(err) == errdef.InvalidArgument {
		return fusefs.Entry{}, fs.ErrNotExist
	}
	if err != nil {
		return fusefs.Entry{}, err
	}
	if len(entries) == 0 {
		return fusefs.Entry{}, fs.ErrNotExist
	}
	return entries[0], nil
}

// List implements fusefs.Tree.
func (t *Tree) List(ctx context.Context, folder string, after *fusefs.Entry) ([]fusefs.Entry, bool, error) {
	req := &tarnv1.LookRequest{Folder: folder, Limit: pageSize}
	if after != nil {
		req.After = after.Name
		if after.Mode.IsDir() {
			req.After += "/"
		}
	}
	entries, err := t.look(ctx, req)
	return entries, len(entries) == pageSize, err
}

func (t *Tree) look(ctx context.Context, req *tarnv1.LookRequest) ([]fusefs.Entry, error) {
	req.Project, req.Commit = t.project, t.commit
	var entries []fusefs.Entry
	err := t.retry(ctx, func(c *client.Client) error {
		resp, err := c.Files.Look(ctx, req)
		entries = make([]fusefs.Entry, 0, len(resp.GetEntries()))
		for _, e := range resp.GetEntries() {
			entries = append(entries, entry(e))
		}
		return err
	})
	return entries, err
}

func entry(e *tarnv1.Entry) fusefs.Entry {
	name, isFolder := strings.CutSuffix(e.GetName(), "/")
	out := fusefs.Entry{Name: name[strings.LastIndexByte(name, '/')+1:], Size: e.GetSize()}
	if isFolder {
		out.Mode = fs.ModeDir
	}
	return out
}

// Read implements fusefs.Tree.
func (t *Tree) Read(ctx context.Context, part fusefs.Part) iter.Seq2[fusefs.Piece, error] {
	return func(yield func(fusefs.Piece, error) bool) {
		begun := false
		err := t.retry(ctx, func(c *client.Client) error {
			stream, err := c.Files.ReadAt(ctx, &tarnv1.ReadAtRequest{
				Project: t.project, Commit: t.commit, Path: part.Path, Offset: part.Offset, Length: part.Length, More: part.More,
			})
			if err != nil {
				return err
			}
			defer stream.Close() //nolint:errcheck // what it held back is of no use any more
			for stream.Receive() {
				begun = true
				m := stream.Msg()
				piece := fusefs.Piece{Path: m.GetPath(), Offset: m.GetOffset(), Data: m.GetData()}
				if m.GetNext() != "" {
					piece = fusefs.Piece{Path: m.GetNext()}
				}
				if !yield(piece, nil) {
					return nil
				}
			}
			if err := client.Error(stream.Err()); err != nil && begun {
				return errBroken{err}
			} else {
				return err
			}
		})
		if err != nil {
			yield(fusefs.Piece{}, err)
		}
	}
}

// errBroken is a stream that ended in its middle: whoever reads it asks again for what did not come.
type errBroken struct{ error }

func (e errBroken) Unwrap() error { return e.error }

// retry does a call again, on a new connection, when its server went away.
func (t *Tree) retry(ctx context.Context, call func(*client.Client) error) error {
	wait := firstWait
	for attempt := 1; ; attempt++ {
		t.mu.Lock()
		c := t.current
		t.mu.Unlock()
		err := call(c)
		if broken := (errBroken{}); err == nil || ctx.Err() != nil || errors.As(err, &broken) || !away(err) {
			return err
		}
		if again := t.reopen(ctx, c); again != nil && (!away(again) || attempt >= attempts) {
			return again
		}
		if attempt == attempts {
			return err
		}
		select {
		case <-time.After(wait):
			wait *= 2
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// away reports whether an error means that no server has done the call.
func away(err error) bool {
	return errors.Is(err, client.ErrUnreachable) || errors.Is(err, service.ErrStopping)
}

// reopen replaces a connection that was lost, unless another call has done so.
func (t *Tree) reopen(ctx context.Context, lost *client.Client) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.current != lost {
		return nil
	}
	c, err := t.open(ctx)
	if err != nil {
		return err
	}
	lost.Close()
	t.current = c
	return nil
}
