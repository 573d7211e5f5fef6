package flow

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"github.com/apache/arrow-go/v18/arrow"

	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/base/pattern"
	"tarn.dev/tarn/internal/catalog/datafile"
	"tarn.dev/tarn/internal/query"
)

// reading is one import on its way through the engine.
type reading struct {
	f       *Flow
	files   []*importFile
	format  string
	options map[string]any

	paths []string // as the engine gets them
	real  map[string]string
}

// importFiles lets the engine read files and write them as data files into dir.
func (f *Flow) importFiles(ctx context.Context, dir string, layout datafile.Layout, files []*importFile, format string, options map[string]any) (datafile.Result, error) {
	links, err := os.MkdirTemp(f.scratch("tables"), "links-*")
	if err != nil {
		return datafile.Result{}, fmt.Errorf("make scratch folder: %w", err)
	}
	defer os.RemoveAll(links)
	r := &reading{f: f, files: files, format: format, options: options, real: map[string]string{}}
	for i, file := range files {
		path, err := r.link(links, i, file.path)
		if err != nil {
			return datafile.Result{}, err
		}
		r.paths = append(r.paths, path)
	}
	sql, options, err := r.fit(ctx, layout)
	if err != nil {
		return datafile.Result{}, err
	}
	result, err := r.run(ctx, dir, layout, sql, options)
	if err != nil {
		return result, err
	}
	if err := r.misread(ctx, result); err != nil {
		return result, err
	}
	if layout.Append { // the table says the types
		return result, nil
	}
	wide, err := r.wideIntegers(ctx, result)
	if err != nil || len(wide) == 0 {
		return result, err
	}
	for _, file := range result.Files {
		if err := os.Remove(filepath.Join(dir, file.Name)); err != nil {
			return result, fmt.Errorf("read again: %w", err)
		}
	}
	return r.run(ctx, dir, layout, sql, withOption(options, "types", wide))
}

// link is a path that the engine does not take for a glob.
func (r *reading) link(dir string, i int, path string) (string, error) {
	if !strings.ContainsAny(path, `*?[]\`) {
		return path, nil
	}
	name := filepath.Base(path)
	stem, _ := ending(name)
	link := filepath.Join(dir, strconv.Itoa(i)+name[len(stem):])
	if strings.ContainsAny(link, `*?[]\`) {
		link = filepath.Join(dir, strconv.Itoa(i))
	}
	r.real[link] = path
	if err := os.Symlink(path, link); err != nil {
		return "", fmt.Errorf("link %s: %w", path, err)
	}
	return link, nil
}

const readAll = `FROM "import"`

func (r *reading) job(sql string, options map[string]any) query.Job {
	scan := &query.ImportScan{Format: r.format, Paths: r.paths, Options: options}
	return query.Job{SQL: sql, Sources: []query.Source{{Name: query.Name{Table: "import"}, Import: scan}}}
}

// fit makes text be read as the types of the table that the rows join. What the sniffer guesses from one
// file means nothing there: postcodes would lose their zeros, and whole prices not fit among fractions.
func (r *reading) fit(ctx context.Context, layout datafile.Layout) (sql string, options map[string]any, err error) {
	for _, given := range []string{"types", "columns", "all_varchar"} {
		if _, ok := r.options[given]; ok {
			return readAll, r.options, nil
		}
	}
	if !layout.Append || len(layout.Schema) == 0 || r.format == "parquet" {
		return readAll, r.options, nil
	}
	have, err := datafile.DecodeSchema(layout.Schema)
	if err != nil {
		return "", nil, err
	}
	job := r.job(readAll, r.options)
	job.Describe = true
	described, err := r.f.Engine.Run(ctx, job, nil)
	if err != nil {
		return "", nil, r.explain(ctx, err)
	}
	found, err := query.ParseSchema(described.Schema)
	if err != nil {
		return "", nil, err
	}
	types, casts := map[string]any{}, []string{}
	for _, f := range found.Fields() {
		at := have.FieldIndices(f.Name)
		if len(at) == 0 {
			continue
		}
		want := have.Field(at[0]).Type
		if name := query.DuckType(want); textual(want) && name != query.DuckType(f.Type) {
			types[f.Name] = name
			if widens(f.Type, want) {
				column := `"` + strings.ReplaceAll(f.Name, `"`, `""`) + `"`
				casts = append(casts, "CAST("+column+" AS "+name+") AS "+column)
			}
		}
	}
	switch {
	case r.format == "csv" && len(types) > 0:
		return readAll, withOption(r.options, "types", types), nil
	case r.format == "json" && len(casts) > 0:
		return "SELECT * REPLACE (" + strings.Join(casts, ", ") + ") " + readAll, r.options, nil
	}
	return readAll, r.options, nil
}

