// Package system is the composition root: it makes a running Tarn from a Config. It is the only package
// that names implementations of the ports.
package system

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync"
	"time"

	"tarn.dev/tarn/internal/base/build"
	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/base/idle"
	"tarn.dev/tarn/internal/base/service"
	"tarn.dev/tarn/internal/meta"
	"tarn.dev/tarn/internal/server"
	"tarn.dev/tarn/internal/system/home"
)

// Config is everything that can be chosen about a system.
type Config struct {
	Home home.Home
	// Blob is the URL of the bucket that holds the bulk data; "" keeps it where it is, at first in the home.
	Blob string
	// Meta is the address of the Postgres database that holds the rows; "" keeps them in the home.
	Meta  string
	Build build.Info
	// Idle ends the system when nothing has used it for so long; zero is never.
	Idle time.Duration
	Log  *slog.Logger
}

// lockWait is how long a server waits for one that is going away.
const lockWait = 5 * time.Second

// drain is how long calls that are under way may take once the system stops.
const drain = 3 * time.Second

// System is a running Tarn. Make one with Open; it implements server.Control.
type System struct {
	config   Config
	started  time.Time
	idle     *idle.Tracker
	unlock   func() error
	meta     meta.Store
	parts    *parts
	projects *projects

	listener net.Listener
	services service.Service

	stopOnce sync.Once
	stopping chan struct{}
}

// Open takes the home and builds the system; nothing runs yet. The caller calls Run, or Close.
func Open(ctx context.Context, c Config) (_ *System, err error) {
	s := &System{config: c, started: time.Now(), stopping: make(chan struct{})}
	wait, cancel := context.WithTimeout(ctx, lockWait)
	defer cancel()
	if s.unlock, err = c.Home.Lock(wait, c.Build.Version); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close())
		}
	}()
	if err := emptyScratch(c.Home.Scratch()); err != nil {
		return nil, err
	}
	if s.meta, err = openRows(ctx, c.Home, c.Meta); err != nil {
		return nil, err
	}
	if err := refuseRestoring(ctx, s.meta); err != nil {
		return nil, err
	}
	if s.parts, err = openParts(ctx, c.Home, s.meta, c.Log, s.Hold); err != nil {
		return nil, err
	}
	bulk, err := openBlobs(ctx, c.Home, c.Blob)
	if err != nil {
		return nil, err
	}
	if err := bulk.bind(ctx, s.meta); err != nil {
		return nil, err
	}
	s.parts.flow.Copies = bulk.copies
	s.projects = newProjects(c.Home, bulk, s.meta, s.parts)
	// Whoever holds the lock owns the socket: what lies there is left over from a server that was killed.
	if err := os.Remove(c.Home.Socket); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, errdef.Newf(errdef.FailedPrecondition, "system.socket", "remove the old socket: %w", err)
	}
	if s.listener, err = net.Listen("unix", c.Home.Socket); err != nil {
		return nil, errdef.Newf(errdef.FailedPrecondition, "system.socket", "listen on %s: %w", c.Home.Socket, err)
	}
	s.idle = idle.New(c.Idle)
	s.services = service.Group("tarn", s.watch(), s.collector(), s.removals(), s.edge())
	return s, nil
}

// emptyScratch removes what runs of an earlier server left behind.
func emptyScratch(dir string) error {
	if err := os.RemoveAll(dir); err != nil {
		return errdef.Newf(errdef.FailedPrecondition, "system.scratch", "empty the scratch folder: %w", err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return errdef.Newf(errdef.FailedPrecondition, "system.scratch", "make the scratch folder: %w", err)
	}
	return nil
}

// Run serves until ctx ends, somebody asks for a shutdown, or the system has been idle; then it frees
// everything. ready is called when calls are answered.
func (s *System) Run(ctx context.Context, ready func()) error {
	err := s.services.Start(ctx)
	if err == nil {
		ready()
		var why string
		select {
		case <-ctx.Done():
			why = "asked by a signal"
		case <-s.stopping:
			why = "asked by a client"
		case <-s.idle.Done():
			why = "idle"
		case <-s.services.Done():
			why = "failed"
		}
		s.config.Log.Info("stop", "why", why)
	}
	return errors.Join(err, s.services.Stop(), s.Close())
}

// Close frees a system that does not run.
func (s *System) Close() error {
	var errs []error
	if s.listener != nil {
		if err := s.listener.Close(); !errors.Is(err, net.ErrClosed) {
			errs = append(errs, err)
		}
	}
	if s.idle != nil {
		s.idle.Stop()
	}
	if s.projects != nil {
		errs = append(errs, s.projects.close())
	}
	if s.parts != nil {
		errs = append(errs, s.parts.close(context.Background()))
	}
	if s.meta != nil {
		errs = append(errs, s.meta.Close())
	}
	// Last: from here on another server may open everything.
	errs = append(errs, s.unlock())
	return errors.Join(errs...)
}

// edge is the HTTP server as a service.
func (s *System) edge() service.Service {
	return service.New("edge", func(ctx context.Context, ready func()) error {
		protocols := new(http.Protocols)
		protocols.SetHTTP1(true)
		protocols.SetUnencryptedHTTP2(true)
		base, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
		defer cancel(nil)
		srv := &http.Server{
			Handler:           server.Handler(server.Services{Log: s.config.Log, Control: s, Projects: s.projects}),
			Protocols:         protocols,
			ReadHeaderTimeout: 10 * time.Second,
			HTTP2:             &http.HTTP2Config{MaxReadFrameSize: 1 << 20}, // of what is put: the default is 16 KiB
			ErrorLog:          slog.NewLogLogger(s.config.Log.Handler(), slog.LevelWarn),
			BaseContext:       func(net.Listener) context.Context { return base },
		}
		served := make(chan error, 1)
		go func() { served <- srv.Serve(heldListener{s.listener, s.idle}) }()
		ready()
		select {
		case err := <-served:
			return err
		case <-ctx.Done():
		}
		grace, done := context.WithTimeout(base, drain)
		defer done()
		if err := srv.Shutdown(grace); err != nil {
			cancel(context.Cause(ctx))
			return srv.Close()
		}
		return nil
	})
}

// heldListener makes connections that hold the tracker from accept to close: an open connection is a
// client that may call again.
type heldListener struct {
	net.Listener
	idle *idle.Tracker
}

func (l heldListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return heldConn{c, l.idle.Hold()}, nil
}

type heldConn struct {
	net.Conn
	release func()
}

func (c heldConn) Close() error {
	c.release()
	return c.Conn.Close()
}

// Hold keeps the system from ending by itself until release: runs and sessions hold it.
func (s *System) Hold() (release func()) { return s.idle.Hold() }

// Status implements server.Control.
func (s *System) Status() server.Status {
	return server.Status{
		Build: s.config.Build, PID: os.Getpid(), Started: s.started,
		Home: s.config.Home.Dir, Socket: s.config.Home.Socket, Log: s.config.Home.Log(),
		Idle: s.config.Idle, Active: s.idle.Active(),
	}
}

// Shutdown implements server.Control. The caller's own connection is one hold.
func (s *System) Shutdown(_ context.Context, ifIdle bool) bool {
	if ifIdle && s.idle.Active() > 1 {
		return false
	}
	s.stopOnce.Do(func() { close(s.stopping) })
	return true
}
