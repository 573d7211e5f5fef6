package secret

import (
	"bytes"
	"cmp"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"reflect"
	"slices"
	"strings"
)

// Mask stands where a value was.
const Mask = "***"

// shortest is the length of the shortest text that is hidden: shorter ones are everywhere.
const shortest = 4

// Redactor hides values in what functions say: as they are, each line of those with several, and as base64,
// URL and JSON write them. The nil Redactor hides nothing.
type Redactor struct {
	forms   []string            // longest first
	begins  [256]bool           // first bytes of forms
	byStart map[[4]byte][]int32 // first four bytes -> forms, longest first
}

// NewRedactor hides values. It is nil when there is none to hide.
func NewRedactor(values ...string) *Redactor {
	seen := map[string]bool{}
	for _, v := range values {
		for _, form := range forms(v) {
			if len(form) >= shortest {
				seen[form] = true
			}
		}
	}
	if len(seen) == 0 {
		return nil
	}
	r := &Redactor{byStart: map[[4]byte][]int32{}}
	for form := range seen {
		r.forms = append(r.forms, form)
	}
	slices.SortFunc(r.forms, func(a, b string) int { return cmp.Or(len(b)-len(a), strings.Compare(a, b)) })
	for i, form := range r.forms {
		start := [4]byte([]byte(form))
		r.begins[form[0]] = true
		r.byStart[start] = append(r.byStart[start], int32(i))
	}
	return r
}

// forms are the ways in which a value is written. A value of several lines is hidden line by line, and as a whole
// only where a line is too short for that: else output would wait for the line after each of them.
func forms(value string) []string {
	whole, lines, short := strings.TrimSpace(value), []string{}, false
	for line := range strings.Lines(whole) {
		line = strings.TrimSpace(line)
		lines, short = append(lines, line), short || line != "" && len(line) < shortest
	}
	out := slices.Clone(lines)
	if short {
		out = append(out, whole)
	}
	for _, v := range append(lines, value, whole) {
		if len(v) >= shortest {
			out = slices.Concat(out, base64Forms(v), urlForms(v), quotedForms(v))
		}
	}
	return out
}

// base64Forms are the whole encodings, in lines as programs break them, and what is the same wherever the value
// stands in a longer text that is encoded ("user:value" of a header, say): that depends on its offset from a
// multiple of three bytes.
func base64Forms(v string) (out []string) {
	for _, enc := range []*base64.Encoding{base64.StdEncoding, base64.URLEncoding} {
		whole := enc.EncodeToString([]byte(v))
		out = append(out, whole, strings.TrimRight(whole, "="))
		for offset := range 3 {
			text := enc.WithPadding(base64.NoPadding).EncodeToString(append(make([]byte, offset), v...))
			from, to := (offset*8+5)/6, (offset+len(v))*8/6 // characters of bits that are all the value's
			out = append(out, text[from:to])
		}
		full := len(v) * 8 / 6 // the next character depends on what follows
		for _, width := range []int{64, 76} {
			for at := 0; at < full; at += width {
				out = append(out, whole[at:min(at+width, full)], whole[at:min(at+width, len(whole))])
			}
		}
	}
	return out
}

// urlForms are percent-encodings: with what is escaped as little and as much as is usual, in both cases.
func urlForms(v string) (out []string) {
	query := url.QueryEscape(v)
	spaced := strings.ReplaceAll(query, "+", "%20")
	var all strings.Builder
	for _, b := range []byte(v) {
		fmt.Fprintf(&all, "%%%02X", b)
	}
	user := url.UserPassword("", v).String()[1:]
	for _, s := range []string{query, spaced, strings.ReplaceAll(spaced, "%2F", "/"), url.PathEscape(v), user, all.String()} {
		out = append(out, s, lowerEscapes(s))
	}
	return out
}

// lowerEscapes writes %2F as %2f.
func lowerEscapes(s string) string {
	b := []byte(s)
	for i := 0; i+2 < len(b); i++ {
		if b[i] == '%' {
			copy(b[i+1:i+3], bytes.ToLower(b[i+1:i+3]))
			i += 2
		}
	}
	return string(b)
}

