package cli

import (
	"context"
	"errors"
	"os"
	"time"

	"github.com/spf13/cobra"

	tarnv1 "tarn.dev/tarn/api/gen/tarn/v1"
	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/base/ids"
	"tarn.dev/tarn/internal/client"
	"tarn.dev/tarn/internal/system"
	"tarn.dev/tarn/internal/system/home"
)

// errRunning is returned by `tarn server start` when there is one.
var errRunning = errdef.New(errdef.AlreadyExists, "cli.server_running", "a server is running")

func (a *app) serverCommand() *cobra.Command {
	return group("server", "Start, stop and look at the local server", groupSetup,
		a.serverStartCommand(), a.serverStopCommand(), a.serverStatusCommand())
}

func (a *app) serverStartCommand() *cobra.Command {
	var places system.Places
	c := codes(&cobra.Command{
		Use:   "start",
		Short: "Run the server in the foreground",
		Long: `Run the server in the foreground until Ctrl-C, with its log in TARN_HOME/logs.

There is no need to: a command that finds no server starts one in the background, which
ends by itself after 30 idle minutes (TARN_IDLE=2h, or 0 for never).

With --blob, or TARN_BLOB for servers in the background, tables and files are kept in a bucket of
Amazon S3, or of a server of your own: s3://BUCKET/PREFIX?endpoint=http://HOST:PORT. Credentials come
from the AWS_* variables or ~/.aws. A home remembers its bucket; only a home without projects takes one.

With --meta, or TARN_META for servers in the background, history and runs are kept in a Postgres
database, which servers of other homes may share. What the address leaves out, as the password,
is taken from the PG* variables, ~/.pg_service.conf and ~/.pgpass.`,
		Example: "  tarn server start\n  TARN_IDLE=0 tarn server start     # stay up\n  tarn server start --blob s3://bucket/tarn --meta postgres://tarn@db.example.com/tarn",
		Args:    args(0, 0),
		RunE: func(c *cobra.Command, _ []string) error {
			if os.Getenv("TARN_URL") != "" {
				return ErrUsage.Errorf("TARN_URL is set: commands use that server, not one of this host").WithNext("unset TARN_URL")
			}
			h, err := home.Find()
			if err != nil {
				return err
			}
			if cl, err := a.open(c.Context(), true); err == nil {
				return errRunning.Errorf("a server is running with pid %d", cl.Server.GetPid()).WithNext("tarn server stop")
			} else if !errors.Is(err, client.ErrNoServer) {
				return err
			}
			places = places.OrEnvironment()
			err = system.Main(c.Context(), h, places, func() {
				a.print(map[string]any{"pid": os.Getpid(), "home": h.Dir, "socket": h.Socket, "log": h.Log()}, func() {
					a.note("serving %s on %s, log in %s; Ctrl-C stops", h.Dir, h.Socket, h.Log())
				})
			})
			if err == nil && context.Cause(c.Context()) != nil {
				a.note("stopped")
			}
			return err
		},
	}, errdef.AlreadyExists, errdef.FailedPrecondition)
	placeFlags(c, &places)
	return c
}

func (a *app) serverStopCommand() *cobra.Command {
	return codes(&cobra.Command{
		Use:     "stop",
		Short:   "Stop the server; calls that are under way are given moments to end",
		Example: "  tarn server stop",
		Args:    args(0, 0),
		RunE: func(c *cobra.Command, _ []string) error {
			ctx := c.Context()
			cl, err := a.open(ctx, true)
			if errors.Is(err, client.ErrNoServer) {
				a.print(map[string]any{"stopped": false}, func() { a.note("no server is running") })
				return nil
			}
			if err != nil {
				return err
			}
			if _, err := cl.System.Shutdown(ctx, &tarnv1.ShutdownRequest{RequestId: ids.Request()}); err != nil {
				return err
			}
			cl.Close()
			if os.Getenv("TARN_URL") == "" {
				if err := awaitEnd(ctx); err != nil {
					return err
				}
			}
			a.print(map[string]any{"stopped": true, "pid": cl.Server.GetPid()}, func() { a.note("stopped the server with pid %d", cl.Server.GetPid()) })
			return nil
		},
	})
}

// awaitEnd returns when the server of this home has freed it, so that what follows finds it free.
func awaitEnd(ctx context.Context) error {
	h, err := home.Find()
	if err != nil {
		return err
	}
	return h.AwaitFree(ctx)
}

func (a *app) serverStatusCommand() *cobra.Command {
	return codes(&cobra.Command{
		Use:     "status",
		Short:   "Tell whether a server runs, without starting one",
		Example: "  tarn server status\n  tarn server status --json",
		Args:    args(0, 0),
		RunE: func(c *cobra.Command, _ []string) error {
			cl, err := a.open(c.Context(), true)
			if errors.Is(err, client.ErrNoServer) {
				a.print(map[string]any{"running": false}, func() { a.out.Printf("no server is running\n") })
				return nil
			}
			if err != nil {
				return err
			}
			a.print(serverDocument(cl.Server), func() {
				s := cl.Server
				idle := "never ends by itself"
				if s.GetIdleSeconds() > 0 {
					idle = "ends after " + (time.Duration(s.GetIdleSeconds()) * time.Second).String() + " without use"
				}
				a.out.Printf("running  pid %d, tarn %s, since %s, %s\n", s.GetPid(), s.GetVersion(), a.out.Time(s.GetStarted().AsTime()), idle)
				a.out.Printf("home     %s\nsocket   %s\nlog      %s\n", s.GetHome(), s.GetSocket(), s.GetLog())
			})
			return nil
		},
	})
}

func serverDocument(s *tarnv1.StatusResponse) map[string]any {
	return map[string]any{
		"running": true, "pid": s.GetPid(), "version": s.GetVersion(), "built": s.GetBuilt().AsTime(), "api": s.GetApi(),
		"started": s.GetStarted().AsTime(), "home": s.GetHome(), "socket": s.GetSocket(), "log": s.GetLog(),
		"idle_seconds": s.GetIdleSeconds(), "active": s.GetActive(),
	}
}

// placeFlags are where rows and bulk data go.
func placeFlags(c *cobra.Command, places *system.Places) {
	c.Flags().StringVar(&places.Blob, "blob", "", "`url` of the bucket for tables and files")
	c.Flags().StringVar(&places.Meta, "meta", "", "`address` of the Postgres database for history and runs")
}
