package flow

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/zeebo/blake3"

	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/base/pattern"
	"tarn.dev/tarn/internal/flow/check"
	"tarn.dev/tarn/internal/flow/graph"
	"tarn.dev/tarn/internal/flow/manifest"
	"tarn.dev/tarn/internal/flow/memo"
	"tarn.dev/tarn/internal/lake"
	"tarn.dev/tarn/internal/query"
)

// ErrCheckFailed stops a publish: a blocking check did not pass on what would have become visible.
var ErrCheckFailed = errdef.New(errdef.UserCode, "check.failed", "a check failed")

// offenderNamespace is the namespace of the tables that keep offending rows, on run branches only.
const offenderNamespace = "checks"

// checkDeclared reads every check that a function declares, before anything runs.
func (f *Flow) checkDeclared(n *graph.Node) error {
	if what := unbuilt(n.Function); what != "" {
		return errOption.Errorf("%s:%d: %s is not there yet, and %s would not do what it says without it", n.File, n.Line, what, n.Name)
	}
	for _, text := range slices.Concat(n.Checks, n.Warn) {
		if len(n.Outputs) == 0 {
			return check.ErrSyntax.Errorf("%s:%d: %s makes files and no table, so the check %q has nothing to judge", n.File, n.Line, n.Name, text)
		}
		if _, err := check.Parse(n.Outputs[0], text); err != nil {
			return fmt.Errorf("%s:%d: %w", n.File, n.Line, err)
		}
	}
	return nil
}

var errOption = errdef.New(errdef.NotImplemented, "run.option", "an option is not there yet")

// unbuilt names an option that a function declares and nothing here honours, "" for none: running without it
// would be wrong in silence.
func unbuilt(fn *manifest.Function) string {
	declared := func(raw []byte) bool { return len(raw) > 0 && string(raw) != "null" }
	switch o := fn.Options; {
	case declared(fn.Partitions):
		return "partitions="
	case declared(fn.Items):
		return "tarn.cross, join or union of items"
	case o.Isolation == "serializable":
		return `isolation="serializable"`
	case o.Resources != nil && o.Resources.GPU != "":
		return "gpu="
	}
	for _, in := range fn.Inputs {
		switch {
		case in.Batch > 0:
			return "batch="
		case in.Kind == manifest.InPartition:
			return "tarn.Partition"
		case in.Kind == manifest.InTable && (in.Each != "" || in.Rows != ""):
			return "each= and rows= of a table"
		}
	}
	return ""
}

// rule is one check that holds on a tree.
type rule struct {
	table    string
	severity manifest.Severity
	text     string
	declared *check.Check // a SQL condition, or:
	function *Definition  // a check function
}

// id names a rule on a tree: a stricter severity is another rule.
func (r rule) id() string { return r.table + "\x00" + string(r.severity) + "\x00" + r.text }

// reads are the tables a rule judges by.
func (r rule) reads() []string {
	names := []string{r.table}
	if r.declared != nil {
		return append(names, r.declared.Reads...)
	}
	for _, in := range r.function.Function.Tables() {
		names = append(names, in.Table)
	}
	return names
}

// announced are the checks that definitions and rules declare, not yet read.
func announced(defs []Definition, rules Rules) []rule {
	var out []rule
	add := func(table string, sev manifest.Severity, texts []string) {
		for _, text := range texts {
			out = append(out, rule{table: table, severity: sev, text: text})
		}
	}
	for i := range defs {
		fn := &defs[i].Function
		switch {
		case fn.Kind == manifest.Check:
			out = append(out, rule{table: judged(defs, fn), severity: fn.Severity, text: fn.Name, function: &defs[i]})
		case len(fn.Outputs) > 0:
			add(fn.Outputs[0], manifest.Fail, fn.Checks)
			add(fn.Outputs[0], manifest.Warn, fn.Warn)
		}
	}
	for table, r := range rules.Tables {
		add(table, manifest.Fail, r.Checks)
		add(table, manifest.Warn, r.Warn)
	}
	slices.SortStableFunc(out, func(a, b rule) int { return strings.Compare(a.table+"\x00"+a.text, b.table+"\x00"+b.text) })
	return out
}

// parseRules reads the conditions of rules.
func (f *Flow) parseRules(ctx context.Context, rules []rule) error {
	for i := range rules {
		r := &rules[i]
		if r.function != nil {
			continue
		}
		c, err := check.Parse(r.table, r.text)
		if err == nil {
			err = f.addReads(ctx, r.table, &c)
		}
		if err != nil {
			return err
		}
		r.declared = &c
	}
	return nil
}

