package engine

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/query"
	"tarn.dev/tarn/internal/query/engine/duck"
)

// analyze says what a statement reads and writes. DuckDB's parser gives the tree of a SELECT as JSON,
// which walk searches for tables. It knows no other statement, so the reading part of a write is made
// a SELECT first, in place: what does not belong to it becomes white space, and every offset stays.
func analyze(db *duck.DB, sql string) (*query.Analysis, error) {
	tokens := lex(sql)
	for len(tokens) > 0 && tokens[len(tokens)-1].is(";") {
		tokens = tokens[:len(tokens)-1]
	}
	if len(tokens) == 0 {
		return nil, query.ErrStatement.Errorf("the statement is empty")
	}
	for _, t := range tokens {
		if t.is(";") {
			return nil, at(sql, t.start, query.ErrStatement, "give exactly one statement")
		}
	}
	s := &statement{sql: sql[:tokens[len(tokens)-1].end], tokens: tokens, reading: []byte(sql[:tokens[len(tokens)-1].end])}
	if err := s.classify(); err != nil {
		return nil, err
	}
	tree, err := s.parse(db)
	if err != nil {
		return nil, err
	}
	w := walker{statement: s}
	w.walk(tree, nil)
	if w.err != nil {
		return nil, w.err
	}
	return s.result(w.tables)
}

// statement is a text on its way to an Analysis.
type statement struct {
	sql    string
	tokens []token
	// reading is the SELECT that reads what the statement reads, at the same offsets as in sql.
	reading []byte
	kind    query.Kind
	write   *query.Write
	edits   []edit
}

// edit replaces a part of the text.
type edit struct {
	start, end int
	text       string
}

// at makes an error about a place.
func at(sql string, offset int, sentinel *errdef.Error, format string, args ...any) error {
	line := lineOf(sql, offset)
	return sentinel.Errorf(format, args...).WithDetail("line", line)
}

func lineOf(sql string, offset int) int {
	return strings.Count(sql[:min(offset, len(sql))], "\n") + 1
}

// refused are statements that people type and Tarn does not run, with what to do instead.
var refused = map[string]string{
	"alter":      "tables change by writing them anew: CREATE OR REPLACE TABLE ... AS SELECT ...",
	"analyze":    "there is nothing to analyze",
	"attach":     "import the data first: tarn table import FILE --as NAME",
	"begin":      "each write is one commit by itself; use a branch for several: tarn switch -c NAME",
	"call":       "functions are called in a SELECT",
	"checkpoint": "each write is durable by itself",
	"commit":     "each write is one commit by itself",
	"copy":       "use tarn table import, tarn table export, or tarn query -o FILE",
	"detach":     "nothing is attached",
	"drop":       "use tarn table rm NAME",
	"execute":    "give the statement itself, with --param",
	"explain":    "run the query; tarn logs and --json show what it cost",
	"export":     "use tarn table export NAME -o FILE",
	"import":     "use tarn table import FILE",
	"install":    "extensions cannot be installed; parquet, json and icu are built in",
	"load":       "extensions cannot be loaded; parquet, json and icu are built in",
	"pragma":     "settings are fixed",
	"prepare":    "give the statement itself, with --param",
	"reset":      "settings are fixed",
	"rollback":   "each write is one commit by itself; undo one with tarn revert COMMIT",
	"set":        "settings are fixed",
	"truncate":   "use DELETE FROM NAME",
	"use":        "name the namespace (sales.orders) or the ref (\"orders@dev\")",
	"vacuum":     "use tarn gc",
}

// classify finds the statement's kind and makes the reading part of a write a SELECT.
func (s *statement) classify() error {
	i := 0
	if s.tokens[0].is("with") {
		i = s.next(1, "select", "from", "values", "table", "insert", "update", "delete", "merge", "pivot", "unpivot", "summarize", "describe")
		if i < 0 {
			i = 0 // broken; the parser says how
		}
	}
	first := s.tokens[i]
	if advice, ok := refused[first.text]; ok && first.kind == word {
		return at(s.sql, first.start, query.ErrUnsupported, "%s does not run here: %s", strings.ToUpper(first.text), advice)
	}
	switch {
	case first.is("insert"):
		return s.insert(i)
	case first.is("update"):
		return s.update(i)
	case first.is("delete"):
		return s.delete(i)
	case first.is("merge"):
		return s.merge(i)
	case first.is("create"):
		return s.create()
	}
	s.kind = query.Select
	return nil
}

