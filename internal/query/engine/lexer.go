package engine

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// tokenKind is what a token is.
type tokenKind uint8

const (
	word   tokenKind = iota // keyword or bare identifier; text is in lower case
	quoted                  // "identifier"; text is without quotes
	str                     // 'x', e'x', $tag$x$tag$
	param                   // $name, $1, ?; text is the name, "" for ?
	mark                    // any other character, and numbers
)

// token is a piece of SQL. Comments and white space are not tokens.
type token struct {
	kind       tokenKind
	text       string
	start, end int // byte offsets
}

func (t token) is(words ...string) bool {
	if t.kind != word && t.kind != mark {
		return false
	}
	for _, w := range words {
		if t.text == w {
			return true
		}
	}
	return false
}

func (t token) isName() bool { return t.kind == word || t.kind == quoted }

// lex splits SQL the way DuckDB's scanner does, as far as it matters for finding names, parameters and
// parentheses. Whatever is malformed becomes tokens all the same: DuckDB's parser is what complains.
func lex(sql string) []token {
	var tokens []token
	for i := 0; i < len(sql); {
		start := i
		c := sql[i]
		switch {
		case c == ' ' || c == '\t' || c == '\n' || c == '\r' || c == '\f' || c == '\v':
			i++
			continue
		case strings.HasPrefix(sql[i:], "--"):
			i = endOfLine(sql, i)
			continue
		case strings.HasPrefix(sql[i:], "/*"):
			i = endOfComment(sql, i)
			continue
		case c == '\'':
			i = endOfQuote(sql, i, '\'', false)
			tokens = append(tokens, token{kind: str, start: start, end: i})
		case (c == 'e' || c == 'E') && i+1 < len(sql) && sql[i+1] == '\'':
			i = endOfQuote(sql, i+1, '\'', true)
			tokens = append(tokens, token{kind: str, start: start, end: i})
		case c == '"':
			i = endOfQuote(sql, i, '"', false)
			name := strings.TrimSuffix(sql[start+1:i], `"`)
			tokens = append(tokens, token{kind: quoted, text: strings.ReplaceAll(name, `""`, `"`), start: start, end: i})
		case c == '$':
			kind, text, end := dollar(sql, i)
			i = end
			tokens = append(tokens, token{kind: kind, text: text, start: start, end: i})
		case c == '?':
			i++
			tokens = append(tokens, token{kind: param, start: start, end: i})
		case c >= '0' && c <= '9':
			for i < len(sql) && (isNamePart(rune(sql[i])) || sql[i] == '.') {
				i++
			}
			tokens = append(tokens, token{kind: mark, start: start, end: i, text: sql[start:i]})
		default:
			i = endOfName(sql, i)
			kind := word
			if i == start {
				_, size := utf8.DecodeRuneInString(sql[i:])
				i += size
				kind = mark
			}
			tokens = append(tokens, token{kind: kind, text: strings.ToLower(sql[start:i]), start: start, end: i})
		}
	}
	return tokens
}

func endOfLine(sql string, i int) int {
	if n := strings.IndexByte(sql[i:], '\n'); n >= 0 {
		return i + n
	}
	return len(sql)
}

// endOfComment knows that block comments nest.
func endOfComment(sql string, i int) int {
	for depth := 0; i < len(sql); {
		switch {
		case strings.HasPrefix(sql[i:], "/*"):
			depth, i = depth+1, i+2
		case strings.HasPrefix(sql[i:], "*/"):
			depth, i = depth-1, i+2
			if depth == 0 {
				return i
			}
		default:
			i++
		}
	}
	return i
}

// endOfQuote starts at the opening quote. A doubled quote stands for itself; so does what follows a
// backslash in an E” string.
func endOfQuote(sql string, i int, quote byte, backslash bool) int {
	for i++; i < len(sql); i++ {
		switch {
		case backslash && sql[i] == '\\':
			i++
		case sql[i] != quote:
		case i+1 < len(sql) && sql[i+1] == quote:
			i++
		default:
			return i + 1
		}
	}
	return len(sql)
}

// dollar reads $name, $1 or a dollar-quoted string.
func dollar(sql string, i int) (tokenKind, string, int) {
	end := i + 1
	for end < len(sql) {
		r, size := utf8.DecodeRuneInString(sql[end:])
		if !isNamePart(r) || r == '$' {
			break
		}
		end += size
	}
	if end < len(sql) && sql[end] == '$' && (end == i+1 || !unicode.IsDigit(rune(sql[i+1]))) {
		tag := sql[i : end+1]
		if n := strings.Index(sql[end+1:], tag); n >= 0 {
			return str, "", end + 1 + n + len(tag)
		}
		return str, "", len(sql)
	}
	if end == i+1 {
		return mark, "$", end
	}
	return param, sql[i+1 : end], end
}

func endOfName(sql string, i int) int {
	for first := true; i < len(sql); first = false {
		r, size := utf8.DecodeRuneInString(sql[i:])
		if !isNamePart(r) || first && (r == '$' || unicode.IsDigit(r)) {
			break
		}
		i += size
	}
	return i
}

func isNamePart(r rune) bool {
	return r == '_' || r == '$' || unicode.IsLetter(r) || unicode.IsDigit(r) || r >= 0x80
}
