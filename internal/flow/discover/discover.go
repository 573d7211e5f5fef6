// Package discover finds the functions of a project: it has Python import the files that mention tarn,
// in a sandbox without packages, and reads the headers of SQL files and scripts.
//
// The result depends on the code alone, so it is remembered by the snapshot's code.
package discover

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/zeebo/blake3"

	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/flow/manifest"
	"tarn.dev/tarn/internal/flow/project"
	"tarn.dev/tarn/internal/image"
	"tarn.dev/tarn/internal/query"
	"tarn.dev/tarn/internal/runtime"
)

// Errors of discovery.
var (
	// ErrProject wraps the problems of a project's declarations.
	ErrProject = errdef.New(errdef.InvalidArgument, "discover.project", "the project has errors")
	errPython  = errdef.New(errdef.UserCode, "discover.python", "importing the project failed")
)

// SQLInfo is what an analysis of one SELECT tells.
type SQLInfo struct {
	Tables []SQLTable
	Params []string
}

// SQLTable is a table that a SELECT reads.
type SQLTable struct {
	Name string // "flights", or "ns.flights"
	Ref  string
	Line int
}

// Analyzer reads SQL without running it.
type Analyzer interface {
	// AnalyzeSelect refuses everything that is not one SELECT; file is for messages.
	AnalyzeSelect(ctx context.Context, file, sql string) (SQLInfo, error)
}

// Discoverer finds functions. Safe for concurrent use.
type Discoverer struct {
	Runtime     runtime.Runtime
	SQL         Analyzer
	SDK         string                                               // folder that holds the package tarn
	Owner       string                                               // of the templates that discovery is forked from
	Interpreter func(ctx context.Context) (image.Interpreter, error) // any supported Python
}

// ID names what discovery of a snapshot depends on, besides this program and the SDK.
func ID(s *project.Snapshot) string {
	var b bytes.Buffer
	for _, f := range s.Files {
		fmt.Fprintf(&b, "%s\x00%s\n", f.Path, f.Hash)
	}
	return fmt.Sprintf("%x", blake3.Sum256(b.Bytes()))
}

// Discover returns the manifest of the snapshot laid out in dir. Problems of the declarations come back
// as one ErrProject that lists them all, together with what is sound.
func (d *Discoverer) Discover(ctx context.Context, s *project.Snapshot, dir string) (*manifest.Manifest, error) {
	m, err := d.python(ctx, s, dir)
	if err != nil {
		return nil, err
	}
	for _, f := range s.Files {
		file := project.File{Path: f.Path}
		if inTests(f.Path) || !file.IsSQL() && !file.IsScript() {
			continue
		}
		src, err := os.ReadFile(filepath.Join(dir, filepath.FromSlash(f.Path)))
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", f.Path, err)
		}
		var fn *manifest.Function
		if file.IsSQL() {
			fn, err = d.sql(ctx, f, src)
		} else {
			fn, err = script(f, src)
		}
		switch {
		case err != nil && errdef.CodeOf(err) == errdef.InvalidArgument:
			m.Errors = append(m.Errors, manifest.Problem{File: f.Path, Reason: errdef.As(err).Reason, Message: err.Error()})
		case err != nil:
			return nil, err
		case fn != nil:
			m.Functions = append(m.Functions, *fn)
		}
	}
	slices.SortFunc(m.Functions, func(a, b manifest.Function) int { return strings.Compare(a.Name, b.Name) })
	return m, problems(m)
}

func problems(m *manifest.Manifest) error {
	if len(m.Errors) == 0 {
		return nil
	}
	var lines []string
	for _, p := range m.Errors {
		lines = append(lines, p.Message)
	}
	return ErrProject.Errorf("%s", strings.Join(lines, "\n")).WithDetail("problems", m.Errors)
}

func inTests(p string) bool {
	first, _, more := strings.Cut(p, "/")
	return more && first == "tests"
}

const discoverTime = 60 * time.Second

