package flow

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/base/fault"
	"tarn.dev/tarn/internal/base/ids"
	"tarn.dev/tarn/internal/catalog"
	"tarn.dev/tarn/internal/flow/manifest"
	"tarn.dev/tarn/internal/flow/project"
	"tarn.dev/tarn/internal/lake"
)

// ErrProtected refuses a direct write to a protected branch.
var ErrProtected = errdef.New(errdef.PermissionDenied, "branch.protected", "the branch is protected")

// Publication is one change on its way to a branch. Every writer (a run, an import, a query, a merge,
// a client) makes one, so that every writer passes the same checks.
type Publication struct {
	Branch string
	Info   lake.CommitInfo
	// Merge allows a protected branch: merging is how those change.
	Merge bool
	// Assets allows a change of what assets make: for runs, merges, reverts and removals of assets.
	Assets bool
	// Dir is the caller's project folder, whose tarn.toml goes along; "" for none.
	Dir string
	// DryRun does everything except for the commit, the checks included.
	DryRun bool
	// Change edits the head's tree. It may be called several times, on newer heads.
	Change func(ctx context.Context, tx *lake.Tx) error
}

// Published is what became of a publication.
type Published struct {
	Before  lake.Hash // the head that it found
	Commit  lake.Commit
	Changed bool
	// Again tells that the request was answered before: nothing was done now, and no check was asked.
	Again  bool
	Checks []CheckResult
}

// answered is what became of an earlier publication with the same request id.
func (f *Flow) answered(ctx context.Context, branch, request string) (Published, bool, error) {
	a, ok, err := f.lake.Answered(ctx, branch, request)
	return Published{Before: a.Before, Commit: a.Commit, Changed: a.Before != a.Commit.ID, Again: ok}, ok, err
}

// Changes is what a publication changed.
func (f *Flow) Changes(ctx context.Context, p Published) ([]lake.Change, error) {
	before, err := f.lake.Commit(ctx, p.Before)
	if err != nil {
		return nil, err
	}
	var out []lake.Change
	for c, err := range f.lake.Tree(before.Tree).Diff(ctx, f.lake.Tree(p.Commit.Tree), "") {
		if err != nil {
			return nil, err
		}
		out = append(out, c)
	}
	return out, nil
}

// maxMisses is how often checks run outside the branch's queue before they run inside it, where the
// head cannot move.
const maxMisses = 2

// errMissing leaves the queue to find answers outside.
var errMissing = errors.New("checks have no answer yet")

// Publish makes a change visible as one commit, if every blocking check of the merged tree has passed on
// exactly what becomes visible; or not at all.
func (f *Flow) Publish(ctx context.Context, p Publication) (Published, error) {
	if f.isRunBranch(p.Branch) && p.Info.Run == "" {
		return Published{}, ErrProtected.Errorf("%s belongs to a run. Write to another branch: tarn switch -c dev", p.Branch)
	}
	if !p.DryRun {
		if pub, ok, err := f.answered(ctx, p.Branch, p.Info.RequestID); ok || err != nil {
			return pub, err
		}
	}
	var rules *Rules
	if p.Dir != "" {
		c, err := project.LoadConfig(p.Dir)
		if err != nil {
			return Published{}, err
		}
		r := rulesOf(c)
		rules = &r
	}
	run := p.Info.Run
	if run == "" {
		run = ids.Run(0)
	}
	for miss := 0; ; miss++ {
		g := &gate{f: f, p: p, rules: rules, run: run, inside: miss >= maxMisses}
		var head lake.Hash
		attempt := func(ctx context.Context, tx *lake.Tx) error {
			head = tx.Head.ID
			return g.attempt(ctx, tx)
		}
		var commit lake.Commit
		var err error
		if p.DryRun {
			commit, err = f.lake.Rehearse(ctx, p.Branch, attempt)
		} else {
			commit, err = f.lake.Update(ctx, p.Branch, p.Info, attempt)
		}
		switch {
		case err == nil && head.IsZero(): // the same request was the one before in the queue
			pub, _, err := f.answered(ctx, p.Branch, p.Info.RequestID)
			return pub, err
		case err == nil:
			changed := commit.ID != head
			g.keepWarned(ctx, changed && !p.DryRun)
			return Published{Before: head, Commit: commit, Changed: changed, Checks: g.results()}, nil
		case errors.Is(err, errMissing):
			for _, q := range g.missing {
				if _, err := f.find(ctx, run, q); err != nil {
					return Published{}, err
				}
			}
		case errors.Is(err, ErrCheckFailed):
			return Published{Checks: g.results()}, errors.Join(err, f.keepOffenders(ctx, run, p.Branch, g.judged))
		default:
			return Published{}, err
		}
	}
}

