package flow_test

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/flow"
	"tarn.dev/tarn/internal/flow/call"
	"tarn.dev/tarn/internal/lake"
)

const (
	token = "correct horse/battery staple"
	deep  = "first secret line\nab\nlast secret line"
)

// setSecrets sets name, value, name, value.
func (p *place) setSecrets(pairs ...string) {
	p.t.Helper()
	for i := 0; i < len(pairs); i += 2 {
		if _, err := p.Secrets().Set(context.Background(), "", map[string]string{pairs[i]: pairs[i+1]}); err != nil {
			p.t.Fatal(err)
		}
	}
}

// leaks fails for each text in which a secret, or what one would recognise of it, stands.
func leaks(t testing.TB, where, text string) {
	t.Helper()
	for _, word := range []string{"horse", "secret line", base64.StdEncoding.EncodeToString([]byte(token))[:20]} {
		if i := strings.Index(text, word); i >= 0 {
			t.Errorf("%q is in %s: %.200q", word, where, text[max(i-60, 0):])
		}
	}
}

// grep looks for secrets in every file of the home, those of sandboxes included.
func (p *place) grep() (files int) {
	p.t.Helper()
	err := filepath.WalkDir(p.home, func(path string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() || strings.HasPrefix(path, filepath.Join(p.home, "cache")) {
			return err
		}
		b, err := os.ReadFile(path)
		files++
		leaks(p.t, path, string(b))
		return err
	})
	if err != nil {
		p.t.Fatal(err)
	}
	return files
}

// told is everything that can be asked of a run.
func (p *place) told(o outcome) string {
	p.t.Helper()
	ctx := context.Background()
	all, err := json.Marshal([]any{o.Run, o.steps, o.events})
	if err != nil {
		p.t.Fatal(err)
	}
	text := string(all)
	for line, err := range p.Logs(ctx, o.ID, "", false) {
		if err != nil {
			p.t.Fatal(err)
		}
		text += "\n" + line.Message
	}
	for _, name := range o.Steps {
		for _, key := range o.steps[name].Keys {
			frag, err := p.Memo().Lookup(ctx, key)
			if err != nil {
				p.t.Fatal(err)
			}
			if frag != nil {
				b, err := json.Marshal(frag)
				if err != nil {
					p.t.Fatal(err)
				}
				record, err := p.lake.Get(ctx, lake.TypeRecord, frag.Provenance)
				if err != nil {
					p.t.Fatal(err)
				}
				text += "\n" + string(b) + "\n" + string(record)
			}
		}
	}
	return text
}

const tells = `import base64
import hashlib
import json
import os
import subprocess
import sys
from typing import Annotated
from urllib.parse import quote

import tarn

assert not [name for name in os.environ if "DEEP" in name]
assert os.environ.get("TARN_CONTEXT") or "TOKEN" not in os.environ  # discovery has none


@tarn.asset(secrets=["TOKEN"])
def tell(out: tarn.OutputDir, ctx: tarn.Context, deep: Annotated[str, tarn.secret("DEEP")]):
    token = os.environ["TOKEN"]
    for name, value in (("token", token), ("deep", deep)):
        (out / name).write_text(hashlib.sha256(value.encode()).hexdigest())
    inherited = subprocess.run(["env"], capture_output=True, text=True, check=True).stdout
    assert token in inherited and deep not in inherited
    print("plain", token, "and", base64.b64encode(token.encode()).decode(), quote(token), json.dumps(deep))
    print(deep, file=sys.stderr)
    for c in token:
        sys.stdout.write(c)
        sys.stdout.flush()
    print()
    ctx.log("logged " + token)
    ctx.progress(1, 2)
    ctx.metadata(where="https://me:" + token + "@host", nested={token: [deep]})
    ctx.metric(token, 1)
    print("all told", flush=True)
    os.mkfifo("wait")
    print("waits", flush=True)
    open("wait").read()
    print("end " + token, end="")
`

func TestSecretsAreHandedOverAndHidden(t *testing.T) {
	t.Parallel()
	p := newPlace(t, "pipeline.py", tells)
	p.setSecrets("TOKEN", token, "DEEP", deep)
	run := p.startUntil("waits")
	if n := p.grep(); n < 10 {
		t.Errorf("only %d files are there while it runs", n)
	}
	p.letGo("wait")
	o := p.wait(run.ID)
	if o.State != flow.RunSucceeded {
		t.Fatal(o.Error, o.Error.Details)
	}
	for name, value := range map[string]string{"token": token, "deep": deep} {
		if got, want := p.file("tell/"+name), fmt.Sprintf("%x", sha256.Sum256([]byte(value))); got != want {
			t.Errorf("%s got something else", name)
		}
	}
	text := p.told(o)
	leaks(t, "what is told", text)
	for _, want := range []string{"plain *** and *** *** \"***\"", "logged ***", `https://me:***@host`, "all told", "end ***", "TOKEN", "DEEP"} {
		quoted, err := json.Marshal(want)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(text, want) && !strings.Contains(text, strings.Trim(string(quoted), `"`)) {
			t.Errorf("%q is not told: %s", want, text)
		}
	}
	p.grep()
	p.succeeds("tell:cached")
	// Another value is no other key; another name is.
	p.setSecrets("TOKEN", "another one")
	p.succeeds("tell:cached")
}

