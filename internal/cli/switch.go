package cli

import (
	"os"

	"github.com/spf13/cobra"

	tarnv1 "tarn.dev/tarn/api/gen/tarn/v1"
	"tarn.dev/tarn/internal/base/errdef"
)

func (a *app) switchCommand() *cobra.Command {
	var create bool
	var ref string
	c := codes(&cobra.Command{
		Use:   "switch BRANCH",
		Short: "Choose the branch that commands read and write",
		Long: `Choose the branch that commands of this project read and write when --ref and --into
do not say otherwise. The choice holds for all terminals; TARN_BRANCH overrides it in one.`,
		GroupID: groupHistory,
		Example: "  tarn switch main\n  tarn switch -c dev               # create it first\n  tarn switch -c fix --ref v1.0",
		Args:    args(1, 1),
		RunE: func(c *cobra.Command, args []string) error {
			name := args[0]
			t, err := a.reach(c.Context())
			if err != nil {
				return err
			}
			var commit *tarnv1.Commit
			if create {
				b, err := t.createBranch(c, name, ref)
				if err != nil {
					return err
				}
				commit = b.GetCommit()
			} else {
				if ref != "" {
					return usage(c, "--ref says where a new branch begins: it needs -c")
				}
				resp, err := t.History.Resolve(c.Context(), &tarnv1.ResolveRequest{Project: t.project, Ref: name})
				if err != nil {
					return err
				}
				if !resp.GetBranch() {
					return errdef.Newf(errdef.InvalidArgument, "cli.not_a_branch", "%s is not a branch: only a branch can be written to", name).
						WithNext("tarn switch -c NAME --ref " + name)
				}
				commit = resp.GetCommit()
			}
			if err := setCurrentBranch(t.project, name); err != nil {
				return err
			}
			a.print(refJSON{Name: name, Current: true, Commit: commitDocument(commit)}, func() {
				a.note("on %s @ %s", name, a.err.ID(short(commit.GetId())))
			})
			if b := os.Getenv("TARN_BRANCH"); b != "" && b != name {
				a.note("TARN_BRANCH=%s is set and overrides this here", b)
			}
			return nil
		},
	}, errdef.NotFound, errdef.AlreadyExists, errdef.FailedPrecondition)
	c.Flags().BoolVarP(&create, "create", "c", false, "create the branch")
	c.Flags().StringVar(&ref, "ref", "", "with -c: the `REF` to begin at (default: the current branch)")
	return c
}