func (f *Flow) isRunBranch(name string) bool { return strings.HasPrefix(name, runBranch) }

const runBranch = "run/"

// gate is one pass of a publication through the queue.
type gate struct {
	f       *Flow
	p       Publication
	rules   *Rules
	run     string
	inside  bool
	judged  []judgement
	missing []*question
}

func (g *gate) results() []CheckResult { return resultsOf(g.judged) }

func resultsOf(js []judgement) []CheckResult {
	out := make([]CheckResult, len(js))
	for i, j := range js {
		out[i] = j.result()
	}
	return out
}

func (g *gate) attempt(ctx context.Context, tx *lake.Tx) error {
	f := g.f
	g.judged, g.missing = nil, nil
	before := f.lake.Tree(tx.Head.Tree)
	if err := g.refuse(ctx, before); err != nil {
		return err
	}
	if err := g.p.Change(ctx, tx); err != nil {
		return err
	}
	if err := g.putRules(ctx, tx); err != nil { // on top, because a merge brings rules of its own
		return err
	}
	after, err := tx.Tree(ctx)
	if err != nil {
		return err
	}
	if before.Root() == after.Root() {
		return nil
	}
	differs, err := g.changes(ctx, before, after)
	if err != nil {
		return err
	}
	rules, err := f.rulesAt(ctx, after)
	if err != nil {
		return err
	}
	isNew, err := f.newRules(ctx, before)
	if err != nil {
		return err
	}
	for _, r := range rules { // new rules and changed functions judge tables that did not change, too
		if isNew(r) || r.function != nil && differs[lake.DefKey(r.text)] {
			differs[tableKey(r.table)] = true
		}
	}
	w := f.worldAt(tx.Head)
	w.tree = after
	g.judged, g.missing, err = f.judge(ctx, g.run, w, rules, func(key string) bool { return differs[key] }, g.inside)
	if err != nil {
		return err
	}
	if len(g.missing) > 0 {
		// The questions outlive this attempt and its batch: they hold values, and no tree node.
		return errMissing
	}
	if !g.p.DryRun {
		nameKept(g.judged)
	}
	if failed := blocking(g.judged); len(failed) > 0 {
		return checkFailure(g.p.Branch, g.run, failed)
	}
	return fault.Point("publish.before_commit")
}

// refuse stops a direct write to a protected branch.
func (g *gate) refuse(ctx context.Context, head lake.Tree) error {
	if g.p.Merge {
		return nil
	}
	protected := []string(nil)
	if g.rules != nil {
		protected = g.rules.Protected
	} else if e, err := entryAt(ctx, head, lake.DefKey(rulesName)); err != nil {
		return err
	} else if e != nil {
		var r Rules
		if err := g.f.readDef(ctx, *e, &r); err != nil {
			return err
		}
		protected = r.Protected
	}
	if slices.Contains(protected, g.p.Branch) {
		return ErrProtected.Errorf("%s is protected: it changes by merges only.", g.p.Branch).
			WithNext("tarn switch -c dev", fmt.Sprintf("tarn merge dev --into %s", g.p.Branch))
	}
	return nil
}

// changes are the keys that differ, other than those of files, which no rule reads and which may be many. A client's
// change of what an asset makes is refused.
func (g *gate) changes(ctx context.Context, before, after lake.Tree) (map[string]bool, error) {
	refuse := func(string) error { return nil }
	if !g.p.Assets {
		o, err := g.f.owners(ctx, before)
		if err != nil {
			return nil, err
		}
		refuse = func(key string) error { return o.refuse(key, g.p.Branch) }
	}
	differs := map[string]bool{}
	for c, err := range before.Diff(ctx, after, "") {
		if err == nil {
			err = refuse(c.Key)
		}
		if err != nil {
			return nil, err
		}
		if !strings.HasPrefix(c.Key, lake.FilePrefix) {
			differs[c.Key] = true
		}
	}
	return differs, nil
}

func (g *gate) putRules(ctx context.Context, tx *lake.Tx) error {
	if g.rules == nil {
		return nil
	}
	t, err := tx.Tree(ctx)
	if err != nil {
		return err
	}
	have, err := entryAt(ctx, t, lake.DefKey(rulesName))
	if err != nil {
		return err
	}
	if have == nil && len(g.rules.Protected) == 0 && len(g.rules.Tables) == 0 {
		return nil
	}
	version, err := jsonHash(g.rules)
	if err != nil {
		return err
	}
	e, err := g.f.defEntry(ctx, tx.Batch(), have, version, g.rules)
	if err == nil && e != nil {
		tx.Put(lake.DefKey(rulesName), *e)
	}
	return err
}

