package cli

import (
	"context"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	tarnv1 "tarn.dev/tarn/api/gen/tarn/v1"
	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/base/ids"
	"tarn.dev/tarn/internal/cli/ui"
	"tarn.dev/tarn/internal/client"
)

func (a *app) showCommand() *cobra.Command {
	var ref string
	c := codes(&cobra.Command{
		Use:     "show X",
		Short:   "Describe anything: a branch, tag, commit, table, file, asset, run, step, item, call, environment, hash",
		GroupID: groupData,
		Example: "  tarn show dev\n  tarn show 3f2a91c\n  tarn show images/a.png@v1.0\n  tarn show orders --ref dev\n  tarn show r-7k2m9x/delays\n  tarn show r-7k2m9x/thumbnails/images/a.png\n  tarn show c-4h1m8zq0w2ex",
		Args:    args(1, 1),
		RunE: func(c *cobra.Command, args []string) error {
			t, err := a.reach(c.Context())
			if err != nil {
				return err
			}
			if ids.IsCall(args[0]) {
				return a.showCall(c.Context(), t, args[0])
			}
			if run, _, _ := strings.Cut(args[0], "/"); ids.IsRun(run) {
				if ok, err := a.showRun(c.Context(), t, args[0]); ok || err != nil {
					return err
				}
			}
			dir, err := a.folderIfAny()
			if err != nil {
				return err
			}
			resp, err := t.History.Show(c.Context(), &tarnv1.ShowRequest{Project: t.project, Ref: t.ref(ref), What: args[0], Dir: dir})
			if errdef.CodeOf(client.Error(err)) == errdef.NotFound { // a run may have an id of the caller's choice
				if ok, err := a.showRun(c.Context(), t, args[0]); ok || err != nil {
					return err
				}
			}
			if err != nil {
				return err
			}
			if a.showOther(resp) {
				return nil
			}
			made, err := a.maker(c.Context(), t, resp)
			if err != nil {
				return err
			}
			changes := []changeJSON{}
			for _, ch := range resp.GetChanges() {
				changes = append(changes, changeDocument(ch))
			}
			doc := map[string]any{"kind": resp.GetKind(), "name": resp.GetName(), "commit": commitDocument(resp.GetCommit())}
			if e := resp.GetEntry(); e != nil {
				doc["entry"], doc["last_change"] = entryDocument(e), commitDocument(resp.GetLastChange())
				if made != nil {
					doc["provenance"] = provenanceDocument(made)
				}
			} else {
				doc["changes"], doc["more"] = changes, resp.GetMore()
			}
			a.print(doc, func() {
				if resp.GetEntry() != nil {
					a.showEntry(resp, made)
				} else {
					a.showCommit(resp)
				}
			})
			return nil
		},
	}, errdef.NotFound, errdef.FailedPrecondition)
	c.Flags().StringVar(&ref, "ref", "", "the `REF` to look in (default: the current branch)")
	return c
}

// maker says how a table or file came about; nil for what has no such record.
func (a *app) maker(ctx context.Context, t target, resp *tarnv1.ShowResponse) (*tarnv1.ProvenanceNode, error) {
	if kind := resp.GetEntry().GetKind(); kind != "table" && kind != "file" {
		return nil, nil
	}
	p, err := t.Runs.Provenance(ctx, &tarnv1.ProvenanceRequest{Project: t.project, Ref: resp.GetCommit().GetId(), Target: resp.GetName()})
	if errdef.CodeOf(client.Error(err)) == errdef.NotFound {
		return nil, nil // a name that only Show understands, such as one with an @
	}
	if err != nil || len(p.GetNodes()) == 0 || p.GetNodes()[0].GetKind() == "unknown" {
		return nil, err
	}
	return p.GetNodes()[0], nil
}

func (a *app) showEntry(resp *tarnv1.ShowResponse, made *tarnv1.ProvenanceNode) {
	e := resp.GetEntry()
	a.out.Printf("%s %s\n", resp.GetKind(), a.out.Bold(ui.Clean(e.GetName())))
	a.out.Printf("version  %s\n", e.GetVersion())
	switch e.GetKind() {
	case "table":
		a.out.Printf("rows     %d\n", e.GetRows())
	case "folder":
		a.out.Printf("files    %d\n", e.GetRows())
	}
	a.out.Printf("size     %s\n", ui.Size(e.GetSize()))
	for _, name := range slices.Sorted(maps.Keys(e.GetProperties())) {
		a.out.Printf("%-8s %s\n", name, ui.Clean(e.GetProperties()[name]))
	}
	if made != nil {
		a.out.Printf("origin   %s\n", a.made(made))
	}
	if last := resp.GetLastChange(); last != nil {
		a.out.Printf("changed  %s  %s  %s\n", a.out.ID(short(last.GetId())), a.out.Time(last.GetTime().AsTime()), headline(last))
	}
}

func (a *app) showCommit(resp *tarnv1.ShowResponse) {
	c := resp.GetCommit()
	if resp.GetKind() != "commit" {
		a.out.Printf("%s %s\n", resp.GetKind(), a.out.Bold(ui.Clean(resp.GetName())))
	}
	a.out.Printf("commit   %s\n", a.out.ID(c.GetId()))
	for _, parent := range c.GetParents() {
		a.out.Printf("parent   %s\n", short(parent))
	}
	a.out.Printf("author   %s\ntime     %s\n", ui.Clean(c.GetAuthor()), a.out.Time(c.GetTime().AsTime()))
	if c.GetRun() != "" {
		a.out.Printf("run      %s\n", c.GetRun())
	}
	a.out.Printf("message  %s\n", headline(c))
	for _, ch := range resp.GetChanges() {
		a.out.Printf("%s\n", changeLine(a.out, ch))
	}
	if resp.GetMore() && len(c.GetParents()) > 0 {
		a.note("there are more: tarn diff %s..%s", short(c.GetParents()[0]), short(c.GetId()))
	}
}
