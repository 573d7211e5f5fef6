package flow_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"unicode/utf8"

	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/flow"
)

const (
	numbers = "SELECT range AS id, range % 3 AS kind FROM range(1000)\n"
	counts  = "SELECT kind, count(*) AS n FROM numbers GROUP BY kind\n"
)

func TestRunPublishesOneCommit(t *testing.T) {
	t.Parallel()
	p := newPlace(t, "numbers.sql", numbers, "counts.sql", counts)
	before := p.head()
	o := p.succeeds("numbers:succeeded counts:succeeded")
	c, err := p.lake.Resolve(t.Context(), "main")
	if err != nil {
		t.Fatal(err)
	}
	if c.ID != o.Commit || len(c.Parents) != 1 || c.Parents[0] != before || c.Run != o.ID || c.Author != "tester" {
		t.Errorf("main is at %+v, the run published %s on %s", c, o.Commit, before)
	}
	if e, ok := p.entry("main", "numbers"); !ok || e.Location.Rows != 1000 || e.Location.Provenance.IsZero() {
		t.Errorf("numbers on main: %+v", e)
	}

	// Nothing changed: nothing runs, and there is no commit.
	again := p.succeeds("numbers:cached counts:cached")
	if !again.Commit.IsZero() || p.head() != o.Commit {
		t.Errorf("a run that changed nothing published %s", again.Commit)
	}

	// What is behind the change runs, and nothing else.
	p.write("counts.sql", "SELECT kind, count(*) AS n, min(id) AS least FROM numbers GROUP BY kind\n")
	p.succeeds("numbers:cached counts:succeeded")

	// A change that makes the same rows stops there.
	p.write("numbers.sql", "-- in another order\n"+strings.TrimSpace(numbers)+" ORDER BY id DESC\n")
	p.succeeds("numbers:succeeded counts:cached")
}

func TestFailedStepPublishesNothing(t *testing.T) {
	t.Parallel()
	p := newPlace(t, "numbers.sql", numbers, "broken.sql", "SELECT error('no luck') FROM numbers\n",
		"after.sql", "SELECT * FROM broken\n", "counts.sql", counts)
	before := p.head()
	o := p.run(p.request())
	if o.State != flow.RunFailed || p.head() != before {
		t.Fatalf("%s, main moved to %s", o.State, p.head())
	}
	for name, want := range map[string]flow.StepState{
		"numbers": flow.StepSucceeded, "counts": flow.StepSucceeded, "broken": flow.StepFailed, "after": flow.StepSkipped,
	} {
		if got := o.steps[name].State; got != want {
			t.Errorf("%s %s, want %s", name, got, want)
		}
	}
	if !strings.Contains(o.Error.Message, "no luck") || o.Error.Details["step"] != "broken" {
		t.Errorf("error %v %v", o.Error, o.Error.Details)
	}
	// What was made is kept for a look, and counts for the next run.
	if _, ok := p.entry("run/"+o.ID, "counts"); !ok {
		t.Error("run/ID does not have what the run made")
	}
	p.write("broken.sql", "SELECT id FROM numbers\n")
	run, _, err := p.Resume(t.Context(), o.ID, p.dir, "q-1", "tester")
	if err != nil {
		t.Fatal(err)
	}
	resumed := p.wait(run.ID)
	if resumed.State != flow.RunSucceeded || resumed.steps["numbers"].State != flow.StepCached || resumed.steps["after"].State != flow.StepSucceeded {
		t.Errorf("resumed: %s %s %v", resumed.State, resumed.states(), resumed.Error)
	}
	if _, _, err := p.Resume(t.Context(), run.ID, p.dir, "q-2", "tester"); errdef.As(err).Reason != "run.not_failed" {
		t.Errorf("resume of a run that succeeded: %v", err)
	}
}