// keepOffenders puts the offending rows of failed checks on the run's branch, which begins at from.
func (f *Flow) keepOffenders(ctx context.Context, run, from string, js []judgement) error {
	if !slices.ContainsFunc(js, func(j judgement) bool { return j.kept != "" }) {
		return nil
	}
	return f.onRunBranch(ctx, run, from, "Offending rows of failed checks", func(ctx context.Context, tx *lake.Tx) error {
		return f.putOffenders(ctx, tx, js)
	})
}

// keepWarned keeps the offenders of checks that only warn. What is published stays so when that fails: then
// the results name no table, as they do when nothing was published.
func (g *gate) keepWarned(ctx context.Context, published bool) {
	if published {
		err := g.f.keepOffenders(ctx, g.run, g.p.Branch, g.judged)
		if err == nil {
			return
		}
		g.f.Log.Warn("keep offending rows", "run", g.run, "err", err)
	}
	for i := range g.judged {
		g.judged[i].kept = ""
	}
}

func (f *Flow) putOffenders(ctx context.Context, tx *lake.Tx, js []judgement) error {
	ctx, done := context.WithCancel(ctx) // also of a run that has failed
	defer done()
	for _, j := range js {
		if j.kept == "" {
			continue
		}
		paths, err := f.paths(ctx, []string{j.fragment.Table(offendersTable).Blob})
		if err != nil {
			return err
		}
		e, err := f.writeRows(ctx, j.kept, nil, paths)
		if err != nil {
			return fmt.Errorf("keep the offending rows of %s: %w", j.text, err)
		}
		e.Location.Provenance = j.fragment.Provenance
		tx.Put(tableKey(j.kept), e)
	}
	return nil
}

// onRunBranch changes run/<id>, which begins at the head of from.
func (f *Flow) onRunBranch(ctx context.Context, run, from, message string, change func(ctx context.Context, tx *lake.Tx) error) error {
	branch := runBranch + run
	if _, err := f.lake.Branch(ctx, branch); errdef.CodeOf(err) == errdef.NotFound {
		head, err := f.lake.Resolve(ctx, from)
		if err != nil {
			return err
		}
		if _, err := f.lake.CreateBranch(ctx, branch, head.ID, ""); err != nil && errdef.CodeOf(err) != errdef.AlreadyExists {
			return err
		}
	} else if err != nil {
		return err
	}
	_, err := f.lake.Update(ctx, branch, lake.CommitInfo{Message: message, Run: run}, change)
	return err
}

// message names what the run changed; the commit has the run's id anyway.
func (r *Run) message() string {
	var names []string
	for _, o := range r.Outputs {
		if o.Changed {
			names = append(names, o.Name)
		}
	}
	if len(names) == 0 {
		return "Run the definitions anew"
	}
	return "Run " + manifest.List(names)
}

// publish makes the run's result visible on its target.
func (lv *live) publish(ctx context.Context, p *plan, results map[string]*assembled) error {
	f, run := lv.f, lv.run
	entries, defs := lv.collect(p, results)
	if run.Into == "" {
		return lv.keepResult(ctx, p, entries, defs)
	}
	if err := lv.move(ctx, RunPublishing); err != nil {
		return err
	}
	if err := fault.Point("run.publish.before"); err != nil {
		return err
	}
	base := p.world.tree
	pub, err := f.Publish(ctx, Publication{
		Branch: run.Into, Dir: p.code.dir, Assets: true,
		Info: lake.CommitInfo{Author: run.Author, Message: run.message(), Run: run.ID},
		Change: func(ctx context.Context, tx *lake.Tx) error {
			if err := f.untouched(ctx, tx, base, entries); err != nil {
				return err
			}
			return f.putAll(ctx, tx, p, entries, defs)
		},
	})
	lv.mu.Lock()
	run.Checks = pub.Checks
	if err == nil && pub.Changed {
		run.Commit = pub.Commit.ID
	}
	lv.mu.Unlock()
	lv.emitChecks(pub.Checks)
	var again *replanError
	if err != nil && !errors.As(err, &again) {
		return errors.Join(err, lv.keepPartial(context.WithoutCancel(ctx), p, results))
	}
	if err != nil {
		return err
	}
	return fault.Point("run.publish.after")
}

func (lv *live) emitChecks(checks []CheckResult) {
	for _, c := range checks {
		state := "passed"
		if !c.Passed {
			state = c.Severity
		}
		lv.emit(Event{Type: "check", Step: c.Table, State: state, Message: c.Check})
	}
}

