package flow_test

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/base/room"
	"tarn.dev/tarn/internal/blob/fsblob"
	"tarn.dev/tarn/internal/catalog"
	"tarn.dev/tarn/internal/flow"
	"tarn.dev/tarn/internal/flow/call"
	"tarn.dev/tarn/internal/flow/secret"
	"tarn.dev/tarn/internal/image"
	"tarn.dev/tarn/internal/lake"
	"tarn.dev/tarn/internal/lake/laketest"
	"tarn.dev/tarn/internal/meta/lease"
	"tarn.dev/tarn/internal/meta/sqlitemeta"
	"tarn.dev/tarn/internal/query"
	"tarn.dev/tarn/internal/query/engine"
	rt "tarn.dev/tarn/internal/runtime"
	"tarn.dev/tarn/internal/runtime/process"
	sdk "tarn.dev/tarn/sdk/python"
)

// The test binary is also what a flow starts: the engine that runs SQL, and the first process of a box.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case query.Role:
			os.Exit(engine.Main(os.Stdin, os.Stdout, os.NewFile(3, "results")))
		case process.Role:
			os.Exit(process.InitMain())
		}
	}
	os.Exit(m.Run())
}

// place is a store on disk, and a project folder whose functions really run.
type place struct {
	*flow.Flow
	t    testing.TB
	home string // of the store
	dir  string // of the project
	lake *lake.Lake
	rows *sqlitemeta.Store
	stop func()
}

// level is the strongest that this user has here, as for the server.
var level = sync.OnceValue(func() rt.Level {
	dir, err := os.MkdirTemp("", "level")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	found, _, err := process.Choose(context.Background(), process.Place{Dir: dir}, os.Getenv("TARN_LEVEL"))
	if err != nil {
		panic(err)
	}
	return found
})

// boxes are the working folders of functions and engines that run, as the host sees them.
func (p *place) boxes() []string {
	found, err := filepath.Glob(filepath.Join(p.home, "scratch", "boxes", "sandbox-*", "home"))
	if err != nil {
		p.t.Fatal(err)
	}
	return found
}

// letGo lets the one function that runs go on: it reads from a named pipe in its working folder.
func (p *place) letGo(pipe string) {
	p.t.Helper()
	boxes := slices.DeleteFunc(p.boxes(), func(box string) bool {
		_, err := os.Stat(filepath.Join(box, pipe))
		return err != nil // an engine's
	})
	if len(boxes) != 1 {
		p.t.Fatalf("%d functions run", len(boxes))
	}
	if err := os.WriteFile(filepath.Join(boxes[0], pipe), []byte("go\n"), 0o600); err != nil {
		p.t.Fatal(err)
	}
}

// removeAll removes a folder with packages in it: they are read-only, and only root removes what is.
func removeAll(root string) error {
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			return os.Chmod(path, 0o700)
		}
		return err
	})
	return errors.Join(err, os.RemoveAll(root))
}

// newPlace makes a project of files: name, content, name, content.
func newPlace(t testing.TB, files ...string) *place {
	t.Helper()
	root, err := os.MkdirTemp("", "flow") // sockets of boxes have short paths
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := removeAll(root); err != nil {
			t.Error(err)
		}
	})
	p := &place{t: t, home: filepath.Join(root, "home"), dir: filepath.Join(root, "project")}
	p.write("tarn.toml", "[project]\nname = \"p\"\n")
	p.write(files...)
	p.open()
	t.Cleanup(func() { p.stop() })
	return p
}

// open starts a server's worth of parts on the store; what runs there belongs to a session of its own.
func (p *place) open() {
	t := p.t
	t.Helper()
	ctx := context.Background()
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	scratch := filepath.Join(p.home, "scratch")
	check(os.MkdirAll(scratch, 0o700))
	sdkDir := filepath.Join(p.home, "sdk")
	if _, err := os.Stat(sdkDir); err != nil {
		check(os.CopyFS(filepath.Join(sdkDir, "tarn"), sdk.FS()))
	}
	rows, err := sqlitemeta.Open(filepath.Join(p.home, "meta.db"))
	check(err)
	session, err := lease.Begin(ctx, rows, "s", time.Minute, "test")
	check(err)
	boxes, err := process.New(process.Place{Dir: filepath.Join(scratch, "boxes")}, level())
	check(err)
	images, err := image.Open(filepath.Join(p.home, "cache"), os.Environ(), boxes)
	check(err)
	self, err := os.Executable()
	check(err)
	sql := query.New(query.Options{Runtime: boxes, Command: []string{self, query.Role}})
	blobs, err := fsblob.Open(filepath.Join(p.home, "projects", "p"))
	check(err)
	l, err := lake.Open(ctx, blobs, rows, "p/p/lake/", lake.Options{Session: session})
	check(err)
	config := flow.Config{
		Runtime: boxes, Images: images, Engine: sql, Secrets: secret.Open(rows, filepath.Join(p.home, "secrets.key")), SDK: sdkDir, SDKID: sdk.Hash(), Scratch: filepath.Join(scratch, "projects"),
		Host: flow.NewHost(max(2, runtime.NumCPU()), room.Memory(), t.TempDir()), CallMemory: call.NewBudget(1 << 20), Session: session, Log: slog.New(slog.NewTextHandler(t.Output(), nil)), Hold: func() func() { return func() {} },
	}
	p.lake, p.rows = l, rows
	p.Flow = flow.New(config, "p", l, blobs, rows, "p/p/flow/", catalog.Open(blobs, rows, "p/p/catalog/").WithScratch(scratch))
	p.stop = func() {
		p.Stop()
		if !t.Failed() {
			laketest.Fsck(ctx, t, l)
		}
		check(l.Close())
		check(sql.Close())
		check(boxes.Close())
		check(session.End(ctx))
		check(rows.Close())
		p.stop = func() {}
	}
	check(p.Recover(ctx))
}