func TestCheckGatesPublish(t *testing.T) {
	t.Parallel()
	p := newPlace(t, "numbers.sql", "-- tarn: checks = [\"unique(kind)\"], warn = [\"id < 900\"]\n"+numbers)
	before := p.head()
	o := p.fails("check.failed")
	if p.head() != before {
		t.Error("main moved")
	}
	if want := "unique(kind) failed on numbers: 1,000 of 1,000 rows. main is unchanged."; o.Error.Message != want {
		t.Errorf("message %q, want %q", o.Error.Message, want)
	}
	if want := fmt.Sprintf("tarn query --ref run/%s \"from checks.unique_kind\"", o.ID); len(o.Error.Next) == 0 || o.Error.Next[0] != want {
		t.Errorf("next %q, want %q", o.Error.Next, want)
	}
	if e, ok := p.entry("run/"+o.ID, "checks.unique_kind"); !ok || e.Location.Rows != 1000 {
		t.Errorf("kept offenders: %v %+v", ok, e)
	}
	// A warning publishes, and is told.
	p.write("numbers.sql", "-- tarn: checks = [\"unique(id)\"], warn = [\"id < 900\"]\n"+numbers)
	o = p.succeeds("numbers:cached")
	failed := 0
	for _, c := range o.Checks {
		if !c.Passed {
			failed++
			if c.Severity != "warn" || c.Offenders != 100 {
				t.Errorf("check %+v", c)
			}
		}
	}
	if failed != 1 || len(o.Checks) != 2 {
		t.Errorf("checks %+v", o.Checks)
	}
	// The published checks can be asked again, whatever the folder says now.
	p.write("numbers.sql", numbers)
	checks, err := p.Check(t.Context(), "main", []string{"numbers"})
	if err != nil || len(checks) != 2 {
		t.Errorf("checks of main: %+v, %v", checks, err)
	}
	_, err = p.Check(t.Context(), "main", []string{"numbres"})
	wantError(t, err, "table.not_found", "no table 'numbres' on main. Did you mean numbers? Tables on main: numbers.")
}

// A condition that reads another table is asked again when that one changes.
func TestConditionWithSubquery(t *testing.T) {
	t.Parallel()
	p := newPlace(t, "kinds.sql", "SELECT range AS kind FROM range(3)\n",
		"numbers.sql", "-- tarn: checks = [\"kind in (select kind from kinds)\"]\n"+numbers)
	p.succeeds("kinds:succeeded numbers:succeeded")
	p.write("kinds.sql", "SELECT range AS kind FROM range(2)\n")
	p.fails("check.failed")
	p.write("numbers.sql", "-- tarn: checks = [\"kind in (select kind from kindz)\"]\n"+numbers)
	o := p.fails("graph.unknown_input")
	if !strings.Contains(o.Error.Message, "kindz") {
		t.Error(o.Error)
	}
}

// One condition on two tables keeps the offenders of both.
func TestOffendersOfTwoTables(t *testing.T) {
	t.Parallel()
	const pairs = "-- tarn: checks = [\"unique(kind)\"]\nSELECT range // 2 AS kind FROM range(%d)\n"
	p := newPlace(t, "a.sql", fmt.Sprintf(pairs, 4), "b.sql", fmt.Sprintf(pairs, 6))
	o := p.fails("check.failed")
	for i, want := range []int64{4, 6} {
		name := []string{"checks.unique_kind", "checks.unique_kind_2"}[i]
		if e, ok := p.entry("run/"+o.ID, name); !ok || e.Location.Rows != want || o.Checks[i].Kept != name {
			t.Errorf("%s: %v, %d rows, want %d; %+v", name, ok, e.Location.Rows, want, o.Checks[i])
		}
	}
}

func TestSameIDAttaches(t *testing.T) {
	t.Parallel()
	p := newPlace(t, "numbers.sql", numbers)
	r := p.request()
	r.ID = "airflow-123"
	ids := map[string]int{}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for range 8 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			run, attached, err := p.Start(context.Background(), r)
			if err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			ids[run.ID]++
			if !attached {
				ids["new"]++
			}
		}()
	}
	wg.Wait()
	if ids["airflow-123"] != 8 || ids["new"] != 1 {
		t.Errorf("8 starts of one id: %v", ids)
	}
	if o := p.wait("airflow-123"); o.State != flow.RunSucceeded {
		t.Errorf("%s: %v", o.State, o.Error)
	}
	// A request that is sent twice starts once, too.
	r.ID, r.RequestID = "", "q-1"
	first, _, err := p.Start(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	second, attached, err := p.Start(t.Context(), r)
	if err != nil || !attached || second.ID != first.ID {
		t.Errorf("%v %v %v", second, attached, err)
	}
	p.wait(first.ID)
	for _, id := range []string{"a/b", "-x", "..", "a b", "x", strings.Repeat("a", 101), "a..b", "é1"} {
		r.ID, r.RequestID = id, ""
		if _, _, err := p.Start(t.Context(), r); errdef.As(err) == nil || errdef.As(err).Reason != "run.id" {
			t.Errorf("id %q: %v", id, err)
		}
	}
}