// quotedForms are the insides of literals: of JSON, with characters beyond ASCII as they are or escaped, and of Python.
func quotedForms(v string) []string {
	var text bytes.Buffer
	enc := json.NewEncoder(&text)
	enc.SetEscapeHTML(false)
	if enc.Encode(v) != nil { // a string always encodes
		return nil
	}
	inside := strings.TrimSuffix(strings.TrimPrefix(strings.TrimSpace(text.String()), `"`), `"`)
	var ascii strings.Builder
	for _, c := range inside {
		switch {
		case c < 0x80:
			ascii.WriteRune(c)
		case c < 0x10000:
			fmt.Fprintf(&ascii, `\u%04x`, c)
		default:
			c -= 0x10000
			fmt.Fprintf(&ascii, `\u%04x\u%04x`, 0xd800+c>>10, 0xdc00+c&0x3ff)
		}
	}
	bare := strings.ReplaceAll(inside, `\"`, `"`) // in single quotes
	return []string{inside, ascii.String(), bare, strings.ReplaceAll(bare, `'`, `\'`)}
}

// Text is s with the values hidden.
func (r *Redactor) Text(s string) string {
	if r == nil {
		return s
	}
	var out strings.Builder
	w := r.Writer(&out)
	w.scan([]byte(s), true) //nolint:errcheck // a Builder never fails
	return out.String()
}

// JSON is a value of JSON with the values hidden in its texts, names and numbers.
func (r *Redactor) JSON(raw json.RawMessage) json.RawMessage {
	if r == nil || len(raw) == 0 {
		return raw
	}
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	var v any
	if dec.Decode(&v) != nil {
		return json.RawMessage(r.Text(string(raw)))
	}
	hidden := r.Value(v)
	if reflect.DeepEqual(hidden, v) {
		return raw
	}
	out, err := json.Marshal(hidden)
	if err != nil { // what was decoded encodes
		return nil
	}
	return out
}

// Value is a decoded value of JSON with the values hidden. What is no such value stays as it is.
func (r *Redactor) Value(v any) any {
	if r == nil {
		return v
	}
	switch v := v.(type) {
	case string:
		return r.Text(v)
	case json.Number:
		if text := r.Text(v.String()); text != v.String() {
			return text
		}
	case []string:
		out := make([]string, len(v))
		for i, s := range v {
			out[i] = r.Text(s)
		}
		return out
	case []any:
		out := make([]any, len(v))
		for i, x := range v {
			out[i] = r.Value(x)
		}
		return out
	case map[string]any:
		out := map[string]any{}
		for k, x := range v {
			out[r.Text(k)] = r.Value(x)
		}
		return out
	}
	return v
}

// Writer passes what is written to it on to w, with the values hidden also where several writes make one. It keeps
// back no more than the end of a write that may be the beginning of a value.
func (r *Redactor) Writer(w io.Writer) *Writer { return &Writer{r: r, w: w} }

// Writer is a stream with the values hidden. It is for one goroutine at a time.
type Writer struct {
	r       *Redactor
	w       io.Writer
	kept    []byte
	covered int // bytes at the front of kept that belong to a value whose mask is written
}

// Write implements io.Writer.
func (w *Writer) Write(p []byte) (int, error) {
	if w.r == nil {
		return w.w.Write(p)
	}
	buf := p
	if len(w.kept) > 0 {
		buf = append(w.kept, p...)
	}
	if err := w.scan(buf, false); err != nil {
		return 0, err
	}
	return len(p), nil
}

// End passes on what was kept: nothing more comes.
func (w *Writer) End() error {
	if w.r == nil {
		return nil
	}
	return w.scan(w.kept, true)
}

// scan hides the values in buf, which begins with what was kept. Overlapping values are hidden as one. Unless it
// is the end, it stops where a value may begin that buf does not hold whole.
func (w *Writer) scan(buf []byte, end bool) error {
	out := make([]byte, 0, len(buf))
	i := 0
	for ; i < len(buf); i++ {
		before := w.covered
		if w.r.begins[buf[i]] {
			n, more := w.r.match(buf[i:])
			if more && !end {
				break
			}
			w.covered = max(w.covered, n)
		}
		switch {
		case w.covered == 0:
			out = append(out, buf[i])
			continue
		case before == 0:
			out = append(out, Mask...)
		}
		w.covered--
	}
	w.kept = append([]byte(nil), buf[i:]...)
	if len(out) == 0 {
		return nil
	}
	_, err := w.w.Write(out)
	return err
}

// match is the length of the longest value that b begins with, and whether b may be the beginning of a longer one.
func (r *Redactor) match(b []byte) (n int, more bool) {
	if len(b) < shortest {
		return 0, slices.ContainsFunc(r.forms, func(form string) bool { return strings.HasPrefix(form, string(b)) })
	}
	for _, i := range r.byStart[[4]byte(b)] {
		switch form := r.forms[i]; {
		case len(form) > len(b):
			more = more || form[:len(b)] == string(b)
		case string(b[:len(form)]) == form:
			return len(form), more
		}
	}
	return 0, more
}
