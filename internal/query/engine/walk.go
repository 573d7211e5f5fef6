package engine

import (
	"encoding/json"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"

	"tarn.dev/tarn/internal/query"
)

// found is a table in a statement's tree.
type found struct {
	name   query.Name
	offset int
	alias  bool // it has one
	at     bool // the ref stands in an AT clause
}

// scope is the set of CTE names that are visible, in lower case.
type scope struct {
	name  string
	outer *scope
}

func (s *scope) has(name string) bool {
	for ; s != nil; s = s.outer {
		if s.name == name {
			return true
		}
	}
	return false
}

func (s *scope) with(name string) *scope { return &scope{strings.ToLower(name), s} }

// walker searches DuckDB's tree for what it reads. It knows the few kinds of nodes that matter and
// descends into everything.
type walker struct {
	statement *statement
	tables    []found
	err       error
}

// reach are functions that read something the analysis cannot see, or nothing that is there.
var reach = map[string]string{
	"query":       "the tables it reads are not known beforehand; write the query itself",
	"query_table": "the table it reads is not known beforehand; write its name",
	"glob":        "queries see no files; tarn file ls does",
	"sniff_csv":   "queries see no files; import them: tarn table import FILE --as NAME",
	"read_text":   "queries see no files",
	"read_blob":   "queries see no files",
}

func isFileReader(function string) bool {
	for _, prefix := range []string{"read_csv", "read_json", "read_ndjson", "read_parquet", "parquet_", "iceberg_", "delta_scan", "sqlite_scan", "postgres_scan", "arrow_scan", "arrow_batches"} {
		if strings.HasPrefix(function, prefix) {
			return true
		}
	}
	return false
}

func (w *walker) walk(node any, visible *scope) {
	if w.err != nil {
		return
	}
	switch n := node.(type) {
	case []any:
		for _, child := range n {
			w.walk(child, visible)
		}
	case map[string]any:
		w.object(n, visible)
	}
}

func (w *walker) object(n map[string]any, visible *scope) {
	// A CTE sees the ones before it, and itself only if it is recursive; the query sees all.
	if ctes, ok := n["cte_map"].(map[string]any); ok {
		list, _ := ctes["map"].([]any)
		for _, item := range list {
			entry, _ := item.(map[string]any)
			w.walk(entry["value"], visible)
			visible = visible.with(text(entry, "key"))
		}
	}
	switch kind := text(n, "type"); kind {
	case "BASE_TABLE":
		w.table(n, visible)
	case "RECURSIVE_CTE_NODE":
		visible = visible.with(text(n, "cte_name"))
	case "SHOW_REF":
		if n["query"] == nil {
			w.refuse(n, "SHOW lists nothing here; tarn table ls does")
		}
	}
	if text(n, "class") == "FUNCTION" {
		function := strings.ToLower(text(n, "function_name"))
		if why, ok := reach[function]; ok {
			w.refuse(n, function+"() does not run here: "+why)
		} else if isFileReader(function) {
			w.refuse(n, function+"() does not run here: queries see no files; import them: tarn table import FILE --as NAME")
		}
	}
	for _, key := range slices.Sorted(maps.Keys(n)) { // sorted: the first refusal is always the same one
		if key != "cte_map" {
			w.walk(n[key], visible)
		}
	}
}

func (w *walker) table(n map[string]any, visible *scope) {
	table, namespace := text(n, "table_name"), text(n, "schema_name")
	clause, _ := n["at_clause"].(map[string]any)
	if namespace == "" && clause == nil && visible.has(strings.ToLower(table)) {
		return
	}
	if catalog := text(n, "catalog_name"); catalog != "" {
		w.refuse(n, catalog+"."+namespace+"."+table+": a table's name has two parts at most, namespace.name")
		return
	}
	if isFile(table) {
		w.refuse(n, "'"+table+"' looks like a file, and queries see no files; import it: tarn table import FILE --as NAME")
		return
	}
	f := found{name: newName(namespace, table), offset: location(n), alias: text(n, "alias") != ""}
	if clause != nil {
		expression, _ := clause["expr"].(map[string]any)
		value, _ := expression["value"].(map[string]any)
		version, ok := value["value"].(string)
		if text(clause, "unit") != "VERSION" || !ok || version == "" {
			w.refuse(n, "AT takes a branch, tag or commit as a string: AT (VERSION => 'dev')")
			return
		}
		if f.name.Ref != "" {
			w.refuse(n, "the table has two refs; give one of \""+f.name.String()+"\" and AT (VERSION => '"+version+"')")
			return
		}
		f.name.Ref, f.at = version, true
	}
	w.tables = append(w.tables, f)
}

// isFile recognises what DuckDB itself would open: FROM 'x.csv'.
func isFile(table string) bool {
	if strings.ContainsAny(table, "/\\*") {
		return true
	}
	switch strings.ToLower(path.Ext(strings.TrimSuffix(table, ".gz"))) {
	case ".csv", ".tsv", ".json", ".jsonl", ".ndjson", ".parquet", ".arrow", ".db", ".duckdb":
		return true
	}
	return false
}

func (w *walker) refuse(n map[string]any, message string) {
	if w.err == nil {
		w.err = at(w.statement.sql, max(location(n), 0), query.ErrUnsupported, "%s", message)
	}
}

func text(n map[string]any, key string) string {
	s, _ := n[key].(string)
	return s
}

// location is the byte offset of a node, -1 if DuckDB gives none.
func location(n map[string]any) int {
	number, _ := n["query_location"].(json.Number)
	offset, err := strconv.ParseInt(number.String(), 10, 32)
	if err != nil {
		return -1
	}
	return int(offset)
}