// rulesAt are the checks that a tree declares.
func (f *Flow) rulesAt(ctx context.Context, t lake.Tree) ([]rule, error) {
	defs, declared, err := f.definitions(ctx, t)
	if err != nil {
		return nil, err
	}
	rules := announced(defs, declared)
	return rules, f.parseRules(ctx, rules)
}

// newRules tells the rules that a tree does not have.
func (f *Flow) newRules(ctx context.Context, t lake.Tree) (func(rule) bool, error) {
	defs, declared, err := f.definitions(ctx, t)
	known := map[string]bool{}
	for _, r := range announced(defs, declared) {
		known[r.id()] = true
	}
	return func(r rule) bool { return !known[r.id()] }, err
}

// subquery finds conditions that may read a table of their own. Most do not, and need no look by the engine.
var subquery = pattern.Of(`(?i)\b(from|table)\b`)

// addReads adds the tables that subqueries of a condition read: what the check says depends on them, too.
func (f *Flow) addReads(ctx context.Context, table string, c *check.Check) error {
	if !subquery().MatchString(c.Text) {
		return nil
	}
	an, err := f.Engine.Analyze(ctx, "", c.Offender)
	if errdef.CodeOf(err) == errdef.InvalidArgument {
		return nil // who asks the check says what is wrong with it
	}
	if err != nil {
		return fmt.Errorf("check %s of %s: %w", c.Text, table, err)
	}
	for _, t := range an.Tables {
		if name := t.Name.String(); tableKey(name) != tableKey(table) && !slices.Contains(c.Reads, name) {
			c.Reads = append(c.Reads, name)
		}
	}
	return nil
}

// judged is the table that a check function is of.
func judged(defs []Definition, fn *manifest.Function) string {
	for i := range defs {
		if table, ok := fn.Judges(&defs[i].Function); ok {
			return table
		}
	}
	return fn.CheckOf
}

// question is a rule with the values it is asked of, and the key under which its answer is kept.
type question struct {
	rule
	world  *world
	values map[string]*value
	key    memo.Key
	comps  memo.Components // of a declared check
	work   *work           // of a check function
	code   *code
}

// questions lists what must be known before tree may become visible: the rules that judge by a table
// which differs from before.
func (f *Flow) questions(ctx context.Context, w *world, rules []rule, differs func(key string) bool) ([]*question, error) {
	var out []*question
	for _, r := range rules {
		if !slices.ContainsFunc(r.reads(), func(n string) bool { return differs(tableKey(n)) }) {
			continue
		}
		q, err := f.ask(ctx, w, r)
		if err != nil {
			return nil, fmt.Errorf("check %s of %s: %w", r.text, r.table, err)
		}
		if q != nil {
			out = append(out, q)
		}
	}
	return out, nil
}

// ask makes a rule concrete on w; nil when its table is not there.
func (f *Flow) ask(ctx context.Context, w *world, r rule) (*question, error) {
	q := &question{rule: r, world: w, values: map[string]*value{}}
	for _, name := range r.reads() {
		v, err := w.table(ctx, name, "")
		if err != nil {
			return nil, err
		}
		if v == nil && name == r.table {
			return nil, nil
		}
		if v == nil {
			return nil, graph.ErrUnknownInput.Errorf("it reads %s, which is not there", name)
		}
		q.values[name] = v
	}
	if r.function != nil {
		return q, f.askFunction(ctx, w, q)
	}
	hash := blake3.Sum256([]byte(r.declared.Offender))
	comps := memo.Components{Language: "check", Semantics: engineSemantics, Code: []memo.CodePart{{Name: "check", Hash: fmt.Sprintf("%x", hash)}}}
	if r.declared.Volatile {
		comps.Params = []memo.NameValue{{Name: "\x00minute", Value: strconv.FormatInt(now().Unix()/60, 10)}}
	}
	for _, name := range r.reads() {
		comps.Inputs = append(comps.Inputs, memo.InputID{Param: name, Kind: string(manifest.InTable), Identity: q.values[name].identity()})
	}
	q.key, q.comps = comps.Key(), comps
	return q, nil
}