// noise is a script whose table differs each time in the digits behind those given.
func noise(name, digits string) string {
	return "# tarn: outputs = { " + name + " = \"csv\" }\n" +
		"(echo id,x; echo 1," + digits + "$(od -An -N8 -tu8 /dev/urandom | tr -d ' ')) > \"$TARN_OUT_" + strings.ToUpper(name) + "\"\n"
}

func TestRerunVerdicts(t *testing.T) {
	t.Parallel()
	p := newPlace(t, "numbers.sql", numbers, "counts.sql", counts,
		"noise.sh", noise("noise", "0.50000000000"), "dice.sh", noise("dice", "0.5"))
	first := p.run(p.request())
	if first.State != flow.RunSucceeded {
		t.Fatal(first.Error)
	}
	// Everything changes afterwards.
	p.write("numbers.sql", "SELECT 1 AS id, 2 AS kind\n", "counts.sql", "SELECT 'other' AS text\n")
	p.run(p.request())
	head := p.head()
	run, _, err := p.Rerun(t.Context(), first.ID, "q-1", "tester")
	if err != nil {
		t.Fatal(err)
	}
	o := p.wait(run.ID)
	if o.State != flow.RunSucceeded || p.head() != head {
		t.Fatalf("rerun %s: %v; main at %s", o.State, o.Error, p.head())
	}
	got := map[string]string{}
	for _, v := range o.Verdicts {
		got[v.Name] = v.Verdict + "|" + v.Detail
	}
	if len(got) != 4 {
		t.Errorf("verdicts %v", got)
	}
	for name, want := range map[string]string{
		"numbers": "identical|", "counts": "identical|",
		"noise": "float noise|1 rows differ in the last digits", "dice": "different|1 rows of 1 differ",
	} {
		if !strings.HasPrefix(got[name], want) {
			t.Errorf("%s: %s, want %s", name, got[name], want)
		}
	}
}

// What user code prints may be any bytes, also where a long line is cut.
func TestOutputBecomesText(t *testing.T) {
	t.Parallel()
	p := newPlace(t, "loud.sh", "# tarn: outputs = { loud = \"csv\" }\nprintf '\\377x\\n'\nprintf 'x'\nprintf '\\303\\274%.0s' $(seq 9000)\necho\nprintf 'x\\n1\\n' > $TARN_OUT_LOUD\n")
	o := p.succeeds("loud:succeeded")
	var lines []string
	for l, err := range p.Logs(t.Context(), o.ID, "loud", false) {
		if err != nil {
			t.Fatal(err)
		}
		lines = append(lines, l.Message)
		if !utf8.ValidString(l.Message) {
			t.Errorf("%q", l.Message)
		}
	}
	for _, e := range o.events {
		if !utf8.ValidString(e.Message) {
			t.Errorf("event %q", e.Message)
		}
	}
	if len(lines) < 2 || lines[0] != "\uFFFDx" || !strings.HasPrefix(lines[1], "xüüü") {
		t.Errorf("%q", lines)
	}
}

func TestCancelEndsTheStep(t *testing.T) {
	t.Parallel()
	p := newPlace(t, "slow.sh", "# tarn: outputs = { slow = \"csv\" }\necho ready\nexec sleep 600\n")
	run := p.startUntil("ready")
	if a, err := p.Why(t.Context(), p.dir, "main", run.ID+"/slow"); err != nil || !strings.HasPrefix(a.Sentence, run.ID+"/slow runs since ") {
		t.Errorf("why: %+v, %v", a, err)
	}
	ended, err := p.Cancel(t.Context(), run.ID)
	if err != nil {
		t.Fatal(err)
	}
	o := p.wait(run.ID)
	if ended.State != flow.RunCanceled || o.steps["slow"].State != flow.StepCanceled || p.Active() != 0 {
		t.Errorf("%s, %s, %d active", ended.State, o.states(), p.Active())
	}
	if a, err := p.Why(t.Context(), p.dir, "main", run.ID+"/slow"); err != nil || a.Sentence != run.ID+"/slow did not end: the run was canceled." {
		t.Errorf("why: %+v, %v", a, err)
	}
	// What it printed is kept.
	var lines []string
	for l, err := range p.Logs(t.Context(), run.ID, "slow", false) {
		if err != nil {
			t.Fatal(err)
		}
		lines = append(lines, l.Message)
	}
	if len(lines) != 1 || lines[0] != "ready" {
		t.Errorf("logs %q", lines)
	}
	// To cancel twice changes nothing.
	if again, err := p.Cancel(t.Context(), run.ID); err != nil || again.State != flow.RunCanceled {
		t.Errorf("%v, %v", again, err)
	}
}