// write writes project files: name, content, name, content.
func (p *place) write(files ...string) {
	p.t.Helper()
	for i := 0; i < len(files); i += 2 {
		path := filepath.Join(p.dir, files[i])
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			p.t.Fatal(err)
		}
		mode := os.FileMode(0o644)
		if strings.HasPrefix(files[i+1], "#!") {
			mode = 0o755
		}
		if err := os.WriteFile(path, []byte(files[i+1]), mode); err != nil {
			p.t.Fatal(err)
		}
	}
}

// outcome is a run that has ended.
type outcome struct {
	*flow.Run
	steps  map[string]*flow.Step
	events []flow.Event
}

// states are the states of the steps: "a:succeeded b:cached".
func (o outcome) states() string {
	var out []string
	for _, name := range o.Steps {
		out = append(out, name+":"+string(o.steps[name].State))
	}
	return strings.Join(out, " ")
}

func (p *place) request(sel ...string) flow.Request {
	return flow.Request{Dir: p.dir, Select: sel, Ref: "main", Into: "main", Author: "tester"}
}

// run starts a run and waits for its end.
func (p *place) run(r flow.Request) outcome {
	p.t.Helper()
	run, _, err := p.Start(context.Background(), r)
	if err != nil {
		p.t.Fatal(err)
	}
	return p.wait(run.ID)
}

// startUntil starts a run and waits until one of its steps prints line.
func (p *place) startUntil(line string) *flow.Run {
	p.t.Helper()
	run, _, err := p.Start(context.Background(), p.request())
	if err != nil {
		p.t.Fatal(err)
	}
	for e, err := range p.Events(context.Background(), run.ID, 0) {
		if err != nil {
			p.t.Fatal(err)
		}
		if e.Type == "log" && e.Message == line {
			return run
		}
		if e.Type == "step" && e.State == string(flow.StepFailed) {
			p.t.Fatal(e.Message)
		}
	}
	p.t.Fatalf("run %s ended without printing %q", run.ID, line)
	return nil
}

func (p *place) wait(id string) outcome {
	p.t.Helper()
	ctx := context.Background()
	o := outcome{steps: map[string]*flow.Step{}}
	for e, err := range p.Events(ctx, id, 0) {
		if err != nil {
			p.t.Fatal(err)
		}
		o.events = append(o.events, e)
	}
	var err error
	if o.Run, err = p.Get(ctx, id); err != nil {
		p.t.Fatal(err)
	}
	steps, err := p.Flow.Steps(ctx, id)
	if err != nil {
		p.t.Fatal(err)
	}
	for _, st := range steps {
		o.steps[st.Name] = st
	}
	return o
}

// succeeds runs everything and wants these states.
func (p *place) succeeds(want string, sel ...string) outcome {
	p.t.Helper()
	o := p.run(p.request(sel...))
	if o.Error != nil {
		p.t.Fatalf("run %s: %v %v", o.ID, o.Error, o.Error.Details)
	}
	if got := o.states(); o.State != flow.RunSucceeded || got != want {
		p.t.Fatalf("run %s: %s, want %s", o.State, got, want)
	}
	return o
}

// fails runs everything and wants an error of that reason.
func (p *place) fails(reason string, sel ...string) outcome {
	p.t.Helper()
	o := p.run(p.request(sel...))
	if o.State != flow.RunFailed || o.Error == nil || o.Error.Reason != reason {
		p.t.Fatalf("run %s with %v (%s), want reason %s", o.State, o.Error, o.states(), reason)
	}
	return o
}

// entry is what a ref has under a table's name.
func (p *place) entry(ref, table string) (lake.Entry, bool) {
	p.t.Helper()
	ctx := context.Background()
	c, err := p.lake.Resolve(ctx, ref)
	if err != nil {
		p.t.Fatal(err)
	}
	ns, name, ok := strings.Cut(table, ".")
	if !ok {
		ns, name = lake.DefaultNamespace, table
	}
	e, found, err := p.lake.Tree(c.Tree).Get(ctx, lake.TableKey(ns, name))
	if err != nil {
		p.t.Fatal(err)
	}
	return e, found
}

func (p *place) head() lake.Hash {
	p.t.Helper()
	c, err := p.lake.Resolve(context.Background(), "main")
	if err != nil {
		p.t.Fatal(err)
	}
	return c.ID
}

// wantError compares an error's reason and text.
func wantError(t testing.TB, err error, reason, text string) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error, want %s", reason)
	}
	if e := errdef.As(err); e.Reason != reason || e.Message != text {
		t.Errorf("error %s:\n  %s\nwant %s:\n  %s", e.Reason, e.Message, reason, text)
	}
}
