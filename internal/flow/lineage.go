package flow

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/base/ids"
	"tarn.dev/tarn/internal/flow/manifest"
	"tarn.dev/tarn/internal/flow/memo"
	"tarn.dev/tarn/internal/lake"
)

// ErrNoTarget is a word that names nothing.
var ErrNoTarget = errdef.New(errdef.NotFound, "show.not_found", "nothing of that name")

// ProvenanceNode is one thing, how it was made, and from what.
type ProvenanceNode struct {
	Name        string
	Kind        string // step, import, write or unknown
	Version     string
	Commit      string // it was read at
	Run         string
	Author      string
	Time        time.Time
	Function    string
	File        string
	Key         string
	Code        []string
	Environment string
	Params      map[string]string
	Inputs      []string // names of nodes
	Sources     []string
	Statement   string
	Reported    []memo.Reported
}

// target is an entry that a word names.
type target struct {
	key   string
	entry *lake.Entry
}

// lookFor looks a table, an asset or a file up on a ref; NAME@REF overrides it.
func (f *Flow) lookFor(ctx context.Context, ref, word string) (target, lake.Tree, error) {
	name, at, ok := strings.Cut(word, "@")
	if ok {
		ref = at
	}
	commit, err := f.lake.Resolve(ctx, ref)
	if err != nil {
		return target{}, lake.Tree{}, err
	}
	tree := f.lake.Tree(commit.Tree)
	for _, key := range []string{tableKey(name), lake.FileKey(name)} {
		if _, err := lake.ParseKey(key); err != nil {
			continue
		}
		e, err := entryAt(ctx, tree, key)
		if err != nil {
			return target{}, tree, err
		}
		if e != nil {
			return target{key: key, entry: e}, tree, nil
		}
	}
	names, err := tableNames(ctx, tree)
	if err != nil {
		return target{}, tree, err
	}
	near := slices.Clone(names)
	for ke, err := range tree.Scan(ctx, "", "") {
		if err != nil || len(near) > maxSuggested {
			break // a suggestion is a courtesy
		}
		near = append(near, lake.DisplayKey(ke.Key))
	}
	return target{}, tree, ErrNoTarget.Errorf("no table, asset or file '%s' on %s. %sTables on %s: %s.", name, ref, manifest.DidYouMean(name, near), ref, manifest.List(names))
}

// maxSuggested bounds how many names are looked at for one that was perhaps meant.
const maxSuggested = 2000

// Provenance tells what a table or file was made from, back to the imports; forward, which entries of the
// ref were made from it.
func (f *Flow) Provenance(ctx context.Context, ref, word string, forward bool) ([]ProvenanceNode, error) {
	t, tree, err := f.lookFor(ctx, ref, word)
	if err != nil {
		return nil, err
	}
	if forward {
		return f.forward(ctx, tree, t)
	}
	w := &ancestry{f: f, seen: map[string]bool{}}
	err = w.visit(ctx, t.key, t.entry.Version, "", t.entry.Location.Provenance)
	return w.nodes, err
}

type ancestry struct {
	f     *Flow
	seen  map[string]bool
	nodes []ProvenanceNode
}

func (w *ancestry) visit(ctx context.Context, key, version, commit string, id lake.Hash) error {
	if w.seen[key+"\x00"+id.String()] {
		return nil
	}
	w.seen[key+"\x00"+id.String()] = true
	p, err := memo.GetProvenance(ctx, w.f.lake, id)
	if err != nil {
		return err
	}
	n := ProvenanceNode{Name: lake.DisplayKey(key), Version: version, Commit: commit, Kind: "unknown"}
	if p == nil {
		w.nodes = append(w.nodes, n)
		return nil
	}
	n.fill(p)
	w.nodes = append(w.nodes, n)
	for _, in := range p.Inputs {
		v, _, _ := strings.Cut(in.Identity, " ")
		if err := w.visit(ctx, in.Key, v, in.Commit, in.Provenance); err != nil {
			return err
		}
	}
	return nil
}

