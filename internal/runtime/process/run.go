//go:build linux

package process

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"tarn.dev/tarn/internal/runtime"
)

// killPatience is how long a supervisor may take to kill its tree before the server does it.
const killPatience = 500 * time.Millisecond

// errNoRoom is the cause of a context that ended because the disk is nearly full.
var errNoRoom = errors.New("no room on the disk")

// errTimeLimit is the cause of a context that ended by Limits.Time.
var errTimeLimit = errors.New("time limit")

// Run implements runtime.Sandbox.
func (s *sandbox) Run(ctx context.Context, cmd runtime.Command) (runtime.Exit, error) {
	ctx, running, end, err := s.begin(ctx)
	if err != nil {
		return runtime.Exit{}, err
	}
	defer end()
	j, err := s.job(cmd)
	if err != nil {
		return runtime.Exit{}, err
	}
	if ctx.Err() != nil {
		return runtime.Exit{Reason: runtime.Canceled}, nil
	}
	if s.runtime.level != runtime.Process {
		if j.Root, err = s.root(); err != nil {
			return runtime.Exit{}, err
		}
		j.Own = append(j.Own, []byte("/tmp"))
	}
	j.Own = append(j.Own, s.counted(s.now().Mounts)...)
	if s.forks() {
		t := s.runtime.templates.get(s.now())
		sup, err := t.take(ctx)
		if err == nil {
			var exit runtime.Exit
			if exit, err = s.attempt(ctx, sup, running, j, cmd); !errors.Is(err, errUnforked) {
				return exit, err
			}
		}
		if ctx.Err() != nil {
			return runtime.Exit{Reason: runtime.Canceled}, nil
		}
		s.runtime.templates.unforked(t, err)
	}
	sup, err := s.runtime.spare.take()
	if err != nil {
		return runtime.Exit{}, err
	}
	defer s.runtime.spare.prepare()
	return s.attempt(ctx, sup, running, j, cmd)
}

// forks says that commands are forks of a template where one can be had. At level process there is no
// sandbox that a template could be kept in.
func (s *sandbox) forks() bool { return s.spec.Template != nil && s.runtime.level != runtime.Process }

// attempt has sup do the job and delivers what it puts out.
func (s *sandbox) attempt(ctx context.Context, sup *supervisor, running *live, j job, cmd runtime.Command) (runtime.Exit, error) {
	defer sup.release()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var out outputs
	tooLong := false // read after out.finish
	out.text(sup.stdout, cmd.Stdout)
	out.text(sup.stderr, cmd.Stderr)
	out.lines(sup.messages, cmd.Message, func() {
		tooLong = true
		cancel(ErrMessageTooLong)
	})
	exit, err := supervised(ctx, sup, running, j, cmd.Stdin)
	out.finish()
	if sup.cgroup != nil && sup.cgroup.killed() && !exit.OK() && exit.Reason != runtime.Canceled {
		exit.Reason = runtime.OutOfMemory
		exit.Usage.PeakMemoryBytes = max(exit.Usage.PeakMemoryBytes, j.Limits.MemoryBytes)
	}
	if err == nil && tooLong {
		err = ErrMessageTooLong.Errorf("%s wrote a message line of more than %d MiB", label(j), maxMessage>>20).
			WithNext("write large results to a file and report its path")
	}
	return exit, err
}