// next is the index of the first of the words outside parentheses, from token i on; -1 if there is none.
func (s *statement) next(i int, words ...string) int {
	depth := 0
	for ; i < len(s.tokens); i++ {
		t := s.tokens[i]
		switch {
		case t.is("(", "[", "{"):
			depth++
		case t.is(")", "]", "}"):
			depth--
		case depth == 0 && t.is(words...):
			return i
		}
	}
	return -1
}

// after is the index behind the group in parentheses that opens at token i.
func (s *statement) after(i int) int {
	depth := 0
	for ; i < len(s.tokens); i++ {
		switch {
		case s.tokens[i].is("("):
			depth++
		case s.tokens[i].is(")"):
			depth--
			if depth == 0 {
				return i + 1
			}
		}
	}
	return i
}

// has reports whether tokens from i on begin with the words.
func (s *statement) has(i int, words ...string) bool {
	for _, w := range words {
		if i >= len(s.tokens) || !s.tokens[i].is(w) {
			return false
		}
		i++
	}
	return true
}

// offset is where token i starts; the end of the text if there is none.
func (s *statement) offset(i int) int {
	if i < len(s.tokens) {
		return s.tokens[i].start
	}
	return len(s.sql)
}

// blank makes part of the reading white space, with text at its beginning.
func (s *statement) blank(start, end int, text string) {
	for i := start; i < end; i++ {
		if s.reading[i] != '\n' && s.reading[i] != '\r' {
			s.reading[i] = ' '
		}
	}
	copy(s.reading[start:end], text)
}

// target reads the name of the written table at token i and the alias behind it, has the name replaced
// by the staged table's, and returns the index behind both.
func (s *statement) target(i int, mode query.WriteMode) (int, error) {
	name, end, err := s.name(i)
	if err != nil {
		return 0, err
	}
	if name.Ref != "" || s.has(end, "at", "(") {
		return 0, at(s.sql, s.offset(i), query.ErrUnsupported, "a write names its table without a ref; say where with --into")
	}
	s.write = &query.Write{Target: name, Mode: mode}
	if mode == query.Create {
		return end, nil
	}
	n, alias := end, ""
	switch {
	case s.has(n, "as"):
		n += 2
	case s.kind == query.Insert: // has no other alias, and nothing to qualify with it
	case n < len(s.tokens) && s.tokens[n].isName() && !s.tokens[n].is("set", "using", "where", "returning"):
		n++
	default:
		alias = " AS " + quote(name.Table)
	}
	s.edits = append(s.edits, edit{s.tokens[i].start, s.tokens[end-1].end, quote(query.Staged) + alias})
	return n, nil
}

// name reads [namespace.]table at token i and returns the index behind it.
func (s *statement) name(i int) (query.Name, int, error) {
	var parts []string
	for i < len(s.tokens) && s.tokens[i].isName() {
		t := s.tokens[i]
		text := t.text
		if t.kind == word {
			text = s.sql[t.start:t.end] // as it was typed
		}
		parts = append(parts, text)
		i++
		if !s.has(i, ".") {
			break
		}
		i++
	}
	switch len(parts) {
	case 1:
		return newName("", parts[0]), i, nil
	case 2:
		return newName(parts[0], parts[1]), i, nil
	}
	return query.Name{}, i, at(s.sql, s.offset(i), query.ErrStatement, "a table's name is expected here: name or namespace.name")
}

func newName(namespace, table string) query.Name {
	table, ref, _ := strings.Cut(table, "@")
	if namespace == "default" {
		namespace = ""
	}
	return query.Name{Namespace: namespace, Table: table, Ref: ref}
}

func (s *statement) insert(i int) error {
	s.kind = query.Insert
	if s.has(i+1, "or") {
		return at(s.sql, s.offset(i), query.ErrUnsupported, "INSERT OR ... does not run here: tables have no unique keys; use MERGE INTO")
	}
	if !s.has(i+1, "into") {
		return s.expected(i+1, "INTO")
	}
	n, err := s.target(i+2, query.Append)
	if err != nil {
		return err
	}
	if s.has(n, "by") {
		n += 2
	}
	body := func(i int) bool {
		return i < len(s.tokens) && s.tokens[i].is("select", "from", "values", "with", "table", "(", "pivot", "unpivot")
	}
	if s.has(n, "(") && !body(n+1) {
		n = s.after(n)
	}
	if s.has(n, "by") {
		n += 2
	}
	if err := s.noTail(n); err != nil {
		return err
	}
	if !body(n) {
		return s.expected(n, "SELECT or VALUES")
	}
	s.blank(s.offset(i), s.offset(n), "")
	return nil
}

