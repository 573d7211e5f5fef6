// Package check turns the checks that people write into one shape: a SQL query that returns the rows
// that offend. No offending rows means passed.
//
//	unique(a, b)                no two rows agree in a and b
//	not_null(a, b)              no null in a, none in b
//	references(a, t.b)          every non-null a is a b of table t
//	rows(min, max)              the table has that many rows; either bound may be left out
//	fresh(a, '1 day')           the newest a is no older than that
//	any SQL condition           holds for every row; null does not hold
package check

import (
	"fmt"
	"math"
	"strconv"
	"strings"

	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/base/pattern"
)

// ErrSyntax is a check that cannot be read.
var ErrSyntax = errdef.New(errdef.InvalidArgument, "check.syntax", "check cannot be read")

// Check is one check, ready to run.
type Check struct {
	Text     string   // as written
	Name     string   // of the table that keeps its offenders: unique_id
	Table    string   // judged
	Offender string   // SELECT of the offending rows
	Count    string   // SELECT of one number: how many rows offend
	Reads    []string // other tables the query reads
	Volatile bool     // depends on the time, so that its answer holds for a moment only
}

var (
	clock = pattern.Of(`(?i)\b(now|today|age|get_current_\w+|(current|local|transaction)_?(date|time|timestamp|localtime|localtimestamp)|random|(gen_random_)?uuid(v4|v7)?)\b`)
	call  = pattern.Of(`(?is)^\s*([a-z_]+)\s*\((.*)\)\s*$`)
	word  = pattern.Of(`[^A-Za-z0-9]+`)
)

// Quote writes a name as a SQL identifier.
func Quote(name string) string { return `"` + strings.ReplaceAll(name, `"`, `""`) + `"` }

// Parse reads one check of a table.
func Parse(table, text string) (Check, error) {
	c := Check{Text: text, Table: table, Name: NameOf(text)}
	if strings.TrimSpace(text) == "" {
		return c, ErrSyntax.Errorf("%s has an empty check", table)
	}
	from := Quote(table)
	if m := call().FindStringSubmatch(text); m != nil && balanced(m[2]) {
		args := splitArgs(m[2])
		if build, ok := builders[strings.ToLower(m[1])]; ok {
			if err := build(&c, from, args); err != nil {
				return c, ErrSyntax.Errorf("check %s of %s: %w", text, table, err)
			}
			c.finish()
			return c, nil
		}
	}
	if !balanced(text) {
		// "a) OR (b" would change what IS NOT TRUE is about.
		return c, ErrSyntax.Errorf("check %s of %s: a bracket or a quote is not closed", text, table)
	}
	c.Offender = fmt.Sprintf("SELECT * FROM %s WHERE (%s) IS NOT TRUE", from, text)
	c.Volatile = clock().MatchString(text)
	c.finish()
	return c, nil
}

func (c *Check) finish() {
	if c.Count == "" {
		c.Count = fmt.Sprintf("SELECT count(*) AS n FROM (%s)", c.Offender)
	}
}

// NameOf is the name under which a check's offenders are kept.
func NameOf(text string) string {
	const most = 60
	n := strings.Trim(word().ReplaceAllString(strings.ToLower(text), "_"), "_")
	if len(n) > most {
		n = strings.TrimRight(n[:most], "_")
	}
	if n == "" || n[0] >= '0' && n[0] <= '9' {
		n = strings.TrimRight("check_"+n, "_") // a name that needs no quotes
	}
	return n
}