func (d *Discoverer) python(ctx context.Context, s *project.Snapshot, dir string) (*manifest.Manifest, error) {
	m := &manifest.Manifest{Version: manifest.Version}
	var files []string
	for _, f := range s.Files {
		if path.Ext(f.Path) == ".py" && f.Mention && !inTests(f.Path) {
			files = append(files, f.Path)
		}
	}
	if len(files) == 0 {
		return m, nil
	}
	python, err := d.Interpreter(ctx)
	if err != nil {
		return nil, err
	}
	box, err := d.Runtime.Create(ctx, runtime.Spec{
		ID:     "discovery",
		Mounts: []runtime.Mount{{Name: "project", Source: dir}},
		Limits: runtime.Limits{Time: discoverTime, MemoryBytes: 4 << 30},
		Template: &runtime.Template{
			Owner: d.Owner, Argv: []string{python.Path, "-S", "-B", "-m", "tarn._template"},
			Env:    map[string]string{"PYTHONPATH": "{mount:sdk}", "PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1", "LC_ALL": "C.UTF-8", "HOME": "/", "PATH": "/usr/bin:/bin"},
			Mounts: append(runtime.Installed("python", python.Prefix), runtime.Mount{Name: "sdk", Source: d.SDK}),
		},
	})
	if err != nil {
		return nil, fmt.Errorf("discover: %w", err)
	}
	defer box.Close()
	in, err := json.Marshal(map[string]any{"root": box.Path("project"), "files": files, "out": box.Home() + "/manifest.json"})
	if err != nil {
		return nil, fmt.Errorf("discover: %w", err)
	}
	if err := os.WriteFile(filepath.Join(box.HostHome(), "discover.json"), in, 0o600); err != nil {
		return nil, fmt.Errorf("discover: %w", err)
	}
	var out bytes.Buffer
	exit, err := box.Run(ctx, runtime.Command{
		Argv: []string{python.Path, "-S", "-B", "-m", "tarn._discover"},
		Env: map[string]string{
			"TARN_DISCOVER": box.Home() + "/discover.json", "PYTHONPATH": box.Path("sdk"), "PYTHONHASHSEED": "0",
			"PYTHONDONTWRITEBYTECODE": "1", "LC_ALL": "C.UTF-8", "HOME": box.Home(), "PATH": "/usr/bin:/bin",
		},
		Stdout: &out, Stderr: &out,
	})
	if err != nil {
		return nil, fmt.Errorf("discover: %w", err)
	}
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	if !exit.OK() {
		return nil, errPython.Errorf("importing the project's Python files failed (%s, exit %d):\n%s", exit.Reason, exit.Code, tail(out.Bytes()))
	}
	b, err := os.ReadFile(filepath.Join(box.HostHome(), "manifest.json"))
	if err != nil {
		return nil, errPython.Errorf("importing the project's Python files ended without a result:\n%s", tail(out.Bytes()))
	}
	if err := json.Unmarshal(b, m); err != nil {
		return nil, errdef.Newf(errdef.Internal, "discover.manifest", "read the manifest that tarn._discover wrote: %w", err)
	}
	if m.Version != manifest.Version {
		return nil, errdef.Newf(errdef.Internal, "discover.manifest", "tarn._discover wrote manifest version %d, not %d", m.Version, manifest.Version)
	}
	for i := range m.Functions {
		f := &m.Functions[i]
		if f.Language = manifest.Python; len(f.Command) > 0 {
			f.Language = manifest.Command
		}
		if f.Severity == "" && f.Kind == manifest.Check {
			f.Severity = manifest.Fail
		}
	}
	return m, nil
}

func tail(b []byte) string {
	const most = 4096
	if len(b) > most {
		b = b[len(b)-most:]
	}
	return strings.TrimSpace(string(b))
}

// sql reads a .sql file: nil when it has no tarn header and does not begin a query, so that other SQL may
// lie in the folder.
func (d *Discoverer) sql(ctx context.Context, f project.SnapshotFile, src []byte) (*manifest.Function, error) {
	h, desc, line, found, err := readHeader(f.Path, src)
	if err != nil {
		return nil, err
	}
	if len(h.Inputs)+len(h.Outputs) > 0 {
		return nil, ErrHeader.Errorf("%s:%d: inputs and outputs are for scripts; SQL reads what it names", f.Path, line)
	}
	info, err := d.SQL.AnalyzeSelect(ctx, f.Path, string(src))
	if err != nil {
		if !found && errdef.CodeOf(err) == errdef.InvalidArgument && !errors.Is(err, query.ErrTemplate) && !startsSelect(src) {
			return nil, nil
		}
		return nil, err
	}
	fn, err := h.function(f.Path, desc, line)
	if err != nil {
		return nil, err
	}
	fn.Language, fn.SQL = manifest.SQL, string(src)
	for _, t := range info.Tables {
		fn.Inputs = append(fn.Inputs, manifest.Input{Param: sqlName(t), Kind: manifest.InTable, Table: t.Name, Ref: t.Ref, Line: t.Line})
	}
	for _, p := range info.Params {
		if !slices.ContainsFunc(fn.Params, func(q manifest.Param) bool { return q.Name == p }) {
			return nil, ErrHeader.Errorf("%s: $%s has no default. Add: -- tarn: params = { %s = ... }", f.Path, p, p)
		}
	}
	fn.Code = manifest.Code{Parts: []manifest.CodePart{{Name: "sql", Hash: sqlHash(src)}}, Plain: true}
	return &fn, nil
}

