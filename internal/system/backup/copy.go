package backup

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"iter"
	"strings"

	"github.com/zeebo/blake3"
	"golang.org/x/sync/errgroup"

	"tarn.dev/tarn/internal/blob"
)

// How many blobs are copied at a time, and how many may wait for the one before them to be listed.
const (
	atOnce  = 4
	waiting = 64
)

// copier brings a store's blobs to a place of backups and lists them, in the order of projects and names.
type copier struct {
	source   Source
	to       blob.Store
	progress func(Progress)
	list     *listWriter
	backup   *Backup
	shown    Progress
}

// item is a blob on its way.
type item struct {
	line line
	done chan struct{} // closed when its hash is known and it is there
	new  bool
}

// all copies what is not there yet.
func (c *copier) all(ctx context.Context, before []Backup) error {
	known, stop := iter.Pull2(blobLines(ctx, c.to, before))
	defer stop()
	last := &hashes{next: known}
	for _, p := range c.source.Projects {
		c.backup.Projects = append(c.backup.Projects, p.Name)
	}
	for _, p := range c.source.Projects {
		for info, err := range missing(ctx, p, c.to, c.source.OmitBlob) {
			if err != nil {
				return err
			}
			if !info.there {
				c.shown.Total += info.Size
			}
		}
	}
	for _, p := range c.source.Projects {
		if err := c.project(ctx, p, last); err != nil {
			return err
		}
	}
	return nil
}

// project copies one project's blobs.
func (c *copier) project(ctx context.Context, p Project, last *hashes) error {
	g, ctx := errgroup.WithContext(ctx)
	queue, slots := make(chan *item, waiting), make(chan struct{}, atOnce)
	g.Go(func() error { return c.write(ctx, queue) })
	g.Go(func() error {
		defer close(queue)
		for info, err := range missing(ctx, p, c.to, c.source.OmitBlob) {
			if err != nil {
				return err
			}
			it := &item{line: line{Project: p.Name, Blob: info.Name, Size: info.Size}, done: make(chan struct{}), new: !info.there}
			if info.there {
				if it.line.Hash, err = last.of(p.Name, info.Name); err != nil {
					return err
				}
			}
			select {
			case queue <- it:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
			if it.line.Hash != "" {
				close(it.done)
				continue
			}
			select {
			case slots <- struct{}{}:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
			g.Go(func() error {
				defer func() { <-slots }()
				return c.copy(ctx, p, it)
			})
		}
		return nil
	})
	return g.Wait()
}

// write lists what has been copied, in order.
func (c *copier) write(ctx context.Context, queue <-chan *item) error {
	for it := range queue {
		select {
		case <-it.done:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		if err := c.list.write(it.line); err != nil {
			return err
		}
		c.backup.Blobs++
		c.backup.Bytes += it.line.Size
		c.shown.Blobs++
		if it.new {
			c.backup.Copied += it.line.Size
			c.shown.Bytes += it.line.Size
		}
		c.progress(c.shown)
	}
	return nil
}

// copy brings a blob there. One that is there already, from a backup that was interrupted, is read only, for its hash.
func (c *copier) copy(ctx context.Context, p Project, it *item) error {
	name := it.line.Blob
	r, err := p.Blobs.Get(ctx, name, 0, -1)
	if err != nil {
		return fmt.Errorf("read %s of project %s: %w", name, p.Name, err)
	}
	defer r.Close()
	sum := &summed{r: r, hash: blake3.New()}
	if it.new {
		err = c.to.Put(ctx, target(p.Name, name), sum)
	}
	if !it.new || errors.Is(err, blob.ErrExists) {
		_, err = io.Copy(io.Discard, sum)
	}
	if err != nil {
		return fmt.Errorf("back up %s of project %s: %w", name, p.Name, err)
	}
	if sum.size != it.line.Size {
		return ErrDamaged.Errorf("%s of project %s has %d bytes, and was listed with %d", name, p.Name, sum.size, it.line.Size)
	}
	it.line.Hash = hex.EncodeToString(sum.hash.Sum(nil))
	close(it.done)
	return nil
}

func target(project, name string) string { return blobsOf + project + "/" + name }

// found is a blob of a project, which may be at the place of backups already.
type found struct {
	blob.Info
	there bool
}

// missing yields a project's blobs in order, and whether they are there.
func missing(ctx context.Context, p Project, to blob.Store, omit func(string) bool) iter.Seq2[found, error] {
	return func(yield func(found, error) bool) {
		prefix := target(p.Name, "")
		next, stop := iter.Pull2(to.List(ctx, prefix))
		defer stop()
		there, err, more := next()
		for info, lerr := range p.Blobs.List(ctx, "") {
			if lerr != nil {
				yield(found{}, fmt.Errorf("list the blobs of project %s: %w", p.Name, lerr))
				return
			}
			if omit(info.Name) {
				continue
			}
			for more && err == nil && strings.TrimPrefix(there.Name, prefix) < info.Name {
				there, err, more = next()
			}
			if more && err != nil {
				yield(found{}, fmt.Errorf("list what is backed up: %w", err))
				return
			}
			f := found{Info: info, there: more && there.Name == prefix+info.Name}
			if f.there && there.Size != info.Size {
				yield(found{}, ErrDamaged.Errorf("%s has %d bytes, and %s of project %s has %d", there.Name, there.Size, info.Name, p.Name, info.Size))
				return
			}
			if !yield(f, nil) {
				return
			}
		}
	}
}

// blobLines are the blobs that the newest backup lists. One that cannot be read is no loss: its blobs are read again.
func blobLines(ctx context.Context, from blob.Store, all []Backup) iter.Seq2[line, error] {
	return func(yield func(line, error) bool) {
		if len(all) == 0 {
			return
		}
		for l, err := range all[len(all)-1].read(ctx, from) {
			if errors.Is(err, ErrDamaged) {
				return
			}
			if err != nil || l.Blob != "" {
				if !yield(l, err) || err != nil {
					return
				}
			}
		}
	}
}

// hashes looks blobs up in a list, in its order.
type hashes struct {
	next  func() (line, error, bool)
	at    line
	begun bool
	over  bool
}

// of returns a blob's hash, "" if the list does not have it.
func (h *hashes) of(project, name string) (string, error) {
	for !h.over && (!h.begun || h.at.Project < project || h.at.Project == project && h.at.Blob < name) {
		l, err, more := h.next()
		if err != nil {
			return "", err
		}
		h.at, h.begun, h.over = l, true, !more
	}
	if h.over || h.at.Project != project || h.at.Blob != name {
		return "", nil
	}
	return h.at.Hash, nil
}
