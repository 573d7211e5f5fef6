package cli

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/cli/ui"
)

// invoke runs a command line in this process, without a server.
func invoke(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, err bytes.Buffer
	a := &app{in: strings.NewReader(""), out: ui.Out{Writer: &out}, err: ui.Out{Writer: &err}}
	code = a.main(t.Context(), args)
	return code, out.String(), err.String()
}

// Every command tells what it does, shows how, and says how it may end.
func TestEveryCommandIsExplained(t *testing.T) {
	t.Parallel()
	a := &app{}
	var visit func(c *cobra.Command)
	visit = func(c *cobra.Command) {
		for _, child := range c.Commands() {
			visit(child)
		}
		if c.HasSubCommands() {
			return
		}
		if c.Short == "" || strings.HasSuffix(c.Short, ".") {
			t.Errorf("%s: the short text %q", c.CommandPath(), c.Short)
		}
		if !strings.Contains(c.Example, c.CommandPath()) {
			t.Errorf("%s: no example", c.CommandPath())
		}
		for _, line := range strings.Split(strings.TrimRight(c.Example, "\n"), "\n") {
			if !strings.HasPrefix(line, "  ") {
				t.Errorf("%s: the example %q is not indented", c.CommandPath(), line)
			}
		}
		if c.Annotations[codesKey] == "" {
			t.Errorf("%s: no exit codes", c.CommandPath())
		}
		if c.Parent() == c.Root() && c.GroupID == "" {
			t.Errorf("%s: in no group", c.CommandPath())
		}
	}
	visit(a.root())
}

func TestHelpIsOneTree(t *testing.T) {
	t.Parallel()
	code, out, _ := invoke(t, "help", "--json")
	var root commandTree
	if err := json.Unmarshal([]byte(out), &root); err != nil || code != 0 {
		t.Fatalf("code %d: %v\n%s", code, err, out)
	}
	names := map[string]bool{}
	var visit func(commandTree)
	visit = func(c commandTree) {
		names[c.Name] = true
		for _, child := range c.Commands {
			visit(child)
		}
	}
	visit(root)
	for _, want := range []string{"tarn", "tarn file put", "tarn merge", "tarn server start"} {
		if !names[want] {
			t.Errorf("%q is missing", want)
		}
	}
}

func TestErrorsAreDocuments(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{{"nope", "--json"}, {"--json", "merge"}, {"file", "ls", "--nope", "--json"}} {
		code, out, stderr := invoke(t, args...)
		var doc struct{ Error *errdef.Error }
		if err := json.Unmarshal([]byte(out), &doc); err != nil || doc.Error == nil {
			t.Errorf("%q: %v in %q", args, err, out)
			continue
		}
		if code != doc.Error.Code.Row().Exit || code != 4 || stderr != "" {
			t.Errorf("%q: exit %d, code %s, stderr %q", args, code, doc.Error.Code, stderr)
		}
	}
}

func TestSourcesAreFoundBeforeAnythingIsSent(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]string{
		"cli.go":   "dst/cli.go",
		"./cli.go": "dst/cli.go",
	} {
		got, err := findSources([]string{name}, "dst/")
		if err != nil || len(got) != 1 || got[0].name() != want {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
	if got, err := findSources([]string{"example/"}, "."); err != nil || len(got) != 2 || got[0].name() != "busiest.sql" {
		t.Errorf("what lies in a folder: %v, %v", got, err)
	}
	if got, err := findSources([]string{"example"}, "a/"); err != nil || len(got) != 2 || got[0].name() != "a/example/busiest.sql" {
		t.Errorf("a folder: %v, %v", got, err)
	}
	if _, err := findSources([]string{"cli.go", "cli.go"}, "a/"); errdef.CodeOf(err) != errdef.InvalidArgument {
		t.Errorf("one source twice: %v", err)
	}
}

// A file that is written while it is read would be stored as something that it never was.
func TestSourceThatIsWrittenTo(t *testing.T) {
	t.Parallel()
	name := filepath.Join(t.TempDir(), "log")
	write := func(text string) func(*os.File) error {
		return func(*os.File) error { return os.WriteFile(name, []byte(text), 0o600) }
	}
	if err := write("before")(nil); err != nil {
		t.Fatal(err)
	}
	if err := reading(name, func(f *os.File) error { _, err := io.ReadAll(f); return err }); err != nil {
		t.Errorf("a file that nobody writes to: %v", err)
	}
	if err := reading(name, write("before, and more")); !errors.Is(err, errChanged) {
		t.Errorf("a file that has grown: %v", err)
	}
	if err := reading(name, write("after, and more!")); !errors.Is(err, errChanged) {
		t.Errorf("a file that was written over: %v", err)
	}
	if r := readAll([]source{{file: name, size: 3}}); !errors.Is(r.err, errChanged) {
		t.Errorf("a file that has grown since it was found: %v", r.err)
	}
}

func TestDirtyNamesDoNotReachTheTerminal(t *testing.T) {
	t.Parallel()
	for dirty, want := range map[string]string{
		"plain ünï 漢字.txt": "plain ünï 漢字.txt",
		"a\x1b[31mred":     `"a\x1b[31mred"`,
		"two\nlines":       `"two\nlines"`,
	} {
		if got := ui.Clean(dirty); got != want {
			t.Errorf("Clean(%q) = %s", dirty, got)
		}
	}
}
