package cli

import (
	"strconv"
	"strings"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	tarnv1 "tarn.dev/tarn/api/gen/tarn/v1"
	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/cli/ui"
)

func (a *app) tableCommand() *cobra.Command {
	return group("table", "Import, read and remove tables", groupData,
		a.tableListCommand(), a.tableHeadCommand(), a.tableImportCommand())
}

func (a *app) tableListCommand() *cobra.Command {
	var ref string
	c := codes(&cobra.Command{
		Use:     "ls",
		Short:   "List tables",
		Example: "  tarn table ls\n  tarn table ls --ref v1.0",
		Args:    args(0, 0),
		RunE: func(c *cobra.Command, args []string) error {
			t, err := a.reach(c.Context())
			if err != nil {
				return err
			}
			resp, err := t.Tables.List(c.Context(), &tarnv1.ListTablesRequest{Project: t.project, Ref: t.ref(ref)})
			if err != nil {
				return err
			}
			docs, rows := []*entryJSON{}, [][]string{}
			for _, e := range resp.GetTables() {
				docs = append(docs, entryDocument(e))
				rows = append(rows, []string{humanize.Comma(e.GetRows()), ui.Size(e.GetSize()), ui.Clean(e.GetName())})
			}
			a.print(map[string]any{"ref": t.ref(ref), "tables": docs}, func() {
				a.out.Table(columns(">rows", ">size", "name"), rows)
				if len(rows) == 0 {
					a.note("no tables on %s. tarn table import FILE makes one", t.ref(ref))
				}
			})
			return nil
		},
	}, errdef.NotFound, errdef.FailedPrecondition)
	c.Flags().StringVar(&ref, "ref", "", "the `REF` to read (default: the current branch)")
	return c
}

func (a *app) tableHeadCommand() *cobra.Command {
	var ref string
	var rows int64
	c := codes(&cobra.Command{
		Use:     "head NAME",
		Short:   "Print the first rows of a table",
		Example: "  tarn table head orders\n  tarn table head orders@v1.0 -n 100",
		Args:    args(1, 1),
		RunE: func(c *cobra.Command, args []string) error {
			if rows < 0 {
				return usage(c, "-n %d: it cannot be negative", rows)
			}
			t, err := a.reach(c.Context())
			if err != nil {
				return err
			}
			name, at := t.table(args[0], ref)
			table, err := t.Tables.Describe(c.Context(), &tarnv1.DescribeTableRequest{Project: t.project, Ref: at, Table: name})
			if err != nil {
				return err
			}
			p, _, err := a.queryRows(c.Context(), t, &tarnv1.QueryRequest{
				Write: &tarnv1.Write{Project: t.project}, Ref: at, Sql: "FROM " + quoteTable(name) + " LIMIT " + strconv.FormatInt(rows, 10),
			})
			if err != nil {
				return err
			}
			a.print(map[string]any{"table": entryDocument(table.GetTable()), "columns": p.doc.Columns, "rows": p.doc.Rows}, func() {
				if a.out.Terminal {
					a.note("%d of %s", p.total, ui.Count(table.GetTable().GetRows(), "row"))
				}
			})
			return nil
		},
	}, errdef.NotFound, errdef.FailedPrecondition, errdef.ResourceExhausted)
	c.Flags().StringVar(&ref, "ref", "", "the `REF` to read (default: the current branch)")
	c.Flags().Int64VarP(&rows, "rows", "n", 10, "print `N` rows")
	return c
}

// table takes NAME@REF apart; --ref and the current branch stand for a ref that is not there.
func (t target) table(name, flag string) (table, ref string) {
	if table, at, ok := strings.Cut(name, "@"); ok && at != "" {
		return table, at
	}
	return name, t.ref(flag)
}

// quoteTable is a table's name as SQL takes it, whatever is in it.
func quoteTable(name string) string {
	quote := func(s string) string { return `"` + strings.ReplaceAll(s, `"`, `""`) + `"` }
	if ns, table, ok := strings.Cut(name, "."); ok {
		return quote(ns) + "." + quote(table)
	}
	return quote(name)
}
