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
table, a file, a commit or an environment is as it is: ran, reused, skipped, stale, failed, imported, written.

For a hash, or the name of a pack or of a file of a table: what it is, and everything that keeps it from being freed, with
the time at which each lets go. That looks at all that is stored, as tarn gc does.`,
		GroupID: groupWork,
		Example: "  tarn why delays\n  tarn why r-7k2m9x\n  tarn why r-7k2m9x/delays\n  tarn why r-7k2m9x/thumbnails/images/a.png\n  tarn why orders@dev\n  tarn why 3f2a91c",
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
			doc := map[string]any{"sentence": resp.GetSentence(), "command": resp.GetCommand()}
			if h := resp.GetHeld(); h != nil {
				doc["held"] = heldDocument(h)
			}
			a.print(doc, func() {
				a.out.Printf("%s\n", ui.Clean(resp.GetSentence()))
				a.printHeld(resp.GetHeld())
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

func heldDocument(h *tarnv1.Held) map[string]any {
	keepers := []map[string]any{}
	for _, k := range h.GetKeepers() {
		doc := map[string]any{"kind": k.GetKind(), "name": k.GetName()}
		if k.GetCommit() != "" {
			doc["commit"], doc["head"] = k.GetCommit(), k.GetHead()
		}
		if k.GetUntil() != nil {
			doc["until"] = k.GetUntil().AsTime()
		}
		keepers = append(keepers, doc)
	}
	doc := map[string]any{
		"hash": h.GetHash(), "what": h.GetWhat(), "bytes": h.GetBytes(), "names": append([]string{}, h.GetKeys()...),
		"commits": h.GetCommits(), "keepers": keepers, "more": h.GetMore(),
	}
	if h.GetCommits() > 0 {
		doc["newest"], doc["oldest"] = h.GetNewest(), h.GetOldest()
	}
	if h.GetPack() != "" {
		doc["pack"] = map[string]any{"hash": h.GetPack(), "condemned": h.GetCondemned(), "bytes": h.GetPackBytes(), "needed": h.GetNeededBytes()}
	}
	return doc
}

// printHeld prints what something is and what keeps it, a line each.
func (a *app) printHeld(h *tarnv1.Held) {
	if h == nil {
		return
	}
	if h.GetPack() != "" {
		state := "live"
		if h.GetCondemned() {
			state = "on its way out"
		}
		a.out.Printf("  %s in pack %s, %s: %s of %s are needed\n", ui.Size(h.GetBytes()), a.out.ID(short(h.GetPack())), state, ui.Size(h.GetNeededBytes()), ui.Size(h.GetPackBytes()))
	}
	if n := int64(h.GetCommits()); n > 0 {
		a.out.Printf("  in %s, from %s to %s\n", ui.Count(n, "commit"), a.out.ID(short(h.GetOldest())), a.out.ID(short(h.GetNewest())))
	}
	for _, k := range h.GetKeepers() {
		line := k.GetKind() + " " + ui.Clean(k.GetName())
		if k.GetCommit() != "" && !k.GetHead() {
			line += ", in its history: " + short(k.GetCommit())
		}
		if k.GetUntil() != nil {
			line += ", until " + a.out.Time(k.GetUntil().AsTime())
		}
		a.out.Printf("  %s\n", line)
	}
	if h.GetMore() > 0 {
		a.out.Printf("  and %d more\n", h.GetMore())
	}
}
