package cli

import (
	"fmt"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	tarnv1 "tarn.dev/tarn/api/gen/tarn/v1"
	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/cli/ui"
)

// errChecks ends `tarn check` when a blocking check does not pass.
var errChecks = errdef.New(errdef.UserCode, "check.failed", "a check failed")

func (a *app) checkCommand() *cobra.Command {
	var ref string
	c := codes(&cobra.Command{
		Use:   "check [TABLE...]",
		Short: "Ask the checks of tables as they are on a ref",
		Long: `Ask every check of the named tables, or of all tables, as they are on a ref. The checks are
those that the ref itself declares: what was published last with the code and with tarn.toml.`,
		GroupID: groupWork,
		Example: "  tarn check\n  tarn check orders --ref dev",
		RunE: func(c *cobra.Command, args []string) error {
			t, err := a.reach(c.Context())
			if err != nil {
				return err
			}
			at := t.ref(ref)
			resp, err := t.Runs.Check(c.Context(), &tarnv1.CheckRequest{Spec: &tarnv1.RunSpec{Project: t.project, Ref: at}, Tables: args})
			if err != nil {
				return err
			}
			failed := 0
			for _, r := range resp.GetChecks() {
				if !r.GetPassed() && r.GetSeverity() != "warn" {
					failed++
				}
			}
			if failed > 0 {
				err = errChecks.Errorf("%s of %d failed on %s", ui.Count(int64(failed), "check"), len(resp.GetChecks()), at)
			}
			doc := map[string]any{"ref": at, "checks": checkDocuments(resp.GetChecks())}
			if a.json && err != nil {
				return errChecks.Errorf("%w", err).WithDetail("ref", at).WithDetail("checks", doc["checks"])
			}
			a.print(doc, func() { a.showChecks(resp.GetChecks(), at) })
			return err
		},
	}, errdef.UserCode, errdef.NotFound, errdef.DataLoss)
	c.Flags().StringVar(&ref, "ref", "", "the `REF` to check (default: the current branch)")
	return c
}

func (a *app) showChecks(checks []*tarnv1.CheckResult, ref string) {
	var rows [][]string
	for _, r := range checks {
		mark, what := a.out.Good("ok"), ""
		if !r.GetPassed() {
			mark, what = a.out.Bad("failed"), offenders(r)
			if r.GetSeverity() == "warn" {
				mark = a.out.Warn("warning")
			}
		}
		rows = append(rows, []string{mark, ui.Clean(r.GetTable()), ui.Clean(r.GetCheck()), what})
	}
	a.out.Table(columns("", "table", "check", "offenders"), rows)
	if len(checks) == 0 {
		a.note("no checks are declared on %s. checks=[...] of @tarn.asset or [table.NAME] of tarn.toml declare some", ref)
	}
}

// offenders says how many rows did not pass, else what the check said.
func offenders(r *tarnv1.CheckResult) string {
	if r.GetOffenders() > 0 {
		return fmt.Sprintf("%s of %s rows", humanize.Comma(r.GetOffenders()), humanize.Comma(r.GetRows()))
	}
	return ui.Clean(firstLine(r.GetMessage()))
}
