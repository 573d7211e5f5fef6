package engine

import (
	"errors"
	"slices"
	"strconv"
	"strings"

	"github.com/apache/arrow-go/v18/arrow"

	"tarn.dev/tarn/internal/base/pattern"
	"tarn.dev/tarn/internal/query"
	"tarn.dev/tarn/internal/query/engine/duck"
)

// bindAll binds statements in turn; what one gives is an empty table for those behind it. A statement
// whose tables are not all known passes, and what it gives stays unknown.
func bindAll(db *duck.DB, bindings []query.Binding) ([]*query.Unbound, error) {
	results := map[string]*arrow.Schema{}
	out := make([]*query.Unbound, len(bindings))
	for i, binding := range bindings {
		tables, ok, err := emptyTables(db, binding, results)
		if err == nil && ok {
			results[binding.Name], out[i] = bind(db, binding, tables)
		}
		for _, table := range binding.Tables { // no statement sees a table that it does not read
			err = errors.Join(err, db.Exec("DROP VIEW IF EXISTS "+relation(table.Name)))
		}
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

// emptyTables makes a binding's tables; ok is false if one cannot be made.
func emptyTables(db *duck.DB, binding query.Binding, results map[string]*arrow.Schema) (tables []query.TableColumns, ok bool, err error) {
	for _, table := range binding.Tables {
		columns := query.TableColumns{Name: table.Name}
		for _, c := range table.Columns {
			columns.Columns = append(columns.Columns, c.Name)
		}
		if table.ResultOf == "" {
			if len(table.Columns) == 0 {
				return nil, false, nil
			}
			err = addSource(db, query.Source{Name: table.Name, Parquet: &query.ParquetScan{Columns: table.Columns}})
		} else {
			schema := results[table.ResultOf]
			if schema == nil {
				return nil, false, nil
			}
			for _, field := range schema.Fields() {
				columns.Columns = append(columns.Columns, field.Name)
			}
			err = addView(db, table.Name, scanBatches(db, table.Name, duck.NewBatches(schema)))
		}
		if err != nil {
			return nil, false, err
		}
		tables = append(tables, columns)
	}
	return tables, true, nil
}

// bind gives the schema of a statement's result, or what is wrong with it; neither if that shows only
// when it runs.
func bind(db *duck.DB, binding query.Binding, tables []query.TableColumns) (*arrow.Schema, *query.Unbound) {
	// Not Describe: the types of parameters are known only when values are bound.
	stmt, err := prepare(db, query.Job{SQL: "SELECT * FROM (\n" + binding.SQL + "\n) LIMIT 0", Params: binding.Params})
	if err != nil {
		return nil, unbound(err, tables)
	}
	defer stmt.Close()
	rows, err := stmt.Stream(0)
	if err != nil {
		return nil, unbound(err, tables)
	}
	defer rows.Close()
	return rows.Schema(), nil
}

var (
	// surely are the classes of what binding says: no row was looked at.
	surely        = []string{"Binder Error", "Catalog Error", "Parser Error"}
	noSuchColumn  = pattern.Of(`^(?:Referenced column|(?:Table|Values list) ".*" does not have a column named) "(.*?)"`)
	offeredColumn = pattern.Of(`(?m)^Candidate bindings:? *(.*)$`)
	quotedName    = pattern.Of(`"([^"]*)"`)
	atLine        = pattern.Of(`(?m)^LINE (\d+): `)
)

// unbound reads DuckDB's text; nil if the error is not of binding.
func unbound(err error, tables []query.TableColumns) *query.Unbound {
	var e *duck.Error
	if !errors.As(err, &e) || !slices.Contains(surely, e.Class) {
		return nil
	}
	text := e.Message
	u := &query.Unbound{Message: e.Error(), Tables: tables}
	if m := atLine().FindStringSubmatchIndex(text); m != nil {
		n, _ := strconv.Atoi(text[m[2]:m[3]]) // digits
		u.Line = n - 1                        // of our own
		u.Message = e.Class + ": " + strings.TrimSpace(text[:m[0]])
	}
	if m := noSuchColumn().FindStringSubmatch(text); m != nil {
		u.Column = m[1]
	}
	if m := offeredColumn().FindStringSubmatch(text); m != nil {
		for _, name := range quotedName().FindAllStringSubmatch(m[1], -1) {
			u.Offered = append(u.Offered, name[1][strings.LastIndexByte(name[1], '.')+1:])
		}
	}
	return u
}
