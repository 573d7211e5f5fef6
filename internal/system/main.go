package system

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"tarn.dev/tarn/internal/base/build"
	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/base/obs"
	"tarn.dev/tarn/internal/system/home"
)

// idleDefault is how long a server that a command started waits for the next command.
const idleDefault = 30 * time.Minute

// BackgroundMain is the role home.ServerRole. Whoever started the process has set its folder, session,
// environment and descriptors.
func BackgroundMain() int {
	report := os.NewFile(home.ReportFD, "report")
	unix.CloseOnExec(home.ReportFD)
	unix.Umask(0o077)
	ready := func(r home.Report) {
		// The reader may have gone away; the server is of use to the next command all the same.
		if b, err := json.Marshal(r); err == nil {
			report.Write(append(b, '\n')) //nolint:errcheck
		}
		report.Close() //nolint:errcheck
	}
	h, err := home.Find()
	if err == nil {
		places := Places{}.OrEnvironment()
		err = Main(context.Background(), h, places, func() { ready(home.Report{}) })
	}
	if err != nil {
		ready(home.Report{Error: errdef.As(err)})
		return errdef.CodeOf(err).Row().Exit
	}
	return 0
}

// Places are where a server keeps what is not in its home.
type Places struct {
	Blob string // URL of the bucket with the bulk data, or ""
	Meta string // address of the database with the rows, or ""
}

// OrEnvironment takes what is not said from TARN_BLOB and TARN_META.
func (p Places) OrEnvironment() Places {
	return Places{Blob: cmp.Or(p.Blob, os.Getenv("TARN_BLOB")), Meta: cmp.Or(p.Meta, os.Getenv("TARN_META"))}
}

// Main runs the server of a home until a signal, a client or idleness ends it, and logs to the home's log.
func Main(ctx context.Context, h home.Home, places Places, ready func()) error {
	idle, err := idleFromEnv()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(h.Log()), 0o700); err != nil {
		return errdef.Newf(errdef.FailedPrecondition, "system.log", "make the log's folder: %w", err)
	}
	if err := noCores(); err != nil {
		return err
	}
	log, logFile, err := obs.OpenFile(h.Log())
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	defer stop()
	c := Config{Home: h, Blob: places.Blob, Meta: places.Meta, Build: build.Current(), Idle: idle, Log: log.With(slog.Int("pid", os.Getpid()))}
	err = serve(ctx, c, ready)
	if err != nil {
		c.Log.Error("server ended", "error", err.Error())
	}
	return errors.Join(err, logFile.Close())
}

func serve(ctx context.Context, c Config, ready func()) error {
	s, err := Open(ctx, c)
	if err != nil {
		return err
	}
	return s.Run(ctx, func() {
		c.Log.Info("ready", "version", c.Build.Version, "socket", c.Home.Socket, "took", time.Since(s.started))
		ready()
	})
}

// noCores forbids core dumps of this process and all below, which may hold secrets: as files, and through a program
// of the host, which the kernel leaves out at a limit of exactly 1.
func noCores() error {
	var limit unix.Rlimit
	err := unix.Getrlimit(unix.RLIMIT_CORE, &limit)
	if err == nil {
		limit.Max = min(limit.Max, 1)
		limit.Cur = limit.Max
		err = unix.Setrlimit(unix.RLIMIT_CORE, &limit)
	}
	if err != nil {
		return errdef.Newf(errdef.FailedPrecondition, "system.core", "turn core dumps off: %w", err)
	}
	return nil
}

// idleFromEnv reads TARN_IDLE: a duration, or 0 for never.
func idleFromEnv() (time.Duration, error) {
	text := os.Getenv("TARN_IDLE")
	if text == "" {
		return idleDefault, nil
	}
	d, err := time.ParseDuration(text)
	if err != nil || d < 0 {
		return 0, errdef.Newf(errdef.InvalidArgument, "system.idle", "TARN_IDLE=%s is not a duration", text).
			WithNext("export TARN_IDLE=30m, or 0 for never")
	}
	return d, nil
}
