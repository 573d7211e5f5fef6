package cli

import (
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	tarnv1 "tarn.dev/tarn/api/gen/tarn/v1"
	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/base/ids"
	"tarn.dev/tarn/internal/cli/ui"
)

// refJSON is a branch or a tag in every document.
type refJSON struct {
	Name    string      `json:"name"`
	Current bool        `json:"current,omitempty"`
	Commit  *commitJSON `json:"commit"`
	Keeps   *keepsJSON  `json:"keeps,omitempty"` // of a branch; nothing: everything
}

func (a *app) branchCommand() *cobra.Command {
	return group("branch", "List, create and remove branches, and bring them back", groupHistory,
		a.branchListCommand(), a.branchCreateCommand(), a.branchRemoveCommand(), a.branchUndeleteCommand(), a.branchLogCommand(), a.branchRetainCommand())
}

func (a *app) branchListCommand() *cobra.Command {
	var all bool
	c := codes(&cobra.Command{
		Use:     "ls",
		Short:   "List branches; * marks the current one",
		Example: "  tarn branch ls\n  tarn branch ls --all",
		Args:    args(0, 0),
		RunE: func(c *cobra.Command, _ []string) error {
			t, err := a.reach(c.Context())
			if err != nil {
				return err
			}
			resp, err := t.History.ListBranches(c.Context(), &tarnv1.ListBranchesRequest{Project: t.project})
			if err != nil {
				return err
			}
			shown := slices.DeleteFunc(resp.GetBranches(), func(r *tarnv1.Ref) bool {
				return !all && r.GetName() != t.branch && strings.HasPrefix(r.GetName(), "run/")
			})
			a.printRefs("branches", shown, t.branch)
			return nil
		},
	}, errdef.FailedPrecondition)
	c.Flags().BoolVar(&all, "all", false, "list what runs have kept too: run/ID")
	return c
}

// printRefs prints branches or tags under the document's key.
func (a *app) printRefs(key string, refs []*tarnv1.Ref, current string) {
	docs, rows := []refJSON{}, [][]string{}
	for _, r := range refs {
		docs = append(docs, refJSON{r.GetName(), r.GetName() == current, commitDocument(r.GetCommit()), keepsDocument(r.GetRetention())})
		mark := " "
		if r.GetName() == current {
			mark = "*"
		}
		row := []string{mark, ui.Clean(r.GetName()), a.out.ID(short(r.GetCommit().GetId())), a.out.Time(r.GetCommit().GetTime().AsTime()), headline(r.GetCommit())}
		if r.GetRetention() != nil {
			row[len(row)-1] += a.out.Dim(" (keeps " + keeps(r.GetRetention()) + ")")
		}
		rows = append(rows, row)
	}
	a.print(map[string]any{key: docs}, func() {
		a.out.Table(columns("", "name", "commit", "time", "message"), rows)
	})
}

func (a *app) branchCreateCommand() *cobra.Command {
	var ref string
	c := codes(&cobra.Command{
		Use:     "create NAME",
		Short:   "Create a branch at the current one, or at --ref",
		Example: "  tarn branch create dev\n  tarn branch create fix --ref v1.0",
		Args:    args(1, 1),
		RunE: func(c *cobra.Command, args []string) error {
			t, err := a.reach(c.Context())
			if err != nil {
				return err
			}
			b, err := t.createBranch(c, args[0], ref)
			if err != nil {
				return err
			}
			a.print(refJSON{Name: b.GetName(), Commit: commitDocument(b.GetCommit())}, func() {
				a.note("created branch %s @ %s", b.GetName(), short(b.GetCommit().GetId()))
			})
			return nil
		},
	}, errdef.AlreadyExists, errdef.NotFound, errdef.FailedPrecondition)
	c.Flags().StringVar(&ref, "ref", "", "the `REF` to begin at (default: the current branch)")
	return c
}

func (t target) createBranch(c *cobra.Command, name, ref string) (*tarnv1.Ref, error) {
	resp, err := t.History.CreateBranch(c.Context(), &tarnv1.CreateBranchRequest{
		RequestId: ids.Request(), Project: t.project, Name: name, From: t.ref(ref),
	})
	return resp.GetBranch(), err
}

// removedJSON is a branch that was removed, and until when it certainly can be brought back.
type removedJSON struct {
	refJSON
	KeptUntil time.Time `json:"kept_until"`
}

func (a *app) branchRemoveCommand() *cobra.Command {
	return codes(&cobra.Command{
		Use:     "rm NAME...",
		Short:   "Remove branches; they can be brought back for a week",
		Example: "  tarn branch rm dev",
		Args:    args(1, -1),
		RunE: func(c *cobra.Command, args []string) error {
			t, err := a.reach(c.Context())
			if err != nil {
				return err
			}
			removed := []removedJSON{}
			for _, name := range args {
				if name == t.branch {
					return errdef.Newf(errdef.FailedPrecondition, "cli.current_branch", "%s is the current branch", name).
						WithNext("tarn switch " + defaultBranch)
				}
				resp, err := t.History.DeleteBranch(c.Context(), &tarnv1.DeleteBranchRequest{RequestId: ids.Request(), Project: t.project, Name: name})
				if err != nil {
					return err
				}
				until := resp.GetKeptUntil().AsTime()
				removed = append(removed, removedJSON{refJSON{Name: name, Commit: commitDocument(resp.GetBranch().GetCommit())}, until})
				a.note("removed branch %s @ %s (until %s brings it back: tarn branch undelete %s)",
					name, short(resp.GetBranch().GetCommit().GetId()), a.out.Time(until), name)
			}
			a.print(map[string]any{"removed": removed}, func() {})
			return nil
		},
	}, errdef.NotFound, errdef.FailedPrecondition)
}
