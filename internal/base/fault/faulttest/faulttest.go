// Package faulttest finds the fault points of a source tree, so that a crash test can visit all of them.
package faulttest

import (
	"cmp"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

var wellFormed = regexp.MustCompile(`^[a-z0-9]+(\.[a-z0-9_]+)+$`)

// Names returns the sorted names of all fault.Point calls in the Go files under root, tests left out.
// A name that is no literal, has an odd form or is used twice is an error with its place: a test could
// not tell which point it hit.
func Names(root string) ([]string, error) {
	type point struct{ name, place string }
	var points []point
	files := token.NewFileSet()
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && path != root && (strings.HasPrefix(d.Name(), ".") || d.Name() == "testdata"):
			return filepath.SkipDir
		case d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go"):
			return nil
		}
		file, err := parser.ParseFile(files, path, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		var bad error
		ast.Inspect(file, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok || !isPoint(call.Fun) || bad != nil {
				return bad == nil
			}
			place := files.Position(call.Pos()).String()
			var name string
			if len(call.Args) == 1 {
				if lit, ok := call.Args[0].(*ast.BasicLit); ok && lit.Kind == token.STRING {
					name, _ = strconv.Unquote(lit.Value) // the parser accepted it
				}
			}
			if !wellFormed.MatchString(name) {
				bad = fmt.Errorf("%s: fault.Point wants one literal name like \"lake.commit.after_pack\"", place)
			}
			points = append(points, point{name, place})
			return true
		})
		return bad
	})
	if err != nil {
		return nil, err
	}
	slices.SortFunc(points, func(a, b point) int { return cmp.Compare(a.name, b.name) })
	names := make([]string, len(points))
	for i, p := range points {
		if i > 0 && p.name == points[i-1].name {
			return nil, fmt.Errorf("%s: fault point %q is also at %s", p.place, p.name, points[i-1].place)
		}
		names[i] = p.name
	}
	return names, nil
}

func isPoint(e ast.Expr) bool {
	s, ok := e.(*ast.SelectorExpr)
	if !ok || s.Sel.Name != "Point" {
		return false
	}
	x, ok := s.X.(*ast.Ident)
	return ok && x.Name == "fault"
}
