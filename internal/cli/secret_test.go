package cli

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseEnv(t *testing.T) {
	t.Parallel()
	got, err := parseEnv("\ufeff# first\r\n\r\nA=1\nexport B = two words # said\nC='a # b $X \\n'\nD=\"x\\ny\\\"z\\\\\"# end\nE=\"l1\nl2\"\nF=a#b=c\nG=pa$$word'\n  H=9")
	want := map[string]string{"A": "1", "B": "two words", "C": `a # b $X \n`, "D": "x\ny\"z\\", "E": "l1\nl2", "F": "a#b=c", "G": "pa$$word'", "H": "9"}
	if err != nil || !cmp.Equal(got, want) {
		t.Errorf("%v %s", err, cmp.Diff(want, got))
	}
	for text, want := range map[string]string{
		"A=1\nhorse":               "2: this line is not NAME=value",
		"=horse":                   "1: this line is not NAME=value",
		"A='1\n2'\nB=\"horse\nend": "3: the quotes of B do not end",
		"A='horse' more":           "1: something follows the quotes of A",
		"A=horse\nA=again":         "2: A is there twice",
		"A= # horse":               "1: A has no value",
		"A=''":                     "1: A has no value",
		"A=horse\xff":              "1: the value of A is no text: a variable holds UTF-8. Encode it, with base64 say",
	} {
		if _, err := parseEnv(text); err == nil || err.Error() != want || strings.Contains(err.Error(), "horse") {
			t.Errorf("%q: %v, want %s", text, err, want)
		}
	}
}

func FuzzParseEnv(f *testing.F) {
	f.Add("A=1\nexport B='x\ny' # z\n")
	f.Fuzz(func(t *testing.T, text string) {
		values, err := parseEnv(text)
		for name, value := range values {
			if name == "" || value == "" || err != nil {
				t.Errorf("%q=%q, %v", name, value, err)
			}
		}
	})
}
