//go:build linux

package process_test

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"tarn.dev/tarn/internal/runtime"
	"tarn.dev/tarn/internal/runtime/process"
)

// reach tries what only Landlock refuses, an abstract socket of the host on the host's network, and what it allows: a socket of its own.
const reach = `import os, socket
def tell(name, do):
    try:
        do()
        print(name, "worked", flush=True)
    except PermissionError:
        print(name, "was refused", flush=True)
def connect(name):
    with socket.socket(socket.AF_UNIX) as s:
        s.connect("\0" + name)
own = socket.socket(socket.AF_UNIX)
own.bind("\0tarn-own-%s-%d" % (os.urandom(8).hex(), os.getpid()))
own.listen()
tell("host", lambda: connect("NAME"))
tell("own", lambda: connect(own.getsockname()[1:].decode()))
`

func TestLandlock(t *testing.T) {
	t.Parallel()
	if !process.Landlock() {
		t.Skip("this kernel has no Landlock that scopes abstract sockets")
	}
	dir := t.TempDir()
	name := "tarn-" + filepath.Base(filepath.Dir(dir))
	l, err := net.Listen("unix", "@"+name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	if err := os.WriteFile(filepath.Join(dir, "reach.py"), []byte(strings.Replace(reach, "NAME", name, 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, level := range confinedLevels {
		for _, forked := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/forked=%v", level, forked), func(t *testing.T) {
				t.Parallel()
				need(t, level)
				rt := open(t, level)
				template := pythonTemplate(t)
				spec := runtime.Spec{ID: t.Name(), Network: true, Mounts: append([]runtime.Mount{{Name: "reach", Source: dir}}, template.Mounts...)}
				argv := []string{template.Argv[0], "/mnt/reach/reach.py"}
				if forked {
					spec.Mounts, spec.Template = spec.Mounts[:1], template
					argv = []string{argv[0], "-S", "-B", "-m", "tarn._runner", argv[1]}
				}
				sb, err := rt.Create(t.Context(), spec)
				if err != nil {
					t.Fatal(err)
				}
				defer sb.Close()
				var out, errs strings.Builder
				exit, err := sb.Run(t.Context(), runtime.Command{Argv: argv, Stdout: &out, Stderr: &errs})
				const want = "host was refused\nown worked\n"
				if stats := rt.Templates(); err != nil || !exit.OK() || stats.Unforked > 0 || out.String() != want {
					t.Errorf("%+v %v %+v\n%s%s", exit, err, stats, out.String(), errs.String())
				}
			})
		}
	}
}
