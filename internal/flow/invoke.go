package flow

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/zeebo/blake3"

	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/base/pattern"
	"tarn.dev/tarn/internal/flow/manifest"
	"tarn.dev/tarn/internal/flow/memo"
	"tarn.dev/tarn/internal/image"
	"tarn.dev/tarn/internal/lake"
	"tarn.dev/tarn/internal/query"
	"tarn.dev/tarn/internal/runtime"
)

// Errors of running a function.
var (
	// ErrUserCode is an exception, or an exit other than zero, of the user's function.
	ErrUserCode = errdef.New(errdef.UserCode, "run.user_code", "the function failed")
	errMemory   = errdef.New(errdef.ResourceExhausted, "run.out_of_memory", "out of memory")
	errStorm    = errdef.New(errdef.ResourceExhausted, "run.too_many_processes", "too many processes")
	errDisk     = errdef.New(errdef.ResourceExhausted, "run.disk", "too much was written")
	errTimeout  = errdef.New(errdef.DeadlineExceeded, "run.timeout", "timed out")
	errKilled   = errdef.New(errdef.UserCode, "run.killed", "the function's process was killed")
	errRunner   = errdef.New(errdef.Internal, "run.runner", "the runner failed")
)

// attempt is one try of some items of a step.
type attempt struct {
	f     *Flow
	code  *code
	work  *work
	run   string
	n     int
	given handed
	emit  func(Event)
	level string
	asked demand
	done  map[string]outcome // items that were taken over before the attempt ended
	ended func()             // called for each of those
}

// outcome is what became of one item.
type outcome struct {
	inv      *invocation
	fragment *memo.Fragment
	err      error
	classes  []string // of the user's exception with its bases, for retry policies
	reported []memo.Reported
}

// produced is what one item left on the worker's scratch.
type produced struct {
	tables   map[string]string // output -> Arrow IPC file
	files    string            // folder, "" if none
	check    *memo.Verdict
	usage    memo.Usage
	err      error
	reported []memo.Reported
	// classes are the user's exception and its bases.
	classes []string
	began   bool
	ended   bool // before the others of its interpreter did
	waits   bool // for another interpreter: its own ended before it began
}

// invoke runs items and makes their results durable. It has one outcome for each.
func (a *attempt) invoke(ctx context.Context, invs []*invocation) []outcome {
	a.done = map[string]outcome{}
	var err error
	if a.given, err = a.f.handOver(ctx, a.work.node.Function); err != nil {
		return failAll(invs, err)
	}
	scratch, err := a.scratch()
	if err != nil {
		return failAll(invs, err)
	}
	defer os.RemoveAll(scratch)
	var got map[string]*produced
	switch a.work.node.Language {
	case manifest.SQL:
		got, err = a.sql(ctx, scratch, invs[0].key)
	case manifest.Command:
		got, err = a.command(ctx, scratch, invs)
	default:
		err = a.python(ctx, scratch, invs)
	}
	out := make([]outcome, len(invs))
	for i, inv := range invs {
		switch o, done := a.done[inv.id]; {
		case done:
			out[i] = o
		case err != nil:
			out[i] = outcome{inv: inv, err: err}
		default:
			out[i] = a.takeOver(ctx, inv, got[inv.id])
		}
		out[i].err = a.given.failure(out[i].err)
	}
	return out
}

func failAll(invs []*invocation, err error) []outcome {
	out := make([]outcome, len(invs))
	for i, inv := range invs {
		out[i] = outcome{inv: inv, err: err}
	}
	return out
}

func (a *attempt) scratch() (string, error) {
	root := a.f.scratch("steps")
	if err := os.MkdirAll(root, 0o700); err != nil {
		return "", fmt.Errorf("make scratch folder: %w", err)
	}
	dir, err := os.MkdirTemp(root, a.run+"-*")
	if err != nil {
		return "", fmt.Errorf("make scratch folder: %w", err)
	}
	return dir, nil
}