func TestRacingRunsBothLand(t *testing.T) {
	t.Parallel()
	p := newPlace(t, "a.sql", "SELECT 1 AS x\n", "b.sql", "SELECT 2 AS x\n", "c.sql", "SELECT 3 AS x\n", "d.sql", "SELECT 4 AS x\n")
	var ids []string
	for _, name := range []string{"a", "b", "c", "d"} {
		run, _, err := p.Start(t.Context(), p.request(name))
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, run.ID)
	}
	for _, id := range ids {
		if o := p.wait(id); o.State != flow.RunSucceeded || o.Commit.IsZero() {
			t.Errorf("%s: %s %v", id, o.State, o.Error)
		}
	}
	for _, name := range []string{"a", "b", "c", "d"} {
		if _, ok := p.entry("main", name); !ok {
			t.Errorf("%s did not land", name)
		}
	}
}

// A table that somebody else publishes while a run makes it sends the run back to plan on the new head.
// What the run made stays, and is counted once.
func TestReplan(t *testing.T) {
	t.Parallel()
	const script = "# tarn: outputs = { slow = \"csv\" }\n%s\nprintf 'x\\n%d\\n' > $TARN_OUT_SLOW\n"
	p := newPlace(t, "slow.sh", fmt.Sprintf(script, "mkfifo gate; echo ready; read go < gate", 1), "sum.sql", "SELECT x FROM slow\n")
	run := p.startUntil("ready")
	p.write("slow.sh", fmt.Sprintf(script, "", 2))
	p.succeeds("slow:succeeded sum:succeeded")
	p.letGo("gate")
	o := p.wait(run.ID)
	if o.State != flow.RunSucceeded || o.Replans != 1 || o.states() != "slow:cached sum:cached" {
		t.Fatalf("%s %v after %d re-plans: %s", o.State, o.Error, o.Replans, o.states())
	}
	if st := o.steps["slow"]; st.Rows != 1 || len(st.Keys) != 1 {
		t.Errorf("%d rows, keys %v", st.Rows, st.Keys)
	}
	if e, _ := p.entry("main", "slow"); e.Location.Rows != 1 || o.Commit != p.head() {
		t.Errorf("%d rows", e.Location.Rows)
	}
}

// A key that is made again has another result from then on: in the table, and for who reads it.
func TestNoCacheMakesAnotherResult(t *testing.T) {
	t.Parallel()
	p := newPlace(t, "dice.sh", noise("dice", "0.5"), "copy.sql", "SELECT * FROM dice\n")
	p.succeeds("dice:succeeded copy:succeeded")
	before, _ := p.entry("main", "dice")
	r := p.request()
	r.NoCache = true
	o := p.run(r)
	after, _ := p.entry("main", "dice")
	copied, _ := p.entry("main", "copy")
	if o.State != flow.RunSucceeded || after.Version == before.Version || copied.Version != after.Version {
		t.Errorf("%s %v: dice was %s, is %s; copy is %s", o.State, o.Error, before.Version, after.Version, copied.Version)
	}
	p.succeeds("dice:cached copy:cached")
	if kept, _ := p.entry("main", "dice"); kept.Version != after.Version {
		t.Error("the next run took the first result")
	}
	// What it was made of is gone from the folder and from main: the memo has the new result.
	p.write("dice.sh", noise("dice", "0.6"))
	p.succeeds("dice:succeeded copy:succeeded")
	p.write("dice.sh", noise("dice", "0.5"))
	p.succeeds("dice:cached copy:cached")
	if back, _ := p.entry("main", "dice"); back.Version != after.Version {
		t.Errorf("back to %s, want %s", back.Version, after.Version)
	}
}