func (n *ProvenanceNode) fill(p *memo.Provenance) {
	n.Kind, n.Run, n.Author, n.Time, n.Function, n.File, n.Key, n.Statement = p.Kind, p.Run, p.Author, p.Time, p.Function, p.File, string(p.Key), p.Statement
	if n.Function == "" {
		n.Function = p.Asset
	}
	n.Reported = p.Reported
	for _, in := range p.Inputs {
		n.Inputs = append(n.Inputs, lake.DisplayKey(in.Key))
	}
	for _, s := range p.Source {
		n.Sources = append(n.Sources, s.Path)
	}
	if c := p.Components; c != nil {
		n.Environment = strings.TrimSpace(c.Python + " " + c.Lock)
		n.Params = map[string]string{}
		for _, nv := range c.Params {
			n.Params[nv.Name] = nv.Value
		}
		for _, part := range c.Code {
			n.Code = append(n.Code, part.String())
		}
	}
}

// forward lists, nearest first, the entries of a tree that were made from t, directly or not.
func (f *Flow) forward(ctx context.Context, tree lake.Tree, t target) ([]ProvenanceNode, error) {
	type made struct {
		node ProvenanceNode
		key  string
		from []string
	}
	var all []made
	for ke, err := range tree.Scan(ctx, "", "") {
		if err != nil {
			return nil, err
		}
		if ke.Entry.Location.Provenance.IsZero() {
			continue
		}
		p, err := memo.GetProvenance(ctx, f.lake, ke.Entry.Location.Provenance)
		if err != nil {
			return nil, err
		}
		m := made{node: ProvenanceNode{Name: lake.DisplayKey(ke.Key), Version: ke.Entry.Version}, key: ke.Key}
		m.node.fill(p)
		for _, in := range p.Inputs {
			m.from = append(m.from, in.Key)
		}
		all = append(all, m)
	}
	reached := map[string]bool{t.key: true}
	out := []ProvenanceNode{{Name: lake.DisplayKey(t.key), Version: t.entry.Version, Kind: "unknown"}}
	if p, err := memo.GetProvenance(ctx, f.lake, t.entry.Location.Provenance); err != nil {
		return nil, err
	} else if p != nil {
		out[0].fill(p)
	}
	for grew := true; grew; {
		grew = false
		for _, m := range all {
			if !reached[m.key] && slices.ContainsFunc(m.from, func(k string) bool { return reached[k] }) {
				reached[m.key], grew = true, true
				out = append(out, m.node)
			}
		}
	}
	return out, nil
}

// Answer is one sentence and one command; of a hash also what it is and what keeps it.
type Answer struct {
	Sentence, Command string
	Held              *lake.Trace
}

// Why answers why a run, a step, an asset, a table, a file or a commit is as it is.
func (f *Flow) Why(ctx context.Context, dir, ref, word string) (Answer, error) {
	run, step, isStep := strings.Cut(word, "/")
	if ids.IsRun(run) {
		return f.whyRunning(ctx, run, step, isStep)
	}
	if name, at, ok := strings.Cut(word, "@"); dir != "" && name != "" {
		if !ok {
			at = ref
		}
		a, ok, err := f.whyAsset(ctx, dir, at, name)
		if ok || err != nil {
			return a, err
		}
	}
	t, _, err := f.lookFor(ctx, ref, word)
	if errors.Is(err, ErrNoTarget) {
		// A run may have an id of the caller's choice, or be named by the beginning of its id.
		if _, found := f.Get(ctx, run); found == nil && run != "" {
			return f.whyRunning(ctx, run, step, isStep)
		}
		if commit, found := f.lake.Resolve(ctx, word); found == nil {
			return whyCommit(commit), nil
		}
		if a, ok, other := f.whyOther(ctx, dir, word); ok || other != nil {
			return a, other
		}
	}
	if err != nil {
		return Answer{}, err
	}
	if _, at, ok := strings.Cut(word, "@"); ok {
		ref = at
	}
	p, err := memo.GetProvenance(ctx, f.lake, t.entry.Location.Provenance)
	if err != nil {
		return Answer{}, err
	}
	name := lake.DisplayKey(t.key)
	if p == nil {
		return Answer{Sentence: fmt.Sprintf("%s was put on %s by a client.", name, ref), Command: "tarn log " + name}, nil
	}
	switch p.Kind {
	case memo.ByStep:
		return Answer{Sentence: fmt.Sprintf("%s was made by %s (%s) in run %s.", name, p.Asset, p.File, p.Run), Command: "tarn provenance " + name}, nil
	case memo.ByImport:
		return Answer{Sentence: fmt.Sprintf("%s was imported from %s.", name, manifest.List(sourcePaths(p))), Command: "tarn log " + name}, nil
	}
	return Answer{Sentence: fmt.Sprintf("%s was written by %s.", name, p.Statement), Command: "tarn log " + name}, nil
}

