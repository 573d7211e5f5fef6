package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	tarnv1 "tarn.dev/tarn/api/gen/tarn/v1"
	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/cli/ui"
)

type queryFlags struct {
	file, ref, into, message, output, format, memory string
	params                                           []string
	limit                                            int64
	drift                                            bool
}

func (a *app) queryCommand() *cobra.Command {
	var f queryFlags
	c := codes(&cobra.Command{
		Use:   "query [SQL]",
		Short: "Run SQL over the tables of a ref",
		Long: `Run one statement of DuckDB's SQL over the tables of a ref. "orders@dev" is the table of another
ref. INSERT, UPDATE, DELETE, MERGE and CREATE TABLE AS are one commit, if the checks pass.

A terminal shows the first 40 rows and the total; into a pipe go all rows, as CSV: NULL is
nothing there, and an empty string "". --format table|csv|json|jsonl|markdown|arrow says
otherwise.`,
		GroupID: groupWork,
		Example: `  tarn query "select origin, count(*) as n from flights group by origin"
  tarn query -f report.sql --param day=2024-01-03 -o report.parquet
  tarn query "from checks.unique_id" --ref run/r-7k2m9x
  tarn query "update orders set state = 'paid' where id = 17" --into dev`,
		Args: args(0, 1),
		RunE: func(c *cobra.Command, args []string) error {
			if err := f.check(c, a); err != nil {
				return err
			}
			sql, err := a.statement(c, f.file, args)
			if err != nil {
				return err
			}
			return a.runQuery(c, f, sql)
		},
	}, errdef.NotFound, errdef.AlreadyExists, errdef.FailedPrecondition, errdef.PermissionDenied, errdef.ResourceExhausted, errdef.Conflict)
	c.Flags().StringVarP(&f.file, "file", "f", "", "read the statement from `FILE`; - is stdin")
	c.Flags().StringVar(&f.ref, "ref", "", "the `REF` to read (default: --into, else the current branch)")
	c.Flags().StringVar(&f.into, "into", "", "the `BRANCH` to write to (default: --ref, else the current branch)")
	c.Flags().StringArrayVar(&f.params, "param", nil, "the value of $NAME: `NAME=VALUE`, may be repeated")
	c.Flags().StringVarP(&f.output, "output", "o", "", "write the rows to `FILE`: .parquet, .csv, .json or .arrow")
	c.Flags().StringVar(&f.format, "format", "", "print rows as `FORMAT`: "+strings.Join(rowFormats, ", "))
	c.Flags().Int64Var(&f.limit, "limit", 0, "print `N` rows at most, and end the query then")
	c.Flags().StringVar(&f.memory, "memory", "", "the `SIZE` of memory that the query may use, such as 4GiB")
	acceptDrift(c, &f.drift)
	c.Flags().StringVarP(&f.message, "message", "m", "", "the commit's `TEXT`, for statements that write")
	return c
}

// check refuses flags that do not go together.
func (f queryFlags) check(c *cobra.Command, a *app) error {
	switch {
	case f.format != "" && !slices.Contains(rowFormats, f.format):
		return usage(c, "--format %s: it is one of %s", f.format, strings.Join(rowFormats, ", "))
	case f.format != "" && a.json:
		return usage(c, "--json prints one document, and --format %s another", f.format)
	case f.format == "arrow" && a.out.Terminal:
		return usage(c, "--format arrow is not for a terminal: pipe it, or write a file with -o rows.arrow")
	case f.limit < 0 || f.limit == 0 && c.Flags().Changed("limit"):
		return usage(c, "--limit %d: it is 1 or more", f.limit)
	case f.output != "" && (f.format != "" || f.limit > 0):
		return usage(c, "-o writes all rows, and the ending of its file says the format: neither --format nor --limit go with it")
	}
	return nil
}

// statement is the SQL of the argument, a file or stdin.
func (a *app) statement(c *cobra.Command, file string, args []string) (string, error) {
	if (file == "") == (len(args) == 0) {
		return "", usage(c, "%s needs one statement: as SQL, or with -f FILE", c.CommandPath())
	}
	if len(args) == 1 && args[0] != "-" {
		return args[0], nil
	}
	if file == "" || file == "-" {
		text, err := io.ReadAll(a.in)
		return string(text), err
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return "", errdef.Newf(errdef.InvalidArgument, "cli.file", "read the statement: %w", err)
	}
	return string(text), nil
}

