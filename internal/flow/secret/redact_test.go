package secret_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"net/url"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"tarn.dev/tarn/internal/flow/secret"
)

const pem = "-----BEGIN KEY-----\nMIIBVgIBADANBgkqhkiG9w0BAQEFAASCAT8wggE7AgEAAkEAq7BFUpkGp3+LQmlQ\nYx2eqzDV+xeG8kx\nab\n-----END KEY-----\n"

func TestText(t *testing.T) {
	t.Parallel()
	const v = `p@ss/wörd "q" \ 'x'`
	r := secret.NewRedactor(v, "hunter2", "abcdef", "defghi", pem, "xyz")
	quoted, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	key := base64.StdEncoding.EncodeToString([]byte(pem))
	for _, c := range []struct{ name, text, want string }{
		{"nothing", "nothing to see, hunter 2", "nothing to see, hunter 2"},
		{"itself", "a hunter2 b", "a *** b"},
		{"all of it", "hunter2", "***"},
		{"twice, and at once", "hunter2hunter2, hunter2", "******, ***"},
		{"two that overlap", "1abcdefghi2", "1***2"},
		{"what begins like it", "hunterhunter2hunter", "hunter***hunter"},
		{"shorter than four", "xyz", "xyz"},
		{"odd characters", "<" + v + ">", "<***>"},
		{"in JSON", string(quoted), `"***"`},
		{"in JSON of ASCII", `p@ss/w\u00f6rd \"q\" \\ 'x'`, "***"},
		{"as Python shows it", `'p@ss/wörd "q" \\ \'x\''`, "'***'"},
		{"in a query", "?k=" + url.QueryEscape(v) + "&", "?k=***&"},
		{"in a path", url.PathEscape(v), "***"},
		{"as Python's quote writes it", "p%40ss/w%C3%B6rd%20%22q%22%20%5C%20%27x%27", "***"},
		{"in small letters", strings.ToLower(url.QueryEscape(v)), "***"},
		{"as the password of a URL", url.UserPassword("me", v).String() + "@host", "me:***@host"},
		{"base64", "<" + base64.StdEncoding.EncodeToString([]byte("hunter2")) + ">", "<***>"},
		{"base64 for URLs", base64.RawURLEncoding.EncodeToString([]byte(v)), "***"},
		{"lines", pem, "***\n"},
		{"one line", "< MIIBVgIBADANBgkqhkiG9w0BAQEFAASCAT8wggE7AgEAAkEAq7BFUpkGp3+LQmlQ >", "< *** >"},
		{"lines in one line", strings.ReplaceAll(pem, "\n", `\n`), "***"},
		{"base64 of lines, in lines", key[:76] + "\n" + key[76:152] + "\n" + key[152:], "***\n***\n***"},
	} {
		if got := r.Text(c.text); got != c.want {
			t.Errorf("%s: %q became %q, want %q", c.name, c.text, got, c.want)
		}
	}
}

// Encoded behind something else, of any length, nothing that could be decoded is left of it.
func TestBase64OfMore(t *testing.T) {
	t.Parallel()
	const v = "correct horse battery staple"
	r := secret.NewRedactor(v)
	for _, before := range []string{"", "u", "us", "use", "user:"} {
		for _, after := range []string{"", "\n", "!!", "@host"} {
			text := base64.StdEncoding.EncodeToString([]byte(before + v + after))
			got := r.Text(text)
			left := strings.Replace(got, secret.Mask, "", 1)
			if got == left || len(left) > len(base64.StdEncoding.EncodeToString([]byte(before)))+len(base64.StdEncoding.EncodeToString([]byte(after)))+2 {
				t.Errorf("%q with %q and %q became %q", text, before, after, got)
			}
		}
	}
}