// textual tells the types that text can be read as.
func textual(t arrow.DataType) bool {
	switch t.ID() {
	case arrow.BOOL, arrow.STRING, arrow.LARGE_STRING, arrow.STRING_VIEW, arrow.DATE32, arrow.DATE64, arrow.TIME32, arrow.TIME64, arrow.TIMESTAMP:
		return true
	}
	return arrow.IsInteger(t.ID()) || arrow.IsFloating(t.ID()) || arrow.IsDecimal(t.ID())
}

// widens tells the casts of JSON's values that lose nothing, or fail.
func widens(from, to arrow.DataType) bool {
	switch {
	case arrow.IsInteger(from.ID()):
		return arrow.IsInteger(to.ID()) || arrow.IsFloating(to.ID()) || arrow.IsDecimal(to.ID())
	case from.ID() == arrow.FLOAT64:
		return arrow.IsFloating(to.ID())
	case from.ID() == arrow.DATE32:
		return to.ID() == arrow.TIMESTAMP
	case from.ID() == arrow.TIMESTAMP:
		return to.ID() == arrow.TIMESTAMP
	}
	return from.ID() == arrow.NULL || from.ID() == arrow.EXTENSION // a column without any value
}

func (r *reading) run(ctx context.Context, dir string, layout datafile.Layout, sql string, options map[string]any) (datafile.Result, error) {
	job := r.job(sql, options)
	job.Sinks = []query.Sink{{Kind: query.SinkTable, Path: dir, Table: &layout}}
	result, err := r.f.Engine.Run(ctx, job, nil)
	if err != nil {
		return datafile.Result{}, r.explain(ctx, err)
	}
	if len(result.Outputs) != 1 || result.Outputs[0].Table == nil {
		return datafile.Result{}, errdef.Newf(errdef.Internal, "import.engine", "the engine wrote no table")
	}
	return *result.Outputs[0].Table, nil
}

var (
	csvLine     = pattern.Of(`CSV Error on Line: (\d+)\s*`)
	csvOriginal = pattern.Of(`Original Line: ?(.*)\n?`)
	jsonLine    = pattern.Of(`Malformed JSON in file "[^"]+", at byte \d+ in (?:line|record/value) (\d+): `)
	errorClass  = pattern.Of(`^[A-Z][A-Za-z ]* Error: `)
	badColumn   = pattern.Of(`Error when converting column "([^"]+)"`)
)

// explain says which file is at fault, and where in it.
func (r *reading) explain(ctx context.Context, err error) error {
	var e *errdef.Error
	if ctx.Err() != nil || !errors.As(err, &e) || !strings.HasPrefix(e.Reason, "query.") || e.Code == errdef.Internal || e.Code == errdef.ResourceExhausted {
		return err
	}
	text := e.Message
	for link, path := range r.real {
		text = strings.ReplaceAll(text, link, path)
	}
	where := ""
	for _, known := range r.files {
		if len(r.files) == 1 || strings.Contains(text, known.path) {
			where = known.path
			break
		}
	}
	text = errorClass().ReplaceAllString(text, "")
	for _, line := range []*regexp.Regexp{csvLine(), jsonLine()} {
		if m := line.FindStringSubmatch(text); m != nil && where != "" {
			where, text = where+":"+m[1], strings.Replace(text, m[0], "", 1)
		}
	}
	row := ""
	if m := csvOriginal().FindStringSubmatch(text); m != nil {
		row, text = m[1], strings.Replace(text, m[0], "", 1)
	}
	// What follows is DuckDB's advice, in its own syntax, and a list of what its sniffer found.
	for _, end := range []string{"\n\n", "\nColumn ", "\nPossible", "\nThe search space", "\nLINE "} {
		text, _, _ = strings.Cut(text, end)
	}
	text = strings.TrimRight(strings.ReplaceAll(strings.TrimSpace(text), "\n", " "), ". ")
	if row != "" {
		text += fmt.Sprintf(", in the row %q", clipText(row, 120))
	}
	if where != "" {
		text = where + ": " + text
	}
	bad := ErrImportRead.Errorf("%s", text)
	if m := badColumn().FindStringSubmatch(e.Message); m != nil && r.format == "csv" {
		bad = bad.WithNext(fmt.Sprintf(`-o 'types={"%s": "VARCHAR"}' keeps the column as text`, m[1]), "-o sample_size=-1 looks at every row before it chooses types")
	}
	return bad
}

func clipText(s string, most int) string {
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "..."
}
