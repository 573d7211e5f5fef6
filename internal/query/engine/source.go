package engine

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/query"
	"tarn.dev/tarn/internal/query/engine/duck"
)

// addSource makes a table of the job: a view in the schema of its namespace. A ref is a part of the
// view's name, as it is in SQL: "orders@dev".
func addSource(db *duck.DB, source query.Source) error {
	from, err := scanOf(db, source)
	if err != nil {
		return fmt.Errorf("table %s: %w", source.Name, err)
	}
	return addView(db, source.Name, from)
}

func addView(db *duck.DB, name query.Name, from string) error {
	if ns := name.Namespace; ns != "" && ns != "default" {
		if err := db.Exec("CREATE SCHEMA IF NOT EXISTS " + quote(ns)); err != nil {
			return err
		}
	}
	if err := db.Exec("CREATE VIEW " + relation(name) + " AS " + from); err != nil {
		return fmt.Errorf("table %s: %w", name, err)
	}
	return nil
}

func scanOf(db *duck.DB, source query.Source) (string, error) {
	switch {
	case source.Parquet != nil:
		return parquetScan(*source.Parquet)
	case source.Import != nil:
		return importScan(*source.Import)
	}
	batches, err := duck.OpenFiles(source.Arrow)
	if err != nil {
		return "", query.ErrRead.Errorf("%w", err)
	}
	return scanBatches(db, source.Name, batches), nil
}

func scanBatches(db *duck.DB, table query.Name, batches *duck.Batches) string {
	name := table.Namespace + "/" + table.Table + "@" + table.Ref
	db.Register(name, batches)
	return "FROM arrow_batches(" + literal(name) + ")"
}

// parquetScan maps columns by field id: a column that a file lacks is NULL, a renamed one is found, and
// its values are cast to the table's type.
func parquetScan(scan query.ParquetScan) (string, error) {
	if scan.ByName {
		return "FROM read_parquet(" + literals(scan.Files) + ", hive_partitioning = false, union_by_name = true)", nil
	}
	if len(scan.Columns) == 0 {
		return "", query.ErrUnsupported.Errorf("the table has no columns, and SQL cannot read such a table")
	}
	var columns []string
	if len(scan.Files) == 0 {
		for _, c := range scan.Columns {
			columns = append(columns, "CAST(NULL AS "+seenType(c)+") AS "+quote(c.Name))
		}
		return "SELECT " + strings.Join(columns, ", ") + " WHERE false", nil
	}
	for _, c := range scan.Columns {
		columns = append(columns, fmt.Sprintf("%d: {name: %s, type: %s, default_value: NULL}", c.FieldID, literal(c.Name), literal(c.Type)))
	}
	selected, err := selectIntervals(scan.Columns)
	return selected + "FROM read_parquet(" + literals(scan.Files) + ", hive_partitioning = false, schema = MAP {" + strings.Join(columns, ", ") + "})", err
}

// seenType is the type that SQL sees.
func seenType(c query.Column) string {
	if c.Interval != "" {
		return "INTERVAL"
	}
	return c.Type
}

// selectIntervals turns what files hold for intervals into INTERVAL, which counts microseconds.
func selectIntervals(columns []query.Column) (string, error) {
	var replaced []string
	for _, c := range columns {
		name := quote(c.Name)
		switch c.Interval {
		case "":
		case query.Nanoseconds:
			replaced = append(replaced, "to_microseconds("+name+" // 1000) AS "+name)
		case query.Parts:
			replaced = append(replaced, "to_months("+name+".months) + to_days("+name+".days) + to_microseconds("+name+".nanoseconds // 1000) AS "+name)
		default:
			return "", errdef.Newf(errdef.Internal, "query.bad_job", "column %s: there is no interval %q", c.Name, c.Interval)
		}
	}
	if len(replaced) == 0 {
		return "", nil
	}
	return "SELECT * REPLACE (" + strings.Join(replaced, ", ") + ") ", nil
}

