//go:build linux

package process

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/runtime"
)

var (
	errLevel = errdef.New(errdef.InvalidArgument, "runtime.level", "there is no such level")
	errLacks = errdef.New(errdef.FailedPrecondition, "runtime.lacks_level", "this host cannot isolate at that level")
)

// strongestFirst are the levels in the order in which they are preferred.
var strongestFirst = []runtime.Level{runtime.Full, runtime.UserNS, runtime.Process}

// Lacking is a level that this host does not have.
type Lacking struct {
	Level runtime.Level
	Why   error
}

// Choose returns the strongest level at which a sandbox really starts here, and why stronger ones do not.
// If want names a level it is that one or an error: nobody who asks for isolation gets less.
// Trial sandboxes see what is shown, whose file systems must allow it.
func Choose(ctx context.Context, place Place, want string, shown ...string) (runtime.Level, []Lacking, error) {
	var lacking []Lacking
	known := make([]string, len(strongestFirst))
	for i, level := range strongestFirst {
		known[i] = string(level)
		if want != "" && want != string(level) {
			continue
		}
		err := try(ctx, place, level, shown)
		if err == nil {
			return level, lacking, nil
		}
		if cause := context.Cause(ctx); cause != nil {
			return "", nil, cause
		}
		if want != "" {
			return "", nil, errLacks.Errorf("level %s was asked for: %w", level, err).WithNext("see tarn doctor, or unset TARN_LEVEL")
		}
		lacking = append(lacking, Lacking{level, err})
	}
	if want != "" {
		return "", nil, errLevel.Errorf("there is no level %q: it is one of %s", want, strings.Join(known, ", "))
	}
	return "", nil, errLacks.Errorf("no sandbox starts here: %w", lacking[len(lacking)-1].Why)
}

// try starts a sandbox of the level.
func try(ctx context.Context, place Place, level runtime.Level, shown []string) error {
	if level == runtime.Full && os.Geteuid() != 0 {
		return errLacks.Errorf("the server does not run as root")
	}
	rt, err := New(place, level)
	if err != nil {
		return err
	}
	spec := runtime.Spec{ID: "trial", Limits: runtime.Limits{Time: 10 * time.Second}}
	for i, path := range shown {
		spec.Mounts = append(spec.Mounts, runtime.Mount{Name: fmt.Sprint("shown-", i), Source: path})
	}
	sb, err := rt.Create(ctx, spec)
	if err != nil {
		return errors.Join(err, rt.Close())
	}
	exit, err := sb.Run(ctx, runtime.Command{Argv: []string{"/bin/sh", "-c", "exit 0"}})
	if err == nil && !exit.OK() {
		err = fmt.Errorf("its first command ended with %s %d", exit.Reason, exit.Code+exit.Signal)
	}
	return errors.Join(err, rt.Close())
}
