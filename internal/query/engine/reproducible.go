package engine

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strings"

	"github.com/zeebo/blake3"

	"tarn.dev/tarn/internal/query"
	"tarn.dev/tarn/internal/query/engine/duck"
)

// Several threads meet rows in another order each time. Most results do not show it; those that do are
// run on one thread when the job asks for the same rows each time (Job.Seed).

// inOrder are functions whose result depends on the order of rows, whatever the type.
var inOrder = set(
	"list", "array_agg", "string_agg", "group_concat", "listagg", "first", "last", "any_value", "arbitrary",
	"arg_min", "arg_max", "argmin", "argmax", "min_by", "max_by", "mode", "random", "uuid", "gen_random_uuid", "uuidv4", "uuidv7",
	"row_number", "first_value", "last_value", "nth_value", "lag", "lead", "ntile",
	"stddev", "stddev_pop", "stddev_samp", "variance", "var_pop", "var_samp", "corr", "covar_pop", "covar_samp",
	"regr_avgx", "regr_avgy", "regr_count", "regr_intercept", "regr_r2", "regr_slope", "regr_sxx", "regr_sxy", "regr_syy",
	"skewness", "kurtosis", "kurtosis_pop", "entropy", "fsum", "sumkahan", "kahan_sum", "favg", "product", "geomean", "geometric_mean",
	"sem", "reservoir_quantile", "approx_quantile", "approx_top_k",
)

// additive are aggregates that add: exact on whole numbers and decimals, not on floating-point numbers.
var additive = set("sum", "avg", "mean", "sum_no_overflow")

// exact are operators that keep whole numbers and decimals what they are.
var exact = set("+", "-", "*")

func set(names ...string) map[string]bool {
	m := map[string]bool{}
	for _, n := range names {
		m[n] = true
	}
	return m
}

// settle makes a job give the same rows each time: one thread where the order of rows shows, and a random
// number generator that starts from the seed.
func settle(db *duck.DB, job *query.Job) error {
	if job.Seed == "" || job.Describe {
		return nil
	}
	s := &statement{sql: job.SQL, tokens: lex(job.SQL), reading: []byte(job.SQL)}
	tree, err := s.parse(db)
	if err != nil {
		return err
	}
	types := map[string][]string{}
	for _, source := range job.Sources {
		if err := columnTypes(source, types); err != nil {
			return err
		}
	}
	if showsOrder(tree, types) {
		job.Threads = 1
	}
	sum := blake3.Sum256([]byte(job.Seed))
	unit := float64(binary.LittleEndian.Uint64(sum[:])>>11) / (1 << 53)
	return db.Exec(fmt.Sprintf("SELECT setseed(%.17f)", unit))
}

// columnTypes notes the types under which each column name is known.
func columnTypes(source query.Source, types map[string][]string) error {
	if source.Parquet != nil {
		for _, c := range source.Parquet.Columns {
			types[strings.ToLower(c.Name)] = append(types[strings.ToLower(c.Name)], c.Type)
		}
		return nil
	}
	if len(source.Arrow) == 0 {
		return nil
	}
	batches, err := duck.OpenFiles(source.Arrow[:1])
	if err != nil {
		return query.ErrRead.Errorf("%w", err)
	}
	for _, f := range batches.Schema().Fields() {
		types[strings.ToLower(f.Name)] = append(types[strings.ToLower(f.Name)], query.DuckType(f.Type))
	}
	return nil
}

// showsOrder reports whether a statement's result may depend on the order in which rows are met.
func showsOrder(tree any, types map[string][]string) bool {
	switch n := tree.(type) {
	case []any:
		return slices.ContainsFunc(n, func(v any) bool { return showsOrder(v, types) })
	case map[string]any:
		name, _ := n["function_name"].(string)
		name = strings.ToLower(name)
		kind, _ := n["type"].(string)
		switch {
		case inOrder[name], kind == "LIMIT_MODIFIER", kind == "LIMIT_PERCENT_MODIFIER", kind == "DISTINCT_MODIFIER" && some(n["distinct_on_targets"]):
			return true
		case additive[name] && !addsExactly(n, types, true):
			return true
		case n["sample"] != nil:
			return true
		}
		for _, v := range n {
			if showsOrder(v, types) {
				return true
			}
		}
	}
	return false
}

// addsExactly reports whether everything under an aggregate is certainly a whole number or a decimal:
// columns of such types, such constants, and sums and products of them.
func addsExactly(tree any, types map[string][]string, top bool) bool {
	switch n := tree.(type) {
	case []any:
		return !slices.ContainsFunc(n, func(v any) bool { return !addsExactly(v, types, false) })
	case map[string]any:
		switch class, _ := n["class"].(string); class {
		case "COLUMN_REF":
			return exactColumn(n, types)
		case "CONSTANT":
			return !strings.Contains(fmt.Sprint(n), "DOUBLE")
		case "FUNCTION":
			name, _ := n["function_name"].(string)
			if !top && !exact[name] {
				return false
			}
		case "", "WINDOW":
		default:
			return false // a cast, a CASE, a subquery: it may be anything
		}
		for key, v := range n {
			if key != "filter" && !addsExactly(v, types, false) { // a filter chooses rows, it adds nothing
				return false
			}
		}
	}
	return true
}

func some(v any) bool {
	list, ok := v.([]any)
	return ok && len(list) > 0
}

func exactColumn(n map[string]any, types map[string][]string) bool {
	names, _ := n["column_names"].([]any)
	if len(names) == 0 {
		return false
	}
	name, _ := names[len(names)-1].(string)
	known := types[strings.ToLower(name)]
	return len(known) > 0 && !slices.ContainsFunc(known, func(t string) bool { return !exactType(t) })
}

var exactTypes = set("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT", "UHUGEINT", "BOOLEAN")

func exactType(t string) bool { return exactTypes[t] || strings.HasPrefix(t, "DECIMAL") }
