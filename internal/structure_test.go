// Package internal_test holds the rules of the house that a compiler does not know: the order of the
// layers, one comment per package, the size of files and interfaces, a suite run by every
// implementation of a port. internal/README.md says what they are for.
package internal_test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
)

const (
	root       = ".."
	modulePath = "tarn.dev/tarn/"

	maxFileLines        = 800
	maxMainLines        = 40
	maxInterfaceMethods = 11
)

// ports maps each port to the package that holds its suite.
var ports = map[string]string{"blob": "blob/blobtest", "meta": "meta/metatest", "runtime": "runtime/runtimetest"}

// file is one file of the tree, by its slash-separated path from the root.
type file struct {
	path  string
	text  string
	ast   *ast.File // of Go files
	lines int
}

func (f file) isTest() bool      { return strings.HasSuffix(f.path, "_test.go") }
func (f file) dir() string       { return path.Dir(f.path) }
func (f file) isGenerated() bool { return strings.HasPrefix(f.path, "api/gen/") }

var tree = sync.OnceValues(readTree)

func readTree() ([]file, error) {
	skip := []string{"bin", "dist", "node_modules", "testdata", "__pycache__"}
	kinds := []string{".go", ".py", ".md", ".sh", ".sql", ".toml", ".txt", ".json", ".proto", ".yaml", ".c", ".h", ".cpp", ""}
	var files []file
	err := filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			if os.IsNotExist(err) { // a file that another test has just removed
				return nil
			}
			return err
		}
		if d.IsDir() {
			hidden := strings.HasPrefix(d.Name(), ".") && name != root && d.Name() != ".ci"
			if hidden || slices.Contains(skip, d.Name()) {
				return filepath.SkipDir
			}
			return nil
		}
		if !d.Type().IsRegular() || !slices.Contains(kinds, filepath.Ext(name)) {
			return nil
		}
		b, err := os.ReadFile(name)
		if os.IsNotExist(err) {
			return nil
		} else if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, name)
		if err != nil {
			return err
		}
		f := file{path: filepath.ToSlash(rel), text: string(b), lines: strings.Count(string(b), "\n")}
		if strings.HasSuffix(name, ".go") {
			if f.ast, err = parser.ParseFile(token.NewFileSet(), name, b, parser.ParseComments|parser.SkipObjectResolution); err != nil {
				return err
			}
		}
		files = append(files, f)
		return nil
	})
	return files, err
}

func files(t *testing.T, keep func(file) bool) []file {
	t.Helper()
	all, err := tree()
	if err != nil {
		t.Fatal(err)
	}
	if len(all) < 10 {
		t.Fatalf("only %d files under %s: the test looks at the wrong place", len(all), root)
	}
	kept := slices.DeleteFunc(slices.Clone(all), func(f file) bool { return !keep(f) })
	if len(kept) == 0 {
		t.Fatal("no file is looked at")
	}
	return kept
}

func isGo(f file) bool        { return f.ast != nil }
func isProductGo(f file) bool { return f.ast != nil && !f.isTest() && !f.isGenerated() }

// layers is the order of the house: line number by package path below internal.
type layers map[string]int

func readLayers(text string) layers {
	l := layers{}
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
			l[line] = len(l)
		}
	}
	return l
}

// home is the line that pkg belongs to: its own or that of its nearest parent.
func (l layers) home(pkg string) (name string, line int, ok bool) {
	for p := pkg; p != "." && p != "/"; p = path.Dir(p) {
		if n, there := l[p]; there {
			return p, n, true
		}
	}
	return "", 0, false
}

// check says what is wrong with package from importing package to, "" if nothing is.
func (l layers) check(from, to string) string {
	fromName, fromLine, ok := l.home(from)
	if !ok {
		return fmt.Sprintf("internal/%s has no line in layers.txt", from)
	}
	toName, toLine, ok := l.home(to)
	switch {
	case !ok:
		return fmt.Sprintf("internal/%s has no line in layers.txt", to)
	case fromLine > toLine:
		return fmt.Sprintf("%s may not import %s: %s stands above %s in layers.txt", from, to, toName, fromName)
	case isImplementation(to) && fromName != toName && fromName != "system" && !strings.HasSuffix(from, "test"):
		return fmt.Sprintf("%s may not import %s: only system names implementations of a port", from, to)
	}
	return ""
}