// sql runs a SQL asset or check in an engine child. Its single item is "".
func (a *attempt) sql(ctx context.Context, scratch string, key memo.Key) (map[string]*produced, error) {
	fn := a.work.node.Function
	job, err := a.f.selectJob(ctx, fn.File, fn.SQL, a.work)
	if err != nil {
		return nil, err
	}
	job.Seed = string(key) // what is remembered must come out the same again
	job.Owner = a.run
	path := filepath.Join(scratch, "out.arrow")
	job.Sinks = []query.Sink{{Kind: query.SinkArrow, Path: path}}
	began := time.Now()
	res, err := a.f.Engine.Run(ctx, job, nil)
	if errdef.CodeOf(err) == errdef.InvalidArgument { // the statement is the user's code
		return nil, ErrUserCode.Errorf("%s: %w", fn.File, err)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", fn.File, err)
	}
	p := &produced{tables: map[string]string{}, usage: memo.Usage{WallSeconds: time.Since(began).Seconds()}}
	if fn.Kind == manifest.Check {
		p.check = &memo.Verdict{Passed: res.Rows == 0, Offenders: res.Rows}
		p.tables[offendersTable] = path
	} else {
		p.tables[fn.Outputs[0]] = path
	}
	return map[string]*produced{"": p}, nil
}

// offendersTable is the name of a check's table in its fragment.
const offendersTable = "offenders"

// selectJob makes the engine job of a SELECT over a step's tables.
func (f *Flow) selectJob(ctx context.Context, file, sql string, wk *work) (query.Job, error) {
	params, err := engineParams(wk.params)
	if err != nil {
		return query.Job{}, err
	}
	plan, err := f.Engine.Plan(ctx, query.Request{Name: file, SQL: sql, Params: params}, query.ResolverFunc(
		func(ctx context.Context, ref query.Reference) (query.Source, error) {
			for _, v := range wk.tables {
				if v.key == keyOf(ref.Name) && (ref.Name.Ref == "" || wk.tables[ref.Name.String()] == v) {
					return f.source(ctx, ref.Name, v)
				}
			}
			return query.Source{}, errdef.Newf(errdef.Internal, "run.source", "%s:%d: table %s was not prepared", file, ref.Line, ref.Name)
		}))
	if err != nil {
		return query.Job{}, err
	}
	limits, err := limitsOf(wk.node.Function)
	plan.Job.MemoryBytes, plan.Job.DiskBytes = limits.MemoryBytes, limits.DiskBytes
	return plan.Job, err
}

// engineParams are parameters as the engine takes them.
func engineParams(values map[string]json.RawMessage) (map[string]any, error) {
	params := map[string]any{}
	for name, raw := range values {
		dec := json.NewDecoder(bytes.NewReader(raw))
		dec.UseNumber()
		var v any
		if err := dec.Decode(&v); err != nil {
			return nil, fmt.Errorf("parameter %s: %w", name, err)
		}
		params[name] = plainNumber(v)
	}
	return params, nil
}

func plainNumber(v any) any {
	n, ok := v.(json.Number)
	if !ok {
		return v
	}
	if i, err := n.Int64(); err == nil {
		return i
	}
	x, _ := n.Float64() // json.Number is a number
	return x
}

func keyOf(n query.Name) string {
	ns := n.Namespace
	if ns == "" {
		ns = lake.DefaultNamespace
	}
	return lake.TableKey(ns, n.Table)
}

// pyContext is TARN_CONTEXT, the contract with sdk/python (tarn._runner).
type pyContext struct {
	Version  int                        `json:"version"`
	Run      string                     `json:"run"`
	Step     string                     `json:"step"`
	Attempt  int                        `json:"attempt"`
	Project  string                     `json:"project"`
	Entry    pyEntry                    `json:"entry"`
	Params   map[string]json.RawMessage `json:"params"`
	Packages []string                   `json:"allowed_packages"`
	EnvName  string                     `json:"env_name"`
	Local    []string                   `json:"local_files"`
	Origin   string                     `json:"project_origin"` // to know files that the project has and the key does not
	Values   *pyValues                  `json:"values,omitempty"`
	Calls    *pyCalls                   `json:"calls,omitempty"`
	*pyItem  `json:",omitempty"`        // the one invocation, or:
	Items    []pyItem                   `json:"items,omitempty"` // a fork for each
}

