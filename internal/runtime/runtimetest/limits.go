package runtimetest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/runtime"
)

func (s *suite) timeLimit() {
	sb := s.create(runtime.Spec{Limits: runtime.Limits{Time: 100 * time.Millisecond}})
	start := time.Now()
	exit, _, _ := s.sh(sb, "trap '' TERM; sleep 1000 & sleep 1000")
	s.equal(exit.Reason, runtime.TimedOut)
	if took := time.Since(start); took > 20*time.Second {
		s.t.Errorf("it took %s", took)
	}
	exit, _, _ = s.sh(sb, "true") // the limit is per run
	s.equal(exit.OK(), true)
}

func (s *suite) memoryLimit() {
	const limit = 128 << 20
	sb := s.create(runtime.Spec{Limits: runtime.Limits{MemoryBytes: limit}})
	exit, _, errs := s.run(sb, helper(sb, "alloc", "1000"))
	s.equal(exit.Reason, runtime.OutOfMemory)
	if exit.Usage.PeakMemoryBytes < limit*9/10 {
		s.t.Errorf("peak %d MiB; %s", exit.Usage.PeakMemoryBytes>>20, errs)
	}
	exit, _, errs = s.run(sb, helper(sb, "alloc", "50"))
	if peak := exit.Usage.PeakMemoryBytes >> 20; !exit.OK() || peak < 50 || peak > 120 {
		s.t.Errorf("%+v, peak %d MiB; %s", exit, peak, errs)
	}
}

// Four processes below the limit are above it together.
func (s *suite) memoryOfTree() {
	sb := s.create(runtime.Spec{Limits: runtime.Limits{MemoryBytes: 128 << 20}})
	exit, _, _ := s.run(sb, helper(sb, "spawn", "4", "alloc", "60"))
	s.equal(exit.Reason, runtime.OutOfMemory)
}

func (s *suite) mappedFiles() {
	sb := s.create(runtime.Spec{Limits: runtime.Limits{MemoryBytes: 64 << 20}})
	path := filepath.Join(sb.HostHome(), "big")
	s.must(os.WriteFile(path, make([]byte, 200<<20), 0o600))
	exit, _, errs := s.run(sb, helper(sb, "map", sb.Home()+"/big"))
	if !exit.OK() {
		s.t.Errorf("%+v %s", exit, errs)
	}
}

// A level that can makes fork fail; the others end the tree.
func (s *suite) processLimit() {
	sb := s.create(runtime.Spec{Limits: runtime.Limits{PIDs: 20}})
	l := s.life(sb.HostHome(), sb.Home())
	cmd := shell(`exec 9>"$1"; for i in $(seq 60); do sleep 1000 & done; wait`)
	cmd.Argv = append(cmd.Argv, "-", l.path)
	exit, _, _ := s.run(sb, cmd)
	if exit.Reason != runtime.TooManyProcesses && (exit.Reason != runtime.Exited || exit.Code == 0) {
		s.t.Errorf("%+v", exit)
	}
	l.gone()
	exit, _, _ = s.sh(sb, "for i in $(seq 60); do sleep 0; done")
	s.equal(exit.OK(), true)
}

