package cli

import (
	"github.com/spf13/cobra"

	tarnv1 "tarn.dev/tarn/api/gen/tarn/v1"
	"tarn.dev/tarn/internal/base/errdef"
)

func (a *app) revertCommand() *cobra.Command {
	var into, message string
	c := codes(&cobra.Command{
		Use:     "revert COMMIT",
		Short:   "Undo a commit by a new one",
		GroupID: groupHistory,
		Example: "  tarn revert main\n  tarn revert 3f2a91c --into main",
		Args:    args(1, 1),
		RunE: func(c *cobra.Command, args []string) error {
			t, err := a.reach(c.Context())
			if err != nil {
				return err
			}
			resp, err := t.History.Revert(c.Context(), &tarnv1.RevertRequest{Write: t.write(into, message), Commit: args[0]})
			if err != nil {
				return err
			}
			a.print(writtenDocument(resp.GetWritten()), func() { a.arrow(resp.GetWritten()) })
			return nil
		},
	}, errdef.NotFound, errdef.Conflict, errdef.FailedPrecondition)
	c.Flags().StringVar(&into, "into", "", "the `BRANCH` to write to (default: the current one)")
	c.Flags().StringVarP(&message, "message", "m", "", "the commit's `TEXT`")
	return c
}
