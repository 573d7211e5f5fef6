package cli

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	tarnv1 "tarn.dev/tarn/api/gen/tarn/v1"
	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/cli/ui"
)

// errConflicts is how a merge ends that the server cannot decide.
var errConflicts = errdef.New(errdef.Conflict, "lake.merge_conflict", "both sides changed the same")

type conflictJSON struct {
	Key     string          `json:"key"`
	Name    string          `json:"name"`
	Reason  string          `json:"reason"`
	Message string          `json:"message"`
	Details json.RawMessage `json:"details,omitempty"`
}

func (a *app) mergeCommand() *cobra.Command {
	var into, message string
	var prefer []string
	var dryRun bool
	c := codes(&cobra.Command{
		Use:   "merge SOURCE",
		Short: "Bring the changes of a branch into another",
		Long: `Bring the changes of SOURCE into the current branch, or --into. What both sides changed
in ways that do not fit together is listed; then nothing is changed.`,
		GroupID: groupHistory,
		Example: "  tarn merge dev --into main\n  tarn merge dev --dry-run\n  tarn merge dev --prefer orders=source --prefer images/a.png=target",
		Args:    args(1, 1),
		RunE: func(c *cobra.Command, args []string) error {
			source := args[0]
			sides := map[string]string{}
			for _, p := range prefer {
				i := strings.LastIndexByte(p, '=')
				if i < 1 || (p[i+1:] != "source" && p[i+1:] != "target") {
					return usage(c, "--prefer %s: it is NAME=source or NAME=target", p)
				}
				sides[p[:i]] = p[i+1:]
			}
			t, err := a.reach(c.Context())
			if err != nil {
				return err
			}
			write := t.write(into, message)
			if write.GetInto() == source {
				return usage(c, "%s cannot be merged into itself; --into names the target", source)
			}
			resp, err := t.History.Merge(c.Context(), &tarnv1.MergeRequest{Write: write, Source: source, Prefer: sides, DryRun: dryRun})
			if err != nil {
				return err
			}
			return a.printMerge(resp, source, write.GetInto(), dryRun)
		},
	}, errdef.Conflict, errdef.NotFound, errdef.FailedPrecondition)
	c.Flags().StringVar(&into, "into", "", "the target `BRANCH` (default: the current one)")
	c.Flags().StringArrayVar(&prefer, "prefer", nil, "settle a conflict: `NAME=source|target`, may be repeated")
	c.Flags().BoolVar(&dryRun, "dry-run", false, "only show what would happen")
	c.Flags().StringVarP(&message, "message", "m", "", "the commit's `TEXT`")
	return c
}

func (a *app) printMerge(resp *tarnv1.MergeResponse, source, target string, dryRun bool) error {
	changes, conflicts := []changeJSON{}, []conflictJSON{}
	for _, ch := range resp.GetChanges() {
		changes = append(changes, changeDocument(ch))
		if !a.json {
			a.out.Printf("%s\n", changeLine(a.out, ch))
		}
	}
	var names []string
	for _, k := range resp.GetConflicts() {
		doc := conflictJSON{k.GetKey(), k.GetName(), k.GetReason(), k.GetMessage(), nil}
		if k.GetDetailsJson() != "" {
			doc.Details = json.RawMessage(k.GetDetailsJson())
		}
		conflicts = append(conflicts, doc)
		names = append(names, k.GetName())
		if !a.json {
			a.out.Printf("%s %s\n", a.out.Bad("!"), ui.Clean(k.GetMessage()))
		}
	}
	if len(conflicts) > 0 {
		what := ui.Count(int64(len(conflicts)), "conflict")
		look := fmt.Sprintf("tarn diff %s..%s", target, source)
		if strings.HasPrefix(conflicts[0].Key, "table/") {
			look += " " + names[0] + " --rows"
		}
		e := errConflicts.Errorf("%s: %s is unchanged", what, target).
			WithDetail("conflicts", conflicts).WithDetail("changes", changes).
			WithNext(look, fmt.Sprintf("tarn merge %s --into %s --prefer %s=source", source, target, names[0]))
		return e
	}
	doc := map[string]any{
		"source": source, "target": target, "dry_run": dryRun, "changes": changes,
		"conflicts": conflicts, "written": writtenDocument(resp.GetWritten()),
	}
	a.print(doc, func() {
		if dryRun {
			a.note("would merge %s into %s: %s; nothing was changed", source, target, ui.Count(int64(len(changes)), "change"))
			return
		}
		a.arrow(resp.GetWritten())
	})
	return nil
}