// pyValues is where a worker of calls reads big values, and how the paths begin of those that it writes.
type pyValues struct {
	In  string `json:"in"`
	Out string `json:"out"`
}

// pyCalls is where a worker of calls finds the server for calls of its own.
type pyCalls struct {
	Socket  string `json:"socket"`
	Project string `json:"project"`
}

type pyEntry struct {
	File     string `json:"file"`
	Module   string `json:"module"`
	Qualname string `json:"qualname"`
	Kind     string `json:"kind"`
}

type pyInput struct {
	Param   string   `json:"param"`
	Kind    string   `json:"kind"`
	Name    string   `json:"name,omitempty"`
	Path    string   `json:"path,omitempty"`
	Format  string   `json:"format,omitempty"`
	Columns []string `json:"columns,omitempty"`
	Paths   []pyPath `json:"paths,omitempty"`
	Each    bool     `json:"each,omitempty"`
	GroupBy string   `json:"group_by,omitempty"`
}

type pyPath struct {
	Key  string `json:"key"`
	Path string `json:"path"`
}

type pyItem struct {
	Item      string     `json:"item,omitempty"`
	Key       string     `json:"idempotency_key"`
	Seed      string     `json:"seed"`
	Inputs    []pyInput  `json:"inputs"`
	Outputs   []pyOutput `json:"outputs"`
	OutputDir string     `json:"output_dir,omitempty"`
}

type pyOutput struct {
	Name string `json:"name"`
	Path string `json:"path"`
}

// box is a sandbox with the folders that every language gets.
type box struct {
	runtime.Sandbox
	out string // folder for results, on the host
}

// openBox makes a sandbox for an attempt: the code, the inputs, a folder for results.
func (a *attempt) openBox(ctx context.Context, scratch string, limits runtime.Limits, mounts []runtime.Mount, template *runtime.Template) (*box, string, error) {
	laid, err := a.code.layout()
	if err != nil {
		return nil, "", err
	}
	fn := a.work.node.Function
	out := filepath.Join(scratch, "out")
	if err := os.Mkdir(out, 0o700); err != nil {
		return nil, "", fmt.Errorf("make output folder: %w", err)
	}
	mounts = append(mounts, runtime.Mount{Name: "project", Source: laid}, runtime.Mount{Name: "scratch", Source: scratch},
		runtime.Mount{Name: "out", Source: out, Writable: true})
	sb, err := a.f.Runtime.Create(ctx, runtime.Spec{
		ID: a.run + "/" + fn.Name, Mounts: mounts, Limits: limits, Network: fn.Options.Network, Template: template,
	})
	if err != nil {
		return nil, "", fmt.Errorf("make a sandbox for %s: %w", fn.Name, err)
	}
	return &box{Sandbox: sb, out: out}, laid, nil
}

// pyContext is the part of the context that all items share.
func (a *attempt) pyContext(b *box) pyContext {
	fn := a.work.node.Function
	pc := pyContext{
		Version: 1, Run: a.run, Step: fn.Name, Attempt: a.n, Project: b.Path("project"), Params: a.work.params,
		Entry:   pyEntry{File: fn.File, Module: fn.Module, Qualname: fn.Qualname, Kind: string(fn.Kind)},
		EnvName: fn.Name, Origin: a.code.dir, Packages: append([]string{}, a.work.env.asked...), Local: []string{},
	}
	for _, nv := range a.work.common.Files {
		pc.Local = append(pc.Local, nv.Name)
	}
	return pc
}

// interpreterFlags start a module of ours: without site packages of the host, and without writing bytecode.
var interpreterFlags = []string{"-S", "-B", "-m"}

// languageEnv are the variables that every language gets; home is the sandbox's.
func languageEnv(home string) map[string]string {
	return map[string]string{
		"TARN_CONTEXT": home + "/.tarn-context.json", "PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1", "PYTHONUNBUFFERED": "1",
		"LC_ALL": "C.UTF-8", "HOME": home, "TMPDIR": home, "PATH": "/usr/local/bin:/usr/bin:/bin", "TZ": "UTC",
		"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1",
	}
}

