package cli

import (
	"errors"

	"github.com/spf13/cobra"

	tarnv1 "tarn.dev/tarn/api/gen/tarn/v1"
	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/cli/ui"
)

// folderIfAny is the project folder, whose code and environments have names too; empty where there is
// none, as with --project.
func (a *app) folderIfAny() (string, error) {
	dir, err := projectDir()
	if a.project != "" || errors.Is(err, ErrNoProject) {
		return "", nil
	}
	return dir, err
}

func (a *app) whyCommand() *cobra.Command {
	var ref string
	c := codes(&cobra.Command{
		Use:   "why X",
		Short: "Say in one sentence why something is as it is",
		Long: `Say in one sentence, and with one command to go on with, why a run, a step, an item, an asset, a
table, a file, a commit, an environment or the content with a hash is as it is: ran, reused, skipped, stale, failed,
imported, written, kept alive.`,
		GroupID: groupWork,
		Example: "  tarn why delays\n  tarn why r-7k2m9x\n  tarn why r-7k2m9x/delays\n  tarn why r-7k2m9x/thumbnails/images/a.png\n  tarn why orders@dev",
		Args:    args(1, 1),
		RunE: func(c *cobra.Command, args []string) error {
			t, err := a.reach(c.Context())
			if err != nil {
				return err
			}
			dir, err := a.folderIfAny()
			if err != nil {
				return err
			}
			resp, err := t.Runs.Why(c.Context(), &tarnv1.WhyRequest{Project: t.project, Dir: dir, Ref: t.ref(ref), Target: args[0]})
			if err != nil {
				return err
			}
			a.print(map[string]any{"sentence": resp.GetSentence(), "command": resp.GetCommand()}, func() {
				a.out.Printf("%s\n", ui.Clean(resp.GetSentence()))
				if resp.GetCommand() != "" {
					a.out.Printf("  %s\n", resp.GetCommand())
				}
			})
			return nil
		},
	}, errdef.UserCode, errdef.NotFound, errdef.FailedPrecondition, errdef.DataLoss)
	c.Flags().StringVar(&ref, "ref", "", "the `REF` to look in (default: the current branch)")
	return c
}
