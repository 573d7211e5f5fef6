package cli

import (
	"github.com/spf13/cobra"

	tarnv1 "tarn.dev/tarn/api/gen/tarn/v1"
	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/cli/ui"
)

func (a *app) tableRelocateCommand() *cobra.Command {
	var into, message string
	c := codes(&cobra.Command{
		Use:   "relocate [NAME...]",
		Short: "Let other programs find tables where they lie now, as one commit",
		Long: `Let other programs find tables where they lie now, as one commit: after the home or the
bucket was moved, or a backup was restored. Iceberg's metadata names files by their addresses; it
is written anew, the rows stay where and what they are. Without NAME it does so for all tables of
the branch whose metadata names another place. Tarn itself finds its tables wherever they are.`,
		Example: "  tarn table relocate\n  tarn table relocate orders --into dev",
		RunE: func(c *cobra.Command, args []string) error {
			t, err := a.reach(c.Context())
			if err != nil {
				return err
			}
			resp, err := t.Tables.Relocate(c.Context(), &tarnv1.RelocateTablesRequest{Write: t.write(into, message), Tables: args})
			if err != nil {
				return err
			}
			moved := append([]string{}, resp.GetRelocated()...)
			a.print(map[string]any{"relocated": moved, "written": writtenDocument(resp.GetWritten())}, func() {
				for _, name := range moved {
					a.out.Printf("%s\n", ui.Clean(name))
				}
				a.note("relocated %s", ui.Count(int64(len(moved)), "table"))
				a.arrow(resp.GetWritten())
			})
			return nil
		},
	}, errdef.NotFound, errdef.FailedPrecondition, errdef.Conflict)
	c.Flags().StringVar(&into, "into", "", "the `BRANCH` to write to (default: the current one)")
	c.Flags().StringVarP(&message, "message", "m", "", "the commit's `TEXT`")
	return c
}
