package system

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"time"

	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/base/service"
	"tarn.dev/tarn/internal/meta"
	"tarn.dev/tarn/internal/meta/lease"
	"tarn.dev/tarn/internal/system/home"
)

// sessionTTL is how long a server that hangs keeps its turns and runs.
const sessionTTL = 30 * time.Second

// sessionPrefix is where the sessions of all servers are.
const sessionPrefix = "s"

// beginSession begins this server's session. The one of the server that had this home before is over: we
// hold the home's lock. Sessions of other homes are fenced only once they have expired, because with rows
// in Postgres their servers may live.
func beginSession(ctx context.Context, h home.Home, rows meta.Store) (*lease.Session, error) {
	before, err := os.ReadFile(h.Session())
	switch {
	case err == nil:
		err = lease.FenceGone(ctx, rows, string(before))
	case errors.Is(err, fs.ErrNotExist):
		err = nil
	}
	if err != nil {
		return nil, fmt.Errorf("end the session of the server before: %w", err)
	}
	host, err := os.Hostname()
	if err != nil {
		return nil, errdef.Newf(errdef.FailedPrecondition, "system.host", "find the name of this host: %w", err)
	}
	s, err := lease.Begin(ctx, rows, sessionPrefix, sessionTTL, fmt.Sprintf("server on %s, pid %d", host, os.Getpid()))
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(h.Session(), []byte(s.Key()), 0o600); err != nil {
		return nil, errors.Join(errdef.Newf(errdef.FailedPrecondition, "system.session", "note the session: %w", err), s.End(ctx))
	}
	return s, nil
}

// watch ends the runs of other servers that are gone, and this server when it has lost its session: it
// could change nothing any more.
func (s *System) watch() service.Service {
	return service.New("sessions", func(ctx context.Context, ready func()) error {
		ready()
		tick := time.NewTicker(sessionTTL / 2)
		defer tick.Stop()
		var before []string
		for {
			alive, err := lease.FenceExpired(ctx, s.meta, sessionPrefix)
			if err == nil && slices.ContainsFunc(before, func(key string) bool { return !slices.Contains(alive, key) }) {
				err = s.projects.recover(ctx)
			}
			if err == nil {
				before = alive
			} else if ctx.Err() == nil {
				s.config.Log.Warn("look for servers that are gone", "err", err)
			}
			select {
			case <-tick.C:
			case <-ctx.Done():
				return nil
			case <-s.parts.session.Done():
				return s.parts.session.Err()
			}
		}
	})
}