func (s *suite) diskLimit() {
	sb := s.create(runtime.Spec{Limits: runtime.Limits{DiskBytes: 8 << 20}})
	exit, _, _ := s.sh(sb, "mkdir -p a/b; head -c 64000000 /dev/zero > a/b/f; sleep 1000")
	s.equal(exit.Reason, runtime.DiskFull)
	// What is shown inside of /tmp was not written there.
	shown := s.t.TempDir()
	s.must(os.WriteFile(filepath.Join(shown, "big"), make([]byte, 20<<20), 0o600))
	other := s.create(runtime.Spec{
		Limits: runtime.Limits{DiskBytes: 8 << 20}, Mounts: []runtime.Mount{{Name: "shown", Source: shown, InPlace: true}},
	})
	exit, _, errs := s.sh(other, "head -c 4000000 /dev/zero > f; ln f g; ln f h; truncate -s 1G sparse; sleep 0.3")
	if !exit.OK() {
		s.t.Errorf("below the limit: %+v %s", exit, errs)
	}
	// What may be written counts where it is, unless it is said to be full of other things.
	out, cache := s.t.TempDir(), s.t.TempDir()
	s.must(os.WriteFile(filepath.Join(cache, "big"), make([]byte, 20<<20), 0o600))
	third := s.create(runtime.Spec{Limits: runtime.Limits{DiskBytes: 8 << 20}, Mounts: []runtime.Mount{
		{Name: "out", Source: out, Writable: true}, {Name: "cache", Source: cache, Writable: true, Uncounted: true},
	}})
	exit, _, errs = s.sh(third, "head -c 6000000 /dev/zero > "+third.Path("out")+"/f; sleep 0.3")
	if !exit.OK() || exit.Usage.DiskBytes < 6000000 {
		s.t.Errorf("below the limit: %+v %s", exit, errs)
	}
	exit, _, _ = s.sh(third, "head -c 64000000 /dev/zero > "+third.Path("out")+"/g; sleep 1000")
	if exit.Reason != runtime.DiskFull || exit.Usage.DiskBytes <= 8<<20 {
		s.t.Errorf("%+v", exit)
	}
	// Also what is shown to a command that runs.
	given := s.t.TempDir()
	fourth := s.create(runtime.Spec{})
	l := s.life(fourth.HostHome(), fourth.Home())
	cmd := shell(`exec 9>"$1"; echo x >&9; until [ -d "$2" ]; do sleep 0.005; done; head -c 64000000 /dev/zero > "$2/f"; sleep 1000`)
	cmd.Argv = append(cmd.Argv, "-", l.path, given)
	done := make(chan runtime.Exit, 1)
	go func() {
		exit, err := fourth.Run(s.t.Context(), cmd)
		if err != nil {
			s.t.Error(err)
		}
		done <- exit
	}()
	l.begun()
	s.must(fourth.Assign(s.t.Context(), runtime.Limits{DiskBytes: 8 << 20}, runtime.Mount{Name: "given", Source: given, InPlace: true, Writable: true}))
	s.equal((<-done).Reason, runtime.DiskFull)
}

func (s *suite) collect(sb runtime.Sandbox, cmd runtime.Command) (runtime.Exit, []string) {
	s.t.Helper()
	var lines []string
	cmd.Message = func(line []byte) { lines = append(lines, string(line)) }
	exit, err := sb.Run(s.t.Context(), cmd)
	s.must(err)
	return exit, lines
}

func (s *suite) messages() {
	sb := s.create(runtime.Spec{})
	exit, lines := s.collect(sb, shell(`eval "exec 9>&$TARN_MESSAGES_FD"
		for i in $(seq 1000); do echo "{\"n\":$i}" >&9; done
		(echo from a child; sh -c 'echo from a grandchild') >&9
		echo >&9; printf 'no newline' >&9`))
	s.equal(exit.OK(), true)
	var want []string
	for i := range 1000 {
		want = append(want, fmt.Sprintf(`{"n":%d}`, i+1))
	}
	s.equal(lines, append(want, "from a child", "from a grandchild", "", "no newline"))
	exit, lines = s.collect(sb, shell(`echo one >&$TARN_MESSAGES_FD; kill -9 $$`))
	s.equal(exit.Signal, 9)
	s.equal(lines, []string{"one"})
}

func (s *suite) longMessages() {
	sizes := []int{65535, 65536, 65537, 200_000, 5 << 20, 64<<20 - 1}
	args := []string{"lines"}
	for _, n := range sizes {
		args = append(args, fmt.Sprint(n))
	}
	sb := s.create(runtime.Spec{})
	cmd := helper(sb, args...)
	var got []int
	cmd.Message = func(line []byte) {
		got = append(got, len(line))
		if strings.Trim(string(line), "x") != "" {
			s.t.Errorf("a line of %d bytes was damaged", len(line))
		}
	}
	exit, err := sb.Run(s.t.Context(), cmd)
	s.must(err)
	s.equal(exit.OK(), true)
	s.equal(got, sizes)
}

func (s *suite) messageTooLong() {
	sb := s.create(runtime.Spec{})
	cmd := helper(sb, "lines", "10", fmt.Sprint(64<<20+1), "10")
	var got []int
	cmd.Message = func(line []byte) { got = append(got, len(line)) }
	_, err := sb.Run(s.t.Context(), cmd)
	if e := errdef.As(err); err == nil || e.Reason != "runtime.message_too_long" {
		s.t.Errorf("error = %v", err)
	}
	s.equal(got, []int{10})
}