func TestJSON(t *testing.T) {
	t.Parallel()
	r := secret.NewRedactor("hunter2", "123456")
	for raw, want := range map[string]string{
		`{"a": 1.50, "b": "<x>"}`: `{"a": 1.50, "b": "<x>"}`, // as it was
		`{"hunter2":["a hunter2",null,{"x":"aHVudGVyMg=="}],"n":1234567}`: `{"***":["a ***",null,{"x":"***"}],"n":"***7"}`,
		`"hu` + "\\u006e" + `ter2"`:                                       `"***"`,
	} {
		if got := string(r.JSON(json.RawMessage(raw))); got != want {
			t.Errorf("%s became %s, want %s", raw, got, want)
		}
	}
	var none *secret.Redactor
	if got := none.JSON(json.RawMessage(`"x"`)); string(got) != `"x"` || none.Text("x") != "x" {
		t.Errorf("without secrets: %s", got)
	}
}

// Only what may begin a secret is held back, and only until that is decided.
func TestWriterHoldsBackNoMoreThanNeeded(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	w := secret.NewRedactor("hunter2", "first line\nsecond line").Writer(&out)
	for _, c := range []struct{ write, passed string }{
		{"a line\nmore", "a line\nmore"},
		{" h", " "},
		{"un", ""},
		{"t", ""},
		{"x", "huntx"},
		{"hunter", ""},
		{"2", "***"},
		{"hhunter2", "h***"},
		{"first line", ""},
		{"\n", "***\n"},
		{"sec", ""},
		{"ond line\n", "***\n"}, // each line by itself: the next may take long
		{"hunte", ""},
	} {
		out.Reset()
		if n, err := w.Write([]byte(c.write)); n != len(c.write) || err != nil {
			t.Fatal(n, err)
		}
		if out.String() != c.passed {
			t.Errorf("%q passed %q on, want %q", c.write, out.String(), c.passed)
		}
	}
	out.Reset()
	if err := w.End(); err != nil || out.String() != "hunte" {
		t.Errorf("the end passed %q on, %v", out.String(), err)
	}
}

// However a text is cut into writes, what comes out is the same, and no secret is in it.
func TestWriterModel(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		values := rapid.SliceOfN(rapid.StringMatching(`[ab\n=]{4,9}`), 1, 3).Draw(t, "values")
		r := secret.NewRedactor(values...)
		var text strings.Builder
		for _, piece := range rapid.SliceOfN(rapid.OneOf(rapid.SampledFrom(values), rapid.StringMatching(`[abc\n=]{0,5}`)), 0, 8).Draw(t, "pieces") {
			text.WriteString(piece)
		}
		whole := r.Text(text.String())
		var out bytes.Buffer
		w := r.Writer(&out)
		for rest := text.String(); rest != ""; {
			n := rapid.IntRange(1, len(rest)).Draw(t, "cut")
			if _, err := w.Write([]byte(rest[:n])); err != nil {
				t.Fatal(err)
			}
			rest = rest[n:]
		}
		if err := w.End(); err != nil {
			t.Fatal(err)
		}
		if out.String() != whole {
			t.Fatalf("in pieces %q, at once %q", out.String(), whole)
		}
		for _, v := range values {
			if trimmed := strings.TrimSpace(v); len(trimmed) >= 4 && strings.Contains(whole, trimmed) {
				t.Fatalf("%q is in %q", trimmed, whole)
			}
		}
		if plain := rapid.StringMatching(`[xyz ]{0,30}`).Draw(t, "plain"); r.Text(plain) != plain {
			t.Fatalf("%q became %q", plain, r.Text(plain))
		}
	})
}

func BenchmarkWriter(b *testing.B) {
	r := secret.NewRedactor("hunter2hunter2", pem)
	line := []byte("2026-01-02 INFO a line of output such as programs print, with numbers 123456789\n")
	w := r.Writer(&bytes.Buffer{})
	b.SetBytes(int64(len(line)))
	for b.Loop() {
		if _, err := w.Write(line); err != nil {
			b.Fatal(err)
		}
	}
}
