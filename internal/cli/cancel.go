package cli

import (
	"github.com/spf13/cobra"

	tarnv1 "tarn.dev/tarn/api/gen/tarn/v1"
	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/base/ids"
)

func (a *app) cancelCommand() *cobra.Command {
	return codes(&cobra.Command{
		Use:     "cancel RUN|CALL",
		Short:   "End a run or a call; nothing of a run is published, what had finished is remembered",
		GroupID: groupWork,
		Example: "  tarn cancel r-7k2m9x\n  tarn cancel c-4h1m8zq0w2ex",
		Args:    args(1, 1),
		RunE: func(c *cobra.Command, args []string) error {
			t, err := a.reach(c.Context())
			if err != nil {
				return err
			}
			if ids.IsCall(args[0]) {
				return a.cancelCall(c.Context(), t, args[0])
			}
			resp, err := t.Runs.Cancel(c.Context(), &tarnv1.CancelRunRequest{Project: t.project, Run: args[0]})
			if err != nil {
				return err
			}
			run := resp.GetRun()
			a.print(map[string]any{"run": runDocument(run)}, func() {
				if run.GetState() == "canceled" {
					a.note("%s is canceled", a.err.ID(run.GetId()))
				} else {
					a.note("%s had ended before: it %s", a.err.ID(run.GetId()), run.GetState())
				}
			})
			return nil
		},
	}, errdef.NotFound)
}