// pythonEnv adds what Python needs, and the variables of its environment. path is where a mount is.
func pythonEnv(home string, view image.View, path func(mount string) string) map[string]string {
	env := languageEnv(home)
	env["PYTHONPATH"] = path("sdk") + string(os.PathListSeparator) + path("packages")
	if isFolder(filepath.Join(view.SitePackages, "bin")) { // programs of packages, which start the Python beside them
		env["PATH"] = strings.Join([]string{path("packages") + "/bin", filepath.Dir(view.Python.Path), env["PATH"]}, string(os.PathListSeparator))
	}
	// The allocators of pyarrow and polars start a thread, and what has threads cannot be forked.
	env["JE_ARROW_MALLOC_CONF"] = "background_thread:false"
	env["_RJEM_MALLOC_CONF"] = "background_thread:false"
	maps.Copy(env, view.Lock.Vars)
	return env
}

func (a *attempt) pyItem(ctx context.Context, b *box, in inputsOf, i int, inv *invocation) (pyItem, *produced, error) {
	fn := a.work.node.Function
	dir := fmt.Sprintf("%d", i)
	if err := os.Mkdir(filepath.Join(b.out, dir), 0o700); err != nil {
		return pyItem{}, nil, fmt.Errorf("make output folder: %w", err)
	}
	seed := blake3.Sum256([]byte(inv.key))
	it := pyItem{Item: inv.id, Key: string(inv.key), Seed: fmt.Sprintf("%x", seed[:16]), Inputs: []pyInput{}, Outputs: []pyOutput{}}
	p := &produced{tables: map[string]string{}}
	outputs := fn.Outputs
	if fn.Kind == manifest.Check {
		outputs = []string{offendersTable}
	}
	for j, name := range outputs {
		file := fmt.Sprintf("%d.arrow", j)
		it.Outputs = append(it.Outputs, pyOutput{Name: name, Path: b.Path("out") + "/" + dir + "/" + file})
	}
	if fn.WritesFiles() {
		p.files = filepath.Join(b.out, dir, "files")
		it.OutputDir = b.Path("out") + "/" + dir + "/files"
		if err := os.Mkdir(p.files, 0o700); err != nil {
			return it, nil, fmt.Errorf("make output folder: %w", err)
		}
	}
	if input := fn.ItemInput(); input != nil {
		pi, err := in.files(ctx, *input, inv.files)
		if err != nil {
			return it, nil, err
		}
		it.Inputs = append(it.Inputs, pi)
	}
	return it, p, nil
}

func writeJSON(path string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode %s: %w", filepath.Base(path), err)
	}
	return os.WriteFile(path, b, 0o600)
}

// message is one line on the message descriptor.
type message struct {
	Type      string                     `json:"type"`
	Item      string                     `json:"item"`
	Name      string                     `json:"name"`
	Path      string                     `json:"path"`
	Message   string                     `json:"message"`
	Done      int                        `json:"done"`
	Total     int                        `json:"total"`
	Passed    bool                       `json:"passed"`
	Offenders int64                      `json:"offenders"`
	OffPath   string                     `json:"offenders_path"`
	Class     string                     `json:"class"`
	Bases     []string                   `json:"bases"`
	Reason    string                     `json:"reason"`
	NotFound  []string                   `json:"not_found"` // names of files, of an error that says so
	Value     json.RawMessage            `json:"value"`
	Values    map[string]json.RawMessage `json:"values"`
	Traceback string                     `json:"traceback"`
	Usage     memo.Usage                 `json:"usage"` // of an item that has ended
}

