package cli

import (
	"github.com/spf13/cobra"

	tarnv1 "tarn.dev/tarn/api/gen/tarn/v1"
	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/base/ids"
)

func (a *app) tagCommand() *cobra.Command {
	return group("tag", "List, create and remove tags: names that do not move", groupHistory,
		a.tagListCommand(), a.tagCreateCommand(), a.tagRemoveCommand())
}

func (a *app) tagListCommand() *cobra.Command {
	return codes(&cobra.Command{
		Use:     "ls",
		Short:   "List tags",
		Example: "  tarn tag ls",
		Args:    args(0, 0),
		RunE: func(c *cobra.Command, _ []string) error {
			t, err := a.reach(c.Context())
			if err != nil {
				return err
			}
			resp, err := t.History.ListTags(c.Context(), &tarnv1.ListTagsRequest{Project: t.project})
			if err != nil {
				return err
			}
			a.printRefs("tags", resp.GetTags(), "")
			return nil
		},
	}, errdef.FailedPrecondition)
}

func (a *app) tagCreateCommand() *cobra.Command {
	var ref string
	c := codes(&cobra.Command{
		Use:     "create NAME",
		Short:   "Name the newest commit of the current branch, or --ref, for good",
		Example: "  tarn tag create v1.0\n  tarn tag create before-fix --ref main~3",
		Args:    args(1, 1),
		RunE: func(c *cobra.Command, args []string) error {
			t, err := a.reach(c.Context())
			if err != nil {
				return err
			}
			resp, err := t.History.CreateTag(c.Context(), &tarnv1.CreateTagRequest{RequestId: ids.Request(), Project: t.project, Name: args[0], From: t.ref(ref)})
			if err != nil {
				return err
			}
			tag := resp.GetTag()
			a.print(refJSON{Name: tag.GetName(), Commit: commitDocument(tag.GetCommit())}, func() {
				a.note("created tag %s @ %s", tag.GetName(), short(tag.GetCommit().GetId()))
			})
			return nil
		},
	}, errdef.AlreadyExists, errdef.NotFound, errdef.FailedPrecondition)
	c.Flags().StringVar(&ref, "ref", "", "the `REF` to name (default: the current branch)")
	return c
}

func (a *app) tagRemoveCommand() *cobra.Command {
	return codes(&cobra.Command{
		Use:     "rm NAME...",
		Short:   "Remove tags",
		Example: "  tarn tag rm v1.0",
		Args:    args(1, -1),
		RunE: func(c *cobra.Command, args []string) error {
			t, err := a.reach(c.Context())
			if err != nil {
				return err
			}
			removed := []refJSON{}
			for _, name := range args {
				resp, err := t.History.DeleteTag(c.Context(), &tarnv1.DeleteTagRequest{RequestId: ids.Request(), Project: t.project, Name: name})
				if err != nil {
					return err
				}
				removed = append(removed, refJSON{Name: name, Commit: commitDocument(resp.GetTag().GetCommit())})
				a.note("removed tag %s (it named %s)", name, short(resp.GetTag().GetCommit().GetId()))
			}
			a.print(map[string]any{"removed": removed}, func() {})
			return nil
		},
	}, errdef.NotFound, errdef.FailedPrecondition)
}