// sentence is the first line of a message, as a sentence.
func sentence(message string) string {
	first, _, _ := strings.Cut(strings.TrimSpace(message), "\n")
	return strings.TrimRight(first, ".:!") + "."
}

func sourcePaths(p *memo.Provenance) []string {
	var out []string
	for _, s := range p.Source {
		out = append(out, s.Path)
	}
	return out
}

// whyOther answers for what is neither in the history nor a run.
func (f *Flow) whyOther(ctx context.Context, dir, word string) (Answer, bool, error) {
	if a, ok, err := f.whyStored(ctx, word); ok || err != nil {
		return a, ok, err
	}
	if dir == "" {
		return Answer{}, false, nil
	}
	e, err := f.EnvironmentNamed(ctx, dir, word)
	if e == nil || err != nil {
		return Answer{}, false, err
	}
	return whyEnvironment(e), true, nil
}

func (f *Flow) whyRunning(ctx context.Context, run, step string, isStep bool) (Answer, error) {
	if name, item, ok := strings.Cut(step, "/"); ok && item != "" {
		it, err := f.Item(ctx, run, name, item)
		if err != nil {
			return Answer{}, err
		}
		return whyItem(it), nil
	}
	if isStep {
		return f.whyStep(ctx, run, step)
	}
	return f.whyRun(ctx, run)
}

func whyCommit(c lake.Commit) Answer {
	id := c.ID.String()[:shortID]
	if c.Run != "" {
		return Answer{Sentence: fmt.Sprintf("%s was published by run %s of %s.", id, c.Run, c.Author), Command: "tarn show " + c.Run}
	}
	if len(c.Cut) > 0 && c.Run == "" {
		return Answer{Sentence: id + " is where the history begins by now: retention has removed what was before.", Command: "tarn branch ls"}
	}
	if len(c.Parents) == 0 {
		return Answer{Sentence: id + " is where the history begins.", Command: "tarn log"}
	}
	return Answer{Sentence: fmt.Sprintf("%s was committed by %s: %s", id, c.Author, sentence(c.Message)), Command: fmt.Sprintf("tarn diff %s~1..%s", id, id)}
}

func (f *Flow) whyRun(ctx context.Context, id string) (Answer, error) {
	run, err := f.Get(ctx, id)
	if err != nil {
		return Answer{}, err
	}
	switch {
	case run.Error != nil:
		return Answer{Sentence: fmt.Sprintf("Run %s %s: %s", run.ID, run.State, sentence(run.Error.Message)), Command: "tarn logs " + run.ID}, nil
	case !run.State.Final():
		return Answer{Sentence: fmt.Sprintf("Run %s is %s.", run.ID, run.State), Command: "tarn logs -f " + run.ID}, nil
	case run.Commit.IsZero() && run.Into != "":
		return Answer{Sentence: fmt.Sprintf("Run %s changed nothing: every result was there already.", run.ID), Command: "tarn show " + run.ID}, nil
	case run.Commit.IsZero():
		return Answer{Sentence: fmt.Sprintf("Run %s was asked to publish nothing.", run.ID), Command: "tarn show " + run.ID}, nil
	}
	return Answer{Sentence: fmt.Sprintf("Run %s published %s on %s.", run.ID, run.Commit.String()[:shortID], run.Into), Command: "tarn diff " + run.Commit.String()[:shortID] + "~1.." + run.Commit.String()[:shortID]}, nil
}