// queryParams turns NAME=VALUE into JSON: what is a number, true, false, null or a quoted string there is
// that, everything else is a string.
func queryParams(c *cobra.Command, list []string) (string, error) {
	params := map[string]json.RawMessage{}
	for _, p := range list {
		name, value, ok := strings.Cut(p, "=")
		if !ok || name == "" {
			return "", usage(c, "--param %s: it is NAME=VALUE", p)
		}
		if _, twice := params[name]; twice {
			return "", usage(c, "--param %s is given twice", name)
		}
		raw := json.RawMessage(value)
		if !json.Valid(raw) || value[0] == '{' || value[0] == '[' {
			quoted, err := json.Marshal(value)
			if err != nil {
				return "", fmt.Errorf("encode parameter: %w", err)
			}
			raw = quoted
		}
		params[name] = raw
	}
	text, err := json.Marshal(params)
	return string(text), err
}

// minMemory is what the engine needs for itself.
const minMemory = 16 << 20

func (a *app) runQuery(c *cobra.Command, f queryFlags, sql string) error {
	params, err := queryParams(c, f.params)
	if err != nil {
		return err
	}
	req := &tarnv1.QueryRequest{Sql: sql, ParamsJson: params, AcceptDrift: f.drift}
	if f.output != "" {
		if req.OutputPath, req.OutputFormat, err = outputFile(c, f.output); err != nil {
			return err
		}
	}
	if f.memory != "" {
		size, err := humanize.ParseBytes(f.memory)
		if err != nil || size < minMemory || size > math.MaxInt64 {
			return usage(c, "--memory %s: it is a size such as 512MiB or 4GiB, and %s at least", f.memory, ui.Size(minMemory))
		}
		req.MemoryBytes = int64(size)
	}
	if req.Limit = f.limit; f.limit == 0 && a.out.Terminal && !a.json && (f.format == "" || f.format == "table") {
		req.Show = terminalRows
	}
	t, err := a.reach(c.Context())
	if err != nil {
		return err
	}
	into := f.into
	if into == "" {
		into = f.ref
	}
	req.Write = t.write(into, f.message)
	if req.Ref = f.ref; req.Ref == "" {
		req.Ref = req.Write.GetInto()
	}
	p, summary, err := a.queryRows(c.Context(), t, f.format, req)
	if err != nil {
		return err
	}
	switch {
	case summary.GetWritten() != nil:
		doc := map[string]any{"table": summary.GetTable(), "rows": summary.GetRows(), "written": writtenDocument(summary.GetWritten())}
		a.print(doc, func() {
			a.note("%s: %s", ui.Clean(summary.GetTable()), ui.Count(summary.GetRows(), "row"))
			a.arrow(summary.GetWritten())
		})
	case f.output != "":
		a.print(map[string]any{"rows": summary.GetRows(), "file": req.GetOutputPath()}, func() {
			a.note("wrote %s, %s", f.output, ui.Count(summary.GetRows(), "row"))
		})
	default:
		doc := map[string]any{"columns": p.doc.Columns, "rows": p.doc.Rows, "total": summary.GetRows(), "commit": commitDocument(summary.GetCommit())}
		a.print(doc, func() {
			if a.out.Terminal {
				a.note("%s", a.err.Dim(p.footer(summary.GetRows())))
			}
		})
	}
	return nil
}

// outputFile is the file of -o as the server sees it, and the format that its ending means.
func outputFile(c *cobra.Command, name string) (path, format string, err error) {
	format = map[string]string{
		".parquet": "parquet", ".pq": "parquet", ".csv": "csv", ".json": "json", ".jsonl": "json", ".ndjson": "json", ".arrow": "arrow", ".feather": "arrow",
	}[strings.ToLower(filepath.Ext(name))]
	if format == "" {
		return "", "", usage(c, "-o %s: the ending says the format, and is .parquet, .csv, .json or .arrow", name)
	}
	if path, err = filepath.Abs(name); err == nil && strings.HasSuffix(name, "/") {
		path += "/"
	}
	return path, format, err
}
