package flow

import (
	"bufio"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"

	"tarn.dev/tarn/internal/base/pattern"
	"tarn.dev/tarn/internal/catalog/datafile"
)

// separators are what the sniffer looks for.
const separators = ",;\t|"

// misread catches what DuckDB's sniffer makes of a CSV file whose lines do not fit together: it looks for
// any way to read it, takes each line for one value, or leaves lines at the top away. Nothing may get lost
// without a word, so then the first line is taken at its word, and the line that does not fit is the error.
func (r *reading) misread(ctx context.Context, result datafile.Result) error {
	for _, given := range []string{"auto_detect", "columns", "comment", "delim", "encoding", "header", "ignore_errors", "names", "normalize_names", "null_padding", "sep", "skip"} {
		if _, ok := r.options[given]; ok {
			return nil
		}
	}
	schema, err := datafile.DecodeSchema(result.Schema)
	if err != nil || r.format != "csv" {
		return err
	}
	lines, err := firstLines(r.files[0].path)
	if err != nil || len(lines) == 0 {
		return err
	}
	var names []string
	for _, f := range schema.Fields() {
		if !madeName().MatchString(f.Name) {
			names = append(names, f.Name)
		}
	}
	top := lines[0].text
	if strings.Count(top, `"`)%2 == 1 { // a value with a line break
		return nil
	}
	if len(names) > 0 && !holdsAll(top, names) {
		for _, l := range lines[1:] {
			if holdsAll(l.text, names) {
				return ErrImportRead.Errorf("%s:%d: what stands above the header is not a part of the table", r.files[0].path, l.number).
					WithNext("-o skip=" + strconv.Itoa(l.number-1) + " leaves it away")
			}
		}
	}
	at := strings.IndexAny(top, separators)
	if at < 0 || strings.Contains(top, `"`) || len(names) > 1 {
		return nil
	}
	for _, sep := range separators {
		if schema.NumFields() > 1 && 1+strings.Count(top, string(sep)) == schema.NumFields() {
			return nil
		}
	}
	return r.strictly(ctx, top, top[at:at+1])
}

// strictly reads a file whose lines must have as many values as its first; the error says which has not.
func (r *reading) strictly(ctx context.Context, top, delim string) error {
	columns := map[string]any{}
	for i := range strings.Split(top, delim) {
		columns["c"+strconv.Itoa(i)] = "VARCHAR"
	}
	options := map[string]any{"delim": delim, "header": true, "auto_detect": false, "columns": columns}
	for name, v := range r.options {
		options[name] = v
	}
	dir, err := os.MkdirTemp(r.f.scratch("tables"), "again-*")
	if err != nil {
		return fmt.Errorf("make scratch folder: %w", err)
	}
	defer os.RemoveAll(dir)
	if _, err := r.run(ctx, dir, datafile.Layout{First: 1}, readAll, options); err != nil {
		return err
	}
	return ErrImportRead.Errorf("%s: it is unclear what separates the values of a line", r.files[0].path).WithNext("-o delim=" + strconv.Quote(delim))
}

// wideIntegers are the columns of whole numbers over 2^63, as hashes are: DuckDB takes them for fractions,
// which lose digits. As many rows are looked at as it looks at.
func (r *reading) wideIntegers(ctx context.Context, result datafile.Result) (map[string]any, error) {
	for _, given := range []string{"all_varchar", "auto_detect", "columns", "types"} {
		if _, ok := r.options[given]; ok {
			return nil, nil
		}
	}
	schema, err := datafile.DecodeSchema(result.Schema)
	if err != nil || r.format != "csv" {
		return nil, err
	}
	types, tests, names := map[string]any{}, []string{}, []string{}
	for _, f := range schema.Fields() {
		if f.Type.ID() == arrow.FLOAT64 {
			column := `"` + strings.ReplaceAll(f.Name, `"`, `""`) + `"`
			types[f.Name] = "VARCHAR"
			names = append(names, f.Name)
			tests = append(tests, "coalesce(bool_and(regexp_full_match(trim("+column+"), '[+-]?[0-9]{1,38}')), false)")
		}
	}
	if len(names) == 0 {
		return nil, nil
	}
	job := r.job("SELECT "+strings.Join(tests, ", ")+" FROM (FROM \"import\" LIMIT 20480)", withOption(r.options, "types", types))
	path, done, err := r.f.runToArrow(ctx, job)
	if err != nil {
		return nil, r.explain(ctx, err)
	}
	defer done()
	wide := map[string]any{}
	err = eachBatch([]string{path}, func(*arrow.Schema) error { return nil }, func(b arrow.RecordBatch) error {
		for i, name := range names {
			if whole, ok := b.Column(i).(*array.Boolean); ok && whole.Len() > 0 && whole.Value(0) {
				wide[name] = "HUGEINT"
			}
		}
		return nil
	})
	return wide, err
}

// withOption is options with one more.
func withOption(options map[string]any, name string, v any) map[string]any {
	out := map[string]any{name: v}
	for k, x := range options {
		if k != name {
			out[k] = x
		}
	}
	return out
}

// madeName is a name that the sniffer made up, or made different.
var madeName = pattern.Of(`^column\d+$|_\d+$`)

func holdsAll(line string, names []string) bool {
	line = strings.ReplaceAll(line, `""`, `"`)
	for _, name := range names {
		if !strings.Contains(line, name) {
			return false
		}
	}
	return true
}

type textLine struct {
	number int
	text   string
}

// firstLines are the first lines of a file that are neither empty nor comments.
func firstLines(path string) ([]textLine, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, ErrImportRead.Errorf("%s: %w", path, pathless(err))
	}
	defer f.Close() //nolint:errcheck // read only
	var in io.Reader = f
	switch lower := strings.ToLower(path); {
	case strings.HasSuffix(lower, ".gz"):
		if in, err = gzip.NewReader(f); err != nil {
			return nil, ErrImportRead.Errorf("%s: %w", path, err)
		}
	case strings.HasSuffix(lower, ".zst"):
		return nil, nil
	}
	const most = 64 << 10
	buf := make([]byte, most)
	n, err := io.ReadFull(bufio.NewReader(in), buf)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return nil, ErrImportRead.Errorf("%s: %w", path, pathless(err))
	}
	text := strings.TrimPrefix(string(buf[:n]), "\uFEFF")
	text = strings.ReplaceAll(strings.ReplaceAll(text, "\r\n", "\n"), "\r", "\n")
	all := strings.Split(text, "\n")
	if n == most {
		all = all[:len(all)-1] // it is cut
	}
	var lines []textLine
	for i, l := range all {
		if strings.TrimSpace(l) != "" && !strings.HasPrefix(l, "#") {
			lines = append(lines, textLine{i + 1, l})
		}
	}
	return lines, nil
}
