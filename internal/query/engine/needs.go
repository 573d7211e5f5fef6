package engine

import (
	"encoding/json"
	"slices"

	"tarn.dev/tarn/internal/catalog/datafile"
	"tarn.dev/tarn/internal/query"
	"tarn.dev/tarn/internal/query/engine/duck"
)

func isExcerpt(s query.Source) bool { return s.Parquet != nil && s.Parquet.Excerpts }

// generalPlans are optimizers that a plan goes without when it tells what is read: they look at statistics, of which
// those of an excerpt are some, or make a plan that DuckDB cannot write as JSON (1.5.5: it finds its own columns no
// more). The second list is for plans that the first does not help; the others need what it switches off.
var generalPlans = []string{
	"SET disabled_optimizers = 'statistics_propagation,late_materialization,top_n_window_elimination'",
	"SET disabled_optimizers = 'statistics_propagation,late_materialization,top_n_window_elimination,build_side_probe_side'",
}

// askFor asks for what the job reads of its excerpts, and waits until they have it. What it reads is what DuckDB's plan
// says. Without a plan it is everything: of a statement that writes, and where DuckDB fails to write its plan down.
func askFor(db *duck.DB, job *query.Job, ask func(query.Needs) error) error {
	if !slices.ContainsFunc(job.Sources, isExcerpt) {
		return nil
	}
	if job.Describe { // footers tell that
		return apply(db, lock)
	}
	// DuckDB would keep what it has read of an excerpt before it is filled.
	if err := apply(db, "SET enable_external_file_cache = false"); err != nil {
		return err
	}
	var needs query.Needs
	planned := false
	if len(job.Bind) == 0 && (job.Write == nil || job.Write.Mode == query.Create) {
		stmt, err := prepare(db, *job) // what is wrong with it is said before anything is fetched
		if err != nil {
			return err
		}
		stmt.Close()
		for _, plan := range generalPlans {
			if err := apply(db, plan); err != nil {
				return err
			}
			if needs, planned = plannedNeeds(db, job); planned {
				break
			}
		}
	}
	if err := apply(db, "RESET disabled_optimizers", lock); err != nil {
		return err
	}
	if !planned {
		needs = query.Needs{}
	}
	for i, source := range job.Sources {
		if isExcerpt(source) && !planned {
			needs[i] = []datafile.Need{{All: true}}
		}
	}
	return ask(needs)
}

// planNode is an operator of a plan, as json_serialize_plan has it.
type planNode struct {
	Type     string
	Name     string
	Children []planNode
	Columns  []struct {
		Index uint64
	} `json:"column_indexes"`
	Filters struct {
		Filters []struct {
			Key   uint64 // a column's index
			Value planFilter
		}
	} `json:"table_filters"`
	Function struct {
		Files []string
	} `json:"function_data"`
}

// planFilter is a filter on one column.
type planFilter struct {
	Type       string       `json:"filter_type"`
	Comparison string       `json:"comparison_type"`
	Constant   planValue    `json:"constant"`
	Values     []planValue  `json:"values"`
	Child      *planFilter  `json:"child_filter"`
	Children   []planFilter `json:"child_filters"`
}

type planValue struct {
	Type  struct{ ID string }
	Null  bool `json:"is_null"`
	Value json.RawMessage
}

// plannedNeeds reads DuckDB's plan of a job's statement.
func plannedNeeds(db *duck.DB, job *query.Job) (query.Needs, bool) {
	texts, err := db.Strings("SELECT json_serialize_plan(" + literal(withoutSemicolon(job.SQL)) + ", optimize := true)::VARCHAR")
	if err != nil || len(texts) != 1 {
		return nil, false
	}
	var answer struct {
		Error bool
		Plans []planNode
	}
	if json.Unmarshal([]byte(texts[0]), &answer) != nil || answer.Error || len(answer.Plans) != 1 {
		return nil, false
	}
	needs := query.Needs{}
	for i, source := range job.Sources {
		if isExcerpt(source) {
			needs[i] = nil // unless it is scanned
		}
	}
	answer.Plans[0].scans(func(scan planNode) {
		if len(scan.Function.Files) == 0 {
			return // not of Parquet files
		}
		for i, source := range job.Sources { // two may be one table at two refs, and begin with a file that is no excerpt
			if isExcerpt(source) && source.Parquet.Files[0] == scan.Function.Files[0] {
				needs[i] = append(needs[i], scan.need(*source.Parquet))
			}
		}
	})
	return needs, true
}

