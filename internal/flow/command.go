package flow

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/base/pattern"
	"tarn.dev/tarn/internal/flow/check"
	"tarn.dev/tarn/internal/flow/manifest"
	"tarn.dev/tarn/internal/flow/memo"
	"tarn.dev/tarn/internal/query"
	"tarn.dev/tarn/internal/runtime"
)

var errCommand = errdef.New(errdef.FailedPrecondition, "run.command", "the program was not found")

// command runs a script in any language: tables come and go as files.
func (a *attempt) command(ctx context.Context, scratch string, invs []*invocation) (map[string]*produced, error) {
	fn := a.work.node.Function
	argv, installed, err := findProgram(fn)
	if err != nil {
		return nil, err
	}
	limits, err := limitsOf(fn)
	if err != nil {
		return nil, err
	}
	b, laid, err := a.openBox(ctx, scratch, limits, installed, nil)
	if err != nil {
		return nil, err
	}
	defer b.Close()
	if err := linkProject(laid, b); err != nil {
		return nil, err
	}
	env := languageEnv(b.Home())
	for k, v := range a.work.params {
		env["TARN_PARAM_"+envName(k)] = strings.Trim(string(v), `"`)
	}
	if err := a.commandInputs(ctx, scratch, b, env); err != nil {
		return nil, err
	}
	for _, out := range fn.Outputs {
		env["TARN_OUT_"+envName(out)] = b.Path("out") + "/" + out + "." + fn.OutFormats[out]
	}
	pc := pyContext{
		Version: 1, Run: a.run, Step: fn.Name, Attempt: a.n, Project: b.Path("project"), Params: a.work.params,
		Entry: pyEntry{File: fn.File, Kind: string(fn.Kind)}, pyItem: &pyItem{Key: string(invs[0].key), Inputs: []pyInput{}, Outputs: []pyOutput{}},
	}
	if err := writeJSON(filepath.Join(b.HostHome(), ".tarn-context.json"), pc); err != nil {
		return nil, err
	}
	got := map[string]*produced{"": {tables: map[string]string{}}}
	if err := a.execute(ctx, b, argv, env, got, nil); err != nil {
		return nil, err
	}
	p := got[""]
	if p.err != nil {
		return got, nil
	}
	if fn.Kind == manifest.Check {
		if p.check == nil {
			p.check = &memo.Verdict{Passed: true}
		}
		return got, nil
	}
	for _, out := range fn.Outputs {
		if p.tables[out], err = a.readBack(ctx, scratch, filepath.Join(b.out, out+"."+fn.OutFormats[out]), out, fn.OutFormats[out]); err != nil {
			p.err = err
			break
		}
	}
	return got, nil
}

// linkProject makes the project's files readable under their relative names from the working folder,
// while what the function writes there stays its own.
func linkProject(laid string, b *box) error {
	entries, err := os.ReadDir(laid)
	if err != nil {
		return fmt.Errorf("link project: %w", err)
	}
	for _, e := range entries {
		if err := os.Symlink(b.Path("project")+"/"+e.Name(), filepath.Join(b.HostHome(), e.Name())); err != nil {
			return fmt.Errorf("link project: %w", err)
		}
	}
	return nil
}

// findProgram resolves the program that runs a script, on the server's PATH. It comes with what was
// installed beside it.
func findProgram(fn *manifest.Function) (argv []string, installed []runtime.Mount, err error) {
	argv = append([]string(nil), fn.Command...)
	if len(argv) == 0 {
		return nil, installed, errCommand.Errorf("%s:%d: no program is named to run it", fn.File, fn.Line)
	}
	path, err := lookPath(argv[0])
	if err != nil {
		return nil, installed, errCommand.Errorf("%s is run by %s, which is not on PATH", fn.File, argv[0])
	}
	// One program may have several names and go by the one it was called by; a name outside of the system's
	// folders is a link to where the program lives.
	if argv[0] = path; !strings.HasPrefix(path, "/usr/") && !strings.HasPrefix(path, "/bin/") {
		if argv[0], err = filepath.EvalSymlinks(path); err != nil {
			return nil, installed, errCommand.Errorf("find %s: %w", fn.Command[0], err)
		}
	}
	dir := filepath.Dir(argv[0])
	if filepath.Base(dir) == "bin" {
		return argv, runtime.Installed("program", filepath.Dir(dir)), nil
	}
	return argv, []runtime.Mount{{Name: "program", Source: dir, InPlace: true}}, nil
}

// lookPath finds a program as a shell does, but no shim where there is the program itself: a shim is a script
// that looks for it elsewhere at each start, with files that no sandbox shows.
func lookPath(name string) (string, error) {
	if !strings.Contains(name, "/") {
		for _, dir := range filepath.SplitList(os.Getenv("PATH")) {
			if filepath.IsAbs(dir) && filepath.Base(dir) != "shims" {
				if path, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
					return path, nil
				}
			}
		}
	}
	path, err := exec.LookPath(name)
	if err != nil {
		return "", err
	}
	return filepath.Abs(path)
}

var notEnv = pattern.Of(`[^A-Za-z0-9]+`)

func envName(s string) string { return strings.ToUpper(notEnv().ReplaceAllString(s, "_")) }

// commandInputs writes each input table as a file in the format that the header names.
func (a *attempt) commandInputs(ctx context.Context, scratch string, b *box, env map[string]string) error {
	for _, in := range a.work.node.Inputs {
		v := a.work.tables[in.Param]
		if v == nil {
			continue
		}
		name := "in-" + in.Param + "." + in.Format
		src, err := a.f.source(ctx, query.Name{Table: "input"}, v)
		if err != nil {
			return err
		}
		format := in.Format
		if format == "file" {
			return errdef.Newf(errdef.InvalidArgument, "run.command_input", "%s reads the table %s as \"file\". Formats of tables: csv, parquet, json, arrow", a.work.node.File, v.name)
		}
		_, err = a.f.Engine.Run(ctx, query.Job{
			SQL: "SELECT * FROM " + check.Quote("input"), Sources: []query.Source{src},
			Sinks: []query.Sink{{Kind: query.SinkFile, Path: filepath.Join(scratch, name), Format: format}}, Owner: a.run,
		}, nil)
		if err != nil {
			return fmt.Errorf("write %s for %s: %w", v.name, a.work.node.Name, err)
		}
		env["TARN_IN_"+envName(in.Param)] = b.Path("scratch") + "/" + name
	}
	return nil
}

// readBack turns a file that a script wrote into an Arrow file.
func (a *attempt) readBack(ctx context.Context, scratch, path, name, format string) (string, error) {
	if _, err := os.Stat(path); err != nil {
		return "", errResult.Errorf("%s did not write $TARN_OUT_%s", a.work.node.Name, envName(name))
	}
	out := filepath.Join(scratch, "out-"+name+".arrow")
	src := query.Source{Name: query.Name{Table: "result"}, Import: &query.ImportScan{Format: format, Paths: []string{path}}}
	if format == "arrow" {
		src.Import, src.Arrow = nil, []string{path}
	}
	_, err := a.f.Engine.Run(ctx, query.Job{
		SQL: "SELECT * FROM " + check.Quote("result"), Sources: []query.Source{src},
		Sinks: []query.Sink{{Kind: query.SinkArrow, Path: out}}, Owner: a.run,
	}, nil)
	if err != nil {
		return "", errResult.Errorf("read $TARN_OUT_%s of %s: %w", envName(name), a.work.node.Name, err)
	}
	return out, nil
}
