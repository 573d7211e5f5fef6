package cli

import (
	"strings"

	"github.com/spf13/cobra"

	tarnv1 "tarn.dev/tarn/api/gen/tarn/v1"
	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/cli/ui"
)

func (a *app) diffCommand() *cobra.Command {
	var rows bool
	c := codes(&cobra.Command{
		Use:   "diff A[..B] [NAME]",
		Short: "Show which tables and files differ between two refs",
		Long: `Show which tables and files differ between two refs, from A to B. Without B it is the
current branch. NAME limits it to one table or file, or to a folder (images/).
With --rows it shows the rows of the table NAME that differ.`,
		GroupID: groupHistory,
		Example: "  tarn diff main..dev\n  tarn diff v1.0               # from v1.0 to the current branch\n  tarn diff main..dev images/\n  tarn diff main..dev orders --rows",
		Args:    args(1, 2),
		RunE: func(c *cobra.Command, args []string) error {
			t, err := a.reach(c.Context())
			if err != nil {
				return err
			}
			from, to, found := strings.Cut(args[0], "..")
			if from == "" || found && to == "" {
				return usage(c, "%q is not A or A..B", args[0])
			}
			req := &tarnv1.DiffRequest{Project: t.project, From: from, To: t.ref(to)}
			if len(args) > 1 {
				req.Name = args[1]
			}
			if rows && req.GetName() == "" {
				return usage(c, "--rows needs the name of a table")
			}
			if rows {
				return a.diffRows(c.Context(), t, from, req.GetTo(), req.GetName())
			}
			stream, err := t.History.Diff(c.Context(), req)
			if err != nil {
				return err
			}
			docs, count := []changeJSON{}, int64(0)
			err = recv(stream, func(m *tarnv1.DiffResponse) error {
				count++
				if a.json {
					docs = append(docs, changeDocument(m.GetChange()))
					return nil
				}
				a.out.Printf("%s\n", changeLine(a.out, m.GetChange()))
				return nil
			})
			if err != nil {
				return err
			}
			a.print(map[string]any{"from": from, "to": req.GetTo(), "changes": docs}, func() {
				if count == 0 {
					a.note("no difference between %s and %s", from, req.GetTo())
				} else {
					a.note("%s from %s to %s", ui.Count(count, "difference"), from, req.GetTo())
				}
			})
			return nil
		},
	}, errdef.NotFound, errdef.FailedPrecondition)
	c.Flags().BoolVar(&rows, "rows", false, "show the rows of the table that differ")
	return c
}