// file is the text of a file on main.
func (p *place) file(path string) string {
	p.t.Helper()
	ctx := context.Background()
	c, err := p.lake.Resolve(ctx, "main")
	if err != nil {
		p.t.Fatal(err)
	}
	e, found, err := p.lake.Tree(c.Tree).Get(ctx, lake.FileKey(path))
	if err != nil || !found {
		p.t.Fatal(path, found, err)
	}
	r, err := p.lake.OpenFile(ctx, e.Location.Ref)
	if err != nil {
		p.t.Fatal(err)
	}
	defer r.Close()
	b, err := io.ReadAll(r)
	if err != nil {
		p.t.Fatal(err)
	}
	return string(b)
}

// An exception, in whatever a user sees of it, and what a script wrote that the engine could not read.
func TestSecretsAreHiddenInErrors(t *testing.T) {
	t.Parallel()
	p := newPlace(t, "pipeline.py", `import os

import tarn


@tarn.asset(secrets=["TOKEN"], retry=1)
def fails(out: tarn.OutputDir, deep=tarn.secret("DEEP")):
    raise type("No", (ValueError,), {})(os.environ["TOKEN"] + deep)
`, "rows.sh", `# tarn: outputs = { rows = "parquet" }, secrets = ["TOKEN"]
printf '%s' "$TOKEN" | tee "$TARN_OUT_ROWS"
echo "$TOKEN" > "$TARN_OUT_ROWS.txt"
echo "{\"type\": \"metadata\", \"values\": {\"a\": \"$TOKEN\"}}" >&$TARN_MESSAGES_FD
echo "no JSON $TOKEN" >&$TARN_MESSAGES_FD
`)
	p.setSecrets("TOKEN", token, "DEEP", deep)
	o := p.run(p.request())
	if o.states() != "fails:failed rows:failed" {
		t.Fatal(o.states(), o.Error)
	}
	text := p.told(o)
	leaks(t, "what is told", text)
	for _, want := range []string{"No: ***", "no JSON ***", "attempt 1 failed"} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not told: %s", want, text)
		}
	}
	if tb, _ := o.steps["fails"].Error.Details["traceback"].(string); !strings.Contains(tb, "No: ***") {
		t.Errorf("traceback %q", tb)
	}
	p.grep()
}

func TestSecretThatCannotBeHandedOver(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, code, reason, text string }{
		{"not set", `@tarn.asset(secrets=["TOKEM"])`, "secret.not_found", "pipeline.py:10: made: the secret TOKEM is not set. Did you mean TOKEN? Secrets: TOKEN."},
		{"no variable", `@tarn.asset(secrets=["my key"])`, "secret.name", `"my key" cannot name a secret`},
		{"taken", `@tarn.asset(secrets=["PATH"])`, "secret.name", "PATH cannot name a secret: Tarn sets that variable itself"},
		{"twice", `@tarn.asset(secrets=["TOKEN"], env=tarn.Env(vars={"TOKEN": "x"}))`, "secret.use", "made gets the variable TOKEN from vars= of its environment and from secrets=. Keep one"},
	} {
		p := newPlace(t, "first.py", "import tarn\n\n\n@tarn.asset\ndef first(out: tarn.OutputDir):\n    print('it ran')\n",
			"pipeline.py", "import tarn\n\nx = 1\n\n\n\n\n\n"+c.code+"\ndef made(out: tarn.OutputDir):\n    pass\n")
		p.setSecrets("TOKEN", token)
		o := p.fails(c.reason)
		if !strings.Contains(o.Error.Message, c.text) {
			t.Errorf("%s: %q", c.name, o.Error.Message)
		}
		if len(o.Steps) > 0 {
			t.Errorf("%s: steps %v", c.name, o.Steps)
		}
	}
	p := newPlace(t, "one.sql", "-- tarn: secrets = [\"TOKEN\"]\nSELECT 1 AS n\n")
	p.setSecrets("TOKEN", token)
	wantError(t, p.fails("secret.use").Error, "secret.use", "one.sql:1: secrets= is for Python functions and scripts: SQL has no variables")
	// Without its key, a secret is an error before anything runs, too.
	p = newPlace(t, "pipeline.py", "import tarn\n\n\n@tarn.asset(secrets=[\"TOKEN\"])\ndef made(out: tarn.OutputDir):\n    pass\n")
	p.setSecrets("TOKEN", token)
	if err := os.Remove(filepath.Join(p.home, "secrets.key")); err != nil {
		t.Fatal(err)
	}
	if o := p.fails("secret.no_key"); len(o.Steps) > 0 {
		t.Errorf("steps %v", o.Steps)
	}
}

