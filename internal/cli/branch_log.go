package cli

import (
	"cmp"
	"time"

	"github.com/spf13/cobra"

	tarnv1 "tarn.dev/tarn/api/gen/tarn/v1"
	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/base/ids"
	"tarn.dev/tarn/internal/cli/ui"
)

// moveJSON is one change of what a branch names.
type moveJSON struct {
	Time      time.Time   `json:"time"`
	Why       string      `json:"why"`
	From      string      `json:"from,omitempty"`
	To        string      `json:"to,omitempty"`
	Author    string      `json:"author,omitempty"`
	Request   string      `json:"request,omitempty"`
	Commit    *commitJSON `json:"commit,omitempty"`
	KeptUntil *time.Time  `json:"kept_until,omitempty"`
}

func (a *app) branchLogCommand() *cobra.Command {
	var limit int32
	c := codes(&cobra.Command{
		Use:     "log NAME",
		Short:   "Show every move of a branch, deleted or not: when, from where, where to, by what",
		Example: "  tarn branch log dev\n  tarn branch log main --limit 5 --json",
		Args:    args(1, 1),
		RunE: func(c *cobra.Command, args []string) error {
			t, err := a.reach(c.Context())
			if err != nil {
				return err
			}
			if limit < 0 {
				return usage(c, "--limit %d: it cannot be negative", limit)
			}
			stream, err := t.History.BranchLog(c.Context(), &tarnv1.BranchLogRequest{Project: t.project, Name: args[0], Limit: limit})
			if err != nil {
				return err
			}
			docs, rows := []moveJSON{}, [][]string{}
			var deleted *time.Time // when the newest move is a deletion
			err = recv(stream, func(m *tarnv1.BranchLogResponse) error {
				doc := moveDocument(m.GetMove())
				if len(docs) == 0 {
					deleted = doc.KeptUntil
				}
				docs = append(docs, doc)
				rows = append(rows, a.moveRow(m.GetMove()))
				return nil
			})
			if err != nil {
				return err
			}
			a.print(map[string]any{"branch": args[0], "deleted": deleted != nil, "moves": docs}, func() {
				a.out.Table(columns("time", "why", "from", "to", "author", "message"), rows)
				if deleted != nil {
					a.note("branch %s was removed; until %s brings it back: tarn branch undelete %s", args[0], a.out.Time(*deleted), args[0])
				}
			})
			return nil
		},
	}, errdef.NotFound, errdef.FailedPrecondition)
	c.Flags().Int32Var(&limit, "limit", 50, "show at most `N` moves, 0 for all")
	return c
}

func moveDocument(m *tarnv1.Move) moveJSON {
	doc := moveJSON{
		Time: m.GetTime().AsTime(), Why: m.GetWhy(), From: m.GetFrom(), To: m.GetTo(), Author: m.GetAuthor(), Request: m.GetRequest(),
	}
	if m.GetCommit() != nil {
		doc.Commit = commitDocument(m.GetCommit())
	}
	if m.GetKeptUntil() != nil {
		until := m.GetKeptUntil().AsTime()
		doc.KeptUntil = &until
	}
	return doc
}

func (a *app) moveRow(m *tarnv1.Move) []string {
	from, to, message := "-", "-", ""
	if m.GetFrom() != "" {
		from = a.out.ID(short(m.GetFrom()))
	}
	if m.GetTo() != "" {
		to, message = a.out.ID(short(m.GetTo())), headline(m.GetCommit())
	}
	return []string{a.out.Time(m.GetTime().AsTime()), m.GetWhy(), from, to, ui.Clean(cmp.Or(m.GetAuthor(), "-")), message}
}

func (a *app) branchUndeleteCommand() *cobra.Command {
	var at string
	c := codes(&cobra.Command{
		Use:     "undelete NAME",
		Short:   "Bring a removed branch back where it was, or where it was earlier",
		Example: "  tarn branch undelete dev\n  tarn branch undelete dev --at 1f3a9c2",
		Args:    args(1, 1),
		RunE: func(c *cobra.Command, args []string) error {
			t, err := a.reach(c.Context())
			if err != nil {
				return err
			}
			resp, err := t.History.UndeleteBranch(c.Context(), &tarnv1.UndeleteBranchRequest{
				RequestId: ids.Request(), Project: t.project, Name: args[0], At: at, Author: author(),
			})
			if err != nil {
				return err
			}
			b := resp.GetBranch()
			a.print(refJSON{Name: b.GetName(), Commit: commitDocument(b.GetCommit())}, func() {
				a.note("branch %s is back @ %s", b.GetName(), short(b.GetCommit().GetId()))
			})
			return nil
		},
	}, errdef.AlreadyExists, errdef.NotFound, errdef.FailedPrecondition)
	c.Flags().StringVar(&at, "at", "", "the `COMMIT` where it was, as tarn branch log lists them (default: when it was removed)")
	return c
}