var builders = map[string]func(c *Check, from string, args []string) error{
	"unique": func(c *Check, from string, args []string) error {
		cols, err := columns(args)
		if err != nil {
			return err
		}
		c.Offender = fmt.Sprintf("SELECT * FROM %s QUALIFY count(*) OVER (PARTITION BY %s) > 1", from, cols)
		// A grouped count spills less than the window; offenders are listed only when there are any.
		c.Count = fmt.Sprintf("SELECT coalesce(sum(n), 0)::BIGINT AS n FROM (SELECT count(*) AS n FROM %s GROUP BY %s HAVING count(*) > 1)", from, cols)
		return nil
	},
	"not_null": func(c *Check, from string, args []string) error {
		if _, err := columns(args); err != nil {
			return err
		}
		var conds []string
		for _, a := range args {
			conds = append(conds, Quote(a)+" IS NULL")
		}
		c.Offender = fmt.Sprintf("SELECT * FROM %s WHERE %s", from, strings.Join(conds, " OR "))
		return nil
	},
	"references": func(c *Check, from string, args []string) error {
		if len(args) != 2 {
			return fmt.Errorf("write references(column, table.column)")
		}
		table, col, ok := cutLast(args[1], ".")
		if table, col = unquote(table), unquote(col); !ok || args[0] == "" || table == "" || col == "" {
			return fmt.Errorf("write references(column, table.column)")
		}
		c.Reads = []string{table}
		c.Offender = fmt.Sprintf("SELECT * FROM %s WHERE %s IS NOT NULL AND %s NOT IN (SELECT %s FROM %s WHERE %s IS NOT NULL)",
			from, Quote(args[0]), Quote(args[0]), Quote(col), Quote(table), Quote(col))
		return nil
	},
	"rows": func(c *Check, from string, args []string) error {
		if len(args) < 1 || len(args) > 2 {
			return fmt.Errorf("write rows(min, max), rows(min) or rows(, max)")
		}
		var conds []string
		bounds := []int64{0, math.MaxInt64}
		for i, a := range args {
			if a == "" {
				continue
			}
			n, err := strconv.ParseInt(strings.ReplaceAll(a, "_", ""), 10, 64)
			if err != nil || n < 0 {
				return fmt.Errorf("%q is no number of rows", a)
			}
			bounds[i] = n
			conds = append(conds, fmt.Sprintf("count(*) %c %d", "<>"[i], n))
		}
		if len(conds) == 0 {
			return fmt.Errorf("write rows(min, max), rows(min) or rows(, max)")
		}
		if bounds[0] > bounds[1] {
			return fmt.Errorf("no table has at least %d and at most %d rows", bounds[0], bounds[1])
		}
		c.Offender = fmt.Sprintf("SELECT count(*) AS rows FROM %s HAVING %s", from, strings.Join(conds, " OR "))
		return nil
	},
	"fresh": func(c *Check, from string, args []string) error {
		if len(args) != 2 || args[0] == "" || args[1] == "" {
			return fmt.Errorf("write fresh(column, '1 day')")
		}
		c.Volatile = true
		c.Offender = fmt.Sprintf("SELECT max(%s) AS newest FROM %s HAVING max(%s) IS NULL OR max(%s)::TIMESTAMPTZ < now() - INTERVAL %s",
			Quote(args[0]), from, Quote(args[0]), Quote(args[0]), args[1])
		return nil
	},
}

func columns(args []string) (string, error) {
	if len(args) == 0 {
		return "", fmt.Errorf("name at least one column")
	}
	var out []string
	for _, a := range args {
		if a == "" {
			return "", fmt.Errorf("a column's name is empty")
		}
		out = append(out, Quote(a))
	}
	return strings.Join(out, ", "), nil
}

// splitArgs cuts at commas outside of quotes and brackets, and removes identifier quotes.
func splitArgs(s string) []string {
	var args []string
	depth, start := 0, 0
	var quote rune
	add := func(part string) {
		args = append(args, unquote(strings.TrimSpace(part)))
	}
	for i, r := range s {
		switch {
		case quote != 0:
			if r == quote {
				quote = 0
			}
		case r == '\'' || r == '"':
			quote = r
		case r == '(':
			depth++
		case r == ')':
			depth--
		case r == ',' && depth == 0:
			add(s[start:i])
			start = i + 1
		}
	}
	if rest := s[start:]; strings.TrimSpace(rest) != "" || len(args) > 0 {
		add(rest)
	}
	return args
}

// unquote takes the quotes off one quoted name; "a"."b" is two.
func unquote(s string) string {
	if len(s) < 2 || s[0] != '"' || s[len(s)-1] != '"' {
		return s
	}
	inner := s[1 : len(s)-1]
	if strings.Contains(strings.ReplaceAll(inner, `""`, ""), `"`) {
		return s
	}
	return strings.ReplaceAll(inner, `""`, `"`)
}

// balanced reports whether the brackets in s close: "unique(a) AND not_null(b)" is no call of unique.
func balanced(s string) bool {
	depth := 0
	var quote rune
	for _, r := range s {
		switch {
		case quote != 0:
			if r == quote {
				quote = 0
			}
		case r == '\'' || r == '"':
			quote = r
		case r == '(':
			depth++
		case r == ')':
			depth--
			if depth < 0 {
				return false
			}
		}
	}
	return depth == 0 && quote == 0
}

func cutLast(s, sep string) (before, after string, ok bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+len(sep):], true
}
