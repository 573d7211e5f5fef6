package system

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/base/fault"
	"tarn.dev/tarn/internal/base/near"
	"tarn.dev/tarn/internal/base/service"
	"tarn.dev/tarn/internal/blob"
	"tarn.dev/tarn/internal/flow/secret"
	"tarn.dev/tarn/internal/lake"
	"tarn.dev/tarn/internal/meta"
	"tarn.dev/tarn/internal/server"
)

var (
	errRemoving     = errdef.New(errdef.FailedPrecondition, "project.removing", "the project is being removed")
	errNoSuch       = errdef.New(errdef.NotFound, "project.not_found", "no such project")
	errRunsUnderWay = errdef.New(errdef.FailedPrecondition, "project.runs", "runs of the project are under way")
)

// removingPrefix begins the rows of projects that are being removed. Such a row lasts until nothing is left
// of its project: nobody opens it, whoever has it open closes it, and any server can go on with the removal.
const removingPrefix = "removing/"

type removingRow struct {
	Since time.Time `json:"since"`
}

const (
	rowsAtOnce    = 1000 // in one transaction
	removeAtOnce  = 16   // requests to a bucket
	removeReports = 1000 // blobs between two words about them
)

// checkStays fails for a project that is being removed.
func (p *projects) checkStays(ctx context.Context, name string) error {
	_, err := p.meta.Get(ctx, removingPrefix+name)
	switch {
	case errors.Is(err, meta.ErrNotFound):
		return nil
	case err != nil:
		return err
	}
	return errRemoving.Errorf("project %s is being removed", name).WithNext("tarn project rm "+name+" --yes   # waits until that is done, or goes on with it", "tarn project ls")
}

// Remove implements server.Projects.
func (p *projects) Remove(ctx context.Context, name string, progress func(string)) (server.Removed, error) {
	err := p.checkStays(ctx, name)
	if errors.Is(err, errRemoving) {
		return p.finish(ctx, name, progress)
	}
	if err != nil {
		return server.Removed{}, err
	}
	names, err := p.Names(ctx)
	if err != nil {
		return server.Removed{}, err
	}
	if !slices.Contains(names, name) {
		text := fmt.Sprintf("there is no project '%s'.", name)
		if best := near.Nearest(name, names); best != "" {
			text += " Did you mean " + best + "?"
		}
		return server.Removed{}, errNoSuch.Errorf("%s", text).WithNext("tarn project ls")
	}
	project, err := p.Open(ctx, name)
	if err != nil {
		return server.Removed{}, err
	}
	runs, err := project.Flow.Unfinished(ctx)
	if err != nil {
		return server.Removed{}, err
	}
	if len(runs) > 0 {
		return server.Removed{}, errRunsUnderWay.Errorf("runs of %s are under way: %s", name, strings.Join(runs, ", ")).WithNext("tarn cancel " + runs[0] + " --project " + name)
	}
	value, err := json.Marshal(removingRow{Since: time.Now().UTC()})
	if err != nil {
		return server.Removed{}, err
	}
	if _, err := p.meta.Txn(ctx, []meta.Condition{p.parts.session.Condition()}, []meta.Write{meta.Set(removingPrefix+name, value)}); err != nil {
		return server.Removed{}, err
	}
	return p.finish(ctx, name, progress)
}

// finish removes what is left of a project. All of it lies under names of its own, so nothing is marked.
// Killed at any point, it is done again.
func (p *projects) finish(ctx context.Context, name string, progress func(string)) (done server.Removed, err error) {
	if err := errors.Join(p.evict(name), fault.Point("project.remove.begun")); err != nil {
		return done, err
	}
	release, err := lake.Undisturbed(ctx, p.meta, lakePrefix(name), p.parts.session, progress)
	if err != nil {
		return done, err
	}
	defer func() { err = errors.Join(err, release(context.WithoutCancel(ctx))) }()
	row, err := p.meta.Get(ctx, removingPrefix+name)
	if errors.Is(err, meta.ErrNotFound) {
		return done, nil // another server was first
	}
	if err != nil {
		return done, err
	}
	waiting := func(owner string) { progress("waiting for " + owner + " to close it") }
	if err := lake.Alone(ctx, p.meta, lakePrefix(name)+"/", waiting); err != nil {
		return done, err
	}
	if done.Blobs, done.Bytes, err = p.bulk.remove(ctx, name, progress); err != nil {
		return done, err
	}
	if err := fault.Point("project.remove.blobs_gone"); err != nil {
		return done, err
	}
	mine := []meta.Condition{p.parts.session.Condition(), meta.At(row.Key, row.Version)}
	for _, prefix := range append(secret.Prefixes(name), rowsPrefix(name)) {
		n, err := p.removeRows(ctx, prefix, lake.TurnPrefix(lakePrefix(name)), mine)
		if done.Rows += n; err != nil {
			return done, err
		}
	}
	if err := fault.Point("project.remove.rows_gone"); err != nil {
		return done, err
	}
	if err := errors.Join(os.RemoveAll(filepath.Join(p.home.Scratch(), "projects", name)), os.RemoveAll(p.home.CurrentBranch(name))); err != nil {
		return done, errdef.Newf(errdef.FailedPrecondition, "project.scratch", "remove what is left of %s: %w", name, err)
	}
	_, err = p.meta.Txn(ctx, mine, []meta.Write{meta.Delete(row.Key)})
	return done, err
}

