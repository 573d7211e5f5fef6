package query

import (
	"errors"
	"fmt"
	"strings"

	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/base/pattern"
)

var (
	template = pattern.Of(`\{\{.*?\}\}|\{%.*?%\}`)
	dbtRef   = pattern.Of(`^\{\{-?\s*(?:ref\(\s*|source\(.*,\s*)['"]([^'"]+)['"]\s*\)\s*-?\}\}$`)
)

// checkTemplate recognises dbt, which many people have: the parser's own message would be about "{".
func checkTemplate(name, sql string) error {
	at := template().FindStringIndex(sql)
	if at == nil || inQuotes(sql[:at[0]]) {
		return nil
	}
	text := sql[at[0]:at[1]]
	where := place(name, strings.Count(sql[:at[0]], "\n")+1)
	if ref := dbtRef().FindStringSubmatch(text); ref != nil {
		return ErrTemplate.Errorf("%s%s is dbt. Write FROM %s.", where, text, ref[1])
	}
	return ErrTemplate.Errorf("%s%s is dbt. Write plain SQL; values come in as parameters: $name.", where, text)
}

// inQuotes says whether the end of the text is inside a string or behind a line comment's start.
func inQuotes(sql string) bool {
	line := sql[strings.LastIndexByte(sql, '\n')+1:]
	return strings.Count(sql, "'")%2 == 1 || strings.Contains(line, "--")
}

// place is "orders.sql:3: ", or "line 3: " for a text without a name.
func place(name string, line int) string {
	if name == "" {
		return fmt.Sprintf("line %d: ", line)
	}
	return fmt.Sprintf("%s:%d: ", name, line)
}

// located puts the place before the message of a statement's error. A text without a name has a line
// only if it has several.
func located(name, sql string, err error) error {
	var e *errdef.Error
	if !errors.As(err, &e) || e.Code != errdef.InvalidArgument {
		return err
	}
	line, ok := e.Details["line"].(float64)
	if !ok || name == "" && !strings.Contains(strings.TrimSpace(sql), "\n") {
		return err
	}
	c := *e
	c.Message = place(name, int(line)) + e.Message
	return &c
}