// supervised has sup do the job, and returns when every process of it is gone.
func supervised(ctx context.Context, sup *supervisor, running *live, j job, stdin *os.File) (runtime.Exit, error) {
	began := time.Now()
	if err := sup.send(j, stdin); err != nil {
		sup.kill()
		<-sup.exited
		return runtime.Exit{}, ErrNotStarted.Errorf("start %s: hand over to the supervisor: %w", label(j), err)
	}
	if j.Limits.Time > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, j.Limits.Time, errTimeLimit)
		defer cancel()
	}
	var first, last report
	read := make(chan struct{})
	go func() {
		defer close(read)
		// What does not decode came from a command that wrote to its supervisor's pipe.
		dec := json.NewDecoder(&stream{f: sup.report})
		if dec.Decode(&first) != nil || first.PID == 0 {
			return
		}
		running.begin(sup)
		for last.Ended == nil {
			last = report{}
			if dec.Decode(&last) != nil {
				return
			}
			switch {
			case last.Shown != nil:
				running.answer(*last.Shown)
			case last.Wrote != nil:
				running.wrote(*last.Wrote)
			}
		}
	}()
	asked := false
	var impatient <-chan time.Time
	over := ctx.Done()
	for alive := true; alive; {
		select {
		case <-over:
			over, asked = nil, true
			sup.job.Close() //nolint:errcheck // its effect is the end of the pipe
			impatient = time.After(killPatience)
		case <-impatient:
			sup.kill()
		case <-sup.exited:
			alive = false
		}
	}
	sup.report.SetReadDeadline(time.Now().Add(drainGrace)) //nolint:errcheck // pipes have deadlines
	<-read
	if first.Unforked != "" {
		return runtime.Exit{}, errUnforked.Errorf("%s", first.Unforked)
	}
	if first.Failure != "" {
		return runtime.Exit{}, notStarted(label(j), first.Failure)
	}
	wall := time.Since(began)
	if last.Ended == nil { // the supervisor was killed
		killSession(sup.process.Pid)
		switch {
		case asked:
			return runtime.Exit{Reason: whyEnded(ctx), Usage: runtime.Usage{Wall: wall}}, nil
		case sup.stormed.Load():
			return runtime.Exit{Reason: runtime.TooManyProcesses, Usage: runtime.Usage{Wall: wall}}, nil
		case first.PID == 0 && sup.from != nil:
			return runtime.Exit{}, errUnforked.Errorf("its supervisor ended")
		case first.PID == 0 && sup.signal() == 0: // it failed; a signal comes from its command, or from outside
			return runtime.Exit{}, notStarted(label(j), "its supervisor ended: "+sup.how.String())
		}
		return runtime.Exit{Reason: runtime.Signaled, Signal: sup.signal(), Usage: runtime.Usage{Wall: wall}}, nil
	}
	e := last.Ended
	exit := runtime.Exit{
		Reason: e.Reason, Code: e.Code, Signal: e.Signal,
		Usage: runtime.Usage{Wall: e.Wall, CPU: e.CPU, PeakMemoryBytes: e.Peak, DiskBytes: e.Wrote},
	}
	if exit.Reason == runtime.Canceled {
		exit.Reason = whyEnded(ctx)
	}
	return exit, nil
}

func whyEnded(ctx context.Context) runtime.Reason {
	switch cause := context.Cause(ctx); {
	case errors.Is(cause, errTimeLimit):
		return runtime.TimedOut
	case errors.Is(cause, errNoRoom):
		return runtime.NoRoom
	}
	return runtime.Canceled
}

// job checks a command and puts it into a supervisor's words.
func (s *sandbox) job(cmd runtime.Command) (job, error) {
	bad := func(format string, args ...any) error {
		return ErrInvalidCommand.Errorf("run in sandbox %s: "+format, append([]any{s.spec.ID}, args...)...)
	}
	if len(cmd.Argv) == 0 {
		return job{}, bad("there is no command")
	}
	if !filepath.IsAbs(cmd.Argv[0]) {
		return job{}, bad("%q is not an absolute path", cmd.Argv[0])
	}
	dir := cmd.Dir
	if dir == "" {
		dir = s.Home()
	}
	if !filepath.IsAbs(dir) {
		return job{}, bad("folder %q is not an absolute path", dir)
	}
	j := job{
		Dir: []byte(dir), Own: [][]byte{[]byte(s.Home())},
		Messages: cmd.Message != nil, Limits: s.now().Limits,
	}
	for _, a := range cmd.Argv {
		j.Argv = append(j.Argv, []byte(a))
	}
	for name, value := range cmd.Env {
		if name == "" || strings.ContainsAny(name, "=\x00") {
			return job{}, bad("%q cannot be the name of a variable", name)
		}
		if name != runtime.MessagesVariable {
			j.Env = append(j.Env, fmt.Appendf(nil, "%s=%s", name, value))
		}
	}
	if j.Messages {
		j.Env = append(j.Env, fmt.Appendf(nil, "%s=%d", runtime.MessagesVariable, commandFDs-1))
	}
	slices.SortFunc(j.Env, bytes.Compare)
	for _, text := range slices.Concat(j.Argv, j.Env, [][]byte{j.Dir}) {
		if bytes.IndexByte(text, 0) >= 0 {
			return job{}, bad("a zero byte in %.60q", text)
		}
	}
	return j, nil
}
