package flow_test

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/flow"
	"tarn.dev/tarn/internal/lake"
)

// putFiles puts files on main as a client does: path, content, path, content.
func (p *place) putFiles(files ...string) {
	p.t.Helper()
	ctx := context.Background()
	_, err := p.Publish(ctx, flow.Publication{
		Branch: "main", Info: lake.CommitInfo{Author: "tester", Message: "Put"},
		Change: func(ctx context.Context, tx *lake.Tx) error {
			for i := 0; i < len(files); i += 2 {
				ref, err := tx.Batch().PutFile(ctx, strings.NewReader(files[i+1]))
				if err != nil {
					return err
				}
				tx.Put(lake.FileKey(files[i]), lake.Entry{Kind: lake.KindFile, Version: ref.Hash.String(), Location: lake.Location{Ref: ref, Size: ref.Size}})
			}
			return nil
		},
	})
	if err != nil {
		p.t.Fatal(err)
	}
}

// Names that do not exist are errors before anything runs, each with the nearest that does.
func TestUnknownNames(t *testing.T) {
	t.Parallel()
	p := newPlace(t, "numbers.sql", numbers)
	p.succeeds("numbers:succeeded")
	p.write("counts.sql", "\n\nSELECT count(*) AS n FROM nubmers\n")
	o := p.fails("graph.unknown_input")
	wantError(t, o.Error, "graph.unknown_input", "counts reads 'nubmers' (counts.sql:3). Did you mean numbers? Tables on main: numbers.")
	if len(o.steps) != 0 {
		t.Errorf("steps began: %s", o.states())
	}
	p.write("counts.sql", counts)
	o = p.fails("graph.unknown_selection", "cuonts")
	if !strings.Contains(o.Error.Message, "Did you mean counts?") {
		t.Error(o.Error.Message)
	}
	r := p.request()
	r.Params = map[string]string{"tpo": "5"}
	if o := p.run(r); o.Error == nil || o.Error.Reason != "run.param" {
		t.Errorf("%s %v", o.State, o.Error)
	}
	r = p.request()
	r.Into = "mian"
	if _, _, err := p.Start(t.Context(), r); errdef.CodeOf(err) != errdef.NotFound {
		t.Errorf("unknown branch: %v", err)
	}
	for _, id := range []string{"r-000000", "x", "", "r-"} {
		if _, err := p.Get(t.Context(), id); id != "" && errdef.CodeOf(err) != errdef.NotFound {
			t.Errorf("run %q: %v", id, err)
		}
	}
}

