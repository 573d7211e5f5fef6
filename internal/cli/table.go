package cli

import (
	"path/filepath"
	"strconv"
	"strings"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	tarnv1 "tarn.dev/tarn/api/gen/tarn/v1"
	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/cli/ui"
)

func (a *app) tableCommand() *cobra.Command {
	return group("table", "Import, link, read and remove tables", groupData,
		a.tableListCommand(), a.tableHeadCommand(), a.tableImportCommand(), a.tableLinkCommand(), a.tableExportCommand(), a.tableHistoryCommand(), a.tableRelocateCommand(), a.tableRemoveCommand())
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
			p, _, err := a.queryRows(c.Context(), t, "", &tarnv1.QueryRequest{
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

func (a *app) tableHistoryCommand() *cobra.Command {
	var ref string
	var limit int32
	c := codes(&cobra.Command{
		Use:     "history NAME",
		Short:   "Show the commits that changed a table",
		Example: "  tarn table history orders\n  tarn table history orders --ref v1.0 --limit 5",
		Args:    args(1, 1),
		RunE: func(c *cobra.Command, args []string) error {
			if limit < 0 {
				return usage(c, "--limit %d: it cannot be negative", limit)
			}
			t, err := a.reach(c.Context())
			if err != nil {
				return err
			}
			name, at := t.table(args[0], ref)
			req := &tarnv1.TableHistoryRequest{Project: t.project, Ref: at, Table: name}
			if limit > 0 {
				req.Limit = limit + 1 // one more tells whether there are more
			}
			resp, err := t.Tables.History(c.Context(), req)
			if err != nil {
				return err
			}
			versions := resp.GetVersions()
			more := limit > 0 && len(versions) > int(limit)
			if more {
				versions = versions[:limit]
			}
			docs, rows := []tableVersionJSON{}, [][]string{}
			for _, v := range versions {
				docs = append(docs, tableVersionJSON{commitDocument(v.GetCommit()), v.GetPresent(), v.GetVersion(), v.GetRows(), v.GetBytes()})
				commit, count := v.GetCommit(), "removed"
				if v.GetPresent() {
					count = humanize.Comma(v.GetRows())
				}
				rows = append(rows, []string{
					a.out.ID(short(commit.GetId())), a.out.Time(commit.GetTime().AsTime()), count, ui.Clean(commit.GetAuthor()), headline(commit),
				})
			}
			a.print(map[string]any{"table": name, "ref": at, "versions": docs, "more": more}, func() {
				a.out.Table(columns("commit", "time", ">rows", "author", "message"), rows)
				if more {
					a.note("there are more: --limit 0 shows all")
				}
			})
			return nil
		},
	}, errdef.NotFound, errdef.FailedPrecondition)
	c.Flags().StringVar(&ref, "ref", "", "the `REF` to read (default: the current branch)")
	c.Flags().Int32Var(&limit, "limit", 50, "show at most `N` commits, 0 for all")
	return c
}

// tableVersionJSON is a table as one commit left it.
type tableVersionJSON struct {
	Commit  *commitJSON `json:"commit"`
	Present bool        `json:"present"` // false: the commit removed it
	Version string      `json:"version,omitempty"`
	Rows    int64       `json:"rows"`
	Bytes   int64       `json:"bytes"`
}

func (a *app) tableRemoveCommand() *cobra.Command {
	var into, message string
	c := codes(&cobra.Command{
		Use:     "rm NAME...",
		Short:   "Remove tables, as one commit",
		Long:    "Remove tables, as one commit. Their history stays: tarn revert brings them back.",
		Example: "  tarn table rm orders\n  tarn table rm staging.a staging.b --into dev",
		Args:    args(1, -1),
		RunE: func(c *cobra.Command, args []string) error {
			t, err := a.reach(c.Context())
			if err != nil {
				return err
			}
			resp, err := t.Tables.Remove(c.Context(), &tarnv1.RemoveTablesRequest{Write: t.write(into, message), Tables: args})
			if err != nil {
				return err
			}
			a.print(map[string]any{"removed": orEmpty(resp.GetRemoved()), "written": writtenDocument(resp.GetWritten())}, func() {
				a.note("removed %s", ui.Count(int64(len(resp.GetRemoved())), "table"))
				a.arrow(resp.GetWritten())
			})
			return nil
		},
	}, errdef.NotFound, errdef.FailedPrecondition, errdef.PermissionDenied, errdef.Conflict)
	c.Flags().StringVar(&into, "into", "", "the `BRANCH` to write to (default: the current one)")
	c.Flags().StringVarP(&message, "message", "m", "", "the commit's `TEXT`")
	return c
}

// exportFormats are the formats of files by their ending.
var exportFormats = map[string]string{
	".parquet": "parquet", ".pq": "parquet", ".csv": "csv", ".json": "json", ".jsonl": "json", ".ndjson": "json",
	".arrow": "arrow", ".feather": "arrow",
}

func (a *app) tableExportCommand() *cobra.Command {
	var ref, output string
	c := codes(&cobra.Command{
		Use:     "export NAME -o FILE",
		Short:   "Write a table to a Parquet, CSV, JSON or Arrow file",
		Long:    "Write a table to a file; its ending says how: .parquet, .csv, .jsonl (or .json, .ndjson: one object a line), .arrow.",
		Example: "  tarn table export orders -o orders.parquet\n  tarn table export orders@v1.0 -o orders.csv",
		Args:    args(1, 1),
		RunE: func(c *cobra.Command, args []string) error {
			if output == "" {
				return usage(c, "%s needs -o FILE", c.CommandPath())
			}
			format := exportFormats[strings.ToLower(filepath.Ext(output))]
			if format == "" {
				return usage(c, "the ending of %s tells no format: .parquet, .csv, .jsonl and .arrow do", output)
			}
			path, err := filepath.Abs(output)
			if err != nil {
				return errSource.Errorf("find %s: %w", output, err)
			}
			t, err := a.reach(c.Context())
			if err != nil {
				return err
			}
			name, at := t.table(args[0], ref)
			if _, err := t.Tables.Describe(c.Context(), &tarnv1.DescribeTableRequest{Project: t.project, Ref: at, Table: name}); err != nil {
				return err
			}
			stream, err := t.Queries.Query(c.Context(), &tarnv1.QueryRequest{
				Write: &tarnv1.Write{Project: t.project}, Ref: at, Sql: "FROM " + quoteTable(name), OutputPath: path, OutputFormat: format,
			})
			if err != nil {
				return err
			}
			var done *tarnv1.QuerySummary
			err = recv(stream, func(m *tarnv1.QueryResponse) error {
				if s := m.GetSummary(); s != nil {
					done = s
				}
				return nil
			})
			if err != nil {
				return err
			}
			a.print(map[string]any{"table": name, "ref": at, "file": path, "format": format, "rows": done.GetRows()}, func() {
				a.note("wrote %s to %s", ui.Count(done.GetRows(), "row"), ui.Clean(output))
			})
			return nil
		},
	}, errdef.NotFound, errdef.FailedPrecondition, errdef.AlreadyExists, errdef.ResourceExhausted)
	c.Flags().StringVar(&ref, "ref", "", "the `REF` to read (default: the current branch)")
	c.Flags().StringVarP(&output, "output", "o", "", "the `FILE` to write")
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
