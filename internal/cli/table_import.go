package cli

import (
	"encoding/json"
	"path/filepath"
	"strings"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	tarnv1 "tarn.dev/tarn/api/gen/tarn/v1"
	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/cli/ui"
)

func (a *app) tableImportCommand() *cobra.Command {
	var into, message, name, mode, format string
	var key, options []string
	c := codes(&cobra.Command{
		Use:   "import SRC...",
		Short: "Read Parquet, CSV or JSON files into a table, as one commit",
		Long: `Read Parquet, CSV or JSON files into a table, as one commit, after its checks have
passed. SRC is a file, a folder of files, or a glob in quotes; all become one table. Its
name is that of the file unless --as names another.

--mode replace (the default) swaps all rows, append adds rows, merge puts each row in the
place of the row of the same --key.`,
		Example: `  tarn table import flights.csv
  tarn table import 'logs/2024-*.parquet' --as logs --mode append
  tarn table import users.jsonl --mode merge --key id --into dev
  tarn table import old.txt --as old --format csv -o delim=';' -o header=false`,
		Args: args(1, -1),
		RunE: func(c *cobra.Command, args []string) error {
			text, err := readerOptions(c, options)
			if err != nil {
				return err
			}
			sources := make([]string, len(args))
			for i, arg := range args {
				// The server has another working folder.
				if sources[i], err = filepath.Abs(arg); err != nil {
					return errSource.Errorf("find %s: %w", arg, err)
				}
			}
			t, err := a.reach(c.Context())
			if err != nil {
				return err
			}
			done, err := a.importTable(c, t, &tarnv1.ImportRequest{
				Write: t.write(into, message), Sources: sources, Table: name, Mode: mode, Key: key, Format: format, OptionsJson: text,
			})
			if err != nil {
				return err
			}
			a.print(importedDocument(done), func() { a.imported(done) })
			return nil
		},
	}, errdef.NotFound, errdef.FailedPrecondition, errdef.PermissionDenied, errdef.Conflict, errdef.ResourceExhausted)
	c.Flags().StringVar(&name, "as", "", "the table's `NAME` (default: the file's)")
	c.Flags().StringVar(&mode, "mode", "replace", "`MODE` is replace, append or merge")
	c.Flags().StringSliceVar(&key, "key", nil, "the `COLUMNS` of the row key")
	c.Flags().StringVar(&format, "format", "", "`FORMAT` is parquet, csv or json (default: by the ending)")
	c.Flags().StringArrayVarP(&options, "option", "o", nil, "how to read the files, as `NAME=VALUE`: header=false, delim=';', ...")
	c.Flags().StringVar(&into, "into", "", "the `BRANCH` to write to (default: the current one)")
	c.Flags().StringVarP(&message, "message", "m", "", "the commit's `TEXT`")
	return c
}

// readerOptions are NAME=VALUE pairs as a JSON object; a value is JSON where it can be, else text.
func readerOptions(c *cobra.Command, pairs []string) (string, error) {
	if len(pairs) == 0 {
		return "", nil
	}
	options := map[string]any{}
	for _, pair := range pairs {
		name, value, ok := strings.Cut(pair, "=")
		if !ok || name == "" {
			return "", usage(c, "-o %s is not NAME=VALUE", pair)
		}
		if json.Valid([]byte(value)) {
			options[name] = json.RawMessage(value)
		} else {
			options[name] = value
		}
	}
	text, err := json.Marshal(options)
	return string(text), err
}

// importTable runs an import and shows how far it is.
func (a *app) importTable(c *cobra.Command, t target, req *tarnv1.ImportRequest) (*tarnv1.Imported, error) {
	stream, err := t.Tables.Import(c.Context(), req)
	if err != nil {
		return nil, err
	}
	var done *tarnv1.Imported
	var bar *ui.Bar
	shown := int64(0)
	err = recv(stream, func(m *tarnv1.ImportResponse) error {
		if d := m.GetDone(); d != nil {
			done = d
			return nil
		}
		p := m.GetProgress()
		if bar == nil {
			bar = a.err.Progress(p.GetTotalBytes(), "importing")
		}
		if n := p.GetBytes(); n > shown {
			bar.Add(int(n - shown))
			shown = n
		}
		return nil
	})
	if bar != nil {
		bar.Done()
	}
	if err == nil && done == nil {
		err = errdef.Newf(errdef.Internal, "cli.import", "the server ended the import without a word")
	}
	return done, err
}

// importedJSON is the outcome of a write to a table.
type importedJSON struct {
	Table      *entryJSON   `json:"table"`
	RowsBefore int64        `json:"rows_before"`
	Checks     []checkJSON  `json:"checks"`
	Written    *writtenJSON `json:"written"`
}

func importedDocument(d *tarnv1.Imported) importedJSON {
	return importedJSON{entryDocument(d.GetTable()), d.GetRowsBefore(), checkDocuments(d.GetChecks()), writtenDocument(d.GetWritten())}
}

// imported tells what became of a write to a table.
func (a *app) imported(d *tarnv1.Imported) {
	e := d.GetTable()
	line := a.err.Bold(ui.Clean(e.GetName())) + "  " + ui.Count(e.GetRows(), "row")
	if change := e.GetRows() - d.GetRowsBefore(); d.GetRowsBefore() > 0 && change != 0 {
		sign := "+"
		if change < 0 {
			sign, change = "-", -change
		}
		line += " (" + sign + humanize.Comma(change) + ")"
	}
	a.note("%s", line)
	for _, check := range d.GetChecks() {
		switch {
		case check.GetPassed():
			a.note("  %s %s", a.err.Good("ok"), ui.Clean(check.GetCheck()))
		default:
			a.note("  %s %s", a.err.Warn(check.GetSeverity()), ui.Clean(check.GetMessage()))
		}
	}
	a.arrow(d.GetWritten())
}