// isImplementation tells fsblob, sqlitemeta and runtime/process from helpers such as meta/lease, which
// work on any implementation.
func isImplementation(pkg string) bool {
	port := path.Dir(pkg)
	suite, ok := ports[port]
	return ok && pkg != suite && (port == "runtime" || strings.HasSuffix(pkg, port))
}

func internalImports(f file) []string {
	var out []string
	for _, spec := range f.ast.Imports {
		p, err := strconv.Unquote(spec.Path.Value)
		if rest, ok := strings.CutPrefix(p, modulePath+"internal/"); ok && err == nil {
			out = append(out, rest)
		}
	}
	return out
}

func TestLayers(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("layers.txt")
	if err != nil {
		t.Fatal(err)
	}
	l := readLayers(string(text))
	for _, f := range files(t, isProductGo) {
		from, inside := strings.CutPrefix(f.dir(), "internal/")
		for _, to := range internalImports(f) {
			switch {
			case inside:
				if problem := l.check(from, to); problem != "" {
					t.Errorf("%s: %s", f.path, problem)
				}
			case strings.HasPrefix(f.path, "api/") || strings.HasPrefix(f.path, "sdk/"):
				t.Errorf("%s: imports internal/%s; api and sdk stand on their own", f.path, to)
			}
		}
	}
}

func TestLayersCheck(t *testing.T) {
	t.Parallel()
	l := readLayers("# order\ncli\nsystem\nflow\nruntime\nlake\nblob\nbase\n")
	for _, c := range []struct {
		from, to string
		ok       bool
	}{
		{"cli", "base/errdef", true},
		{"lake", "lake/prolly", true},
		{"lake/prolly", "lake/pack", true},
		{"flow", "lake", true},
		{"lake", "flow", false},
		{"base/obs", "blob", false},
		{"base/obs", "base/errdef", true},
		{"lake", "blob/fsblob", false},
		{"lake", "blob/blobtest", true},
		{"lake", "blob/lease", true},
		{"lake/laketest", "blob/fsblob", true},
		{"system", "blob/fsblob", true},
		{"blob/fsblob", "blob", true},
		{"flow", "unheard", false},
		{"unheard", "lake", false},
	} {
		if problem := l.check(c.from, c.to); (problem == "") != c.ok {
			t.Errorf("%s -> %s: %q", c.from, c.to, problem)
		}
	}
}

func TestEveryPackageHasOneComment(t *testing.T) {
	t.Parallel()
	count, commented := map[string]int{}, map[string]int{}
	for _, f := range files(t, isGo) {
		if f.isGenerated() || f.isTest() {
			continue
		}
		count[f.dir()]++
		if f.ast.Doc != nil && strings.TrimSpace(f.ast.Doc.Text()) != "" {
			commented[f.dir()]++
		}
	}
	for _, dir := range slices.Sorted(maps.Keys(count)) {
		if commented[dir] != 1 {
			t.Errorf("%s: %d of its files have a package comment, want exactly one", dir, commented[dir])
		}
	}
}

func TestSizes(t *testing.T) {
	t.Parallel()
	for _, f := range files(t, func(f file) bool {
		return !f.isGenerated() && slices.Contains([]string{".go", ".py", ".sh", ".c", ".cpp"}, path.Ext(f.path))
	}) {
		if f.lines > maxFileLines {
			t.Errorf("%s has %d lines, at most %d are allowed: it holds more than one thing", f.path, f.lines, maxFileLines)
		}
		if f.path == "cmd/tarn/main.go" && f.lines > maxMainLines {
			t.Errorf("%s has %d lines, at most %d are allowed: move them to internal/cli", f.path, f.lines, maxMainLines)
		}
		if f.ast == nil {
			continue
		}
		ast.Inspect(f.ast, func(n ast.Node) bool {
			if i, ok := n.(*ast.InterfaceType); ok && i.Methods.NumFields() > maxInterfaceMethods {
				t.Errorf("%s: an interface has %d methods, at most %d are allowed", f.path, i.Methods.NumFields(), maxInterfaceMethods)
			}
			return true
		})
	}
}

