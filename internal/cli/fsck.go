package cli

import (
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	tarnv1 "tarn.dev/tarn/api/gen/tarn/v1"
	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/cli/ui"
)

// errDamaged is how `tarn fsck` ends when it found something.
var errDamaged = errdef.New(errdef.DataLoss, "cli.damaged", "the store is damaged")

type problem struct {
	Reason  string `json:"reason"`
	Object  string `json:"object"`
	Message string `json:"message"`
}

func (a *app) fsckCommand() *cobra.Command {
	var deep, external, repair bool
	c := codes(&cobra.Command{
		Use:     "fsck",
		Short:   "Verify every invariant of the project's store",
		Long:    "Read everything that the project's branches, tags and history name, and verify it: that it is\nthere, that it is what was written, and that it fits together.\n\n--repair first sets right what can be told from what is left, and puts aside what cannot; nothing is\ndeleted. What is then said to be damaged was lost: put the same file again, run the asset again with\n--no-cache, or restore a backup.",
		GroupID: groupSetup,
		Example: "  tarn fsck\n  tarn fsck --deep       # read every stored byte too\n  tarn fsck --repair     # set right what can be, and say what was lost\n  tarn fsck --external   # ask whether what was linked is still there, and the same",
		Args:    args(0, 0),
		RunE: func(c *cobra.Command, _ []string) error {
			t, err := a.reach(c.Context())
			if err != nil {
				return err
			}
			stream, err := t.System.Fsck(c.Context(), &tarnv1.FsckRequest{Project: t.project, Deep: deep, External: external, Repair: repair})
			if err != nil {
				return err
			}
			problems, repaired, aside := []problem{}, []problem{}, 0
			var checked map[string]int64
			err = recv(stream, func(m *tarnv1.FsckResponse) error {
				if p := m.GetProblem(); p != nil {
					problems = append(problems, problem{p.GetReason(), p.GetObject(), p.GetMessage()})
					if !a.json {
						a.out.Printf("%s %s: %s\n", a.out.Bad(p.GetReason()), p.GetObject(), ui.Clean(p.GetMessage()))
					}
				}
				if p := m.GetRepaired(); p != nil {
					repaired = append(repaired, problem{p.GetReason(), p.GetObject(), p.GetMessage()})
					if strings.HasSuffix(p.GetReason(), "_aside") {
						aside++
					}
					if !a.json {
						a.out.Printf("%s %s: %s\n", p.GetReason(), p.GetObject(), ui.Clean(p.GetMessage()))
					}
				}
				if what := m.GetWaiting(); what != "" {
					a.note("%s", ui.Clean(what))
				}
				if s := m.GetStats(); s != nil {
					checked = s.GetChecked()
				}
				return nil
			})
			if err != nil {
				return err
			}
			if len(problems) > 0 || aside > 0 {
				err := errDamaged.Errorf("%s in project %s", ui.Count(int64(len(problems)), "problem"), t.project).WithDetail("problems", problems)
				if repair {
					err = errDamaged.Errorf("%s put aside, %s left in project %s", ui.Count(int64(aside), "thing"), ui.Count(int64(len(problems)), "problem"), t.project).
						WithDetail("problems", problems).WithDetail("repaired", repaired).
						WithNext("tarn file put FILE KEY: the same bytes again make all commits whole", "tarn run NAME --no-cache", "tarn restore --help")
				} else {
					err = err.WithNext("tarn fsck --repair")
				}
				return err
			}
			a.print(map[string]any{"project": t.project, "checked": checked, "problems": problems, "repaired": repaired}, func() {
				a.out.Printf("clean\n")
				for _, kind := range slices.Sorted(maps.Keys(checked)) {
					a.note("  %-14s %d", kind, checked[kind])
				}
			})
			return nil
		},
	}, errdef.DataLoss, errdef.FailedPrecondition)
	c.Flags().BoolVar(&external, "external", false, "ask for the originals of links on branches and tags too")
	c.Flags().BoolVar(&deep, "deep", false, "read every stored byte too")
	c.Flags().BoolVar(&repair, "repair", false, "set right what can be, put aside what cannot, then read everything")
	return c
}