// importOptions are the options a caller may pass to DuckDB's readers, per format.
var importOptions = map[string][]string{
	"parquet": {"binary_as_string", "filename", "hive_partitioning", "union_by_name"},
	"csv": {
		"all_varchar", "allow_quoted_nulls", "auto_detect", "columns", "comment", "compression", "dateformat",
		"decimal_separator", "delim", "encoding", "escape", "filename", "force_not_null", "header",
		"hive_partitioning", "ignore_errors", "max_line_size", "names", "new_line", "normalize_names",
		"null_padding", "nullstr", "quote", "sample_size", "sep", "skip", "strict_mode", "thousands",
		"timestampformat", "types", "union_by_name",
	},
	"json": {
		"columns", "compression", "convert_strings_to_integers", "dateformat", "filename", "format",
		"hive_partitioning", "ignore_errors", "map_inference_threshold", "maximum_depth",
		"maximum_object_size", "records", "sample_size", "timestampformat", "union_by_name",
	},
}

func importScan(scan query.ImportScan) (string, error) {
	allowed, ok := importOptions[scan.Format]
	if !ok {
		return "", query.ErrUnsupported.Errorf("files of format %q cannot be imported; parquet, csv and json can", scan.Format)
	}
	args := []string{literals(scan.Paths)}
	for _, name := range slices.Sorted(maps.Keys(scan.Options)) {
		if !slices.Contains(allowed, name) {
			return "", query.ErrUnsupported.Errorf("%s files have no option %q; there are %s", scan.Format, name, strings.Join(allowed, ", "))
		}
		value, err := literalOf(scan.Options[name])
		if err != nil {
			return "", errdef.Newf(errdef.InvalidArgument, "query.option", "option %s: %w", name, err)
		}
		args = append(args, name+" = "+value)
	}
	return "FROM read_" + scan.Format + "(" + strings.Join(args, ", ") + ")", nil
}

// expandImports replaces patterns by the files they match, in order of name, so that the files which
// may be opened are known before external access ends.
func expandImports(db *duck.DB, sources []query.Source) error {
	for _, source := range sources {
		if source.Import == nil {
			continue
		}
		var files []string
		for _, path := range source.Import.Paths {
			matched, err := db.Strings("SELECT file FROM glob($1) ORDER BY file", path)
			if err != nil {
				return err
			}
			if len(matched) == 0 {
				return query.ErrNoFiles.Errorf("no file matches %s", path)
			}
			files = append(files, matched...)
		}
		slices.Sort(files)
		source.Import.Paths = slices.Compact(files)
	}
	return nil
}

// relation is the quoted name of a table of the job.
func relation(name query.Name) string {
	ns := name.Namespace
	if ns == "" {
		ns = "default"
	}
	table := name.Table
	if name.Ref != "" {
		table += "@" + name.Ref
	}
	return quote(ns) + "." + quote(table)
}

func quote(identifier string) string { return `"` + strings.ReplaceAll(identifier, `"`, `""`) + `"` }

func literal(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }

func literals(list []string) string {
	quoted := make([]string, len(list))
	for i, s := range list {
		quoted[i] = literal(s)
	}
	return "[" + strings.Join(quoted, ", ") + "]"
}

// literalOf is an option's value, as JSON gave it, in SQL. An object becomes a struct.
func literalOf(value any) (string, error) {
	switch v := value.(type) {
	case string:
		return literal(v), nil
	case bool:
		return fmt.Sprint(v), nil
	case json.Number:
		return v.String(), nil
	case []any:
		parts := make([]string, len(v))
		for i, item := range v {
			var err error
			if parts[i], err = literalOf(item); err != nil {
				return "", err
			}
		}
		return "[" + strings.Join(parts, ", ") + "]", nil
	case map[string]any:
		parts := make([]string, 0, len(v))
		for _, key := range slices.Sorted(maps.Keys(v)) {
			item, err := literalOf(v[key])
			if err != nil {
				return "", err
			}
			parts = append(parts, quote(key)+": "+item)
		}
		return "{" + strings.Join(parts, ", ") + "}", nil
	}
	return "", fmt.Errorf("values of type %T are not supported", value)
}