func TestWhy(t *testing.T) {
	t.Parallel()
	p := newPlace(t, "numbers.sql", numbers, "counts.sql", counts)
	first := p.succeeds("numbers:succeeded counts:succeeded")
	second := p.succeeds("numbers:cached counts:cached")
	p.write("numbers.sql", "SELECT range AS id, range % 5 AS kind FROM range(10)\n")
	head := p.head().String()[:7]
	for word, want := range map[string]flow.Answer{
		"numbers":              {Sentence: "numbers is stale on main: code changed: the query.", Command: "tarn run numbers"},
		"counts":               {Sentence: "counts may be stale on main: numbers runs before it.", Command: "tarn run +counts"},
		"counts@main":          {Sentence: "counts may be stale on main: numbers runs before it.", Command: "tarn run +counts"},
		first.ID:               {Sentence: "Run " + first.ID + " published " + head + " on main.", Command: "tarn diff " + head + "~1.." + head},
		first.ID[:6]:           {Sentence: "Run " + first.ID + " published " + head + " on main.", Command: "tarn diff " + head + "~1.." + head},
		second.ID:              {Sentence: "Run " + second.ID + " changed nothing: every result was there already.", Command: "tarn show " + second.ID},
		first.ID + "/numbers":  {Sentence: first.ID + "/numbers ran: never ran here.", Command: "tarn logs " + first.ID + "/numbers"},
		second.ID + "/numbers": {Sentence: second.ID + "/numbers was reused: same code, environment, parameters and inputs as before.", Command: "tarn provenance numbers"},
		head:                   {Sentence: head + " was published by run " + first.ID + " of tester.", Command: "tarn show " + first.ID},
	} {
		got, err := p.Why(t.Context(), p.dir, "main", word)
		if diff := cmp.Diff(want, got); err != nil || diff != "" {
			t.Errorf("why %s: %v\n%s", word, err, diff)
		}
	}
	_, err := p.Why(t.Context(), p.dir, "main", "coutns")
	wantError(t, err, "show.not_found", "no table, asset or file 'coutns' on main. Did you mean counts? Tables on main: counts, numbers.")
	// Without a folder there is no code to compare with: what made it is told.
	if got, err := p.Why(t.Context(), "", "main", "counts"); err != nil || got.Sentence != "counts was made by counts (counts.sql) in run "+first.ID+"." {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestPlan(t *testing.T) {
	t.Parallel()
	p := newPlace(t, "numbers.sql", numbers, "counts.sql", counts, "other.sql", "SELECT 1 AS x\n")
	actions := func() string {
		t.Helper()
		plan, err := p.Plan(t.Context(), p.request())
		if err != nil {
			t.Fatal(err)
		}
		var out []string
		for _, st := range plan.Steps {
			out = append(out, st.Name+":"+st.Action)
			if known := p.Active() == 0 && st.Action != "reuse" && st.Why != "never ran here" && !strings.Contains(st.Why, "before it"); known && st.Seconds <= 0 {
				t.Errorf("%s has no estimate (%s)", st.Name, st.Why)
			}
		}
		return strings.Join(out, " ")
	}
	if got, want := actions(), "numbers:run counts:maybe other:run"; got != want {
		t.Errorf("new project: %s, want %s", got, want)
	}
	if p.head() != first(t, p.lake) {
		t.Error("a plan moved main")
	}
	p.run(p.request())
	if got, want := actions(), "numbers:reuse counts:reuse other:reuse"; got != want {
		t.Errorf("after the run: %s, want %s", got, want)
	}
	p.write("numbers.sql", "SELECT 7 AS id, 1 AS kind\n")
	if got, want := actions(), "numbers:run counts:maybe other:reuse"; got != want {
		t.Errorf("after the edit: %s, want %s", got, want)
	}
}

// first is the commit that a history begins with.
func first(t testing.TB, l *lake.Lake) lake.Hash {
	t.Helper()
	c, err := l.Resolve(t.Context(), "main")
	for err == nil && len(c.Parents) > 0 {
		c, err = l.Commit(t.Context(), c.Parents[0])
	}
	if err != nil {
		t.Fatal(err)
	}
	return c.ID
}

func TestProvenance(t *testing.T) {
	t.Parallel()
	p := newPlace(t, "numbers.sql", numbers, "counts.sql", counts, "top.sql", "SELECT max(n) AS n FROM counts\n")
	p.succeeds("numbers:succeeded counts:succeeded top:succeeded")
	names := func(word string, forward bool) string {
		t.Helper()
		nodes, err := p.Provenance(t.Context(), "main", word, forward)
		if err != nil {
			t.Fatal(err)
		}
		var out []string
		for _, n := range nodes {
			out = append(out, n.Name+"<-"+strings.Join(n.Inputs, ","))
			if n.Kind != "step" || n.Function != n.Name || n.Run == "" || n.Key == "" {
				t.Errorf("node %+v", n)
			}
		}
		return strings.Join(out, " ")
	}
	if got, want := names("top", false), "top<-counts counts<-numbers numbers<-"; got != want {
		t.Errorf("back: %s, want %s", got, want)
	}
	if got, want := names("numbers", true), "numbers<- counts<-numbers top<-counts"; got != want {
		t.Errorf("forward: %s, want %s", got, want)
	}
	// The record outlives the branch's present.
	p.write("numbers.sql", "SELECT 1 AS id, 1 AS kind\n")
	p.run(p.request())
	if got, want := names("top@main~1", false), "top<-counts counts<-numbers numbers<-"; got != want {
		t.Errorf("at main~1: %s, want %s", got, want)
	}
}

func TestAssets(t *testing.T) {
	t.Parallel()
	p := newPlace(t, "numbers.sql", numbers, "counts.sql", "-- tarn: checks = [\"unique(kind)\"]\n"+counts, "alone.sql", "SELECT 1 AS x\n")
	o := p.run(p.request())
	list := func(name string) string {
		t.Helper()
		assets, err := p.Assets(t.Context(), "main", name)
		if err != nil {
			t.Fatal(err)
		}
		var out []string
		for _, a := range assets {
			out = append(out, strings.Join(a.Reads, ",")+">"+strings.Join(a.Makes, ","))
			if a.Run != o.ID || a.Rows == 0 {
				t.Errorf("asset %+v", a)
			}
		}
		return strings.Join(out, " ")
	}
	if got, want := list(""), ">alone >numbers numbers>counts"; got != want {
		t.Errorf("all: %s, want %s", got, want)
	}
	for _, name := range []string{"counts", "numbers"} {
		if got, want := list(name), ">numbers numbers>counts"; got != want {
			t.Errorf("of %s: %s, want %s", name, got, want)
		}
	}
	_, _, err := p.RemoveAssets(t.Context(), "main", lake.CommitInfo{Author: "tester"}, []string{"alone", "conts"})
	wantError(t, err, "asset.not_found", "no asset 'conts' on main. Did you mean counts? Assets on main: alone, numbers, counts.")
	if _, ok := p.entry("main", "alone"); !ok {
		t.Error("alone went although the removal failed")
	}
	pub, removed, err := p.RemoveAssets(t.Context(), "main", lake.CommitInfo{Author: "tester"}, []string{"counts"})
	if err != nil || !pub.Changed || !cmp.Equal(removed, []string{"counts"}) {
		t.Errorf("%+v %v %v", pub, removed, err)
	}
	if got, want := list(""), ">alone >numbers"; got != want {
		t.Errorf("left: %s, want %s", got, want)
	}
}

const items = `from pathlib import Path
from typing import Annotated

import tarn


@tarn.asset
def upper(text: Annotated[Path, tarn.files("raw/*.txt", each=True)], out: tarn.OutputDir):
    (out / text.name).write_text(text.read_text().upper())
`

// One new file is one invocation; a removed one takes its output along.
func TestItems(t *testing.T) {
	t.Parallel()
	p := newPlace(t, "pipeline.py", items)
	p.putFiles("raw/a.txt", "a", "raw/b.txt", "b")
	o := p.succeeds("upper:succeeded")
	if st := o.steps["upper"]; st.Items != 2 || st.Reused != 0 {
		t.Errorf("%+v", st)
	}
	p.putFiles("raw/c.txt", "c")
	o = p.succeeds("upper:succeeded")
	if st := o.steps["upper"]; st.Items != 3 || st.Reused != 2 {
		t.Errorf("one new file: %+v", st)
	}
	_, err := p.Publish(t.Context(), flow.Publication{
		Branch: "main", Info: lake.CommitInfo{Message: "Remove"},
		Change: func(_ context.Context, tx *lake.Tx) error { tx.Delete(lake.FileKey("raw/a.txt")); return nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	p.succeeds("upper:cached")
	assets, err := p.Assets(t.Context(), "main", "")
	if err != nil || len(assets) != 1 || assets[0].Files != 2 {
		t.Errorf("%+v, %v", assets, err)
	}
	p.write("pipeline.py", strings.Replace(items, "upper()", "lower()", 1))
	if plan, err := p.Plan(t.Context(), p.request()); err != nil || plan.Steps[0].Why != "code changed: pipeline.upper" {
		t.Errorf("%+v, %v", plan.Steps, err)
	}
	if got := p.files("upper/"); !cmp.Equal(got, []string{"upper/b.txt", "upper/c.txt"}) {
		t.Errorf("files %v", got)
	}
}

// Items that fail within what is allowed are left out, whichever they are, and only they run the next time.
func TestItemsAllowedToFail(t *testing.T) {
	t.Parallel()
	bad := strings.NewReplacer("@tarn.asset", "@tarn.asset(allow_failed=3)", "    (out", "    assert text.name[0] not in 'bcg'\n    (out").Replace(items)
	p := newPlace(t, "pipeline.py", bad)
	p.putFiles("raw/a.txt", "a", "raw/b.txt", "b", "raw/c.txt", "c", "raw/d.txt", "d", "raw/e.txt", "e", "raw/f.txt", "f", "raw/g.txt", "g")
	o := p.succeeds("upper:succeeded")
	if got := p.files("upper/"); !cmp.Equal(got, []string{"upper/a.txt", "upper/d.txt", "upper/e.txt", "upper/f.txt"}) {
		t.Errorf("files %v", got)
	}
	if st := o.steps["upper"]; st.Failed != 3 || st.FailedAt != "raw/b.txt" {
		t.Errorf("%+v", st)
	}
	if st := p.succeeds("upper:succeeded").steps["upper"]; st.Failed != 3 || st.Reused != 4 {
		t.Errorf("once more: %+v", st)
	}
	p.write("pipeline.py", strings.Replace(bad, "allow_failed=3", "allow_failed=2", 1))
	p.fails("run.user_code")
	p.write("pipeline.py", strings.Replace(bad, "allow_failed=3", "allow_failed=0.5", 1))
	p.succeeds("upper:succeeded")
}

func (p *place) files(folder string) (out []string) {
	p.t.Helper()
	c, err := p.lake.Resolve(context.Background(), "main")
	if err != nil {
		p.t.Fatal(err)
	}
	for ke, err := range p.lake.Tree(c.Tree).Scan(context.Background(), lake.FileKey(strings.TrimSuffix(folder, "/"))+"/", "") {
		if err != nil {
			p.t.Fatal(err)
		}
		out = append(out, lake.DisplayKey(ke.Key))
	}
	return out
}

func TestDebug(t *testing.T) {
	t.Parallel()
	p := newPlace(t, "pipeline.py", strings.Replace(items, "    (out", "    secret = 'sesame'\n    1 / (text.name != 'b.txt')\n    (out", 1))
	p.putFiles("raw/a.txt", "a", "raw/b.txt", "b")
	o := p.run(p.request())
	if o.State != flow.RunFailed || o.Error.Next[0] != "tarn debug "+o.ID+"/upper" {
		t.Fatalf("%s %v", o.State, o.Error)
	}
	tb, _ := o.Error.Details["traceback"].(string)
	if !strings.Contains(tb, "pipeline.py") || strings.Contains(tb, "_runner.py") {
		t.Errorf("traceback %s", tb)
	}
	// The recorded input counts, not what is there now; and today's code.
	p.putFiles("raw/b.txt", "later")
	p.write("pipeline.py", strings.Replace(items, "    (out", "    secret = text.read_text()\n    1 / (text.name != 'b.txt')\n    (out", 1))
	head := p.head()
	d, err := p.Debug(t.Context(), flow.DebugRequest{Dir: p.dir, Run: o.ID, Step: "upper"})
	if err != nil {
		t.Fatal(err)
	}
	if d.Item != "raw/b.txt" {
		t.Errorf("it debugs %q", d.Item)
	}
	debug := func(stdin string) (string, int) {
		t.Helper()
		c := exec.CommandContext(t.Context(), d.Argv[0], d.Argv[1:]...)
		c.Dir, c.Stdin = d.Dir, strings.NewReader(stdin)
		for k, v := range d.Env {
			c.Env = append(c.Env, k+"="+v)
		}
		var out bytes.Buffer
		c.Stdout, c.Stderr = &out, &out
		if err := c.Run(); err != nil && c.ProcessState == nil {
			t.Fatal(err)
		}
		return out.String(), c.ProcessState.ExitCode()
	}
	out, code := debug("p 'it is ' + secret\nq\n")
	if code != 1 || !strings.Contains(out, "ZeroDivisionError") || !strings.Contains(out, "'it is b'") {
		t.Errorf("exit %d:\n%s", code, out)
	}
	if out, code := debug(""); code != 1 { // nobody at the terminal
		t.Errorf("exit %d:\n%s", code, out)
	}
	// Mended, it succeeds; and nothing of it is remembered or published.
	p.write("pipeline.py", items)
	if out, code := debug(""); code != 0 {
		t.Errorf("exit %d:\n%s", code, out)
	}
	if p.head() != head {
		t.Error("main moved")
	}
	if o := p.succeeds("upper:succeeded"); o.steps["upper"].Reused != 0 {
		t.Errorf("the debugger's result was remembered: %+v", o.steps["upper"])
	}
	// Where there is nothing to debug.
	if _, err := p.Debug(t.Context(), flow.DebugRequest{Dir: p.dir, Run: o.ID, Step: "upper", Item: "raw/z.txt"}); errdef.As(err).Reason != "debug.not_possible" {
		t.Errorf("unknown item: %v", err)
	}
	if _, err := p.Debug(t.Context(), flow.DebugRequest{Dir: p.dir, Run: o.ID, Step: "uper"}); errdef.CodeOf(err) != errdef.NotFound {
		t.Errorf("unknown step: %v", err)
	}
	save := filepath.Join(p.home, "kept")
	if _, err := p.Debug(t.Context(), flow.DebugRequest{Dir: p.dir, Run: o.ID, Step: "upper", Save: save}); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(save, "context.json")); err != nil {
		t.Error(err)
	}
}

func TestEnvironments(t *testing.T) {
	t.Parallel()
	p := newPlace(t, "numbers.sql", numbers)
	if envs, err := p.Environments(t.Context(), p.dir); err != nil || len(envs) != 0 {
		t.Errorf("SQL needs none: %+v, %v", envs, err)
	}
	p.write("pipeline.py", items)
	envs, err := p.Environments(t.Context(), p.dir)
	if err != nil || len(envs) != 1 || envs[0].Lock != nil || envs[0].Ready || !cmp.Equal(envs[0].Functions, []string{"upper"}) {
		t.Fatalf("not locked: %+v, %v", envs, err)
	}
	if _, err := os.Stat(filepath.Join(p.dir, "tarn.lock")); err == nil {
		t.Error("to list environments wrote tarn.lock")
	}
	var told []string
	envs, err = p.LockEnvironments(t.Context(), p.dir, false, func(s string) { told = append(told, s) })
	if err != nil || len(envs) != 1 || envs[0].Lock == nil {
		t.Fatalf("locked: %+v, %v", envs, err)
	}
	if !cmp.Equal(told, []string{"resolving default: no packages"}) {
		t.Errorf("told %q", told)
	}
	told = nil
	if _, err := p.LockEnvironments(t.Context(), p.dir, false, func(s string) { told = append(told, s) }); err != nil || told != nil {
		t.Errorf("a lock that is there was resolved again: %q, %v", told, err)
	}
	_, err = p.SyncEnvironment(t.Context(), p.dir, "uper", filepath.Join(p.home, "venv"), func(string) {})
	wantError(t, err, "env.not_found", "no environment or function 'uper'. Did you mean upper? Environments: default.")
}

func TestRecoverEndsRunsOfDeadServers(t *testing.T) {
	t.Parallel()
	p := newPlace(t, "numbers.sql", numbers, "slow.sh", "# tarn: outputs = { slow = \"csv\" }, inputs = { numbers = \"csv\" }\necho ready\nexec sleep 600\n")
	run, _, err := p.Start(t.Context(), p.request())
	if err != nil {
		t.Fatal(err)
	}
	for e, err := range p.Events(t.Context(), run.ID, 0) {
		if err != nil {
			t.Fatal(err)
		}
		if e.Type == "log" {
			break
		}
	}
	before := p.head()
	p.stop()
	p.open()
	o := p.wait(run.ID)
	if o.State != flow.RunFailed || o.Error.Reason != "run.interrupted" || p.head() != before {
		t.Fatalf("%s %v", o.State, o.Error)
	}
	if st := o.steps["slow"]; st == nil || st.State != flow.StepCanceled {
		t.Errorf("slow: %+v", st)
	}
	if a, err := p.Why(t.Context(), p.dir, "main", run.ID); err != nil || !strings.HasPrefix(a.Sentence, "Run "+run.ID+" failed: ") {
		t.Errorf("%+v, %v", a, err)
	}
	// What had finished counts.
	p.write("slow.sh", "# tarn: outputs = { slow = \"csv\" }, inputs = { numbers = \"csv\" }\nhead -3 \"$TARN_IN_NUMBERS\" > \"$TARN_OUT_SLOW\"\n")
	resumed, _, err := p.Resume(t.Context(), run.ID, p.dir, "q-1", "tester")
	if err != nil {
		t.Fatal(err)
	}
	if o := p.wait(resumed.ID); o.states() != "numbers:cached slow:succeeded" || o.State != flow.RunSucceeded {
		t.Errorf("%s %s %v", o.State, o.states(), o.Error)
	}
}

func TestProtectedBranch(t *testing.T) {
	t.Parallel()
	p := newPlace(t, "numbers.sql", numbers)
	p.write("tarn.toml", "protected = [\"main\"]\n[project]\nname = \"p\"\n")
	o := p.fails("branch.protected")
	if want := []string{"tarn switch -c dev", "tarn merge dev --into main"}; !cmp.Equal(o.Error.Next, want) {
		t.Errorf("next %q, want %q", o.Error.Next, want)
	}
	if _, ok := p.entry("main", "numbers"); ok {
		t.Error("numbers is on main")
	}
	r := p.request()
	r.Into = ""
	if o := p.run(r); o.State != flow.RunSucceeded || !o.Commit.IsZero() {
		t.Errorf("--no-publish: %s %v", o.State, o.Error)
	} else if _, ok := p.entry("run/"+o.ID, "numbers"); !ok {
		t.Error("run/ID does not have numbers")
	}
}