// sqlHash is the hash of what the engine runs: an option in the header, such as one more check, changes no
// result (parameters are in the key by themselves).
func sqlHash(src []byte) string {
	h := blake3.New()
	for line := range bytes.Lines(src) {
		if body, ok := comment(strings.TrimSpace(string(line))); !ok || !strings.HasPrefix(body, "tarn:") {
			_, _ = h.Write(line) // never fails
		}
	}
	return fmt.Sprintf("%x", h.Sum(nil))
}

var selects = []string{"select", "with", "from", "values", "("}

// startsSelect reports whether the first word of a text, comments aside, begins a query: then a mistake
// in it is the user's, and no other tool's SQL.
func startsSelect(src []byte) bool {
	text := strings.TrimPrefix(string(src), byteOrderMark)
	for {
		text = strings.TrimSpace(text)
		switch {
		case strings.HasPrefix(text, "--"):
			_, text, _ = strings.Cut(text, "\n")
		case strings.HasPrefix(text, "/*"):
			_, text, _ = strings.Cut(text, "*/")
		default:
			text = strings.ToLower(text)
			return slices.ContainsFunc(selects, func(w string) bool { return strings.HasPrefix(text, w) })
		}
	}
}

// sqlName is how a query names a table: name, or name@ref.
func sqlName(t SQLTable) string {
	if t.Ref != "" {
		return t.Name + "@" + t.Ref
	}
	return t.Name
}

var scriptFormats = []string{"csv", "parquet", "json", "arrow", "file"}

func script(f project.SnapshotFile, src []byte) (*manifest.Function, error) {
	h, desc, line, found, err := readHeader(f.Path, src)
	if err != nil || !found {
		return nil, err
	}
	fn, err := h.function(f.Path, desc, line)
	if err != nil {
		return nil, err
	}
	fn.Language, fn.Command = manifest.Command, interpreterOf(f.Path, src)
	for name, format := range h.Inputs {
		if !slices.Contains(scriptFormats, format) {
			return nil, ErrHeader.Errorf("%s:%d: input %s has format %q. Formats: %s", f.Path, line, name, format, strings.Join(scriptFormats, ", "))
		}
		fn.Inputs = append(fn.Inputs, manifest.Input{Param: name, Kind: manifest.InTable, Table: name, Format: format, Line: line})
	}
	slices.SortFunc(fn.Inputs, func(a, b manifest.Input) int { return strings.Compare(a.Param, b.Param) })
	if fn.Kind == manifest.Asset && len(h.Outputs) > 0 {
		fn.Outputs, fn.OutFormats = nil, h.Outputs
		for name, format := range h.Outputs {
			if !slices.Contains(scriptFormats, format) || format == "file" {
				return nil, ErrHeader.Errorf("%s:%d: output %s has format %q. Formats: csv, parquet, json, arrow", f.Path, line, name, format)
			}
			fn.Outputs = append(fn.Outputs, name)
		}
		slices.Sort(fn.Outputs)
	} else if fn.Kind == manifest.Asset {
		return nil, ErrHeader.Errorf("%s:%d: name the outputs: # tarn: outputs = { %s = \"csv\" }", f.Path, line, fn.Name)
	}
	fn.Code = manifest.Code{Parts: []manifest.CodePart{{Name: "command", Hash: f.Hash}}, Plain: true}
	return &fn, nil
}

var programs = map[string]string{
	".sh": "/bin/sh", ".bash": "/bin/bash", ".R": "Rscript", ".r": "Rscript", ".jl": "julia", ".js": "node", ".mjs": "node",
	".rb": "ruby", ".pl": "perl", ".awk": "awk -f", ".lua": "lua", ".php": "php",
}

// interpreterOf is the argv that runs a script: its #! line, else what its ending stands for.
func interpreterOf(file string, src []byte) []string {
	if first, _, _ := bytes.Cut(src, []byte("\n")); bytes.HasPrefix(first, []byte("#!")) {
		if argv := strings.Fields(string(first[2:])); len(argv) > 0 {
			return append(argv, file)
		}
	}
	return append(strings.Fields(programs[path.Ext(file)]), file)
}