func (f *Flow) whyStep(ctx context.Context, run, step string) (Answer, error) {
	r, err := f.Get(ctx, run)
	if err != nil {
		return Answer{}, err
	}
	st, err := f.liveStep(ctx, r, step)
	if err != nil {
		return Answer{}, err
	}
	label := st.Label()
	switch st.State {
	case StepFailed:
		return Answer{Sentence: fmt.Sprintf("%s failed: %s", label, sentence(st.Error.Message)), Command: "tarn logs " + label}, nil
	case StepSkipped:
		return Answer{Sentence: fmt.Sprintf("%s was skipped: %s.", label, st.Why), Command: "tarn show " + r.ID}, nil
	case StepCached:
		return Answer{Sentence: fmt.Sprintf("%s was reused: %s.", label, st.Why), Command: "tarn provenance " + step}, nil
	case StepSucceeded:
		return Answer{Sentence: fmt.Sprintf("%s ran: %s.", label, st.Why), Command: "tarn logs " + label}, nil
	case StepCanceled:
		cause := "the run was canceled"
		if r.Error != nil {
			cause = strings.TrimSuffix(sentence(r.Error.Message), ".")
		}
		return Answer{Sentence: fmt.Sprintf("%s did not end: %s.", label, cause), Command: "tarn rerun --failed " + r.ID}, nil
	case StepWaiting:
		return Answer{Sentence: label + " waits for the steps that it reads from.", Command: "tarn show " + r.ID}, nil
	case StepQueued:
		return Answer{Sentence: label + " is ready and waits for a free processor.", Command: "tarn show " + r.ID}, nil
	}
	return Answer{Sentence: fmt.Sprintf("%s runs since %s: %s.", label, st.Started.Format(time.TimeOnly), st.Why), Command: "tarn logs -f " + label}, nil
}

// liveStep is a step as it is now, which its row may not say yet.
func (f *Flow) liveStep(ctx context.Context, r *Run, name string) (*Step, error) {
	steps, err := f.Steps(ctx, r.ID)
	if err != nil {
		return nil, err
	}
	for _, st := range steps {
		if st.Name == name {
			return st, nil
		}
	}
	return f.runs.step(ctx, r.ID, name) // says which there are
}

// whyAsset says whether an asset of the project folder would run now.
func (f *Flow) whyAsset(ctx context.Context, dir, ref, name string) (Answer, bool, error) {
	c, err := f.load(ctx, dir)
	if err != nil || c.manifest.Function(name) == nil {
		return Answer{}, false, err
	}
	plan, err := f.Plan(ctx, Request{Dir: dir, Ref: ref, Select: []string{"+" + name}})
	if err != nil {
		return Answer{}, false, err
	}
	for _, st := range plan.Steps {
		if st.Name != name {
			continue
		}
		switch st.Action {
		case "reuse":
			return Answer{Sentence: fmt.Sprintf("%s is up to date on %s: %s.", name, ref, st.Why), Command: "tarn provenance " + name}, true, nil
		case "maybe":
			return Answer{Sentence: fmt.Sprintf("%s may be stale on %s: %s.", name, ref, st.Why), Command: "tarn run +" + name}, true, nil
		}
		return Answer{Sentence: fmt.Sprintf("%s is stale on %s: %s.", name, ref, st.Why), Command: "tarn run " + name}, true, nil
	}
	return Answer{}, false, nil
}
