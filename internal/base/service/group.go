package service

import (
	"context"
	"errors"
	"sync"
)

// Group is a Service made of members that start in order, each when the one before it is up, and stop
// in reverse. A member that ends by itself ends the group.
func Group(name string, members ...Service) Service {
	return New(name, func(ctx context.Context, ready func()) error {
		// Members live under a context that ctx does not end: when ctx ends they are stopped one
		// after the other, so that a server drains before the store under it closes.
		base := context.WithoutCancel(ctx)
		ended := make(chan struct{})
		end := sync.OnceFunc(func() { close(ended) })
		up := 0
		var failed error
		for _, m := range members {
			if context.Cause(ctx) != nil {
				break
			}
			// A member that is slow to start must not hold up Stop.
			unhook := context.AfterFunc(ctx, func() { m.Stop() }) //nolint:errcheck // Stop below returns it again
			failed = m.Start(base)
			unhook()
			up++
			if failed != nil {
				break
			}
			go func() { <-m.Done(); end() }()
		}
		if failed == nil && context.Cause(ctx) == nil {
			ready()
			select {
			case <-ctx.Done():
			case <-ended:
			}
		}
		var errs []error
		if failed != nil && context.Cause(ctx) == nil {
			errs = append(errs, failed)
			up-- // its own error is this one
		}
		for i := len(members) - 1; i >= 0; i-- {
			if err := members[i].Stop(); err != nil && i < up {
				errs = append(errs, err)
			}
		}
		return errors.Join(errs...)
	})
}