func (s *suite) garbage() {
	exit, lines := s.collect(s.create(runtime.Spec{}),
		shell(`printf 'a\000b\n\377\376\n\r\n{"half\n' >&$TARN_MESSAGES_FD; head -c 300000 /dev/urandom >&$TARN_MESSAGES_FD`))
	s.equal(exit.OK(), true)
	s.equal(lines[:4], []string{"a\x00b", "\xff\xfe", "\r", `{"half`})
	n := 0
	for _, l := range lines[4:] {
		n += len(l) + 1
	}
	if n < 300000 || n > 300001 {
		s.t.Errorf("%d bytes of 300000", n)
	}
}

func (s *suite) notStarted() {
	sb := s.create(runtime.Spec{})
	s.must(os.WriteFile(sb.HostHome()+"/plain", []byte("echo hi"), 0o600))
	s.must(os.WriteFile(sb.HostHome()+"/noexec", []byte("garbage"), 0o700))
	s.must(os.WriteFile(sb.HostHome()+"/badinterp", []byte("#!/no/such/interpreter\n"), 0o700))
	huge := map[string]string{"HUGE": strings.Repeat("x", 8<<20)}
	for name, c := range map[string]struct {
		cmd  runtime.Command
		says string
	}{
		"nothing":      {runtime.Command{}, "no command"},
		"relative":     {runtime.Command{Argv: []string{"true"}}, "absolute"},
		"missing":      {runtime.Command{Argv: []string{"/no/such/program"}}, "/no/such/program"},
		"folder":       {runtime.Command{Argv: []string{sb.Home()}}, "permission"},
		"no_right":     {runtime.Command{Argv: []string{sb.Home() + "/plain"}}, "permission"},
		"no_program":   {runtime.Command{Argv: []string{sb.Home() + "/noexec"}}, "neither a program"},
		"interpreter":  {runtime.Command{Argv: []string{sb.Home() + "/badinterp"}}, "interpreter"},
		"no_folder":    {runtime.Command{Argv: []string{"/bin/true"}, Dir: "/no/such/folder"}, "/no/such/folder"},
		"file_folder":  {runtime.Command{Argv: []string{"/bin/true"}, Dir: sb.Home() + "/plain"}, "not a folder"},
		"zero_byte":    {runtime.Command{Argv: []string{"/bin/echo", "a\x00b"}}, "zero byte"},
		"zero_in_env":  {runtime.Command{Argv: []string{"/bin/true"}, Env: map[string]string{"A": "\x00"}}, "zero byte"},
		"bad_variable": {runtime.Command{Argv: []string{"/bin/true"}, Env: map[string]string{"A=B": ""}}, "variable"},
		"too_large":    {runtime.Command{Argv: []string{"/bin/true"}, Env: huge}, "too long"},
	} {
		exit, err := sb.Run(s.t.Context(), c.cmd)
		if err == nil || !strings.Contains(err.Error(), c.says) {
			s.t.Errorf("%s: %+v, error %v, want one that says %q", name, exit, err, c.says)
		}
		if code := errdef.CodeOf(err); code == errdef.Internal {
			s.t.Errorf("%s: code %v", name, code)
		}
	}
	exit, _, _ := s.sh(sb, "true")
	s.equal(exit.OK(), true)
}

func (s *suite) usage() {
	sb := s.create(runtime.Spec{})
	exit, _, errs := s.run(sb, helper(sb, "spawn", "1", "burn", "300"))
	u := exit.Usage
	if !exit.OK() || u.CPU < 250*time.Millisecond || u.Wall < 250*time.Millisecond || u.PeakMemoryBytes < 1<<20 {
		s.t.Errorf("%+v %s", exit, errs)
	}
	exit, _, _ = s.sh(sb, "sleep 0.2")
	if u := exit.Usage; u.Wall < 200*time.Millisecond || u.CPU > u.Wall*3/4 || u.PeakMemoryBytes == 0 {
		s.t.Errorf("%+v", exit)
	}
}

func (s *suite) oneAtATime() {
	sb := s.create(runtime.Spec{})
	l := s.life(sb.HostHome(), sb.Home())
	cmd := shell(`echo x > "$1"; until [ -e go ]; do sleep 0.005; done`)
	cmd.Argv = append(cmd.Argv, "-", l.path)
	done := make(chan runtime.Exit, 1)
	go func() {
		exit, err := sb.Run(s.t.Context(), cmd)
		if err != nil {
			s.t.Error(err)
		}
		done <- exit
	}()
	l.begun()
	if _, err := sb.Run(s.t.Context(), shell("true")); errdef.CodeOf(err) != errdef.FailedPrecondition {
		s.t.Errorf("second Run: %v", err)
	}
	s.must(os.WriteFile(sb.HostHome()+"/go", nil, 0o600))
	if exit := <-done; !exit.OK() {
		s.t.Errorf("%+v", exit)
	}
	exit, _, _ := s.sh(sb, "true")
	s.equal(exit.OK(), true)
}

