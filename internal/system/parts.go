package system

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"runtime"

	"github.com/dustin/go-humanize"

	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/base/room"
	"tarn.dev/tarn/internal/blob/s3blob"
	"tarn.dev/tarn/internal/external"
	"tarn.dev/tarn/internal/flow"
	"tarn.dev/tarn/internal/flow/call"
	"tarn.dev/tarn/internal/flow/secret"
	"tarn.dev/tarn/internal/image"
	"tarn.dev/tarn/internal/meta"
	"tarn.dev/tarn/internal/meta/lease"
	"tarn.dev/tarn/internal/query"
	runtimeport "tarn.dev/tarn/internal/runtime"
	"tarn.dev/tarn/internal/runtime/process"
	"tarn.dev/tarn/internal/runtime/process/initprogram"
	"tarn.dev/tarn/internal/server"
	"tarn.dev/tarn/internal/system/home"
	"tarn.dev/tarn/sdk/python"
)

// callMemory is for inputs and results of calls; more of them is on disk.
const callMemory = 256 << 20

// parts are what all projects share.
type parts struct {
	session *lease.Session
	runtime runtimeport.Runtime
	lacking []process.Lacking
	engine  *query.Engine
	flow    flow.Config
}

// openParts begins the server's session and makes what runs need.
func openParts(ctx context.Context, h home.Home, rows meta.Store, log *slog.Logger, hold func() func()) (_ *parts, err error) {
	p := &parts{}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.close(context.WithoutCancel(ctx)))
		}
	}()
	if p.session, err = beginSession(ctx, h, rows); err != nil {
		return nil, err
	}
	sdkDir, err := unpackSDK(filepath.Join(h.Cache, "sdk"))
	if err != nil {
		return nil, err
	}
	exe, err := os.Executable()
	if err != nil {
		return nil, errdef.Newf(errdef.FailedPrecondition, "system.executable", "find this program: %w", err)
	}
	place := process.Place{Dir: filepath.Join(h.Scratch(), "boxes")}
	if place.Init, err = initprogram.Path(); err != nil {
		return nil, errdef.Newf(errdef.FailedPrecondition, "system.init", "prepare sandboxes: %w", err)
	}
	level, lacking, err := process.Choose(ctx, place, os.Getenv("TARN_LEVEL"), h.Cache, exe)
	if err != nil {
		return nil, err
	}
	p.lacking = lacking
	if p.runtime, err = process.New(place, level); err != nil {
		return nil, err
	}
	images, err := image.Open(h.Cache, os.Environ(), p.runtime)
	if err != nil {
		return nil, err
	}
	budget, err := cacheBudget()
	if err != nil {
		return nil, err
	}
	images.KeepWithin(budget)
	p.engine = query.New(query.Options{Runtime: p.runtime, Command: []string{exe, query.Role}})
	p.flow = flow.Config{
		Runtime: p.runtime, Images: images, Originals: external.New(map[string]external.Source{s3blob.Scheme: &s3blob.Originals{}}), Engine: p.engine, Secrets: secret.Open(rows, h.SecretKey()), SDK: sdkDir, SDKID: sdk.Hash(), Scratch: filepath.Join(h.Scratch(), "projects"),
		Host: flow.NewHost(runtime.NumCPU(), room.Memory(), h.Scratch()), CallMemory: call.NewBudget(callMemory), Session: p.session, Log: log, Hold: hold, CallsOf: server.CallsOf(log),
	}
	return p, nil
}

func (p *parts) close(ctx context.Context) error {
	var errs []error
	if p.engine != nil {
		errs = append(errs, p.engine.Close())
	}
	if p.runtime != nil {
		errs = append(errs, p.runtime.Close())
	}
	if p.session != nil {
		errs = append(errs, p.session.End(ctx))
	}
	return errors.Join(errs...)
}

// cacheBudgetDefault is enough for some dozens of environments with pandas, or three with torch.
const cacheBudgetDefault = 20 << 30

// cacheBudget reads TARN_CACHE_BUDGET: how much packages may take on the disk, or 0 for whatever they need.
func cacheBudget() (int64, error) {
	return sizeOf("TARN_CACHE_BUDGET", cacheBudgetDefault, "system.cache_budget", "export TARN_CACHE_BUDGET=20GiB, or 0 for no limit")
}

// sizeOf reads a variable that holds a number of bytes, such as 20GiB.
func sizeOf(variable string, unset int64, reason, next string) (int64, error) {
	text := os.Getenv(variable)
	if text == "" {
		return unset, nil
	}
	n, err := humanize.ParseBytes(text)
	if err != nil || n > math.MaxInt64 {
		return 0, errdef.Newf(errdef.InvalidArgument, reason, "%s=%s is no size", variable, text).WithNext(next)
	}
	return int64(n), nil
}

// unpackSDK lays the Python package out once per content and returns the folder to put on PYTHONPATH.
func unpackSDK(root string) (string, error) {
	dir := filepath.Join(root, sdk.Hash()[:16])
	if _, err := os.Stat(dir); err == nil {
		return dir, nil
	}
	fail := func(err error) (string, error) {
		return "", errdef.Newf(errdef.FailedPrecondition, "system.sdk", "unpack the Python package: %w", err)
	}
	if err := os.MkdirAll(root, 0o755); err != nil {
		return fail(err)
	}
	tmp, err := os.MkdirTemp(root, "new-*")
	if err != nil {
		return fail(err)
	}
	defer os.RemoveAll(tmp)
	if err := os.Chmod(tmp, 0o755); err != nil {
		return fail(err)
	}
	if err := os.CopyFS(filepath.Join(tmp, "tarn"), sdk.FS()); err != nil {
		return fail(err)
	}
	err = os.Rename(tmp, dir)
	if errors.Is(err, fs.ErrExist) { // another server was first
		return dir, nil
	}
	if err != nil {
		return fail(err)
	}
	return dir, nil
}