// The debugger has the secrets, in memory; a folder that is kept does not.
func TestDebugWithSecrets(t *testing.T) {
	t.Parallel()
	p := newPlace(t, "pipeline.py", `import os

import tarn


@tarn.asset(secrets=["TOKEN"])
def made(out: tarn.OutputDir, deep=tarn.secret("DEEP")):
    assert os.environ["TOKEN"].startswith("correct") and deep.startswith("first") and not out, "not yet"
`)
	p.setSecrets("TOKEN", token, "DEEP", deep)
	o := p.fails("run.user_code")
	d, err := p.Debug(t.Context(), flow.DebugRequest{Dir: p.dir, Run: o.ID, Step: "made"})
	if err != nil {
		t.Fatal(err)
	}
	leaks(t, "variables that are shown", fmt.Sprint(d.Env, d.Argv))
	p.grep()
	c := exec.CommandContext(t.Context(), d.Argv[0], d.Argv[1:]...)
	c.Dir, c.Stdin = d.Dir, strings.NewReader("p deep[6:] + '!'\np [v for v in os.environ if 'SECRET' in v]\nq\n")
	for k, v := range d.Env {
		c.Env = append(c.Env, k+"="+v)
	}
	for k, v := range d.Secrets {
		c.Env = append(c.Env, k+"="+v)
	}
	out, err := c.CombinedOutput()
	if err == nil || !strings.Contains(string(out), `'secret line\nab\nlast secret line!'`) || !strings.Contains(string(out), "[]") || !strings.Contains(string(out), "not yet") {
		t.Errorf("%v\n%s", err, out)
	}
	kept := filepath.Join(p.home, "kept")
	d, err = p.Debug(t.Context(), flow.DebugRequest{Dir: p.dir, Run: o.ID, Step: "made", Save: kept})
	if err != nil || len(d.Secrets) != 2 || d.Secrets["TOKEN"] != "" || d.Secrets["TARN_SECRET_DEEP"] != "" {
		t.Errorf("%v %v", d.Secrets, err)
	}
	p.grep()
	if _, err := p.Secrets().Remove(t.Context(), "", []string{"DEEP"}); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Debug(t.Context(), flow.DebugRequest{Dir: p.dir, Run: o.ID, Step: "made"}); errdef.As(err).Reason != "secret.not_found" {
		t.Error(err)
	}
}

// A call of a plain function has them, too, and tells them as little.
func TestCallWithSecrets(t *testing.T) {
	t.Parallel()
	p := newPlace(t, "pipeline.py", `import os

import tarn


@tarn.function(secrets=["TOKEN"])
def shout(deep=tarn.secret("DEEP")):
    print("it is", os.environ["TOKEN"], flush=True)
    raise ValueError(os.environ["TOKEN"] + deep)
`)
	ctx := t.Context()
	r := flow.CallRequest{ID: "one", Dir: p.dir, File: "pipeline.py", Qualname: "shout"}
	if _, err := p.StartCall(ctx, r); errdef.As(err).Reason != "secret.not_found" {
		t.Fatal(err)
	}
	p.setSecrets("TOKEN", token, "DEEP", deep)
	c, err := p.StartCall(ctx, r)
	if err != nil {
		t.Fatal(err)
	}
	none := []byte("\x80\x05\x95\x06\x00\x00\x00\x00\x00\x00\x00)}\x94\x86\x94.") // pickle.dumps(((), {}))
	if _, err := c.Put(ctx, 0, []call.Value{{Data: none}}, true); err != nil {
		t.Fatal(err)
	}
	for r, err := range c.Results(ctx, 0, nil) {
		if err != nil || r.Failure == nil {
			t.Fatal(r, err)
		}
		text := fmt.Sprint(r.Failure.Err, errdef.As(r.Failure.Err).Details, r.Failure.Traceback, string(r.Failure.Pickle))
		leaks(t, "the failure", text)
		if !strings.Contains(text, "ValueError: ***") {
			t.Error(text)
		}
	}
	said := ""
	for out := range c.Output(ctx, true) {
		said += out.Text
	}
	if said != "it is ***\n" {
		t.Errorf("it said %q", said)
	}
	p.grep()
}