// noTail refuses the clauses that need keys or give rows back.
func (s *statement) noTail(i int) error {
	if n := s.next(i, "returning"); n >= 0 {
		return at(s.sql, s.offset(n), query.ErrUnsupported, "RETURNING does not run here: query the table after the write")
	}
	for n := s.next(i, "on"); n >= 0; n = s.next(n+1, "on") {
		if s.has(n+1, "conflict") {
			return at(s.sql, s.offset(n), query.ErrUnsupported, "ON CONFLICT does not run here: tables have no unique keys; use MERGE INTO")
		}
	}
	return nil
}

func (s *statement) expected(i int, what string) error {
	return at(s.sql, s.offset(i), query.ErrStatement, "%s is expected here", what)
}

func (s *statement) update(i int) error {
	s.kind = query.Update
	n, err := s.target(i+1, query.Replace)
	if err != nil {
		return err
	}
	if !s.has(n, "set") {
		return s.expected(n, "SET")
	}
	// SET a = 1, b = 2 FROM ... becomes SELECT a = 1, b = 2 FROM ...
	s.blank(s.offset(i), s.tokens[n].end, "SELECT")
	return s.noTail(n)
}

func (s *statement) delete(i int) error {
	s.kind = query.Delete
	if !s.has(i+1, "from") {
		return s.expected(i+1, "FROM")
	}
	n, err := s.target(i+2, query.Replace)
	if err != nil {
		return err
	}
	if s.has(n, "using") {
		s.blank(s.offset(i), s.tokens[n].end, "SELECT 1 FROM")
	} else {
		s.blank(s.offset(i), s.offset(n), "SELECT 1")
	}
	return s.noTail(n)
}

func (s *statement) merge(i int) error {
	s.kind = query.Merge
	if !s.has(i+1, "into") {
		return s.expected(i+1, "INTO")
	}
	n, err := s.target(i+2, query.Replace)
	if err != nil {
		return err
	}
	if !s.has(n, "using") {
		return s.expected(n, "USING")
	}
	condition := s.next(n+1, "on", "using")
	if condition < 0 {
		return s.expected(len(s.tokens), "ON")
	}
	if err := s.noTail(condition); err != nil {
		return err
	}
	for j := condition; j+1 < len(s.tokens); j++ {
		if s.tokens[j].is("(") && s.tokens[j+1].is("select", "from", "with") {
			return at(s.sql, s.offset(j), query.ErrUnsupported, "a MERGE reads other tables in USING only: USING (SELECT ...) AS x")
		}
	}
	s.blank(s.offset(i), s.tokens[n].end, "SELECT 1 FROM")
	s.blank(s.offset(condition), len(s.sql), "")
	return nil
}

func (s *statement) create() error {
	s.kind = query.CTAS
	i := 1
	replace := s.has(i, "or", "replace")
	if replace {
		i += 2
	}
	if i >= len(s.tokens) {
		return s.expected(i, "TABLE")
	}
	if !s.has(i, "table") {
		what := strings.ToUpper(s.tokens[i].text)
		return at(s.sql, s.offset(i), query.ErrUnsupported, "CREATE %s does not run here; CREATE TABLE name AS SELECT ... does", what)
	}
	i++
	ifMissing := s.has(i, "if", "not", "exists")
	if ifMissing {
		i += 3
	}
	n, err := s.target(i, query.Create)
	if err != nil {
		return err
	}
	s.write.OrReplace, s.write.IfMissing = replace, ifMissing
	if !s.has(n, "as") {
		return at(s.sql, s.offset(n), query.ErrUnsupported, "CREATE TABLE takes its columns from a query: CREATE TABLE %s AS SELECT ...", s.write.Target)
	}
	if k := len(s.tokens); s.has(k-3, "with", "no", "data") {
		return at(s.sql, s.offset(k-3), query.ErrUnsupported, "WITH NO DATA does not run here: write LIMIT 0")
	}
	s.blank(0, s.tokens[n].end, "")
	s.edits = append(s.edits, edit{0, s.tokens[n].end, string(s.reading[:s.tokens[n].end])})
	return nil
}