func (s *suite) closeEndsRun() {
	shared := s.t.TempDir() // is there after the sandbox
	sb := s.create(runtime.Spec{Mounts: []runtime.Mount{{Name: "shared", Source: shared, Writable: true}}})
	l := s.life(shared, sb.Path("shared"))
	cmd := shell(`exec 9>"$1"; echo x >&9; sleep 1000`)
	cmd.Argv = append(cmd.Argv, "-", l.path)
	done := make(chan runtime.Exit, 1)
	go func() {
		exit, err := sb.Run(s.t.Context(), cmd)
		if err != nil {
			s.t.Error(err)
		}
		done <- exit
	}()
	l.begun()
	s.must(sb.Close())
	exit := <-done
	s.equal(exit.Reason, runtime.Canceled)
	l.gone()
	if _, err := sb.Run(s.t.Context(), shell("true")); errdef.CodeOf(err) != errdef.FailedPrecondition {
		s.t.Errorf("Run after Close: %v", err)
	}
}

func (s *suite) stubbornFiles() {
	sb := s.create(runtime.Spec{})
	_, _, errs := s.sh(sb, "mkdir -p a/b; touch a/b/f; ln -s / root; chmod 0 a/b a; mkfifo p")
	s.equal(errs, "")
	s.must(sb.Close())
	if _, err := os.Lstat(sb.HostHome()); !errors.Is(err, os.ErrNotExist) {
		s.t.Errorf("home is left: %v", err)
	}
}

func (s *suite) closeAll() {
	sb := s.create(runtime.Spec{})
	s.must(s.rt.Close())
	if _, err := os.Stat(sb.HostHome()); !errors.Is(err, os.ErrNotExist) {
		s.t.Errorf("home is left: %v", err)
	}
	if _, err := s.rt.Create(s.t.Context(), runtime.Spec{ID: "late"}); errdef.CodeOf(err) != errdef.FailedPrecondition {
		s.t.Errorf("Create after Close: %v", err)
	}
}

func (s *suite) invalidSpecs() {
	dir := s.t.TempDir()
	for name, spec := range map[string]runtime.Spec{
		"relative":      {Mounts: []runtime.Mount{{Name: "a", Source: "x"}}},
		"missing":       {Mounts: []runtime.Mount{{Name: "a", Source: dir + "/none"}}},
		"no name":       {Mounts: []runtime.Mount{{Source: dir}}},
		"bad name":      {Mounts: []runtime.Mount{{Name: "../a", Source: dir}}},
		"twice":         {Mounts: []runtime.Mount{{Name: "a", Source: dir}, {Name: "a", Source: dir}}},
		"negative":      {Limits: runtime.Limits{MemoryBytes: -1}},
		"negative_time": {Limits: runtime.Limits{Time: -1}},
	} {
		if _, err := s.rt.Create(s.t.Context(), spec); errdef.CodeOf(err) != errdef.InvalidArgument {
			s.t.Errorf("%s: %v", name, err)
		}
	}
	ctx, cancel := context.WithCancelCause(s.t.Context())
	why := errors.New("enough")
	cancel(why)
	if _, err := s.rt.Create(ctx, runtime.Spec{}); !errors.Is(err, why) {
		s.t.Errorf("canceled: %v", err)
	}
}

func (s *suite) manyAtOnce() {
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			sb, err := s.rt.Create(s.t.Context(), runtime.Spec{ID: fmt.Sprint(i)})
			if err != nil {
				s.t.Error(err)
				return
			}
			cmd := shell(fmt.Sprintf("echo %d > f; echo %d >&$TARN_MESSAGES_FD; cat f", i, i))
			var out strings.Builder
			var got string
			cmd.Stdout, cmd.Message = &out, func(line []byte) { got = string(line) }
			exit, err := sb.Run(s.t.Context(), cmd)
			if err = errors.Join(err, sb.Close()); err != nil || !exit.OK() || out.String() != got+"\n" || got != fmt.Sprint(i) {
				s.t.Errorf("%d: %+v, %q, %q, %v", i, exit, out.String(), got, err)
			}
		})
	}
	wg.Wait()
}
