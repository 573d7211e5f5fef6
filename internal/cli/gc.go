package cli

import (
	"strings"
	"time"

	"github.com/spf13/cobra"

	tarnv1 "tarn.dev/tarn/api/gen/tarn/v1"
	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/cli/ui"
)

func (a *app) gcCommand() *cobra.Command {
	var dryRun bool
	var keep time.Duration
	c := codes(&cobra.Command{
		Use:   "gc",
		Short: "Free the disk space that nothing in the project needs any more",
		Long: `Free what no branch, tag, run or remembered result leads to. It may run beside everything else; the
server also does it by itself once a day. What a deleted branch held stays for a week, or as long as --keep says.`,
		GroupID: groupSetup,
		Example: "  tarn gc --dry-run\n  tarn gc\n  tarn gc --keep 0s       # also what branches held that were deleted just now",
		Args:    args(0, 0),
		RunE: func(c *cobra.Command, _ []string) error {
			t, err := a.reach(c.Context())
			if err != nil {
				return err
			}
			req := &tarnv1.CollectRequest{Project: t.project, DryRun: dryRun}
			if c.Flags().Changed("keep") {
				seconds := int64(keep / time.Second)
				req.KeepSeconds = &seconds
			}
			stream, err := t.System.Collect(c.Context(), req)
			if err != nil {
				return err
			}
			got := &tarnv1.Collected{}
			err = recv(stream, func(m *tarnv1.CollectResponse) error {
				if what := m.GetProgress(); what != "" {
					a.note("%s", ui.Clean(what))
				}
				if r := m.GetResult(); r != nil {
					got = r
				}
				return nil
			})
			if err != nil {
				return err
			}
			a.print(map[string]any{
				"project": t.project, "dry_run": dryRun, "bytes": got.GetBytes(), "commits": got.GetCommits(), "rows": got.GetRows(),
				"packs": got.GetPacks(), "packs_rewritten": got.GetPacksRewritten(), "blobs": got.GetBlobs(),
			}, func() { a.out.Printf("%s\n", collected(got, dryRun)) })
			return nil
		},
	}, errdef.Unavailable, errdef.DataLoss, errdef.InvalidArgument)
	c.Flags().BoolVar(&dryRun, "dry-run", false, "say what would be freed, and free nothing")
	c.Flags().DurationVar(&keep, "keep", 0, "for how `LONG` what a deleted branch held stays (default: 168h)")
	return c
}

// collected is a sentence on what was freed.
func collected(c *tarnv1.Collected, dryRun bool) string {
	var parts []string
	for _, p := range []struct {
		n    int64
		what string
	}{{c.GetPacks(), "pack"}, {c.GetBlobs(), "file"}, {c.GetCommits(), "commit"}, {c.GetRows(), "row"}} {
		if p.n > 0 {
			parts = append(parts, ui.Count(p.n, p.what))
		}
	}
	if len(parts) == 0 {
		return "nothing to free"
	}
	verb := "freed"
	if dryRun {
		verb = "would free"
	}
	return verb + " " + ui.Size(max(c.GetBytes(), 0)) + ": " + strings.Join(parts, ", ")
}