// parse gets the tree of the reading.
func (s *statement) parse(db *duck.DB) (any, error) {
	text, err := db.Strings("SELECT json_serialize_sql($1::VARCHAR)::VARCHAR", string(s.reading))
	if err != nil {
		return nil, err
	}
	if len(text) != 1 {
		return nil, fmt.Errorf("json_serialize_sql gave %d rows", len(text))
	}
	var answer struct {
		Error    bool   `json:"error"`
		Type     string `json:"error_type"`
		Message  string `json:"error_message"`
		Position string `json:"position"`

		Statements []any `json:"statements"`
	}
	d := json.NewDecoder(strings.NewReader(text[0]))
	d.UseNumber() // "no location" is 2^64-1
	if err := d.Decode(&answer); err != nil {
		return nil, fmt.Errorf("read the statement's tree: %w", err)
	}
	switch {
	case answer.Error && strings.HasPrefix(answer.Message, "Only SELECT"):
		if s.next(0, "pivot") >= 0 {
			return nil, query.ErrUnsupported.Errorf("PIVOT needs its values, so that its columns are known: PIVOT t ON c IN ('a', 'b') USING ...")
		}
		return nil, at(s.sql, s.tokens[0].start, query.ErrUnsupported, "%s does not run here; SELECT, INSERT, UPDATE, DELETE, MERGE and CREATE TABLE AS do", strings.ToUpper(s.sql[s.tokens[0].start:s.tokens[0].end]))
	case answer.Error:
		offset, err := strconv.Atoi(answer.Position)
		if err != nil {
			return nil, query.ErrStatement.Errorf("%s", answer.Message)
		}
		return nil, at(s.sql, offset, query.ErrStatement, "%s", answer.Message)
	case len(answer.Statements) != 1:
		return nil, query.ErrStatement.Errorf("give exactly one statement")
	}
	return answer.Statements[0], nil
}

// result puts the analysis together.
func (s *statement) result(tables []found) (*query.Analysis, error) {
	a := &query.Analysis{Kind: s.kind, Write: s.write, Params: s.params()}
	slices.SortStableFunc(tables, func(a, b found) int { return a.offset - b.offset })
	seen := map[string]bool{}
	add := func(name query.Name, offset int) {
		key := strings.ToLower(name.String()) // SQL does not tell Orders from orders
		if !seen[key] {
			seen[key] = true
			a.Tables = append(a.Tables, query.Reference{Name: name, Line: lineOf(s.sql, offset)})
		}
	}
	if s.write != nil && s.write.Mode == query.Replace {
		add(s.write.Target, s.edits[0].start)
	}
	for _, table := range tables {
		add(table.name, table.offset)
		if table.at {
			if err := s.foldAt(table); err != nil {
				return nil, err
			}
		}
	}
	a.SQL = applyEdits(s.sql, s.edits)
	return a, nil
}

// foldAt turns  t AS x AT (VERSION => 'dev')  into  "t@dev" AS x.
func (s *statement) foldAt(table found) error {
	i := slices.IndexFunc(s.tokens, func(t token) bool { return t.start == table.offset })
	if i < 0 {
		return at(s.sql, table.offset, query.ErrUnsupported, "AT is not understood here; write \"%s\"", table.name)
	}
	_, end, err := s.name(i)
	if err != nil {
		return err
	}
	clause := s.next(end, "at")
	for clause >= 0 && !s.has(clause+1, "(") {
		clause = s.next(clause+1, "at")
	}
	if clause < 0 {
		return at(s.sql, table.offset, query.ErrUnsupported, "AT is not understood here; write \"%s\"", table.name)
	}
	last := s.tokens[end-1]
	alias := ""
	if !table.alias {
		alias = " AS " + quote(table.name.Table)
	}
	close := s.tokens[s.after(clause+1)-1]
	lines := strings.Count(s.sql[s.tokens[clause].start:close.end], "\n") // keep the lines of what follows
	s.edits = append(s.edits,
		edit{last.start, last.end, quote(table.name.Table+"@"+table.name.Ref) + alias},
		edit{s.tokens[clause].start, close.end, strings.Repeat("\n", lines)})
	return nil
}

func applyEdits(sql string, edits []edit) string {
	slices.SortFunc(edits, func(a, b edit) int { return a.start - b.start })
	var b strings.Builder
	from := 0
	for _, e := range edits {
		b.WriteString(sql[from:e.start])
		b.WriteString(e.text)
		from = e.end
	}
	b.WriteString(sql[from:])
	return b.String()
}

// params are the parameters in order of appearance. DuckDB numbers the anonymous ones from 1.
func (s *statement) params() []string {
	var names []string
	anonymous := 0
	for _, t := range s.tokens {
		if t.kind != param {
			continue
		}
		name := t.text
		if name == "" {
			anonymous++
			name = strconv.Itoa(anonymous)
		}
		if !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names
}