// execute runs a command in b and sorts what it reports to the items in got. ended is called for each item
// that ends before the command does; nil for a command that has none.
func (a *attempt) execute(ctx context.Context, b *box, argv []string, env map[string]string, got map[string]*produced, ended func(message)) error {
	var mu sync.Mutex
	closed := false
	host := func(inside string) string { // results lie in the out mount
		if rest, ok := strings.CutPrefix(inside, b.Path("out")+"/"); ok {
			return filepath.Join(b.out, filepath.FromSlash(rest))
		}
		return ""
	}
	maps.Copy(env, a.given.env)
	stdout, endStdout := a.logWriter("stdout")
	stderr, endStderr := a.logWriter("stderr")
	timed, clock := a.startClock(ctx, got)
	defer clock.stop()
	exit, err := b.Run(timed, runtime.Command{
		Argv: argv, Env: env,
		Stdout: stdout, Stderr: stderr,
		Message: func(line []byte) {
			var m message
			if err := json.Unmarshal(line, &m); err != nil {
				a.emit(Event{Type: "log", Stream: "stderr", Message: "unreadable message of the runner: " + clip(a.given.Text(string(line)))})
				return
			}
			a.given.message(&m)
			mu.Lock()
			defer mu.Unlock()
			closed = closed || m.Type == "closed"
			if m.Type == "start" {
				clock.start(m.Item)
			}
			if m.Type == "ended" && ended != nil {
				ended(m)
				return
			}
			a.message(m, got[m.Item], host)
		},
	})
	endStdout()
	endStderr()
	if err != nil {
		return err
	}
	if err := context.Cause(ctx); err != nil {
		return err
	}
	if errors.Is(context.Cause(timed), errItemTime) && exit.Reason == runtime.Canceled {
		exit.Reason = runtime.TimedOut
	}
	a.settle(exit, got, closed)
	return nil
}

// message applies one report of the runner.
func (a *attempt) message(m message, p *produced, host func(string) string) {
	switch m.Type {
	case "log":
		a.emit(Event{Type: "log", Stream: "stdout", Item: m.Item, Message: m.Message})
	case "progress":
		a.emit(Event{Type: "progress", Item: m.Item, Done: m.Done, Total: m.Total, Message: m.Message})
	}
	if p == nil {
		return
	}
	switch m.Type {
	case "output":
		p.tables[m.Name] = host(m.Path)
	case "metric", "metadata":
		if why := p.report(m); why != "" {
			a.emit(Event{Type: "log", Stream: "stderr", Item: m.Item, Message: "not all of the " + m.Type + " is kept: " + why})
		}
	case "check":
		p.check = &memo.Verdict{Passed: m.Passed, Message: m.Message, Offenders: m.Offenders}
		if path := host(m.OffPath); path != "" {
			p.tables[offendersTable] = path
		}
	case "error":
		p.classes = append(m.Bases, m.Class)
		if name := a.undeclared(m.NotFound); name != "" {
			m.Reason, m.Message = "runner.undeclared_file", fmt.Sprintf(undeclaredText, a.work.node.Name, name, path.Join(path.Dir(name), "*"+path.Ext(name)))
		}
		err := userError(m)
		if a.level != string(runtime.Process) && !a.work.node.Options.Network && noNetwork().MatchString(m.Message+m.Traceback) {
			err = err.WithNext(a.work.node.Name + " has no network; network=True beside fresh= or cache= gives it one")
		}
		p.err = err
	}
}

// noNetwork is how programs say that there is none.
var noNetwork = pattern.Of(`(?i)network is unreachable|name resolution|name or service not known|could ?n.t resolve|cannot assign requested address`)

const undeclaredText = "%s read %s, which is not in its key. Write its name as a literal, or declare tarn.local(%q)."

// undeclared is the first of some files that could not be found in a sandbox, but is in the project's folder.
func (a *attempt) undeclared(names []string) string {
	dirs := []string{a.code.dir}
	if real, err := filepath.EvalSymlinks(a.code.dir); err == nil {
		dirs = append(dirs, real)
	}
	for _, name := range names {
		for _, dir := range dirs {
			rel := name
			if filepath.IsAbs(name) {
				rel, _ = filepath.Rel(dir, name)
			}
			if rel = path.Clean(filepath.ToSlash(rel)); a.code.snap.Holds(rel) {
				return rel
			}
		}
	}
	return ""
}

func userError(m message) *errdef.Error {
	e := ErrUserCode
	if m.Reason != "" {
		e = errdef.New(errdef.UserCode, m.Reason, m.Message)
	}
	text := m.Message
	if m.Reason == "" {
		text = m.Class + ": " + m.Message
	}
	err := e.Errorf("%s", text).WithDetail("class", m.Class)
	if m.Traceback != "" {
		err = err.WithDetail("traceback", m.Traceback)
	}
	return err
}
