package runtimetest

import (
	"bufio"
	"io"
	"os"
	"path/filepath"
	"strings"

	"tarn.dev/tarn/internal/runtime"
)

func (s *suite) inputGiven() {
	r, w, err := os.Pipe()
	s.must(err)
	defer r.Close()
	done := make(chan error, 1)
	go func() {
		_, err := io.WriteString(w, strings.Repeat("x", 200_000))
		done <- err
		w.Close()
	}()
	cmd := shell("wc -c; echo $?; ls /proc/self/fd")
	cmd.Stdin = r
	_, out, _ := s.run(s.create(runtime.Spec{}), cmd)
	s.must(<-done)
	s.equal(out, "200000\n0\n0\n1\n2\n3\n") // 3 is the folder that ls reads
}

// obeying is a shell that runs what it reads, line by line.
type obeying struct {
	*suite
	sb      runtime.Sandbox
	in      *os.File
	answers *bufio.Reader
	end     chan runtime.Exit
}

func (s *suite) obey(spec runtime.Spec) *obeying {
	s.t.Helper()
	r, w, err := os.Pipe()
	s.must(err)
	answers, stdout := io.Pipe()
	o := &obeying{suite: s, sb: s.create(spec), in: w, answers: bufio.NewReader(answers), end: make(chan runtime.Exit, 1)}
	cmd := shell(`while read -r line; do eval "$line" 2>&1; done`)
	cmd.Stdin, cmd.Stdout = r, stdout
	go func() {
		exit, err := o.sb.Run(s.t.Context(), cmd)
		if err != nil {
			s.t.Error(err)
		}
		stdout.Close()
		r.Close()
		o.end <- exit
	}()
	return o
}

// line has the shell do something that prints one line.
func (o *obeying) line(command string) string {
	o.t.Helper()
	_, err := io.WriteString(o.in, command+"\n")
	o.must(err)
	answer, err := o.answers.ReadString('\n')
	o.must(err)
	return strings.TrimSuffix(answer, "\n")
}

func (s *suite) assign() {
	dir := s.t.TempDir()
	for _, name := range []string{"one", "folder/two", "out"} {
		s.must(os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o700))
		s.must(os.WriteFile(filepath.Join(dir, name), []byte(name+"\n"), 0o600))
	}
	o := s.obey(runtime.Spec{})
	// Not an earlier line: the command runs, or it does not yet.
	one := runtime.Mount{Name: "one", Source: dir + "/one", InPlace: true}
	s.must(o.sb.Assign(s.t.Context(), runtime.Limits{}, one))
	s.equal(o.sb.Path("one"), dir+"/one")
	s.equal(o.line("cat "+o.sb.Path("one")), "one")
	s.must(o.sb.Assign(s.t.Context(), runtime.Limits{}, one, runtime.Mount{Name: "folder", Source: dir + "/folder"},
		runtime.Mount{Name: "out", Source: dir + "/out", InPlace: true, Writable: true}))
	s.equal(o.line("cat "+o.sb.Path("folder")+"/two"), "folder/two")
	s.equal(o.line("echo written > "+o.sb.Path("out")+"; echo $?"), "0")
	if s.rt.Level() != runtime.Process {
		s.equal(o.line("(echo x > "+o.sb.Path("folder")+"/two) 2>/dev/null; echo $?"), "2") // read-only
		s.equal(o.line("cd "+dir+" && echo *"), "one out")                                  // nothing else is there
		s.equal(o.line("(mkdir /mnt/new) 2>/dev/null; echo $?"), "1")
	}
	for _, wrong := range []runtime.Mount{{Name: helperMount, Source: dir}, {Name: "none", Source: dir + "/none"}, {Name: "relative", Source: "x"}} {
		if err := o.sb.Assign(s.t.Context(), runtime.Limits{}, wrong); err == nil {
			s.t.Errorf("%+v was assigned", wrong)
		}
	}
	s.equal(o.line("cat "+o.sb.Path("one")), "one") // it goes on
	s.must(o.sb.Assign(s.t.Context(), runtime.Limits{}, one))
	if s.rt.Level() != runtime.Process {
		s.equal(o.line("wc -c < "+dir+"/out"), "0") // only its place is left
		s.equal(o.line("ls /mnt/folder | wc -l"), "0")
	}
	s.must(o.in.Close())
	exit := <-o.end
	s.equal(exit.OK(), true)
	text, err := os.ReadFile(dir + "/out")
	s.must(err)
	s.equal(string(text), "written\n")
	_, out, _ := s.sh(o.sb, "cat "+o.sb.Path("one")) // the next run has it all
	s.equal(out, "one\n")
}

func (s *suite) assignMany() {
	dir := s.t.TempDir()
	o := s.obey(runtime.Spec{})
	var mounts []runtime.Mount
	for i := range 300 {
		name := "m-" + strings.Repeat("i", i%7) + string(rune('a'+i%26)) + strings.Repeat("j", i/26)
		s.must(os.WriteFile(filepath.Join(dir, name), []byte("x"), 0o600))
		mounts = append(mounts, runtime.Mount{Name: name, Source: filepath.Join(dir, name), InPlace: true})
	}
	s.must(o.sb.Assign(s.t.Context(), runtime.Limits{}, mounts...))
	s.equal(o.line("ls "+dir+" | wc -l"), "300")
	s.must(o.in.Close())
	<-o.end
}

func (s *suite) assignLimit() {
	o := s.obey(runtime.Spec{})
	s.equal(o.line("echo up"), "up")
	s.must(o.sb.Assign(s.t.Context(), runtime.Limits{MemoryBytes: 100 << 20}))
	_, err := io.WriteString(o.in, "exec "+o.sb.Path(helperMount)+" "+helperRole+" alloc 400\n")
	s.must(err)
	exit := <-o.end
	s.equal(exit.Reason, runtime.OutOfMemory)
	s.must(o.in.Close())
}
