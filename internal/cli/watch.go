package cli

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"
	"github.com/spf13/cobra"

	tarnv1 "tarn.dev/tarn/api/gen/tarn/v1"
	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/base/ids"
)

// settleTime lets an editor finish: many write a file in several steps.
const settleTime = 100 * time.Millisecond

// watch runs now and after every change of a file, until it is interrupted. A failing run is no end.
func (a *app) watch(c *cobra.Command, t target, spec *tarnv1.RunSpec) error {
	w, err := fsnotify.NewWatcher()
	if err != nil {
		return errdef.Newf(errdef.FailedPrecondition, "cli.watch", "watch %s: %w", spec.GetDir(), err)
	}
	defer w.Close()
	if err := watchTree(w, spec.GetDir()); err != nil {
		return errdef.Newf(errdef.FailedPrecondition, "cli.watch", "watch %s: %w", spec.GetDir(), err)
	}
	ctx := c.Context()
	for {
		resp, err := t.Runs.Start(ctx, &tarnv1.StartRunRequest{RequestId: ids.Request(), Spec: spec})
		if err == nil {
			_, err = a.follow(ctx, t, resp.GetRun())
		}
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			a.fail(errdef.As(err))
		}
		a.note("watching %s; Ctrl-C ends", spec.GetDir())
		if err := nextChange(c, w); err != nil || ctx.Err() != nil {
			return err
		}
	}
}

func watchTree(w *fsnotify.Watcher, root string) error {
	return filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil || !d.IsDir() {
			return err
		}
		if name := d.Name(); path != root && (strings.HasPrefix(name, ".") || name == "__pycache__" || name == "node_modules") {
			return filepath.SkipDir
		}
		return w.Add(path)
	})
}

// nextChange waits for a change and for the quiet after it.
func nextChange(c *cobra.Command, w *fsnotify.Watcher) error {
	var quiet <-chan time.Time
	for {
		select {
		case <-c.Context().Done():
			return nil
		case err := <-w.Errors:
			return errdef.Newf(errdef.FailedPrecondition, "cli.watch", "watch: %w", err)
		case e := <-w.Events:
			if strings.HasPrefix(filepath.Base(e.Name), ".") || filepath.Base(e.Name) == "tarn.lock" {
				continue
			}
			if info, err := os.Stat(e.Name); err == nil && info.IsDir() && e.Has(fsnotify.Create) {
				if err := watchTree(w, e.Name); err != nil {
					return errdef.Newf(errdef.FailedPrecondition, "cli.watch", "watch %s: %w", e.Name, err)
				}
			}
			quiet = time.After(settleTime)
		case <-quiet:
			return nil
		}
	}
}
