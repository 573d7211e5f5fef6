package cli

import (
	"strings"

	"github.com/spf13/cobra"

	tarnv1 "tarn.dev/tarn/api/gen/tarn/v1"
	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/cli/ui"
)

func (a *app) assetCommand() *cobra.Command {
	return group("asset", "The functions whose results are published, as a ref has them", groupData, a.assetLsCommand(), a.assetLineageCommand(), a.assetRmCommand())
}

func (a *app) assetLsCommand() *cobra.Command {
	var ref string
	c := codes(&cobra.Command{
		Use:   "ls",
		Short: "List the assets of a ref: what they make, from what, and which run made it",
		Example: `  tarn asset ls
  tarn asset ls --ref dev --json`,
		Args: args(0, 0),
		RunE: func(c *cobra.Command, _ []string) error {
			t, err := a.reach(c.Context())
			if err != nil {
				return err
			}
			resp, err := t.Runs.Assets(c.Context(), &tarnv1.AssetsRequest{Project: t.project, Ref: t.ref(ref)})
			if err != nil {
				return err
			}
			docs := []assetJSON{}
			for _, as := range resp.GetAssets() {
				docs = append(docs, assetDocument(as))
			}
			a.print(map[string]any{"ref": t.ref(ref), "assets": docs}, func() {
				var rows [][]string
				for _, as := range resp.GetAssets() {
					rows = append(rows, []string{a.out.Bold(ui.Clean(as.GetName())), assetSize(as), ui.Clean(as.GetFile()), a.out.ID(as.GetRun()), ui.Clean(firstLine(as.GetDescription()))})
				}
				a.out.Table(columns("asset", ">holds", "file", "run", "description"), rows)
				if len(rows) == 0 {
					a.note("no assets on %s yet: tarn run", t.ref(ref))
				}
			})
			return nil
		},
	}, errdef.NotFound, errdef.DataLoss)
	c.Flags().StringVar(&ref, "ref", "", "the `REF` to list (default: the current branch)")
	return c
}

func (a *app) assetLineageCommand() *cobra.Command {
	var ref string
	c := codes(&cobra.Command{
		Use:     "lineage [ASSET]",
		Short:   "Show which asset reads which, as a ref has them",
		Example: "  tarn asset lineage\n  tarn asset lineage delays --ref dev",
		Args:    args(0, 1),
		RunE: func(c *cobra.Command, args []string) error {
			t, err := a.reach(c.Context())
			if err != nil {
				return err
			}
			req := &tarnv1.AssetsRequest{Project: t.project, Ref: t.ref(ref)}
			if len(args) > 0 {
				req.Name = args[0]
			}
			resp, err := t.Runs.Assets(c.Context(), req)
			if err != nil {
				return err
			}
			docs := []assetJSON{}
			for _, as := range resp.GetAssets() {
				docs = append(docs, assetDocument(as))
			}
			a.print(map[string]any{"ref": t.ref(ref), "assets": docs}, func() {
				for _, as := range resp.GetAssets() {
					from := strings.Join(as.GetReads(), ", ")
					if from == "" {
						from = a.out.Dim("nothing")
					}
					a.out.Printf("%s -> %s\n", ui.Clean(from), a.out.Bold(ui.Clean(strings.Join(as.GetMakes(), ", "))))
				}
			})
			return nil
		},
	}, errdef.NotFound, errdef.DataLoss)
	c.Flags().StringVar(&ref, "ref", "", "the `REF` to look in (default: the current branch)")
	return c
}

func (a *app) assetRmCommand() *cobra.Command {
	var into, message string
	c := codes(&cobra.Command{
		Use:   "rm ASSET...",
		Short: "Remove assets from a branch: what they made, and their definitions",
		Long: `Remove assets from a branch: the tables and files that they made, and their definitions with
their checks. The commit before keeps everything; tarn revert brings it back.`,
		Example: "  tarn asset rm delays --into dev",
		Args:    args(1, -1),
		RunE: func(c *cobra.Command, args []string) error {
			t, err := a.reach(c.Context())
			if err != nil {
				return err
			}
			resp, err := t.Runs.RemoveAssets(c.Context(), &tarnv1.RemoveAssetsRequest{Write: t.write(into, message), Names: args})
			if err != nil {
				return err
			}
			a.print(map[string]any{"removed": orEmpty(resp.GetRemoved()), "written": writtenDocument(resp.GetWritten())}, func() {
				for _, name := range resp.GetRemoved() {
					a.note("removed %s", ui.Clean(name))
				}
				a.arrow(resp.GetWritten())
			})
			return nil
		},
	}, errdef.NotFound, errdef.Conflict, errdef.UserCode, errdef.PermissionDenied, errdef.FailedPrecondition)
	c.Flags().StringVar(&into, "into", "", "the `BRANCH` to remove from (default: the current one)")
	c.Flags().StringVarP(&message, "message", "m", "", "the commit's `MESSAGE`")
	return c
}

type assetJSON struct {
	Name        string   `json:"name"`
	File        string   `json:"file"`
	Language    string   `json:"language"`
	Description string   `json:"description"`
	Makes       []string `json:"makes"`
	Reads       []string `json:"reads"`
	Rows        int64    `json:"rows"`
	Files       int64    `json:"files"`
	Run         string   `json:"run"`
}

func assetDocument(as *tarnv1.Asset) assetJSON {
	return assetJSON{
		as.GetName(), as.GetFile(), as.GetLanguage(), as.GetDescription(), orEmpty(as.GetMakes()), orEmpty(as.GetReads()),
		as.GetRows(), as.GetFiles(), as.GetRun(),
	}
}

func assetSize(as *tarnv1.Asset) string {
	var parts []string
	if as.GetRows() > 0 || as.GetFiles() == 0 {
		parts = append(parts, ui.Count(as.GetRows(), "row"))
	}
	if as.GetFiles() > 0 {
		parts = append(parts, ui.Count(as.GetFiles(), "file"))
	}
	return strings.Join(parts, ", ")
}
