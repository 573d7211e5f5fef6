//go:build fault

package model

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	tarnv1 "tarn.dev/tarn/api/gen/tarn/v1"
	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/base/ids"
	"tarn.dev/tarn/internal/blob/s3blob/s3test"
	"tarn.dev/tarn/internal/client"
	"tarn.dev/tarn/internal/meta/pgmeta/pgtest"
	"tarn.dev/tarn/internal/system/home"
)

// patience is longer than anything here takes on a busy machine.
const patience = 3 * time.Minute

// project is the one that everything happens in.
const project = "model"

// stack is one store with the servers that work on it at once.
type stack struct {
	name    string
	dir     string
	servers []*server
	ids     map[*commit]string // of the commits that the model knows
	crashes int
}

// server is one home and the process that serves it. A test's one goroutine for a stack uses it.
type server struct {
	home    home.Home
	env     []string
	process *os.Process
	ended   chan struct{}
	client  *client.Client
	armed   bool // it dies when it comes to a fault point
}

// places are where stacks keep what is not in a home; all checks of a test use the same servers for that.
type places struct {
	t      *testing.T
	s3     *s3test.Server
	bucket string // the last that was made
}

// embedded is one server that keeps everything in its home.
func (p *places) embedded() (*stack, error) { return newStack("embedded", 1, nil) }

// shared is two servers with one database and one bucket.
func (p *places) shared() (*stack, error) {
	p.bucket = p.s3.Bucket(p.t)
	env := append(s3test.Env(), "TARN_META="+pgtest.Database(p.t), "TARN_BLOB=s3://"+p.bucket+"?endpoint="+p.s3.URL)
	return newStack("shared", 2, env)
}

func newStack(name string, servers int, env []string) (*stack, error) {
	// Sockets have short paths.
	dir, err := os.MkdirTemp("", "model")
	if err != nil {
		return nil, err
	}
	s := &stack{name: name, dir: dir, ids: map[*commit]string{}}
	for i := range servers {
		one, err := newServer(filepath.Join(dir, fmt.Sprint(i)), env)
		if err != nil {
			return s, err
		}
		s.servers = append(s.servers, one)
		if err := one.start(""); err != nil {
			return s, fmt.Errorf("%s: %w", name, err)
		}
	}
	return s, nil
}

func newServer(dir string, env []string) (*server, error) {
	h, err := home.At(dir)
	if err != nil {
		return nil, err
	}
	s := &server{home: h}
	for _, kv := range os.Environ() {
		if !strings.HasPrefix(kv, "TARN_") && !strings.HasPrefix(kv, "AWS_") && !strings.HasPrefix(kv, "PG") {
			s.env = append(s.env, kv)
		}
	}
	// Should the test die, its servers end by themselves.
	s.env = append(append(s.env, "TARN_HOME="+h.Dir, "TARN_CACHE="+h.Cache, "TARN_IDLE=2m"), env...)
	return s, nil
}

// start starts the server, with a program for its fault points, and connects to it.
func (s *server) start(fault string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	ours, theirs, err := os.Pipe()
	if err != nil {
		return err
	}
	defer ours.Close()
	defer theirs.Close()
	crash, err := os.Create(filepath.Join(s.home.Dir, "logs", "output"))
	if errors.Is(err, os.ErrNotExist) {
		if err = os.MkdirAll(filepath.Join(s.home.Dir, "logs"), 0o700); err == nil {
			crash, err = os.Create(filepath.Join(s.home.Dir, "logs", "output"))
		}
	}
	if err != nil {
		return err
	}
	defer crash.Close() // the child has its own
	cmd := exec.Cmd{
		Path: self, Args: []string{"tarn", home.ServerRole}, Dir: "/", Env: append(s.env, "TARN_FAULT="+fault),
		Stdout: crash, Stderr: crash, ExtraFiles: []*os.File{theirs},
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	theirs.Close()
	s.process, s.ended, s.armed = cmd.Process, make(chan struct{}), fault != ""
	go func() {
		defer close(s.ended)
		_ = cmd.Wait() // killed, mostly
	}()
	var report home.Report
	line, err := bufio.NewReader(ours).ReadBytes('\n')
	switch {
	case err == nil && json.Unmarshal(line, &report) == nil && report.Error != nil:
		return report.Error
	case err != nil && s.armed: // it has died already
		return s.restart("")
	case err != nil:
		text, _ := os.ReadFile(crash.Name())
		return fmt.Errorf("the server ended while it was starting: %w\n%s", err, text)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	s.client, err = client.Open(ctx, client.Options{Home: s.home, NoStart: true})
	if err != nil && s.armed {
		return s.restart("")
	}
	return err
}

// gone waits until the process has ended.
func (s *server) gone() error {
	select {
	case <-s.ended:
	case <-time.After(patience):
		return errors.New("the server has not ended")
	}
	return nil
}

// restart starts a server in place of one that is ending.
func (s *server) restart(fault string) error {
	if err := s.gone(); err != nil {
		return err
	}
	return s.start(fault)
}

// kill ends the process at once.
func (s *server) kill() error {
	if err := s.process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	return s.gone()
}

func (s *stack) close() error {
	var errs []error
	for _, one := range s.servers {
		if one.process != nil {
			errs = append(errs, one.kill())
		}
	}
	return errors.Join(append(errs, os.RemoveAll(s.dir))...)
}

// operation does something on one server. It may be called again, and then does the same: a request id makes it
// happen once.
type operation func(ctx context.Context, c *client.Client, on *stack) (outcome, error)

// outcome is what users see of an operation. It is the same on every stack.
type outcome struct {
	Reason    string // of the error; empty when it went well
	Changed   bool
	Changes   []string
	Conflicts []string
	Seen      []string
	commit    string // differs between stacks
}

// call does op on a server, and again when the server dies at the fault point that it was told to die at: on the one that
// takes its place, and, if there is another one, on that.
func (s *stack) call(number int, op operation) (outcome, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for ; ; number++ {
		one := s.servers[number%len(s.servers)]
		armed := one.armed
		out, err := op(ctx, one.client, s)
		if !errors.Is(err, client.ErrUnreachable) {
			if err != nil {
				out = outcome{Reason: errdef.As(err).Reason}
				if out.Reason == "internal" || errdef.CodeOf(err) == errdef.DataLoss || ctx.Err() != nil {
					return out, fmt.Errorf("%s: %w", s.name, err)
				}
			}
			return out, nil
		}
		if !armed {
			text, _ := os.ReadFile(filepath.Join(one.home.Dir, "logs", "output"))
			return out, fmt.Errorf("%s: a server went away that nobody killed: %w\n%s", s.name, err, text)
		}
		s.crashes++
		if err := one.restart(""); err != nil {
			return out, fmt.Errorf("%s: start after a crash: %w", s.name, err)
		}
	}
}

// on does something on all stacks at once.
func on(stacks []*stack, do func(s *stack) error) error {
	errs := make([]error, len(stacks))
	var wg sync.WaitGroup
	for i, s := range stacks {
		wg.Go(func() { errs[i] = do(s) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// stop ends the server in the ordinary way, and starts it again.
func (s *server) stop() error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if _, err := s.client.System.Shutdown(ctx, &tarnv1.ShutdownRequest{RequestId: ids.Request()}); err != nil && !errors.Is(err, client.ErrUnreachable) {
		return err
	}
	return s.restart("")
}
