package server

import (
	"context"
	"sync"
)

// operation is what garbage collection waits for: one call, from when it opens a project until it is answered.
type operation struct {
	mu     sync.Mutex
	leaves []func()
}

type operationKey struct{}

// withOperation lets the projects that are opened under the context know when the call ends.
func withOperation(ctx context.Context) (context.Context, *operation) {
	o := &operation{}
	return context.WithValue(ctx, operationKey{}, o), o
}

func (o *operation) end() {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, leave := range o.leaves {
		leave()
	}
	o.leaves = nil
}

// reading opens projects for calls that read or name what is stored: nothing that they may find is deleted
// while they go on. A collection itself must not wait for itself, and calls of functions, which may take
// days, touch nothing that is stored.
type reading struct{ Projects }

func (r reading) Open(ctx context.Context, name string) (*Project, error) {
	p, err := r.Projects.Open(ctx, name)
	if o, ok := ctx.Value(operationKey{}).(*operation); ok && err == nil {
		o.mu.Lock()
		defer o.mu.Unlock()
		o.leaves = append(o.leaves, p.Lake.Enter())
	}
	return p, err
}