// askFunction prepares a check function with the code that was recorded with it.
func (f *Flow) askFunction(ctx context.Context, w *world, q *question) error {
	c, err := f.loadRecorded(ctx, q.function.Snapshot)
	if err != nil {
		return err
	}
	q.code = c
	env := environment{asked: q.function.Packages}
	if q.function.Lock != nil {
		env.lock = *q.function.Lock
		env.lock.Folder = c
	}
	n := &graph.Node{Function: &q.function.Function}
	q.work, err = f.prepare(ctx, w, c, n, env, demand{})
	if err != nil {
		return err
	}
	q.key = q.work.items[0].key
	return nil
}

// answer returns the kept answer of a question, nil when there is none yet.
func (f *Flow) answer(ctx context.Context, q *question) (*memo.Fragment, error) {
	return f.memo.Lookup(ctx, q.key)
}

// find works a question out and keeps the answer.
func (f *Flow) find(ctx context.Context, run string, q *question) (*memo.Fragment, error) {
	for {
		mine, err := f.flights.take(ctx, q.key)
		if err != nil {
			return nil, err
		}
		if mine {
			break
		}
		if frag, err := f.answer(ctx, q); err != nil || frag != nil {
			return frag, err
		}
	}
	defer f.flights.done(q.key)
	if frag, err := f.answer(ctx, q); err != nil || frag != nil {
		return frag, err
	}
	if q.function != nil {
		a := &attempt{f: f, code: q.code, work: q.work, run: run, n: 1, level: string(f.Runtime.Level()), emit: func(Event) {}, ended: func() {}}
		o := a.invoke(ctx, []*invocation{&q.work.items[0]})[0]
		return o.fragment, o.err
	}
	return f.findDeclared(ctx, run, q)
}

// findDeclared counts offenders first; their rows are made only when there are any.
func (f *Flow) findDeclared(ctx context.Context, run string, q *question) (*memo.Fragment, error) {
	frag := &memo.Fragment{Key: q.key, Check: &memo.Verdict{Passed: true}, Created: now()}
	began := time.Now()
	n, err := f.countOffenders(ctx, q)
	if err != nil {
		return nil, checkError(q, err)
	}
	if n > 0 {
		frag.Check = &memo.Verdict{Offenders: n}
		path, done, err := f.offenderRows(ctx, q)
		if err != nil {
			return nil, checkError(q, err)
		}
		defer done()
		t, err := f.keepTable(ctx, q.key, offendersTable, path)
		if err != nil {
			return nil, err
		}
		frag.Tables = []memo.Table{t}
	}
	frag.Usage.WallSeconds = time.Since(began).Seconds()
	if frag.Provenance, err = f.recordCheck(ctx, run, q); err != nil {
		return nil, err
	}
	kept, _, err := f.memo.Remember(ctx, frag)
	return kept, err
}

// judgedSource is a table as a check read it. What is judged is not published yet, and may never be: its own
// record may not be there.
func (f *Flow) judgedSource(ctx context.Context, v *value, param string) (memo.Source, error) {
	in := v.source(param)
	there, err := f.lake.Has(ctx, lake.TypeRecord, in.Provenance)
	if err == nil && !there {
		in.Provenance = lake.Hash{}
	}
	return in, err
}

// recordCheck says how an answer came about.
func (f *Flow) recordCheck(ctx context.Context, run string, q *question) (lake.Hash, error) {
	b := f.lake.Begin(ctx)
	defer b.Discard()
	p := memo.Provenance{Kind: memo.ByCheck, Run: run, Time: now(), Key: q.key, Components: &q.comps, Statement: q.text}
	for _, name := range q.reads() {
		in, err := f.judgedSource(ctx, q.values[name], name)
		if err != nil {
			return lake.Hash{}, err
		}
		p.Inputs = append(p.Inputs, in)
	}
	h, err := memo.PutProvenance(ctx, b, p)
	if err == nil {
		err = b.Flush(ctx)
	}
	if err != nil {
		return lake.Hash{}, fmt.Errorf("record check %s of %s: %w", q.text, q.table, err)
	}
	return h, nil
}

// checkError says which check the engine could not run; a typo in a condition is the user's.
func checkError(q *question, err error) error {
	if errdef.CodeOf(err) != errdef.InvalidArgument {
		return fmt.Errorf("check %s of %s: %w", q.text, q.table, err)
	}
	return check.ErrSyntax.Errorf("check %s of %s: %w", q.text, q.table, err)
}

