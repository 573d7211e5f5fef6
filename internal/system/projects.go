package system

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"

	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/base/pattern"
	"tarn.dev/tarn/internal/catalog"
	"tarn.dev/tarn/internal/flow"
	"tarn.dev/tarn/internal/lake"
	"tarn.dev/tarn/internal/meta"
	"tarn.dev/tarn/internal/server"
	"tarn.dev/tarn/internal/system/home"
)

// projects opens each project once, on first use.
type projects struct {
	home  home.Home
	bulk  *blobs
	meta  meta.Store
	parts *parts

	mu   sync.Mutex
	open map[string]*opening
}

// opening is one project; callers that come while it opens wait for the one that opens it.
type opening struct {
	done    chan struct{}
	project *server.Project
	err     error
}

func newProjects(h home.Home, bulk *blobs, rows meta.Store, shared *parts) *projects {
	return &projects{home: h, bulk: bulk, meta: rows, parts: shared, open: map[string]*opening{}}
}

// close ends the runs of every project, then the projects.
func (p *projects) close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	var errs []error
	for _, o := range p.open {
		<-o.done
		if o.project != nil {
			o.project.Flow.Stop()
			errs = append(errs, o.project.Lake.Close())
		}
	}
	clear(p.open)
	return errors.Join(errs...)
}

// recover ends the runs of servers that are gone, in the projects that are open; the others do it when
// they are opened.
func (p *projects) recover(ctx context.Context) error {
	p.mu.Lock()
	open := slices.Collect(maps.Values(p.open))
	p.mu.Unlock()
	var errs []error
	for _, o := range open {
		select {
		case <-o.done:
			if o.project != nil {
				errs = append(errs, o.project.Flow.Recover(ctx))
			}
		default: // it does so itself, or the next look does
		}
	}
	return errors.Join(errs...)
}

// opened returns the projects that are in use.
func (p *projects) opened() []*server.Project {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []*server.Project
	for _, o := range p.open {
		select {
		case <-o.done:
			if o.project != nil {
				out = append(out, o.project)
			}
		default: // it will be there the next time
		}
	}
	return out
}

// projectName is what a project may be called: it becomes a folder's name and a part of a row's key.
var projectName = pattern.Of(`^[A-Za-z0-9_][A-Za-z0-9._-]{0,99}$`)

// Open implements server.Projects.
func (p *projects) Open(ctx context.Context, name string) (*server.Project, error) {
	if !projectName().MatchString(name) {
		return nil, errdef.Newf(errdef.InvalidArgument, "project.name",
			"project %.120q: a name has 1 to 100 letters, digits, '.', '_' or '-' and begins with a letter or digit", name)
	}
	p.mu.Lock()
	o, found := p.open[name]
	if !found {
		o = &opening{done: make(chan struct{})}
		p.open[name] = o
	}
	p.mu.Unlock()
	if !found {
		// Not under the first caller's context: the others would fail with it.
		o.project, o.err = p.make(context.WithoutCancel(ctx), name)
		if o.err != nil { // the next call tries again
			p.mu.Lock()
			delete(p.open, name)
			p.mu.Unlock()
		}
		close(o.done)
	}
	select {
	case <-o.done:
		return o.project, o.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

func (p *projects) make(ctx context.Context, name string) (*server.Project, error) {
	if err := p.checkStays(ctx, name); err != nil {
		return nil, err
	}
	blobs, err := p.bulk.project(name)
	if err != nil {
		return nil, err
	}
	prefix := rowsPrefix(name)
	l, err := lake.Open(ctx, blobs, p.meta, lakePrefix(name), lake.Options{Session: p.parts.session})
	if err != nil {
		return nil, err
	}
	// Again, now that it is known that we have it open: who removes it waits for us, or we see that it goes.
	if err := p.checkStays(ctx, name); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	tables := catalog.Open(blobs, p.meta, prefix+"catalog/").WithScratch(p.home.Scratch())
	f := flow.New(p.parts.flow, name, l, blobs, p.meta, prefix+"flow/", tables)
	if err := f.Recover(ctx); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return &server.Project{Name: name, Lake: l, Flow: f}, nil
}

// rowsPrefix begins all rows of a project, lakePrefix those of its lake.
func rowsPrefix(project string) string { return "p/" + project + "/" }
func lakePrefix(project string) string { return rowsPrefix(project) + "lake/" }

// Names implements server.Projects: the projects that have rows.
func (p *projects) Names(ctx context.Context) ([]string, error) {
	const all = "p/"
	var names []string
	for r := meta.Prefix(all); ; {
		r.Limit = 1
		found := false
		for row, err := range p.meta.Scan(ctx, r) {
			if err != nil && (row.Key == "" || !errors.Is(err, meta.ErrCorrupt)) { // the key of a damaged row will do
				return nil, err
			}
			name, _, _ := strings.Cut(row.Key[len(all):], "/")
			names, found = append(names, name), true
			r.Start = meta.Prefix(all + name + "/").End // the first row of the next project
		}
		if !found {
			return names, nil
		}
	}
}