// collect gathers what the run wrote, and the definitions of what it ran.
func (lv *live) collect(p *plan, results map[string]*assembled) (map[string]*lake.Entry, []Definition) {
	entries := map[string]*lake.Entry{}
	for _, r := range results {
		for key, e := range r.entries {
			entries[key] = e
		}
	}
	var defs []Definition
	for _, n := range p.nodes {
		d := Definition{Function: *n.Function}
		if e, ok := p.envs[n.Name]; ok {
			d.Lock, d.Packages = &e.lock, e.asked
		}
		defs = append(defs, d)
	}
	return entries, defs
}

// untouched asks for a re-plan when somebody changed what the run wrote.
func (f *Flow) untouched(ctx context.Context, tx *lake.Tx, base lake.Tree, entries map[string]*lake.Entry) error {
	head := f.lake.Tree(tx.Head.Tree)
	if head.Root() == base.Root() {
		return nil
	}
	for key, e := range entries {
		was, err := entryAt(ctx, base, key)
		if err != nil {
			return err
		}
		is, err := entryAt(ctx, head, key)
		if err != nil {
			return err
		}
		if !is.SameIdentity(was) && !is.SameIdentity(e) {
			return &replanError{head: tx.Head, why: fmt.Sprintf("%s changed on the branch while the run was under way", lake.DisplayKey(key))}
		}
	}
	return nil
}

// putAll edits the tree with a run's entries and definitions.
func (f *Flow) putAll(ctx context.Context, tx *lake.Tx, p *plan, entries map[string]*lake.Entry, defs []Definition) error {
	for key, e := range entries {
		if e == nil {
			tx.Delete(key)
		} else {
			tx.Put(key, *e)
		}
	}
	head := f.lake.Tree(tx.Head.Tree)
	for _, d := range defs {
		key := lake.DefKey(d.Function.Name)
		have, err := entryAt(ctx, head, key)
		if err != nil {
			return err
		}
		version, err := d.version()
		if err != nil {
			return err
		}
		if have != nil && have.Version == version {
			continue
		}
		if d.Snapshot, err = p.code.record(ctx); err != nil {
			return err
		}
		e, err := f.defEntry(ctx, tx.Batch(), have, version, d)
		if err != nil {
			return err
		}
		tx.Put(key, *e)
	}
	return nil
}

// keepResult puts the result of a run that publishes nothing on run/<id>, with the answers of its checks.
func (lv *live) keepResult(ctx context.Context, p *plan, entries map[string]*lake.Entry, defs []Definition) error {
	f, run := lv.f, lv.run
	var judged []judgement
	err := f.onRunBranch(ctx, run.ID, run.Base.String(), "Result of run "+run.ID, func(ctx context.Context, tx *lake.Tx) error {
		if err := f.putAll(ctx, tx, p, entries, defs); err != nil {
			return err
		}
		after, err := tx.Tree(ctx)
		if err != nil {
			return err
		}
		rules, err := f.rulesAt(ctx, after)
		if err != nil {
			return err
		}
		w := f.worldAt(tx.Head)
		w.tree = after
		judged, _, err = f.judge(ctx, run.ID, w, rules, func(key string) bool { _, wrote := entries[key]; return wrote }, true)
		if err != nil {
			return err
		}
		nameKept(judged)
		return f.putOffenders(ctx, tx, judged)
	})
	lv.mu.Lock()
	run.Checks = resultsOf(judged)
	lv.mu.Unlock()
	return err
}

// keepPartial puts what a failed run made on run/<id>, for a look at it.
func (lv *live) keepPartial(ctx context.Context, p *plan, results map[string]*assembled) error {
	entries, _ := lv.collect(p, results)
	if len(entries) == 0 {
		return nil
	}
	err := lv.f.onRunBranch(ctx, lv.run.ID, lv.run.Base.String(), "What run "+lv.run.ID+" made before it failed", func(ctx context.Context, tx *lake.Tx) error {
		return lv.f.putAll(ctx, tx, p, entries, nil)
	})
	if err != nil {
		return fmt.Errorf("keep what the run made: %w", err)
	}
	return nil
}

// writeRows writes Arrow files as a table without an asset.
func (f *Flow) writeRows(ctx context.Context, name string, prev *lake.Entry, paths []string) (lake.Entry, error) {
	return f.withTableDir(ctx, name, prev, false, paths, func(w catalog.Written) (lake.Entry, error) {
		return f.tables.Replace(ctx, name, prev, w)
	})
}