func TestImplementationsRunTheirSuite(t *testing.T) {
	t.Parallel()
	product, exercised := map[string]bool{}, map[string]bool{}
	for _, f := range files(t, isGo) {
		pkg, inside := strings.CutPrefix(f.dir(), "internal/")
		if !inside || !isImplementation(pkg) {
			continue
		}
		if f.isTest() {
			exercised[pkg] = exercised[pkg] || slices.Contains(internalImports(f), ports[path.Dir(pkg)])
		} else {
			product[pkg] = true
		}
	}
	for pkg := range product {
		if !exercised[pkg] {
			t.Errorf("internal/%s never runs %s", pkg, ports[path.Dir(pkg)])
		}
	}
}

func TestForbiddenWords(t *testing.T) {
	t.Parallel()
	// The words are put together here so that this file does not hold them.
	unfinished := regexp.MustCompile(`\b(` + "TO" + `DO|FIX` + `ME|XX` + `X)\b(\(#\d+\))?`)
	machine := regexp.MustCompile(`(^|[\s"'=(:` + "`" + `])/(root|work|Users|home/[a-z]+)/`)
	sleep := "time." + "Sleep("
	for _, f := range files(t, func(f file) bool { return !f.isGenerated() }) {
		n := 0
		for line := range strings.Lines(f.text) {
			n++
			if m := unfinished.FindStringSubmatch(line); m != nil && m[2] == "" {
				t.Errorf("%s:%d: %s names no issue", f.path, n, m[1])
			}
			if m := machine.FindString(line); m != "" {
				t.Errorf("%s:%d: %q is a path of one machine", f.path, n, m)
			}
			// In a synctest bubble time is fake, so a sleep there costs and hides nothing.
			if f.isTest() && strings.Contains(line, sleep) && !strings.Contains(f.text, `"testing/synctest"`) {
				t.Errorf("%s:%d: a test sleeps; wait for a signal or use testing/synctest", f.path, n)
			}
		}
	}
}

func TestEveryLayerHasOnePlace(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("layers.txt")
	if err != nil {
		t.Fatal(err)
	}
	l := readLayers(string(text))
	for _, f := range files(t, isProductGo) {
		pkg, inside := strings.CutPrefix(f.dir(), "internal/")
		if !inside {
			continue
		}
		if _, _, ok := l.home(pkg); !ok {
			t.Errorf("internal/%s has no line in layers.txt", pkg)
		}
	}
}

// TestGuarantees holds that every test that docs/reference/guarantees.md names is there, and every promise has one.
func TestGuarantees(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(filepath.Join(root, "docs/reference/guarantees.md"))
	if err != nil {
		t.Fatal(err)
	}
	named := regexp.MustCompile("`([a-z0-9/]+)` (Test[A-Za-z0-9]+)")
	want := 0
	for line := range strings.Lines(string(text)) {
		number, rest, ok := strings.Cut(strings.TrimPrefix(line, "| "), " | ")
		n, err := strconv.Atoi(number)
		if !ok || err != nil {
			continue
		}
		if want++; n != want || !strings.Contains(rest, " MUST ") {
			t.Errorf("promise %d should be %d and say MUST: %s", n, want, line)
		}
		tests := named.FindAllStringSubmatch(rest, -1)
		if len(tests) == 0 || len(tests) != strings.Count(rest, " Test") {
			t.Errorf("promise %d names its tests as `folder` TestName: %s", n, line)
		}
		for _, m := range tests {
			if !declaresTest(t, m[1], m[2]) {
				t.Errorf("promise %d: no %s in %s", n, m[2], m[1])
			}
		}
	}
	if want < 30 {
		t.Errorf("%d promises were read", want)
	}
}

func declaresTest(t *testing.T, folder, name string) bool {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(root, folder, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	return slices.ContainsFunc(files, func(file string) bool {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		return strings.Contains(string(text), "\nfunc "+name+"(t *testing.T)")
	})
}