func (f *Flow) checkPlan(ctx context.Context, q *question, sql string) (query.Plan, error) {
	return f.Engine.Plan(ctx, query.Request{SQL: sql}, query.ResolverFunc(func(ctx context.Context, ref query.Reference) (query.Source, error) {
		for _, v := range q.values {
			if v.key == keyOf(ref.Name) {
				return f.source(ctx, ref.Name, v)
			}
		}
		v, err := q.world.table(ctx, ref.Name.String(), "") // a condition may have a subquery
		if err == nil && v == nil {
			err = graph.ErrUnknownInput.Errorf("it reads %s, which is not there", ref.Name)
		}
		if err != nil {
			return query.Source{}, err
		}
		return f.source(ctx, ref.Name, v)
	}))
}

func (f *Flow) countOffenders(ctx context.Context, q *question) (int64, error) {
	plan, err := f.checkPlan(ctx, q, q.declared.Count)
	if err != nil {
		return 0, err
	}
	return f.count(ctx, plan.Job)
}

func (f *Flow) offenderRows(ctx context.Context, q *question) (string, func(), error) {
	plan, err := f.checkPlan(ctx, q, q.declared.Offender)
	if err != nil {
		return "", nil, err
	}
	return f.runToArrow(ctx, plan.Job)
}

// judge asks every rule that a change of tables touches and returns the answers; missing are the
// questions that have none yet. With work it finds them out instead.
func (f *Flow) judge(ctx context.Context, run string, w *world, rules []rule, differs func(string) bool, work bool) (results []judgement, missing []*question, err error) {
	qs, err := f.questions(ctx, w, rules, differs)
	if err != nil {
		return nil, nil, err
	}
	for _, q := range qs {
		frag, err := f.answer(ctx, q)
		if err == nil && frag == nil && work {
			frag, err = f.find(ctx, run, q)
		}
		if err != nil {
			return nil, nil, err
		}
		if frag == nil {
			missing = append(missing, q)
			continue
		}
		results = append(results, judgement{question: q, fragment: frag})
	}
	return results, missing, nil
}

// judgement is a question with its answer.
type judgement struct {
	*question
	fragment *memo.Fragment
	kept     string // table of the run's branch that keeps the offenders, "" if none does
}

// nameKept gives each judgement with offenders the table that is going to keep them.
func nameKept(js []judgement) {
	taken := map[string]bool{}
	for i := range js {
		j := &js[i]
		if j.fragment.Check.Passed || j.fragment.Table(offendersTable) == nil {
			continue
		}
		first := offenderNamespace + "." + check.NameOf(j.text)
		j.kept = first
		for n := 2; taken[j.kept]; n++ { // one condition on two tables, say
			j.kept = fmt.Sprintf("%s_%d", first, n)
		}
		taken[j.kept] = true
	}
}

func (j judgement) result() CheckResult {
	v := j.fragment.Check
	return CheckResult{
		Table: j.table, Check: j.text, Severity: string(j.severity), Passed: v.Passed, Message: v.Message,
		Offenders: v.Offenders, Rows: j.values[j.table].rows, Kept: j.kept,
	}
}

// byTable is the order in which judgements are shown.
func byTable(a, b judgement) int {
	return strings.Compare(a.table+"\x00"+a.text, b.table+"\x00"+b.text)
}

// blocking are the judgements that stop a publish.
func blocking(js []judgement) []judgement {
	var out []judgement
	for _, j := range js {
		if !j.fragment.Check.Passed && j.severity == manifest.Fail {
			out = append(out, j)
		}
	}
	return out
}

// checkFailure is the error of a stopped publish.
func checkFailure(branch, run string, failed []judgement) error {
	var lines []string
	for _, j := range failed {
		r := j.result()
		line := fmt.Sprintf("%s failed on %s", r.Check, r.Table)
		switch {
		case r.Offenders > 0:
			line += fmt.Sprintf(": %s of %s rows.", humanize.Comma(r.Offenders), humanize.Comma(r.Rows))
		case r.Message != "":
			line += ": " + strings.TrimSuffix(r.Message, ".") + "."
		default:
			line += "."
		}
		lines = append(lines, line)
	}
	err := ErrCheckFailed.Errorf("%s %s is unchanged.", strings.Join(lines, "\n"), branch)
	for _, j := range failed {
		if r := j.result(); r.Kept != "" {
			err = err.WithNext(fmt.Sprintf("tarn query --ref run/%s \"from %s\"", run, r.Kept))
		}
	}
	return err
}