// scans calls fn with each scan of a plan.
func (n planNode) scans(fn func(planNode)) {
	if n.Type == "LOGICAL_GET" {
		fn(n)
	}
	for _, child := range n.Children {
		child.scans(fn)
	}
}

// need is what a scan reads of a table. Of files of somebody else it has no conditions: their statistics may count in other
// units than the constants, and some writers err in them.
func (n planNode) need(table query.ParquetScan) datafile.Need {
	var need datafile.Need
	columns := table.Columns
	if table.ByName {
		for _, c := range n.Columns {
			if c.Index < uint64(len(columns)) {
				need.Names = append(need.Names, columns[c.Index].Name)
			}
		}
		return need
	}
	for _, c := range n.Columns {
		if c.Index < uint64(len(columns)) { // others are virtual
			need.IDs = append(need.IDs, columns[c.Index].FieldID)
		}
	}
	for _, f := range n.Filters.Filters {
		if f.Key < uint64(len(columns)) {
			need.Where = append(need.Where, f.Value.conditions(columns[f.Key].FieldID)...)
		}
	}
	return need
}

// conditions are those of a filter that statistics may refute; there may be none.
func (f planFilter) conditions(id int) []datafile.Condition {
	switch f.Type {
	case "OPTIONAL_FILTER":
		if f.Child != nil {
			return f.Child.conditions(id)
		}
	case "CONJUNCTION_AND":
		var all []datafile.Condition
		for _, child := range f.Children {
			all = append(all, child.conditions(id)...)
		}
		return all
	case "CONJUNCTION_OR":
		one := datafile.Condition{ID: id}
		for _, child := range f.Children {
			c := child.conditions(id)
			if len(c) != 1 {
				return nil
			}
			one.Any = append(one.Any, c[0].Any...)
		}
		return few(one)
	case "IN_FILTER":
		one := datafile.Condition{ID: id}
		for _, v := range f.Values {
			c, ok := v.compared(datafile.Equal)
			if !ok {
				return nil
			}
			one.Any = append(one.Any, c)
		}
		return few(one)
	case "CONSTANT_COMPARISON":
		if c, ok := f.Constant.compared(comparisons[f.Comparison]); ok {
			return []datafile.Condition{{ID: id, Any: []datafile.Comparison{c}}}
		}
	}
	return nil
}

// few is the condition unless it is too long to be worth its way.
func few(c datafile.Condition) []datafile.Condition {
	const most = 1000
	if len(c.Any) == 0 || len(c.Any) > most {
		return nil
	}
	return []datafile.Condition{c}
}

var comparisons = map[string]datafile.Op{
	"COMPARE_EQUAL":                datafile.Equal,
	"COMPARE_LESSTHAN":             datafile.Less,
	"COMPARE_LESSTHANOREQUALTO":    datafile.LessEqual,
	"COMPARE_GREATERTHAN":          datafile.Greater,
	"COMPARE_GREATERTHANOREQUALTO": datafile.GreaterEqual,
}

// compared is a comparison with the value, if statistics are of its kind.
func (v planValue) compared(op datafile.Op) (c datafile.Comparison, ok bool) {
	if op == "" || v.Null {
		return c, false
	}
	c.Op = op
	var into any
	switch v.Type.ID {
	case "TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT", "DATE", "TIME", "TIMESTAMP", "TIMESTAMP WITH TIME ZONE":
		c.Int = new(int64)
		into = c.Int
	case "FLOAT", "DOUBLE":
		c.Float = new(float64)
		into = c.Float
	case "VARCHAR":
		c.Text = new(string)
		into = c.Text
	default:
		return c, false
	}
	return c, json.Unmarshal(v.Value, into) == nil
}
