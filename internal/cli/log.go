package cli

import (
	"strings"

	"github.com/spf13/cobra"

	tarnv1 "tarn.dev/tarn/api/gen/tarn/v1"
	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/cli/ui"
)

func (a *app) logCommand() *cobra.Command {
	var ref string
	var limit int32
	c := codes(&cobra.Command{
		Use:     "log [NAME]",
		Short:   "Show the commits of a branch, or those that changed one table or file",
		GroupID: groupHistory,
		Example: "  tarn log\n  tarn log images/a.png --limit 5\n  tarn log --ref v1.0",
		Args:    args(0, 1),
		RunE: func(c *cobra.Command, args []string) error {
			t, err := a.reach(c.Context())
			if err != nil {
				return err
			}
			if limit < 0 {
				return usage(c, "--limit %d: it cannot be negative", limit)
			}
			req := &tarnv1.LogRequest{Project: t.project, Ref: t.ref(ref)}
			if len(args) > 0 {
				req.Name = args[0]
			}
			if limit > 0 {
				req.Limit = limit + 1 // one more tells whether there are more
			}
			stream, err := t.History.Log(c.Context(), req)
			if err != nil {
				return err
			}
			docs, more, cut := []*commitJSON{}, false, false
			err = recv(stream, func(m *tarnv1.LogResponse) error {
				commit := m.GetCommit()
				if limit > 0 && len(docs) == int(limit) {
					more = true
					return nil
				}
				docs = append(docs, commitDocument(commit))
				cut = cut || len(commit.GetCut()) > 0
				if !a.json {
					a.logLine(commit)
				}
				return nil
			})
			if err != nil {
				return err
			}
			a.print(map[string]any{"ref": req.GetRef(), "commits": docs, "more": more, "cut": cut}, func() {
				switch {
				case more:
					a.note("there are more: --limit 0 shows all")
				case cut:
					a.note("older commits were removed by retention: tarn branch ls shows what each branch keeps")
				}
			})
			return nil
		},
	}, errdef.NotFound, errdef.FailedPrecondition)
	c.Flags().StringVar(&ref, "ref", "", "the `REF` to read (default: the current branch)")
	c.Flags().Int32Var(&limit, "limit", 50, "show at most `N` commits, 0 for all")
	return c
}

func (a *app) logLine(c *tarnv1.Commit) {
	parts := []string{a.out.ID(short(c.GetId())), a.out.Time(c.GetTime().AsTime()), ui.Clean(c.GetAuthor()), headline(c)}
	if c.GetRun() != "" {
		parts = append(parts, a.out.Dim(c.GetRun()))
	}
	a.out.Printf("%s\n", strings.TrimRight(strings.Join(parts, "  "), " "))
}
