package cli

import (
	"github.com/spf13/cobra"

	tarnv1 "tarn.dev/tarn/api/gen/tarn/v1"
	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/base/ids"
	"tarn.dev/tarn/internal/cli/ui"
)

// errDiffers ends a rerun that did not make what the original run made.
var errDiffers = errdef.New(errdef.UserCode, "rerun.differs", "the results differ")

func (a *app) rerunCommand() *cobra.Command {
	var failed bool
	c := codes(&cobra.Command{
		Use:   "rerun RUN",
		Short: "Repeat a run exactly and compare, or go on where it failed",
		Long: `Repeat a run: its recorded code, packages and parameters on the data that it read, whatever
has changed since. Nothing that has a result is skipped, and nothing is published: each result is
compared with the one that RUN made. Verdicts are identical, float noise (only the last digits of
floating-point numbers), different, missing.

With --failed a run that failed goes on instead: today's code, and only what has no result yet.`,
		GroupID: groupWork,
		Example: "  tarn rerun r-7k2m9x\n  tarn rerun r-7k2m9x --failed",
		Args:    args(1, 1),
		RunE: func(c *cobra.Command, args []string) error {
			t, err := a.reach(c.Context())
			if err != nil {
				return err
			}
			req := &tarnv1.RerunRequest{RequestId: ids.Request(), Project: t.project, Run: args[0], Failed: failed, Author: author()}
			if failed {
				if req.Dir, err = projectDir(); err != nil {
					return err
				}
			}
			resp, err := t.Runs.Rerun(c.Context(), req)
			if err != nil {
				return err
			}
			last, err := a.follow(c.Context(), t, resp.GetRun())
			if err != nil || failed {
				return err
			}
			return verdictError(last)
		},
	}, errdef.UserCode, errdef.NotFound, errdef.Conflict, errdef.FailedPrecondition, errdef.ResourceExhausted, errdef.DeadlineExceeded, errdef.DataLoss)
	c.Flags().BoolVar(&failed, "failed", false, "go on where RUN failed, with today's code, and publish")
	return c
}

// verdictError makes a rerun that differs end like diff does.
func verdictError(run *tarnv1.Run) error {
	differ := 0
	for _, v := range run.GetVerdicts() {
		if v.GetVerdict() == "different" || v.GetVerdict() == "missing" {
			differ++
		}
	}
	if differ == 0 {
		return nil
	}
	return errDiffers.Errorf("%d of %s of %s came out different", differ, ui.Count(int64(len(run.GetVerdicts())), "result"), run.GetRerunOf()).
		WithNext("tarn show " + run.GetId())
}