// removeRows deletes the rows below a prefix, without those of the turn that keeps others away meanwhile.
func (p *projects) removeRows(ctx context.Context, prefix, turn string, mine []meta.Condition) (n int64, err error) {
	var writes []meta.Write
	flush := func() error {
		_, err := p.meta.Txn(ctx, mine, writes)
		n += int64(len(writes))
		writes = writes[:0]
		return err
	}
	for row, err := range p.meta.Scan(ctx, meta.Prefix(prefix)) {
		if err != nil {
			return n, err
		}
		if strings.HasPrefix(row.Key, turn) {
			continue
		}
		if writes = append(writes, meta.Delete(row.Key)); len(writes) == rowsAtOnce {
			if err := flush(); err != nil {
				return n, err
			}
		}
	}
	if len(writes) == 0 {
		return n, nil
	}
	return n, flush()
}

// evict closes a project that is open here, after its runs have ended.
func (p *projects) evict(name string) error {
	p.mu.Lock()
	o := p.open[name]
	delete(p.open, name)
	p.mu.Unlock()
	if o == nil {
		return nil
	}
	<-o.done
	if o.project == nil {
		return nil
	}
	o.project.Flow.Stop()
	return o.project.Lake.Close()
}

// remove deletes the bulk data of a project, with the copies that this host has.
func (b *blobs) remove(ctx context.Context, name string, progress func(string)) (n, bytes int64, err error) {
	store, err := b.project(name)
	if err != nil {
		return 0, 0, err
	}
	var deleted, freed atomic.Int64
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(removeAtOnce)
	for info, err := range store.List(ctx, "") {
		if err != nil {
			return 0, 0, errors.Join(err, g.Wait())
		}
		g.Go(func() error {
			if err := store.Delete(gctx, info.Name); err != nil && !errors.Is(err, blob.ErrNotFound) {
				return err
			}
			if n := deleted.Add(1); n%removeReports == 0 {
				progress(fmt.Sprintf("deleted %d files", n))
			}
			freed.Add(info.Size)
			return fault.Point("project.remove.blob_gone")
		})
	}
	if err := g.Wait(); err != nil {
		return deleted.Load(), freed.Load(), err
	}
	if b.bucket == nil { // the empty folders
		if err := os.RemoveAll(b.home.Project(name)); err != nil {
			return deleted.Load(), freed.Load(), errdef.Newf(errdef.FailedPrecondition, "project.folder", "remove the folder of %s: %w", name, err)
		}
	}
	return deleted.Load(), freed.Load(), nil
}

// removals closes projects that any server begins to remove, and goes on with removals that a server which
// is gone has begun.
func (s *System) removals() service.Service {
	return service.New("removals", func(ctx context.Context, ready func()) error {
		events := s.meta.Watch(ctx, removingPrefix, -1) // before the look below, so that nothing falls between
		ready()
		go s.resumeRemovals(ctx)
		for event, err := range events {
			if err != nil {
				if ctx.Err() != nil {
					return nil
				}
				return err
			}
			if event.Deleted {
				continue
			}
			if err := s.projects.evict(strings.TrimPrefix(event.Key, removingPrefix)); err != nil {
				s.config.Log.Warn("close a project that is being removed", "error", err)
			}
		}
		return nil
	})
}

func (s *System) resumeRemovals(ctx context.Context) {
	for row, err := range s.meta.Scan(ctx, meta.Prefix(removingPrefix)) {
		name := strings.TrimPrefix(row.Key, removingPrefix)
		if err == nil {
			_, err = s.projects.finish(ctx, name, func(string) {})
		}
		if err != nil && ctx.Err() == nil {
			s.config.Log.Warn("go on with the removal of a project", "project", name, "error", err)
		}
	}
}
