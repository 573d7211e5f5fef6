// Package cli is the command line: one file per command, each flags -> client call -> printer. It always
// speaks the API, so that what a user can do, a program can do.
//
// Data goes to stdout, chatter to stderr. With --json stdout holds one document, also for an error.
package cli

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/signal"
	"os/user"
	"runtime/debug"
	"strings"
	"syscall"

	tarnv1 "tarn.dev/tarn/api/gen/tarn/v1"
	"tarn.dev/tarn/internal/base/build"
	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/base/ids"
	"tarn.dev/tarn/internal/cli/ui"
	"tarn.dev/tarn/internal/client"
	"tarn.dev/tarn/internal/system"
	"tarn.dev/tarn/internal/system/home"
)

// Main runs the command, or the hidden role, of this process and returns its exit code.
func Main() int {
	if len(os.Args) > 1 {
		// Dispatched before the command line is built: a child must not pay for it.
		if role, ok := system.Roles[os.Args[1]]; ok {
			return role()
		}
	}
	// The heap of most commands ends between 4 MiB, where Go would collect for 3 to 5 ms of processor time, and 8.
	debug.SetGCPercent(200)
	// Commands and the server stay below 512 MB (bench files, history): where they come near, they collect more often.
	debug.SetMemoryLimit(384 << 20)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	// The first Ctrl-C cancels; the second one, without our handler, ends the process at once.
	context.AfterFunc(ctx, stop)
	a := &app{in: os.Stdin, out: ui.File(os.Stdout), err: ui.File(os.Stderr)}
	return a.main(ctx, os.Args[1:])
}

// app is one invocation.
type app struct {
	in       io.Reader
	out, err ui.Out

	json    bool
	project string // --project

	client *client.Client
	said   []string // steps whose progress was told
	busy   string   // what is under way, on the line that does not stay
}

func (a *app) main(ctx context.Context, args []string) int {
	root := a.root()
	root.SetArgs(entryArgs(args))
	err := root.ExecuteContext(ctx)
	if a.client != nil {
		a.client.Close()
	}
	if err == nil {
		return 0
	}
	if cause := context.Cause(ctx); cause != nil {
		err = errdef.New(errdef.Canceled, "canceled", "canceled")
	}
	// A command that never reached its flags could not see this one.
	for _, arg := range args {
		a.json = a.json || arg == "--json"
	}
	e := errdef.As(client.Error(err))
	if told := (*toldError)(nil); errors.As(err, &told) {
		return e.Code.Row().Exit
	}
	return a.fail(e)
}

// fail prints an error and returns the exit code.
func (a *app) fail(e *errdef.Error) int {
	if a.json {
		a.document(map[string]any{"error": e})
		return e.Code.Row().Exit
	}
	a.err.Printf("%s %s\n", a.err.Bad("error:"), strings.TrimRight(e.Message, "\n"))
	for _, next := range e.Next {
		a.err.Printf("  %s %s\n", a.err.Dim("try:"), next)
	}
	return e.Code.Row().Exit
}

// print writes the answer of a command: one document with --json, else what human prints.
func (a *app) print(document any, human func()) {
	if a.json {
		a.document(document)
		return
	}
	human()
}

func (a *app) document(v any) {
	enc := json.NewEncoder(a.out)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(v); err != nil {
		a.err.Printf("error: write JSON: %v\n", err)
	}
}

// note is chatter: it stays away with --json.
func (a *app) note(format string, args ...any) {
	if !a.json {
		a.err.Printf(format+"\n", args...)
	}
}

// connect opens the client, starting the server if need be.
func (a *app) connect(ctx context.Context) (*client.Client, error) {
	return a.open(ctx, false)
}

func (a *app) open(ctx context.Context, noStart bool) (*client.Client, error) {
	if a.client != nil {
		return a.client, nil
	}
	o := client.Options{URL: os.Getenv("TARN_URL"), Token: os.Getenv("TARN_TOKEN"), Build: build.Current(), NoStart: noStart}
	if o.URL == "" {
		h, err := home.Find()
		if err != nil {
			return nil, err
		}
		o.Home = h
	}
	c, err := client.Open(ctx, o)
	if err != nil {
		return nil, err
	}
	a.client = c
	return c, nil
}

// target is a project on a server, as most commands need it.
type target struct {
	*client.Client
	project string
	branch  string // the current one
	dir     string // the project's folder; "" when the project was named, or the server is elsewhere
}

// reach finds the project and connects.
func (a *app) reach(ctx context.Context) (target, error) {
	name, err := a.projectName()
	if err != nil {
		return target{}, err
	}
	c, err := a.connect(ctx)
	if err != nil {
		return target{}, err
	}
	branch, err := currentBranch(name)
	if err != nil {
		return target{}, err
	}
	t := target{Client: c, project: name, branch: branch}
	if a.project == "" && os.Getenv("TARN_URL") == "" {
		t.dir, err = projectDir()
	}
	return t, err
}

// ref is where to read: --ref, else the current branch.
func (t target) ref(flag string) string {
	if flag != "" {
		return flag
	}
	return t.branch
}

// write is the head of a request that changes a branch: --into, else the current branch.
func (t target) write(into, message string) *tarnv1.Write {
	return &tarnv1.Write{RequestId: ids.Request(), Project: t.project, Into: t.ref(into), Author: author(), Message: message, Dir: t.dir}
}

func author() string {
	for _, name := range []string{"TARN_AUTHOR", "USER", "LOGNAME"} {
		if v := os.Getenv(name); v != "" {
			return v
		}
	}
	if u, err := user.Current(); err == nil {
		return u.Username
	}
	return "unknown"
}

// recv calls each with every message of a server's stream.
func recv[T any](s interface {
	Receive() bool
	Msg() *T
	Err() error
	Close() error
}, each func(*T) error,
) error {
	for s.Receive() {
		if err := each(s.Msg()); err != nil {
			return errors.Join(err, s.Close())
		}
	}
	return errors.Join(client.Error(s.Err()), s.Close())
}
