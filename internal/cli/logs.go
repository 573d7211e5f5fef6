package cli

import (
	"strings"

	"github.com/spf13/cobra"

	tarnv1 "tarn.dev/tarn/api/gen/tarn/v1"
	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/base/ids"
	"tarn.dev/tarn/internal/cli/ui"
)

func (a *app) logsCommand() *cobra.Command {
	var follow bool
	c := codes(&cobra.Command{
		Use:     "logs [RUN[/STEP]|CALL]",
		Short:   "Print what the functions of a run or call printed",
		Long:    "Print what the functions of a run printed: of the newest run, of RUN, or of one step of it; or what a called function did.",
		GroupID: groupWork,
		Example: "  tarn logs\n  tarn logs r-7k2m9x/delays\n  tarn logs -f r-7k2m9x\n  tarn logs -f c-4h1m8zq0w2ex",
		Args:    args(0, 1),
		RunE: func(c *cobra.Command, args []string) error {
			t, err := a.reach(c.Context())
			if err != nil {
				return err
			}
			if len(args) > 0 && ids.IsCall(args[0]) {
				return a.callLogs(c.Context(), t, args[0], follow)
			}
			req := &tarnv1.LogsRequest{Project: t.project, Follow: follow}
			if len(args) > 0 {
				req.Run, req.Step, _ = strings.Cut(args[0], "/")
			}
			stream, err := t.Runs.Logs(c.Context(), req)
			if err != nil {
				return err
			}
			err = recv(stream, func(m *tarnv1.LogsResponse) error {
				a.logLineOf(m, req.GetStep() == "")
				return nil
			})
			if err != nil || !a.json {
				return err
			}
			a.line(map[string]any{"event": "result"})
			return nil
		},
	}, errdef.NotFound, errdef.DataLoss)
	c.Flags().BoolVarP(&follow, "follow", "f", false, "go on until the run or call ends")
	return c
}

// logLineOf prints one line of output; with several steps each line says which one it is of.
func (a *app) logLineOf(m *tarnv1.LogsResponse, labelled bool) {
	if a.json {
		a.line(map[string]any{
			"event": "log", "time": m.GetTime().AsTime(), "step": m.GetStep(), "item": m.GetItem(), "stream": m.GetStream(), "message": m.GetLine(),
		})
		return
	}
	label := ""
	if labelled {
		label = stepLabel(a.out, m.GetStep()) + " "
	}
	a.out.Printf("%s%s\n", label, ui.Clean(m.GetLine()))
}
